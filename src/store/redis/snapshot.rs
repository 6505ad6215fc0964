//! Everything a sidecar holds, over a connection that is for this only.
//!
//! A scan's place belongs to one run of one server, and holds there for as long as that runs. Redis promises that whatever
//! is there from the scan's beginning to its end is handed over, perhaps more than once; what comes or goes meanwhile may
//! be or not be. The position is read first, and the log from there on says the rest: also where the scan broke off in
//! between, and went on.
//!
//! Single entries are read over the main connection, as many at a time as the line soon has.

use redis::{Cmd, FromRedisValue, Pipeline, Value, cmd};
use tokio::time::timeout;

use super::Access;
use super::fault::Fault;
use super::followers::{self, ANSWER, ServerHistory};
use super::heard::Carried;
use super::layout::{self, Key, POSITION};
use super::link::{Connection, Use};
use crate::hex::Hex;
use crate::store::{Bookmark, Position, SnapshotItem, Subject};
use crate::token::{Grant, UserId};

/// About how many bytes an entry takes.
const ENTRY: usize = 90;

/// What the name of a replica's run begins with.
const OF_REPLICA: &str = "replica ";

/// About how many bytes are carried for each entry that is asked for by name.
const NAMED: usize = 130;

/// What becomes of a key's fields.
type Read = fn(&str, &[u8], &[u8]) -> SnapshotItem;

/// Users first: each grant then finds its owner.
const PARTS: [(Key, Read); 2] = [(Key::Owners, owner), (Key::Grants, grant)];

type Sink<'a> = dyn FnMut(SnapshotItem) + Send + 'a;

pub(super) async fn snapshot(
    access: &Access,
    bookmark: &mut Option<Bookmark>,
    sink: &mut Sink<'_>,
) -> Result<Position, Fault> {
    let goes_on = bookmark.as_ref().map(|mark| mark.source.starts_with(OF_REPLICA));
    let replica = followers::in_step(access, goes_on).await;
    let on = if replica.is_some() { Use::Replica } else { Use::Bulk };
    let connection = match &replica {
        Some(replica) => replica.connection.clone(),
        None => access.link.connection(Use::Bulk).await?,
    };
    // It ends with this reading, however that ends.
    access.link.release(on);
    let mut source = Source { connection, past: replica.as_ref().map(|replica| replica.position) };
    let run = source.run().await;
    let going_on = bookmark.take().filter(|mark| Some(&mark.source) == run.as_ref());
    let mark = match going_on {
        Some(mark) => mark,
        None => begin(access, &mut source, run.unwrap_or_default(), sink).await?,
    };
    let mark = bookmark.insert(mark);
    let (began_at, position) = ((mark.part, mark.place), mark.position);
    let outcome = scan(access, &mut source, mark, sink).await;
    let came_further = (mark.part, mark.place) != began_at;
    if let Err(Fault::ReplicaUnusable(_)) = outcome {
        // What it handed over may be of a history that is not the store's: nothing goes on from there.
        *bookmark = None;
    }
    if let Some(replica) = replica {
        replica.end(outcome.is_ok(), came_further && bookmark.is_some());
    }
    outcome.map(|()| position)
}

/// Who is read from.
struct Source {
    connection: Connection,
    /// Of a replica: what it must have in its past, or it is not the server any more that it was.
    past: Option<Position>,
}

impl Source {
    /// Which run of which server this is; `None` where that is not known, and places are worth nothing later.
    async fn run(&mut self) -> Option<String> {
        let (info,): (String,) = self.connection.query(Pipeline::new().cmd("INFO").arg("server")).await.ok()?;
        let run = run_in(&info)?;
        let role = if self.past.is_some() { OF_REPLICA } else { "" };
        Some(format!("{role}{} {}", self.connection.server(), run))
    }

    /// Asks a question. A replica also has to show, after the answer, that its past is the one that it had before.
    async fn ask<T: FromRedisValue>(&mut self, access: &Access, command: &Cmd) -> Result<T, Fault> {
        let mut commands = Pipeline::new();
        commands.add_command(command.clone());
        let Some(past) = &mut self.past else {
            let (answer,) = self.connection.query(&commands).await?;
            return Ok(answer);
        };
        ServerHistory::ask(access, &mut commands, past.revision);
        let answered = timeout(ANSWER, self.connection.query(&commands)).await;
        let (answer, fields) = answered.unwrap_or(Err(Fault::TimedOut(ANSWER)))?;
        let history = ServerHistory::parse(access, past.revision, &fields)?;
        history.continues(past, &self.connection)?;
        *past = history.position;
        Ok(answer)
    }
}

/// Those that there are.
pub(super) async fn items(access: &Access, mut of: &[Subject]) -> Result<Vec<SnapshotItem>, Fault> {
    let mut items = Vec::with_capacity(of.len());
    while !of.is_empty() {
        let some = |bytes: usize| first_items(access, of, (bytes / NAMED).clamp(1, of.len()));
        let (found, asked) = access.questions.carry(some).await?;
        items.extend(found);
        of = &of[asked..];
    }
    Ok(items)
}

/// Of the first so many.
async fn first_items(
    access: &Access,
    of: &[Subject],
    count: usize,
) -> Result<((Vec<SnapshotItem>, usize), Carried), Fault> {
    let (mut users, mut tokens) = (Vec::new(), Vec::new());
    for subject in &of[..count] {
        match subject {
            Subject::User(id) => users.push(id.to_u64().to_le_bytes().to_vec()),
            Subject::Token(digest) => tokens.push(digest.as_bytes().to_vec()),
        }
    }
    let wanted = PARTS.into_iter().zip([users, tokens]).filter(|(_, fields)| !fields.is_empty());
    let wanted: Vec<_> = wanted.map(|((key, read), fields)| (access.layout.key(key), read, fields)).collect();
    let mut commands = Pipeline::new();
    for (key, _, fields) in &wanted {
        commands.cmd("HMGET").arg(key).arg(fields);
    }
    let (answers, exchange): (Vec<Vec<Option<Vec<u8>>>>, _) = access.link.fetch(Use::Main, &commands).await?;
    let mut items = Vec::with_capacity(count);
    for ((key, read, fields), values) in wanted.iter().zip(answers) {
        let found = fields.iter().zip(values).filter_map(|(field, value)| Some((field, value?)));
        items.extend(found.map(|(field, value)| read(key, field, &value)));
    }
    Ok(((items, count), exchange.whole))
}

async fn begin(access: &Access, source: &mut Source, run: String, sink: &mut Sink<'_>) -> Result<Bookmark, Fault> {
    let position = match source.past {
        Some(position) => position,
        None => {
            let position = source.ask(access, cmd("HMGET").arg(access.layout.key(Key::Meta)).arg(&POSITION)).await?;
            access.layout.position(&position)?
        }
    };
    sink(SnapshotItem::Begin(source.ask(access, cmd("HLEN").arg(access.layout.key(Key::Grants))).await?));
    Ok(Bookmark { position, source: run, part: 0, place: 0 })
}

/// Hands over what is left of all parts. The next step is under way while the last one is handed over.
async fn scan(access: &Access, source: &mut Source, mark: &mut Bookmark, sink: &mut Sink<'_>) -> Result<(), Fault> {
    while let Some((key, read)) = PARTS.get(mark.part) {
        let key = access.layout.key(*key);
        let (mut place, mut found) = step(access, source, key, mark.place).await?;
        loop {
            let hand_over = async {
                for pair in found.chunks_exact(2) {
                    if let [Value::BulkString(field), Value::BulkString(value)] = pair {
                        sink(read(key, field, value));
                    }
                }
            };
            if place == 0 {
                hand_over.await;
                (mark.part, mark.place) = (mark.part + 1, 0);
                break;
            }
            mark.place = place;
            let (next, ()) = tokio::join!(step(access, source, key, place), hand_over);
            (place, found) = next?;
        }
    }
    Ok(())
}

async fn step(access: &Access, source: &mut Source, key: &str, place: u64) -> Result<(u64, Vec<Value>), Fault> {
    let read = |bytes: usize| async move {
        let scan = cmd("HSCAN").arg(key).arg(place).arg("COUNT").arg((bytes / ENTRY).max(10)).take();
        Ok((source.ask(access, &scan).await?, source.connection.exchange().answer))
    };
    access.pace.read(read).await
}

/// Which run it is that says this of itself.
pub(super) fn run_in(server: &str) -> Option<&str> {
    server.lines().find_map(|line| line.strip_prefix("run_id:")).map(str::trim)
}

fn owner(key: &str, field: &[u8], value: &[u8]) -> SnapshotItem {
    let id = field.try_into().map(|id| UserId::from_u64(u64::from_le_bytes(id)));
    match (id, layout::parse_owner(value)) {
        (Ok(id), Some((owner, stamp))) => SnapshotItem::Owner(id, owner, stamp),
        _ => damaged(key, field),
    }
}

fn grant(key: &str, field: &[u8], value: &[u8]) -> SnapshotItem {
    match (layout::digest(field), Grant::decode(value)) {
        (Some(digest), Ok(grant)) => SnapshotItem::Grant(digest, grant),
        _ => damaged(key, field),
    }
}

fn damaged(key: &str, field: &[u8]) -> SnapshotItem {
    SnapshotItem::Damaged { key: format!("{key} {}", Hex(field)) }
}
