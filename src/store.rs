//! The store's five contracts: [`Records`], committed in batches; the [`Feed`] of what each batch changed, which replicas
//! follow; the [`Reports`] of sidecars; the [`Usage`] of tokens; and the audit [`Trail`].
//!
//! A store knows no rules. It checks that the records a batch was computed from are still the ones it holds, applies
//! the batch whole or not at all, adds one to the [`Revision`], and appends to the change log what replicas must know,
//! in the same transaction. Who may change what is decided above, in [`crate::registry`].
//!
//! ```text
//!   registry ── commit(Batch) ──►  records, grants, owners, history, log, position   (one transaction)
//!   replica  ◄─ watch() ─────────  notices: fast, may be lost
//!            ◄─ probe() ─────────  the truth, asked for every probe_interval
//!            ◄─ changes(after) ──  the log, trimmed
//!            ◄─ snapshot() ──────  everything a replica holds
//!            ◄─ ancestor(), items()  after lost writes: from where on, and what, to read again
//!            ◄─ removed() ───────  of tokens that are gone: whether they were revoked or deleted
//!            ── recall() ──────►  revocations that the store has lost
//!   reporter ── report() ──────►  how a sidecar is; tollgate status and --wait read it
//!   flusher  ── record() ──────►  which tokens were used, and by whom; lists and questions before a revocation read it
//!   audit    ── link() ────────►  what commits left of it becomes lines of the trail
//! ```

pub mod archive;
pub(crate) mod batch;
pub(crate) mod change;
mod notify;
mod open;
pub(crate) mod position;
pub(crate) mod redis;
pub(crate) mod replicas;
pub(crate) mod report;
pub(crate) mod retention;
mod schema;
pub mod settings;
pub(crate) mod sqlite;
mod trail;
pub(crate) mod url;
pub(crate) mod usage;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::token::{Digest, Grant, HistoryEntry, Owner, TokenId, TokenRecord, UserId, UserRecord};

pub use archive::{Inventory, Items};
pub use batch::{Batch, Contradiction, Edit, Pin};
pub use change::{Change, LogEntry, Subject};
pub use open::{Absent, open};
pub use position::{CommitId, Committed, Epoch, Head, Position, Revision, Stamp};
pub use redis::RedisStore;
pub use replicas::{Replicas, Unconfirmed};
pub use report::{ConfigCacheReport, LateRequests, Report, Reported, SidecarId};
pub use retention::Retention;
pub use schema::SCHEMA;
pub use settings::Settings;
pub use sqlite::SqliteStore;
pub use trail::{AuditLine, Trail, TrailEnds, TrailStep};
pub use url::StoreUrl;
pub use usage::{Agent, AgentCount, AgentName, AgentUse, TokenUsage, Usage, Usages, Use, UseFilter};

/// A position, read so that it proves something: from a store that was still the primary when it answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Probe {
    /// The store's position.
    pub position: Position,
    /// How many digests were ever recalled in this store: another number says that there are others than before, which
    /// [`Feed::recalled`] reads.
    pub recalls: u64,
    /// How many there are now.
    pub recalled: u64,
}

impl From<Position> for Probe {
    /// With nothing recalled.
    fn from(position: Position) -> Self {
        Self { position, recalls: 0, recalled: 0 }
    }
}

/// Most digests that sidecars leave with a store; further ones wait until a command has settled some.
pub const RECALLS_LEFT: u64 = 250_000;

/// Most that sidecars take from it. Whoever finds more cannot know which tokens are refused, and is not fresh until a command
/// has settled them.
pub const RECALLS_TAKEN: u64 = 2 * RECALLS_LEFT;

/// Some of the digests that were recalled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecalledPage {
    /// How many there are in all.
    pub total: u64,
    /// What [`Probe::recalls`] was.
    pub recalls: u64,
    /// These are the first of all of them: where what came since a place cannot be told, too.
    pub begins: bool,
    /// These, in no order; perhaps some that other pages have too.
    pub digests: Vec<Digest>,
    /// With these, all were read that there were when the first of all was read. If that was before: all that the store knows to
    /// have come since. That these are all shows in how many different ones there were since the first of all: as many as
    /// there were then (`total`), and as `recalls` grew by since.
    pub is_last: bool,
    /// Where to go on, after the last page with what comes later; `None`: with the first one.
    pub next: Option<RecalledPlace>,
}

/// How far they were read. What it says is the affair of the store that it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecalledPlace(pub(crate) Vec<u8>);

/// A record with its version: the commit that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<R> {
    /// The record.
    pub record: R,
    /// The commit that wrote it.
    pub version: CommitId,
}

/// One thing in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotItem {
    /// It begins, with about so many grants: room can be made for them at once. What was handed over before does not count.
    /// First, and not where one goes on that broke off.
    Begin(usize),
    /// A user, and which commit made the user so.
    Owner(UserId, Owner, Stamp),
    /// An active token.
    Grant(Digest, Grant),
    /// An entry that could not be read. Whatever token it was about is not in the snapshot, so it is refused.
    Damaged {
        /// Where it is, in the store's terms.
        key: String,
    },
}

impl SnapshotItem {
    /// What it is about, if it can be read.
    #[must_use]
    pub fn subject(&self) -> Option<Subject> {
        match self {
            Self::Owner(id, ..) => Some(Subject::User(*id)),
            Self::Grant(digest, _) => Some(Subject::Token(*digest)),
            Self::Begin(_) | Self::Damaged { .. } => None,
        }
    }
}

/// How far a snapshot got. What it says is the affair of the store that it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bookmark {
    /// The position before the first item.
    pub position: Position,
    /// Whose places these are: they mean nothing to others.
    pub(crate) source: String,
    /// What is being read: the parts before are complete.
    pub(crate) part: usize,
    /// Where in it.
    pub(crate) place: u64,
}

/// What follows a revision in the change log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// Every entry after it, in order, without a gap; empty when it is the newest.
    Entries(Vec<LogEntry>),
    /// The first entries after it, in order, without a gap; more follow.
    Page(Vec<LogEntry>),
    /// The same, and the rest would cost who wants no more than the present more than a snapshot.
    Costly(Vec<LogEntry>),
    /// The log no longer goes back that far, or is damaged: only a snapshot helps.
    Truncated,
    /// The store has not reached that revision: it lost writes.
    Below,
}

/// Something a store says of itself without being asked. Notices may be lost, repeated or late: they make the replica
/// fast, never right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A batch was committed, and this is what it changed.
    Committed {
        /// In which life of the store.
        epoch: Epoch,
        /// The entry of the change log.
        entry: Arc<LogEntry>,
    },
    /// Batches were committed up to here; ask. What they changed is not announced: it takes nothing from anybody, or is too much.
    Advanced {
        /// In which life of the store.
        epoch: Epoch,
        /// The newest one.
        revision: Revision,
        /// Somebody can do less since: that is in a hurry.
        takes_away: bool,
    },
    /// Something was committed; ask.
    Moved,
    /// Notices may have been lost, for example by a reconnect; ask.
    Lost,
}

/// The notices of one watcher; a bounded queue, an overflow of which turns into [`Notice::Lost`].
#[async_trait]
pub trait Watch: Send {
    /// Waits for the next notice. Cancel-safe: none is lost. Ends never: a store that is away is
    /// waited for.
    async fn next(&mut self) -> Notice;
}

/// Which tokens a page shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenFilter {
    /// Only this user's.
    pub owner: Option<UserId>,
    /// Only those in this state.
    pub state: Option<StateFilter>,
    /// Only those that were not used.
    pub unused: Option<UseFilter>,
}

/// The states a list can be narrowed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateFilter {
    /// Neither revoked nor past its expiry at this second.
    Active {
        /// Seconds since 1970 that count as now.
        now: i64,
    },
    /// Revoked.
    Revoked,
    /// Not revoked, but past its expiry at this second.
    Expired {
        /// Seconds since 1970 that count as now.
        now: i64,
    },
}

/// Why a read failed, or a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It does not answer, or answers with an error. Trying again may help.
    #[error("{operation} at {store}")]
    Unavailable {
        /// What was tried, such as `reading the position`.
        operation: &'static str,
        /// The store, without secrets.
        store: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What is there is not a store of this version. Trying again does not help.
    #[error("{store} {problem}")]
    Unusable {
        /// The store, without secrets.
        store: String,
        /// What is wrong with it and what to do.
        problem: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no registry: none was ever made there, its making was broken off, or it is gone. That says nothing about
    /// any token.
    #[error("{store} {found}: run `tollgate init` to begin one, restore it if there was one, or name another place")]
    NoRegistry {
        /// The store, without secrets.
        store: String,
        /// What is there instead.
        found: NoRegistry,
    },
    /// It was frozen, see [`Records::freeze`].
    #[error("{store} is frozen ({reason}): `tollgate store unfreeze` lifts that")]
    Frozen {
        /// The store, without secrets.
        store: String,
        /// Why, in the words of who did it.
        reason: String,
    },
    /// A record cannot be read.
    #[error("{store} holds a damaged record at {key}: {problem}")]
    DamagedRecord {
        /// The store, without secrets.
        store: String,
        /// Where in it.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// What is there instead of a registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRegistry {
    /// No file.
    #[error("does not exist")]
    NoFile,
    /// A file without anything in it.
    #[error("is empty")]
    EmptyFile,
    /// A server without a key of this namespace.
    #[error("holds no registry in the namespace `{0}`")]
    EmptyNamespace(settings::Namespace),
    /// A store without a commit.
    #[error("is at revision 0, which is not a registry: nothing was ever committed to it, or all of it was lost")]
    NoCommit,
}

/// Why a batch was not committed. Nothing of it was.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A record is no longer the one the batch was computed from, or a record that should be new exists. Read again,
    /// decide again.
    #[error("the records changed meanwhile")]
    Conflict,
    /// Another token, active or revoked, has this digest.
    #[error("a token with digest {0} exists already")]
    DigestTaken(Digest),
    /// A token with this digest was deleted; digests are never used again.
    #[error("a token with digest {0} was deleted, and a deleted token cannot come back")]
    DigestRetired(Digest),
    /// Another user has this name.
    #[error("a user named `{0}` exists already")]
    NameTaken(String),
    /// The store failed; it holds what it held before.
    #[error("nothing was changed")]
    Failed(#[from] StoreError),
    /// The store failed in a way that leaves open whether the batch was committed, and could not be asked since; or it
    /// was committed, and too few replicas confirmed it, so that a failover may lose it.
    #[error("whether the change was made is not known")]
    Unknown(#[source] StoreError),
}

/// Where records live, and what commands ask of it.
///
/// As with [`Feed`] and [`Reports`], every future is cancel-safe; a commit then happened whole or not at all.
#[async_trait]
pub trait Records: Send + Sync + 'static {
    /// Applies the batch whole, or not at all, and says what became of it.
    ///
    /// In one transaction: the expected versions and the pins hold, no digest is used twice, no name is used twice; records, grants,
    /// owners, history and audit entries are written; checksum, head and revision move; [`Batch::changes`] goes to the log.
    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError>;

    /// The position now.
    async fn position(&self) -> Result<Position, StoreError>;

    /// The layout that it has: [`SCHEMA`], or the one before, until a commit makes it that.
    async fn schema(&self) -> Result<u32, StoreError>;

    /// One user.
    async fn user(&self, id: UserId) -> Result<Option<Versioned<UserRecord>>, StoreError>;

    /// One user, by the exact name.
    async fn user_by_name(&self, name: &str) -> Result<Option<Versioned<UserRecord>>, StoreError>;

    /// The commit through which a token came to this user last, by being made or reassigned: what [`Pin::TokensOf`]
    /// holds on to. `None`: none has.
    async fn token_set(&self, user: UserId) -> Result<Option<CommitId>, StoreError>;

    /// Users, newest first, those made before `before` (a cursor: the last id of the page before), at most `limit`.
    async fn users(&self, before: Option<UserId>, limit: usize) -> Result<Vec<Versioned<UserRecord>>, StoreError>;

    /// Tokens by id, in the order asked for; `None` where there is none.
    async fn tokens_by_id(&self, ids: &[TokenId]) -> Result<Vec<Option<Versioned<TokenRecord>>>, StoreError>;

    /// Tokens by digest, in the order asked for; `None` where there is none.
    async fn tokens_by_digest(&self, digests: &[Digest]) -> Result<Vec<Option<Versioned<TokenRecord>>>, StoreError>;

    /// Tokens, newest first, those made before `before` (a cursor: the last id of the page before), at most `limit`.
    async fn tokens(
        &self,
        filter: TokenFilter,
        before: Option<TokenId>,
        limit: usize,
    ) -> Result<Vec<Versioned<TokenRecord>>, StoreError>;

    /// How many tokens a list with this filter would show.
    async fn count_tokens(&self, filter: TokenFilter) -> Result<u64, StoreError>;

    /// What happened to a token, oldest first; empty for one that does not exist.
    async fn history(&self, id: TokenId) -> Result<Vec<HistoryEntry>, StoreError>;

    /// Which of these digests are those of deleted tokens, as far as the store remembers, in the order asked for.
    async fn retired(&self, digests: &[Digest]) -> Result<Vec<bool>, StoreError>;

    /// Forgets these recalls: the revocations were committed again.
    async fn settle_recalls(&self, digests: &[Digest]) -> Result<(), StoreError>;

    /// The servers that could take over. `None` for a store that has none.
    async fn replicas(&self) -> Result<Option<Replicas>, StoreError> {
        Ok(None)
    }

    /// Hands over everything that the registry is, while it goes on. What is changed meanwhile is handed over again: all of it
    /// together, in the order of a [`Tally`](archive::Tally), is the registry at the position that is handed back.
    async fn dump(&self, items: Items) -> Result<Inventory, StoreError>;

    /// Refuses every commit from now on, with this reason, whatever it was frozen for before ([`StoreError::Frozen`]; all else
    /// goes on); without one, takes commits again. With `only`: if that is the reason now; whether it was. Replicas are waited
    /// for as for a commit's.
    async fn freeze(&self, reason: Option<&str>, only: Option<&str>) -> Result<bool, CommitError>;

    /// Why commits are refused, if somebody froze it.
    async fn frozen(&self) -> Result<Option<String>, StoreError>;

    /// Why the store refuses whatever changes something, if it does and says so beforehand.
    async fn refuses_writes(&self) -> Result<Option<String>, StoreError> {
        Ok(None)
    }

    /// Waits for all replicas that could take over, not only as many as commits wait for. If some have not confirmed what was
    /// committed by this handle since this was asked before: how many. No more than seconds, and never an error: whoever
    /// asks has committed.
    async fn unconfirmed(&self) -> Option<Unconfirmed> {
        None
    }
}

/// What a replica follows. Whoever has only this cannot commit: it reads, and asks for more to be refused.
///
/// Everything ends by itself, but for what a [`Watch`] waits for: a store goes on as long as something arrives, however slowly, and
/// gives up what no longer does.
#[async_trait]
pub trait Feed: Send + Sync + 'static {
    /// The position, in a way that proves freshness: the answer comes from a store that took commits after it
    /// was asked, so that nothing committed before can be missing from it.
    async fn probe(&self) -> Result<Probe, StoreError>;

    /// For how long the store will still have the report of this sidecar; `None` where it has none. From a store that was the
    /// primary after it was asked, if a probe that was asked for at the same time is.
    async fn report_left(&self, sidecar: SidecarId) -> Result<Option<Duration>, StoreError>;

    /// Hands everything a replica holds to `sink` and returns the position read *before* the first item. Items may
    /// already show later commits; applying the log from the returned position on makes them consistent.
    ///
    /// Goes on from the bookmark, if it can, and otherwise begins. After an error, or cancelled, the bookmark says
    /// how far it got.
    async fn snapshot(
        &self,
        bookmark: &mut Option<Bookmark>,
        sink: &mut (dyn FnMut(SnapshotItem) + Send),
    ) -> Result<Position, StoreError>;

    /// The log entries after a revision, as many of them as are carried at once.
    async fn changes(&self, after: Revision) -> Result<Changes, StoreError>;

    /// The greatest revision at which the change log shows one of these heads, of which the first is somebody's at
    /// `latest`, and each other one that at the revision before: there the two histories part. `None`: at none.
    async fn ancestor(&self, latest: Revision, heads: &[Head]) -> Result<Option<Revision>, StoreError>;

    /// Of these, what a replica holds: an item for each that there is, in any order. Commits may come in between.
    async fn items(&self, of: &[Subject]) -> Result<Vec<SnapshotItem>, StoreError>;

    /// Which of these digests are those of tokens that were revoked, or deleted as far as the store remembers: of the first of
    /// them, as many as are carried at once, and one at least.
    async fn removed(&self, digests: &[Digest]) -> Result<Vec<bool>, StoreError>;

    /// Starts watching. Every commit that becomes visible after this call leads to at least one notice, unless notices
    /// are lost on the way.
    fn watch(&self) -> Box<dyn Watch>;

    /// Keeps digests that a sidecar saw revoked or deleted and that the store holds as active: it lost those writes.
    /// [`Feed::recalled`] returns them from then on, until [`Records::settle_recalls`]; each one that is new moves
    /// [`Probe::recalls`]. A sidecar may do this although it may not commit: it can only take away. No more than
    /// [`RECALLS_LEFT`] are stored.
    async fn recall(&self, digests: &[Digest]) -> Result<(), StoreError>;

    /// Digests that [`Feed::recall`] left, from the first or from a place on, as many as are carried at once. Whatever was
    /// there from the first page to the last is on one of them.
    async fn recalled(&self, from: Option<&RecalledPlace>) -> Result<RecalledPage, StoreError>;

    /// The store as a person would name it, without secrets.
    fn describe(&self) -> String;
}

/// What sidecars say of themselves, for those who wait for them.
#[async_trait]
pub trait Reports: Send + Sync + 'static {
    /// Says how a sidecar is. The report is gone after `ttl`, unless there is a newer one. Not a commit: no revision.
    async fn report(&self, report: &Report, ttl: Duration) -> Result<(), StoreError>;

    /// Takes a sidecar's report back: it has stopped.
    async fn withdraw(&self, sidecar: SidecarId) -> Result<(), StoreError>;

    /// For how much longer a sidecar may serve that this store has no report of, although it once reported: a server that was
    /// started anew, restored or promoted, was not in charge for a while, or evicts keys, may lack some, and who was cut off
    /// does not make them again. `bound` is how long those serve without the store that it has reports of, at the longest.
    /// `None`: there is none.
    async fn unreported(&self, bound: Duration) -> Result<Option<Duration>, StoreError> {
        let _ = bound;
        Ok(None)
    }

    /// The reports that have not expired, in the order of their names. One that cannot be read is left out, and logged.
    async fn sidecars(&self) -> Result<Vec<Reported>, StoreError>;

    /// Whether all that report to it are on one host.
    fn is_of_one_host(&self) -> bool {
        false
    }
}

/// All five of one store. Implementations pass the conformance suite in `tests/it/conformance.rs`.
pub trait Store: Records + Feed + Reports + Usage + Trail {}

impl<S: Records + Feed + Reports + Usage + Trail> Store for S {}
