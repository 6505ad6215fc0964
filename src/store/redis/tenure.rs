//! Since when the primary has had every report that sidecars made.
//!
//! Reports are no commits, and no replica confirms them: a server that was started anew, restored or promoted may lack some,
//! and one that was not in charge for a while was not given them. A sidecar that reaches it reports again at once. One that
//! was cut off does not, and serves on until its freshness has run out: so long, nobody can say that all have applied
//! something. So which server has all reports, and since when, is stored beside them, by commands. It ends, and begins with the
//! next command that asks,
//!
//! - where the server has another replication id, which it draws at each start and each promotion, or has evicted keys,
//!   which may have been reports;
//! - with a sidecar that comes from another server: one that was never demoted keeps its id while others are in charge;
//! - where for [`LEASE`] no sidecar reported that was proven fresh here, if replicas could have taken over, or none had
//!   reported since it began.

use std::time::Duration;

use redis::Pipeline;

use super::Access;
use super::fault::Fault;
use super::layout::{Key, Layout};
use super::link::{Connection, Use};
use crate::lock::Mutex;
use crate::store::Report;

/// How long it lasts where replicas could take over, and no fresh sidecar reports. Each does every five seconds.
const LEASE: Duration = Duration::from_secs(15);

/// How long it lasts where nobody could take over, once a fresh sidecar has reported.
const FOR_GOOD: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Whose report prolongs it: who was proven fresh so long ago at most, or twice as long as it is from one of its probes to the
/// next, if that is longer, up to [`LONGEST`].
const FRESH: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_mins(1);

/// Where `INFO` has what is looked at here.
pub(super) const SECTIONS: &[&str] = &["server", "replication", "stats"];

/// What the primary says of itself.
struct Primary {
    /// Its replication id, and how many keys it has evicted.
    name: String,
    /// Which run of the server it is.
    run: String,
    /// Milliseconds since 1970, by its clock.
    now: u64,
}

impl Primary {
    async fn ask(access: &Access) -> Result<Self, Fault> {
        let mut commands = Pipeline::new();
        commands.cmd("INFO").arg(SECTIONS);
        let (info,): (String,) = access.link.read(Use::Main, &commands).await?;
        Self::parse(&info)
    }

    fn parse(info: &str) -> Result<Self, Fault> {
        let value = |key: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(key));
            value.map(str::trim).ok_or_else(|| Fault::UnexpectedAnswer(format!("INFO has no {key}")))
        };
        let now = value("server_time_usec:")?;
        let micros: u64 = now.parse().map_err(|_| Fault::UnexpectedAnswer(format!("the server's time is {now}")))?;
        let name = format!("{} {}", value("master_replid:")?, value("evicted_keys:")?);
        Ok(Self { name, run: value("run_id:")?.to_owned(), now: micros / 1000 })
    }

    /// Since when it has all reports, if that is what is stored.
    fn since(&self, stored: &str) -> Option<u64> {
        let (name, since) = stored.rsplit_once(' ')?;
        since.parse().ok().filter(|_| name == self.name)
    }

    /// What is stored: that it has all reports since then.
    fn since_when(&self, since: u64) -> String {
        format!("{} {since}", self.name)
    }

    fn begin(&self, layout: &Layout, since: u64, end: Option<Duration>) -> Pipeline {
        let mut commands = Pipeline::new();
        commands.cmd("SET").arg(layout.key(Key::Tenure)).arg(self.since_when(since));
        if let Some(end) = end {
            commands.arg("PX").arg(end.as_millis());
        }
        commands.ignore();
        commands
    }
}

/// A registry was made: nobody reported before.
pub(super) async fn begin(access: &Access) -> Result<(), Fault> {
    let commands = Primary::ask(access).await?.begin(&access.layout, 0, None);
    access.link.read(Use::Main, &commands).await
}

/// For how much longer there may be a sidecar that serves and has no report here.
pub(super) async fn unreported(access: &Access, bound: Duration) -> Result<Option<Duration>, Fault> {
    let primary = Primary::ask(access).await?;
    let mut commands = Pipeline::new();
    commands.cmd("GET").arg(access.layout.key(Key::Tenure));
    let (stored,): (Option<String>,) = access.link.read(Use::Main, &commands).await?;
    let Some(since) = stored.and_then(|stored| primary.since(&stored)) else {
        // On a server to which no sidecar comes it lasts no longer than that.
        let begin = primary.begin(&access.layout, primary.now, Some(LEASE));
        access.link.read::<()>(Use::Main, &begin).await?;
        return Ok(Some(bound));
    };
    let lasted = Duration::from_millis(primary.now.saturating_sub(since));
    Ok(bound.checked_sub(lasted).filter(|left| !left.is_zero()))
}

/// Where a sidecar came to last.
#[derive(Debug, Default)]
pub(super) struct Arrival {
    /// Which run of a server that was.
    run: Option<String>,
    /// The server took no writes then: the tenure ends with the next report that it takes.
    is_owed: bool,
}

/// A sidecar comes to a server, before it asks or reports anything there. From elsewhere, it ends the tenure: to say since
/// when a server has all reports is not a sidecar's.
pub(super) async fn arrive(mut connection: Connection, layout: &Layout, arrival: &Mutex<Arrival>) -> Result<(), Fault> {
    let run = Primary::parse(connection.info())?.run;
    let is_from_elsewhere = arrival.lock().run.as_ref().is_some_and(|before| *before != run);
    let mut is_owed = arrival.lock().is_owed;
    if is_from_elsewhere {
        let ended = connection.query::<()>(&end(layout)).await;
        // What cannot be written can be read all the same.
        is_owed = ended.as_ref().is_err_and(Fault::refuses_writes);
        if !is_owed {
            ended?;
        }
    }
    *arrival.lock() = Arrival { run: Some(run), is_owed };
    Ok(())
}

fn end(layout: &Layout) -> Pipeline {
    let mut commands = Pipeline::new();
    commands.cmd("DEL").arg(layout.key(Key::Tenure)).ignore();
    commands
}

/// Before a report: does what could not be done on arrival.
pub(super) async fn make_up(access: &Access) -> Result<(), Fault> {
    if access.link.arrival().lock().is_owed {
        access.link.read::<()>(Use::Main, &end(&access.layout)).await?;
        access.link.arrival().lock().is_owed = false;
    }
    Ok(())
}

/// How fresh a sidecar must be that prolongs it, with so long from one of its probes to the next.
fn fresh_within(between_probes: Duration) -> Duration {
    (2 * between_probes).clamp(FRESH, LONGEST)
}

/// Prolongs it with a report, if the sidecar's freshness says who is the primary: where somebody could take over, until
/// the next ones, and else for good.
pub(super) fn prolong(access: &Access, report: &Report, commands: &mut Pipeline) {
    let fresh = fresh_within(access.probed.lock().1);
    if report.staleness_ms.is_some_and(|staleness| u128::from(staleness) <= fresh.as_millis()) {
        let end = if access.link.is_followed() { LEASE } else { FOR_GOOD };
        commands.cmd("PEXPIRE").arg(access.layout.key(Key::Tenure)).arg(end.as_millis()).ignore();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sidecar that asks every twenty seconds is nearly always older than five.
    #[test]
    fn who_probes_seldom_may_be_staler() {
        let fresh = [0, 1, 20, 3600].map(|seconds| fresh_within(Duration::from_secs(seconds)).as_secs());
        assert_eq!(fresh, [5, 5, 40, 60]);
    }
}
