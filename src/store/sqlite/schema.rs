//! The database file: finding out whose it is before touching it, making it, connecting to it.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::fault::{DatabaseFault, Unusable};
use super::migration::{self, EARLIER};
use super::{trail, usage};
use crate::random;
use crate::store::schema::OtherSchema;
use crate::store::{Head, NoRegistry};

/// Marks the file as ours (`TGAT`), see `PRAGMA application_id`.
const APPLICATION_ID: u32 = 0x5447_4154;

/// The layout below; grows with every change that an older program could not work with.
pub(super) const SCHEMA_VERSION: u32 = crate::store::SCHEMA;

/// How long one connection waits for the lock of another.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Statements cached by each connection.
const STATEMENTS: usize = 64;

/// Ids are stored with the top bit flipped, so that SQLite's signed integers order as the ids do.
///
/// `age` is counted in seconds, see `age`; what the times of `tombstones` are is a number of those.
///
/// `count` comes before `changes`, so that trimming does not read through the large value to get at it. The index on
/// owners holds all that a list's filter looks at.
pub(super) const SCHEMA: &str = "
    CREATE TABLE meta (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        epoch INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        log_changes INTEGER NOT NULL,
        tombstones INTEGER NOT NULL,
        head BLOB NOT NULL,
        recalls INTEGER NOT NULL,
        age INTEGER NOT NULL,
        boot BLOB NOT NULL,
        uptime INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE users (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        record TEXT NOT NULL,
        version BLOB NOT NULL,
        revision INTEGER NOT NULL,
        token_set BLOB
    ) STRICT;
    CREATE TABLE tokens (
        id INTEGER PRIMARY KEY,
        digest BLOB NOT NULL UNIQUE,
        owner INTEGER NOT NULL,
        state INTEGER NOT NULL,
        expires_at INTEGER,
        record TEXT NOT NULL,
        version BLOB NOT NULL
    ) STRICT;
    CREATE INDEX tokens_by_owner ON tokens (owner, id, state, expires_at);
    CREATE INDEX revoked_tokens ON tokens (id) WHERE state = 1;
    CREATE TABLE grants (digest BLOB PRIMARY KEY, grant_ BLOB NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE history (
        token INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        line INTEGER NOT NULL,
        entry TEXT NOT NULL,
        PRIMARY KEY (token, revision, line)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE log (
        revision INTEGER PRIMARY KEY,
        checksum INTEGER NOT NULL,
        id BLOB NOT NULL,
        head BLOB NOT NULL,
        count INTEGER NOT NULL,
        changes BLOB NOT NULL
    ) STRICT;
    CREATE TABLE tombstones (digest BLOB PRIMARY KEY, at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE INDEX tombstones_by_age ON tombstones (at);
    CREATE TABLE recalls (digest BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
    CREATE TABLE sidecars (
        id INTEGER PRIMARY KEY,
        report TEXT NOT NULL,
        at INTEGER NOT NULL,
        expires_at INTEGER NOT NULL
    ) STRICT;
";

/// What a file was found to be.
enum Content {
    /// Nothing yet.
    Empty,
    /// A store of ours, of the version before.
    Earlier,
    /// A store of ours, of this version.
    Store,
}

/// Opens the store for writing. Where there is none, it is made, or refused with [`DatabaseFault::NoRegistry`]. What is not ours is
/// left as it is.
pub(super) fn open(path: &Path, create: bool) -> Result<Connection, DatabaseFault> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if create {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
        make_directory_of(path)?;
    }
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    wipe_what_goes(&connection)?;
    // Whoever closes a database last writes its log back into it. Not into one that may turn out not to be ours.
    // (The file is not read without SQLite: closing it would give up the locks that this process holds on it.)
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // In a transaction, so that the answers are about one state, whoever else is creating a store there.
    let found = connection.unchecked_transaction().map_err(DatabaseFault::from).and_then(|reading| inspect(&reading));
    match found.map_err(unreadable)? {
        Content::Store => {}
        Content::Earlier => migration::migrate(&mut connection, &path.display().to_string())?,
        Content::Empty if create => make(&mut connection, path)?,
        Content::Empty => return Err(DatabaseFault::NoRegistry(NoRegistry::EmptyFile)),
    }
    super::read::position(&connection).map_err(unreadable)?;
    if connection.is_readonly("main")? {
        return Err(DatabaseFault::NotWritable);
    }
    switch_to_wal(&connection)?;
    usage::prepare(&mut connection)?;
    // Nothing is written where they are there.
    connection.execute_batch(trail::TABLES)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    // A revocation that was acknowledged must survive a power failure: FULL syncs every commit, NORMAL does not.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    connection.pragma_update(None, "cache_size", -(32 << 10))?; // KiB
    Ok(connection)
}

/// Another connection to a store that is open already, for reading.
pub(super) fn open_reader(path: &Path) -> Result<Connection, DatabaseFault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// Another connection to a store that is open already, for what may be lost in a power failure. A commit there is not
/// synced (NORMAL, in WAL mode), and so takes microseconds; whatever else is in the log of the file is as safe as before.
pub(super) fn open_reporter(path: &Path) -> Result<Connection, DatabaseFault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_transaction_behavior(TransactionBehavior::Immediate);
    wipe_what_goes(&connection)?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "cache_size", -256)?; // KiB
    Ok(connection)
}

/// Of a token that is deleted nothing stays in the file: neither its description nor the end of its value, nor who used it.
fn wipe_what_goes(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "secure_delete", true)
}

fn inspect(connection: &Connection) -> Result<Content, DatabaseFault> {
    let number = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let application = number("PRAGMA application_id")?;
    let version = version(connection)?;
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    match (u32::try_from(application), version) {
        (Ok(0), _) if tables == 0 => Ok(Content::Empty),
        (Ok(APPLICATION_ID), SCHEMA_VERSION) => Ok(Content::Store),
        (Ok(APPLICATION_ID), EARLIER) => Ok(Content::Earlier),
        (Ok(APPLICATION_ID), version) => Err(other(version).into()),
        _ => Err(Unusable::OtherProgram.into()),
    }
}

/// Which layout the file has.
pub(super) fn version(connection: &Connection) -> Result<u32, DatabaseFault> {
    Ok(connection.prepare_cached("PRAGMA user_version")?.query_row([], |row| row.get(0))?)
}

/// Which layout a file has that was opened: this version's. A later version may have made another of it since.
pub(super) fn known(connection: &Connection) -> Result<u32, DatabaseFault> {
    match version(connection)? {
        SCHEMA_VERSION => Ok(SCHEMA_VERSION),
        version => Err(other(version).into()),
    }
}

fn other(version: u32) -> Unusable {
    OtherSchema { found: version.to_string(), earlier: EARLIER }.into()
}

/// In one transaction, so that the file is ours whole or not at all; and before the file is switched to WAL, so that
/// whose it is, the file itself says.
fn make(connection: &mut Connection, path: &Path) -> Result<(), DatabaseFault> {
    // The files that SQLite puts beside it later have the same mode.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    let mut epoch = [0; 8];
    random::fill(&mut epoch).map_err(DatabaseFault::Entropy)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if let Content::Store = inspect(&transaction)? {
        return Ok(()); // another process was faster
    }
    transaction.execute_batch(SCHEMA)?;
    mark(&transaction)?;
    let first = (i64::from_le_bytes(epoch), Head::START.0.to_be_bytes());
    transaction.execute("INSERT INTO meta VALUES (1, ?, 0, 0, 0, 0, ?, 0, 0, x'', 0)", first)?;
    Ok(transaction.commit()?)
}

/// Says whose the file is.
pub(super) fn mark(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection.pragma_update(None, "user_version", SCHEMA_VERSION)
}

/// Makes the directory that the file is to be in.
pub(super) fn make_directory_of(path: &Path) -> std::io::Result<()> {
    match path.parent().filter(|directory| !directory.exists()) {
        Some(directory) => fs::DirBuilder::new().recursive(true).mode(0o700).create(directory),
        None => Ok(()),
    }
}

/// WAL lets one process read while another writes. The mode stays with the file.
///
/// The switch needs the file for itself and does not wait for it, so it is tried again while another process is at it.
fn switch_to_wal(connection: &Connection) -> Result<(), DatabaseFault> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        let switched = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0));
        match switched {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(_) => return Err(Unusable::NoSharedMemory.into()),
            Err(error) => match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                _ => return Err(error.into()),
            },
        }
    }
}

/// At the opening, damage is a reason to name another file, not to try again.
fn unreadable(fault: DatabaseFault) -> DatabaseFault {
    let (error, code) = match fault {
        DatabaseFault::Corrupt(error) | DatabaseFault::Sqlite(error) => {
            let code = error.sqlite_error_code();
            (error, code)
        }
        other => return other,
    };
    match code {
        Some(ErrorCode::NotADatabase) => Unusable::NotSqlite.into(),
        // SQLite's general error is here that of a table that is missing; no code at all, of a row.
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::Unknown) | None => Unusable::Damaged(error).into(),
        Some(_) => error.into(),
    }
}
