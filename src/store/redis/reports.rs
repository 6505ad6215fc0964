//! What sidecars write: reports of themselves, and digests that the store lost the revocation of.

use std::time::Duration;

use redis::Pipeline;

use super::Access;
use super::fault::Fault;
use super::layout::Key;
use super::read::digest_of;
use crate::store::{Report, Reported, SidecarId};
use crate::token::Digest;

const SETTLE: &str = include_str!("settle.lua");

/// Digests written by one command. Either may be repeated without harm, so it is sent again like one that only reads.
const PIECE: usize = 1000;

pub(super) async fn recalled(access: &Access) -> Result<Vec<Digest>, Fault> {
    let mut commands = Pipeline::new();
    commands.cmd("SMEMBERS").arg(access.layout.key(Key::Recalled));
    let (members,): (Vec<Vec<u8>>,) = access.link.read(&commands).await?;
    Ok(members.iter().filter_map(|bytes| digest_of(access, Key::Recalled, bytes)).collect())
}

pub(super) async fn recall(access: &Access, digests: &[Digest]) -> Result<(), Fault> {
    for digests in digests.chunks(PIECE) {
        let members: Vec<_> = digests.iter().map(|digest| digest.as_bytes().as_slice()).collect();
        let mut commands = Pipeline::new();
        commands.cmd("SADD").arg(access.layout.key(Key::Recalled)).arg(&members);
        let (_,): (u64,) = access.link.read(&commands).await?;
    }
    Ok(())
}

pub(super) async fn settle_recalls(access: &Access, digests: &[Digest]) -> Result<(), Fault> {
    let keys = [Key::Meta, Key::Recalled].map(|key| access.layout.key(key));
    for digests in digests.chunks(PIECE) {
        let members: Vec<_> = digests.iter().map(|digest| digest.as_bytes().as_slice()).collect();
        let mut commands = Pipeline::new();
        commands.cmd("EVAL").arg(SETTLE).arg(keys.len()).arg(&keys).arg(&members);
        let (_,): (Vec<String>,) = access.link.read(&commands).await?;
    }
    Ok(())
}

pub(super) async fn report(access: &Access, report: &Report, keep: Duration) -> Result<(), Fault> {
    let json = serde_json::to_string(report).map_err(|problem| Fault::record("a new report".to_owned(), problem))?;
    let keep = keep.as_millis().max(1);
    let mut commands = Pipeline::new();
    commands.cmd("SADD").arg(access.layout.key(Key::Sidecars)).arg(report.id.to_string()).ignore();
    commands.cmd("SET").arg(access.layout.sidecar(report.id)).arg(format!("{keep} {json}"));
    commands.arg("PX").arg(keep).ignore();
    let taken: Result<(), Fault> = access.link.read(&commands).await;
    if taken.as_ref().is_err_and(Fault::is_out_of_memory) {
        // The one that is there goes on: it says less than is true, and whoever waits for this sidecar learns that.
        let mut commands = Pipeline::new();
        commands.cmd("PEXPIRE").arg(access.layout.sidecar(report.id)).arg(keep).ignore();
        access.link.read::<()>(&commands).await?;
    }
    taken
}

pub(super) async fn left(access: &Access, sidecar: SidecarId) -> Result<Option<Duration>, Fault> {
    let mut commands = Pipeline::new();
    commands.cmd("PTTL").arg(access.layout.sidecar(sidecar));
    let (left,): (i64,) = access.link.read(&commands).await?;
    Ok(u64::try_from(left).ok().map(Duration::from_millis))
}

pub(super) async fn withdraw(access: &Access, sidecar: SidecarId) -> Result<(), Fault> {
    let mut commands = Pipeline::new();
    commands.cmd("SREM").arg(access.layout.key(Key::Sidecars)).arg(sidecar.to_string()).ignore();
    commands.cmd("DEL").arg(access.layout.sidecar(sidecar)).ignore();
    access.link.read(&commands).await
}

/// The reports that have not expired. Ids whose report has are forgotten on the way.
pub(super) async fn sidecars(access: &Access) -> Result<Vec<Reported>, Fault> {
    let mut commands = Pipeline::new();
    commands.cmd("SMEMBERS").arg(access.layout.key(Key::Sidecars));
    let (ids,): (Vec<String>,) = access.link.read(&commands).await?;
    let ids = ids.iter().filter_map(|id| u64::from_str_radix(id, 16).ok().map(SidecarId));
    let ids: Vec<SidecarId> = ids.collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut commands = Pipeline::new();
    for id in &ids {
        let key = access.layout.sidecar(*id);
        commands.cmd("PTTL").arg(&key).cmd("GET").arg(&key);
    }
    let answers: Vec<(i64, Option<String>)> = pairs(access.link.read(&commands).await?)?;
    let (mut reports, mut gone) = (Vec::new(), Vec::new());
    for (id, (left, text)) in ids.into_iter().zip(answers) {
        match text.as_deref().map(|text| parse(text, left).filter(|reported| reported.report.id == id)) {
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

/// A sidecar that reports at this very moment is back with its next report.
async fn forget(access: &Access, sidecars: &[SidecarId]) {
    let mut commands = Pipeline::new();
    commands.cmd("SREM").arg(access.layout.key(Key::Sidecars));
    commands.arg(sidecars.iter().map(SidecarId::to_string).collect::<Vec<_>>());
    if let Err(fault) = access.link.read::<(u64,)>(&commands).await {
        tracing::debug!(store = access.name, reason = %fault, "the ids of sidecars that are gone stay");
    }
}

/// How long it was to be kept, space, JSON; and the milliseconds that are left of that.
fn parse(text: &str, left: i64) -> Option<Reported> {
    let (keep, json) = text.split_once(' ')?;
    let left = u64::try_from(left).unwrap_or(0);
    let keep = keep.parse::<u64>().ok()?;
    let (age, keep) = (Duration::from_millis(keep.saturating_sub(left)), Duration::from_millis(keep));
    Some(Reported { report: serde_json::from_str(json).ok()?, age, keep })
}

/// Answers that came one after the other, two by two.
fn pairs(answers: Vec<redis::Value>) -> Result<Vec<(i64, Option<String>)>, Fault> {
    let pairs = redis::from_redis_value(redis::Value::Array(answers));
    pairs.map_err(|error| Fault::Senseless(error.to_string()))
}
