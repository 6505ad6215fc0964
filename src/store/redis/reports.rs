//! What sidecars report of themselves.

use std::time::Duration;

use redis::Pipeline;

use super::Access;
use super::fault::Fault;
use super::layout::Key;
use super::link::Use;
use super::tenure::{self, Left};
use crate::clock::Instant;
use crate::store::{Report, Reported, SidecarId};

const REPORTS: &str = include_str!("reports.lua");
const FORGET: &str = include_str!("forget.lua");

pub(super) async fn report(access: &Access, report: &Report, ttl: Duration) -> Result<(), Fault> {
    let json = serde_json::to_string(report).map_err(|problem| Fault::record("a new report".to_owned(), problem))?;
    let (ttl_millis, key) = (ttl.as_millis().max(1), access.layout.sidecar(report.id));
    let mut commands = Pipeline::new();
    let list = |commands: &mut Pipeline| {
        commands.cmd("SADD").arg(access.layout.key(Key::Sidecars)).arg(report.id.to_string()).ignore();
    };
    tenure::make_up(access).await?;
    commands.cmd("PTTL").arg(&key);
    // First, so that no report is there that nobody finds; and once more, as it may be forgotten until the report is there.
    list(&mut commands);
    commands.cmd("SET").arg(&key).arg(format!("{ttl_millis} {json}")).arg("PX").arg(ttl_millis).ignore();
    list(&mut commands);
    let before = access.report_left.lock().take().filter(|before| before.sidecar == report.id);
    let now = Left { sidecar: report.id, sent: Instant::now(), ttl };
    let taken: Result<(i64,), Fault> = access.link.read(Use::Main, &commands).await;
    if taken.as_ref().is_err_and(Fault::is_out_of_memory) {
        // The one that is there goes on: it says less than is true, and whoever waits for this sidecar learns that.
        let mut commands = Pipeline::new();
        commands.cmd("PEXPIRE").arg(key).arg(ttl_millis).ignore();
        access.link.read::<()>(Use::Main, &commands).await?;
    }
    let (left,) = taken?;
    *access.report_left.lock() = Some(now);
    let is_kept = before.is_none_or(|before| before.is_kept(left, Instant::now()));
    tenure::go_on(access, report, is_kept).await
}

/// Asked for over the connection that proves: both are answered by the same server.
pub(super) async fn left(access: &Access, sidecar: SidecarId) -> Result<Option<Duration>, Fault> {
    let mut commands = Pipeline::new();
    commands.cmd("PTTL").arg(access.layout.sidecar(sidecar));
    let (left,): (i64,) = access.link.read(access.proof(), &commands).await?;
    Ok(u64::try_from(left).ok().map(Duration::from_millis))
}

pub(super) async fn withdraw(access: &Access, sidecar: SidecarId) -> Result<(), Fault> {
    let mut commands = Pipeline::new();
    commands.cmd("SREM").arg(access.layout.key(Key::Sidecars)).arg(sidecar.to_string()).ignore();
    commands.cmd("DEL").arg(access.layout.sidecar(sidecar)).ignore();
    access.link.read(Use::Main, &commands).await
}

/// The reports that have not expired. Ids whose report has are forgotten on the way.
pub(super) async fn sidecars(access: &Access) -> Result<Vec<Reported>, Fault> {
    let mut commands = Pipeline::new();
    commands.cmd("EVAL_RO").arg(REPORTS).arg(1).arg(access.layout.key(Key::Sidecars)).arg(access.layout.sidecar(""));
    let (answers,): (Vec<(String, Option<String>, i64)>,) = access.link.read(Use::Main, &commands).await?;
    let (mut reports, mut gone) = (Vec::new(), Vec::new());
    for (id, text, left) in answers {
        let is_its_own = |reported: &Reported| reported.report.id.to_string() == id;
        match text.as_deref().map(|text| parse(text, left).filter(is_its_own)) {
            Some(Some(reported)) => reports.push(reported),
            Some(None) => {
                let (store, key) = (&access.name, access.layout.sidecar(id));
                tracing::warn!(store, key, "the report of a sidecar cannot be read");
            }
            None => gone.push(id),
        }
    }
    if !gone.is_empty() {
        forget(access, &gone).await;
    }
    reports.sort_by(|a, b| (&a.report.name, a.report.id).cmp(&(&b.report.name, b.report.id)));
    Ok(reports)
}

/// Forgets those that have no report even now.
async fn forget(access: &Access, sidecars: &[String]) {
    let mut commands = Pipeline::new();
    commands.cmd("EVAL").arg(FORGET).arg(1).arg(access.layout.key(Key::Sidecars));
    commands.arg(access.layout.sidecar("")).arg(sidecars).ignore();
    if let Err(fault) = access.link.read::<()>(Use::Main, &commands).await {
        tracing::debug!(store = access.name, reason = %fault, "the ids of sidecars that are gone stay");
    }
}

/// Its TTL in milliseconds, space, JSON; and what is left of the TTL.
fn parse(text: &str, left: i64) -> Option<Reported> {
    let (ttl, json) = text.split_once(' ')?;
    let left = u64::try_from(left).unwrap_or(0);
    let ttl = ttl.parse::<u64>().ok()?;
    let (age, ttl) = (Duration::from_millis(ttl.saturating_sub(left)), Duration::from_millis(ttl));
    Some(Reported { report: serde_json::from_str(json).ok()?, age, ttl })
}
