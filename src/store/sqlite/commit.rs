//! The one transaction that changes anything.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, ffi};

use super::age::BootTime;
use super::fault::DatabaseFault;
use super::{age, blob, key, read, trail};
use crate::store::{Batch, CommitError, CommitId, Edit, Epoch, LogEntry, Pin, Retention, Revision, Stamp, change};
use crate::token::{HistoryEntry, MAX_HISTORY, TokenId, TokenRecord, UserRecord};

/// Why nothing was committed.
#[derive(Debug)]
pub(super) enum CommitFailure {
    /// The batch does not fit what the store holds.
    Refused(CommitError),
    Failed(DatabaseFault),
}

impl From<rusqlite::Error> for CommitFailure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<CommitError> for CommitFailure {
    fn from(error: CommitError) -> Self {
        Self::Refused(error)
    }
}

impl From<DatabaseFault> for CommitFailure {
    fn from(fault: DatabaseFault) -> Self {
        Self::Failed(fault)
    }
}

/// Commits the batch, or changes nothing.
pub(super) fn commit(
    connection: &mut Connection,
    batch: &Batch,
    retention: &Retention,
    now: BootTime,
) -> Result<(Epoch, LogEntry), CommitFailure> {
    batch.check().map_err(DatabaseFault::from)?;
    let id = CommitId::random().map_err(DatabaseFault::Entropy)?;
    // Takes the lock for writing at once: what is checked still holds when it is written.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let before = read::position(&transaction)?;
    for pin in &batch.pins {
        let holds = match pin {
            Pin::NoUsers => read::users(&transaction, None, 1)?.is_empty(),
            Pin::TokensOf { user, since } => read::token_set(&transaction, *user)? == *since,
        };
        if !holds {
            return Err(CommitError::Conflict.into());
        }
    }
    check_versions(&transaction, "SELECT version FROM users WHERE id = ?", &batch.users, |user| user.id.to_u64())?;
    check_versions(&transaction, "SELECT version FROM tokens WHERE id = ?", &batch.tokens, |token| token.id.to_u64())?;
    let entry = LogEntry {
        id,
        revision: before.revision.next(),
        head: before.head.then(id),
        checksum: before.checksum ^ batch.checksum_delta(),
        changes: batch.changes(),
    };
    let age = age::advance(&transaction, now)?;
    // What goes makes room for what comes: a name can be given up and taken in one batch.
    delete(&transaction, batch, age)?;
    write_users(&transaction, &batch.users, entry.stamp())?;
    write_tokens(&transaction, &batch.tokens, id)?;
    mark_token_sets(&transaction, batch, id)?;
    append_history(&transaction, &batch.history, entry.revision)?;
    trail::leave(&transaction, &batch.audit)?;
    append_log(&transaction, &entry, retention)?;
    forget_tombstones(&transaction, retention, age)?;
    let mut statement = transaction.prepare_cached("UPDATE meta SET revision = ?, checksum = ?, head = ?")?;
    statement.execute((entry.revision.0.cast_signed(), entry.checksum.cast_signed(), blob(entry.head.0)))?;
    drop(statement);
    transaction.commit()?;
    Ok((before.epoch, entry))
}

fn check_versions<R>(
    transaction: &Transaction<'_>,
    sql: &str,
    edits: &[Edit<R>],
    id: impl Fn(&R) -> u64,
) -> Result<(), CommitFailure> {
    let mut statement = transaction.prepare_cached(sql)?;
    for edit in edits {
        let (record, expected) = match edit {
            Edit::Create(record) => (record, None),
            Edit::Update { before, .. } | Edit::Delete(before) | Edit::Require(before) => {
                (&before.record, Some(blob(before.version.0)))
            }
        };
        let version = statement.query_row([key(id(record))], |row| row.get::<_, [u8; 16]>(0)).optional()?;
        if version != expected {
            return Err(CommitError::Conflict.into());
        }
    }
    Ok(())
}

fn delete(transaction: &Transaction<'_>, batch: &Batch, age: i64) -> Result<(), CommitFailure> {
    let mut user = transaction.prepare_cached("DELETE FROM users WHERE id = ?")?;
    for edit in &batch.users {
        if let Edit::Delete(before) = edit {
            user.execute([key(before.record.id.to_u64())])?;
        }
    }
    let mut token = transaction.prepare_cached("DELETE FROM tokens WHERE id = ?")?;
    let mut history = transaction.prepare_cached("DELETE FROM history WHERE token = ?")?;
    let mut grant = transaction.prepare_cached("DELETE FROM grants WHERE digest = ?")?;
    let mut tombstone = transaction.prepare_cached("INSERT INTO tombstones (digest, at) VALUES (?, ?)")?;
    let mut count = 0;
    for edit in &batch.tokens {
        if let Edit::Delete(before) = edit {
            let (id, digest) = (key(before.record.id.to_u64()), before.record.digest.as_bytes());
            token.execute([id])?;
            history.execute([id])?;
            grant.execute([digest])?;
            tombstone.execute((digest, age))?;
            count += 1;
        }
    }
    if count > 0 {
        transaction.prepare_cached("UPDATE meta SET tombstones = tombstones + ?")?.execute([count])?;
    }
    Ok(())
}

fn write_users(transaction: &Transaction<'_>, edits: &[Edit<UserRecord>], stamp: Stamp) -> Result<(), CommitFailure> {
    let mut insert =
        transaction.prepare_cached("INSERT INTO users (version, revision, name, record, id) VALUES (?, ?, ?, ?, ?)")?;
    let mut update =
        transaction.prepare_cached("UPDATE users SET version = ?, revision = ?, name = ?, record = ? WHERE id = ?")?;
    for edit in edits {
        let (statement, user) = match edit {
            Edit::Create(user) => (&mut insert, user),
            Edit::Update { after, .. } => (&mut update, after),
            Edit::Delete(_) | Edit::Require(_) => continue,
        };
        let (version, revision) = (blob(stamp.id.0), stamp.revision.0.cast_signed());
        let row = (version, revision, &user.name, json(user)?, key(user.id.to_u64()));
        statement.execute(row).map_err(|error| taken(error, || CommitError::NameTaken(user.name.clone())))?;
    }
    Ok(())
}

fn write_tokens(transaction: &Transaction<'_>, edits: &[Edit<TokenRecord>], id: CommitId) -> Result<(), CommitFailure> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO tokens (digest, owner, state, expires_at, version, record, id) VALUES (?, ?, ?, ?, ?, ?, ?)",
    )?;
    let mut update = transaction.prepare_cached(
        "UPDATE tokens SET digest = ?, owner = ?, state = ?, expires_at = ?, version = ?, record = ? WHERE id = ?",
    )?;
    let mut put_grant = transaction.prepare_cached("INSERT OR REPLACE INTO grants (digest, grant_) VALUES (?, ?)")?;
    let mut remove_grant = transaction.prepare_cached("DELETE FROM grants WHERE digest = ?")?;
    let mut retired = transaction.prepare_cached("SELECT 1 FROM tombstones WHERE digest = ?")?;
    for edit in edits {
        let (statement, token) = match edit {
            Edit::Create(token) if retired.exists([token.digest.as_bytes()])? => {
                return Err(CommitError::DigestRetired(token.digest).into());
            }
            Edit::Create(token) => (&mut insert, token),
            Edit::Update { after, .. } => (&mut update, after),
            Edit::Delete(_) | Edit::Require(_) => continue,
        };
        let digest = token.digest.as_bytes();
        let row = (
            digest,
            key(token.owner.to_u64()),
            i64::from(!token.is_active()),
            token.expires_at.map(|expires_at| expires_at.as_second()),
            blob(id.0),
            json(token)?,
            key(token.id.to_u64()),
        );
        statement.execute(row).map_err(|error| taken(error, || CommitError::DigestTaken(token.digest)))?;
        match token.grant() {
            Some(grant) => put_grant.execute((digest, grant.encode()))?,
            None => remove_grant.execute([digest])?,
        };
    }
    Ok(())
}

/// Marks the users to whom a token came. Comes after the users themselves.
fn mark_token_sets(transaction: &Transaction<'_>, batch: &Batch, id: CommitId) -> Result<(), CommitFailure> {
    let mut statement = transaction.prepare_cached("UPDATE users SET token_set = ? WHERE id = ?")?;
    for user in batch.receivers() {
        statement.execute((blob(id.0), key(user.to_u64())))?;
    }
    Ok(())
}

/// Adds the lines, and drops what is too old.
fn append_history(
    transaction: &Transaction<'_>,
    lines: &[(TokenId, HistoryEntry)],
    revision: Revision,
) -> Result<(), CommitFailure> {
    let sql = "INSERT INTO history (token, revision, line, entry) SELECT id, ?, ?, ? FROM tokens WHERE id = ?";
    let mut statement = transaction.prepare_cached(sql)?;
    for (line, (id, entry)) in (0i64..).zip(lines) {
        let row = (revision.0.cast_signed(), line, json(entry)?, key(id.to_u64()));
        if statement.execute(row)? == 0 {
            return Err(CommitError::Conflict.into()); // the token was deleted meanwhile
        }
    }
    let sql = "DELETE FROM history WHERE token = ?1 AND (revision, line) <= (SELECT revision, line FROM history
               WHERE token = ?1 ORDER BY revision DESC, line DESC LIMIT 1 OFFSET ?2)";
    let mut excess = transaction.prepare_cached(sql)?;
    for id in lines.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>() {
        excess.execute((key(id.to_u64()), MAX_HISTORY.cast_signed()))?;
    }
    Ok(())
}

/// Appends the entry, and drops the oldest ones until the log is within its bounds again.
fn append_log(transaction: &Transaction<'_>, entry: &LogEntry, retention: &Retention) -> Result<(), CommitFailure> {
    let count = i64::try_from(entry.changes.len()).unwrap_or(i64::MAX);
    let (revision, checksum) = (entry.revision.0.cast_signed(), entry.checksum.cast_signed());
    let row = (revision, checksum, blob(entry.id.0), blob(entry.head.0), count, change::encode(&entry.changes));
    transaction
        .prepare_cached("INSERT INTO log (revision, checksum, id, head, count, changes) VALUES (?, ?, ?, ?, ?, ?)")?
        .execute(row)?;
    let mut changes = transaction
        .prepare_cached("UPDATE meta SET log_changes = log_changes + ? RETURNING log_changes")?
        .query_row([count], |row| row.get::<_, i64>(0))?;
    let most = i64::try_from(retention.log_changes).unwrap_or(i64::MAX);
    let oldest_retained = entry.revision.0.saturating_sub(retention.log_entries.saturating_sub(1)).cast_signed();
    // Reads only what goes, and one more.
    let mut oldest =
        transaction.prepare_cached("SELECT revision, count FROM log WHERE revision < ? ORDER BY revision")?;
    let mut rows = oldest.query([entry.revision.0.cast_signed()])?;
    let (before, mut trim_to) = (changes, None);
    while let Some(row) = rows.next()? {
        let (revision, count) = (row.get::<_, i64>(0)?, row.get::<_, i64>(1)?);
        if changes <= most && revision >= oldest_retained {
            break;
        }
        changes -= count;
        trim_to = Some(revision);
    }
    drop(rows);
    if let Some(trim_to) = trim_to {
        transaction.prepare_cached("DELETE FROM log WHERE revision <= ?")?.execute([trim_to])?;
        let freed = before - changes;
        transaction.prepare_cached("UPDATE meta SET log_changes = log_changes - ?")?.execute([freed])?;
    }
    Ok(())
}

/// Forgets deleted digests that are old enough, and the oldest where there are too many.
fn forget_tombstones(transaction: &Transaction<'_>, retention: &Retention, age: i64) -> Result<(), CommitFailure> {
    let retained_for = i64::try_from(retention.tombstone_age.as_secs()).unwrap_or(i64::MAX);
    let most = i64::try_from(retention.tombstones).unwrap_or(i64::MAX);
    let delete = |sql: &str, bound: i64| -> Result<i64, CommitFailure> {
        let count = transaction.prepare_cached(sql)?.execute([bound])?;
        Ok(i64::try_from(count).unwrap_or(i64::MAX))
    };
    let aged = delete("DELETE FROM tombstones WHERE at <= ?", age.saturating_sub(retained_for))?;
    let retained = transaction
        .prepare_cached("UPDATE meta SET tombstones = tombstones - ? RETURNING tombstones")?
        .query_row([aged], |row| row.get::<_, i64>(0))?;
    if retained > most {
        let sql = "DELETE FROM tombstones WHERE digest IN (SELECT digest FROM tombstones ORDER BY at LIMIT ?)";
        let excess = delete(sql, retained - most)?;
        transaction.prepare_cached("UPDATE meta SET tombstones = tombstones - ?")?.execute([excess])?;
    }
    Ok(())
}

/// What a violated UNIQUE constraint means; any other error is the store's.
fn taken(error: rusqlite::Error, refusal: impl FnOnce() -> CommitError) -> CommitFailure {
    match error.sqlite_error() {
        Some(sqlite) if sqlite.extended_code == ffi::SQLITE_CONSTRAINT_UNIQUE => refusal().into(),
        _ => error.into(),
    }
}

pub(super) fn json(record: &impl serde::Serialize) -> Result<String, DatabaseFault> {
    serde_json::to_string(record).map_err(|problem| DatabaseFault::record("a new record".to_owned(), problem))
}
