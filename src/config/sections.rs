//! The keys of the configuration, section by section, and what must hold between them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::read::Section;
use super::reason::Reason;
use super::routes::{Groups, PERMISSION};
use super::visit::{DURATION, DURATION_OR_ZERO, FILE, List, Maybe, Number, Size, Switch, Text, Visitor, text};
use super::{Config, LogConfig, admin, observers, routes, store, tls, upstream};
use crate::access_log::AccessLogConfig;
use crate::admin::AdminConfig;
use crate::audit;
use crate::http1::MAX_FIELDS;
use crate::listener::{ListenAddress, ListenerConfig};
use crate::proxy::path::normalise;
use crate::proxy::route::{NoRoute, RouteTable};
use crate::proxy::{CacheConfig, Limits, Timeouts};
use crate::replica::{FreshnessConfig, MaxStaleness};
use crate::store::{Settings, StoreUrl};
use crate::traces::TracesConfig;
use crate::upstream::{CredentialMode, UpstreamUrl, Upstreams};

/// Whoever comes back from a vacation reads what is wrong with the token.
const EXPIRED_RETENTION: Duration = Duration::from_hours(30 * 24);

impl Config {
    /// The defaults, with this store.
    pub(super) fn with_store(url: StoreUrl) -> Self {
        Self {
            listeners: vec![ListenerConfig::default()],
            name: host_name(),
            workers: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            upstreams: Upstreams::default(),
            store: Settings::from(url),
            snapshot_file: None,
            freshness: FreshnessConfig::default(),
            expired_retention: EXPIRED_RETENTION,
            max_token_lifetime: None,
            audit: audit::Settings::default(),
            admin: AdminConfig::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            config_cache: CacheConfig::default(),
            log: LogConfig::default(),
            access_log: AccessLogConfig::default(),
            traces: TracesConfig::default(),
            trusted_proxies: Vec::new(),
            open_groups: Vec::new(),
            own_routes: Vec::new(),
            health_path: None,
            routes: RouteTable::default(),
        }
    }

    /// Every key.
    pub(super) fn walk(&mut self, keys: &mut impl Visitor) {
        keys.value("name", &NAME, &mut self.name);
        keys.value("workers", &Number(1..=1024), &mut self.workers);
        keys.value("disabled_auth_groups", &Groups, &mut self.open_groups);
        keys.value("trusted_proxies", &List(text()), &mut self.trusted_proxies);
        keys.sections("listener", &mut self.listeners, |listener, keys| {
            keys.value("address", &text(), &mut listener.address);
            keys.value("mode", &Maybe(MODE), &mut listener.mode);
            keys.value("proxy_protocol", &List(text()), &mut listener.proxy_protocol);
            keys.section("tls", |keys| tls::listener(&mut listener.tls, keys));
        });
        keys.section("upstream", |keys| {
            keys.section("api", |keys| upstream::upstream(&mut self.upstreams.api, keys));
            keys.section("heartbeat", |keys| upstream::upstream(&mut self.upstreams.heartbeat, keys));
        });
        keys.section("store", |keys| {
            store::store(&mut self.store, keys);
            keys.value("snapshot_file", &Maybe(FILE), &mut self.snapshot_file);
        });
        keys.section("freshness", |keys| freshness(&mut self.freshness, keys));
        keys.section("registry", |keys| {
            keys.value("expired_retention", &DURATION_OR_ZERO, &mut self.expired_retention);
            max_token_lifetime(&mut self.max_token_lifetime, keys);
        });
        keys.section("admin", |keys| admin::admin(&mut self.admin, keys));
        keys.section("health", |keys| keys.value("path", &Maybe(HEALTH_PATH), &mut self.health_path));
        keys.section("audit", |keys| audit(&mut self.audit, keys));
        keys.section("limits", |keys| limits(&mut self.limits, keys));
        keys.section("timeouts", |keys| timeouts(&mut self.timeouts, keys));
        keys.section("config_cache", |keys| config_cache(&mut self.config_cache, keys));
        keys.section("log", |keys| {
            keys.value("filter", &FILTER, &mut self.log.filter);
            keys.value("format", &text(), &mut self.log.format);
        });
        keys.section("access_log", |keys| observers::access_log(&mut self.access_log, keys));
        keys.section("traces", |keys| observers::traces(&mut self.traces, keys));
        keys.sections("route", &mut self.own_routes, routes::route);
        keys.check_list(|root| {
            self.check_listeners(root);
            routes::check(&self.own_routes, root);
        });
        keys.check(|root| {
            self.check_addresses(root);
            let one_owner = matches!(self.upstreams.api.credential, CredentialMode::Replace { .. });
            let bound = |needed| self.freshness.bound(needed);
            self.routes = RouteTable::new(&self.open_groups, &self.own_routes, one_owner, bound);
            let is_routed = |path: &String| self.routes.find("GET", path).err() != Some(NoRoute::Path);
            if self.health_path.as_ref().is_some_and(is_routed) {
                root.section("health").problem("path", Reason::HealthTaken);
            }
        });
    }

    /// Those whose address can be read, with the section that they are written in; the default one has none.
    fn sound_listeners<'a>(&self, root: &Section<'a>) -> Vec<(ListenAddress, Option<Section<'a>>)> {
        let mut sections = root.sections("listener").unwrap_or_default().into_iter();
        let listeners = self.listeners.iter().map(|listener| (listener.address.clone(), sections.next()));
        listeners.filter(|(_, section)| section.as_ref().is_none_or(|section| section.is_sound("address"))).collect()
    }

    fn check_listeners(&self, root: &Section<'_>) {
        if self.listeners.is_empty() {
            root.problem("listener", Reason::NoListener);
        }
        let listeners = self.sound_listeners(root);
        for (at, (address, section)) in listeners.iter().enumerate() {
            let is_taken = listeners[..at].iter().any(|(other, _)| share(other, address));
            if let Some(section) = section.as_ref().filter(|_| is_taken) {
                section.problem("address", Reason::ListenerTaken(address.clone()));
            }
            let has_mode = |section: &&Section<'_>| section.has("mode") && !matches!(address, ListenAddress::Unix(_));
            if let Some(section) = section.as_ref().filter(has_mode) {
                section.problem("mode", Reason::ModeOfNoSocket);
            }
        }
    }

    fn check_addresses(&self, root: &Section<'_>) {
        let listeners = self.sound_listeners(root);
        for (name, upstream) in [("api", &self.upstreams.api), ("heartbeat", &self.upstreams.heartbeat)] {
            let section = root.section("upstream").section(name);
            let nodes = upstream.nodes.iter().enumerate();
            let looping = |(at, url)| Some((at, listeners.iter().find(|(address, _)| leads_to(url, address))?));
            if let Some((at, (address, _))) = nodes.filter_map(looping).next().filter(|_| section.is_sound("url")) {
                let key = if upstream.nodes.len() > 1 { format!("url[{at}]") } else { "url".to_owned() };
                section.problem(&key, Reason::Loop(address.clone()));
            }
        }
        let admin = root.section("admin");
        if matches!(self.store.url, StoreUrl::Sqlite(_)) {
            let redis_only = ["store_username", "store_password_file"].into_iter().filter(|key| admin.has(key));
            redis_only.for_each(|key| admin.problem(key, Reason::NotRedis));
        }
        let is_shared = |address: &ListenAddress| address.tcp().is_some_and(|tcp| overlap(tcp, self.admin.address));
        let shared = listeners.iter().find(|(address, _)| is_shared(address));
        if let Some((address, listener)) = shared.filter(|_| admin.is_sound("address")) {
            let conflict = Reason::AdminTaken(address.clone());
            // Whichever of the two was written is the one to change.
            match listener {
                Some(listener) if !admin.has("address") => listener.problem("address", conflict),
                _ => admin.problem("address", conflict),
            }
        }
    }
}

/// Longest name of a sidecar: that of a host is no longer.
const MAX_NAME: usize = 64;

pub(super) const NAME: Text<String> = Text {
    parse: |text| match (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(is_in_names) {
        true => Ok(text.to_owned()),
        false => Err(Reason::NotName),
    },
    print: String::clone,
};

fn is_in_names(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-".contains(&byte)
}

/// The host's name, without what a name does not have.
fn host_name() -> String {
    let host = rustix::system::uname();
    let usable = host.nodename().to_bytes().iter().copied().filter(|byte| is_in_names(*byte)).take(MAX_NAME);
    let name: String = usable.map(char::from).collect();
    if name.is_empty() { "tollgate".to_owned() } else { name }
}

/// The policy for new tokens.
pub(super) fn max_token_lifetime(lifetime: &mut Option<Duration>, keys: &mut impl Visitor) {
    keys.value("max_token_lifetime", &Maybe(DURATION), lifetime);
}

/// A path as requests have it, that is read in one way only.
const HEALTH_PATH: Text<String> = Text {
    parse: |text| match normalise(text) {
        Ok(path) if path == text && text.len() > 1 => Ok(text.to_owned()),
        _ => Err(Reason::NotOwnPath),
    },
    print: String::clone,
};

/// Of a file: `0660`.
const MODE: Text<u32> = Text {
    parse: |text| {
        let digits = Some(text).filter(|text| text.bytes().all(|digit| (b'0'..=b'7').contains(&digit)));
        let mode = digits.and_then(|digits| u32::from_str_radix(digits, 8).ok());
        mode.filter(|mode| *mode <= 0o777).ok_or(Reason::NotMode)
    },
    print: |mode| format!("{mode:04o}"),
};

/// An address and a port. Names are refused: what they resolve to may change, and a listener would not.
pub(super) const ADDRESS: Text<SocketAddr> =
    Text { parse: |text| text.parse().map_err(|_| Reason::NotAddress), print: SocketAddr::to_string };

/// Whether what is forwarded there would come in at this listener again.
fn leads_to(url: &UpstreamUrl, listener: &ListenAddress) -> bool {
    let listener = match listener {
        ListenAddress::Tcp(address) => *address,
        ListenAddress::Unix(path) => return url.socket.as_ref() == Some(path),
        ListenAddress::Name { host, port } => return (&url.host, &url.port) == (host, port),
    };
    let host: Option<IpAddr> = match url.host.as_str() {
        _ if url.socket.is_some() => None,
        "localhost" if listener.ip().to_canonical().is_ipv4() => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        "localhost" => Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        host => host.parse().ok(),
    };
    host.is_some_and(|host| host.to_canonical().is_loopback() && overlap(SocketAddr::new(host, url.port), listener))
}

/// Whether two listeners would share an address, as far as it can be known before names are looked up.
fn share(one: &ListenAddress, other: &ListenAddress) -> bool {
    match (one.tcp(), other.tcp()) {
        (Some(one), Some(other)) => overlap(one, other),
        _ => one == other && !matches!(one, ListenAddress::Name { port: 0, .. }),
    }
}

/// Whether a connection could reach both. With SO_REUSEPORT the system does not refuse the second.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let a = one.ip().to_canonical();
    let b = other.ip().to_canonical();
    // Sockets for `[::]` take IPv4 too.
    let has = |any: IpAddr, ip: IpAddr| any.is_unspecified() && (any.is_ipv6() || ip.is_ipv4());
    one.port() != 0 && one.port() == other.port() && (a == b || has(a, b) || has(b, a))
}

fn freshness(config: &mut FreshnessConfig, keys: &mut impl Visitor) {
    keys.value("probe_interval", &DURATION, &mut config.probe_interval);
    keys.value("max_staleness", &text(), &mut config.max_staleness);
    keys.map("per_permission", (&PERMISSION, &text()), &mut config.per_permission);
    keys.check(|section| {
        if !section.is_sound("probe_interval") {
            return;
        }
        let FreshnessConfig { probe_interval, max_staleness, per_permission } = config;
        let is_short = |bound: &MaxStaleness| matches!(bound, MaxStaleness::Within(bound) if bound <= probe_interval);
        if is_short(max_staleness) && section.is_sound("max_staleness") {
            // With the default bound, it is the interval that was written too long.
            let key = if section.has("max_staleness") { "max_staleness" } else { "probe_interval" };
            section.problem(key, Reason::ShortStaleness { probe_interval: *probe_interval });
        }
        for (permission, _) in per_permission.iter().filter(|(_, bound)| is_short(bound)) {
            let conflict = Reason::ShortPermissionStaleness { probe_interval: *probe_interval };
            section.section("per_permission").problem(&permission.to_string(), conflict);
        }
    });
}

/// The keys of `[audit]`.
pub(super) fn audit(settings: &mut audit::Settings, keys: &mut impl Visitor) {
    let audit::Settings { retention, file, syslog, required } = settings;
    keys.value("retention", &DURATION, retention);
    keys.value("file", &Maybe(FILE), file);
    keys.value("syslog", &Maybe(FILE), syslog);
    keys.value("required", &Switch, required);
    keys.check(|section| {
        if *required && file.is_none() && syslog.is_none() && section.is_sound("file") && section.is_sound("syslog") {
            section.problem("required", Reason::NothingRequired);
        }
    });
}

fn config_cache(cache: &mut CacheConfig, keys: &mut impl Visitor) {
    keys.value("enabled", &Switch, &mut cache.enabled);
    // Whatever the Controller says is stored if there is room for one answer of the largest size.
    keys.value("max_bytes", &Size(2 << 20..=1 << 40), &mut cache.max_bytes);
    keys.value("max_entries", &Number(1..=10_000_000), &mut cache.max_entries);
    keys.value("max_age", &DURATION, &mut cache.max_age);
    keys.value("directory", &Maybe(FILE), &mut cache.directory);
}

fn limits(limits: &mut Limits, keys: &mut impl Visitor) {
    keys.value("max_connections", &Number(1..=10_000_000), &mut limits.max_connections);
    keys.value("max_connections_per_client", &Number(0..=10_000_000), &mut limits.max_connections_per_client);
    // A request line alone may need 8000 bytes (RFC 9112 section 3).
    keys.value("max_head_bytes", &Size(8 << 10..=1 << 20), &mut limits.max_head_bytes);
    // What the parser has room for: with a larger number, another one than was written would be in effect.
    keys.value("max_headers", &Number(1..=MAX_FIELDS as u64), &mut limits.max_headers);
    keys.value("max_body_bytes", &Size(1..=1 << 50), &mut limits.max_body_bytes);
    keys.value("max_streams", &Number(1..=10_000), &mut limits.max_streams);
    keys.value("min_body_rate", &Size(1..=1 << 30), &mut limits.min_body_rate);
    keys.section("failed_auth", |keys| {
        keys.value("rate", &Number(0..=1_000_000), &mut limits.failed_auth.rate);
        keys.value("burst", &Number(1..=1_000_000), &mut limits.failed_auth.burst);
        keys.value("exempt", &List(text()), &mut limits.failed_auth.exempt);
    });
}

fn timeouts(timeouts: &mut Timeouts, keys: &mut impl Visitor) {
    keys.value("tls_handshake", &DURATION, &mut timeouts.tls_handshake);
    keys.value("request_head", &DURATION, &mut timeouts.request_head);
    keys.value("body_grace", &DURATION, &mut timeouts.body_grace);
    keys.value("keep_alive", &DURATION, &mut timeouts.keep_alive);
    keys.value("drain_delay", &DURATION_OR_ZERO, &mut timeouts.drain_delay);
    keys.value("drain", &DURATION_OR_ZERO, &mut timeouts.drain);
}

const FILTER: Text<String> = Text { parse: parse_filter, print: String::clone };

/// Levels, and targets with a level each. What else a filter takes for a target (a lone word, any text with punctuation)
/// would have it log nothing at all, and may be a secret.
fn parse_filter(text: &str) -> Result<String, Reason> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    // Without the blanks, which a filter would take for parts of names.
    let filter = parts.join(",");
    if parts.iter().all(|part| is_directive(part)) && EnvFilter::builder().parse(&filter).is_ok() {
        return Ok(filter);
    }
    Err(Reason::NotFilter)
}

/// `info`, or `tollgate::proxy=debug`.
fn is_directive(part: &str) -> bool {
    match part.split_once('=') {
        Some((target, level)) => is_level(level) && !is_level(target) && target.split("::").all(is_module),
        None => is_level(part),
    }
}

fn is_level(text: &str) -> bool {
    ["off", "error", "warn", "info", "debug", "trace"].iter().any(|level| level.eq_ignore_ascii_case(text))
}

fn is_module(name: &str) -> bool {
    let is_in_names = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    name.starts_with(|first: char| first.is_ascii_lowercase()) && name.bytes().all(is_in_names)
}
