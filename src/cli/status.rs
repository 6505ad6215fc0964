//! `tollgate status`: the store's position, and every sidecar.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use super::args::Format;
use super::output::{Output, note};
use super::session::Session;
use super::table::{Cell, TextTable, Tone, details};
use super::{Globals, time};
use crate::chain::chain;
use crate::registry::receipt::revision_in;
use crate::registry::status::{FleetStatus, away_for, staleness};
use crate::store::{Absent, Replicas, Reported, SCHEMA};
use crate::units::format_duration;

/// Time from one look to the next.
const INTERVAL: Duration = Duration::from_secs(1);

/// Staleness from which a sidecar is worth a look: a few probes were missed.
const STALE: Duration = Duration::from_secs(10);

/// Arguments of `status`.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct StatusArgs {
    /// Refresh every second until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Text or JSON.
    #[command(flatten)]
    format: Format,
}

/// Prints the store's position, and every sidecar; with `--watch` again and again.
///
/// # Errors
/// When the store does not answer; while watching that is said, and it is asked again.
pub(super) async fn run(globals: &Globals, args: StatusArgs) -> anyhow::Result<()> {
    let session = Session::open(globals, Absent::Refuse).await?;
    let store = &**session.registry.store();
    let output = Output::new(args.format);
    if !args.watch {
        return print(&FleetStatus::read(store).await?, output, false);
    }
    let redraws = !output.json && io::stdout().is_terminal();
    loop {
        match FleetStatus::read(store).await {
            Ok(status) => {
                if redraws {
                    output.text("\x1b[H\x1b[2J")?; // to the top left, and clear (ECMA-48 CUP, ED)
                }
                print(&status, output, true)?;
                if !output.json && !redraws {
                    output.text("\n")?;
                }
            }
            Err(error) => note(format_args!("tollgate: {}", chain(&error))),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

impl FleetStatus {
    fn text(&self, now: Timestamp, colour: bool) -> String {
        let mut pairs: Vec<(&str, Cell)> = vec![
            ("store", self.store.as_str().into()),
            ("epoch", self.position.epoch.to_string().into()),
            ("revision", self.position.revision.to_string().into()),
            ("tokens", self.tokens.to_string().into()),
        ];
        if let Some(schema) = self.earlier_schema {
            let text = format!(
                "{schema}: the next command that changes the registry makes it {SCHEMA}, which the version before cannot read"
            );
            pairs.push(("schema", Cell::toned(&text, Tone::Warn)));
        }
        if self.recalled > 0 {
            let text = format!(
                "{}: revocations that the store lost; the next command that changes the registry commits them",
                self.recalled
            );
            pairs.push(("recalls", Cell::toned(&text, Tone::Warn)));
        }
        if let Some(replicas) = &self.replicas {
            let tone = if replicas.connected < replicas.promotable { Tone::Warn } else { Tone::Plain };
            pairs.push(("replicas", Cell::toned(&protection(replicas), tone)));
        }
        if let Some(reason) = &self.writes_refused {
            pairs.push(("writes", Cell::toned(&format!("refused: {reason}"), Tone::Warn)));
        }
        if let Some(reason) = &self.frozen {
            let text = format!("refused: {reason}; `tollgate store unfreeze` lifts that");
            pairs.push(("frozen", Cell::toned(&text, Tone::Warn)));
        }
        let held: BTreeSet<&str> =
            self.sidecars.iter().flat_map(|sidecar| &sidecar.report.held_users).map(String::as_str).collect();
        if !held.is_empty() {
            let names = held.into_iter().collect::<Vec<_>>().join(", ");
            let text = format!(
                "{names}: the store lost that they were disabled or given a weaker role; sidecars enforce it until a \
                 command changes them"
            );
            pairs.push(("held users", Cell::toned(&text, Tone::Warn)));
        }
        for sidecar in &self.sidecars {
            let (Some(away), Some(cache)) = (away_for(sidecar), sidecar.report.config_cache) else { continue };
            let text = format!(
                "away for {}, for {}: agents get what is stored ({} configurations, given {} times)",
                sidecar.report.name,
                format_duration(Duration::from_secs(away.as_secs())),
                cache.entries,
                cache.served
            );
            pairs.push(("Controller", Cell::toned(&text, Tone::Warn)));
        }
        for report in self.sidecars.iter().map(|sidecar| &sidecar.report) {
            if let Some(reason) = &report.draining {
                pairs.push(("not ready", Cell::toned(&format!("{}: {reason}", report.name), Tone::Warn)));
            }
        }
        if self.sidecars.is_empty() {
            pairs.push(("sidecars", "none report to this store".into()));
        }
        let mut text = details(&pairs, colour);
        if !self.sidecars.is_empty() {
            let headings = ["NAME", "ID", "VERSION", "ADDRESS", "REVISION", "FRESH", "CONNECTIONS", "STARTED"];
            let rows = self.sidecars.iter().map(|sidecar| self.row(sidecar, now)).collect();
            text.push('\n');
            text.push_str(&TextTable::new(headings, colour).page(rows));
        }
        text
    }

    fn row(&self, sidecar: &Reported, now: Timestamp) -> [Cell; 8] {
        let report = &sidecar.report;
        let revision = match revision_in(self.position.epoch, sidecar) {
            Some(revision) if revision >= self.position.revision => Cell::toned(&revision.to_string(), Tone::Good),
            Some(revision) => {
                let behind = self.position.revision.0 - revision.0;
                Cell::toned(&format!("{revision} ({behind} behind)"), Tone::Warn)
            }
            None => Cell::toned("reading", Tone::Warn),
        };
        let fresh = match staleness(sidecar) {
            Some(staleness) => {
                let tone = if staleness < STALE { Tone::Good } else { Tone::Bad };
                Cell::toned(&format!("{:.1} s ago", staleness.as_secs_f64()), tone)
            }
            None => Cell::toned("not yet", Tone::Warn),
        };
        [
            report.name.as_str().into(),
            report.id.to_string().into(),
            report.version.as_str().into(),
            report.address.as_str().into(),
            revision,
            fresh,
            report.connections.to_string().into(),
            time::relative(report.started_at, now).into(),
        ]
    }
}

/// What the replicas protect from, and what they do not.
fn protection(replicas: &Replicas) -> String {
    let Replicas { connected, promotable, quorum } = replicas;
    let isolation = match replicas.isolate_an_old_primary() {
        true => "an isolated primary is detected",
        false => "an isolated primary is NOT detected",
    };
    let commits = match (replicas.keep_commits(), quorum) {
        (true, _) => "a failover loses no acknowledged commit",
        (false, 0) => "a failover may lose acknowledged commits",
        (false, _) => "a failover may lose commits that not all have confirmed (commands end with exit code 3)",
    };
    format!("{connected} of {promotable} connected, quorum_replicas {quorum}: {isolation}; {commits}")
}

/// Prints it; one line of JSON where more will follow.
fn print(status: &FleetStatus, output: Output, one_of_many: bool) -> anyhow::Result<()> {
    if !output.json {
        return Ok(output.text(&status.text(Timestamp::now(), output.colour))?);
    }
    if one_of_many {
        return Ok(output.text(&(serde_json::to_string(&status.view())? + "\n"))?);
    }
    output.json(&status.view())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::{Epoch, Head, Position, Report, Revision, SidecarId};

    fn status(applied: Option<(u64, u64)>) -> FleetStatus {
        let report = Report {
            id: SidecarId(0xabc),
            name: "edge-1".to_owned(),
            version: "0.1.0".to_owned(),
            address: "127.0.0.1:8080".to_owned(),
            host: String::new(),
            started_at: Timestamp::UNIX_EPOCH,
            applied: applied.map(|(epoch, revision)| (Epoch(epoch), Revision(revision))),
            head: None,
            unwritten_ms: None,
            held_users: Vec::new(),
            schema: crate::store::SCHEMA,
            staleness_ms: Some(250),
            connections: 12,
            draining: None,
            late: Vec::new(),
            config_cache: None,
        };
        FleetStatus {
            store: "redis://127.0.0.1:6379".to_owned(),
            position: Position { epoch: Epoch(7), revision: Revision(42), head: Head(42), checksum: 0 },
            tokens: 3,
            recalled: 0,
            earlier_schema: None,
            replicas: None,
            writes_refused: None,
            frozen: None,
            sidecars: vec![Reported { report, age: Duration::from_millis(500), ttl: Duration::from_secs(70) }],
        }
    }

    #[test]
    fn as_json() {
        let view = serde_json::to_value(status(Some((7, 41))).view()).expect("serializes");
        let expected = json!({
            "store": "redis://127.0.0.1:6379", "epoch": "0000000000000007", "revision": 42, "tokens": 3, "recalled": 0,
            "sidecars": [{
                "id": "0000000000000abc", "name": "edge-1", "version": "0.1.0", "revision": 41,
                "staleness_seconds": 0.75, "connections": 12, "started_at": "1970-01-01T00:00:00Z",
            }],
        });
        assert_eq!(view, expected);
        let mut held = status(None);
        held.sidecars[0].report.held_users = vec!["alice".to_owned()];
        let view = serde_json::to_value(held.view()).expect("serializes");
        assert_eq!(view["sidecars"][0]["held_users"], json!(["alice"]));
        let earlier = FleetStatus { earlier_schema: Some(1), ..status(None) };
        assert_eq!(serde_json::to_value(earlier.view()).expect("serializes")["earlier_schema"], json!(1));
        let text = earlier.text(Timestamp::UNIX_EPOCH, false);
        assert!(text.contains("the registry makes it 3, which the version before cannot read"), "{text}");
        let view = serde_json::to_value(status(Some((8, 99))).view()).expect("serializes");
        assert_eq!(view["sidecars"][0]["revision"], json!(null), "a revision of another epoch says nothing");
    }

    #[test]
    fn what_replicas_protect_from_is_shown() {
        let printed = |connected, promotable, quorum| {
            let mut status = status(None);
            status.replicas = Some(Replicas { connected, promotable, quorum });
            (status.text(Timestamp::UNIX_EPOCH, false), serde_json::to_value(status.view()).expect("serializes"))
        };
        let (text, view) = printed(1, 2, 1);
        assert!(text.contains("1 of 2 connected, quorum_replicas 1: an isolated primary is detected; a failover may"));
        let expected = json!({
            "connected": 1, "promotable": 2, "quorum": 1, "isolate_an_old_primary": true, "keep_commits": false,
        });
        assert_eq!(view["replicas"], expected);
        assert!(printed(2, 2, 2).0.contains("a failover loses no acknowledged commit"));
        assert!(printed(2, 2, 0).0.contains("is NOT detected; a failover may lose acknowledged commits"));
    }

    #[test]
    fn as_text() {
        let now = Timestamp::from_second(120).expect("a time");
        let text = status(Some((7, 40))).text(now, false);
        let row = text.lines().last().expect("a row");
        assert_eq!(
            row,
            "edge-1  0000000000000abc  0.1.0    127.0.0.1:8080  40 (2 behind)  0.8 s ago  12           2 min ago"
        );
        assert!(status(None).text(now, false).contains("reading"));
        let mut nobody = status(None);
        (nobody.sidecars, nobody.recalled) = (Vec::new(), 2);
        nobody.writes_refused = Some("no disk".to_owned());
        let text = nobody.text(now, false);
        assert!(text.contains("writes    refused: no disk"), "{text}");
        assert!(text.contains("sidecars  none") && text.contains("recalls   2: revocations"), "{text}");
    }
}
