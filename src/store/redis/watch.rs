//! The subscription: what commits publish, as notices for watchers.
//!
//! It has a connection of its own, to the server in charge. Every time it stands anew, watchers are told that they may
//! have missed something. A connection that is gone without a word is found by `PING`; one that stands and brings
//! nothing, by the positions that probes read: what they show and nobody announced is missing.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::fault::Fault;
use super::link::Connection;
use super::{Access, earlier, layout, switches};
use crate::backoff::Backoff;
use crate::store::url::Server;
use crate::store::{Epoch, Notice, Position, Revision};

/// The waits between attempts to subscribe.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), last: Duration::from_secs(1) };

/// How often the connection is tried, and how long that may take.
const PING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(2));

/// How long after a probe the announcement of what it showed may still come.
const SILENCE: Duration = Duration::from_secs(1);

/// The tasks that listen. They end when it is dropped.
#[derive(Debug)]
pub(super) struct Watching(Vec<AbortHandle>);

impl Watching {
    /// Must be called within a runtime, which carries the tasks.
    pub(super) fn start(access: &Arc<Access>) -> Self {
        let listener = Listener { access: Arc::clone(access), silences: 0, lost_since: None };
        let mut tasks = vec![tokio::spawn(listener.run()).abort_handle()];
        tasks.extend(switches::follow(access).map(|follow| tokio::spawn(follow).abort_handle()));
        Self(tasks)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

/// How far the announcements have come, as against what probes read.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    heard: Mutex<Heard>,
    /// Something in `heard` has changed.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Heard {
    /// The last announcement, or the first position that a probe read since subscribing: what came before that cannot be
    /// missed.
    newest: Option<(Epoch, Revision)>,
    /// Since when a probe's position is beyond it.
    behind_since: Option<Instant>,
}

impl Hearing {
    /// Takes note of a position that a probe read.
    pub(super) fn probed(&self, position: &Position) {
        let mut heard = self.heard();
        let at = (position.epoch, position.revision);
        match heard.newest {
            None => heard.newest = Some(at),
            Some((epoch, revision)) if epoch == at.0 && revision >= at.1 => heard.behind_since = None,
            Some(_) => {
                heard.behind_since.get_or_insert_with(Instant::now);
            }
        }
        drop(heard);
        self.changed.notify_one();
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of an announcement.
    fn announced(&self, epoch: Epoch, revision: Revision) {
        *self.heard() = Heard { newest: Some((epoch, revision)), behind_since: None };
        self.changed.notify_one();
    }

    /// A subscription begins.
    fn begin(&self) {
        *self.heard() = Heard::default();
    }

    /// When the announcement of something that a probe showed is overdue.
    fn overdue_at(&self) -> Option<Instant> {
        self.heard().behind_since.map(|since| since + SILENCE)
    }

    /// Waits until an announcement is overdue.
    async fn silence(&self) {
        loop {
            let changed = self.changed.notified();
            match self.overdue_at() {
                Some(overdue) if overdue <= Instant::now() => return,
                Some(overdue) => drop(timeout_at(overdue, changed).await),
                None => changed.await,
            }
        }
    }
}

/// Why a subscription ended.
enum End {
    /// It could not be made, or the connection broke.
    Lost(Option<Fault>),
    /// Another server is in charge.
    Moved,
    /// It stands, and brings nothing.
    Silent,
}

/// The task that subscribes, again and again.
struct Listener {
    access: Arc<Access>,
    /// How often the subscription was found silent.
    silences: u64,
    lost_since: Option<Instant>,
}

impl Listener {
    async fn run(mut self) {
        let mut attempt = 0;
        loop {
            let began = Instant::now();
            let end = match self.subscribe().await {
                Ok((connection, broken)) => {
                    // One that breaks at once, each time, is no success.
                    let end = self.attend(connection, &broken).await;
                    if began.elapsed() > BACKOFF.last {
                        attempt = 0;
                    }
                    end
                }
                Err(fault) => End::Lost(Some(fault)),
            };
            self.tell(end);
            attempt += 1;
            tokio::time::sleep(BACKOFF.wait(attempt)).await;
        }
    }

    async fn subscribe(&mut self) -> Result<(Connection, Arc<Notify>), Fault> {
        let broken = Arc::new(Notify::new());
        let (access, breaks) = (Arc::clone(&self.access), Arc::clone(&broken));
        // Of a store that is of the schema before still.
        let ours = Arc::new(OnceLock::new());
        let epoch = Arc::clone(&ours);
        let take = move |PushInfo { kind, data }| {
            match (kind, &data[..]) {
                (PushKind::Message, [Value::BulkString(channel), .., Value::BulkString(message)]) => {
                    match *channel == access.layout.channel().as_bytes() {
                        true => access.announce(message),
                        false => access.announce_earlier(message, epoch.get().copied()),
                    }
                }
                (PushKind::Disconnection, _) => breaks.notify_one(),
                _ => {}
            }
            Ok::<_, redis::aio::SendError>(())
        };
        let mut connection = self.access.link.listening(take).await?;
        self.access.hearing.begin();
        let (_, limit) = PING;
        let subscribed = timeout(limit, connection.subscribe(self.access.layout.channel())).await;
        subscribed.map_err(|_| Fault::TimedOut(limit))??;
        if let Some(epoch) = earlier::subscribe(&self.access, &mut connection).await? {
            ours.get_or_init(|| epoch);
        }
        if let Some(since) = self.lost_since.take() {
            let (server, seconds) = (connection.server().to_string(), since.elapsed().as_secs());
            tracing::info!(store = self.access.name, server, seconds, "announcements of commits are heard again");
        }
        // Only now: what is committed from here on is announced, and what was before is asked for.
        self.access.notices.send(Notice::Lost);
        Ok((connection, broken))
    }

    /// Holds the subscription until it ends.
    async fn attend(&self, mut connection: Connection, broken: &Notify) -> End {
        let (interval, limit) = PING;
        let mut primary = self.access.link.primary();
        let server = connection.server().clone();
        let is_other = |primary: &Option<Server>| primary.as_ref() != Some(&server);
        let mut ping = redis::pipe();
        ping.cmd("PING").ignore();
        loop {
            tokio::select! {
                () = broken.notified() => return End::Lost(None),
                () = async { drop(primary.wait_for(is_other).await) } => return End::Moved,
                () = self.access.hearing.silence() => return End::Silent,
                () = tokio::time::sleep(interval) => {
                    match timeout(limit, connection.query::<()>(&ping)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(fault)) => return End::Lost(Some(fault)),
                        Err(_) => return End::Lost(Some(Fault::TimedOut(limit))),
                    }
                }
            }
        }
    }

    /// Once for each outage.
    fn tell(&mut self, end: End) {
        let store = &self.access.name;
        match end {
            End::Lost(_) if self.lost_since.is_some() => {}
            End::Lost(fault) => {
                self.lost_since = Some(Instant::now());
                let reason = fault.map_or_else(|| "the connection broke".to_owned(), |fault| fault.chain());
                tracing::warn!(
                    store,
                    reason,
                    "announcements of commits are not heard: changes arrive with the next probe"
                );
            }
            End::Moved => tracing::info!(store, "another Redis is in charge: subscribing there"),
            End::Silent => {
                self.silences += 1;
                let times = self.silences;
                tracing::warn!(store, times, "the subscription stands and brings nothing: subscribing again");
                // Probes are answered and this is not: perhaps they are on another server than this.
                self.access.link.discard();
            }
        }
    }
}

impl Access {
    /// Tells the watchers of a commit to a store of the schema before, if it is one to this store.
    fn announce_earlier(&self, message: &[u8], ours: Option<Epoch>) {
        if let Some((epoch, entry)) = earlier::parse_announcement(message).filter(|(epoch, _)| Some(*epoch) == ours) {
            self.hearing.announced(epoch, entry.revision);
            self.notices.send(Notice::Committed { epoch, entry: Arc::new(entry) });
        }
    }

    /// Tells the watchers of a commit.
    fn announce(&self, message: &[u8]) {
        self.notices.send(match layout::parse_announcement(message) {
            Some((epoch, entry)) => {
                self.hearing.announced(epoch, entry.revision);
                Notice::Committed { epoch, entry: Arc::new(entry) }
            }
            None => {
                let (store, channel) = (&self.name, self.layout.channel());
                tracing::warn!(store, channel, "something that is no announcement was published");
                Notice::Moved
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Head;

    fn at(revision: u64) -> Position {
        Position { epoch: Epoch(1), revision: Revision(revision), head: Head(revision.into()), checksum: 0 }
    }

    #[test]
    fn what_a_probe_shows_and_nobody_announces_is_silence() {
        let hearing = Hearing::default();
        hearing.begin();
        hearing.probed(&at(5)); // whatever was before the subscription
        assert!(hearing.overdue_at().is_none());
        hearing.probed(&at(6));
        let overdue = hearing.overdue_at();
        assert!(overdue.is_some());
        hearing.probed(&at(7));
        assert_eq!(hearing.overdue_at(), overdue, "the first one counts");
        // The store's next life is announced too, or it is silence.
        hearing.begin();
        hearing.probed(&at(6));
        hearing.probed(&Position { epoch: Epoch(2), ..at(1) });
        assert!(hearing.overdue_at().is_some());
    }

    #[test]
    fn an_announcement_may_come_before_the_probe_or_a_little_later() {
        let hearing = Hearing::default();
        hearing.begin();
        hearing.probed(&at(5));
        hearing.probed(&at(7));
        hearing.announced(Epoch(1), Revision(6));
        hearing.announced(Epoch(1), Revision(7));
        hearing.probed(&at(7));
        assert!(hearing.overdue_at().is_none());
        hearing.announced(Epoch(1), Revision(8));
        hearing.probed(&at(7)); // it was on its way
        hearing.probed(&at(8));
        assert!(hearing.overdue_at().is_none());
    }
}
