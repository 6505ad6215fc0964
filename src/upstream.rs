//! One of the Controller's servers: how it is reached, what it is shown as a credential, how many requests may be in flight to it.
//!
//! Where the Controller is several nodes, the server is too: `balance` chooses the node of each request.
//!
//! An upstream has one configuration for as long as it is there. A reload makes another one of it, which has its nodes, as far as
//! they are the same, its slots and its counts.

mod balance;
pub(crate) mod check;
mod connect;
mod in_flight;
mod io;
mod node;
mod outage;
mod pool;
mod refused;
mod room;
mod settings;
mod url;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::HeaderValue;
use zeroize::Zeroizing;

use crate::chain::chain;
use crate::lock::RwLock;
use crate::reading;
use crate::slots::Slots;
use crate::tls::TlsError;
use crate::token::RawToken;
use crate::token::raw::InvalidToken;

pub(crate) use balance::{Balancer, Chosen, Tried};
pub(crate) use connect::Connector;
use connect::{Address, ConnectError};
pub(crate) use in_flight::{InFlight, InFlightSlot, Priority};
use node::Condition;
pub(crate) use node::Node;
pub(crate) use outage::{Outages, Step};
pub(crate) use pool::Lease;
pub(crate) use refused::Asked;
use refused::CredentialRefusals;
use room::Room;
pub(crate) use settings::MAX_NODES;
pub use settings::{CredentialMode, UpstreamConfig, UpstreamName, Upstreams};
pub use url::UpstreamUrl;

/// One upstream, as all workers share it.
pub struct Upstream {
    /// As the configuration names it.
    pub(crate) name: UpstreamName,
    /// How to reach it.
    pub(crate) config: UpstreamConfig,
    /// Its nodes, one at least.
    pub(crate) nodes: Box<[Arc<Node>]>,
    /// How many requests may be in flight to it.
    pub(crate) in_flight: Arc<InFlight>,
    /// How many connections there may be to it.
    connections: Arc<Slots>,
    /// Whether some worker waits for another's unused connection to close.
    room: Arc<Room>,
    /// What went wrong with it.
    pub(crate) outages: Arc<Outages>,
    /// How often it refused a credential that is not the client's.
    pub(crate) credential_refusals: Arc<CredentialRefusals>,
    /// The `Authorization` value that replaces the client's. Changed when its file changes.
    service_credential: RwLock<Option<HeaderValue>>,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("nodes", &self.config.nodes).finish_non_exhaustive()
    }
}

/// What becomes of the `Authorization` field.
pub(crate) enum Credential {
    /// The client's goes on.
    Forward,
    /// None goes on.
    Strip,
    /// This value goes on.
    Replace(HeaderValue),
}

/// Why a file gives no service token.
#[derive(Debug, thiserror::Error)]
pub enum CredentialFileError {
    /// It cannot be read.
    #[error("reading {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    /// It holds what no text is.
    #[error("{} is not text", .0.display())]
    NotText(PathBuf),
    /// It holds something else than a token, or more.
    #[error("{} must hold one token and nothing else", .0.display())]
    Token(PathBuf, #[source] InvalidToken),
    /// It holds a token that a field cannot have.
    #[error("the token in {} has characters that no header field can have", .0.display())]
    Value(PathBuf),
}

/// Why an upstream cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Its host is no name that a certificate could have.
    #[error("the upstream host {host} cannot be verified by TLS")]
    Name {
        /// The host.
        host: String,
        /// Why.
        #[source]
        source: rustls::pki_types::InvalidDnsNameError,
    },
    /// It has no URL.
    #[error("the upstream has no url")]
    NoNode,
    /// A field cannot have its authority.
    #[error("the upstream's host cannot be named in a Host field")]
    Authority,
    /// Its TLS files.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Its service token.
    #[error(transparent)]
    Credential(#[from] CredentialFileError),
}

impl Upstream {
    /// An upstream to connect to.
    ///
    /// # Errors
    /// When its TLS files or its credential file cannot be used.
    pub(crate) fn new(name: UpstreamName, config: UpstreamConfig) -> Result<Self, UpstreamError> {
        let nodes = config.nodes.iter().map(|url| Ok(Arc::new(Node::new(url.clone(), &config)?)));
        let upstream = Self {
            name,
            nodes: nodes.collect::<Result<_, UpstreamError>>()?,
            in_flight: InFlight::new(config.max_in_flight.get()),
            connections: Slots::new(config.max_in_flight.get()),
            room: Arc::default(),
            outages: Arc::default(),
            credential_refusals: Arc::default(),
            service_credential: RwLock::default(),
            config,
        };
        upstream.checked()
    }

    /// The same upstream with another configuration, which nobody notices before [`Upstream::take_over`]. A node that is reached as
    /// before is the same one.
    ///
    /// # Errors
    /// As [`Upstream::new`].
    pub(crate) fn with(&self, config: UpstreamConfig) -> Result<Self, UpstreamError> {
        let same = |url: &UpstreamUrl| {
            self.nodes.iter().find(|node| node.url == *url && config.tls == self.config.tls).cloned()
        };
        let nodes = config.nodes.iter().map(|url| match same(url) {
            Some(node) => Ok(node),
            None => Ok(Arc::new(Node::new(url.clone(), &config)?)),
        });
        let upstream = Self {
            name: self.name,
            nodes: nodes.collect::<Result<_, UpstreamError>>()?,
            in_flight: Arc::clone(&self.in_flight),
            connections: Arc::clone(&self.connections),
            room: Arc::clone(&self.room),
            outages: Arc::clone(&self.outages),
            credential_refusals: Arc::clone(&self.credential_refusals),
            service_credential: RwLock::default(),
            config,
        };
        upstream.checked()
    }

    fn checked(self) -> Result<Self, UpstreamError> {
        if self.nodes.is_empty() {
            return Err(UpstreamError::NoNode);
        }
        self.read_credential()?;
        Ok(self)
    }

    /// From now on what it shares with the one before is as its own configuration has it. Within a runtime.
    pub(crate) fn take_over(&self) {
        let UpstreamConfig { max_in_flight, connect_timeout, .. } = &self.config;
        self.in_flight.resize(max_in_flight.get());
        self.connections.resize(max_in_flight.get());
        for node in &self.nodes {
            node.connector.set_timeout(*connect_timeout);
            node.verdict.forget();
        }
    }

    /// Reads the service token again, if there is a file for it.
    ///
    /// # Errors
    /// [`CredentialFileError`]; the one read before stays.
    pub(crate) fn reload_credential(&self) -> Result<(), CredentialFileError> {
        self.read_credential()?;
        self.nodes.iter().for_each(|node| node.verdict.forget());
        Ok(())
    }

    fn read_credential(&self) -> Result<(), CredentialFileError> {
        let CredentialMode::Replace { token_file } = &self.config.credential else { return Ok(()) };
        let token = read_credential(token_file)?;
        let value = Zeroizing::new(format!("Bearer {}", token.reveal()));
        let mut value = HeaderValue::from_str(&value).map_err(|_| CredentialFileError::Value(token_file.clone()))?;
        value.set_sensitive(true); // its Debug shows nothing then
        *self.service_credential.write() = Some(value);
        Ok(())
    }

    /// Reads the files of its TLS again. Where they differ, connections made by the former ones are used no more.
    ///
    /// # Errors
    /// [`TlsError`]; what was read before stays.
    pub(crate) fn reload_tls(&self) -> Result<(), TlsError> {
        let reloads: Vec<_> = self.nodes.iter().map(|node| node.connector.reload()).collect();
        reloads.into_iter().collect()
    }

    /// Says which nodes are known to be unhealthy, and of which the name cannot be looked up.
    pub(crate) fn node_problems(&self) -> impl Iterator<Item = String> {
        let nodes = self.nodes.iter().filter(|_| self.has_several_nodes());
        nodes.flat_map(|node| {
            let url = &node.url;
            let is_unhealthy = node.condition() == Condition::Unhealthy;
            let unhealthy = is_unhealthy.then(|| format!("{}: the node {url} is unhealthy", self.name));
            let has_trouble = node.connector.has_lookup_trouble();
            let nameless =
                has_trouble.then(|| format!("{}: the name of the node {url} cannot be looked up", self.name));
            unhealthy.into_iter().chain(nameless)
        })
    }

    /// Requests that have a slot now.
    pub(crate) fn requests_in_flight(&self) -> usize {
        self.in_flight.taken()
    }

    /// Connections to it, those included that are being made.
    pub(crate) fn connections_open(&self) -> usize {
        self.connections.taken()
    }

    /// Whether there is anything to choose.
    pub(crate) fn has_several_nodes(&self) -> bool {
        self.nodes.len() > 1
    }

    /// No connection for a request could be made. A name that cannot be looked up says nothing of the node.
    fn connect_failed(&self, node: &Node, error: &ConnectError) {
        node.count_connect_failed();
        if error.step != Step::Resolve {
            self.judge(node, Condition::Unhealthy, &chain(error));
        }
    }

    /// A request that was sent to a node got no reply.
    fn unanswered(&self, node: &Node, error: &dyn std::fmt::Display) {
        if node.count_unanswered() {
            let error = format!("several requests in a row got no reply, the latest since: {error}");
            self.judge(node, Condition::Unhealthy, &error);
        }
    }

    /// A node gave a request a reply.
    fn answered(&self, node: &Node) {
        if node.end_unanswered() {
            self.judge(node, Condition::Healthy, "");
        }
    }

    /// A node passed its check. One that fails requests all the same is not well before it gives one a reply.
    fn check_passed(&self, node: &Node) {
        node.set_trial(true);
        if !node.is_failing() {
            self.judge(node, Condition::Healthy, "");
        }
    }

    fn check_failed(&self, node: &Node, error: &str) {
        node.set_trial(false);
        self.judge(node, Condition::Unhealthy, error);
    }

    /// Says what is known of a node from now on, and logs it when that is something else than before.
    fn judge(&self, node: &Node, condition: Condition, error: &str) {
        let before = node.set_condition(condition);
        if before == condition || (before, condition) == (Condition::Unchecked, Condition::Healthy) {
            return;
        }
        let Some(left_out) = node.changes.admit() else { return };
        let (upstream, authority) = (self.name.name(), node.url.authority.as_str());
        match condition {
            Condition::Unhealthy => {
                tracing::warn!(
                    upstream,
                    authority,
                    error,
                    left_out,
                    "a node of the upstream is unhealthy: others go first"
                );
            }
            _ => tracing::info!(upstream, authority, left_out, "a node of the upstream is healthy again"),
        }
    }

    /// Counts a failure and logs it, unless there were many lately.
    fn report(
        &self,
        node: &Node,
        address: Option<&Address>,
        step: Step,
        request_id: &str,
        error: &dyn std::fmt::Display,
    ) {
        let Some(left_out) = self.outages.count(step) else { return };
        let upstream = self.name.name();
        let authority = node.url.authority.as_str();
        let address = address.map(tracing::field::display);
        tracing::warn!(upstream, authority, address, %step, request_id, %error, left_out, "the upstream failed");
    }

    /// What becomes of the `Authorization` field.
    pub(crate) fn credential(&self) -> Credential {
        match self.config.credential {
            CredentialMode::Forward => Credential::Forward,
            CredentialMode::Strip => Credential::Strip,
            CredentialMode::Replace { .. } => {
                let current = self.service_credential.read();
                // It was read before anything is forwarded.
                current.clone().map_or(Credential::Strip, Credential::Replace)
            }
        }
    }
}

/// Reads a file that holds a service token and nothing else.
///
/// # Errors
/// [`CredentialFileError`] names the file, and never shows what is in it.
pub(crate) fn read_credential(file: &Path) -> Result<RawToken, CredentialFileError> {
    let bytes = reading::read(file).map(Zeroizing::new);
    let bytes = bytes.map_err(|source| CredentialFileError::Read(file.to_owned(), source))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| CredentialFileError::NotText(file.to_owned()))?;
    text.trim().parse().map_err(|source| CredentialFileError::Token(file.to_owned(), source))
}

#[cfg(test)]
mod tests;
