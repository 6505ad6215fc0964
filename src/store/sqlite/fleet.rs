//! What sidecars write: their reports, and revocations that the store lost. No commits, so no revision changes.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior};

use super::fault::{BadRow, DatabaseFault};
use super::read;
use crate::store::{RECALLS_LEFT, RecalledPage, RecalledPlace, Report, Reported, SidecarId};
use crate::token::Digest;

/// Recalled digests read at once.
const RECALLED_PAGE: usize = 1000;

/// Takes the place of the sidecar's report before, and removes those that were not renewed in time. Times are in
/// milliseconds since the machine was started: what lies ahead is from before that. So the clock is read once nobody else
/// can write: others' reports that came while this one waited for its turn would lie ahead, too.
pub(super) fn report(
    connection: &mut Connection,
    report: &Report,
    ttl: Duration,
    clock: impl FnOnce() -> i64,
) -> Result<(), DatabaseFault> {
    let text =
        serde_json::to_string(report).map_err(|problem| DatabaseFault::record("a new report".to_owned(), problem))?;
    let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let now = clock();
    transaction
        .prepare_cached("INSERT OR REPLACE INTO sidecars (id, report, at, expires_at) VALUES (?, ?, ?, ?)")?
        .execute((report.id.0.cast_signed(), text, now, now.saturating_add(ttl)))?;
    transaction.prepare_cached("DELETE FROM sidecars WHERE expires_at <= ?1 OR at > ?1")?.execute([now])?;
    Ok(transaction.commit()?)
}

/// A report that is late counts as long as it is there: what a full disk prevents from being renewed is no reason to
/// refuse agents, as nothing can be revoked there either.
pub(super) fn left(
    connection: &Connection,
    sidecar: SidecarId,
    clock: impl FnOnce() -> i64,
) -> Result<Option<Duration>, DatabaseFault> {
    let mut statement = connection.prepare_cached("SELECT at, expires_at FROM sidecars WHERE id = ?")?;
    let times = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
    let found = statement.query_row([sidecar.0.cast_signed()], times).optional()?;
    // After the look: see `sidecars`.
    let left = found.filter(|(at, _)| *at <= clock()).map(|(at, end)| end.saturating_sub(at));
    Ok(left.map(|left| Duration::from_millis(u64::try_from(left).unwrap_or(0))))
}

pub(super) fn withdraw(connection: &Connection, sidecar: SidecarId) -> Result<(), DatabaseFault> {
    connection.prepare_cached("DELETE FROM sidecars WHERE id = ?")?.execute([sidecar.0.cast_signed()])?;
    Ok(())
}

/// Reports that are left, in the order of their names. The clock is read after them: one that is renewed at this moment
/// would lie ahead otherwise, and its sidecar would be missed by whoever waits for it.
pub(super) fn sidecars(
    connection: &Connection,
    clock: impl FnOnce() -> i64,
    store: &str,
) -> Result<Vec<Reported>, DatabaseFault> {
    let mut statement = connection.prepare_cached("SELECT id, report, at, expires_at FROM sidecars")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        match stored(row) {
            Ok(stored) => found.push(stored),
            Err(problem) => {
                let key = row
                    .get::<_, i64>(0)
                    .map_or_else(|_| "?".to_owned(), |id| SidecarId(id.cast_unsigned()).to_string());
                tracing::warn!(store, key = %format_args!("sidecars/{key}"), %problem, "damaged report of a sidecar");
            }
        }
    }
    let now = clock();
    let until = |end: i64, start| Duration::from_millis(u64::try_from(end.saturating_sub(start)).unwrap_or(0));
    let is_left = |stored: &Stored| stored.at <= now && stored.expires_at > now;
    let reported =
        |Stored { report, at, expires_at }| Reported { report, age: until(now, at), ttl: until(expires_at, at) };
    let mut reports: Vec<_> = found.into_iter().filter(is_left).map(reported).collect();
    reports.sort_by(|a, b| (&a.report.name, a.report.id).cmp(&(&b.report.name, b.report.id)));
    Ok(reports)
}

/// A report with its times, in milliseconds of some clock.
struct Stored {
    report: Report,
    at: i64,
    expires_at: i64,
}

fn stored(row: &Row<'_>) -> Result<Stored, BadRow> {
    let text = row.get_ref(1).map_err(|_| BadRow::Column)?;
    let report = serde_json::from_str(text.as_str()?)?;
    let time = |index| Ok::<_, BadRow>(row.get_ref(index).map_err(|_| BadRow::Column)?.as_i64()?);
    Ok(Stored { report, at: time(2)?, expires_at: time(3)? })
}

pub(super) fn recall(connection: &mut Connection, digests: &[Digest]) -> Result<(), DatabaseFault> {
    let sql = "INSERT OR IGNORE INTO recalls (digest) VALUES (?)";
    let transaction = connection.transaction()?;
    let present = count_recalls(&transaction)?;
    if present + digests.len() as u64 > RECALLS_LEFT {
        return Err(DatabaseFault::TooManyRecalls(present));
    }
    let added = each(&transaction, sql, digests)?;
    transaction.execute("UPDATE meta SET recalls = recalls + ?", [i64::try_from(added).unwrap_or(i64::MAX)])?;
    Ok(transaction.commit()?)
}

/// How many were ever added, and how many there are.
pub(super) fn recalls(connection: &Connection) -> Result<(u64, u64), DatabaseFault> {
    let mut statement = connection.prepare_cached("SELECT recalls FROM meta")?;
    let ever = statement.query_row([], |row| row.get::<_, i64>(0))?.cast_unsigned();
    Ok((ever, count_recalls(connection)?))
}

pub(super) fn settle_recalls(connection: &mut Connection, digests: &[Digest]) -> Result<(), DatabaseFault> {
    let transaction = connection.transaction()?;
    each(&transaction, "DELETE FROM recalls WHERE digest = ?", digests)?;
    Ok(transaction.commit()?)
}

/// How many rows that changed.
fn each(transaction: &Transaction<'_>, sql: &str, digests: &[Digest]) -> Result<usize, DatabaseFault> {
    let mut statement = transaction.prepare_cached(sql)?;
    digests.iter().try_fold(0, |changed, digest| Ok(changed + statement.execute([digest.as_bytes()])?))
}

/// The next page, in the order of the digests: a place is the last one before it. What comes later is in no order, and all is
/// read again, of one's own disk.
pub(super) fn recalled(connection: &Connection, from: Option<&RecalledPlace>) -> Result<RecalledPage, DatabaseFault> {
    let (recalls, total) = recalls(connection)?;
    let mut statement =
        connection.prepare_cached("SELECT digest FROM recalls WHERE digest > ? ORDER BY digest LIMIT ?")?;
    let (begins, from) = (from.is_none(), from.map_or(&[][..], |place| &place.0));
    let mut rows = statement.query((from, i64::try_from(RECALLED_PAGE).unwrap_or(i64::MAX)))?;
    let mut digests = Vec::new();
    while let Some(row) = rows.next()? {
        let digest = read::digest(row, 0);
        digests.push(digest.map_err(|problem| DatabaseFault::record("recalls".to_owned(), problem))?);
    }
    let last = digests.last().filter(|_| digests.len() == RECALLED_PAGE);
    let next = last.map(|digest| RecalledPlace(digest.as_bytes().to_vec()));
    Ok(RecalledPage { total, recalls, begins, digests, is_last: next.is_none(), next })
}

/// How many there are.
fn count_recalls(connection: &Connection) -> Result<u64, DatabaseFault> {
    let mut statement = connection.prepare_cached("SELECT count(*) FROM recalls")?;
    Ok(statement.query_row([], |row| row.get::<_, i64>(0))?.cast_unsigned())
}

pub(super) fn retired(connection: &Connection, digests: &[Digest]) -> Result<Vec<bool>, DatabaseFault> {
    let mut statement = connection.prepare_cached("SELECT 1 FROM tombstones WHERE digest = ?")?;
    digests.iter().map(|digest| Ok(statement.exists([digest.as_bytes()])?)).collect()
}

pub(super) fn removed(connection: &Connection, digests: &[Digest]) -> Result<Vec<bool>, DatabaseFault> {
    let mut statement = connection.prepare_cached(
        "SELECT 1 FROM tokens WHERE digest = ?1 AND state = 1 UNION ALL SELECT 1 FROM tombstones WHERE digest = ?1",
    )?;
    digests.iter().map(|digest| Ok(statement.exists([digest.as_bytes()])?)).collect()
}
