//! Commits: laid out here, done by one script, and never reported as done or failed by guess.
//!
//! ```text
//!   batch ─► plan ─► position ─► script, sent once ─┬─ answer ───────────────────► committed, or refused
//!                       ▲                           └─ none, or an error ─► in the log? ─┬─ yes ─► committed
//!                       └─── once more, over another connection ──────── cancelled ◄─ no ┘
//! ```
//!
//! Each attempt has an id of its own, which is the commit's if it succeeds, and which the script writes into the log. Looking
//! for the id and cancelling it are one step, so a commit that is still on its way, in a socket's buffer say, is refused when it arrives. An error is no
//! answer, unless it is one that a server gives before it begins: a script that breaks off leaves what it has written, and
//! `WAIT` may fail after a script that did all. The outcome is unknown when the server cannot be asked for
//! [`RESOLVE_TIMEOUT`], and when its log no longer goes back to where the commit would be.

mod plan;

use std::time::{Duration, Instant};

use redis::{FromRedisValue, Pipeline};

pub(super) use self::plan::Entries;
use self::plan::Plan;
use super::earlier::{self, EARLIER};
use super::fault::Fault;
use super::layout::{self, Key};
use super::link::Use;
use super::replicas::{Confirmation, Written};
use super::{Access, script};
use crate::store::{Batch, CommitError, CommitId, Epoch, LogEntry, Position, Retention, Revision};

const RESOLVE: &str = include_str!("resolve.lua");

/// How long to ask what became of a commit that was not answered.
pub(super) const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause before asking again.
pub(super) const RESOLVE_PAUSE: Duration = Duration::from_millis(100);

/// How long to wait for replicas to confirm a commit. Below what the answer may take.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3);

/// Why nothing was committed, or why that is not known.
#[derive(Debug)]
pub(super) enum CommitFailure {
    /// The batch does not fit what the store holds.
    Refused(CommitError),
    /// The store is of the schema before.
    Earlier,
    /// The store failed, and nothing happened.
    Failed(Fault),
    /// The store failed, and something may have happened, or may not last.
    Unknown(Fault),
}

impl From<Fault> for CommitFailure {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

impl From<CommitError> for CommitFailure {
    fn from(refusal: CommitError) -> Self {
        Self::Refused(refusal)
    }
}

/// What a script answers: a word, and what belongs to it.
type Answer = Vec<Vec<u8>>;

/// Commits the batch, or changes nothing.
pub(super) async fn commit(
    access: &Access,
    batch: &Batch,
    retention: &Retention,
) -> Result<(Epoch, LogEntry), CommitFailure> {
    let plan = Plan::of(batch)?;
    let mut is_first = true;
    // An attempt was sent, and later found not to have happened. A server that failed since may have executed it all the
    // same, notified the sidecars, and lost it.
    let mut was_sent = false;
    loop {
        let outcome = match super::read::position(access).await {
            Ok(before) => attempt(access, &plan, retention, before).await,
            Err(fault) => Err(fault.into()),
        };
        match outcome {
            // The connection had gone stale, or another server is the primary by now and has lost what this one did.
            Err(CommitFailure::Failed(fault)) if is_first && (fault.ends_connection() || fault.was_executed()) => {
                is_first = false;
                was_sent = fault.leaves_open();
            }
            Err(CommitFailure::Failed(fault)) if was_sent => return Err(CommitFailure::Unknown(fault)),
            Err(CommitFailure::Earlier) => earlier::migrate(access).await?,
            outcome => return outcome,
        }
    }
}

async fn attempt(
    access: &Access,
    plan: &Plan,
    retention: &Retention,
    before: Position,
) -> Result<(Epoch, LogEntry), CommitFailure> {
    let id = CommitId::random().map_err(Fault::Entropy)?;
    let fault = match send::<Answer>(access, plan.command(&access.layout, retention, id)).await {
        Ok((answer, confirmation)) => return conclude(access, plan, &answer, confirmation),
        Err(fault) if fault.leaves_open() => fault,
        Err(fault) => return Err(fault.into()),
    };
    tracing::warn!(store = access.name, reason = %fault, "a commit is in doubt: asking what became of it");
    match resolve(access, id, before).await {
        Ok((answer, confirmation)) if is(&answer, "committed") => conclude(access, plan, &answer, confirmation),
        Ok((answer, _)) if is(&answer, "cancelled") => Err(CommitFailure::Failed(fault)),
        Ok((answer, _)) if is(&answer, "broken") => Err(CommitFailure::Unknown(fault)),
        Ok(_) => Err(CommitFailure::Unknown(Fault::Forgotten(Box::new(fault)))),
        Err(_) => Err(CommitFailure::Unknown(fault)),
    }
}

/// Sends commands, the first of which is a script, and waits until enough replicas have what it wrote: how many do. Without
/// a quorum none is waited for, and none known to have it.
pub(super) async fn send<T: FromRedisValue>(
    access: &Access,
    mut commands: Pipeline,
) -> Result<(T, Confirmation), Fault> {
    if access.quorum == 0 {
        let (answer,) = access.link.send(Use::Main, &commands).await?;
        return Ok((answer, Confirmation { confirmed: 0, promotable: access.link.discovery.named_replicas() }));
    }
    commands.cmd("ROLE").cmd("WAIT").arg(access.quorum).arg(CONFIRM_TIMEOUT.as_millis());
    let (answer, role, confirmed): (_, Vec<redis::Value>, _) = access.link.send(Use::Confirming, &commands).await?;
    Ok((answer, Confirmation { confirmed, promotable: access.promotable(&role) }))
}

/// Asks what became of a commit, and cancels it if it has not happened.
async fn resolve(access: &Access, id: CommitId, before: Position) -> Result<(Answer, Confirmation), Fault> {
    let deadline = Instant::now() + RESOLVE_TIMEOUT;
    let keys = [Key::Meta, Key::Log, Key::Cancelled].map(|key| access.layout.key(key));
    let mut commands = Pipeline::new();
    commands
        .add_command(script("EVAL", RESOLVE, &keys))
        .arg(id.to_string())
        .arg(before.epoch.to_string())
        .arg(before.revision.0)
        .arg(before.head.to_string());
    access.mark_for_quorum(&mut commands);
    loop {
        match send(access, commands.clone()).await {
            Ok(outcome) => return Ok(outcome),
            Err(fault) if fault.is_unusable() || Instant::now() >= deadline => return Err(fault),
            Err(_) => tokio::time::sleep(RESOLVE_PAUSE).await,
        }
    }
}

fn conclude(
    access: &Access,
    plan: &Plan,
    answer: &[Vec<u8>],
    confirmation: Confirmation,
) -> Result<(Epoch, LogEntry), CommitFailure> {
    let outcome = understand(access, plan, answer)?;
    let confirmation = confirmation.reaches(access.quorum).map_err(CommitFailure::Unknown)?;
    access.answered(Written::Commit { id: outcome.1.id, revision: outcome.1.revision }, confirmation);
    Ok(outcome)
}

/// Turns the script's answer into what the commit became.
fn understand(access: &Access, plan: &Plan, answer: &[Vec<u8>]) -> Result<(Epoch, LogEntry), CommitFailure> {
    let text = |at: usize| answer.get(at).map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default();
    let digest = || answer.get(1).and_then(|bytes| layout::digest(bytes));
    match (text(0).as_str(), digest()) {
        ("committed", _) => committed(plan, answer).ok_or_else(|| CommitFailure::Unknown(unexpected(answer))),
        ("conflict", _) => Err(CommitError::Conflict.into()),
        ("taken", Some(digest)) => Err(CommitError::DigestTaken(digest).into()),
        ("retired", Some(digest)) => Err(CommitError::DigestRetired(digest).into()),
        ("name", _) => Err(CommitError::NameTaken(text(1)).into()),
        ("forbidden", _) => Err(Fault::NotPermitted(text(1)).into()),
        ("frozen", _) => Err(Fault::Frozen(text(1)).into()),
        ("absent", _) => Err(access.layout.absent().into()),
        ("schema", _) if text(1) == EARLIER.to_string() => Err(CommitFailure::Earlier),
        ("schema", _) => Err(layout::other_schema(text(1).as_bytes()).into()),
        ("type", _) => Err(layout::wrong_type(&text(1), &text(2)).into()),
        _ => Err(CommitFailure::Unknown(unexpected(answer))),
    }
}

fn committed(plan: &Plan, answer: &[Vec<u8>]) -> Option<(Epoch, LogEntry)> {
    let [_, id, revision, head, checksum, epoch] = answer else { return None };
    let entry = LogEntry {
        id: layout::parse_word(id)?,
        revision: Revision(layout::parse_decimal(revision)?),
        head: layout::parse_word(head)?,
        checksum: layout::parse_hex(checksum)?,
        changes: plan.changes.clone(),
    };
    Some((Epoch(layout::parse_hex(epoch)?), entry))
}

fn unexpected(answer: &[Vec<u8>]) -> Fault {
    Fault::UnexpectedAnswer(answer.iter().map(|part| String::from_utf8_lossy(part)).collect::<Vec<_>>().join(" "))
}

fn is(answer: &[Vec<u8>], word: &str) -> bool {
    answer.first().is_some_and(|first| first == word.as_bytes())
}
