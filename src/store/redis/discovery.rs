//! Which server is in charge: the one that the URL names, the one that Sentinels name, or the one that has the
//! namespace's slot of a cluster.
//!
//! Nothing is remembered but where to ask: after every failure the answer is sought anew. Sentinels and nodes are asked
//! one after the other, the next one early if an answer is slow, and what they say is only a candidate until the server
//! itself says that it is a primary.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Value, cmd};
use tokio::task::JoinSet;

use super::dial::{Dialer, Peer};
use super::fault::Fault;
use super::slot::Slot;
use crate::store::url::{Server, Topology};

/// Longest wait for the answer of one Sentinel or node before the next one is asked too.
const PATIENCE: Duration = Duration::from_millis(250);

/// Longest wait for its answer at all.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Nodes of a cluster that are remembered, beyond those in the URL.
const MOST_NODES: usize = 64;

/// Finds the server in charge.
pub(super) struct Discovery {
    dialer: Arc<Dialer>,
    /// The namespace's.
    slot: Slot,
    /// Where a node said that the slot has gone. Used once: the next failure asks again.
    moved: Mutex<Option<Server>>,
    /// Nodes that others named, so that a cluster is found after all those in the URL have gone.
    nodes: Arc<Mutex<Vec<Server>>>,
    /// The replicas of the server in charge that were named.
    replicas: Arc<Mutex<Vec<Server>>>,
}

impl Discovery {
    pub(super) fn new(dialer: Arc<Dialer>, slot: Slot) -> Self {
        Self { dialer, slot, moved: Mutex::default(), nodes: Arc::default(), replicas: Arc::default() }
    }

    /// Takes note of a `MOVED` answer: `SLOT HOST:PORT`.
    pub(super) fn moved(&self, detail: &str) {
        let server = detail.split_ascii_whitespace().nth(1).and_then(parse_endpoint);
        *lock(&self.moved) = server;
    }

    /// How many replicas of the server in charge were named by whoever was asked last.
    pub(super) fn named_replicas(&self) -> usize {
        lock(&self.replicas).len()
    }

    /// The replicas of the server in charge, by whoever is asked now.
    pub(super) async fn replicas(&self) -> Result<Vec<Server>, Fault> {
        let mut candidates = self.candidates();
        let mut failure = Fault::NotPrimary;
        while let Some(named) = candidates.next().await {
            match named {
                Ok(_) => return Ok(lock(&self.replicas).clone()),
                Err(fault) => failure = fault,
            }
        }
        Err(failure)
    }

    /// These servers, as if they had been found.
    pub(super) fn only(&self, servers: Vec<Server>) -> Candidates {
        let mut candidates = self.candidates();
        (candidates.known, candidates.to_ask) = (servers.into(), VecDeque::new());
        candidates
    }

    /// Servers that may be in charge, the likeliest first, until one is found to be.
    pub(super) fn candidates(&self) -> Candidates {
        let mut candidates = Candidates {
            dialer: Arc::clone(&self.dialer),
            known: VecDeque::new(),
            to_ask: VecDeque::new(),
            asking: JoinSet::new(),
            given: Vec::new(),
            slot: self.slot,
            nodes: Arc::clone(&self.nodes),
            replicas: Arc::clone(&self.replicas),
        };
        match &self.dialer.url().topology {
            Topology::Single(server) => candidates.known.push_back(server.clone()),
            Topology::Sentinel { sentinels, .. } => candidates.to_ask.extend(sentinels.iter().cloned()),
            Topology::Cluster(seeds) => {
                candidates.known.extend(lock(&self.moved).take());
                candidates.to_ask.extend(seeds.iter().cloned());
                let nodes = lock(&self.nodes);
                candidates.to_ask.extend(nodes.iter().filter(|node| !seeds.contains(node)).cloned());
            }
        }
        candidates
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Servers that may be in charge. Dropped, it asks no further.
pub(super) struct Candidates {
    dialer: Arc<Dialer>,
    known: VecDeque<Server>,
    to_ask: VecDeque<Server>,
    asking: JoinSet<Result<Server, Fault>>,
    given: Vec<Server>,
    slot: Slot,
    nodes: Arc<Mutex<Vec<Server>>>,
    replicas: Arc<Mutex<Vec<Server>>>,
}

impl Candidates {
    /// The next one, or why one who was asked named none; `None` when all were asked.
    pub(super) async fn next(&mut self) -> Option<Result<Server, Fault>> {
        loop {
            if let Some(server) = self.known.pop_front() {
                if self.given.contains(&server) {
                    continue;
                }
                self.given.push(server.clone());
                return Some(Ok(server));
            }
            if self.asking.is_empty() && !self.ask_next() {
                return None;
            }
            tokio::select! {
                Some(answer) = self.asking.join_next() => match answer {
                    Ok(Ok(server)) => self.known.push_back(server),
                    Ok(Err(fault)) => {
                        self.ask_next();
                        return Some(Err(fault));
                    }
                    Err(_) => {} // cut off: the runtime ends
                },
                () = tokio::time::sleep(PATIENCE), if !self.to_ask.is_empty() => {
                    self.ask_next();
                }
            }
        }
    }

    /// Whether there was another one to ask.
    fn ask_next(&mut self) -> bool {
        let Some(server) = self.to_ask.pop_front() else { return false };
        let (dialer, slot, nodes) = (Arc::clone(&self.dialer), self.slot, Arc::clone(&self.nodes));
        let replicas = Arc::clone(&self.replicas);
        self.asking.spawn(async move {
            match &dialer.url().topology {
                Topology::Sentinel { name, .. } => ask_sentinel(&dialer, &server, name, &replicas).await,
                Topology::Cluster(_) => {
                    let (owner, others) = ask_node(&dialer, &server, slot, &replicas).await?;
                    *lock(&nodes) = others;
                    Ok(owner)
                }
                Topology::Single(_) => Ok(server),
            }
        });
        true
    }
}

/// As for the server itself, with less patience.
fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(Some(ANSWER_TIMEOUT))
}

async fn query<T: redis::FromRedisValue>(
    connection: &mut MultiplexedConnection,
    command: &redis::Cmd,
) -> Result<T, Fault> {
    command.query_async(connection).await.map_err(|error| Fault::of_command(error, ANSWER_TIMEOUT))
}

/// The primary, as this Sentinel sees it, and how many replicas it could promote.
async fn ask_sentinel(
    dialer: &Arc<Dialer>,
    sentinel: &Server,
    name: &str,
    replicas: &Mutex<Vec<Server>>,
) -> Result<Server, Fault> {
    let (mut connection, _carrier) = dialer.dial(sentinel, Peer::Sentinel, config()).await?;
    let primary = primary_of(&mut connection, sentinel, name).await?;
    // Whoever may not ask for them has those that the primary itself names.
    let question = cmd("SENTINEL").arg("REPLICAS").arg(name).take();
    if let Ok(named) = query::<Vec<HashMap<String, String>>>(&mut connection, &question).await {
        *lock(replicas) = named.iter().filter(|replica| is_promotable(replica)).filter_map(address).collect();
    }
    Ok(primary)
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
    let (host, port) = answer.ok_or_else(|| {
        Fault::Unusable(format!("names a primary `{name}` that the Sentinel at {sentinel} does not know"))
    })?;
    Ok(Server { host, port })
}

/// The slot's owner, as this node sees it, and all nodes that it knows.
async fn ask_node(
    dialer: &Arc<Dialer>,
    node: &Server,
    slot: Slot,
    replicas: &Mutex<Vec<Server>>,
) -> Result<(Server, Vec<Server>), Fault> {
    // A replica knows as well as any other.
    let (mut connection, _carrier) = dialer.dial(node, Peer::Any, config()).await?;
    let ranges: Vec<Vec<Value>> = query(&mut connection, cmd("CLUSTER").arg("SLOTS")).await?;
    let (mut owner, mut nodes) = (None, Vec::new());
    for range in &ranges {
        let [Value::Int(first), Value::Int(last), servers @ ..] = range.as_slice() else { continue };
        let servers: Vec<_> = servers.iter().filter_map(|server| endpoint(server, node)).collect();
        if (*first..=*last).contains(&i64::from(slot.0)) {
            owner = servers.first().cloned();
            *lock(replicas) = servers.iter().skip(1).cloned().collect();
        }
        nodes.extend(servers);
    }
    nodes.sort_by(|a, b| (&a.host, a.port).cmp(&(&b.host, b.port)));
    nodes.dedup();
    nodes.truncate(MOST_NODES);
    let unassigned = || Fault::Refused("CLUSTERDOWN".to_owned(), format!("{node} knows no node with slot {slot}"));
    Ok((owner.ok_or_else(unassigned)?, nodes))
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
