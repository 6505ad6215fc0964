//! The change log, page by page.
//!
//! Who is level reads over the main connection, where no more is carried than this line soon has: what does not fit, be it one
//! entry, is not begun there. Who is behind reads on over the bulk connection, or from a replica, until it is level: each page
//! is bounded in bytes, and applied before the next one is asked for, so that whatever the line carries is progress. Of small
//! entries only a script can tell how many fit; of large ones, those of bulk changes, the bound on each tells it, and without
//! a script their bytes cost Redis a tenth: so it is done without, where Redis is near and one page more costs little.

use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use redis::Pipeline;
use tokio::time::{sleep, timeout};

use super::fault::Fault;
use super::followers::{self, ReplicaUnusable};
use super::heard::Carried;
use super::layout::{self, Key, POSITION, PositionFields};
use super::link::Use;
use super::pace::Pace;
use super::{Access, script};
use crate::chain::chain;
use crate::lock::Mutex;
use crate::store::url::Server;
use crate::store::{Changes, CommitId, Head, LogEntry, Position, Revision, change};

const PAGE: &str = include_str!("log.lua");

/// Most bytes that are read at once over the main connection, as probes wait behind them: more than any command of ours changes
/// in one commit.
pub(super) const SMALL: usize = 48 * 1024;

/// About how many bytes a change takes, an entry besides its changes, and a grant in a snapshot.
const COST: (u64, u64, u64) = (70, 120, 90);

/// By how much a snapshot has to be cheaper than the log, in bytes: it takes more round trips.
const WORTH_IT: u64 = 1024 * 1024;

/// With how many more bytes to come one is behind, and not merely at the end of a bulk change that is announced now and then.
const FAR: u64 = 1024 * 1024;

/// The first entries after a revision, as far as they follow each other up to the position.
pub(super) async fn changes(access: &Access, after: Revision) -> Result<Changes, Fault> {
    let changes = match small(access, after).await? {
        Some(changes) => changes,
        None => match of_replica(access, after).await {
            Some(changes) => changes,
            None => large(access, Use::Bulk, after).await?,
        },
    };
    if !matches!(changes, Changes::Page(_)) {
        access.pace.keep_up();
    }
    Ok(changes)
}

/// The same as far as it fits onto the main connection. `None` where it does not, and for who is behind.
async fn small(access: &Access, after: Revision) -> Result<Option<Changes>, Fault> {
    if access.pace.is_behind() {
        return Ok(None);
    }
    // Until the answer is there: cancelled, or given up, so few are too many for this line.
    access.pace.fall_behind();
    let page = access.pace.read(|bytes| page(access, Use::Main, bytes.min(SMALL), after)).await;
    let far = if access.followers.is_some() { 0 } else { FAR };
    let is_level = |page: &Page| page.left <= far && page.took < Pace::BRISK;
    match &page {
        Ok(page) if page.entries.is_empty() && page.is_full => return Ok(None),
        Ok(page) if is_level(page) => access.pace.keep_up(),
        Ok(_) | Err(Fault::TimedOut(_)) => access.pace.weigh(),
        Err(_) => access.pace.keep_up(),
    }
    page?.into_changes(access, after).map(Some)
}

/// As much as the line carries, over a connection that is for that only, and stays for a while.
async fn large(access: &Access, on: Use, after: Revision) -> Result<Changes, Fault> {
    access.pace.linger();
    let page = access.pace.read(|bytes| page(access, on, bytes, after)).await;
    access.pace.linger();
    page?.into_changes(access, after)
}

/// The same from a replica, if the primary shows it too. `None` where that one is to be read.
async fn of_replica(access: &Access, after: Revision) -> Option<Changes> {
    let trial = access.followers.as_ref()?.try_one()?;
    let (mut asked, mut reason) = (None, None);
    let reading = async {
        for _ in 0..followers::TRIES {
            match page_of_replica(access, after, &mut asked).await {
                Ok(changes) => return changes,
                Err(fault) => reason = Some(chain(&fault)),
            }
            access.link.pass_over_replica(asked.take());
        }
        None
    };
    let changes = timeout(followers::ANSWER, reading).await.unwrap_or_else(|_| {
        access.link.pass_over_replica(asked);
        None
    });
    match &changes {
        Some(_) => trial.succeed(),
        None => tracing::debug!(store = access.name, reason, "no replica has what the primary has"),
    }
    changes
}

/// A page of the replica that is asked, once it is further than we are.
async fn page_of_replica(
    access: &Access,
    after: Revision,
    asked: &mut Option<Server>,
) -> Result<Option<Changes>, Fault> {
    let server = access.link.connection(Use::Replica).await?.server().clone();
    *asked = Some(server.clone());
    let began = Instant::now();
    loop {
        match large(access, Use::Replica, after).await? {
            Changes::Truncated | Changes::Costly(_) => return Ok(None),
            Changes::Entries(entries) | Changes::Page(entries) if !entries.is_empty() => {
                let changes = followers::confirmed_by_primary(access, entries).await?;
                return changes.map(Some).ok_or(ReplicaUnusable::OtherPast(server).into());
            }
            Changes::Entries(_) | Changes::Page(_) | Changes::Below if began.elapsed() < followers::PATIENCE => {
                sleep(followers::PAUSE).await;
            }
            Changes::Entries(_) | Changes::Page(_) | Changes::Below => {
                return Err(ReplicaUnusable::NotFurther(server).into());
            }
        }
    }
}

/// A part of the log.
struct Page {
    newest: Position,
    entries: Vec<LoggedFields>,
    /// The log may go on after these.
    is_full: bool,
    /// About how many bytes come after these, and how many a snapshot would take, where that was asked.
    left: u64,
    snapshot: Option<u64>,
    /// From its first bytes to its last.
    took: Duration,
}

/// So many entries after a revision.
async fn entries(access: &Access, on: Use, count: usize, after: Revision) -> Result<(Page, Carried), Fault> {
    let began = Instant::now();
    let mut commands = Pipeline::new();
    // In this order: what is committed in between is read too.
    commands.cmd("HMGET").arg(access.layout.key(Key::Meta)).arg(&POSITION);
    commands.cmd("XRANGE").arg(access.layout.key(Key::Log)).arg(format!("({}", after.0)).arg("+");
    commands.arg("COUNT").arg(count);
    let (answer, exchange) = access.link.fetch(on, &commands).await?;
    let (position, entries): (PositionFields, Vec<LoggedFields>) = answer;
    let newest = access.layout.position(&position)?;
    let each = access.pace.learn(&entries, began.elapsed());
    let left = newest.revision.0.saturating_sub(after.0 + entries.len() as u64).saturating_mul(each);
    let is_full = entries.len() == count;
    let carried = exchange.answer;
    Ok((Page { newest, is_full, entries, left, snapshot: None, took: carried.took }, carried))
}

/// As many as fit into so many bytes, but one at least where no probe waits behind it.
async fn page(access: &Access, on: Use, bytes: usize, after: Revision) -> Result<(Page, Carried), Fault> {
    if access.pace.is_bulk() && access.pace.is_near() {
        return entries(access, on, (bytes / SMALL).max(1), after).await;
    }
    let began = Instant::now();
    let keys = [Key::Meta, Key::Log, Key::Grants].map(|key| access.layout.key(key));
    let mut read = script("EVAL_RO", PAGE, &keys);
    read.arg(after.0).arg(bytes).arg(u8::from(on != Use::Main)).arg(&POSITION);
    let (answer, exchange) = access.link.fetch(on, Pipeline::new().add_command(read)).await?;
    let ((position, entries, rest),): ((PositionFields, Vec<LoggedFields>, Vec<u64>),) = answer;
    let newest = access.layout.position(&position)?;
    access.pace.learn(&entries, began.elapsed());
    // How many changes come after these, if they are spread evenly over the log, in how many entries, and how many grants
    // there are; nothing where nothing is left.
    let (is_full, left, snapshot) = match rest[..] {
        [changes, left, grants] => {
            let left = changes.saturating_mul(COST.0).saturating_add(left.saturating_mul(COST.1));
            (true, left, Some(grants.saturating_mul(COST.2)))
        }
        _ => (false, 0, None),
    };
    let carried = exchange.answer;
    Ok((Page { newest, entries, is_full, left, snapshot, took: carried.took }, carried))
}

impl Page {
    fn into_changes(self, access: &Access, after: Revision) -> Result<Changes, Fault> {
        let Self { newest, is_full, left, snapshot, .. } = self;
        let (mut entries, mut last) = (Vec::with_capacity(self.entries.len()), after);
        for (id, fields) in &self.entries {
            match log_entry(id, fields) {
                Ok(entry) if entry.revision == last.next() => {
                    last = entry.revision;
                    entries.push(entry);
                }
                Ok(_) => return Ok(Changes::Truncated),
                Err(problem) => {
                    let (store, log) = (&access.name, access.layout.key(Key::Log));
                    tracing::error!(store, key = %format_args!("{log} {id}"), problem, "damaged entry in the change log");
                    return Ok(Changes::Truncated);
                }
            }
        }
        Ok(match snapshot {
            _ if after > newest.revision => Changes::Below,
            _ if last >= newest.revision => Changes::Entries(entries),
            Some(snapshot) if left > snapshot.saturating_add(WORTH_IT) => Changes::Costly(entries),
            _ if is_full => Changes::Page(entries),
            _ => Changes::Truncated,
        })
    }
}

/// An entry's id, and its fields and values by turns.
pub(super) type LoggedFields = (String, Vec<Vec<u8>>);

pub(super) fn log_entry(id: &str, fields: &[Vec<u8>]) -> Result<LogEntry, &'static str> {
    let revision =
        id.strip_suffix("-0").and_then(|revision| revision.parse().ok()).ok_or("its id is not a revision")?;
    let field = |name: &[u8]| {
        let mut pairs = fields.chunks_exact(2);
        pairs.find(|pair| pair[0] == name).map(|pair| pair[1].as_slice())
    };
    let revision = Revision(revision);
    let checksum = field(b"c").and_then(layout::parse_hex).ok_or("it has no checksum")?;
    let (id, head) = match field(b"h") {
        Some(head) => {
            let id = field(b"i").and_then(layout::parse_word).ok_or("it has no commit id")?;
            (id, layout::parse_word(head).ok_or("it has no head")?)
        }
        None => (CommitId::default(), Head::unchained(revision, checksum)),
    };
    let changes = field(b"d").and_then(|bytes| change::decode(bytes).ok()).ok_or("its changes cannot be read")?;
    Ok(LogEntry { id, revision, head, checksum, changes })
}

/// How much is read at once, and how far behind whoever reads is.
#[derive(Debug)]
pub(super) struct ReadPace {
    pace: Pace,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// How many bytes each entry took lately.
    each: usize,
    is_near: bool,
    is_behind: bool,
    last_read: Option<Instant>,
}

impl ReadPace {
    /// How long the bulk connection stays open for what else there may be: each handshake costs Redis a millisecond.
    const LINGER: Duration = Duration::from_secs(5);

    /// An answer that comes sooner is from near.
    const NEAR: Duration = Duration::from_millis(50);

    pub(super) fn new() -> Self {
        let state = State { each: 0, is_near: false, is_behind: false, last_read: None };
        Self { pace: Pace::new(4 * 1024, 16 * 1024, 256 * 1024), state: Mutex::new(state) }
    }

    /// Has something read, of which the answer is what takes long.
    pub(super) async fn read<T, F>(&self, read: impl FnOnce(usize) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<(T, Carried), Fault>>,
    {
        self.pace.carry(read).await
    }

    /// Whether it is over: nothing was read for a while, which is returned once.
    pub(super) fn is_over(&self) -> bool {
        self.state().last_read.take_if(|last_read| last_read.elapsed() > Self::LINGER).is_some()
    }

    fn linger(&self) {
        self.state().last_read = Some(Instant::now());
    }

    fn is_behind(&self) -> bool {
        self.state().is_behind
    }

    fn fall_behind(&self) {
        self.state().is_behind = true;
    }

    fn keep_up(&self) {
        self.state().is_behind = false;
    }

    /// Has the next page say what a snapshot would take.
    fn weigh(&self) {
        self.state().each = 0;
    }

    /// Learns from entries how many bytes each takes, which is returned, and how far Redis is.
    fn learn(&self, entries: &[LoggedFields], took: Duration) -> u64 {
        let bytes: usize = entries.iter().flat_map(|(_, fields)| fields).map(Vec::len).sum();
        let each = bytes / entries.len().max(1);
        let mut state = self.state();
        state.each = each;
        state.is_near = took < Self::NEAR;
        each as u64
    }

    /// Whether another round trip costs little.
    fn is_near(&self) -> bool {
        self.state().is_near
    }

    /// Whether entries are those of a bulk change.
    fn is_bulk(&self) -> bool {
        self.state().each >= SMALL / 4
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_entries_are_those_of_a_bulk_change() {
        let pace = ReadPace::new();
        assert!(!pace.is_bulk());
        for (size, is_bulk) in [(35_000, true), (100, false), (35_000, true)] {
            pace.learn(&[("1-0".to_owned(), vec![vec![0; size]])], Duration::ZERO);
            assert_eq!((pace.is_bulk(), pace.is_near()), (is_bulk, true));
        }
        pace.weigh();
        assert!(!pace.is_bulk());
    }
}
