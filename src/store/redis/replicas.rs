//! Which replicas could be promoted, and whether they have what was committed here.
//!
//! A commit waits for as many of them as the quorum wants, and no longer: none that hangs holds up the next commit. Whether
//! the others have it too is asked once at the end of a command, about its last commit, as replicas take commits in order.

use std::time::Duration;

use redis::{Pipeline, Value, cmd, from_redis_value};

use super::fault::Fault;
use super::layout::Key;
use super::link::Use;
use super::{Access, script};
use crate::chain::chain;
use crate::store::url::Server;
use crate::store::{CommitId, LogEntry, Replicas, Revision, Unconfirmed};

/// A write that Redis takes although its memory is full.
const MARK: &str = "#!lua flags=allow-oom\nredis.call('SET', KEYS[1], ARGV[1])";

/// How long to wait for those that have not confirmed yet.
const PATIENCE: Duration = Duration::from_secs(3);

/// What was known of replicas when a commit was answered.
#[derive(Debug)]
pub(super) struct Confirmation {
    /// How many had it.
    pub(super) confirmed: u64,
    /// How many could be promoted.
    pub(super) promotable: usize,
}

/// A commit that replicas which could be promoted had not confirmed when it was answered.
#[derive(Debug)]
pub(super) struct Pending {
    id: CommitId,
    revision: Revision,
    confirmation: Confirmation,
}

/// The log entries of a revision.
type Entries = Vec<(String, Vec<Vec<u8>>)>;

impl Access {
    /// How many replicas could be promoted, by what the primary says of itself.
    pub(super) fn promotable(&self, role: &[Value]) -> usize {
        following(role).len().max(self.link.discovery.named_replicas())
    }

    /// Writes something after a commit that is asked about: replicas confirm what this connection wrote.
    pub(super) fn mark(&self, commands: &mut Pipeline, id: CommitId) {
        commands.add_command(script("EVAL", MARK, &[self.layout.key(Key::Probe)])).arg(id.to_string()).ignore();
    }

    /// Takes note of a commit that was answered. One that all have vouches for those before it; without a quorum, which
    /// replicas there are is asked later.
    pub(super) fn answered(&self, entry: &LogEntry, confirmation: Confirmation) {
        let is_behind = self.quorum == 0 || confirmation.confirmed < confirmation.promotable as u64;
        let pending = is_behind.then_some(Pending { id: entry.id, revision: entry.revision, confirmation });
        *self.pending.lock() = pending;
    }
}

/// The replicas, as they are now.
pub(super) async fn replicas(access: &Access) -> Result<Replicas, Fault> {
    let role: Vec<Value> = access.ask(&cmd("ROLE")).await?;
    let (connected, promotable) = (following(&role).len(), access.promotable(&role));
    Ok(Replicas { connected, promotable, quorum: access.quorum as usize })
}

/// Waits until all replicas that could be promoted have the last commit that was made here. If some have not: how many.
pub(super) async fn unconfirmed(access: &Access) -> Option<Unconfirmed> {
    let pending = access.pending.lock().take()?;
    let now = confirm(access, &pending).await.unwrap_or_else(|fault| {
        tracing::warn!(
            store = access.name,
            reason = chain(&fault),
            "cannot ask whether replicas have what was committed"
        );
        pending.confirmation
    });
    let confirmed = usize::try_from(now.confirmed).unwrap_or(usize::MAX);
    let unconfirmed = Unconfirmed { revision: pending.revision, confirmed, promotable: now.promotable };
    (confirmed < now.promotable).then_some(unconfirmed)
}

/// What replicas confirm counts for a server that has the commit: another one may be the primary by now.
async fn confirm(access: &Access, pending: &Pending) -> Result<Confirmation, Fault> {
    let promotable = match access.quorum {
        0 => replicas(access).await?.promotable,
        _ => pending.confirmation.promotable,
    };
    if promotable == 0 {
        return Ok(Confirmation { confirmed: 0, promotable });
    }
    let (log, revision, id) = (access.layout.key(Key::Log), pending.revision, pending.id.to_string());
    let mut commands = Pipeline::new();
    commands.cmd("XRANGE").arg(log).arg(revision.0).arg(revision.0);
    // `WAIT` is about what this connection has written last, which the commit may not be.
    access.mark(&mut commands, pending.id);
    commands.cmd("ROLE").cmd("WAIT").arg(promotable).arg(PATIENCE.as_millis());
    let (entries, role, confirmed): (Entries, Vec<Value>, u64) = access.link.send(Use::Confirming, &commands).await?;
    let is_there = entries.iter().any(|(_, fields)| fields.chunks(2).any(|pair| *pair == [b"i", id.as_bytes()]));
    Ok(Confirmation { confirmed: if is_there { confirmed } else { 0 }, promotable: access.promotable(&role) })
}

/// The replicas that follow a server, as `ROLE` has it.
pub(super) fn following(role: &[Value]) -> Vec<Server> {
    let [name, _, Value::Array(replicas)] = role else { return Vec::new() };
    let is_primary = from_redis_value::<String>(name.clone()).is_ok_and(|name| name == "master");
    let server = |replica: &Value| {
        let (host, port, _offset): (String, u16, Value) = from_redis_value(replica.clone()).ok()?;
        Some(Server { host, port })
    };
    replicas.iter().filter(|_| is_primary).filter_map(server).collect()
}
