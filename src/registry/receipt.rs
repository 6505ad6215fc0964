//! Receipts: until every sidecar that could still let a token in has applied what was committed.
//!
//! A receipt is about a commit, and not about its number: a store that lost writes gives revisions out again. So the history
//! is read from the commit on, and a sidecar has applied it if its head is in that history; and in the end the
//! commit must still be there. Of a command that took several commits, so must each of them. No sidecar at all is no yes,
//! nor is a store that may have lost reports.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use utoipa::ToSchema;

use super::Registry;
use crate::store::report::{this_host, with_distinct_names};
use crate::store::{Changes, Epoch, Head, Position, Reported, Revision, SidecarId, Store, StoreError};

/// The first pause between two looks, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// How long sidecars of which nothing is known are taken to serve without the store, at least: the default, and the age
/// that a report may have.
const BOUND: Duration = Duration::from_secs(70);

/// How far the sidecars came with a commit.
#[derive(Debug)]
pub(crate) struct Receipt {
    /// The store's position right after it.
    pub position: Position,
    /// Those that have applied it.
    pub applied: usize,
    /// Those that have not, in the order of their names.
    pub missing: Vec<Reported>,
    /// Why it cannot be said of all, although none is missing.
    pub obstacle: Option<Obstacle>,
    /// Who was the last to apply it.
    pub slowest: Option<String>,
    /// Since the commit.
    pub took: Duration,
}

/// Why there can be no receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Obstacle {
    #[error("no sidecar reports to this store, so none is known to have applied it")]
    NoSidecars,
    #[error(
        "the store was made, started anew, restored or promoted, or another was in charge or no sidecar reported for a while, or \
         it evicts keys, and may have lost reports: a sidecar that was cut off before may serve for {} s more without being \
         listed here",
        .0.as_secs() + 1
    )]
    ReportsLost(Duration),
    #[error("the store has lost the commit since: check the result, and run the command again")]
    CommitLost,
    #[error(
        "the change log no longer goes back to the commit, or is damaged, so it is unknown which sidecars have applied it"
    )]
    LogTrimmed,
}

/// Not every sidecar is known to have applied the commit.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoReceipt {
    #[error("there is no receipt: {0}")]
    Obstacle(Obstacle),
    #[error(
        "not applied within {:.1} s by {} of {of} sidecars: {}; it is committed, and a sidecar that does not receive it \
         stops serving after its max_staleness",
        .took.as_secs_f64(),
        .missing.len(),
        .missing.join(", ")
    )]
    Missing { took: Duration, missing: Vec<String>, of: usize },
}

/// A [`Receipt`] as programs see it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReceiptView {
    /// Whether every sidecar that could still let the token in has applied the change.
    pub complete: bool,
    /// The store's revision after the change.
    pub revision: u64,
    /// Sidecars that report to the store.
    pub sidecars: usize,
    /// Those that have applied it.
    pub applied: usize,
    /// The last one that did.
    #[schema(required)]
    pub slowest: Option<String>,
    /// From the change to the last look.
    pub milliseconds: f64,
    /// Those that have not applied it.
    pub missing: Vec<MissingView>,
    /// Why it is not known of all, although none of those that report is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A sidecar that has not applied a change.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MissingView {
    /// Its id: 16 hexadecimal digits.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The revision that it has reached; `null` while it reads the registry.
    #[schema(required)]
    pub revision: Option<u64>,
    /// The age of its last report.
    pub heard_seconds_ago: f64,
}

impl Registry {
    /// Waits, no longer than this, until every sidecar that could still let a token in has applied what this registry
    /// and its clones committed.
    ///
    /// # Errors
    /// When the store does not say which sidecars there are.
    pub(crate) async fn receipt(&self, timeout: Duration) -> Result<Receipt, StoreError> {
        let began = Instant::now();
        let history = CommitHistory::of(self.committed().await?);
        Receipt::of(&**self.store(), history, began, timeout).await
    }

    /// Waits, no longer than this, until every sidecar of this host has applied it, and tells of those that have not.
    ///
    /// # Errors
    /// As for [`Registry::receipt`].
    pub(crate) async fn missing_here(&self, timeout: Duration) -> Result<Vec<String>, StoreError> {
        let (began, store) = (Instant::now(), &**self.store());
        let mut history = CommitHistory::of(self.committed().await?);
        let host = (!store.is_of_one_host()).then(this_host);
        let is_here = |sidecar: &Reported| host.as_ref().is_none_or(|host| sidecar.report.host == *host);
        let mut pause = PAUSES.0;
        loop {
            let mut receipt = Receipt::check(store, &mut history, &[]).await?;
            receipt.missing.retain(is_here);
            let is_unknown = matches!(receipt.obstacle, Some(Obstacle::CommitLost | Obstacle::LogTrimmed));
            if receipt.missing.is_empty() || is_unknown || began.elapsed() >= timeout {
                return Ok(receipt.missing.iter().map(|sidecar| receipt.describe(sidecar)).collect());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(PAUSES.1);
        }
    }
}

/// The store's history from a command's first commit on, as far as it was read.
struct CommitHistory {
    /// The store's positions after the command's commits, in their order, but for the last one.
    earlier: Vec<Position>,
    /// And after that: whoever has come so far has applied all of them.
    commit: Position,
    heads: BTreeMap<Revision, Head>,
}

impl CommitHistory {
    fn of((earlier, commit): (Vec<Position>, Position)) -> Self {
        Self { earlier, commit, heads: BTreeMap::new() }
    }

    /// Reads what is not known yet, or all of it again where the store no longer goes on from there.
    async fn read(&mut self, store: &dyn Store) -> Result<Option<Obstacle>, StoreError> {
        let now = store.position().await?;
        let commits = || self.earlier.iter().chain([&self.commit]);
        // What was committed later and is not later was committed to a store that had lost what was before.
        let in_order = commits().is_sorted_by(|a, b| a == b || (a.epoch == b.epoch && a.revision < b.revision));
        if !in_order || now.epoch != self.commit.epoch || now.revision < self.commit.revision {
            return Ok(Some(Obstacle::CommitLost));
        }
        // A commit itself may be the one that made the registry: nothing is before it.
        let first = *self.earlier.first().unwrap_or(&self.commit);
        self.heads.insert(first.revision, first.head);
        while self.heads.last_key_value().is_some_and(|(last, _)| *last < now.revision) {
            let (last, head) = self.heads.last_key_value().map_or_else(Default::default, |(last, head)| (*last, *head));
            let entries = match store.changes(last).await? {
                Changes::Entries(entries) | Changes::Page(entries) | Changes::Costly(entries) => entries,
                Changes::Truncated => return Ok(Some(Obstacle::LogTrimmed)),
                Changes::Below => return Ok(Some(self.fork())),
            };
            let mut before = (head, last);
            for entry in &entries {
                if !entry.follows(before.0, before.1) {
                    return Ok(Some(self.fork()));
                }
                before = (entry.head, entry.revision);
                self.heads.insert(entry.revision, entry.head);
            }
            if entries.is_empty() {
                break;
            }
        }
        let is_in_it = |at: &Position| self.heads.get(&at.revision).is_none_or(|head| *head == at.head);
        let are_in_it = is_in_it(&now) && self.earlier.iter().chain([&self.commit]).all(is_in_it);
        Ok((!are_in_it).then(|| self.fork()))
    }

    /// What was read is of a past that the store no longer has; perhaps the commit is not.
    fn fork(&mut self) -> Obstacle {
        self.heads.clear();
        Obstacle::CommitLost
    }

    /// Whether a sidecar has applied the commit.
    fn includes(&self, sidecar: &Reported) -> bool {
        let Some((epoch, revision)) = sidecar.report.applied else { return false };
        epoch == self.commit.epoch
            && revision >= self.commit.revision
            && sidecar.report.head.is_some()
            && self.heads.get(&revision) == sidecar.report.head.as_ref()
    }
}

impl Receipt {
    async fn of(
        store: &dyn Store,
        mut history: CommitHistory,
        since: Instant,
        timeout: Duration,
    ) -> Result<Self, StoreError> {
        let mut pause = PAUSES.0;
        let mut behind = Vec::new();
        loop {
            let checked = Self::check(store, &mut history, &behind).await;
            let took = since.elapsed();
            match checked {
                Ok(receipt) if receipt.is_whole() || took >= timeout => return Ok(Self { took, ..receipt }),
                Ok(receipt) => behind = receipt.missing.into_iter().map(|sidecar| sidecar.report.id).collect(),
                // It was committed: that the store is away for a moment is no reason to stop asking.
                Err(error) if took >= timeout => return Err(error),
                Err(_) => {}
            }
            tokio::time::sleep(pause.min(timeout.saturating_sub(took))).await;
            pause = (pause * 3 / 2).min(PAUSES.1);
        }
    }

    /// How it is now. The commit is looked for after the reports: what is there then was there before.
    async fn check(store: &dyn Store, history: &mut CommitHistory, behind: &[SidecarId]) -> Result<Self, StoreError> {
        let sidecars = with_distinct_names(store.sidecars().await?);
        let reports_lost = store.unreported(longest_bound(&sidecars)).await?.map(Obstacle::ReportsLost);
        let no_sidecars = sidecars.is_empty().then_some(Obstacle::NoSidecars);
        let obstacle = history.read(store).await?.or(no_sidecars).or(reports_lost);
        let (applied, missing): (Vec<_>, Vec<_>) = sidecars.into_iter().partition(|sidecar| history.includes(sidecar));
        let slowest = slowest(&applied, behind);
        Ok(Self { position: history.commit, applied: applied.len(), missing, obstacle, slowest, took: Duration::ZERO })
    }

    /// Whether all have applied it.
    pub(crate) fn is_whole(&self) -> bool {
        self.missing.is_empty() && self.obstacle.is_none()
    }

    /// As programs see it.
    pub(crate) fn view(&self) -> ReceiptView {
        let missing = self.missing.iter().map(|sidecar| MissingView {
            id: sidecar.report.id.to_string(),
            name: sidecar.report.name.clone(),
            revision: revision_in(self.position.epoch, sidecar).map(|revision| revision.0),
            heard_seconds_ago: sidecar.age.as_secs_f64(),
        });
        ReceiptView {
            complete: self.is_whole(),
            revision: self.position.revision.0,
            sidecars: self.applied + self.missing.len(),
            applied: self.applied,
            slowest: self.slowest.clone(),
            milliseconds: (self.took.as_secs_f64() * 1e5).round() / 100.0,
            missing: missing.collect(),
            problem: self.obstacle.map(|obstacle| obstacle.to_string()),
        }
    }

    /// For people: that all have applied it, and how fast.
    ///
    /// # Errors
    /// That not all are known to have, and who has not.
    pub(crate) fn sentence(&self) -> Result<String, NoReceipt> {
        // Then who is missing says nothing.
        if let Some(obstacle @ (Obstacle::CommitLost | Obstacle::LogTrimmed)) = self.obstacle {
            return Err(NoReceipt::Obstacle(obstacle));
        }
        if !self.missing.is_empty() {
            let missing: Vec<_> = self.missing.iter().map(|sidecar| self.describe(sidecar)).collect();
            return Err(NoReceipt::Missing { took: self.took, of: self.applied + missing.len(), missing });
        }
        if let Some(obstacle) = self.obstacle {
            return Err(NoReceipt::Obstacle(obstacle));
        }
        let milliseconds = self.took.as_secs_f64() * 1e3;
        let by = match (self.applied, &self.slowest) {
            (1, Some(name)) => format!("the only sidecar, {name}, in {milliseconds:.1} ms"),
            (count, Some(name)) => format!("all {count} sidecars in {milliseconds:.1} ms (slowest: {name})"),
            (count, None) => format!("all {count} sidecars in {milliseconds:.1} ms"),
        };
        Ok(format!("applied by {by}"))
    }

    fn describe(&self, sidecar: &Reported) -> String {
        let at = match revision_in(self.position.epoch, sidecar) {
            _ if sidecar.report.head.is_none() && sidecar.report.applied.is_some() => {
                format!("version {}, which gives no receipts", sidecar.report.version)
            }
            Some(revision) => format!("at revision {revision} of {}", self.position.revision),
            None => "reading the registry".to_owned(),
        };
        format!("{} ({at}, last report {:.1} s ago)", sidecar.report.name, sidecar.age.as_secs_f64())
    }
}

/// How long sidecars serve without the store, at the longest: these, and others of which nothing is known.
pub(crate) fn longest_bound(sidecars: &[Reported]) -> Duration {
    sidecars.iter().map(|sidecar| sidecar.ttl).fold(BOUND, Duration::max)
}

/// The revision that a sidecar has applied, if it is of this epoch.
pub(crate) fn revision_in(epoch: Epoch, sidecar: &Reported) -> Option<Revision> {
    sidecar.report.applied.filter(|(of, _)| *of == epoch).map(|(_, revision)| revision)
}

/// Of those that were behind at the look before, or else of all, the one that reported last.
fn slowest(applied: &[Reported], behind: &[SidecarId]) -> Option<String> {
    let late = applied.iter().filter(|sidecar| behind.contains(&sidecar.report.id));
    let last = late.min_by_key(|sidecar| sidecar.age).or_else(|| applied.iter().min_by_key(|sidecar| sidecar.age));
    last.map(|sidecar| sidecar.report.name.clone())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::store::Report;

    fn sidecar(name: &str, applied: Option<(u64, u64)>, age: u64) -> Reported {
        let report = Report {
            id: SidecarId(name.bytes().map(u64::from).sum()),
            name: name.to_owned(),
            version: "1".to_owned(),
            address: "127.0.0.1:1".to_owned(),
            host: String::new(),
            started_at: Timestamp::UNIX_EPOCH,
            applied: applied.map(|(epoch, revision)| (Epoch(epoch), Revision(revision))),
            head: Some(Head(0)),
            unwritten_ms: None,
            held_users: Vec::new(),
            schema: crate::store::SCHEMA,
            staleness_ms: Some(3),
            connections: 0,
            draining: None,
            late: Vec::new(),
            config_cache: None,
        };
        Reported { report, age: Duration::from_millis(age), ttl: Duration::from_secs(70) }
    }

    fn position(epoch: u64, revision: u64, head: u128) -> Position {
        Position { epoch: Epoch(epoch), revision: Revision(revision), head: Head(head), checksum: 0 }
    }

    #[test]
    fn only_the_same_history_counts() {
        let history = CommitHistory {
            heads: [(4, 40), (5, 50), (6, 60)].map(|(at, head)| (Revision(at), Head(head))).into(),
            ..CommitHistory::of((vec![position(7, 4, 40)], position(7, 5, 50)))
        };
        let includes = |applied, head: Option<u128>| {
            let mut sidecar = sidecar("a", applied, 0);
            sidecar.report.head = head.map(Head);
            history.includes(&sidecar)
        };
        assert!(includes(Some((7, 5)), Some(50)) && includes(Some((7, 6)), Some(60)));
        assert!(!includes(Some((7, 5)), Some(51)), "another commit of that number");
        assert!(!includes(Some((7, 5)), None), "a version that says no more than the number");
        assert!(!includes(Some((7, 4)), Some(40)) && !includes(Some((8, 5)), Some(50)) && !includes(None, None));
    }

    #[test]
    fn the_slowest_is_the_last_of_those_that_were_behind() {
        let all = [sidecar("a", None, 1), sidecar("b", None, 5), sidecar("c", None, 3)];
        assert_eq!(slowest(&all, &[]).as_deref(), Some("a"));
        let behind = [all[1].report.id, all[2].report.id];
        assert_eq!(slowest(&all, &behind).as_deref(), Some("c"));
        assert_eq!(slowest(&[], &behind), None);
    }

    #[test]
    fn those_that_are_missing_are_named_with_what_is_known_of_them() {
        let receipt = Receipt {
            position: position(7, 5, 50),
            obstacle: None,
            applied: 1,
            missing: vec![sidecar("b", Some((7, 3)), 6000), sidecar("c", Some((8, 9)), 10)],
            slowest: None,
            took: Duration::from_secs(5),
        };
        let text = receipt.sentence().expect_err("missing").to_string();
        assert!(
            text.starts_with(
                "not applied within 5.0 s by 2 of 3 sidecars: b (at revision 3 of 5, last report 6.0 s ago), c (reading"
            ),
            "{text}"
        );
        let view = serde_json::to_value(receipt.view()).expect("serializes");
        let expected = serde_json::json!({
            "complete": false, "revision": 5, "sidecars": 3, "applied": 1, "slowest": null, "milliseconds": 5000.0,
            "missing": [
                { "id": "0000000000000062", "name": "b", "revision": 3, "heard_seconds_ago": 6.0 },
                { "id": "0000000000000063", "name": "c", "revision": null, "heard_seconds_ago": 0.01 },
            ],
        });
        assert_eq!(view, expected);
    }
}
