//! One database file, from its opening until the path names another one.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use super::fault::DatabaseFault;
use super::{read, schema};
use crate::lock::Mutex;
use crate::store::{NoRegistry, Position};

/// Reading connections cached for the next reader.
const IDLE_READERS: usize = 4;

/// How long the emptying of the log waits for others, and others for it.
const LOG_TIMEOUT: Duration = Duration::from_millis(100);

/// The connections to one file. All of them are closed before another file at the same path is opened: what SQLite holds
/// beside a database is found by its name, and would be taken for the other one's.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    /// The file that was opened; the path may come to name another one.
    identity: FileIdentity,
    /// Its write-ahead log.
    log: Option<FileIdentity>,
    /// A panic while it is held leaves it usable, as with all of them: its transaction is rolled back.
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
    /// Opened by the first report.
    reporter: Mutex<Option<Connection>>,
}

impl Database {
    /// Opens the file, and returns its position. Where there is none it is made, if that is asked for.
    pub(super) fn open(path: &Path, create: bool) -> Result<(Self, Position), DatabaseFault> {
        Self::try_open(path, create).map_err(|fault| fault.of_directory(path))
    }

    fn try_open(path: &Path, create: bool) -> Result<(Self, Position), DatabaseFault> {
        if !create {
            FileIdentity::of_database(path)?;
        }
        let writer = schema::open(path, create)?;
        let position = read::position(&writer)?;
        let database = Self {
            identity: FileIdentity::of_database(path)?,
            log: FileIdentity::of(&log_of(path)).ok(),
            path: path.to_owned(),
            writer: Mutex::new(writer),
            readers: Mutex::new(Vec::new()),
            reporter: Mutex::new(None),
        };
        Ok((database, position))
    }

    /// Whether the path still names this file.
    ///
    /// # Errors
    /// [`DatabaseFault::NoRegistry`] if it names none, or an empty one; [`DatabaseFault::Replaced`] if it names another one.
    pub(super) fn check(&self) -> Result<(), DatabaseFault> {
        if FileIdentity::of_database(&self.path)? == self.identity { Ok(()) } else { Err(DatabaseFault::Replaced) }
    }

    /// Lends a reading connection.
    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, DatabaseFault>,
    ) -> Result<T, DatabaseFault> {
        let idle = self.readers.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => {
                let connection = schema::open_reader(&self.path)?;
                self.check()?; // or it may be a connection to another file
                connection
            }
        };
        let result = read(&connection)?;
        let mut idle = self.readers.lock();
        if idle.len() < IDLE_READERS {
            idle.push(connection);
        }
        Ok(result)
    }

    /// The connection whose commits count, for as long as the guard lives.
    pub(super) fn writer(&self) -> Result<MutexGuard<'_, Connection>, DatabaseFault> {
        let writer = self.writer.lock();
        self.check()?; // waiting for it may have taken long
        Ok(writer)
    }

    /// Lends the connection for what may be lost in a power failure.
    pub(super) fn report<T>(
        &self,
        write: impl FnOnce(&mut Connection) -> Result<T, DatabaseFault>,
    ) -> Result<T, DatabaseFault> {
        let mut reporter = self.reporter.lock();
        let connection = match &mut *reporter {
            Some(connection) => connection,
            none => {
                let connection = schema::open_reporter(&self.path)?;
                self.check()?; // or it may be a connection to another file
                none.insert(connection)
            }
        };
        write(connection)
    }

    /// Writes the write-ahead log back into the file and empties it: what was deleted is in neither then. Says whether that was
    /// done: nobody may read meanwhile, or write, and they are not waited for long.
    pub(super) fn empty_log(&self) -> Result<bool, DatabaseFault> {
        let writer = self.writer()?;
        writer.busy_timeout(LOG_TIMEOUT)?;
        let emptied = writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| Ok(!row.get::<_, bool>(0)?));
        writer.busy_timeout(schema::BUSY_TIMEOUT)?;
        match emptied {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(false),
            emptied => Ok(emptied?),
        }
    }

    /// Closes the connections. SQLite leaves the write-ahead log of a file that is no longer at its path where it is.
    pub(super) fn close(self) -> Closed {
        Closed { identity: self.identity, log: self.log }
    }
}

/// What is remembered of a file that was open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closed {
    identity: FileIdentity,
    log: Option<FileIdentity>,
}

impl Closed {
    /// Removes its write-ahead log, if another file is at its path now: SQLite would read it into that one. A log of another
    /// identity came with that file; and the file itself, come back, needs its own.
    pub(super) fn make_way(self, path: &Path) -> Result<(), DatabaseFault> {
        let log = log_of(path);
        if FileIdentity::of_database(path)? == self.identity
            || self.log.is_none()
            || FileIdentity::of(&log).ok() != self.log
        {
            return Ok(());
        }
        fs::remove_file(log)?;
        match fs::remove_file(beside(path, "-shm")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// A file: another one at the same path has another identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self { device: metadata.dev(), inode: metadata.ino() })
    }

    /// Of a database, which is never empty once it is one.
    fn of_database(path: &Path) -> Result<Self, DatabaseFault> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.len() == 0 => Err(DatabaseFault::NoRegistry(NoRegistry::EmptyFile)),
            Ok(metadata) => Ok(Self { device: metadata.dev(), inode: metadata.ino() }),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Err(DatabaseFault::NoRegistry(NoRegistry::NoFile))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The write-ahead log of the database at this path.
pub(super) fn log_of(path: &Path) -> PathBuf {
    beside(path, "-wal")
}

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
