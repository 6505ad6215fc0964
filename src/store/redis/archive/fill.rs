//! A namespace that becomes a registry: begun, filled piece by piece, read back, and finished.

use std::time::Instant;

use async_trait::async_trait;
use redis::{Pipeline, cmd};

use super::piece::Piece;
use super::read::Reader;
use super::verify::Derived;
use crate::store::archive::{CopyError, Item, Items, Unfinished, succeeding};
use crate::store::redis::fault::Fault;
use crate::store::redis::heard::Carried;
use crate::store::redis::layout::{Key, SCHEMA};
use crate::store::redis::link::Use;
use crate::store::redis::pace::Pace;
use crate::store::redis::replicas::{self, Confirmation, Written};
use crate::store::redis::unusable::Unusable;
use crate::store::redis::{Access, RedisStore, commit, replay, script};
use crate::store::{CommitId, NoRegistry, Position, Retention, Settings, StoreError, Unconfirmed};

const BEGIN: &str = include_str!("../begin.lua");
const FILL: &str = include_str!("../fill.lua");
const FINISH: &str = include_str!("../finish.lua");

/// Items whose writes are worked out together.
const ITEMS: usize = 500;

/// A namespace that is being filled.
#[derive(Debug)]
pub(crate) struct RedisUnfinished {
    store: RedisStore,
    /// Ours: of who fills a namespace, the last one to begin.
    writer: String,
    pieces: u64,
    /// When that was, by the server's clock.
    began: u64,
    /// How much is sent at once, so that a thin line carries it long before an answer is given up.
    pace: Pace,
}

impl RedisUnfinished {
    /// Removes what another one has left unfinished.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] where there is a registry, or something else.
    pub(crate) async fn begin(settings: &Settings) -> Result<Self, StoreError> {
        let store = RedisStore::new(settings, Retention::default())?;
        let begun = Self::make(&store.access).await;
        let (writer, began) = store.map_fault("making the registry", begun).await?;
        Ok(Self { store, writer, pieces: 0, began, pace: Pace::new(4 * 1024, 16 * 1024, 1024 * 1024) })
    }

    async fn make(access: &Access) -> Result<(String, u64), Fault> {
        // Nothing is made where it would be lost.
        if let Some(problem) = replay::problem(access).await? {
            return Err(problem.into());
        }
        remove_usage(access).await?;
        let writer = CommitId::random().map_err(Fault::Entropy)?.to_string();
        let mut begin = script("EVAL", BEGIN, &keys(access));
        let answer: Vec<String> = access.ask(begin.arg(&writer)).await?;
        understand(access, &answer)?;
        let (seconds, _): (u64, u64) = access.ask(&cmd("TIME")).await?;
        Ok((writer, seconds))
    }

    async fn fill(&mut self, items: &[Item]) -> Result<(), Fault> {
        let Self { store, writer, pieces, began, pace } = self;
        let mut piece = Piece::of(&store.access, *began, items).await?;
        while pace.carry(|bytes| send(&store.access, writer, pieces, &mut piece, bytes)).await? {}
        Ok(())
    }

    /// Makes a registry of it. [`Unfinished::finish`] says what is open when that is not answered.
    async fn end(&self, after: Position) -> Result<(Position, Option<Unconfirmed>), Ending> {
        let (access, (id, position)) = (&self.store.access, succeeding(after).map_err(Fault::Entropy)?);
        let mut finish = script("EVAL", FINISH, &keys(access));
        finish.arg(&self.writer).arg(self.pieces).arg(SCHEMA).arg(position.epoch.to_string());
        finish.arg(position.revision.0).arg(position.head.to_string()).arg(format!("{:016x}", position.checksum));
        finish.arg(id.to_string());
        let mut commands = Pipeline::new();
        commands.add_command(finish);
        // What was done before is confirmed too.
        access.mark_for_quorum(&mut commands);
        let deadline = Instant::now() + commit::RESOLVE_TIMEOUT;
        let mut is_open = false;
        loop {
            // Done twice, it finds what it did the first time.
            match Self::attempt(access, &commands).await {
                Ok(confirmation) => {
                    let written = Written::Commit { id, revision: position.revision };
                    access.answered(written, confirmation);
                    return Ok((position, replicas::unconfirmed(access).await));
                }
                Err(fault @ Fault::Unconfirmed { .. }) => return Err(Ending::Unknown(fault)),
                Err(fault) => {
                    is_open |= fault.leaves_open();
                    if !is_open {
                        return Err(fault.into());
                    }
                    if fault.is_final() || Instant::now() >= deadline {
                        return Err(Ending::Unknown(fault));
                    }
                    tracing::debug!(store = access.name, reason = %fault, "asking again whether it is complete");
                    tokio::time::sleep(commit::RESOLVE_PAUSE).await;
                }
            }
        }
    }

    async fn attempt(access: &Access, commands: &Pipeline) -> Result<Confirmation, Fault> {
        let (answer, confirmation) = commit::send::<Vec<String>>(access, commands.clone()).await?;
        understand(access, &answer)?;
        confirmation.reaches(access.quorum)
    }
}

/// Sends about so many bytes of a piece. Whether there were any left.
async fn send(
    access: &Access,
    writer: &str,
    pieces: &mut u64,
    piece: &mut Piece,
    bytes: usize,
) -> Result<(bool, Carried), Fault> {
    let writes = piece.take(bytes);
    if writes.is_empty() {
        return Ok((false, Carried::default()));
    }
    *pieces += 1;
    let mut fill = script("EVAL", FILL, &keys(access));
    fill.arg(writer).arg(*pieces);
    for (command, place, arguments) in &writes {
        fill.arg(*command).arg(place.key(&access.layout)).arg(arguments.len()).arg(arguments);
    }
    let mut commands = Pipeline::new();
    commands.add_command(fill);
    // Done twice, it finds that it was done.
    let ((answer,), exchange): ((Vec<String>,), _) = access.link.fetch_again(Use::Main, &commands).await?;
    understand(access, &answer)?;
    Ok((true, exchange.whole))
}

/// Why it was not made a registry, or why that is not known.
enum Ending {
    Failed(Fault),
    Unknown(Fault),
}

impl From<Fault> for Ending {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

#[async_trait]
impl Unfinished for RedisUnfinished {
    async fn write(&mut self, items: Vec<Item>) -> Result<(), StoreError> {
        let mut outcome = Ok(());
        for items in items.chunks(ITEMS) {
            outcome = outcome.and(self.fill(items).await);
            if outcome.is_err() {
                break;
            }
        }
        self.store.map_fault("filling the registry", outcome).await
    }

    async fn read(&mut self, items: Items) -> Result<(), StoreError> {
        let access = &self.store.access;
        let mut reader = Reader::new(access, &items, Some(Derived::new(access)));
        let read = async {
            reader.everything().await?;
            reader.audit().await
        };
        let read = read.await;
        self.store.map_fault("reading the new registry", read).await
    }

    async fn finish(self: Box<Self>, after: Position) -> Result<(Position, Option<Unconfirmed>), CopyError> {
        let operation = "finishing the registry";
        match self.end(after).await {
            Ok(made) => Ok(made),
            Err(Ending::Failed(fault)) => Ok(self.store.map_fault(operation, Err(fault)).await?),
            Err(Ending::Unknown(fault)) => Err(CopyError::Unknown(fault.during(operation, &self.store.access.name))),
        }
    }
}

/// There is no registry: perhaps one that is not finished.
pub(in super::super) async fn absent(access: &Access, found: NoRegistry) -> Fault {
    let key = access.layout.key(Key::Unfinished);
    match access.ask::<u64>(cmd("EXISTS").arg(key)).await {
        Ok(1) => Unusable::Unfinished(key.to_owned()).into(),
        _ => Fault::Absent(found),
    }
}

/// Removes the agents of tokens that another command has left unfinished: each token has keys of its own for them.
async fn remove_usage(access: &Access) -> Result<(), Fault> {
    let (unfinished, usage) = (access.layout.key(Key::Unfinished), access.layout.key(Key::Usage));
    let mut commands = Pipeline::new();
    commands.cmd("EXISTS").arg(unfinished).cmd("EXISTS").arg(access.layout.key(Key::Meta));
    if access.link.read::<(u64, u64)>(Use::Main, &commands).await? != (1, 0) {
        return Ok(());
    }
    loop {
        let found: Vec<String> = access.ask(cmd("ZRANGE").arg(usage).arg(0).arg(ITEMS - 1)).await?;
        if found.is_empty() {
            return Ok(());
        }
        let mut commands = Pipeline::new();
        for token in found.iter().filter_map(|token| token.parse().ok()) {
            let (seen, who) = access.layout.agents_of(token);
            commands.cmd("UNLINK").arg(seen).arg(who).ignore();
        }
        commands.cmd("ZREM").arg(usage).arg(&found).ignore();
        access.link.read::<()>(Use::Main, &commands).await?;
    }
}

/// What says who fills it, and then what a registry has, meta first.
fn keys(access: &Access) -> Vec<&str> {
    let of_commit = access.layout.of_commit().iter().map(String::as_str);
    let others = [Key::Recalled, Key::RecallLog, Key::Audit, Key::AuditWritten].map(|key| access.layout.key(key));
    [access.layout.key(Key::Unfinished)].into_iter().chain(of_commit).chain(others).collect()
}

fn understand(access: &Access, answer: &[String]) -> Result<(), Fault> {
    let layout = &access.layout;
    match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["done"] => Ok(()),
        ["registry"] => Err(Unusable::NotEmpty.into()),
        ["foreign", key] => {
            Err(Unusable::Leftover { key: key.to_owned(), meta: layout.key(Key::Meta).to_owned() }.into())
        }
        ["lost"] => Err(Fault::PieceLost),
        ["taken"] => Err(Unusable::Filled.into()),
        ["absent"] => Err(layout.absent()),
        ["forbidden", what] => Err(Fault::NotPermitted(what.to_owned())),
        _ => Err(Fault::UnexpectedAnswer(answer.join(" "))),
    }
}
