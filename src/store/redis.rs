//! The fleet's store: Redis, shared by all sidecars and registry commands.
//!
//! All keys of a registry lie in one slot, so whatever is around it (replicas with Sentinels, a cluster), one server at a
//! time is the primary. Everything goes to it, but for what is read from replicas to spare it ([`followers`]).
//! [`link`] finds it and caches connections to it; when one breaks, or turns out to lead to a server that is no longer the
//! primary, that is found anew.
//!
//! ```text
//!   commit ──► plan ──► commit.lua ──► records, grants, indexes, history, log, position; PUBLISH   (one script)
//!   probe  ──► position, how many recalls, role; with a quorum also a write that replicas confirm
//! ```
//!
//! Sidecars and registry commands have a Redis user each (`deploy/redis/users.acl`). A sidecar reads the position, the
//! grants, the owners, the log and the recalled digests, asks which digests were revoked or deleted, and is notified of changes; it writes its own report, adds digests to
//! the recalled ones, records the use of tokens, and writes the key that a confirmed probe needs. It sees no records, but for whether
//! a token exists, and can neither commit nor announce a commit. A registry command may do everything within the namespace, and nothing else.
//!
//! Redis may lose acknowledged writes: in a failover, or by a crash between two syncs of its file. What it can lose is
//! bounded by `quorum_replicas` and by how it persists, see `deploy/redis`.

mod ancestor;
mod archive;
mod check;
mod commit;
mod dial;
mod discovery;
mod earlier;
mod fault;
mod followers;
mod freeze;
mod hash_slot;
mod heard;
mod index;
mod layout;
mod link;
mod log;
mod pace;
mod read;
mod recalls;
mod replay;
mod replicas;
mod reports;
mod snapshot;
mod stagger;
mod switches;
mod tenure;
mod trail;
mod unusable;
mod usage;
mod watch;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use redis::{Cmd, FromRedisValue, Pipeline, ToRedisArgs, cmd};

pub(super) use self::archive::RedisUnfinished;
use self::commit::CommitFailure;
use self::earlier::EARLIER;
use self::fault::Fault;
use self::followers::Followers;
use self::layout::{Key, Layout, SCHEMA};
use self::link::{Link, Use};
use self::log::{ReadPace, SMALL};
use self::pace::Pace;
use self::replicas::Pending;
use self::tenure::Left;
use self::unusable::Unusable;
use self::usage::ServerClock;
use self::watch::{Subscriber, Watching};
use super::settings::ReadFrom;
use super::{
    Absent, Agent, AuditLine, Batch, Bookmark, Changes, CommitError, CommitId, Committed, Feed, Head, Inventory, Items,
    Notice, Position, Probe, RecalledPage, RecalledPlace, Records, Replicas, Report, Reported, Reports, Retention,
    Revision, Settings, SidecarId, SnapshotItem, StoreError, Subject, TokenFilter, Trail, TrailEnds, TrailStep,
    Unconfirmed, Usage, Usages, Versioned, Watch,
};
use crate::lock::Mutex;
use crate::random;
use crate::token::{Digest, HistoryEntry, TokenId, TokenRecord, UserId, UserRecord};

const CREATE: &str = include_str!("redis/create.lua");

/// How long a sidecar's start waits for an answer that could say that the store is not to be used.
const AWAIT_TIMEOUT: Duration = Duration::from_secs(3);

/// A store in Redis.
#[derive(Debug)]
pub struct RedisStore {
    access: Arc<Access>,
    retention: Retention,
    /// Started by the first watcher.
    watching: OnceLock<Watching>,
}

/// One namespace of one Redis.
#[derive(Debug)]
struct Access {
    link: Arc<Link>,
    layout: Layout,
    /// The store as a person would name it.
    name: String,
    /// How many replicas must confirm commits and probes.
    quorum: u32,
    /// The last commit, if not all replicas that could be promoted have confirmed it.
    pending: Mutex<Option<Pending>>,
    /// The latest report, as it was left.
    report_left: Mutex<Option<Left>>,
    subscriber: Arc<Subscriber>,
    pace: ReadPace,
    /// How much is asked or written at once over the main connection, where the question takes as long as the answer.
    questions: Pace,
    /// Where replicas are to be read from.
    followers: Option<Followers>,
    server_clock: ServerClock,
}

impl RedisStore {
    /// A store that may not be reachable yet: connections are made when they are needed, and what is there is looked at
    /// by each operation.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when the settings are not for Redis.
    pub fn new(settings: &Settings, retention: Retention) -> Result<Self, StoreError> {
        let name = settings.describe();
        let subscriber = Arc::new(Subscriber::new(name.clone(), Layout::of(settings)));
        let link = Link::new(settings, Arc::clone(&subscriber)).map_err(|fault| fault.during("the opening", &name))?;
        let access = Access {
            link,
            layout: Layout::of(settings),
            name,
            quorum: settings.quorum_replicas,
            pending: Mutex::default(),
            report_left: Mutex::default(),
            subscriber,
            pace: ReadPace::new(),
            questions: Pace::new(1024, 4 * 1024, SMALL),
            followers: (settings.read_from == ReadFrom::Replica).then(Followers::default),
            server_clock: ServerClock::default(),
        };
        Ok(Self { access: Arc::new(access), retention, watching: OnceLock::new() })
    }

    /// Opens the store, and makes one where there is none and that is asked for.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when what is there is not ours or of another version, or when nothing is there and it is
    /// not to be made or waited for; nothing is written then. [`StoreError::Unavailable`] when the server cannot be asked
    /// and is not waited for.
    pub async fn open(settings: &Settings, absent: Absent, retention: Retention) -> Result<Self, StoreError> {
        let store = Self::new(settings, retention)?;
        store.check(absent).await?;
        Ok(store)
    }

    /// Whether the store can be used; makes one where there is none and that is asked for. See [`RedisStore::open`].
    ///
    /// # Errors
    /// As [`RedisStore::open`].
    pub async fn check(&self, absent: Absent) -> Result<(), StoreError> {
        let checked = async {
            if absent == Absent::Create {
                // Nothing is made where it would be lost.
                if let Some(problem) = replay::problem(&self.access).await? {
                    return Err(problem.into());
                }
                self.access.create().await?;
                return read::position(&self.access).await.map(drop);
            }
            let (position, problem) = tokio::join!(read::position(&self.access), replay::problem(&self.access));
            if let Ok(Some(problem)) = problem {
                tracing::error!("{} {problem}", self.access.name);
            }
            match position {
                // Sidecars wait for it as for any other, and may not read that key.
                Err(Fault::Absent(found)) if absent == Absent::Refuse => {
                    Err(archive::absent(&self.access, found).await)
                }
                position => position.map(drop),
            }
        };
        let checked = match absent {
            Absent::Create | Absent::Refuse => checked.await,
            Absent::Await => match tokio::time::timeout(AWAIT_TIMEOUT, checked).await {
                Ok(Err(fault)) if fault.is_unusable() => Err(fault),
                // Whoever reads says so, again and again.
                Ok(_) | Err(_) => Ok(()),
            },
        };
        checked.map_err(|fault| fault.during("the opening", &self.access.name))
    }

    /// Why something was not changed, in the caller's terms.
    async fn refused(&self, failure: CommitFailure, operation: &'static str) -> CommitError {
        let store = &self.access.name;
        match failure {
            CommitFailure::Refused(refusal) => refusal,
            CommitFailure::Earlier => {
                layout::other_schema(EARLIER.to_string().as_bytes()).during(operation, store).into()
            }
            CommitFailure::Failed(fault) => self.access.explained(fault).await.during(operation, store).into(),
            CommitFailure::Unknown(fault) => CommitError::Unknown(fault.during(operation, store)),
        }
    }

    /// The outcome, in the caller's terms.
    async fn map_fault<T>(&self, operation: &'static str, outcome: Result<T, Fault>) -> Result<T, StoreError> {
        match outcome {
            Ok(value) => Ok(value),
            Err(fault) => Err(self.access.explained(fault).await.during(operation, &self.access.name)),
        }
    }
}

impl Access {
    /// Makes a registry where there is none.
    async fn create(&self) -> Result<(), Fault> {
        let mut epoch = [0; 8];
        random::fill(&mut epoch).map_err(Fault::Entropy)?;
        let epoch = format!("{:016x}", u64::from_le_bytes(epoch));
        // Done twice, it finds what it made the first time.
        let of_commit = self.layout.of_commit().iter().map(String::as_str);
        let keys: Vec<_> = [self.layout.key(Key::Unfinished)].into_iter().chain(of_commit).collect();
        let answer: Vec<String> = self.ask(script("EVAL", CREATE, &keys).arg(SCHEMA).arg(epoch)).await?;
        match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["created" | "exists"] => Ok(()),
            ["unfinished"] => Err(Unusable::Unfinished(self.layout.key(Key::Unfinished).to_owned()).into()),
            ["foreign", key] => {
                let meta = self.layout.key(Key::Meta).to_owned();
                Err(Unusable::NoMeta { key: key.to_owned(), meta }.into())
            }
            _ => Err(Fault::UnexpectedAnswer(answer.join(" "))),
        }
    }

    /// What the primary answers to a command that only reads, or may be repeated.
    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Fault> {
        let (answer,) = self.link.read(Use::Main, Pipeline::new().add_command(command.clone())).await?;
        Ok(answer)
    }

    /// The connection whose answers prove that the server is the primary.
    fn proof(&self) -> Use {
        if self.quorum == 0 { Use::Main } else { Use::Confirming }
    }

    /// Redis does not say which key it was that has another type.
    async fn explained(&self, fault: Fault) -> Fault {
        if !fault.is_wrong_type() {
            return fault;
        }
        self.link.examine_again().await.err().filter(Fault::is_unusable).unwrap_or(fault)
    }
}

/// A script's invocation on these keys, by `EVAL` or, where it only reads, `EVAL_RO`. Its arguments follow.
fn script(eval: &str, text: &str, keys: &[impl ToRedisArgs]) -> Cmd {
    let mut command = cmd(eval);
    command.arg(text).arg(keys.len()).arg(keys);
    command
}

#[async_trait]
impl Records for RedisStore {
    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        match commit::commit(&self.access, &batch, &self.retention).await {
            Ok((epoch, entry)) => {
                let committed = entry.committed(epoch);
                // Watchers of this very store are notified of it although they may not be subscribed yet; twice does no harm.
                self.access.subscriber.notices.send(Notice::Committed { epoch, entry: Arc::new(entry) });
                Ok(committed)
            }
            Err(failure) => Err(self.refused(failure, "a commit to the store").await),
        }
    }

    async fn position(&self) -> Result<Position, StoreError> {
        self.map_fault("reading the position", read::position(&self.access).await).await
    }

    async fn schema(&self) -> Result<u32, StoreError> {
        self.map_fault("reading the schema", read::schema(&self.access).await).await
    }

    async fn user(&self, id: UserId) -> Result<Option<Versioned<UserRecord>>, StoreError> {
        self.map_fault("reading a user", read::user(&self.access, id).await).await
    }

    async fn user_by_name(&self, name: &str) -> Result<Option<Versioned<UserRecord>>, StoreError> {
        self.map_fault("reading a user", read::user_by_name(&self.access, name).await).await
    }

    async fn token_set(&self, user: UserId) -> Result<Option<CommitId>, StoreError> {
        self.map_fault("reading a user", read::token_set(&self.access, user).await).await
    }

    async fn users(&self, before: Option<UserId>, limit: usize) -> Result<Vec<Versioned<UserRecord>>, StoreError> {
        self.map_fault("reading users", read::users(&self.access, before, limit).await).await
    }

    async fn tokens_by_id(&self, ids: &[TokenId]) -> Result<Vec<Option<Versioned<TokenRecord>>>, StoreError> {
        self.map_fault("reading tokens", read::tokens_by_id(&self.access, ids).await).await
    }

    async fn tokens_by_digest(&self, digests: &[Digest]) -> Result<Vec<Option<Versioned<TokenRecord>>>, StoreError> {
        self.map_fault("reading tokens", read::tokens_by_digest(&self.access, digests).await).await
    }

    async fn tokens(
        &self,
        filter: TokenFilter,
        before: Option<TokenId>,
        limit: usize,
    ) -> Result<Vec<Versioned<TokenRecord>>, StoreError> {
        self.map_fault("reading tokens", read::tokens(&self.access, filter, before, limit).await).await
    }

    async fn count_tokens(&self, filter: TokenFilter) -> Result<u64, StoreError> {
        self.map_fault("counting tokens", index::count(&self.access, filter).await).await
    }

    async fn history(&self, id: TokenId) -> Result<Vec<HistoryEntry>, StoreError> {
        self.map_fault("reading the history of a token", read::history(&self.access, id).await).await
    }

    async fn retired(&self, digests: &[Digest]) -> Result<Vec<bool>, StoreError> {
        self.map_fault("reading which tokens were deleted", read::retired(&self.access, digests).await).await
    }

    async fn settle_recalls(&self, digests: &[Digest]) -> Result<(), StoreError> {
        self.map_fault("settling recalls", recalls::settle(&self.access, digests).await).await
    }

    async fn replicas(&self) -> Result<Option<Replicas>, StoreError> {
        let replicas = self.map_fault("asking for replicas", replicas::replicas(&self.access).await).await?;
        Ok(Some(replicas).filter(|replicas| replicas.promotable > 0 || replicas.quorum > 0))
    }

    async fn refuses_writes(&self) -> Result<Option<String>, StoreError> {
        self.map_fault("asking whether writes are taken", check::refuses_writes(&self.access).await).await
    }

    async fn dump(&self, items: Items) -> Result<Inventory, StoreError> {
        self.map_fault("reading the whole registry", archive::dump(&self.access, &items).await).await
    }

    async fn freeze(&self, reason: Option<&str>, only: Option<&str>) -> Result<bool, CommitError> {
        let operation = if reason.is_some() { "freezing the registry" } else { "lifting the freeze" };
        match freeze::freeze(&self.access, reason, only).await {
            Ok(done) => Ok(done),
            Err(failure) => Err(self.refused(failure, operation).await),
        }
    }

    async fn frozen(&self) -> Result<Option<String>, StoreError> {
        self.map_fault("asking whether it is frozen", freeze::frozen(&self.access).await).await
    }

    async fn unconfirmed(&self) -> Option<Unconfirmed> {
        replicas::unconfirmed(&self.access).await
    }
}

#[async_trait]
impl Feed for RedisStore {
    async fn probe(&self) -> Result<Probe, StoreError> {
        self.map_fault("reading the position", read::probe(&self.access).await).await
    }

    async fn report_left(&self, sidecar: SidecarId) -> Result<Option<Duration>, StoreError> {
        self.map_fault("asking for a report", reports::left(&self.access, sidecar).await).await
    }

    async fn snapshot(
        &self,
        bookmark: &mut Option<Bookmark>,
        sink: &mut (dyn FnMut(SnapshotItem) + Send),
    ) -> Result<Position, StoreError> {
        self.map_fault("reading a snapshot", snapshot::snapshot(&self.access, bookmark, sink).await).await
    }

    async fn changes(&self, after: Revision) -> Result<Changes, StoreError> {
        self.map_fault("reading the change log", log::changes(&self.access, after).await).await
    }

    async fn ancestor(&self, latest: Revision, heads: &[Head]) -> Result<Option<Revision>, StoreError> {
        self.map_fault(
            "looking for lost writes in the change log",
            ancestor::ancestor(&self.access, latest, heads).await,
        )
        .await
    }

    async fn items(&self, of: &[Subject]) -> Result<Vec<SnapshotItem>, StoreError> {
        self.map_fault("reading entries again", snapshot::items(&self.access, of).await).await
    }

    async fn removed(&self, digests: &[Digest]) -> Result<Vec<bool>, StoreError> {
        self.map_fault("asking which tokens were revoked", read::removed(&self.access, digests).await).await
    }

    fn watch(&self) -> Box<dyn Watch> {
        let watch = self.access.subscriber.notices.watch();
        self.watching.get_or_init(|| Watching::start(&self.access));
        watch
    }

    async fn recall(&self, digests: &[Digest]) -> Result<(), StoreError> {
        self.map_fault("recalling tokens", recalls::recall(&self.access, digests).await).await
    }

    async fn recalled(&self, from: Option<&RecalledPlace>) -> Result<RecalledPage, StoreError> {
        self.map_fault("reading the recalled tokens", recalls::page(&self.access, from).await).await
    }

    fn describe(&self) -> String {
        self.access.name.clone()
    }
}

#[async_trait]
impl Reports for RedisStore {
    async fn report(&self, report: &Report, ttl: Duration) -> Result<(), StoreError> {
        self.map_fault("reporting", reports::report(&self.access, report, ttl).await).await
    }

    async fn withdraw(&self, sidecar: SidecarId) -> Result<(), StoreError> {
        self.map_fault("withdrawing a report", reports::withdraw(&self.access, sidecar).await).await
    }

    async fn unreported(&self, bound: Duration) -> Result<Option<Duration>, StoreError> {
        self.map_fault("asking since when reports are complete", tenure::unreported(&self.access, bound).await).await
    }

    async fn sidecars(&self) -> Result<Vec<Reported>, StoreError> {
        self.map_fault("reading the reports of sidecars", reports::sidecars(&self.access).await).await
    }
}

#[async_trait]
impl Usage for RedisStore {
    async fn record(&self, uses: &[super::Use]) -> Result<(), StoreError> {
        self.map_fault("recording the use of tokens", usage::record(&self.access, uses, &self.retention).await).await
    }

    async fn usage(&self, tokens: &[TokenId]) -> Result<Usages, StoreError> {
        self.map_fault("reading the use of tokens", usage::usage(&self.access, tokens).await).await
    }

    async fn last_used(&self, tokens: &[TokenId]) -> Result<Vec<Option<Timestamp>>, StoreError> {
        self.map_fault("reading the use of tokens", usage::last_used(&self.access, tokens).await).await
    }

    async fn agents(&self, tokens: &[TokenId], limit: usize) -> Result<Vec<Vec<Agent>>, StoreError> {
        self.map_fault("reading the agents of tokens", usage::agents(&self.access, tokens, limit).await).await
    }
}

#[async_trait]
impl Trail for RedisStore {
    async fn note(&self, entries: &[Vec<u8>]) -> Result<(), StoreError> {
        self.map_fault("writing an audit entry", trail::note(&self.access, entries).await).await
    }

    async fn trail_ends(&self, loose: usize) -> Result<TrailEnds, StoreError> {
        self.map_fault("reading the audit trail", trail::ends(&self.access, loose).await).await
    }

    async fn link(&self, step: &TrailStep) -> Result<bool, StoreError> {
        self.map_fault("chaining the audit trail", trail::link(&self.access, step).await).await
    }

    async fn trail_after(&self, seq: u64, limit: usize) -> Result<Vec<AuditLine>, StoreError> {
        self.map_fault("reading the audit trail", trail::after(&self.access, seq, limit).await).await
    }

    async fn trail_before(&self, seq: Option<u64>, limit: usize) -> Result<Vec<AuditLine>, StoreError> {
        self.map_fault("reading the audit trail", trail::before(&self.access, seq, limit).await).await
    }

    async fn written_to(&self, place: &str) -> Result<Option<u64>, StoreError> {
        self.map_fault("reading the audit trail", trail::written_to(&self.access, place).await).await
    }

    async fn set_written_to(&self, place: &str, seq: u64) -> Result<(), StoreError> {
        let written = trail::set_written_to(&self.access, place, seq).await;
        self.map_fault("writing how far the audit trail went", written).await
    }
}
