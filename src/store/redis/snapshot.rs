//! Everything a replica holds, over a connection of its own.
//!
//! A scan's cursor belongs to one server. Redis promises that whatever is there from its beginning to its end is handed
//! over, perhaps more than once; what comes or goes meanwhile may be or not be. The position is read first, and the log
//! from there on says the rest.

use redis::{Pipeline, Value};

use super::Access;
use super::fault::Fault;
use super::layout::{self, Key, POSITION, PositionFields};
use super::link::Connection;
use crate::store::{Position, SnapshotItem};
use crate::token::{Grant, UserId};

/// About how many entries a step of a scan takes: less than a millisecond of the server's time.
const STEP: usize = 1000;

pub(super) async fn snapshot(access: &Access, sink: &mut (dyn FnMut(SnapshotItem) + Send)) -> Result<Position, Fault> {
    let mut connection = access.link.dedicated().await?;
    let mut commands = Pipeline::new();
    commands.cmd("HMGET").arg(access.layout.key(Key::Meta)).arg(&POSITION);
    commands.cmd("HLEN").arg(access.layout.key(Key::Grants));
    let (fields, size): (PositionFields, usize) = connection.query(&commands).await?;
    let position = access.layout.position(&fields)?;
    sink(SnapshotItem::Size(size));
    // Users first: each grant then finds its owner.
    scan(&mut connection, access.layout.key(Key::Owners), owner, sink).await?;
    scan(&mut connection, access.layout.key(Key::Grants), grant, sink).await?;
    Ok(position)
}

/// Hands over all fields of a hash. The next step is under way while the last one is handed over.
async fn scan(
    connection: &mut Connection,
    key: &str,
    item: fn(&str, &[u8], &[u8]) -> SnapshotItem,
    sink: &mut (dyn FnMut(SnapshotItem) + Send),
) -> Result<(), Fault> {
    let (mut cursor, mut found) = step(connection, key, 0).await?;
    loop {
        let hand_over = async {
            for pair in found.chunks_exact(2) {
                if let [Value::BulkString(field), Value::BulkString(value)] = pair {
                    sink(item(key, field, value));
                }
            }
        };
        if cursor == 0 {
            hand_over.await;
            return Ok(());
        }
        let (next, ()) = tokio::join!(step(connection, key, cursor), hand_over);
        (cursor, found) = next?;
    }
}

async fn step(connection: &mut Connection, key: &str, cursor: u64) -> Result<(u64, Vec<Value>), Fault> {
    let mut commands = Pipeline::new();
    commands.cmd("HSCAN").arg(key).arg(cursor).arg("COUNT").arg(STEP);
    let (step,) = connection.query(&commands).await?;
    Ok(step)
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
