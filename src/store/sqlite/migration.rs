//! A database of the schema before, version 2, becomes one of this schema.
//!
//! It had no commit ids and no heads: a record's version was the revision that wrote it, and stays that number. A program
//! of the version before that has the file open could not read it any more, so a sidecar that goes on reporting is a
//! reason not to begin. One that was killed only looks as if it did, until its next report does not come.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::fault::{DatabaseFault, Unusable};
use super::fleet;
use super::schema::{SCHEMA_VERSION, version};
use crate::store::{Reported, SidecarId};

pub(super) const EARLIER: u32 = SCHEMA_VERSION - 1;

/// Longer than the pause between two reports of the version before.
const SILENCE: Duration = Duration::from_secs(12);

/// The pause between two looks at the reports.
const PAUSE: Duration = Duration::from_millis(100);

/// Log entries get the head that a replica makes of them which read them before, see
/// [`Head::unchained`](crate::store::Head::unchained). The times of tombstones were seconds since 1970: the newest is taken to
/// be of this moment, and the others to be older by as much as they were.
const MIGRATION: &str = "
    ALTER TABLE meta ADD COLUMN head BLOB NOT NULL DEFAULT (x'');
    ALTER TABLE meta ADD COLUMN recalls INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE meta ADD COLUMN age INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE meta ADD COLUMN boot BLOB NOT NULL DEFAULT (x'');
    ALTER TABLE meta ADD COLUMN uptime INTEGER NOT NULL DEFAULT 0;
    UPDATE meta SET head = unhex(printf('%016x%016x', revision, checksum)), recalls = (SELECT count(*) FROM recalls);
    ALTER TABLE users RENAME COLUMN version TO revision;
    ALTER TABLE users ADD COLUMN version BLOB NOT NULL DEFAULT (x'');
    ALTER TABLE users ADD COLUMN token_set BLOB;
    UPDATE users SET version = unhex(printf('%032x', revision));
    ALTER TABLE tokens RENAME COLUMN version TO revision;
    ALTER TABLE tokens ADD COLUMN version BLOB NOT NULL DEFAULT (x'');
    UPDATE tokens SET version = unhex(printf('%032x', revision));
    ALTER TABLE tokens DROP COLUMN revision;
    ALTER TABLE log ADD COLUMN id BLOB NOT NULL DEFAULT (x'00000000000000000000000000000000');
    ALTER TABLE log ADD COLUMN head BLOB NOT NULL DEFAULT (x'');
    UPDATE log SET head = unhex(printf('%016x%016x', revision, checksum));
    UPDATE tombstones SET at = at - (SELECT max(at) FROM tombstones);
";

/// Migrates the database in one transaction, under the lock for writing; if another process was faster, it is done.
pub(super) fn migrate(connection: &mut Connection, store: &str) -> Result<(), DatabaseFault> {
    let (began, mut first_reports) = (Instant::now(), HashMap::new());
    loop {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if version(&transaction)? != EARLIER {
            return Ok(());
        }
        let left_behind = left_behind(&transaction, store)?;
        if left_behind.is_empty() {
            transaction.execute_batch(MIGRATION)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            transaction.commit()?;
            tracing::info!(store, from = EARLIER, to = SCHEMA_VERSION, "the database has this version's schema now");
            return Ok(());
        }
        drop(transaction);
        let looked = began.elapsed();
        let lives = |sidecar: &&Reported| is_renewed(&mut first_reports, sidecar, looked);
        if let Some(alive) = left_behind.iter().find(lives) {
            let (name, version) = (alive.report.name.clone(), alive.report.version.clone());
            return Err(Unusable::LeavesBehind { name, version }.into());
        }
        std::thread::sleep(PAUSE);
    }
}

/// Sidecars that may run, and cannot read this schema.
fn left_behind(transaction: &Transaction<'_>, store: &str) -> Result<Vec<Reported>, DatabaseFault> {
    // Their times were milliseconds since 1970.
    let mut reports = fleet::sidecars(transaction, || jiff::Timestamp::now().as_millisecond(), store)?;
    reports.retain(|sidecar| sidecar.report.schema < SCHEMA_VERSION && sidecar.age < SILENCE);
    Ok(reports)
}

/// Whether it has reported again since it was seen first. This look is so long after the beginning.
fn is_renewed(first: &mut HashMap<SidecarId, (Duration, Duration)>, sidecar: &Reported, looked: Duration) -> bool {
    let (seen, age) = *first.entry(sidecar.report.id).or_insert((looked, sidecar.age));
    // The same report is older by as much as has passed since, but for the clocks' steps.
    sidecar.age + PAUSE / 2 < age + (looked - seen)
}
