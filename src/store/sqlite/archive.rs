//! Everything that is in a database, handed over; and a database that is filled from elsewhere.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, TransactionBehavior};
use tokio::task::spawn_blocking;

use super::database::{beside, log_of};
use super::fault::{DatabaseFault, Unusable};
use super::{blob, commit, key, read, schema, trail, usage};
use crate::store::archive::{
    CopyError, Inventory, Item, Items, Retired, TokenItem, Unfinished, UserItem, name_new, succeeding,
    sync_directory_of,
};
use crate::store::{AuditLine, CommitId, Position, Revision, StoreError, Unconfirmed};
use crate::token::{HistoryEntry, TokenRecord};

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

/// What follows from a token's record, after it.
const DERIVED: &str = "SELECT t.id, t.version, t.record, t.digest, t.owner, t.state, t.expires_at, g.grant_ FROM tokens t \
                       LEFT JOIN grants g ON g.digest = t.digest";

type Read = for<'a> fn(&Connection, &Row<'a>) -> Result<Item, DatabaseFault>;

/// Hands over everything, as it is at one moment.
pub(super) fn dump(connection: &Connection, items: &Items) -> Result<Inventory, DatabaseFault> {
    let transaction = connection.unchecked_transaction()?;
    let (position, [users, tokens, retired]) = (read::position(&transaction)?, counts(&transaction)?);
    hand_over(&transaction, items)?;
    drop(transaction);
    connection.execute_batch("PRAGMA shrink_memory")?;
    Ok(Inventory { position, users, tokens, retired })
}

/// How many users, tokens and digests of deleted tokens there are.
fn counts(connection: &Connection) -> Result<[u64; 3], DatabaseFault> {
    let count = |table| {
        let sql = format!("SELECT count(*) FROM {table}");
        connection.query_row(&sql, [], |row| row.get::<_, i64>(0).map(i64::cast_unsigned))
    };
    Ok([count("users")?, count("tokens")?, count("tombstones")?])
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
        let lock = loop {
            let opened =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&part)?;
            if let Some(lock) = claim(opened, &path, &part)? {
                break lock;
            }
        };
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
            Err(_) => name_new(&self.part, &self.path)?,
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
            hand_over(&connection, &items)?;
            verify(&connection)
        });
        let read = read.await.map_err(DatabaseFault::from).and_then(|read| read);
        read.map_err(|fault| fault.during("reading the new database", &self.name))
    }

    async fn finish(self: Box<Self>, after: Position) -> Result<(Position, Option<Unconfirmed>), CopyError> {
        let name = self.name.clone();
        let position = self.end(after).map_err(|fault| fault.during("finishing the database", &name))?;
        Ok((position, None))
    }
}

/// Whether all that a commit derives from records is as they have it, and nothing else is there.
fn verify(connection: &Connection) -> Result<(), DatabaseFault> {
    let mut statement = connection.prepare(DERIVED)?;
    let mut rows = statement.query([])?;
    let mut grants = 0;
    while let Some(row) = rows.next()? {
        let token = read::versioned::<TokenRecord>(row, "tokens")?.record;
        let found = (row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?, row.get(7)?);
        let (owner, state) = (key(token.owner.to_u64()), i64::from(!token.is_active()));
        let expires_at = token.expires_at.map(|expires_at| expires_at.as_second());
        let grant = token.grant().map(|grant| grant.encode().to_vec());
        grants += i64::from(grant.is_some());
        if found != (token.digest.as_bytes().to_vec(), owner, state, expires_at, grant) {
            return Err(DatabaseFault::record(
                format!("tokens {}", token.id),
                "its columns are not what the record says",
            ));
        }
    }
    for (what, sql, expected) in [
        ("grants", "SELECT count(*) FROM grants", grants),
        ("history", "SELECT count(*) FROM history WHERE token NOT IN (SELECT id FROM tokens)", 0),
        ("users", "SELECT count(*) FROM users WHERE name IS NOT record ->> '$.name'", 0),
        ("log", "SELECT count(*) FROM log", 0),
    ] {
        let found = connection.query_row(sql, [], |row| row.get::<_, i64>(0))?;
        if found != expected {
            return Err(DatabaseFault::record(what.to_owned(), format!("{found} rows of it, not {expected}")));
        }
    }
    let said = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0))?;
    if said == "ok" { Ok(()) } else { Err(DatabaseFault::record("the file".to_owned(), said)) }
}

/// The file, locked, if it is still what is filled. Before the lock was given, whoever had it may have made a registry of this
/// very file, and have removed its other name or not.
fn claim(opened: File, path: &Path, part: &Path) -> Result<Option<File>, DatabaseFault> {
    if opened.try_lock().is_err() {
        return Err(Unusable::Filled.into());
    }
    let (found, own) = (fs::metadata(part), opened.metadata()?);
    let is_part = found.is_ok_and(|found| (found.dev(), found.ino()) == (own.dev(), own.ino()));
    if let Err(fault) = must_be_free(path) {
        if is_part {
            fs::remove_file(part)?;
        }
        return Err(fault);
    }
    Ok(Some(opened).filter(|_| is_part))
}

/// Nothing is at the place, or an empty file.
fn must_be_free(path: &Path) -> Result<(), DatabaseFault> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > 0 => return Err(Unusable::NotEmpty.into()),
        Ok(_) => {}
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        Err(_) if path.symlink_metadata().is_ok() => return Err(Unusable::LeadsNowhere.into()),
        Err(_) => {}
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

/// Refuses changes from now on, for this reason, or takes them again; only if it is frozen as `only` says, where that is given:
/// whether it was. It is by a trigger, which programs of other versions heed too.
pub(super) fn freeze(
    connection: &mut Connection,
    reason: Option<&str>,
    only: Option<&str>,
) -> Result<bool, DatabaseFault> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if only.is_some() && frozen(&transaction)?.as_deref() != only {
        return Ok(false);
    }
    transaction.execute_batch("DROP TRIGGER IF EXISTS frozen")?;
    if let Some(reason) = reason {
        let reason = reason.replace('\'', "''");
        transaction.execute_batch(&format!(
            "CREATE TRIGGER frozen BEFORE UPDATE OF revision ON meta BEGIN SELECT RAISE(ABORT, '{reason}'); END"
        ))?;
    }
    transaction.commit()?;
    Ok(true)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Epoch, Head};

    fn finished(unfinished: SqliteUnfinished) -> Position {
        let after = Position { epoch: Epoch(1), revision: Revision(7), head: Head::START, checksum: 0 };
        unfinished.end(after).expect("makes it")
    }

    /// Whoever has opened the file before another one made a registry of it is given the lock afterwards.
    #[test]
    fn a_registry_is_not_filled_by_who_opened_it_when_it_was_none() {
        for is_empty_there in [false, true] {
            let folder = tempfile::tempdir().expect("a folder");
            let (path, part) = (folder.path().join("t.db"), folder.path().join("t.db.unfinished"));
            if is_empty_there {
                File::create(&path).expect("makes it");
            }
            let first = SqliteUnfinished::begin(&path).expect("is empty");
            let opened = File::options().read(true).write(true).open(&part).expect("is there");
            assert!(matches!(claim(opened, &path, &part), Err(DatabaseFault::Unusable(Unusable::Filled))));
            let opened = File::options().read(true).write(true).open(&part).expect("is there");
            finished(first);
            let size = fs::metadata(&path).expect("is there").len();
            let claimed = claim(opened, &path, &part);
            assert!(matches!(claimed, Err(DatabaseFault::Unusable(Unusable::NotEmpty))), "{claimed:?}");
            assert!(SqliteUnfinished::begin(&path).is_err());
            assert_eq!(fs::metadata(&path).expect("is there").len(), size);
            assert!(!part.exists());
            // Killed before the other name was removed.
            fs::hard_link(&path, &part).expect("links");
            let opened = File::options().read(true).write(true).open(&part).expect("is there");
            assert!(claim(opened, &path, &part).is_err() && !part.exists());
            assert_eq!(fs::metadata(&path).expect("is there").len(), size);
        }
    }

    /// What another one has removed since is nobody's place: it is opened anew.
    #[test]
    fn a_file_that_is_gone_is_not_filled() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, part) = (folder.path().join("t.db"), folder.path().join("t.db.unfinished"));
        let opened = File::create(&part).expect("makes it");
        fs::remove_file(&part).expect("removes");
        File::create(&part).expect("another one");
        assert!(matches!(claim(opened, &path, &part), Ok(None)));
    }

    #[test]
    fn a_database_in_which_anything_is_amiss_becomes_no_registry() {
        let user = crate::token::UserRecord {
            id: crate::token::UserId::from_u64(1),
            name: "anna".to_owned(),
            role: crate::token::Role::Manager,
            status: crate::token::UserStatus::Active,
            created_at: jiff::Timestamp::UNIX_EPOCH,
        };
        let user = UserItem { record: user, version: CommitId(1), revision: Revision(1), token_set: None };
        let record = crate::store::sqlite::tests::token("agent");
        let token = TokenItem { record, version: CommitId(1), history: Vec::new() };
        for amiss in [
            "DELETE FROM grants",
            "UPDATE grants SET grant_ = x'00'",
            "INSERT INTO grants VALUES (x'00', x'00')",
            "UPDATE tokens SET state = 1",
            "UPDATE tokens SET owner = 7",
            "UPDATE tokens SET expires_at = 7",
            "UPDATE users SET name = 'max'",
            "INSERT INTO history VALUES (7, 0, 0, '{}')",
            "INSERT INTO log VALUES (1, 0, x'', x'', 0, x'')",
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            let unfinished = SqliteUnfinished::begin(&folder.path().join("t.db")).expect("is empty");
            unfinished.put(&[Item::User(user.clone()), Item::Token(token.clone())]).expect("writes");
            let connection = unfinished.connection().expect("is open");
            verify(connection).expect("is whole");
            assert_eq!(connection.execute(amiss, []).expect("is done"), 1, "{amiss}");
            assert!(matches!(verify(connection), Err(DatabaseFault::Record { .. })), "{amiss}");
        }
    }

    /// Between two commits a change could slip through, and one that is killed there would leave none.
    #[test]
    fn a_freeze_takes_the_place_of_another_in_one_commit() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.db");
        finished(SqliteUnfinished::begin(&path).expect("is empty"));
        let mut connection = schema::open(&path, false).expect("opens");
        assert!(freeze(&mut connection, Some("one"), None).expect("freezes"));
        let before = commits(&log_of(&path));
        assert!(freeze(&mut connection, Some("two"), None).expect("freezes"));
        assert_eq!(commits(&log_of(&path)), before + 1);
        assert_eq!(frozen(&connection).expect("reads").as_deref(), Some("two"));
    }

    /// Frames of a WAL after which the database has a size: the last of each commit.
    fn commits(log: &Path) -> usize {
        let log = fs::read(log).expect("reads");
        let page = u32::from_be_bytes(log[8..12].try_into().expect("four bytes")) as usize;
        log[32..].chunks(24 + page).filter(|frame| frame[4..8] != [0; 4]).count()
    }
}
