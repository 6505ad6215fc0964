//! Since when the primary has had every report that it was given.
//!
//! Reports are no commits, and no replica confirms them: a server that was started anew, restored or promoted may lack some.
//! A sidecar that still reaches it reports again at once. One that was cut off does not, and serves on until its freshness
//! has run out: so long, nobody can say that all have applied something. Each time that a server takes charge it has another
//! replication id, so the one that was seen first, and when, is stored beside the reports. A server that evicts keys may have
//! evicted some too.

use std::time::Duration;

use redis::Pipeline;

use super::Access;
use super::fault::Fault;
use super::layout::Key;
use super::link::Use;

/// How long it is remembered when it was seen: what was longer ago does not matter.
const REMEMBERED: Duration = Duration::from_hours(30 * 24);

/// A registry was made: from here on, this server has all reports.
pub(super) async fn begin(access: &Access) -> Result<(), Fault> {
    let id = name(access).await?;
    let mut commands = Pipeline::new();
    commands.cmd("SET").arg(access.layout.key(Key::Tenure)).arg(id).ignore();
    access.link.read(Use::Main, &commands).await
}

/// For how much longer there may be a sidecar that serves and has no report here.
pub(super) async fn unreported(access: &Access, bound: Duration) -> Result<Option<Duration>, Fault> {
    let (id, key) = (name(access).await?, access.layout.key(Key::Tenure));
    let mut commands = Pipeline::new();
    commands.cmd("GET").arg(key).cmd("PTTL").arg(key);
    let (known, left): (Option<String>, i64) = access.link.read(Use::Main, &commands).await?;
    let mut commands = Pipeline::new();
    if known.as_ref() != Some(&id) {
        commands.cmd("SET").arg(key).arg(id).arg("PX").arg(REMEMBERED.as_millis()).ignore();
        access.link.read::<()>(Use::Main, &commands).await?;
        return Ok(Some(bound));
    }
    // It does not end: all reports were ever given to this server.
    let Ok(left) = u64::try_from(left) else { return Ok(None) };
    let lasted = REMEMBERED.saturating_sub(Duration::from_millis(left));
    if bound.is_zero() {
        return Ok(None);
    }
    if lasted < bound {
        return Ok(Some(bound - lasted));
    }
    commands.cmd("PERSIST").arg(key).ignore();
    access.link.read::<()>(Use::Main, &commands).await?;
    Ok(None)
}

/// Names the primary, and this term of it; another name from when it evicts keys, which may be reports.
async fn name(access: &Access) -> Result<String, Fault> {
    let mut commands = Pipeline::new();
    commands.cmd("INFO").arg("replication").arg("stats");
    let (info,): (String,) = access.link.read(Use::Main, &commands).await?;
    let value = |key: &str| {
        let value = info.lines().find_map(|line| line.strip_prefix(key));
        value.map(str::trim).ok_or_else(|| Fault::UnexpectedAnswer(format!("INFO has no {key}")))
    };
    Ok(format!("{} {}", value("master_replid:")?, value("evicted_keys:")?))
}
