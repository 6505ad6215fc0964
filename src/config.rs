//! The configuration, usable as it is: every value here was checked when it was read.
//!
//! [`load()`] reads the file as written, lets `TOLLGATE_*` environment variables and flags override it, and puts it in the
//! place of the defaults, reporting every [`Problem`] of a run together. `config/tollgate.toml` documents every key.
//!
//! Each section has one function that walks over its keys ([`visit`]): what reads, prints and lists them takes that walk.
//!
//! ```text
//!   file, variables, flags ── raw ──► values with their places ── keys ──► unknown ones
//!                                            └── read ──► Config, or Problems      Config ── show ──► TOML
//!                                                                                  Config ── reload ──► what a reload changes
//! ```

mod admin;
mod keys;
mod load;
mod observers;
mod problem;
mod prove;
mod raw;
mod read;
mod reason;
mod reload;
mod routes;
mod sections;
mod show;
mod store;
mod tls;
mod upstream;
mod visit;

pub use load::{
    AdminListener, Overrides, Source, admin_listener, audit_settings, load, max_token_lifetime, store_settings,
};
pub use problem::{Problem, Problems};
pub use raw::Place;
pub use reason::{Cause, Reason};
pub use reload::{Changes, Values};
pub use show::effective;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::access_log::AccessLogConfig;
use crate::admin::AdminConfig;
use crate::audit;
use crate::listener::ListenerConfig;
use crate::proxy::route::{Group, OwnRoute, RouteTable};
use crate::proxy::{CacheConfig, Limits, Network, Timeouts};
use crate::replica::FreshnessConfig;
use crate::store::Settings;
use crate::traces::TracesConfig;
use crate::upstream::Upstreams;
use crate::words::words;

/// The settings of a sidecar.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where agents connect.
    pub listeners: Vec<ListenerConfig>,
    /// What people call this sidecar; by default the host's name.
    pub name: String,
    /// Threads that accept and serve, each with its own listener sockets and upstream connections.
    pub workers: NonZeroUsize,
    /// The Controller's two servers.
    pub upstreams: Upstreams,
    /// Where the registry is stored.
    pub store: Settings,
    /// Where the replica is saved, so that the next start need not read all of the store.
    pub snapshot_file: Option<PathBuf>,
    /// How long the replica is believed.
    pub freshness: FreshnessConfig,
    /// For how long an expired token is refused as such, and not as one that nobody knows.
    pub expired_retention: Duration,
    /// How long a new token may live at most. As the audit trail, it is for whoever makes one.
    pub max_token_lifetime: Option<Duration>,
    /// What becomes of the audit trail. It is for whoever commits, which a sidecar does not.
    pub audit: audit::Settings,
    /// Where health, metrics and the console are.
    pub admin: AdminConfig,
    /// What is refused for its size or number.
    pub limits: Limits,
    /// How long each thing may take.
    pub timeouts: Timeouts,
    /// Whether configurations are stored for when the Controller is away.
    pub config_cache: CacheConfig,
    /// What is logged.
    pub log: LogConfig,
    /// What is logged of each request.
    pub access_log: AccessLogConfig,
    /// What is traced.
    pub traces: TracesConfig,
    /// Peers whose `X-Forwarded-*` and `X-Request-Id` are believed.
    pub trusted_proxies: Vec<Network>,
    /// Groups whose routes need no token.
    pub open_groups: Vec<Group>,
    /// Routes beside the built-in ones, or in their place.
    pub own_routes: Vec<OwnRoute>,
    /// The path at which listeners answer whether the sidecar is ready.
    pub health_path: Option<String>,
    /// All routes: the built-in ones with these two applied.
    pub routes: RouteTable,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug` or `trace`, or a filter such as `tollgate=debug`.
    pub filter: String,
    /// Text or JSON lines.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Text }
    }
}

words! {
    /// The form of log lines, on standard error.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum LogFormat ("formats") {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}
