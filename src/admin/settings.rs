//! The settings of the admin listener.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::console::{PublicUrl, Switch};
use crate::prove::ProveAtInterval;
use crate::store::{Settings, StoreUrl};
use crate::tls::TlsConfig;

/// Connections at once: browsers have six for all their tabs, scrapers and scripts one or a few each.
const MAX_CONNECTIONS: usize = 256;

/// Where health, metrics and the console are.
#[derive(Debug, Clone)]
pub struct AdminConfig {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// Without it, plain HTTP.
    pub tls: Option<TlsConfig>,
    /// Where people and programs reach the console, if not by the address.
    pub public_url: Option<PublicUrl>,
    /// Whether the console is there; `None`: where it can do no harm.
    pub console: Option<Switch>,
    /// The Redis user by which the console gets at the registry, instead of the store's.
    pub store_username: Option<String>,
    /// Holds that user's password, nothing else.
    pub store_password_file: Option<PathBuf>,
    /// Connections at once, as the limit of open files allows.
    pub max_connections: usize,
    /// Whether it is proven again and again that revoked tokens are refused, and how.
    pub(crate) prove: ProveAtInterval,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9900),
            tls: None,
            public_url: None,
            console: None,
            store_username: None,
            store_password_file: None,
            max_connections: MAX_CONNECTIONS,
            prove: ProveAtInterval::default(),
        }
    }
}

/// How the console gets at the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConsoleStore {
    /// As the sidecar does.
    Shared,
    /// By a connection of its own.
    Own(Box<Settings>),
    /// Not at all, and why; `None`: nobody wants it.
    Off(Option<&'static str>),
}

const NOT_LOOPBACK: &str = "the console and its API are off here, since the admin listener is not on loopback: admin.console = \"on\" \
                            turns it on";
const NOT_PERMITTED: &str = "the console and its API are off here, since a sidecar's Redis user cannot change the registry: name one that \
                             can (admin.store_username and admin.store_password_file), or use `tollgate console`";

impl AdminConfig {
    /// How the console of a sidecar with this store gets at the registry.
    pub(crate) fn console_store(&self, store: &Settings) -> ConsoleStore {
        match (self.console, &store.url) {
            (Some(Switch::Off), _) => ConsoleStore::Off(None),
            (_, StoreUrl::Redis(_)) if self.store_username.is_some() => {
                ConsoleStore::Own(Box::new(self.own_store(store)))
            }
            (Some(Switch::On), _) => ConsoleStore::Shared,
            (None, StoreUrl::Redis(_)) => ConsoleStore::Off(Some(NOT_PERMITTED)),
            (None, StoreUrl::Sqlite(_)) if self.address.ip().to_canonical().is_loopback() => ConsoleStore::Shared,
            (None, StoreUrl::Sqlite(_)) => ConsoleStore::Off(Some(NOT_LOOPBACK)),
        }
    }

    /// The same store, by the console's own user if it has one.
    pub(crate) fn own_store(&self, store: &Settings) -> Settings {
        let mut own = store.clone();
        if let (StoreUrl::Redis(url), Some(username)) = (&mut own.url, &self.store_username) {
            url.username = Some(username.clone());
            url.password = None;
            own.password_file = self.store_password_file.clone();
        }
        own
    }

    /// Whether a sidecar's console would be sent tokens in the clear.
    pub(crate) fn is_exposed(&self) -> bool {
        let is_wanted = self.console == Some(Switch::On) || self.store_username.is_some();
        is_wanted && self.console != Some(Switch::Off) && self.is_in_the_clear()
    }

    /// Whether what is sent to it crosses a network in the clear, without anybody having said that this is meant.
    pub(crate) fn is_in_the_clear(&self) -> bool {
        !self.address.ip().to_canonical().is_loopback() && self.tls.is_none() && self.public_url.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str, admin: AdminConfig) -> ConsoleStore {
        admin.console_store(&Settings::from(url.parse::<StoreUrl>().expect("a URL")))
    }

    #[test]
    fn the_console_is_on_by_itself_only_where_it_can_do_no_harm() {
        let on = AdminConfig { console: Some(Switch::On), ..AdminConfig::default() };
        let off = AdminConfig { console: Some(Switch::Off), ..AdminConfig::default() };
        let open = AdminConfig { address: "0.0.0.0:9900".parse().expect("an address"), ..AdminConfig::default() };
        assert_eq!(of("sqlite:a.db", AdminConfig::default()), ConsoleStore::Shared);
        assert_eq!(of("sqlite:a.db", off), ConsoleStore::Off(None));
        assert_eq!(of("sqlite:a.db", open.clone()), ConsoleStore::Off(Some(NOT_LOOPBACK)));
        assert_eq!(of("redis://h", AdminConfig::default()), ConsoleStore::Off(Some(NOT_PERMITTED)));
        assert_eq!(of("redis://h", on.clone()), ConsoleStore::Shared);
        assert!(!open.is_exposed() && !on.is_exposed());
        assert!(open.is_in_the_clear() && !on.is_in_the_clear());
        assert!(AdminConfig { console: on.console, ..open }.is_exposed());
    }

    #[test]
    fn its_own_user_takes_the_place_of_the_sidecars() {
        let admin = AdminConfig {
            store_username: Some("registry".to_owned()),
            store_password_file: Some("/p".into()),
            ..AdminConfig::default()
        };
        let ConsoleStore::Own(own) = of("redis://sidecar:secret@h/3", admin) else { panic!("it has its own") };
        assert_eq!(own.url.to_string(), "redis://registry@h:6379/3");
        assert_eq!(own.password_file, Some("/p".into()));
    }
}
