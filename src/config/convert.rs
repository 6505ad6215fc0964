//! From what was written to [`Config`]: every default, every bound, and what must hold between keys.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU64, NonZeroUsize};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::problem::shown_name;
use super::read::Section;
use super::{Config, LogConfig, LogFormat, routes, store, upstream};
use crate::http1::MAX_FIELDS;
use crate::listener::ListenerConfig;
use crate::proxy::{Limits, Network, Timeouts};
use crate::replica::{FreshnessConfig, MaxStaleness};
use crate::store::StoreUrl;
use crate::tls::{self, Alpn, TlsConfig, TlsError};
use crate::token::Permission;
use crate::units::{InvalidDuration, format_duration, parse_duration};
use crate::upstream::{UpstreamConfig, UpstreamName, Upstreams};

/// Reads everything. `None`, or a problem noted in the section's reader: not to be used.
pub(super) fn config(root: &Section<'_>, default_store: Option<&StoreUrl>) -> Option<Config> {
    let name = root.or("name", root.text("name", parse_name), host_name());
    let workers = nonzero(root.number("workers", 1..=1024), std::thread::available_parallelism().ok());
    let trusted_proxies = root.list("trusted_proxies", str::parse::<Network>).unwrap_or_default();
    let listeners = listeners(root);
    let upstreams = root.section("upstream");
    let api = upstream::upstream(&upstreams.section("api"), 8888);
    let heartbeat = upstream::upstream(&upstreams.section("heartbeat"), 8000);
    let snapshot_file = root.section("store").file("snapshot_file");
    let store = store::store(root, default_store);
    for (name, upstream) in [("api", &api), ("heartbeat", &heartbeat)] {
        let leads_here = |address| upstream.as_ref().is_some_and(|upstream| leads_to(upstream, address));
        if let Some((_, listener)) = listeners.iter().find(|(_, listener)| leads_here(listener.address)) {
            let message = format!("it leads to the listener at {}: requests would go round for ever", listener.address);
            upstreams.section(name).problem("url", message);
        }
    }
    let freshness = freshness(&root.section("freshness"));
    let routes = routes::routes(root, &freshness);
    let admin_address = admin(&root.section("admin"), &listeners);
    let limits = limits(&root.section("limits"));
    let timeouts = timeouts(&root.section("timeouts"));
    let log = log(&root.section("log"));
    Some(Config {
        name: name?,
        listeners: listeners.into_iter().map(|(_, listener)| listener).collect(),
        workers,
        upstreams: Upstreams { api: api?, heartbeat: heartbeat? },
        store: store?,
        snapshot_file,
        freshness,
        admin_address,
        limits,
        timeouts,
        log,
        trusted_proxies,
        routes,
    })
}

/// Longest name of a sidecar: that of a host is no longer.
const MAX_NAME: usize = 64;

fn parse_name(text: &str) -> Result<String, &'static str> {
    match (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(is_in_names) {
        true => Ok(text.to_owned()),
        false => Err("a name has 1 to 64 letters, digits, `.`, `_` and `-`"),
    }
}

fn is_in_names(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-".contains(&byte)
}

/// The host's name, without what a name does not have.
fn host_name() -> String {
    let host = rustix::system::uname();
    let kept = host.nodename().to_bytes().iter().copied().filter(|byte| is_in_names(*byte)).take(MAX_NAME);
    let name: String = kept.map(char::from).collect();
    if name.is_empty() { "tollgate".to_owned() } else { name }
}

/// Where agents connect when no listener is written.
const LISTENER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// Where the admin listener is when it is not written.
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9900);

/// The listeners with the sections that wrote them; without any, the default one.
fn listeners<'a>(root: &Section<'a>) -> Vec<(Option<Section<'a>>, ListenerConfig)> {
    let Some(sections) = root.sections("listener") else {
        return vec![(None, ListenerConfig { address: LISTENER, tls: None })];
    };
    if sections.is_empty() {
        root.problem("listener", "there must be one at least");
    }
    let mut listeners: Vec<(Option<Section<'a>>, ListenerConfig)> = Vec::new();
    for section in sections {
        let address = section.or("address", section.text("address", parse_address), LISTENER);
        let tls = listener_tls(&section.section("tls"));
        let Some(address) = address else { continue };
        if listeners.iter().any(|(_, other)| overlap(other.address, address)) {
            section.problem("address", format!("another listener has {address} already"));
        }
        listeners.push((Some(section), ListenerConfig { address, tls }));
    }
    listeners
}

fn admin(section: &Section<'_>, listeners: &[(Option<Section<'_>>, ListenerConfig)]) -> SocketAddr {
    let Some(address) = section.or("address", section.text("address", parse_address), ADMIN) else { return ADMIN };
    if let Some((listener, config)) = listeners.iter().find(|(_, listener)| overlap(listener.address, address)) {
        let message = format!("the admin listener and a listener cannot share {}", config.address);
        // Whichever of the two was written is the one to change.
        match listener {
            Some(listener) if section.node("address").is_none() => listener.problem("address", message),
            _ => section.problem("address", message),
        }
    }
    address
}

/// Whether what is forwarded to the upstream would come in at this listener again.
fn leads_to(upstream: &UpstreamConfig, listener: SocketAddr) -> bool {
    let host: Option<IpAddr> = match upstream.host.as_str() {
        "localhost" if listener.is_ipv4() => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        "localhost" => Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        host => host.parse().ok(),
    };
    host.is_some_and(|host| host.is_loopback() && overlap(SocketAddr::new(host, upstream.port), listener))
}

/// An address and a port. Names are refused: what they resolve to may change, and a listener would not.
fn parse_address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse()
        .map_err(|_| "write an IP address and a port: 127.0.0.1:8080, 0.0.0.0:8080 (every interface) or [::1]:8080")
}

/// Whether a connection could reach both. With SO_REUSEPORT the system does not refuse the second.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let same_family = one.is_ipv4() == other.is_ipv4();
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || same_family && any)
}

fn listener_tls(section: &Section<'_>) -> Option<TlsConfig> {
    let certificate = section.file("certificate");
    let key = section.file("key");
    let client_ca = section.file("client_ca");
    let alpn = section.or("alpn", section.set("alpn", parse_alpn), vec![Alpn::Http1, Alpn::Http2]);
    if !section.is_written() {
        return None;
    }
    for required in ["certificate", "key"].into_iter().filter(|key| section.node(key).is_none()) {
        section.problem(required, "TLS needs a certificate and a key");
    }
    let tls = TlsConfig { certificate: certificate?, key: key?, client_ca, alpn: alpn? };
    if let Err(error) = tls::server_config(&tls) {
        let is = |file: &PathBuf| error.file() == Some(file.as_path());
        // One file may be several of these: a key's trouble is the key's.
        let key = match &error {
            TlsError::NoKey { .. }
            | TlsError::EncryptedKey { .. }
            | TlsError::BadKey { .. }
            | TlsError::Mismatch { .. } => "key",
            _ if is(&tls.certificate) => "certificate",
            TlsError::NoCertificate { .. } | TlsError::BadCertificate { .. } => "client_ca",
            _ if is(&tls.key) => "key",
            _ => "client_ca",
        };
        section.problem(key, chain(&error));
    }
    Some(tls)
}

fn parse_alpn(name: &str) -> Result<Alpn, &'static str> {
    let known = [Alpn::Http2, Alpn::Http1].into_iter().find(|protocol| protocol.wire_name() == name.as_bytes());
    known.ok_or("the protocols are \"h2\" and \"http/1.1\"")
}

/// Which key names the file at fault in a client's TLS; `None` if it is none of them.
pub(super) fn tls_culprit(error: &TlsError, ca: Option<&Path>, key: Option<&Path>) -> Option<&'static str> {
    match error.file() {
        None => None,
        // The authorities are read first.
        file if file == ca => Some("ca"),
        file if file == key => Some("key"),
        Some(_) => Some("certificate"),
    }
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |mut text, cause| {
        let cause = cause.to_string();
        // Some errors display their cause themselves.
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
        text
    })
}

fn freshness(section: &Section<'_>) -> FreshnessConfig {
    const PROBE_INTERVAL: Duration = Duration::from_secs(1);
    let probe_interval = section.or("probe_interval", section.duration("probe_interval"), PROBE_INTERVAL);
    let max_staleness = section.or("max_staleness", section.text("max_staleness", parse_staleness), DEFAULT_STALENESS);
    let (bounds, per_permission) = section.map("per_permission", |permission, staleness| {
        let permission = parse_permission(permission)?;
        Ok::<_, String>((permission, parse_staleness(staleness)?))
    });

    if let Some(probe_interval) = probe_interval {
        let shown = format_duration(probe_interval);
        let too_short = |bound| matches!(bound, MaxStaleness::Within(bound) if bound <= probe_interval);
        if max_staleness.is_some_and(too_short) {
            // With the default bound, it is the interval that was written too long.
            let key = if section.node("max_staleness").is_some() { "max_staleness" } else { "probe_interval" };
            section.problem(
                key,
                format!("max_staleness must be longer than probe_interval ({shown}), or it is exceeded between probes"),
            );
        }
        for (permission, _) in per_permission.iter().filter(|(_, bound)| too_short(*bound)) {
            let message = format!("it must be longer than probe_interval ({shown}), or it is exceeded between probes");
            bounds.problem(&permission.to_string(), message);
        }
    }
    FreshnessConfig {
        probe_interval: probe_interval.unwrap_or(PROBE_INTERVAL),
        max_staleness: max_staleness.unwrap_or(DEFAULT_STALENESS),
        per_permission,
    }
}

const DEFAULT_STALENESS: MaxStaleness = MaxStaleness::Within(Duration::from_secs(60));

fn parse_staleness(text: &str) -> Result<MaxStaleness, String> {
    match parse_duration(text) {
        _ if text == "never" => Ok(MaxStaleness::Never),
        Ok(Duration::ZERO) => Err("it must be longer than zero".to_owned()),
        Ok(bound) => Ok(MaxStaleness::Within(bound)),
        Err(error @ InvalidDuration::TooLong) => Err(format!("{error}; for no bound write \"never\"")),
        Err(error @ InvalidDuration::Form) => Err(format!("{error}; or \"never\" for no bound")),
    }
}

fn limits(section: &Section<'_>) -> Limits {
    let number =
        |key, range: RangeInclusive<u64>, default| nonzero(section.number(key, range), NonZeroUsize::new(default));
    let bytes =
        |key, most, default| NonZeroU64::new(section.size(key, 1..=most).unwrap_or(default)).unwrap_or(NonZeroU64::MIN);
    let per_client = section.number("max_connections_per_client", 0..=10_000_000);
    // What the parser has room for: with a larger number, another one than was written would be in effect.
    let most = "; a head has room for no more";
    let max_headers = section.number_because("max_headers", 1..=MAX_FIELDS as u64, most);
    Limits {
        max_connections: number("max_connections", 1..=10_000_000, 100_000),
        max_connections_per_client: per_client.and_then(|most| NonZeroUsize::new(usize::try_from(most).ok()?)),
        // A request line alone may need 8000 bytes (RFC 9112 section 3).
        max_head_bytes: nonzero(section.size("max_head_bytes", 8 << 10..=1 << 20), NonZeroUsize::new(16 << 10)),
        max_headers: nonzero(max_headers, NonZeroUsize::new(100)),
        max_body_bytes: bytes("max_body_bytes", 1 << 50, 10 << 20),
        max_streams: number("max_streams", 1..=10_000, 100),
        min_body_rate: bytes("min_body_rate", 1 << 30, 1 << 10),
    }
}

pub(super) fn nonzero(number: Option<u64>, default: Option<NonZeroUsize>) -> NonZeroUsize {
    let number = number.and_then(|number| NonZeroUsize::new(usize::try_from(number).ok()?));
    number.or(default).unwrap_or(NonZeroUsize::MIN)
}

fn timeouts(section: &Section<'_>) -> Timeouts {
    let duration = |key, default| section.duration(key).unwrap_or(Duration::from_secs(default));
    Timeouts {
        tls_handshake: duration("tls_handshake", 10),
        request_head: duration("request_head", 10),
        body_grace: duration("body_grace", 20),
        keep_alive: duration("keep_alive", 300),
        drain: section.duration_or_zero("drain").unwrap_or(Duration::from_secs(30)),
    }
}

fn log(section: &Section<'_>) -> LogConfig {
    let format = section.text("format", |name| match name {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("the formats are \"text\" and \"json\""),
    });
    LogConfig {
        filter: section.text("filter", parse_filter).unwrap_or_else(|| "info".to_owned()),
        format: format.unwrap_or(LogFormat::Text),
    }
}

fn parse_filter(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let accepted =
        "write a level (error, warn, info, debug, trace or off), or one for each part: info,tollgate::proxy=debug";
    // A filter takes a lone word that is no level for a module's name, and then logs nothing else.
    let is_word = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_: \t".contains(&byte));
    let is_level = |part: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(part));
    if text.split(',').map(str::trim).any(|part| is_word(part) && !is_level(part)) {
        return Err(accepted.to_owned());
    }
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        // Its error may repeat a part of it.
        Err(_) => Err(accepted.to_owned()),
    }
}

/// A permission. One that does not look like any is not repeated.
pub(super) fn parse_permission(text: &str) -> Result<Permission, String> {
    text.parse::<Permission>().map_err(|error| match shown_name(text) == text {
        true => error.to_string(),
        false => "write a permission as resource:action, such as configs:read".to_owned(),
    })
}

/// The upstream with that name in the configuration.
pub(super) fn parse_upstream_name(name: &str) -> Result<UpstreamName, &'static str> {
    match name {
        "api" => Ok(UpstreamName::Api),
        "heartbeat" => Ok(UpstreamName::Heartbeat),
        _ => Err("the upstreams are \"api\" and \"heartbeat\""),
    }
}
