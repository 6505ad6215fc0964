//! The configuration that `tollgate dev` runs with: the defaults. It reads no file and no environment, so what is tried
//! is the same everywhere.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use super::banner::url;
use super::ports::DevOptions;
use crate::config::{self, Config, Overrides, Problems, Source};
use crate::store::StoreUrl;
use crate::upstream::CredentialMode;

/// Whoever presses Ctrl-C is waiting.
const DRAIN: Duration = Duration::from_secs(2);

/// Connections at once.
const MAX_CONNECTIONS: NonZeroUsize = NonZeroUsize::new(1000).expect("more than none");

/// The configuration of the sidecar, in front of a stand-in at these two addresses.
///
/// # Errors
/// When the store's path is one that a store URL cannot have.
pub(crate) fn config(
    options: &DevOptions,
    api: SocketAddr,
    heartbeat: SocketAddr,
    store: &StoreUrl,
) -> Result<Config, Problems> {
    let nothing = Source { file: None, environment: Vec::new() };
    let overrides = Overrides {
        listen: vec![options.listen.to_string()],
        api_upstream: Some(url(api)),
        heartbeat_upstream: Some(url(heartbeat)),
        store: Some(store.to_string()),
        admin_listen: Some(options.admin_listen.to_string()),
    };
    let mut config = config::load(&nothing, &overrides)?;
    config.timeouts.drain = DRAIN;
    // Few try it at once, and a usual limit of open files has room for them.
    config.limits.max_connections = MAX_CONNECTIONS;
    // The stand-in asks for none, and a token is best not sent where nobody needs it.
    config.upstreams.api.credential = CredentialMode::Strip;
    config.upstreams.heartbeat.credential = CredentialMode::Strip;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tollgate_listens_where_the_options_say_and_forwards_to_the_stand_in() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let options = DevOptions { listen: address("127.0.0.1:0"), ..DevOptions::ANY };
        let store = StoreUrl::Sqlite("/tmp/a folder/tollgate.db".into());
        let config = config(&options, address("127.0.0.1:8"), address("[::]:9"), &store).expect("valid");
        assert_eq!(
            config.listeners.iter().filter_map(|listener| listener.address.tcp()).collect::<Vec<_>>(),
            [options.listen]
        );
        assert_eq!(config.admin.address, options.admin_listen);
        assert_eq!(config.store.url, store);
        assert_eq!(config.upstreams.api.nodes[0].authority, "127.0.0.1:8");
        let heartbeat = &config.upstreams.heartbeat.nodes[0];
        assert_eq!((heartbeat.host.as_str(), heartbeat.port), ("::1", 9));
        assert!(config.routes.find("POST", "/agents/heartbeat").is_ok());
    }
}
