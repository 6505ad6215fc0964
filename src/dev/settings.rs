//! The configuration that `tollgate dev` runs with. It reads no file and no environment: what is tried is the same
//! everywhere.

use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use super::banner::reachable;
use super::ports::DevOptions;
use crate::config::{
    Config, CredentialMode, FreshnessConfig, Limits, ListenerConfig, LogConfig, LogFormat, MaxStaleness, Timeouts,
    UpstreamConfig, Upstreams,
};
use crate::proxy::route::RouteTable;
use crate::store::StoreUrl;

/// One person at a keyboard needs no more, and it shows that more than one thread works.
const WORKERS: NonZeroUsize = NonZeroUsize::new(2).unwrap();

/// Whoever presses Ctrl-C is waiting.
const DRAIN: Duration = Duration::from_secs(2);

const MAX_STALENESS: MaxStaleness = MaxStaleness::Within(Duration::from_secs(60));

/// The configuration of the sidecar, in front of a stand-in at these two addresses.
#[must_use]
pub fn config(options: &DevOptions, api: SocketAddr, heartbeat: SocketAddr, store: StoreUrl) -> Config {
    let seconds = Duration::from_secs;
    Config {
        listeners: vec![ListenerConfig { address: options.listen, tls: None }],
        workers: WORKERS,
        upstreams: Upstreams { api: upstream(api), heartbeat: upstream(heartbeat) },
        store,
        freshness: FreshnessConfig {
            probe_interval: seconds(1),
            max_staleness: MAX_STALENESS,
            per_permission: Vec::new(),
        },
        admin_address: options.admin_listen,
        limits: Limits {
            max_connections: const { NonZeroUsize::new(1024).unwrap() },
            max_head_bytes: const { NonZeroUsize::new(16 * 1024).unwrap() },
            max_headers: const { NonZeroUsize::new(100).unwrap() },
            max_body_bytes: const { NonZeroU64::new(10 * 1024 * 1024).unwrap() },
            max_streams: const { NonZeroUsize::new(100).unwrap() },
            min_body_rate: const { NonZeroU64::new(1024).unwrap() },
        },
        timeouts: Timeouts {
            tls_handshake: seconds(10),
            request_head: seconds(10),
            body_grace: seconds(10),
            keep_alive: seconds(5 * 60),
            drain: DRAIN,
        },
        log: LogConfig { filter: "warn".to_owned(), format: LogFormat::Text },
        trusted_proxies: Vec::new(),
        routes: RouteTable::built_in(&[], |_| MAX_STALENESS),
    }
}

fn upstream(server: SocketAddr) -> UpstreamConfig {
    let server = reachable(server);
    UpstreamConfig {
        host: server.ip().to_string(),
        port: server.port(),
        authority: server.to_string(),
        tls: None,
        // The stand-in asks for none, and a token is best not sent where nobody needs it.
        credential: CredentialMode::Strip,
        connect_timeout: Duration::from_secs(5),
        first_byte_timeout: Duration::from_secs(30),
        idle_timeout: Duration::from_secs(30),
        pool_idle_timeout: Duration::from_secs(4),
        pool_max_idle: 16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tollgate_listens_where_it_was_told_and_goes_to_the_stand_in() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let options = DevOptions { listen: address("127.0.0.1:7"), ..DevOptions::default() };
        let store = StoreUrl::Sqlite("/tmp/x".into());
        let config = config(&options, address("127.0.0.1:8"), address("[::]:9"), store.clone());
        assert_eq!(config.listeners[0].address, options.listen);
        assert_eq!(config.admin_address, options.admin_listen);
        assert_eq!(config.store, store);
        assert_eq!(config.upstreams.api.authority, "127.0.0.1:8");
        let UpstreamConfig { host, port, authority, .. } = config.upstreams.heartbeat;
        assert_eq!((host.as_str(), port, authority.as_str()), ("::1", 9, "[::1]:9"));
        assert!(config.routes.find("POST", "/agents/heartbeat").is_ok());
    }
}
