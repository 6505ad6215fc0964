//! Which server is the primary: the one that the URL names, the one that Sentinels name, or the one that has the
//! namespace's slot of a cluster.
//!
//! Nothing is remembered but where to ask: after every failure the answer is sought anew. Sentinels and nodes are asked
//! one after the other, and what they say is only a candidate until the server itself says that it is a primary.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Value, cmd};
use tokio::task::JoinSet;

use super::dial::{Dialer, Peer, config};
use super::fault::Fault;
use super::hash_slot::HashSlot;
use super::stagger;
use super::unusable::Unusable;
use crate::lock::Mutex;
use crate::store::url::{Server, Topology};

/// Longest wait for the answer of a Sentinel or node.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Nodes of a cluster that are remembered, beyond those in the URL.
const MOST_NODES: usize = 64;

/// Finds the primary.
pub(super) struct Discovery {
    dialer: Arc<Dialer>,
    /// The namespace's.
    slot: HashSlot,
    /// Where a node said that the slot has gone. Used once: the next failure asks again.
    moved: Mutex<Option<Server>>,
    /// Nodes that others named, so that a cluster is found after all those in the URL have gone.
    nodes: Mutex<Vec<Server>>,
    /// The replicas of the primary that were named.
    replicas: Mutex<Vec<Server>>,
}

impl Discovery {
    pub(super) fn new(dialer: Arc<Dialer>, slot: HashSlot) -> Arc<Self> {
        Arc::new(Self { dialer, slot, moved: Mutex::default(), nodes: Mutex::default(), replicas: Mutex::default() })
    }

    /// Takes note of a `MOVED` answer: `SLOT HOST:PORT`.
    pub(super) fn moved(&self, detail: &str) {
        *self.moved.lock() = detail.split_ascii_whitespace().nth(1).and_then(parse_endpoint);
    }

    /// How many replicas of the primary were named by whoever was asked last.
    pub(super) fn named_replicas(&self) -> usize {
        self.replicas.lock().len()
    }

    /// The replicas of the primary, by whoever is asked now.
    pub(super) async fn replicas(self: &Arc<Self>) -> Result<Vec<Server>, Fault> {
        let mut candidates = self.candidates();
        let mut failure = Fault::NotPrimary;
        while let Some(named) = candidates.next().await {
            match named {
                Ok(_) => return Ok(self.replicas.lock().clone()),
                Err(fault) => failure = fault,
            }
        }
        Err(failure)
    }

    /// These servers, as if they had been found.
    pub(super) fn only(self: &Arc<Self>, servers: Vec<Server>) -> Candidates {
        self.search(servers, Vec::new())
    }

    /// Servers that may be the primary, the likeliest first, until one is found to be.
    pub(super) fn candidates(self: &Arc<Self>) -> Candidates {
        match &self.dialer.url.topology {
            Topology::Single(server) => self.only(vec![server.clone()]),
            Topology::Sentinel { sentinels, .. } => self.search(Vec::new(), sentinels.clone()),
            Topology::Cluster(seeds) => {
                let mut to_ask = seeds.clone();
                to_ask.extend(self.nodes.lock().iter().filter(|node| !seeds.contains(node)).cloned());
                self.search(self.moved.lock().take().into_iter().collect(), to_ask)
            }
        }
    }

    fn search(self: &Arc<Self>, known: Vec<Server>, to_ask: Vec<Server>) -> Candidates {
        let (known, to_ask, asking) = (known.into_iter(), to_ask.into_iter(), JoinSet::new());
        Candidates { discovery: Arc::clone(self), known, to_ask, asking, given: Vec::new() }
    }

    /// The primary, as this Sentinel or node sees it.
    async fn ask(self: Arc<Self>, server: Server) -> Result<Server, Fault> {
        match &self.dialer.url.topology {
            Topology::Sentinel { name, .. } => self.ask_sentinel(&server, name).await,
            Topology::Cluster(_) => self.ask_node(&server).await,
            Topology::Single(_) => Ok(server),
        }
    }

    /// The primary, as this Sentinel sees it, and the replicas that it could promote.
    async fn ask_sentinel(&self, sentinel: &Server, name: &str) -> Result<Server, Fault> {
        let (mut connection, _carrier) =
            self.dialer.dial(sentinel, Peer::Sentinel, config(Some(ANSWER_TIMEOUT))).await?;
        let primary = primary_of(&mut connection, sentinel, name).await?;
        // Whoever may not ask for them has those that the primary itself names.
        let question = cmd("SENTINEL").arg("REPLICAS").arg(name).take();
        if let Ok(named) = query::<Vec<HashMap<String, String>>>(&mut connection, &question).await {
            *self.replicas.lock() = named.iter().filter(|replica| is_promotable(replica)).filter_map(address).collect();
        }
        Ok(primary)
    }

    /// The slot's owner, as this node sees it; its replicas, and all nodes, are taken note of.
    async fn ask_node(&self, node: &Server) -> Result<Server, Fault> {
        // A replica knows as well as any other.
        let (mut connection, _carrier) = self.dialer.dial(node, Peer::Any, config(Some(ANSWER_TIMEOUT))).await?;
        let ranges: Vec<Vec<Value>> = query(&mut connection, cmd("CLUSTER").arg("SLOTS")).await?;
        let (mut owner, mut nodes) = (None, Vec::new());
        for range in &ranges {
            let [Value::Int(first), Value::Int(last), servers @ ..] = range.as_slice() else { continue };
            let servers: Vec<_> = servers.iter().filter_map(|server| endpoint(server, node)).collect();
            if (*first..=*last).contains(&i64::from(self.slot.0)) {
                owner = servers.first().cloned();
                *self.replicas.lock() = servers.iter().skip(1).cloned().collect();
            }
            nodes.extend(servers);
        }
        nodes.sort_by(|a, b| (&a.host, a.port).cmp(&(&b.host, b.port)));
        nodes.dedup();
        nodes.truncate(MOST_NODES);
        let unassigned =
            || Fault::Refused("CLUSTERDOWN".to_owned(), format!("{node} knows no node with slot {}", self.slot));
        let owner = owner.ok_or_else(unassigned)?;
        *self.nodes.lock() = nodes;
        Ok(owner)
    }
}

/// Servers that may be the primary. Dropped, it asks no further.
pub(super) struct Candidates {
    discovery: Arc<Discovery>,
    known: std::vec::IntoIter<Server>,
    to_ask: std::vec::IntoIter<Server>,
    asking: JoinSet<Result<Server, Fault>>,
    given: Vec<Server>,
}

impl Candidates {
    /// The next one, or why one who was asked named none; `None` when all were asked.
    pub(super) async fn next(&mut self) -> Option<Result<Server, Fault>> {
        loop {
            let found = match self.known.next() {
                Some(server) => Ok(server),
                None => {
                    let discovery = &self.discovery;
                    let mut waiting = self.to_ask.by_ref().map(|server| Arc::clone(discovery).ask(server));
                    stagger::next(&mut self.asking, &mut waiting).await?
                }
            };
            match found {
                Ok(server) if self.given.contains(&server) => {}
                Ok(server) => {
                    self.given.push(server.clone());
                    return Some(Ok(server));
                }
                Err(fault) => return Some(Err(fault)),
            }
        }
    }
}

async fn query<T: redis::FromRedisValue>(
    connection: &mut MultiplexedConnection,
    command: &redis::Cmd,
) -> Result<T, Fault> {
    command.query_async(connection).await.map_err(|error| Fault::of_command(error, ANSWER_TIMEOUT))
}

/// Whether a Sentinel that says this of a replica could promote it.
fn is_promotable(replica: &HashMap<String, String>) -> bool {
    let is_down = |flag: &str| matches!(flag, "s_down" | "o_down" | "disconnected");
    !replica.get("flags").is_some_and(|flags| flags.split(',').any(is_down))
}

/// Where a Sentinel says that a replica is.
fn address(replica: &HashMap<String, String>) -> Option<Server> {
    Some(Server { host: replica.get("ip")?.clone(), port: replica.get("port")?.parse().ok()? })
}

/// The primary, as the Sentinel at the other end sees it.
pub(super) async fn primary_of(
    connection: &mut MultiplexedConnection,
    sentinel: &Server,
    name: &str,
) -> Result<Server, Fault> {
    let question = cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name).take();
    let answer: Option<(String, u16)> = query(connection, &question).await?;
    let unknown = || Unusable::UnknownPrimary { name: name.to_owned(), sentinel: sentinel.clone() };
    let (host, port) = answer.ok_or_else(unknown)?;
    Ok(Server { host, port })
}

/// A server in the answer of `CLUSTER SLOTS`: host, port, and more. Without a host it is the one that was asked.
fn endpoint(value: &Value, asked: &Server) -> Option<Server> {
    let Value::Array(parts) = value else { return None };
    let [host, Value::Int(port), ..] = parts.as_slice() else { return None };
    let host = match host {
        Value::BulkString(host) if !host.is_empty() => String::from_utf8(host.clone()).ok()?,
        _ => asked.host.clone(),
    };
    // A node that has no name of its own although it should is not reachable by one.
    (host != "?").then_some(Server { host, port: u16::try_from(*port).ok()? })
}

/// `HOST:PORT`, where an IPv6 address has no brackets.
pub(super) fn parse_endpoint(text: &str) -> Option<Server> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || host == "?" {
        return None;
    }
    Some(Server { host: host.to_owned(), port: port.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moved_names_a_server() {
        let server = |host: &str, port| Some(Server { host: host.to_owned(), port });
        assert_eq!(parse_endpoint("127.0.0.1:6381"), server("127.0.0.1", 6381));
        assert_eq!(parse_endpoint("fd00::1:6381"), server("fd00::1", 6381));
        assert_eq!(parse_endpoint("node-1.example:7000"), server("node-1.example", 7000));
        for text in ["", ":6381", "?:6381", "h", "h:x"] {
            assert_eq!(parse_endpoint(text), None, "{text}");
        }
    }
}
