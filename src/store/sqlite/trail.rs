//! The audit trail in the database, see [`Trail`](crate::store::Trail).

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};

use super::archive::frozen;
use super::fault::DatabaseFault;
use crate::store::{AuditLine, TrailEnds, TrailStep};

/// The trail, what is loose, and how far it was written elsewhere. An older program works beside them, and leaves no entries.
pub(super) const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS audit (seq INTEGER PRIMARY KEY, line BLOB NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS audit_loose (id INTEGER PRIMARY KEY, entry BLOB NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS audit_written (place TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// Leaves entries, in a commit or without one.
pub(super) fn leave(connection: &Connection, entries: &[Vec<u8>]) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached("INSERT INTO audit_loose (entry) VALUES (?)")?;
    entries.iter().try_for_each(|entry| insert.execute([entry]).map(drop))
}

/// Leaves entries that belong to no commit; none in a database that is frozen.
pub(super) fn note(connection: &mut Connection, entries: &[Vec<u8>]) -> Result<(), DatabaseFault> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if frozen(&transaction)?.is_none() {
        leave(&transaction, entries)?;
    }
    Ok(transaction.commit()?)
}

pub(super) fn ends(connection: &Connection, limit: usize) -> Result<TrailEnds, DatabaseFault> {
    let reading = connection.unchecked_transaction()?;
    let first = lines(&reading, "SELECT seq, line FROM audit ORDER BY seq LIMIT ?2", 0, 1)?.pop();
    let last = last(&reading)?;
    let loose_count: i64 = reading.query_row("SELECT count(*) FROM audit_loose", [], |row| row.get(0))?;
    let loose = loose(&reading, limit)?;
    Ok(TrailEnds { first, last, loose, loose_count: loose_count.cast_unsigned() })
}

fn last(connection: &Connection) -> Result<Option<AuditLine>, DatabaseFault> {
    Ok(lines(connection, "SELECT seq, line FROM audit ORDER BY seq DESC LIMIT ?2", 0, 1)?.pop())
}

/// The first loose entries.
pub(super) fn loose(connection: &Connection, limit: usize) -> Result<Vec<Vec<u8>>, DatabaseFault> {
    let mut statement = connection.prepare_cached("SELECT entry FROM audit_loose ORDER BY id LIMIT ?")?;
    let rows = statement.query_map([i64::try_from(limit).unwrap_or(i64::MAX)], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn link(connection: &mut Connection, step: &TrailStep) -> Result<bool, DatabaseFault> {
    // Takes the lock for writing at once: what is compared still holds when it is written.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let is_as_it_was = last(&transaction)? == step.last && loose(&transaction, step.loose.len())? == step.loose;
    if !is_as_it_was || frozen(&transaction)?.is_some() {
        return Ok(false);
    }
    put(&transaction, &step.lines)?;
    let sql = "DELETE FROM audit_loose WHERE id IN (SELECT id FROM audit_loose ORDER BY id LIMIT ?)";
    transaction.prepare_cached(sql)?.execute([step.loose.len().cast_signed()])?;
    if let Some(seq) = step.remove_through {
        transaction.prepare_cached("DELETE FROM audit WHERE seq <= ?")?.execute([seq.cast_signed()])?;
    }
    transaction.commit()?;
    Ok(true)
}

/// Adds lines.
pub(super) fn put(connection: &Connection, lines: &[AuditLine]) -> Result<(), DatabaseFault> {
    let mut insert = connection.prepare_cached("INSERT INTO audit (seq, line) VALUES (?, ?)")?;
    lines.iter().try_for_each(|line| insert.execute((line.seq.cast_signed(), &line.text)).map(drop))?;
    Ok(())
}

pub(super) fn after(connection: &Connection, seq: u64, limit: usize) -> Result<Vec<AuditLine>, DatabaseFault> {
    lines(connection, "SELECT seq, line FROM audit WHERE seq > ?1 ORDER BY seq LIMIT ?2", seq, limit)
}

pub(super) fn before(connection: &Connection, seq: Option<u64>, limit: usize) -> Result<Vec<AuditLine>, DatabaseFault> {
    let most = i64::MAX.cast_unsigned();
    let seq = seq.map_or(most, |seq| seq.min(most));
    lines(connection, "SELECT seq, line FROM audit WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2", seq, limit)
}

fn lines(connection: &Connection, sql: &str, seq: u64, limit: usize) -> Result<Vec<AuditLine>, DatabaseFault> {
    let mut statement = connection.prepare_cached(sql)?;
    let line =
        |row: &rusqlite::Row<'_>| Ok(AuditLine { seq: row.get::<_, i64>(0)?.cast_unsigned(), text: row.get(1)? });
    let rows = statement.query_map((seq.cast_signed(), limit.cast_signed()), line)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn written_to(connection: &Connection, place: &str) -> Result<Option<u64>, DatabaseFault> {
    let mut statement = connection.prepare_cached("SELECT seq FROM audit_written WHERE place = ?")?;
    let seq = statement.query_row([place], |row| row.get::<_, i64>(0)).optional()?;
    Ok(seq.map(i64::cast_unsigned))
}

pub(super) fn set_written_to(connection: &Connection, place: &str, seq: u64) -> Result<(), DatabaseFault> {
    let sql = "INSERT OR REPLACE INTO audit_written (place, seq) VALUES (?, ?)";
    connection.prepare_cached(sql)?.execute((place, seq.cast_signed()))?;
    Ok(())
}
