//! The audit trail in Redis, see [`Trail`](crate::store::Trail).

use redis::{Pipeline, cmd};

use super::fault::Fault;
use super::layout::{self, Key, SCHEMA};
use super::link::Use;
use super::{Access, script};
use crate::store::{AuditLine, TrailEnds, TrailStep};

const STEP: &str = include_str!("trail.lua");
const NOTE: &str = include_str!("note.lua");

/// An entry of a stream, as it is answered.
type Logged = (String, Vec<Vec<u8>>);

pub(super) async fn note(access: &Access, entries: &[Vec<u8>]) -> Result<(), Fault> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut note = script("EVAL", NOTE, &[Key::Meta, Key::AuditLoose].map(|key| access.layout.key(key)));
    entries.iter().for_each(|entry| _ = note.arg(entry.as_slice()));
    let answer: Vec<String> = access.ask(&note).await?;
    match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["noted"] => Ok(()),
        ["forbidden", what] => Err(Fault::NotPermitted(what.to_owned())),
        _ => Err(Fault::UnexpectedAnswer(answer.join(" "))),
    }
}

pub(super) async fn ends(access: &Access, limit: usize) -> Result<TrailEnds, Fault> {
    let (audit, loose) = (access.layout.key(Key::Audit), access.layout.key(Key::AuditLoose));
    let mut commands = Pipeline::new();
    commands.cmd("XRANGE").arg(audit).arg("-").arg("+").arg("COUNT").arg(1);
    commands.cmd("XREVRANGE").arg(audit).arg("+").arg("-").arg("COUNT").arg(1);
    // In this order: what is chained in between is missing here, and the step is not taken.
    commands.cmd("LLEN").arg(loose).cmd("LRANGE").arg(loose).arg(0).arg(limit.saturating_sub(1));
    let (first, last, loose_count, mut loose): (Vec<Logged>, Vec<Logged>, u64, Vec<Vec<u8>>) =
        access.link.read(Use::Main, &commands).await?;
    loose.truncate(limit);
    let one = |logged: Vec<Logged>| logged.into_iter().next().map(|logged| line(access, logged)).transpose();
    let loose_count = loose_count.max(loose.len() as u64);
    Ok(TrailEnds { first: one(first)?, last: one(last)?, loose, loose_count })
}

pub(super) async fn link(access: &Access, step: &TrailStep) -> Result<bool, Fault> {
    let keys = [Key::Meta, Key::Audit, Key::AuditLoose].map(|key| access.layout.key(key));
    let mut command = script("EVAL", STEP, &keys);
    command.arg(SCHEMA);
    match &step.last {
        Some(line) => command.arg(line.seq).arg(line.text.as_slice()),
        None => command.arg("").arg(""),
    };
    command.arg(step.remove_through.map_or_else(String::new, |seq| seq.to_string()));
    command.arg(step.loose.len());
    step.loose.iter().for_each(|entry| _ = command.arg(entry.as_slice()));
    step.lines.iter().for_each(|line| _ = command.arg(line.seq).arg(line.text.as_slice()));
    // Taken twice, it finds that something has changed: then it is read again.
    let answer: Vec<String> = access.ask(&command).await?;
    match answer.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["linked"] => Ok(true),
        ["changed"] => Ok(false),
        ["absent"] => Err(access.layout.absent()),
        ["forbidden", what] => Err(Fault::NotPermitted(what.to_owned())),
        _ => Err(Fault::UnexpectedAnswer(answer.join(" "))),
    }
}

pub(super) async fn after(access: &Access, seq: u64, limit: usize) -> Result<Vec<AuditLine>, Fault> {
    let mut range = cmd("XRANGE");
    range.arg(access.layout.key(Key::Audit)).arg(seq.saturating_add(1)).arg("+").arg("COUNT").arg(limit);
    lines(access, access.ask(&range).await?)
}

pub(super) async fn before(access: &Access, seq: Option<u64>, limit: usize) -> Result<Vec<AuditLine>, Fault> {
    let newest = match seq {
        Some(0) => return Ok(Vec::new()),
        Some(seq) => (seq - 1).to_string(),
        None => "+".to_owned(),
    };
    let mut range = cmd("XREVRANGE");
    range.arg(access.layout.key(Key::Audit)).arg(newest).arg("-").arg("COUNT").arg(limit);
    lines(access, access.ask(&range).await?)
}

fn lines(access: &Access, logged: Vec<Logged>) -> Result<Vec<AuditLine>, Fault> {
    logged.into_iter().map(|logged| line(access, logged)).collect()
}

fn line(access: &Access, (id, fields): Logged) -> Result<AuditLine, Fault> {
    let damaged = |problem: &str| Fault::record(format!("{} {id}", access.layout.key(Key::Audit)), problem);
    let number = id.split('-').next().unwrap_or_default();
    let seq = layout::parse_decimal(number.as_bytes()).ok_or_else(|| damaged("its number is none"))?;
    // What somebody else put there is a line that was changed.
    let text = fields.into_iter().nth(1).unwrap_or_default();
    Ok(AuditLine { seq, text })
}

pub(super) async fn written_to(access: &Access, place: &str) -> Result<Option<u64>, Fault> {
    access.ask(cmd("HGET").arg(access.layout.key(Key::AuditWritten)).arg(place)).await
}

pub(super) async fn set_written_to(access: &Access, place: &str, seq: u64) -> Result<(), Fault> {
    let _: u64 = access.ask(cmd("HSET").arg(access.layout.key(Key::AuditWritten)).arg(place).arg(seq)).await?;
    Ok(())
}
