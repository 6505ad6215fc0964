//! Everything that is in a database, handed over; and a database that is filled from elsewhere.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row};
use tokio::task::spawn_blocking;

use super::database::{beside, log_of};
use super::fault::{DatabaseFault, Unusable};
use super::{blob, commit, key, read, schema, trail, usage};
use crate::store::archive::{
    CopyError, Item, Items, Retired, TokenItem, Unfinished, UserItem, succeeding, sync_directory_of,
};
use crate::store::{AuditLine, CommitId, Position, Revision, StoreError};
use crate::token::HistoryEntry;

/// Items handed over at once.
const PIECE: usize = 500;

/// What the file is called before it is whole, after its own name.
const UNFINISHED: &str = ".unfinished";

const USERS: &str = "SELECT id, version, record, revision, token_set FROM users";
const TOKENS: &str = "SELECT id, version, record FROM tokens ORDER BY id";
const HISTORY: &str = "SELECT token, entry FROM history WHERE token = ? ORDER BY revision, line";
const RETIRED: &str = "SELECT digest, max(ifnull((SELECT age FROM meta), 0) - at, 0) FROM tombstones";
const RECALLED: &str = "SELECT digest FROM recalls";
const AUDIT: &str = "SELECT seq, line FROM audit ORDER BY seq";

type Read = for<'a> fn(&Connection, &Row<'a>) -> Result<Item, DatabaseFault>;

/// Hands over everything, as it is at one moment.
pub(super) fn dump(connection: &Connection, items: &Items) -> Result<Position, DatabaseFault> {
    let transaction = connection.unchecked_transaction()?;
    let position = read::position(&transaction)?;
    hand_over(&transaction, items)?;
    drop(transaction);
    connection.execute_batch("PRAGMA shrink_memory")?;
    Ok(position)
}

fn hand_over(connection: &Connection, items: &Items) -> Result<(), DatabaseFault> {
    // Users and tokens before what is said of them.
    let parts: [(&str, Read); 5] =
        [(USERS, user), (TOKENS, token), (RETIRED, retired), (RECALLED, recalled), (AUDIT, audit)];
    for (sql, read) in parts {
        let mut statement = connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        let mut piece = Vec::with_capacity(PIECE);
        while let Some(row) = rows.next()? {
            piece.push(read(connection, row)?);
            if piece.len() == PIECE && items.blocking_send(std::mem::take(&mut piece)).is_err() {
                return Ok(()); // whoever listened has failed, and says why
            }
        }
        items.blocking_send(piece).ok();
    }
    usage::dump(connection, PIECE, |piece| items.blocking_send(piece).is_ok())?;
    items.blocking_send(vec![Item::of_loose(&trail::loose(connection, usize::MAX)?)]).ok();
    Ok(())
}

fn user(_: &Connection, row: &Row<'_>) -> Result<Item, DatabaseFault> {
    let user = read::versioned(row, "users")?;
    let (revision, token_set) = (row.get::<_, i64>(3)?, row.get::<_, Option<[u8; 16]>>(4)?);
    Ok(Item::User(UserItem {
        record: user.record,
        version: user.version,
        revision: Revision(revision.cast_unsigned()),
        token_set: token_set.map(|id| CommitId(u128::from_be_bytes(id))),
    }))
}

fn token(connection: &Connection, row: &Row<'_>) -> Result<Item, DatabaseFault> {
    let token = read::versioned(row, "tokens")?;
    let mut statement = connection.prepare_cached(HISTORY)?;
    let mut lines = statement.query([row.get::<_, i64>(0)?])?;
    let mut history: Vec<HistoryEntry> = Vec::new();
    while let Some(line) = lines.next()? {
        history.push(read::record(line, 1).map_err(|problem| DatabaseFault::record("history".to_owned(), problem))?);
    }
    Ok(Item::Token(TokenItem { record: token.record, version: token.version, history }))
}

fn retired(_: &Connection, row: &Row<'_>) -> Result<Item, DatabaseFault> {
    let digest = read::digest(row, 0).map_err(|problem| DatabaseFault::record("tombstones".to_owned(), problem))?;
    Ok(Item::Retired(Retired { digest, age: u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0) }))
}

fn recalled(_: &Connection, row: &Row<'_>) -> Result<Item, DatabaseFault> {
    let digest = read::digest(row, 0).map_err(|problem| DatabaseFault::record("recalls".to_owned(), problem))?;
    Ok(Item::Recalled(digest))
}

fn audit(_: &Connection, row: &Row<'_>) -> Result<Item, DatabaseFault> {
    Ok(Item::of_audit(&AuditLine { seq: row.get::<_, i64>(0)?.cast_unsigned(), text: row.get(1)? }))
}

/// A database under another name beside its place: what is at the place is a registry, or nothing.
///
/// It has no journal and is not synced before its end: of one that breaks off nothing is wanted.
#[derive(Debug)]
pub(crate) struct SqliteUnfinished {
    path: PathBuf,
    part: PathBuf,
    name: String,
    connection: Option<Connection>,
    /// Locked for as long as it is open, so that two do not fill one file. Closed last: SQLite's own locks end with it.
    lock: File,
}

impl SqliteUnfinished {
    /// Makes the file anew.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] where something is at the place, or another one fills it.
    pub(crate) fn begin(path: &Path) -> Result<Self, StoreError> {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let name = format!("sqlite:{}", path.display());
        Self::make(path, name.clone()).map_err(|fault| fault.during("making the database", &name))
    }

    fn make(path: PathBuf, name: String) -> Result<Self, DatabaseFault> {
        must_be_free(&path)?;
        schema::make_directory_of(&path)?;
        let part = beside(&path, UNFINISHED);
        let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&part)?;
        if lock.try_lock().is_err() {
            return Err(Unusable::Filled.into());
        }
        // From here on, whatever fails, it is removed again.
        let mut unfinished = Self { path, part, name, connection: None, lock };
        unfinished.lock.set_len(0)?;
        let connection = Connection::open_with_flags(&unfinished.part, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        for (pragma, value) in [("journal_mode", "OFF"), ("synchronous", "OFF"), ("temp_store", "MEMORY")] {
            connection.pragma_update(None, pragma, value)?;
        }
        connection.pragma_update(None, "cache_size", -(64 << 10))?; // KiB
        connection.set_prepared_statement_cache_capacity(32);
        connection.execute_batch(schema::SCHEMA)?;
        connection.execute_batch(usage::TABLES)?;
        connection.execute_batch(trail::TABLES)?;
        unfinished.connection = Some(connection);
        Ok(unfinished)
    }

    fn connection(&self) -> Result<&Connection, DatabaseFault> {
        self.connection.as_ref().ok_or(DatabaseFault::Replaced)
    }

    fn put(&self, items: &[Item]) -> Result<(), DatabaseFault> {
        let transaction = self.connection()?.unchecked_transaction()?;
        items.iter().try_for_each(|item| put(&transaction, item))?;
        Ok(transaction.commit()?)
    }

    fn end(mut self, after: Position) -> Result<Position, DatabaseFault> {
        let (id, position) = succeeding(after).map_err(DatabaseFault::Entropy)?;
        let connection = self.connection.take().ok_or(DatabaseFault::Replaced)?;
        let count =
            |table| connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0));
        let (revision, checksum) = (position.revision.0.cast_signed(), position.checksum.cast_signed());
        connection.execute(
            "INSERT INTO meta VALUES (1, ?, ?, ?, 0, ?, ?, ?, 0, x'', 0)",
            (
                position.epoch.0.cast_signed(),
                revision,
                checksum,
                count("tombstones")?,
                blob(position.head.0),
                count("recalls")?,
            ),
        )?;
        let entry = (revision, checksum, blob(id.0), blob(position.head.0));
        connection.execute("INSERT INTO log VALUES (?, ?, ?, ?, 0, x'')", entry)?;
        schema::mark(&connection)?;
        connection.close().map_err(|(_, error)| error)?;
        self.lock.sync_all()?;
        must_be_free(&self.path)?;
        // An empty file that was put there is no registry, and gives way; anything else does not.
        match fs::metadata(&self.path) {
            Ok(_) => fs::rename(&self.part, &self.path)?,
            Err(_) => fs::hard_link(&self.part, &self.path)?,
        }
        sync_directory_of(&self.path)?;
        Ok(position)
    }
}

impl Drop for SqliteUnfinished {
    /// What is whole has its own name by now.
    fn drop(&mut self) {
        self.connection = None;
        fs::remove_file(&self.part).ok();
    }
}

#[async_trait]
impl Unfinished for SqliteUnfinished {
    async fn write(&mut self, items: Vec<Item>) -> Result<(), StoreError> {
        // On this thread: a command has nothing else to do, and who reads ahead has a thread of its own, or waits.
        self.put(&items).map_err(|fault| fault.during("filling the database", &self.name))
    }

    async fn read(&mut self, items: Items) -> Result<(), StoreError> {
        let part = self.part.clone();
        let read = spawn_blocking(move || {
            let connection = Connection::open_with_flags(&part, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            hand_over(&connection, &items)
        });
        let read = read.await.map_err(DatabaseFault::from).and_then(|read| read);
        read.map_err(|fault| fault.during("reading the new database", &self.name))
    }

    async fn finish(self: Box<Self>, after: Position) -> Result<Position, CopyError> {
        let name = self.name.clone();
        Ok(self.end(after).map_err(|fault| fault.during("finishing the database", &name))?)
    }
}

/// Nothing is at the place, or an empty file.
fn must_be_free(path: &Path) -> Result<(), DatabaseFault> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > 0 => return Err(Unusable::NotEmpty.into()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    // SQLite would read it into the new database.
    if log_of(path).symlink_metadata().is_ok() {
        return Err(Unusable::OtherLog(log_of(path)).into());
    }
    Ok(())
}

fn put(connection: &Connection, item: &Item) -> Result<(), DatabaseFault> {
    match item {
        Item::User(user) => {
            let sql = "INSERT INTO users (id, name, record, version, revision, token_set) VALUES (?, ?, ?, ?, ?, ?)";
            let UserItem { record, version, revision, token_set } = user;
            let (id, record_json) = (key(record.id.to_u64()), commit::json(record)?);
            let token_set = token_set.map(|id| blob(id.0));
            let row = (id, &record.name, record_json, blob(version.0), revision.0.cast_signed(), token_set);
            connection.prepare_cached(sql)?.execute(row)?;
        }
        Item::Token(token) => put_token(connection, token)?,
        Item::Retired(retired) => {
            // The age of the registry begins anew.
            let age = i64::try_from(retired.age).unwrap_or(i64::MAX);
            let sql = "INSERT INTO tombstones (digest, at) VALUES (?, ?)";
            connection.prepare_cached(sql)?.execute((retired.digest.as_bytes(), -age))?;
        }
        Item::Recalled(digest) => {
            connection.prepare_cached("INSERT INTO recalls (digest) VALUES (?)")?.execute([digest.as_bytes()])?;
        }
        Item::Usage(item) => usage::put(connection, item)?,
        Item::UsageSince(since) => usage::put_since(connection, *since)?,
        Item::Audit { seq, line } => {
            trail::put(connection, &[AuditLine { seq: *seq, text: line.clone().into_bytes() }])?;
        }
        Item::AuditLoose(entries) => {
            connection.execute("DELETE FROM audit_loose", [])?;
            trail::leave(connection, &entries.iter().map(|entry| entry.clone().into_bytes()).collect::<Vec<_>>())?;
        }
        Item::NoUser(id) => {
            connection.prepare_cached("DELETE FROM users WHERE id = ?")?.execute([key(id.to_u64())])?;
        }
        Item::NoToken(id) => {
            let id = [key(id.to_u64())];
            for sql in [
                "DELETE FROM grants WHERE digest = (SELECT digest FROM tokens WHERE id = ?)",
                "DELETE FROM history WHERE token = ?",
                "DELETE FROM tokens WHERE id = ?",
            ] {
                connection.prepare_cached(sql)?.execute(id)?;
            }
        }
    }
    Ok(())
}

fn put_token(connection: &Connection, token: &TokenItem) -> Result<(), DatabaseFault> {
    let TokenItem { record, version, history } = token;
    let (id, digest) = (key(record.id.to_u64()), record.digest.as_bytes());
    let expires_at = record.expires_at.map(|expires_at| expires_at.as_second());
    let sql = "INSERT INTO tokens (id, digest, owner, state, expires_at, version, record) VALUES (?, ?, ?, ?, ?, ?, ?)";
    let (owner, state) = (key(record.owner.to_u64()), i64::from(!record.is_active()));
    let row = (id, digest, owner, state, expires_at, blob(version.0), commit::json(record)?);
    connection.prepare_cached(sql)?.execute(row)?;
    if let Some(grant) = record.grant() {
        let sql = "INSERT INTO grants (digest, grant_) VALUES (?, ?)";
        connection.prepare_cached(sql)?.execute((digest, grant.encode()))?;
    }
    let sql = "INSERT INTO history (token, revision, line, entry) VALUES (?, 0, ?, ?)";
    let mut statement = connection.prepare_cached(sql)?;
    for (line, entry) in (0i64..).zip(history) {
        statement.execute((id, line, commit::json(entry)?))?;
    }
    Ok(())
}

/// Refuses changes from now on: by a trigger, which programs of other versions heed too.
pub(super) fn freeze(connection: &Connection, reason: &str) -> Result<(), DatabaseFault> {
    unfreeze(connection)?;
    let reason = reason.replace('\'', "''");
    connection.execute_batch(&format!(
        "CREATE TRIGGER frozen BEFORE UPDATE OF revision ON meta BEGIN SELECT RAISE(ABORT, '{reason}'); END"
    ))?;
    Ok(())
}

/// Takes changes again.
pub(super) fn unfreeze(connection: &Connection) -> Result<(), DatabaseFault> {
    Ok(connection.execute_batch("DROP TRIGGER IF EXISTS frozen")?)
}

/// The reason, if it refuses changes.
pub(super) fn frozen(connection: &Connection) -> Result<Option<String>, DatabaseFault> {
    let sql = "SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND name = 'frozen'";
    let text = connection.query_row(sql, [], |row| row.get::<_, String>(0)).optional()?;
    Ok(text.map(|text| {
        let reason = text.split_once("ABORT, '").map_or("", |(_, rest)| rest);
        reason.strip_suffix("'); END").unwrap_or(reason).replace("''", "'")
    }))
}
