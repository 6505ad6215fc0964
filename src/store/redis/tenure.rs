//! Since when the primary has had every report that sidecars made.
//!
//! Reports are no commits, and no replica confirms them: a server that was started anew, restored or promoted may lack some,
//! and one that was not in charge for a while was not given them. A sidecar that reaches it reports again at once. One that
//! was cut off does not, and serves on until its freshness has run out: so long, nobody can say that all have applied
//! something. So which server has all reports, and since when, is stored beside them, by commands. That begins with the first
//! command that asks, and not with a registry that is made, which may stand for one that was lost with its reports. It
//! ends, and begins with the next command that asks,
//!
//! - where the server has another replication id, which it draws at each start and each promotion, or has evicted keys,
//!   which may have been reports;
//! - with a sidecar that comes from another server: one that was never demoted keeps its id while others are in charge;
//! - where a sidecar finds its own report gone, or going sooner than it was left: the server's clock was put forward, by which
//!   those of others have expired before their time, or it lost them;
//! - where for [`LEASE`] no sidecar reported that was told that this server is in charge: whoever is not is told nothing.

use std::fmt;
use std::time::Duration;

use redis::Pipeline;

use super::Access;
use super::fault::Fault;
use super::layout::{Key, Layout};
use super::link::{Connection, Use};
use super::read;
use crate::clock::Instant;
use crate::lock::Mutex;
use crate::store::{Report, SidecarId};

/// How long it lasts where no sidecar reports. Each does every five seconds.
const LEASE: Duration = Duration::from_secs(15);

/// How much of that must be left for a receipt: so much is, where one has reported lately, and not where the clock was put forward
/// by more than reports are retained beyond their bound.
const SURE: Duration = Duration::from_secs(9);

/// By how much a report may be gone sooner than its sidecar reckons.
const TOLERANCE: Duration = Duration::from_secs(1);

/// For so many days it is remembered how long sidecars served without the store: of the one whose report is lost nothing else is
/// known.
const REMEMBERED: u64 = 30;

/// In milliseconds.
const DAY: u64 = 24 * 60 * 60 * 1000;

/// Who was proven fresh so long ago at most knows who is in charge. Others ask.
const FRESH: Duration = Duration::from_secs(5);

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
}

/// How long sidecars serve without the store, at the longest that commands saw, and on which day they did: whole ones since
/// 1970, so that it is not written with each look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct LongestBound {
    bound: Duration,
    day: u64,
}

impl LongestBound {
    fn parse(stored: &str) -> Option<Self> {
        let (bound, day) = stored.split_once(' ')?;
        Some(Self { bound: Duration::from_millis(bound.parse().ok()?), day: day.parse().ok()? })
    }

    /// What is remembered once another one is seen.
    fn and(self, found: Self) -> Self {
        let is_old = found.day.saturating_sub(self.day) >= REMEMBERED;
        if is_old { found } else { self.max(found) }
    }
}

impl fmt::Display for LongestBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.bound.as_millis(), self.day)
    }
}

/// For how much longer there may be a sidecar that serves and has no report here. Those that have one serve without the store
/// for `bound` at the longest.
pub(super) async fn unreported(access: &Access, bound: Duration) -> Result<Option<Duration>, Fault> {
    let primary = Primary::ask(access).await?;
    let [tenure, longest] = [Key::Tenure, Key::Longest].map(|key| access.layout.key(key));
    let mut commands = Pipeline::new();
    commands.cmd("GET").arg(tenure).cmd("PTTL").arg(tenure).cmd("GET").arg(longest);
    let (stored, left, before): (Option<String>, i64, Option<String>) = access.link.read(Use::Main, &commands).await?;
    // Whoever has a sidecar's user could put off the end once and for all.
    let is_leased = u128::try_from(left).is_ok_and(|left| left <= LEASE.as_millis());
    let since = stored.filter(|_| is_leased).and_then(|stored| primary.since(&stored));
    let before = before.as_deref().and_then(LongestBound::parse);
    let found = LongestBound { bound, day: primary.now / DAY };
    let now = before.map_or(found, |before| before.and(found));
    let mut writes = Pipeline::new();
    if before != Some(now) {
        writes.cmd("SET").arg(longest).arg(now.to_string()).ignore();
    }
    if since.is_none() {
        writes.cmd("SET").arg(tenure).arg(primary.since_when(primary.now)).arg("PX").arg(LEASE.as_millis()).ignore();
    }
    if !writes.is_empty() {
        access.link.read::<()>(Use::Main, &writes).await?;
    }
    let is_sure = u128::try_from(left).is_ok_and(|left| left >= SURE.as_millis());
    let lasted = since.filter(|_| is_sure).map_or(0, |since| primary.now.saturating_sub(since));
    let lasted = Duration::from_millis(lasted);
    Ok(now.bound.checked_sub(lasted).filter(|left| !left.is_zero()))
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

/// A report as a sidecar left it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    pub(super) sidecar: SidecarId,
    pub(super) sent: Instant,
    pub(super) ttl: Duration,
}

impl Left {
    /// Whether it is still stored for as long as it should be, as was answered at a moment.
    pub(super) fn is_kept(&self, millis: i64, answered: Instant) -> bool {
        let least = self.ttl.saturating_sub(answered - self.sent + TOLERANCE);
        Duration::from_millis(u64::try_from(millis).unwrap_or(0)) >= least
    }
}

/// After a report: ends it, where the one before was not kept, and else prolongs it, where this server is in charge.
pub(super) async fn go_on(access: &Access, report: &Report, is_kept: bool) -> Result<(), Fault> {
    if !is_kept {
        access.link.arrival().lock().is_owed = true;
        return make_up(access).await;
    }
    let Some(staleness) = report.staleness_ms.map(Duration::from_millis) else { return Ok(()) };
    if staleness > FRESH && read::probe(access).await.is_err() {
        return Ok(());
    }
    let mut commands = Pipeline::new();
    commands.cmd("PEXPIRE").arg(access.layout.key(Key::Tenure)).arg(LEASE.as_millis()).ignore();
    access.link.read(Use::Main, &commands).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_kept_as_long_as_its_sidecar_reckons() {
        let (sent, seconds) = (Instant::now(), Duration::from_secs);
        let left = Left { sidecar: SidecarId(1), sent, ttl: seconds(70) };
        let kept = [70_000, 65_000, 63_000, 62_999, 0, -2].map(|millis| left.is_kept(millis, sent + seconds(6)));
        assert_eq!(kept, [true, true, true, false, false, false]);
        assert!(left.is_kept(-2, sent + seconds(69)), "its time was over");
    }
}
