//! The second step: loose entries become lines of the trail, and those that are old enough go.

use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;

use super::chain::Head;
use super::event::{Action, Event, Origin, Outcome, Subject, Who};
use crate::store::{AuditLine, Store, StoreError, TrailEnds, TrailStep};

/// Entries that become lines at once.
const STEP: usize = 100;

/// Lines looked at at once for how old they are.
const PAGE: usize = 500;

/// Most lines that one step removes.
const MOST_REMOVED: u64 = 10_000;

/// How often a step is tried again that somebody else was faster with: that others go on chaining is good enough.
const ATTEMPTS: usize = 8;

/// Who is recorded for what Tollgate does by itself.
const TOLLGATE: &str = "tollgate";

/// What became of the loose entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Linked {
    /// How many lines were added.
    pub added: u64,
    /// How many were removed, being old enough.
    pub removed: u64,
}

/// Chains what is loose, and removes what is older than the retention. What others chain at the same time is theirs.
///
/// # Errors
/// When the store fails. What was chained stays so.
pub async fn link(store: &dyn Store, retention: Duration) -> Result<Linked, StoreError> {
    let (mut linked, mut attempts) = (Linked::default(), 0);
    loop {
        let ends = store.trail_ends(STEP).await?;
        let is_last = ends.loose.len() as u64 == ends.loose_count;
        let removable = if is_last { removable(store, &ends, retention, Timestamp::now()).await? } else { None };
        if ends.loose.is_empty() && removable.is_none() {
            return Ok(linked);
        }
        let removed = removable.as_ref().map_or(0, |(_, count)| *count);
        let step = step(ends, removable.map(|(head, _)| head));
        let added = step.lines.len() as u64;
        if store.link(&step).await? {
            (linked.added, linked.removed, attempts) = (linked.added + added, linked.removed + removed, 0);
            if is_last {
                return Ok(linked);
            }
        } else {
            attempts += 1;
            if attempts == ATTEMPTS {
                return Ok(linked);
            }
        }
    }
}

/// Chains these entries, and leaves an entry for the lines that go, of which this is the last.
fn step(ends: TrailEnds, removed: Option<Head>) -> TrailStep {
    let mut head = ends.last.as_ref().map_or_else(Head::start, Head::of);
    let anchor = removed.as_ref().map(|last| {
        let subject = Subject { through: Some(last.seq), through_hash: Some(last.hash.clone()), ..Subject::default() };
        let who = Who::system(TOLLGATE, Origin::default());
        Event::new(&who, Action::AuditTrim, Outcome::Success, subject, now()).to_bytes()
    });
    let lines = ends.loose.iter().chain(&anchor).map(|entry| {
        let (line, next) = head.next(entry);
        head = next;
        line
    });
    let lines = lines.collect();
    TrailStep { lines, last: ends.last, loose: ends.loose, remove_through: removed.map(|last| last.seq) }
}

fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

/// The last line that is old enough to go, and how many that are. None before the oldest is a tenth older than that: each
/// time leaves an entry.
async fn removable(
    store: &dyn Store,
    ends: &TrailEnds,
    retention: Duration,
    now: Timestamp,
) -> Result<Option<(Head, u64)>, StoreError> {
    let Some(first) = &ends.first else { return Ok(None) };
    let before = |age: Duration| now.checked_sub(age).unwrap_or(Timestamp::MIN);
    let is_due = time_of(first).is_none_or(|at| at < before(retention.saturating_add(retention / 10)));
    if !is_due {
        return Ok(None);
    }
    let (kept_since, mut last, mut count) = (before(retention), None, 0);
    let mut after = first.seq.saturating_sub(1);
    while count < MOST_REMOVED {
        let page = store.trail_after(after, PAGE).await?;
        for line in &page {
            count += 1;
            match time_of(line) {
                Some(at) if at >= kept_since => return Ok(last),
                Some(_) => last = Some((Head::of(line), count)),
                // One that says no time goes with those after it.
                None => {}
            }
        }
        match page.last() {
            Some(line) => after = line.seq,
            None => break,
        }
    }
    Ok(last)
}

/// When the entry was made that a line holds.
fn time_of(line: &AuditLine) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Timed {
        timestamp: Timestamp,
    }
    serde_json::from_slice::<Timed>(&line.text).ok().map(|line| line.timestamp)
}
