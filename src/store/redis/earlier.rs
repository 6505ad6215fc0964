//! The layout before this one, schema 1: how it is read, and how it becomes one of this schema.
//!
//! It had no commit ids and no heads. While a fleet is upgraded, sidecars of both versions share a store of schema 1,
//! which only programs of the version before write. The first commit of this version makes it one of this schema, in one
//! step, unless a sidecar reports that could not read it then. Records, grants and log entries that are there stay as they
//! are written; see [`layout`].

use redis::Pipeline;

use super::fault::Fault;
use super::layout::{self, Key, Layout, SCHEMA};
use super::link::Connection;
use super::reports;
use super::unusable::Unusable;
use super::{Access, script};
use crate::store::{CommitId, Epoch, Head, LogEntry, Revision, change};

pub(super) const EARLIER: u32 = 1;

const MIGRATE: &str = include_str!("migrate.lua");

/// Subscribes to the announcements of a store that is of schema 1 still. Of those only the ones in the store's epoch
/// count: other databases have the channel too.
pub(super) async fn subscribe(layout: &Layout, connection: &mut Connection) -> Result<Option<Epoch>, Fault> {
    let mut commands = Pipeline::new();
    commands.cmd("HMGET").arg(layout.key(Key::Meta)).arg(&["schema", "epoch"]);
    let ((schema, epoch),): ((Option<Vec<u8>>, Option<String>),) = connection.query(&commands).await?;
    if schema.as_deref() != Some(EARLIER.to_string().as_bytes()) {
        return Ok(None);
    }
    connection.subscribe(layout.earlier_channel()).await?;
    Ok(epoch.and_then(|epoch| layout::parse_hex(epoch.as_bytes())).map(Epoch))
}

/// What the commit script published: epoch, checksum, revision, space, changes.
pub(super) fn parse_announcement(bytes: &[u8]) -> Option<(Epoch, LogEntry)> {
    let (epoch, rest) = bytes.split_at_checked(16)?;
    let (checksum, rest) = rest.split_at_checked(16)?;
    let space = memchr::memchr(b' ', rest)?;
    let (revision, checksum) = (Revision(layout::parse_decimal(&rest[..space])?), layout::parse_hex(checksum)?);
    let (id, head) = (CommitId::default(), Head::unchained(revision, checksum));
    let changes = change::decode(&rest[space + 1..]).ok()?;
    Some((Epoch(layout::parse_hex(epoch)?), LogEntry { id, revision, head, checksum, changes }))
}

/// Makes the store one of this schema.
///
/// # Errors
/// [`Fault::Unusable`] names the sidecars that could not read it then.
pub(super) async fn migrate(access: &Access) -> Result<(), Fault> {
    let reports = reports::sidecars(access).await?;
    let left_behind = reports.iter().map(|reported| &reported.report).filter(|report| report.schema < SCHEMA);
    let left_behind: Vec<_> = left_behind.map(|report| format!("{} ({})", report.name, report.version)).collect();
    if !left_behind.is_empty() {
        return Err(Unusable::LeavesBehind(left_behind).into());
    }
    let mut migration = script("EVAL", MIGRATE, &[access.layout.key(Key::Meta)]);
    // Done twice, it finds what it did the first time.
    let answer: Vec<String> = access.ask(migration.arg(EARLIER).arg(SCHEMA)).await?;
    match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["migrated"] => {
            tracing::info!(store = access.name, from = EARLIER, to = SCHEMA, "the store has this version's schema now");
            Ok(())
        }
        ["absent"] => Err(access.layout.absent()),
        ["schema", found] => Err(layout::other_schema(found.as_bytes())),
        _ => Err(Fault::UnexpectedAnswer(answer.join(" "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_of_the_layout_before_are_understood() {
        let (revision, checksum) = (Revision(7), 10);
        let (id, head) = (CommitId::default(), Head::unchained(revision, checksum));
        assert_eq!(
            parse_announcement(b"00000000000000ff000000000000000a7 "),
            Some((Epoch(255), LogEntry { id, revision, head, checksum, changes: Vec::new() }))
        );
        for bad in [b"".as_slice(), b"00000000000000ff", b"00000000000000ff000000000000000a7"] {
            assert_eq!(parse_announcement(bad), None);
        }
    }
}
