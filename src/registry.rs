//! The rules: who may do what to which user and token, and what follows from it.
//!
//! ```text
//!   actor, command ──► read records ──► decide (plain functions, no I/O) ──► Batch ──► store.commit
//!                          ▲                                                              │
//!                          └───────────────── conflict: read again, decide again ◄────────┘
//! ```
//!
//! Every decision rests on records that were read, and the batch says which ones. The store commits it only if they are
//! still the same, so of two commands that would break a rule together, the second is decided anew. Decisions that rest
//! on what does *not* exist (no user yet, no further token of this user) pin just that, see [`Pin`](crate::store::Pin):
//! what others commit meanwhile does not matter.
//!
//! The actor's own record is among those, and that of the token that they act by: somebody who is disabled or loses a role
//! while a command runs is judged by what they are when it is committed.
//!
//! A command is one batch as long as it edits no more than `steps::CHUNK` tokens; what more of them need is in `bulk`,
//! [`import`], `purge` and `steps`.

mod actor;
pub(crate) mod audit;
mod bulk;
mod catalogue;
mod draft;
mod ensured;
mod error;
pub mod export;
mod find;
pub mod import;
mod late;
mod mark;
mod purge;
mod query;
mod recalls;
pub(crate) mod receipt;
mod rotate;
mod schema;
mod seen;
pub(crate) mod status;
mod steps;
mod taking;
mod tokens;
mod usage;
mod users;
pub(crate) mod view;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::audit::Origin;
use crate::backoff::Backoff;
use crate::lock::Mutex;
use crate::store::{Batch, CommitError, Committed, Edit, Position, Store, StoreError, Versioned};
use crate::token::{Reason, UserId, UserRecord};

pub use actor::{ActingToken, Actor, Right};
pub use audit::{AuditFilter, AuditView, Tended};
pub use bulk::BulkAction;
pub use catalogue::Listed;
pub use ensured::Ensured;
pub(crate) use error::holds_token;
pub use error::{ErrorKind, PartlyDone, RegistryError};
pub use export::{Export, ExportLine, ExportPage};
pub use import::{ImportError, ImportLine, ImportOptions, Imported, LineError, NewId, Past, RefusedLine};
pub use late::LateUse;
pub use mark::{Mark, Part, Sort, SortKey};
pub use purge::{PurgeFilter, Purged};
pub use query::{Fingerprint, InvalidFingerprint, ListState, TokenQuery};
pub(crate) use rotate::check_rotates;
pub use rotate::{Rotated, Rotation};
pub use seen::Seen;
pub use taking::Taking;
pub use tokens::{Created, NewToken, Requested, TokenDetails};
pub use usage::{Dependents, LastUse, TokenUses, Unused};
pub use users::{RoleChange, Transfer};

use actor::Authority;
use audit::Audit;
use catalogue::Shelf;

/// Records read from the store at once.
const PAGE: usize = 1000;

/// Whose some tokens are.
pub(crate) type Owners = HashMap<UserId, Versioned<UserRecord>>;

/// The rules above a store. Cheap to clone: clones share what they committed, and the audit trail's settings.
#[derive(Clone)]
pub struct Registry {
    store: Arc<dyn Store>,
    commits: Arc<Mutex<Commits>>,
    audit: Arc<Audit>,
    catalogue: Shelf,
    /// How long a new token may live.
    max_token_lifetime: Option<Duration>,
    origin: Origin,
    /// Why, for the histories of tokens.
    reason: Option<Reason>,
}

/// What was committed.
#[derive(Debug, Default)]
struct Commits {
    /// The store's position right after each commit; of commits that follow each other directly, after the last one only.
    positions: Vec<Position>,
    /// The last decision was nothing to commit: it rests on what others committed.
    idle: bool,
}

impl Commits {
    fn add(&mut self, Committed { id, position }: Committed) {
        self.idle = false;
        let follows = |last: &Position| {
            last.epoch == position.epoch
                && last.revision.next() == position.revision
                && last.head.then(id) == position.head
        };
        match self.positions.last_mut().filter(|last| follows(last)) {
            Some(last) => *last = position,
            None => self.positions.push(position),
        }
    }
}

impl Registry {
    /// The registry in this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            commits: Arc::default(),
            audit: Arc::default(),
            catalogue: Shelf::default(),
            max_token_lifetime: None,
            origin: Origin::default(),
            reason: None,
        }
    }

    /// No new token lives longer than this, nor one that is imported with a token. Those that exist do, and those that are
    /// imported at the store itself.
    #[must_use]
    pub fn with_max_token_lifetime(self, max_token_lifetime: Option<Duration>) -> Self {
        Self { max_token_lifetime, ..self }
    }

    /// What is done from here on is done for this reason: the histories of the tokens say so. The audit trail, which outlives
    /// them, does not.
    #[must_use]
    pub fn because_of(self, reason: Option<Reason>) -> Self {
        Self { reason, ..self }
    }

    /// Where its records live.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The store's positions after the commits of this registry and its clones, in their order, the last one by itself:
    /// whoever has applied that one has applied all, as long as all are in the store's history. (A store that loses writes
    /// in the midst of a command takes some out of it.) Where there was nothing to commit, the store's position now.
    ///
    /// # Errors
    /// When the store has to be asked, and does not answer.
    pub async fn committed(&self) -> Result<(Vec<Position>, Position), StoreError> {
        let (mut positions, idle) = {
            let commits = self.commits.lock();
            (commits.positions.clone(), commits.idle)
        };
        match positions.pop_if(|_| !idle) {
            Some(last) => Ok((positions, last)),
            None => Ok((positions, self.store.position().await?)),
        }
    }

    /// Reads who the actor is now.
    async fn authority(&self, actor: &Actor) -> Result<Authority, RegistryError> {
        match actor {
            Actor::Operator(name) => Ok(Authority::operator(name)),
            Actor::User(user) => Authority::of_user(&user.name, self.store.user(user.id).await?),
            Actor::Token(acting) => {
                let token = self.store.tokens_by_id(&[acting.id]).await?.pop().flatten();
                let owner = match &token {
                    Some(token) => self.store.user(token.record.owner).await?,
                    None => None,
                };
                Authority::of_token(acting, token, owner, now())
            }
        }
        .map(|authority| authority.coming_from(&self.origin).because_of(self.reason.as_ref()))
    }

    /// A user by name, if there is one and the actor may see it.
    async fn find_user(&self, authority: &Authority, name: &str) -> Result<Versioned<UserRecord>, RegistryError> {
        // What is no name is looked up nowhere: the store would take any text.
        let found = match users::is_name(name) {
            true => self.store.user_by_name(name).await?,
            false => None,
        };
        match found.filter(|user| authority.sees_user(user.record.id)) {
            Some(user) => Ok(user),
            None => Err(self.not_found(RegistryError::NoSuchUser(name.to_owned())).await),
        }
    }

    /// Why something was not found: in a registry without any user, because nothing was set up yet.
    async fn not_found(&self, error: RegistryError) -> RegistryError {
        match self.store.users(None, 1).await {
            Ok(users) if users.is_empty() => RegistryError::NotInitialised,
            Ok(_) => error,
            Err(failed) => failed.into(),
        }
    }

    /// Users by id, each read once; those that do not exist are left out. Whoever asks may see them.
    pub(crate) async fn users_by_id(&self, ids: impl Iterator<Item = UserId> + Send) -> Result<Owners, StoreError> {
        let mut seen: HashMap<UserId, Option<Versioned<UserRecord>>> = HashMap::new();
        for id in ids {
            if let Entry::Vacant(place) = seen.entry(id) {
                place.insert(self.store.user(id).await?);
            }
        }
        Ok(seen.into_iter().filter_map(|(id, user)| Some((id, user?))).collect())
    }

    /// Commits a decision. `false`: the records changed meanwhile, so decide again. A decision that changes nothing is
    /// not committed at all.
    async fn commit(&self, batch: Batch) -> Result<bool, RegistryError> {
        Ok(self.try_commit(batch).await? != Outcome::Conflict)
    }

    /// Commits a decision, and says what became of it.
    async fn try_commit(&self, batch: Batch) -> Result<Outcome, RegistryError> {
        if is_idle(&batch) {
            self.commits.lock().idle = true;
            return Ok(Outcome::Idle);
        }
        self.check_audit().await?;
        match self.store.commit(batch).await {
            Ok(committed) => {
                self.commits.lock().add(committed);
                Ok(Outcome::Committed(committed))
            }
            Err(CommitError::Conflict) => Ok(Outcome::Conflict),
            Err(CommitError::DigestTaken(digest)) => Err(RegistryError::DigestTaken(digest)),
            Err(CommitError::DigestRetired(digest)) => Err(RegistryError::DigestRetired(digest)),
            Err(CommitError::NameTaken(name)) => Err(RegistryError::NameTaken(name)),
            Err(CommitError::Failed(source)) => Err(RegistryError::NotCommitted(source)),
            Err(CommitError::Unknown(source)) => Err(RegistryError::OutcomeUnknown(source)),
        }
    }
}

/// What became of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It is in the store.
    Committed(Committed),
    /// It changes nothing, so it was not committed.
    Idle,
    /// The records that it rests on changed meanwhile.
    Conflict,
}

fn is_idle(batch: &Batch) -> bool {
    batch.users.iter().all(|edit| matches!(edit, Edit::Require(_)))
        && batch.tokens.iter().all(|edit| matches!(edit, Edit::Require(_)))
}

/// Now, in whole milliseconds, so that it comes back the same from every encoding.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

/// The attempts of one command.
#[derive(Default)]
struct Attempts(u32);

impl Attempts {
    /// Enough for a crowd of writers; each conflict means that somebody else's command went through.
    const LIMIT: u32 = 24;

    const BACKOFF: Backoff = Backoff { first: Duration::from_millis(1), last: Duration::from_millis(32) };

    /// Begins a try: the first at once, each later one after a random pause that grows, so that two writers do not keep
    /// meeting.
    async fn begin(&mut self) -> Result<(), RegistryError> {
        if self.0 == Self::LIMIT {
            return Err(RegistryError::Busy(self.0));
        }
        if self.0 > 0 {
            tokio::time::sleep(Self::BACKOFF.wait(self.0)).await;
        }
        self.0 += 1;
        Ok(())
    }
}
