//! What can go wrong with a database file, in words for whoever has to mend it.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{ErrorCode, ffi};
use rustix::fs::{Access, access};

use super::migration::EARLIER;
use super::schema::SCHEMA_VERSION;
use crate::random::NoEntropy;
use crate::store::schema::OtherSchema;
use crate::store::{Contradiction, NoRegistry, StoreError};
use crate::token::grant::Damaged;

/// The cause of a [`StoreError`].
#[derive(Debug, thiserror::Error)]
pub(super) enum DatabaseFault {
    #[error("the database is locked: another process has been writing to it for seconds; try again")]
    Locked,
    #[error("the disk is full: free some space and try again")]
    Full,
    #[error("this user may not write to the database file or its directory")]
    NotWritable,
    #[error("this user may not write to the directory {}: the database needs files beside it", .0.display())]
    DirectoryNotWritable(PathBuf),
    #[error("the database file is damaged: restore it from a backup")]
    Corrupt(#[source] rusqlite::Error),
    #[error("the database file was removed or replaced meanwhile: try again")]
    Replaced,
    #[error("there is no registry: the file {0}")]
    NoRegistry(NoRegistry),
    #[error("{0} tokens are recalled already, until a command that changes something revokes them again")]
    TooManyRecalls(u64),
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    #[error("cannot be used: {0}")]
    Unusable(#[from] Unusable),
    #[error("damaged record at {key}: {problem}")]
    Record { key: String, problem: String },
    #[error(transparent)]
    Sqlite(rusqlite::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("no randomness from the operating system")]
    Entropy(#[source] NoEntropy),
    #[error("{0}")]
    Frozen(String),
    #[error("the operation was cut off")]
    CutOff(#[from] tokio::task::JoinError),
}

impl DatabaseFault {
    /// The same of the database at this path: where the reason is its directory, that is said.
    pub(super) fn of_directory(self, path: &Path) -> Self {
        let is_refusal = match &self {
            Self::NotWritable => true,
            Self::Sqlite(error) => error.sqlite_error_code() == Some(ErrorCode::CannotOpen),
            Self::Io(error) => {
                matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
            }
            _ => false,
        };
        // What is to be made is made in the lowest directory that there is.
        let directory = path.ancestors().skip(1).find(|directory| directory.is_dir());
        match directory.filter(|_| is_refusal) {
            Some(directory) if access(directory, Access::WRITE_OK | Access::EXEC_OK).is_err() => {
                Self::DirectoryNotWritable(directory.to_owned())
            }
            _ => self,
        }
    }
}

/// Why a file is not a store of this version, and what to do. Completes the name of the store.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("is not an SQLite database: name another file")]
    NotSqlite,
    #[error("is the database of another program: name another file")]
    OtherProgram,
    #[error(transparent)]
    Schema(#[from] OtherSchema),
    #[error(
        "has schema {EARLIER}, this program makes it schema {SCHEMA_VERSION}, which the sidecar {name} ({version}) that runs \
         here could not read: stop it, or restart it with this program, first"
    )]
    LeavesBehind { name: String, version: String },
    #[error("is not empty, and nothing is written over: name another place, or move what is there away")]
    NotEmpty,
    #[error("is a symbolic link to a file that is not there: name the file itself, or remove the link")]
    LeadsNowhere,
    #[error("is being filled by another command")]
    Filled,
    #[error("has {} beside it, the log of a database that was moved away: move it there, or remove it", .0.display())]
    OtherLog(PathBuf),
    #[error("is damaged ({0}): restore it from a backup")]
    Damaged(rusqlite::Error),
    #[error("is on a file system without shared memory (a network one?): name a file on a local disk")]
    NoSharedMemory,
}

impl DatabaseFault {
    /// A record that cannot be read.
    pub(super) fn record(key: String, problem: impl std::fmt::Display) -> Self {
        Self::Record { key, problem: problem.to_string() }
    }

    /// The error that the caller sees.
    pub(super) fn during(self, operation: &'static str, store: &str) -> StoreError {
        let store = store.to_owned();
        match self {
            Self::Record { key, problem } => StoreError::DamagedRecord { store, key, problem },
            Self::Unusable(problem) => StoreError::Unusable { store, problem: problem.into() },
            Self::Frozen(reason) => StoreError::Frozen { store, reason },
            Self::NoRegistry(found) => StoreError::NoRegistry { store, found },
            cause => StoreError::Unavailable { operation, store, source: Box::new(cause) },
        }
    }
}

impl From<rusqlite::Error> for DatabaseFault {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked,
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => Self::NotWritable,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt(error),
            _ => match error {
                // The one trigger that there can be.
                rusqlite::Error::SqliteFailure(code, Some(reason))
                    if code.extended_code == ffi::SQLITE_CONSTRAINT_TRIGGER =>
                {
                    Self::Frozen(reason)
                }
                error => Self::Sqlite(error),
            },
        }
    }
}

/// Why a row could not be turned into what it should hold.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadRow {
    #[error(transparent)]
    Type(#[from] rusqlite::types::FromSqlError),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Encoding(#[from] Damaged),
    #[error("a digest has 32 bytes")]
    Digest,
    #[error("a column is missing")]
    Column,
}
