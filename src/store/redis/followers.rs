//! Reads of much from replicas, which spare the primary.
//!
//! A replica may be behind, have another past, or be gone. So nothing that it says counts for itself:
//!
//! ```text
//!   snapshot   the primary says where it is; the replica is used once it is there too, and each step of the
//!              scan shows that it still has the past of the step before
//!   log page   counts once the primary shows the head that it ends with
//! ```
//!
//! Where that fails or takes too long another replica is asked, and then the primary; which is read, too, where something has
//! to be asked for again.

use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use redis::Pipeline;
use tokio::time::{sleep, timeout};

use super::fault::Fault;
use super::layout::{self, Key, POSITION, PositionFields};
use super::link::{Connection, Use};
use super::read;
use super::{Access, script};
use crate::chain::chain;
use crate::lock::Mutex;
use crate::store::url::Server;
use crate::store::{Changes, Head, LogEntry, Position, Revision};

const HISTORY: &str = include_str!("history.lua");

/// How long a replica may take to come to where the primary is, and the pause between two looks.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// How long an answer of a replica is waited for. Nothing is probed meanwhile, and the primary has it too.
pub(super) const ANSWER: Duration = Duration::from_secs(2);

/// How many are tried for a snapshot, or for a page of the log.
pub(super) const TRIES: usize = 2;

/// How long none is asked after one was of no use.
const REST: Duration = Duration::from_secs(5);

/// Whoever asks for another snapshot so soon did not get a good one.
const AGAIN: Duration = Duration::from_secs(60);

/// Why a replica is not to be read from.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum ReplicaUnusable {
    #[error("there is no replica")]
    None,
    #[error("the replica {server} is {commits} commits behind the primary")]
    Behind { server: Server, commits: u64 },
    #[error("the replica {0} is no further than this sidecar")]
    NotFurther(Server),
    #[error("the replica {0} has another past than the primary")]
    OtherPast(Server),
}

/// When replicas may be asked again.
#[derive(Debug, Default)]
pub(super) struct Followers(Mutex<NotBefore>);

#[derive(Debug, Default)]
struct NotBefore {
    any: Option<Instant>,
    snapshot: Option<Instant>,
}

/// Has replicas rest when dropped, unless all went well: whatever is cancelled did not.
pub(super) struct Trial<'a> {
    followers: &'a Followers,
    is_good: bool,
}

impl Followers {
    fn not_before(&self) -> MutexGuard<'_, NotBefore> {
        self.0.lock()
    }

    fn rest(&self) {
        self.not_before().any = Some(Instant::now() + REST);
    }

    /// To be asked for something; `None` while none is to be.
    pub(super) fn try_one(&self) -> Option<Trial<'_>> {
        let may_be = self.not_before().any.is_none_or(|at| at <= Instant::now());
        may_be.then_some(Trial { followers: self, is_good: false })
    }

    /// Whether a snapshot that begins may be read from one.
    fn may_begin(&self) -> bool {
        let now = Instant::now();
        self.not_before().snapshot.replace(now + AGAIN).is_none_or(|at| at <= now)
    }
}

impl Trial<'_> {
    pub(super) fn succeed(mut self) {
        self.is_good = true;
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if !self.is_good {
            self.followers.rest();
        }
    }
}

/// What a server says of its past.
#[derive(Debug)]
pub(super) struct ServerHistory {
    pub(super) position: Position,
    /// The head that its log shows at the revision that was asked for.
    shown: Option<Head>,
}

/// What [`HISTORY`] answers.
pub(super) type ServerHistoryFields = (PositionFields, Vec<Vec<u8>>);

impl ServerHistory {
    /// Adds the question to others.
    pub(super) fn ask(access: &Access, commands: &mut Pipeline, at: Revision) {
        let keys = [Key::Meta, Key::Log].map(|key| access.layout.key(key));
        commands.add_command(script("EVAL_RO", HISTORY, &keys)).arg(at.0).arg(&POSITION);
    }

    pub(super) fn parse(access: &Access, at: Revision, (fields, shown): &ServerHistoryFields) -> Result<Self, Fault> {
        let position = access.layout.position(fields)?;
        let shown = match &shown[..] {
            [_, head] if !head.is_empty() => layout::parse_word(head),
            [checksum, ..] => layout::parse_hex(checksum).map(|checksum| Head::unchained(at, checksum)),
            [] => None,
        };
        Ok(Self { position, shown })
    }

    /// Whether this head is in its past; it was asked for that revision.
    fn has(&self, revision: Revision, head: Head) -> bool {
        match self.position.revision == revision {
            true => self.position.head == head,
            false => self.shown == Some(head),
        }
    }

    /// Whether this is what comes of a server that was there before.
    ///
    /// # Errors
    /// [`Fault::ReplicaUnusable`] if it is not.
    pub(super) fn continues(&self, before: &Position, connection: &Connection) -> Result<(), Fault> {
        match self.position.epoch == before.epoch && self.has(before.revision, before.head) {
            true => Ok(()),
            false => Err(ReplicaUnusable::OtherPast(connection.server().clone()).into()),
        }
    }
}

/// A replica that a snapshot is read from.
pub(super) struct Chosen<'a> {
    pub(super) connection: Connection,
    /// Where the primary was when the replica was there.
    pub(super) position: Position,
    trial: Trial<'a>,
}

impl Chosen<'_> {
    /// How the reading ended. One that came further is taken up again where it broke off.
    pub(super) fn end(self, is_complete: bool, came_further: bool) {
        if is_complete {
            self.trial.followers.may_begin();
        }
        if is_complete || came_further {
            self.trial.succeed();
        }
    }
}

/// A replica that has everything that the primary has; `None` where the latter is to be read. `goes_on` tells from
/// whom a snapshot comes that is taken up again, if it is: from a replica?
pub(super) async fn in_step(access: &Access, goes_on: Option<bool>) -> Option<Chosen<'_>> {
    let followers = access.followers.as_ref()?;
    if !goes_on.unwrap_or_else(|| followers.may_begin()) {
        return None;
    }
    let trial = followers.try_one()?;
    let mut reason = String::new();
    for _ in 0..TRIES {
        let attempt = async {
            // First: over the same connection it is asked for its replicas.
            let position = read::position(access).await?;
            arrive(access, access.link.connection(Use::Replica).await?, position).await
        };
        match timeout(ANSWER, attempt).await.unwrap_or(Err(Fault::TimedOut(ANSWER))) {
            Ok((connection, position)) => return Some(Chosen { connection, position, trial }),
            Err(fault) => reason = chain(&fault),
        }
        access.link.pass_over_replica(None);
    }
    tracing::warn!(store = access.name, reason, "no replica to read from: reading from the primary");
    None
}

/// Waits until a replica is there.
async fn arrive(access: &Access, mut replica: Connection, there: Position) -> Result<(Connection, Position), Fault> {
    let (began, mut question) = (Instant::now(), Pipeline::new());
    ServerHistory::ask(access, &mut question, there.revision);
    loop {
        let (fields,) = replica.query(&question).await?;
        let history = ServerHistory::parse(access, there.revision, &fields)?;
        if history.position.epoch != there.epoch || history.position.revision >= there.revision {
            history.continues(&there, &replica)?;
            return Ok((replica, there));
        }
        if began.elapsed() >= PATIENCE {
            let (server, commits) = (replica.server().clone(), there.revision.0 - history.position.revision.0);
            return Err(ReplicaUnusable::Behind { server, commits }.into());
        }
        sleep(PAUSE).await;
    }
}

/// What a replica's log has, if the primary has it too.
pub(super) async fn confirmed_by_primary(access: &Access, entries: Vec<LogEntry>) -> Result<Option<Changes>, Fault> {
    let Some(LogEntry { revision, head, .. }) = entries.last() else { return Ok(None) };
    let (revision, mut question) = (*revision, Pipeline::new());
    ServerHistory::ask(access, &mut question, revision);
    let (fields,) = access.link.read(Use::Main, &question).await?;
    let history = ServerHistory::parse(access, revision, &fields)?;
    Ok(match history.has(revision, *head) {
        true if history.position.revision == revision => Some(Changes::Entries(entries)),
        true => Some(Changes::Page(entries)),
        false => None,
    })
}
