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
use crate::store::{CommitId, Replicas, Revision, Unconfirmed};

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

impl Confirmation {
    /// Itself, if enough had it.
    pub(super) fn reaches(self, quorum: u32) -> Result<Self, Fault> {
        match self.confirmed < u64::from(quorum) {
            true => Err(Fault::Unconfirmed { confirmed: self.confirmed, wanted: quorum }),
            false => Ok(self),
        }
    }
}

/// What replicas are to confirm.
#[derive(Debug)]
pub(super) enum Written {
    /// A commit.
    Commit { id: CommitId, revision: Revision },
    /// That changes are refused for this reason, or taken again.
    Freeze(Option<String>),
}

impl Written {
    /// Whether it is what a server has: the entries of the log at its revision, or why it is frozen.
    fn is_in(&self, found: Value) -> bool {
        match self {
            Self::Commit { id, .. } => {
                let entries = from_redis_value::<Entries>(found).unwrap_or_default();
                let id = id.to_string();
                entries.iter().any(|(_, fields)| fields.chunks(2).any(|pair| *pair == [b"i", id.as_bytes()]))
            }
            Self::Freeze(reason) => {
                from_redis_value::<[Option<String>; 1]>(found).is_ok_and(|[frozen]| frozen == *reason)
            }
        }
    }
}

/// What replicas which could be promoted had not confirmed when it was answered.
#[derive(Debug)]
pub(super) struct Pending {
    written: Written,
    confirmation: Confirmation,
}

/// The log entries of a revision.
type Entries = Vec<(String, Vec<Vec<u8>>)>;

impl Access {
    /// How many replicas could be promoted, by what the primary says of itself.
    pub(super) fn promotable(&self, role: &[Value]) -> usize {
        following(role).len().max(self.link.discovery.named_replicas())
    }

    /// Writes something after what is asked about: replicas confirm what this connection wrote.
    fn mark(&self, commands: &mut Pipeline) {
        commands.add_command(script("EVAL", MARK, &[self.layout.key(Key::Probe)])).arg("1").ignore();
    }

    /// The same where a quorum is waited for, after what may have been done before, over another connection.
    pub(super) fn mark_for_quorum(&self, commands: &mut Pipeline) {
        if self.quorum > 0 {
            self.mark(commands);
        }
    }

    /// Takes note of what was answered. One that all have vouches for those before it; without a quorum, which
    /// replicas there are is asked later.
    pub(super) fn answered(&self, written: Written, confirmation: Confirmation) {
        let is_behind = self.quorum == 0 || confirmation.confirmed < confirmation.promotable as u64;
        let pending = is_behind.then_some(Pending { written, confirmation });
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
    let revision = match pending.written {
        Written::Commit { revision, .. } => Some(revision),
        Written::Freeze(_) => None,
    };
    let unconfirmed = Unconfirmed { revision, confirmed, promotable: now.promotable };
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
    let mut commands = Pipeline::new();
    match &pending.written {
        Written::Commit { revision, .. } => {
            commands.cmd("XRANGE").arg(access.layout.key(Key::Log)).arg(revision.0).arg(revision.0)
        }
        Written::Freeze(_) => commands.cmd("HMGET").arg(access.layout.key(Key::Meta)).arg("frozen"),
    };
    // `WAIT` is about what this connection has written last, which may be something else.
    access.mark(&mut commands);
    commands.cmd("ROLE").cmd("WAIT").arg(promotable).arg(PATIENCE.as_millis());
    let (found, role, confirmed): (Value, Vec<Value>, u64) = access.link.send(Use::Confirming, &commands).await?;
    let confirmed = if pending.written.is_in(found) { confirmed } else { 0 };
    Ok(Confirmation { confirmed, promotable: access.promotable(&role) })
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
