//! What a reload makes of the configuration that it reads: which keys it exchanges, and which need a restart.

use std::collections::BTreeMap;

use super::visit::{Form, Text, Visitor};
use super::{Config, LogConfig};
use crate::access_log::AccessLogConfig;
use crate::admin::AdminConfig;
use crate::listener::ListenerConfig;
use crate::proxy::route::RouteTable;
use crate::proxy::{Cache, FailedAuthLimit, Limits, Timeouts};
use crate::upstream::{CredentialMode, UpstreamConfig, Upstreams};

/// What a reload exchanges: these keys, and all below them. Every other one needs a restart. A test compares the list with what
/// [`Config::reloaded`] does.
const RELOADED: &[&str] = &[
    "trusted_proxies",
    "listener.proxy_protocol",
    "listener.tls",
    "upstream",
    "admin.tls",
    "health",
    "limits",
    "timeouts",
    "log.filter",
    "access_log",
    "route",
];

/// Every key that has a value, as `check` prints it.
pub type Values = BTreeMap<String, String>;

/// What a reload of one configuration over another one does, by the keys.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Those that it exchanges.
    pub reloaded: Vec<String>,
    /// Those that stay as they are until a restart.
    pub restart: Vec<String>,
}

/// Whether a reload exchanges the value of this key, with or without which of several it is of: `listener[0].tls.key`.
pub(super) fn is_reloaded(key: &str) -> bool {
    let generic = generic(key);
    let has = |known: &&str| generic.strip_prefix(*known).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    RELOADED.iter().any(has)
}

/// The key without which of several it is of. An address has dots, and may have brackets.
fn generic(key: &str) -> String {
    let which = key.split_once('[').zip(key.rsplit_once(']'));
    which.map_or_else(|| key.to_owned(), |((list, _), (_, rest))| format!("{list}{rest}"))
}

impl Changes {
    /// From the values that are in effect to these, which were read.
    pub fn between(running: &Values, read: &Values) -> Self {
        let is_kept = is_of_other_controller(running, read);
        let is_of_stored = |key: &str| is_kept && OF_STORED.iter().any(|known| key.starts_with(known));
        let (reloaded, restart) =
            differing(running, read).into_iter().partition(|key| is_reloaded(key) && !is_of_stored(key));
        Self { reloaded, restart }
    }
}

/// Whose answers are stored, while they are.
const OF_STORED: [&str; 3] = ["upstream.api.url", "upstream.api.tls.", "upstream.api.credential."];

/// Whether answers are stored, of a Controller or by a kind of credential that is not what was read: see
/// [`Config::reloaded_upstreams`].
fn is_of_other_controller(running: &Values, read: &Values) -> bool {
    let differs = |key: &str| running.get(key) != read.get(key);
    let forwards =
        |values: &Values| values.get("upstream.api.credential.mode").is_some_and(|mode| mode == "\"forward\"");
    let is_stored = running.get("config_cache.enabled").is_some_and(|enabled| enabled == "true");
    is_stored && (differs("upstream.api.url") || forwards(running) != forwards(read))
}

/// Each listener by its address, as a reload knows it: what place it has in the file says nothing.
fn by_address(values: &Values) -> Values {
    let renamed = |key: &str| {
        let (place, rest) = key.strip_prefix("listener[")?.split_once("].")?;
        let address = values.get(&format!("listener[{place}].address"))?;
        Some(format!("listener[{}].{rest}", address.trim_matches('"')))
    };
    values.iter().map(|(key, value)| (renamed(key).unwrap_or_else(|| key.clone()), value.clone())).collect()
}

/// The keys whose values differ. Own routes have no names and are one. Of a listener that only one has, its address says so.
fn differing(one: &Values, other: &Values) -> Vec<String> {
    let (one, other) = (&by_address(one), &by_address(other));
    let says_more = |key: &str| {
        let of_listener = key.strip_prefix("listener[").and_then(|rest| rest.rsplit_once("]."));
        of_listener.is_none_or(|(address, rest)| {
            let address = format!("listener[{address}].address");
            rest == "address" || one.contains_key(&address) && other.contains_key(&address)
        })
    };
    let keys = one.keys().chain(other.keys()).filter(|key| one.get(*key) != other.get(*key) && says_more(key));
    let mut keys: Vec<String> =
        keys.map(|key| if key.starts_with("route[") { "route" } else { key }.to_owned()).collect();
    keys.sort();
    keys.dedup();
    keys
}

impl Config {
    /// Every key that has a value.
    pub fn values(&self) -> Values {
        let mut collector = Collector::default();
        self.clone().walk(&mut collector);
        collector.values
    }

    /// The configuration that is in effect once this one, which is, was reloaded with the one that was read; and what that changes.
    ///
    /// Whoever adds a key says here what becomes of it: without a word it does not compile.
    pub(crate) fn reloaded(&self, read: &Self) -> (Self, Changes) {
        let Self {
            listeners,
            upstreams,
            admin,
            limits,
            timeouts,
            log,
            access_log,
            trusted_proxies,
            own_routes,
            health_path,
            // Made of others.
            routes: _,
            // These need a restart.
            name: _,
            workers: _,
            store: _,
            snapshot_file: _,
            freshness: _,
            expired_retention: _,
            max_token_lifetime: _,
            audit: _,
            config_cache: _,
            traces: _,
            open_groups: _,
        } = read;
        let mut config = self.clone();
        for running in &mut config.listeners {
            let same = listeners.iter().find(|listener| listener.address == running.address);
            if let Some(ListenerConfig { address: _, mode: _, tls, proxy_protocol }) = same {
                running.tls.clone_from(tls);
                running.proxy_protocol.clone_from(proxy_protocol);
            }
        }
        config.upstreams = self.reloaded_upstreams(upstreams);
        let AdminConfig {
            address: _,
            tls,
            public_url: _,
            console: _,
            store_username: _,
            store_password_file: _,
            prove: _,
            max_connections: _,
        } = admin;
        config.admin.tls.clone_from(tls);
        config.limits = reloaded_limits(limits);
        config.timeouts = reloaded_timeouts(timeouts);
        let LogConfig { filter, format: _ } = log;
        config.log.filter.clone_from(filter);
        let AccessLogConfig { output, format, one_in } = access_log;
        config.access_log = AccessLogConfig { output: output.clone(), format: *format, one_in: *one_in };
        config.trusted_proxies.clone_from(trusted_proxies);
        config.own_routes.clone_from(own_routes);
        config.health_path.clone_from(health_path);
        let one_owner = matches!(config.upstreams.api.credential, CredentialMode::Replace { .. });
        let bound = |needed| self.freshness.bound(needed);
        config.routes = RouteTable::new(&self.open_groups, &config.own_routes, one_owner, bound);

        let values = config.values();
        let changes =
            Changes { reloaded: differing(&self.values(), &values), restart: differing(&values, &read.values()) };
        (config, changes)
    }

    /// What is stored of configurations is one Controller's, seen with one kind of credential: another one needs another store.
    fn reloaded_upstreams(&self, read: &Upstreams) -> Upstreams {
        let Upstreams { api, heartbeat } = read;
        let (mut api, heartbeat) = (reloaded_upstream(api), reloaded_upstream(heartbeat));
        let running = &self.upstreams.api;
        if self.config_cache.enabled && !Cache::is_of_same(running, &api) {
            api.nodes.clone_from(&running.nodes);
            api.tls.clone_from(&running.tls);
            api.credential.clone_from(&running.credential);
        }
        Upstreams { api, heartbeat }
    }
}

fn reloaded_upstream(read: &UpstreamConfig) -> UpstreamConfig {
    // All of it.
    let UpstreamConfig {
        nodes: _,
        tls: _,
        health_path: _,
        health_interval: _,
        credential: _,
        connect_timeout: _,
        first_byte_timeout: _,
        idle_timeout: _,
        pool_idle_timeout: _,
        pool_max_idle: _,
        max_in_flight: _,
    } = read;
    read.clone()
}

fn reloaded_limits(read: &Limits) -> Limits {
    // All of them.
    let Limits {
        max_connections: _,
        max_connections_per_client: _,
        failed_auth: FailedAuthLimit { rate: _, burst: _, exempt: _ },
        max_head_bytes: _,
        max_headers: _,
        max_body_bytes: _,
        max_streams: _,
        min_body_rate: _,
    } = read;
    read.clone()
}

fn reloaded_timeouts(read: &Timeouts) -> Timeouts {
    // All of them.
    let Timeouts { tls_handshake: _, request_head: _, body_grace: _, keep_alive: _, drain_delay: _, drain: _ } = read;
    read.clone()
}

/// Takes down every key with its value.
#[derive(Default)]
struct Collector {
    values: Values,
    path: Vec<String>,
}

impl Collector {
    fn within(&mut self, key: String, walk: impl FnOnce(&mut Self)) {
        self.path.push(key);
        walk(self);
        self.path.pop();
    }
}

impl Visitor for Collector {
    fn value<T>(&mut self, key: &'static str, form: &impl Form<T>, value: &mut T) {
        if let Some(value) = form.print(value) {
            self.within(key.to_owned(), |collector| drop(collector.values.insert(collector.path.join("."), value)));
        }
    }

    fn section(&mut self, key: &'static str, walk: impl FnOnce(&mut Self)) {
        self.within(key.to_owned(), walk);
    }

    fn sections<T: Default>(&mut self, key: &'static str, items: &mut Vec<T>, walk: impl Fn(&mut T, &mut Self)) {
        for (at, item) in items.iter_mut().enumerate() {
            self.within(format!("{key}[{at}]"), |collector| walk(item, collector));
        }
    }

    fn map<K, V>(&mut self, key: &'static str, (name, form): (&Text<K>, &impl Form<V>), entries: &mut Vec<(K, V)>) {
        self.within(key.to_owned(), |collector| {
            for (key, value) in entries {
                if let Some(value) = form.print(value) {
                    let path = format!("{}.{}", collector.path.join("."), (name.print)(key));
                    collector.values.insert(path, value);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests;
