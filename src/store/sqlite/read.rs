//! Everything that only reads.

use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};
use serde::de::DeserializeOwned;

use super::fault::{BadRow, DatabaseFault};
use super::{blob, from_key, key, schema, usage};
use crate::hex::Hex;
use crate::store::{
    Changes, CommitId, Epoch, Head, LogEntry, Position, Revision, SnapshotItem, Stamp, StateFilter, Subject,
    TokenFilter, Versioned, change,
};
use crate::token::{Digest, Grant, HistoryEntry, MAX_HISTORY, TokenId, TokenRecord, UserId, UserRecord};

/// Items handed over at once by [`snapshot`].
const CHUNK: usize = 256;

pub(super) fn position(connection: &Connection) -> Result<Position, DatabaseFault> {
    schema::known(connection)?;
    let mut statement = connection.prepare_cached("SELECT epoch, revision, checksum, head FROM meta")?;
    let position = statement.query_row([], |row| {
        let number = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
        let head = Head(word(row, 3)?);
        Ok(Position { epoch: Epoch(number(0)?), revision: Revision(number(1)?), head, checksum: number(2)? })
    });
    Ok(position?)
}

/// An id or a head.
fn word(row: &Row<'_>, column: usize) -> rusqlite::Result<u128> {
    row.get(column).map(u128::from_be_bytes)
}

/// No user comes after it.
const LAST: UserId = UserId::from_u64(u64::MAX);

type ReadItem = fn(&Row<'_>) -> SnapshotItem;

const OWNERS: &str = "SELECT id, record, version, revision FROM users";
const GRANTS: &str = "SELECT digest, grant_ FROM grants";

/// Hands chunks to `sink` until it returns false. Users come first: each grant then finds its owner.
pub(super) fn snapshot(
    connection: &Connection,
    mut sink: impl FnMut(Vec<SnapshotItem>) -> bool,
) -> Result<Position, DatabaseFault> {
    // One transaction: the items are exactly those of the position.
    let transaction = connection.unchecked_transaction()?;
    let position = position(&transaction)?;
    let size: i64 = transaction.query_row("SELECT count(*) FROM grants", [], |row| row.get(0))?;
    if !sink(vec![SnapshotItem::Begin(usize::try_from(size).unwrap_or(0))]) {
        return Ok(position);
    }
    for (sql, item) in [(OWNERS, owner as ReadItem), (GRANTS, grant)] {
        let mut statement = transaction.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        let mut chunk = Vec::with_capacity(CHUNK);
        while let Some(row) = rows.next()? {
            chunk.push(item(row));
            if chunk.len() == CHUNK && !sink(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK))) {
                return Ok(position);
            }
        }
        if !chunk.is_empty() && !sink(chunk) {
            break;
        }
    }
    drop(transaction);
    // Every page was read once, and the cache that had them is of no use to anyone.
    connection.execute_batch("PRAGMA shrink_memory")?;
    Ok(position)
}

/// Those that there are.
pub(super) fn items(connection: &Connection, of: &[Subject]) -> Result<Vec<SnapshotItem>, DatabaseFault> {
    let mut owners = connection.prepare_cached(&format!("{OWNERS} WHERE id = ?"))?;
    let mut grants = connection.prepare_cached(&format!("{GRANTS} WHERE digest = ?"))?;
    let mut items = Vec::with_capacity(of.len());
    for subject in of {
        let item = match subject {
            Subject::User(id) => owners.query_row([key(id.to_u64())], |row| Ok(owner(row))),
            Subject::Token(digest) => grants.query_row([digest.as_bytes()], |row| Ok(grant(row))),
        };
        items.extend(item.optional()?);
    }
    Ok(items)
}

/// Where the log shows the first of these heads.
pub(super) fn ancestor(
    connection: &Connection,
    latest: Revision,
    heads: &[Head],
) -> Result<Option<Revision>, DatabaseFault> {
    let mut statement = connection.prepare_cached("SELECT 1 FROM log WHERE revision = ? AND head = ?")?;
    for (revision, head) in (0..=latest.0).rev().zip(heads) {
        if statement.exists((revision.cast_signed(), blob(head.0)))? {
            return Ok(Some(Revision(revision)));
        }
    }
    Ok(None)
}

fn owner(row: &Row<'_>) -> SnapshotItem {
    let stamp = || -> rusqlite::Result<Stamp> {
        Ok(Stamp { id: CommitId(word(row, 2)?), revision: Revision(row.get::<_, i64>(3)?.cast_unsigned()) })
    };
    match (record::<UserRecord>(row, 1), stamp()) {
        (Ok(user), Ok(stamp)) => SnapshotItem::Owner(user.id, user.owner(), stamp),
        _ => SnapshotItem::Damaged { key: format!("users/{}", id_text(row)) },
    }
}

fn grant(row: &Row<'_>) -> SnapshotItem {
    let read = || -> Result<_, BadRow> {
        let digest = digest(row, 0)?;
        Ok((digest, Grant::decode(row.get_ref(1).map_err(|_| BadRow::Column)?.as_blob()?)?))
    };
    match read() {
        Ok((digest, grant)) => SnapshotItem::Grant(digest, grant),
        Err(_) => {
            let digest = row.get_ref(0).ok().and_then(|value| value.as_bytes().ok()).unwrap_or_default();
            SnapshotItem::Damaged { key: format!("grants/{}", Hex(digest)) }
        }
    }
}

pub(super) fn changes(connection: &Connection, after: Revision, store: &str) -> Result<Changes, DatabaseFault> {
    let transaction = connection.unchecked_transaction()?;
    let newest = position(&transaction)?.revision;
    if after > newest {
        return Ok(Changes::Below);
    }
    let sql = "SELECT revision, checksum, changes, id, head FROM log WHERE revision > ? ORDER BY revision";
    let mut statement = transaction.prepare_cached(sql)?;
    let mut rows = statement.query([after.0.cast_signed()])?;
    let (mut entries, mut last) = (Vec::new(), after);
    while let Some(row) = rows.next()? {
        let revision = Revision(row.get::<_, i64>(0)?.cast_unsigned());
        if revision != last.next() {
            break;
        }
        let checksum = row.get::<_, i64>(1)?.cast_unsigned();
        let (id, head) = (CommitId(word(row, 3)?), Head(word(row, 4)?));
        match change::decode(row.get_ref(2)?.as_blob().unwrap_or(&[u8::MAX])) {
            Ok(changes) => entries.push(LogEntry { id, revision, head, checksum, changes }),
            Err(problem) => {
                tracing::error!(store, key = %format_args!("log/{revision}"), %problem, "damaged entry in the change log");
                return Ok(Changes::Truncated);
            }
        }
        last = revision;
    }
    Ok(if last == newest { Changes::Entries(entries) } else { Changes::Truncated })
}

pub(super) fn user(connection: &Connection, id: UserId) -> Result<Option<Versioned<UserRecord>>, DatabaseFault> {
    let mut statement = connection.prepare_cached("SELECT id, version, record FROM users WHERE id = ?")?;
    let mut rows = statement.query([key(id.to_u64())])?;
    rows.next()?.map(|row| versioned(row, "users")).transpose()
}

pub(super) fn user_by_name(
    connection: &Connection,
    name: &str,
) -> Result<Option<Versioned<UserRecord>>, DatabaseFault> {
    let mut statement = connection.prepare_cached("SELECT id, version, record FROM users WHERE name = ?")?;
    let mut rows = statement.query([name])?;
    rows.next()?.map(|row| versioned(row, "users")).transpose()
}

pub(super) fn token_set(connection: &Connection, user: UserId) -> Result<Option<CommitId>, DatabaseFault> {
    let mut statement = connection.prepare_cached("SELECT token_set FROM users WHERE id = ?")?;
    let set = statement.query_row([key(user.to_u64())], |row| row.get::<_, Option<[u8; 16]>>(0)).optional()?;
    Ok(set.flatten().map(|id| CommitId(u128::from_be_bytes(id))))
}

pub(super) fn users(
    connection: &Connection,
    before: Option<UserId>,
    limit: usize,
) -> Result<Vec<Versioned<UserRecord>>, DatabaseFault> {
    let (sql, before) = match before {
        Some(before) => ("SELECT id, version, record FROM users WHERE id < ? ORDER BY id DESC LIMIT ?", before),
        None => ("SELECT id, version, record FROM users WHERE id <= ? ORDER BY id DESC LIMIT ?", LAST),
    };
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query((key(before.to_u64()), bounded(limit)))?;
    let mut users = Vec::new();
    while let Some(row) = rows.next()? {
        users.push(versioned(row, "users")?);
    }
    Ok(users)
}

pub(super) fn tokens_by_id(
    connection: &Connection,
    ids: &[TokenId],
) -> Result<Vec<Option<Versioned<TokenRecord>>>, DatabaseFault> {
    let transaction = connection.unchecked_transaction()?;
    let mut statement = transaction.prepare_cached("SELECT id, version, record FROM tokens WHERE id = ?")?;
    let find = |id: &TokenId| {
        let mut rows = statement.query([key(id.to_u64())])?;
        rows.next()?.map(|row| versioned(row, "tokens")).transpose()
    };
    ids.iter().map(find).collect()
}

pub(super) fn tokens_by_digest(
    connection: &Connection,
    digests: &[Digest],
) -> Result<Vec<Option<Versioned<TokenRecord>>>, DatabaseFault> {
    let transaction = connection.unchecked_transaction()?;
    let mut statement = transaction.prepare_cached("SELECT id, version, record FROM tokens WHERE digest = ?")?;
    let find = |digest: &Digest| {
        let mut rows = statement.query([digest.as_bytes()])?;
        rows.next()?.map(|row| versioned(row, "tokens")).transpose()
    };
    digests.iter().map(find).collect()
}

pub(super) fn tokens(
    connection: &Connection,
    filter: TokenFilter,
    before: Option<TokenId>,
    limit: usize,
) -> Result<Vec<Versioned<TokenRecord>>, DatabaseFault> {
    let (mut condition, mut values) = condition(filter);
    if let Some(before) = before {
        condition.push_str(" AND id < ?");
        values.push(key(before.to_u64()));
    }
    values.push(bounded(limit));
    let sql = format!("SELECT id, version, record FROM tokens WHERE {condition} ORDER BY id DESC LIMIT ?");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut tokens = Vec::new();
    while let Some(row) = rows.next()? {
        tokens.push(versioned(row, "tokens")?);
    }
    Ok(tokens)
}

pub(super) fn count_tokens(connection: &Connection, filter: TokenFilter) -> Result<u64, DatabaseFault> {
    let (condition, values) = condition(filter);
    let mut statement = connection.prepare_cached(&format!("SELECT count(*) FROM tokens WHERE {condition}"))?;
    let count = statement.query_row(params_from_iter(values), |row| row.get::<_, i64>(0))?;
    Ok(count.cast_unsigned())
}

/// The states are in the SQL as literals, or the index on revoked tokens would not be found to apply.
fn condition(filter: TokenFilter) -> (String, Vec<i64>) {
    let (mut condition, mut values) = ("true".to_owned(), Vec::new());
    if let Some(owner) = filter.owner {
        condition.push_str(" AND owner = ?");
        values.push(key(owner.to_u64()));
    }
    match filter.state {
        None => {}
        Some(StateFilter::Active { now }) => {
            condition.push_str(" AND state = 0 AND (expires_at IS NULL OR expires_at > ?)");
            values.push(now);
        }
        Some(StateFilter::Revoked) => condition.push_str(" AND state = 1"),
        Some(StateFilter::Expired { now }) => {
            condition.push_str(" AND state = 0 AND expires_at <= ?");
            values.push(now);
        }
    }
    if let Some(unused) = filter.unused {
        let (of_use, bounds) = usage::condition(unused);
        condition.push_str(of_use);
        values.extend(bounds);
    }
    (condition, values)
}

pub(super) fn history(connection: &Connection, id: TokenId) -> Result<Vec<HistoryEntry>, DatabaseFault> {
    // Databases of before they were bounded may have more.
    let sql = "SELECT token, entry FROM history WHERE token = ? ORDER BY revision DESC, line DESC LIMIT ?";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query((key(id.to_u64()), MAX_HISTORY.cast_signed()))?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        entries.push(record(row, 1).map_err(|problem| DatabaseFault::record(format!("history/{id}"), problem))?);
    }
    entries.reverse();
    Ok(entries)
}

/// A row of id, version, record.
pub(super) fn versioned<R: DeserializeOwned>(row: &Row<'_>, table: &str) -> Result<Versioned<R>, DatabaseFault> {
    let version = CommitId(word(row, 1)?);
    let record =
        record(row, 2).map_err(|problem| DatabaseFault::record(format!("{table}/{}", id_text(row)), problem))?;
    Ok(Versioned { record, version })
}

pub(super) fn record<R: DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<R, BadRow> {
    let value = row.get_ref(column).map_err(|_| BadRow::Column)?;
    Ok(serde_json::from_str(value.as_str()?)?)
}

pub(super) fn digest(row: &Row<'_>, column: usize) -> Result<Digest, BadRow> {
    let value = row.get_ref(column).map_err(|_| BadRow::Column)?;
    Ok(Digest::from_bytes(value.as_blob()?.try_into().map_err(|_| BadRow::Digest)?))
}

/// The first column as the id that it is; ids of users and tokens look alike.
fn id_text(row: &Row<'_>) -> String {
    row.get(0).map_or_else(|_| "?".to_owned(), |id| TokenId::from_u64(from_key(id)).to_string())
}

fn bounded(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
