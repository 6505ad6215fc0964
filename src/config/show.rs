//! The effective configuration as a file that means the same.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::Path;

use super::{Config, LogConfig, LogFormat};
use crate::listener::ListenerConfig;
use crate::proxy::route::{Access, Group, Method, Route, RouteTable};
use crate::proxy::{Limits, Timeouts};
use crate::replica::{FreshnessConfig, MaxStaleness};
use crate::store::Settings;
use crate::tls::{Identity, TlsConfig, UpstreamTlsConfig};
use crate::units::{format_duration, format_size};
use crate::upstream::{CredentialMode, UpstreamConfig, Upstreams};

/// Writes the configuration as TOML that [`load`](super::load()) reads back to the same: every key with its value, then
/// the routes that are not built in, then all routes as comments. It holds no secrets: a configuration names files.
#[must_use]
pub fn effective(config: &Config) -> String {
    let Config {
        name,
        listeners,
        workers,
        upstreams: Upstreams { api, heartbeat },
        store,
        snapshot_file,
        freshness,
        admin_address,
        limits,
        timeouts,
        log,
        trusted_proxies,
        routes,
    } = config;
    let open = open_groups(routes, freshness);
    let mut out = Writer(String::new());
    out.value("name", quote(name));
    out.value("workers", workers.to_string());
    out.value("disabled_auth_groups", list(open.iter().map(|group| group.name())));
    out.value("trusted_proxies", list(trusted_proxies.iter()));
    listeners.iter().for_each(|listener| out.listener(listener));
    out.upstream("api", api);
    out.upstream("heartbeat", heartbeat);
    out.store(store, snapshot_file.as_deref());
    out.freshness(freshness);
    out.header("[admin]");
    out.value("address", quote(admin_address));
    out.limits(limits);
    out.timeouts(timeouts);
    out.log(log);
    out.routes(routes, &RouteTable::built_in(&open, |permission| freshness.bound(permission)));
    out.0
}

/// A TOML string.
fn quote(text: impl ToString) -> String {
    toml::Value::String(text.to_string()).to_string()
}

fn list(items: impl Iterator<Item = impl ToString>) -> String {
    format!("[{}]", items.map(quote).collect::<Vec<_>>().join(", "))
}

fn staleness(bound: MaxStaleness) -> String {
    match bound {
        MaxStaleness::Within(bound) => format_duration(bound),
        MaxStaleness::Never => "never".to_owned(),
    }
}

struct Writer(String);

impl Writer {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        self.0.write_fmt(line).and_then(|()| self.0.write_char('\n')).unwrap_or_default();
    }

    fn header(&mut self, header: &str) {
        self.line(format_args!("\n{header}"));
    }

    fn value(&mut self, key: &str, toml: impl AsRef<str>) {
        self.line(format_args!("{key} = {}", toml.as_ref()));
    }

    fn file(&mut self, key: &str, file: &Path) {
        self.value(key, quote(file.display()));
    }

    fn listener(&mut self, listener: &ListenerConfig) {
        let ListenerConfig { address, tls } = listener;
        self.header("[[listener]]");
        self.value("address", quote(address));
        let Some(TlsConfig { certificate, key, client_ca, alpn }) = tls else { return };
        self.file("tls.certificate", certificate);
        self.file("tls.key", key);
        if let Some(file) = client_ca {
            self.file("tls.client_ca", file);
        }
        self.value("tls.alpn", list(alpn.iter().map(|protocol| protocol.name())));
    }

    fn store(&mut self, settings: &Settings, snapshot_file: Option<&Path>) {
        let Settings {
            url,
            namespace,
            quorum_replicas,
            read_from,
            password_file,
            sentinel_username,
            sentinel_password_file,
            ca,
            certificate,
            key,
        } = settings;
        self.header("[store]");
        self.value("url", quote(url));
        self.value("namespace", quote(namespace));
        self.value("quorum_replicas", quorum_replicas.to_string());
        self.value("read_from", quote(read_from));
        if let Some(name) = sentinel_username {
            self.value("sentinel_username", quote(name));
        }
        let files = [
            ("password_file", password_file.as_deref()),
            ("sentinel_password_file", sentinel_password_file.as_deref()),
            ("ca", ca.as_deref()),
            ("certificate", certificate.as_deref()),
            ("key", key.as_deref()),
            ("snapshot_file", snapshot_file),
        ];
        for (key, file) in files {
            if let Some(file) = file {
                self.file(key, file);
            }
        }
    }

    fn upstream(&mut self, name: &str, upstream: &UpstreamConfig) {
        let UpstreamConfig {
            host: _, // in the authority
            port,
            authority,
            tls,
            credential,
            connect_timeout,
            first_byte_timeout,
            idle_timeout,
            pool_idle_timeout,
            pool_max_idle,
            max_in_flight,
        } = upstream;
        let (scheme, own_port) = if tls.is_some() { ("https", 443) } else { ("http", 80) };
        self.header(&format!("[upstream.{name}]"));
        // The authority leaves the scheme's own port out; here it is helpful.
        let port = if *port == own_port { format!(":{port}") } else { String::new() };
        self.value("url", quote(format!("{scheme}://{authority}{port}")));
        if let Some(UpstreamTlsConfig { ca, server_name, identity }) = tls {
            if let Some(file) = ca {
                self.file("tls.ca", file);
            }
            if let Some(name) = server_name {
                self.value("tls.server_name", quote(name.to_str()));
            }
            if let Some(Identity { certificate, key }) = identity {
                self.file("tls.certificate", certificate);
                self.file("tls.key", key);
            }
        }
        self.value("credential.mode", quote(credential_mode(credential)));
        if let CredentialMode::Replace { token_file } = credential {
            self.file("credential.token_file", token_file);
        }
        self.value("timeouts.connect", quote(format_duration(*connect_timeout)));
        self.value("timeouts.first_byte", quote(format_duration(*first_byte_timeout)));
        self.value("timeouts.idle", quote(format_duration(*idle_timeout)));
        self.value("pool.idle_timeout", quote(format_duration(*pool_idle_timeout)));
        self.value("pool.max_idle", pool_max_idle.to_string());
        self.value("max_in_flight", max_in_flight.to_string());
    }

    fn freshness(&mut self, freshness: &FreshnessConfig) {
        let FreshnessConfig { probe_interval, max_staleness, per_permission } = freshness;
        self.header("[freshness]");
        self.value("probe_interval", quote(format_duration(*probe_interval)));
        self.value("max_staleness", quote(staleness(*max_staleness)));
        self.header("[freshness.per_permission]");
        for (permission, bound) in per_permission {
            self.value(&quote(permission), quote(staleness(*bound)));
        }
    }

    fn limits(&mut self, limits: &Limits) {
        let Limits {
            max_connections,
            max_connections_per_client,
            max_head_bytes,
            max_headers,
            max_body_bytes,
            max_streams,
            min_body_rate,
        } = limits;
        self.header("[limits]");
        self.value("max_connections", max_connections.to_string());
        let per_client = max_connections_per_client.map_or(0, NonZeroUsize::get);
        self.value("max_connections_per_client", per_client.to_string());
        self.value("max_head_bytes", quote(format_size(max_head_bytes.get() as u64)));
        self.value("max_headers", max_headers.to_string());
        self.value("max_body_bytes", quote(format_size(max_body_bytes.get())));
        self.value("max_streams", max_streams.to_string());
        self.value("min_body_rate", quote(format_size(min_body_rate.get())));
    }

    fn timeouts(&mut self, timeouts: &Timeouts) {
        let Timeouts { tls_handshake, request_head, body_grace, keep_alive, drain } = timeouts;
        self.header("[timeouts]");
        self.value("tls_handshake", quote(format_duration(*tls_handshake)));
        self.value("request_head", quote(format_duration(*request_head)));
        self.value("body_grace", quote(format_duration(*body_grace)));
        self.value("keep_alive", quote(format_duration(*keep_alive)));
        self.value("drain", quote(format_duration(*drain)));
    }

    fn log(&mut self, log: &LogConfig) {
        let LogConfig { filter, format } = log;
        self.header("[log]");
        self.value("filter", quote(filter));
        let format = match format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        self.value("format", quote(format));
    }

    fn routes(&mut self, routes: &RouteTable, built_in: &RouteTable) {
        let (all, built_in) = (routes.list(), built_in.list());
        for (path, methods, route) in group(&all) {
            // A path with any route of its own is written with all its methods: GET alone would stand for HEAD too.
            if all.iter().filter(|(_, other, _)| *other == path).all(|entry| built_in.contains(entry)) {
                continue;
            }
            self.header("[[route]]");
            self.value("methods", list(methods.iter().map(|method| method.name())));
            self.value("path", quote(&path));
            match route.access {
                Access::Open => self.value("auth", quote("none")),
                Access::Requires { permission, max_staleness: _ } => self.value("permission", quote(permission)),
            }
            self.value("upstream", quote(route.upstream.name()));
        }
        self.header("# Every route, the built-in ones included; everything else is refused:");
        for (path, methods, route) in group(&all) {
            let methods = methods.iter().map(|method| method.name()).collect::<Vec<_>>().join(" ");
            let (needs, bound) = match route.access {
                Access::Open => ("nothing".to_owned(), "never".to_owned()),
                Access::Requires { permission, max_staleness } => (permission.to_string(), staleness(max_staleness)),
            };
            let to = route.upstream.name();
            self.line(format_args!("#   {methods:15} {path:25} needs {needs:23} goes to {to}, max_staleness {bound}"));
        }
    }
}

/// The routes by path, those that differ only in the method together.
fn group(routes: &[(Method, String, Route)]) -> Vec<(String, Vec<Method>, Route)> {
    let mut groups: Vec<(String, Vec<Method>, Route)> = Vec::new();
    for (method, path, route) in routes {
        match groups.iter_mut().find(|(other, _, same)| other == path && same == route) {
            Some((_, methods, _)) => methods.push(*method),
            None => groups.push((path.clone(), vec![*method], *route)),
        }
    }
    groups
}

/// The groups whose built-in routes are all open. Whether a group or single routes opened them makes no difference.
fn open_groups(routes: &RouteTable, freshness: &FreshnessConfig) -> Vec<Group> {
    let routes = routes.list();
    let closed = RouteTable::built_in(&[], |permission| freshness.bound(permission)).list();
    let is_open = |group: &Group| {
        let opened = RouteTable::built_in(&[*group], |permission| freshness.bound(permission)).list();
        opened.iter().filter(|entry| !closed.contains(entry)).all(|entry| routes.contains(entry))
    };
    Group::ALL.into_iter().filter(is_open).collect()
}

fn credential_mode(mode: &CredentialMode) -> &'static str {
    match mode {
        CredentialMode::Forward => "forward",
        CredentialMode::Strip => "strip",
        CredentialMode::Replace { .. } => "replace",
    }
}
