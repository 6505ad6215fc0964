//! How old the registry is: the seconds that its commits have seen pass.
//!
//! Digests of deleted tokens age by it, and not by the clock of the wall, which can be set: a day that is skipped would let
//! a deleted token be made again. Counted is what passes between two commits within one run of the machine, by a clock that
//! nobody can set. What passes while it is off, or before the first commit after that, is not: they are retained for longer.

use rusqlite::Connection;

use super::fault::DatabaseFault;
use crate::clock::{self, Instant};

/// A moment of a run of the machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct BootTime {
    /// Which run.
    pub(super) boot: [u8; 16],
    /// Seconds since it began.
    pub(super) uptime: i64,
}

impl BootTime {
    /// This one.
    pub(super) fn now() -> Self {
        let uptime = Instant::now().uptime().as_secs();
        Self { boot: clock::boot().to_be_bytes(), uptime: i64::try_from(uptime).unwrap_or(i64::MAX) }
    }
}

/// Counts what has passed since the last commit: the age in seconds.
pub(super) fn advance(connection: &Connection, now: BootTime) -> Result<i64, DatabaseFault> {
    let sql =
        "UPDATE meta SET age = age + iif(boot = ?1, max(?2 - uptime, 0), 0), boot = ?1, uptime = ?2 RETURNING age";
    Ok(connection.prepare_cached(sql)?.query_row((now.boot, now.uptime), |row| row.get(0))?)
}
