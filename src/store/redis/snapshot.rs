//! Everything a replica holds, over the bulk connection.
//!
//! A scan's place belongs to one run of one server, and holds there for as long as that runs. Redis promises that whatever
//! is there from the scan's beginning to its end is handed over, perhaps more than once; what comes or goes meanwhile may
//! be or not be. The position is read first, and the log from there on says the rest: also where the scan broke off in
//! between, and went on.

use redis::{Pipeline, Value};

use super::Access;
use super::fault::Fault;
use super::layout::{self, Key, POSITION, PositionFields};
use super::link::{Connection, Use};
use crate::store::{Bookmark, Position, SnapshotItem};
use crate::token::{Grant, UserId};

/// About how many bytes an entry takes.
const ENTRY: usize = 90;

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
    let mut connection = access.link.kept(Use::Bulk).await?;
    // It ends with this reading, however that ends.
    access.link.release(Use::Bulk);
    let source = run_of(&mut connection).await;
    let going_on = bookmark.take().filter(|mark| Some(&mark.source) == source.as_ref());
    let mark = match going_on {
        Some(mark) => mark,
        None => begin(access, &mut connection, source.unwrap_or_default(), sink).await?,
    };
    let mark = bookmark.insert(mark);
    scan(access, &mut connection, mark, sink).await?;
    Ok(mark.position)
}

async fn begin(
    access: &Access,
    connection: &mut Connection,
    source: String,
    sink: &mut Sink<'_>,
) -> Result<Bookmark, Fault> {
    let mut commands = Pipeline::new();
    commands.cmd("HMGET").arg(access.layout.key(Key::Meta)).arg(&POSITION);
    commands.cmd("HLEN").arg(access.layout.key(Key::Grants));
    let (fields, size): (PositionFields, usize) = connection.query(&commands).await?;
    let position = access.layout.position(&fields)?;
    sink(SnapshotItem::Begin(size));
    Ok(Bookmark { position, source, part: 0, place: 0 })
}

/// Hands over what is left of all parts. The next step is under way while the last one is handed over.
async fn scan(
    access: &Access,
    connection: &mut Connection,
    mark: &mut Bookmark,
    sink: &mut Sink<'_>,
) -> Result<(), Fault> {
    while let Some((key, read)) = PARTS.get(mark.part) {
        let key = access.layout.key(*key);
        let (mut place, mut found) = step(access, connection, key, mark.place).await?;
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
            let (next, ()) = tokio::join!(step(access, connection, key, place), hand_over);
            (place, found) = next?;
        }
    }
    Ok(())
}

async fn step(access: &Access, connection: &mut Connection, key: &str, place: u64) -> Result<(u64, Vec<Value>), Fault> {
    let read = |bytes: usize| async move {
        let mut commands = Pipeline::new();
        commands.cmd("HSCAN").arg(key).arg(place).arg("COUNT").arg((bytes / ENTRY).max(10));
        let (step,) = connection.query(&commands).await?;
        Ok(step)
    };
    access.pace.keep(read).await
}

/// Which run of which server this is; `None` where that is not told, and places are worth nothing later.
async fn run_of(connection: &mut Connection) -> Option<String> {
    let mut commands = Pipeline::new();
    commands.cmd("INFO").arg("server");
    let (told,): (String,) = connection.query(&commands).await.ok()?;
    let run = told.lines().find_map(|line| line.strip_prefix("run_id:"))?;
    Some(format!("{} {}", connection.server(), run.trim()))
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
    let field: String = field.iter().map(|byte| format!("{byte:02x}")).collect();
    SnapshotItem::Damaged { key: format!("{key} {field}") }
}
