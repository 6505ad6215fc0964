//! When to read what notices only announced: not all sidecars at once, and not for each commit.
//!
//! ```text
//!   gives      read within 60 to 180 ms, each sidecar at another moment: well within the 250 ms in which a new token works
//!   takes away read at once
//!   both       no sooner than 150 ms after the log was read last: a bulk change is many commits
//! ```

use tokio::time::{Duration, Instant};

use crate::backoff::jitter;
use crate::store::{Epoch, Position, Revision};

const LEAST: Duration = Duration::from_millis(60);
const SPREAD: Duration = Duration::from_millis(120);
const PAUSE: Duration = Duration::from_millis(150);

/// What is there to be read, and when.
#[derive(Debug, Default)]
pub(super) struct Fetch {
    wanted: Option<Wanted>,
    last_read: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    epoch: Epoch,
    revision: Revision,
    due: Instant,
}

impl Fetch {
    /// Commits up to here were announced.
    pub(super) fn notice(&mut self, epoch: Epoch, revision: Revision, takes_away: bool, now: Instant) {
        let wait = if takes_away { Duration::ZERO } else { LEAST + jitter(SPREAD) };
        let due = (now + wait).max(self.last_read.map_or(now, |last_read| last_read + PAUSE));
        let before = self.wanted.filter(|before| before.epoch == epoch);
        self.wanted = Some(Wanted {
            epoch,
            revision: before.map_or(revision, |before| before.revision.max(revision)),
            due: before.map_or(due, |before| before.due.min(due)),
        });
    }

    /// Waits until it is time; for ever while nothing was announced.
    pub(super) async fn is_due(&self) {
        match self.wanted {
            Some(Wanted { due, .. }) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// It is time: whether there is anything that a replica at this position does not have.
    pub(super) fn take(&mut self, position: Option<Position>) -> bool {
        let reached =
            |wanted: &Wanted| position.is_some_and(|at| at.epoch == wanted.epoch && at.revision >= wanted.revision);
        self.wanted.take().is_some_and(|wanted| !reached(&wanted))
    }

    /// The log is read, for whatever reason.
    pub(super) fn read(&mut self, now: Instant) {
        self.last_read = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Head;

    const EPOCH: Epoch = Epoch(1);

    fn at(revision: u64) -> Option<Position> {
        Some(Position { epoch: EPOCH, revision: Revision(revision), head: Head(0), checksum: 0 })
    }

    fn due(fetch: &Fetch, since: Instant) -> Duration {
        fetch.wanted.expect("something").due - since
    }

    #[test]
    fn what_gives_is_spread_and_what_takes_is_read_at_once() {
        let (now, millis) = (Instant::now(), Duration::from_millis);
        for _ in 0..100 {
            let mut fetch = Fetch::default();
            fetch.notice(EPOCH, Revision(7), false, now);
            assert!((millis(60)..=millis(180)).contains(&due(&fetch, now)));
            fetch.notice(EPOCH, Revision(8), true, now + millis(5));
            assert_eq!(due(&fetch, now), millis(5));
        }
    }

    #[test]
    fn many_commits_are_read_together() {
        let (now, millis) = (Instant::now(), Duration::from_millis);
        let mut fetch = Fetch::default();
        fetch.read(now);
        for step in 0..10 {
            fetch.notice(EPOCH, Revision(step), step % 2 == 0, now + millis(step));
        }
        assert!((millis(150)..=millis(180)).contains(&due(&fetch, now)));
        assert!(fetch.take(at(8)) && !fetch.take(at(8)), "once");
    }

    #[test]
    fn what_came_by_another_way_is_not_read_again() {
        let mut fetch = Fetch::default();
        for (position, is_missing) in [(at(6), true), (at(7), false), (at(8), false), (None, true)] {
            fetch.notice(EPOCH, Revision(7), false, Instant::now());
            assert_eq!(fetch.take(position), is_missing, "{position:?}");
        }
        fetch.notice(Epoch(2), Revision(7), false, Instant::now());
        assert!(fetch.take(at(8)), "of another life of the store");
    }
}
