//! `--wait`: until every sidecar has applied a revocation.

use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use serde::Serialize;

use super::output::{Output, note};
use crate::config::units::parse_duration;
use crate::store::report::told_apart;
use crate::store::{Epoch, Position, Reported, Revision, SidecarId, Store, StoreError};

/// The first pause between two looks, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(20));

/// Whether to wait, and how long.
#[derive(Debug, Clone, Copy, Args)]
pub struct WaitArgs {
    /// Wait until every live sidecar refuses them; with --json, print {"tokens": [...], "wait": {...}} instead of a list
    #[arg(long)]
    wait: bool,
    /// How long to wait at most; 5s if not given
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

/// How far the sidecars came with a revision.
#[derive(Debug)]
pub struct Receipt {
    epoch: Epoch,
    revision: Revision,
    /// Those that have applied it.
    applied: usize,
    /// Those that have not, in the order of their names.
    missing: Vec<Reported>,
    /// Who was the last to apply it.
    slowest: Option<String>,
    /// Since the commit.
    took: Duration,
}

/// A [`Receipt`] as programs see it.
#[derive(Debug, Serialize)]
pub struct ReceiptView {
    revision: u64,
    sidecars: usize,
    applied: usize,
    slowest: Option<String>,
    milliseconds: f64,
    missing: Vec<MissingView>,
}

#[derive(Debug, Serialize)]
struct MissingView {
    id: String,
    name: String,
    revision: Option<u64>,
    heard_seconds_ago: f64,
}

impl WaitArgs {
    /// Waits, if that was asked for, until every live sidecar has come to this position, which was just committed.
    ///
    /// # Errors
    /// When the store does not say which sidecars there are.
    pub async fn wait(self, store: &dyn Store, position: Option<Position>) -> Result<Option<Receipt>, StoreError> {
        let Some(position) = position.filter(|_| self.wait) else { return Ok(None) };
        let timeout = self.timeout.unwrap_or(Duration::from_secs(5));
        Ok(Some(Receipt::of(store, position, Instant::now(), timeout).await?))
    }
}

impl Receipt {
    async fn of(store: &dyn Store, position: Position, since: Instant, timeout: Duration) -> Result<Self, StoreError> {
        let Position { epoch, revision, .. } = position;
        let (mut pause, mut behind) = (PAUSES.0, Vec::new());
        loop {
            let looked = store.sidecars().await;
            let took = since.elapsed();
            match looked {
                Ok(sidecars) => {
                    let (applied, missing): (Vec<_>, Vec<_>) =
                        told_apart(sidecars).into_iter().partition(|sidecar| has_applied(sidecar, epoch, revision));
                    if missing.is_empty() || took >= timeout {
                        let slowest = slowest(&applied, &behind);
                        return Ok(Self { epoch, revision, applied: applied.len(), missing, slowest, took });
                    }
                    behind = missing.into_iter().map(|sidecar| sidecar.report.id).collect();
                }
                // It was committed: that the store is away for a moment is no reason to stop asking.
                Err(error) if took >= timeout => return Err(error),
                Err(_) => {}
            }
            tokio::time::sleep(pause.min(timeout.saturating_sub(took))).await;
            pause = (pause * 3 / 2).min(PAUSES.1);
        }
    }

    /// As programs see it.
    #[must_use]
    pub fn view(&self) -> ReceiptView {
        let missing = self.missing.iter().map(|sidecar| MissingView {
            id: sidecar.report.id.to_string(),
            name: sidecar.report.name.clone(),
            revision: self.revision_of(sidecar).map(|revision| revision.0),
            heard_seconds_ago: sidecar.age.as_secs_f64(),
        });
        ReceiptView {
            revision: self.revision.0,
            sidecars: self.applied + self.missing.len(),
            applied: self.applied,
            slowest: self.slowest.clone(),
            milliseconds: (self.took.as_secs_f64() * 1e5).round() / 100.0,
            missing: missing.collect(),
        }
    }

    /// Tells a person, where text was asked for.
    ///
    /// # Errors
    /// When some sidecar has not applied it, with their names; when it cannot be printed.
    pub fn tell(&self, output: Output) -> anyhow::Result<()> {
        if !self.missing.is_empty() {
            let all = self.applied + self.missing.len();
            let missing: Vec<_> = self.missing.iter().map(|sidecar| self.describe(sidecar)).collect();
            bail!(
                "not applied within {:.1} s by {} of {all} sidecars: {}; it is committed, and a sidecar that does not \
                 hear of it serves no longer than its max_staleness",
                self.took.as_secs_f64(),
                missing.len(),
                missing.join(", ")
            );
        }
        if output.json {
            return Ok(());
        }
        let milliseconds = self.took.as_secs_f64() * 1e3;
        let by = match (self.applied, &self.slowest) {
            (0, _) => {
                note("no sidecar reports to this store, so there is none to wait for");
                return Ok(());
            }
            (1, Some(name)) => format!("the only sidecar, {name}, in {milliseconds:.1} ms"),
            (count, Some(name)) => format!("all {count} sidecars in {milliseconds:.1} ms (slowest: {name})"),
            (count, None) => format!("all {count} sidecars in {milliseconds:.1} ms"),
        };
        Ok(output.text(&format!("applied by {by}\n"))?)
    }

    fn describe(&self, sidecar: &Reported) -> String {
        let at = match self.revision_of(sidecar) {
            Some(revision) => format!("at revision {revision} of {}", self.revision),
            None => "reading the registry".to_owned(),
        };
        format!("{} ({at}, heard {:.1} s ago)", sidecar.report.name, sidecar.age.as_secs_f64())
    }

    fn revision_of(&self, sidecar: &Reported) -> Option<Revision> {
        sidecar.report.applied.filter(|(epoch, _)| *epoch == self.epoch).map(|(_, revision)| revision)
    }
}

fn has_applied(sidecar: &Reported, epoch: Epoch, revision: Revision) -> bool {
    sidecar.report.applied.is_some_and(|applied| applied.0 == epoch && applied.1 >= revision)
}

/// Of those that were behind at the look before, or else of all, the one that was heard last.
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
            started_at: Timestamp::UNIX_EPOCH,
            applied: applied.map(|(epoch, revision)| (Epoch(epoch), Revision(revision))),
            head: None,
            schema: crate::store::SCHEMA,
            staleness_ms: Some(3),
            connections: 0,
        };
        Reported { report, age: Duration::from_millis(age) }
    }

    #[test]
    fn only_the_same_epoch_counts() {
        let has = |applied| has_applied(&sidecar("a", applied, 0), Epoch(7), Revision(5));
        assert!(has(Some((7, 5))) && has(Some((7, 6))));
        assert!(!has(Some((7, 4))) && !has(Some((8, 9))) && !has(None));
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
            epoch: Epoch(7),
            revision: Revision(5),
            applied: 1,
            missing: vec![sidecar("b", Some((7, 3)), 6000), sidecar("c", Some((8, 9)), 10)],
            slowest: None,
            took: Duration::from_secs(5),
        };
        let text = receipt.tell(Output { json: false, colour: false }).expect_err("missing").to_string();
        assert!(
            text.starts_with(
                "not applied within 5.0 s by 2 of 3 sidecars: b (at revision 3 of 5, heard 6.0 s ago), c (reading"
            ),
            "{text}"
        );
        let view = serde_json::to_value(receipt.view()).expect("serializes");
        let expected = serde_json::json!({
            "revision": 5, "sidecars": 3, "applied": 1, "slowest": null, "milliseconds": 5000.0,
            "missing": [
                { "id": "0000000000000062", "name": "b", "revision": 3, "heard_seconds_ago": 6.0 },
                { "id": "0000000000000063", "name": "c", "revision": null, "heard_seconds_ago": 0.01 },
            ],
        });
        assert_eq!(view, expected);
    }
}
