//! What the service manager is told (`sd_notify(3)`): that the sidecar accepts, how fresh it is, that it stops; and, where
//! there is a watchdog, that what serves is alive.
//!
//! Nothing waits for a manager that does not read. What is not said yet is one message, in which what comes is put in the place of what
//! no longer holds, so nothing that counts is lost however long that lasts: not that the process accepts, nor which one does.

use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram as StdDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::net::UnixDatagram;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::readiness::Readiness;

/// How often it is looked at what there is to tell.
const INTERVAL: Duration = Duration::from_secs(1);

/// Who started the process and wants to know how it is; or nobody.
#[derive(Debug, Clone)]
pub(super) struct ServiceManager {
    unsaid: Option<watch::Sender<Unsaid>>,
}

/// What is to be said, all at once, and to whom.
#[derive(Debug)]
struct Unsaid {
    manager: SocketAddr,
    news: News,
}

#[derive(Debug, Default)]
struct News {
    /// Which process counts, if that is new.
    main: Option<String>,
    /// Since when, in microseconds of the manager's clock.
    reloading: Option<i64>,
    accepts: bool,
    stops: bool,
    status: Option<String>,
    is_alive: bool,
}

impl News {
    /// In the order in which it happened. A reload that begins and ends in one message is one that was made.
    fn message(&self) -> String {
        let mut lines = Vec::new();
        let mut say = |is_so: bool, line: String| lines.extend(is_so.then_some(line));
        if let Some(process) = &self.main {
            say(true, format!("MAINPID={process}\n"));
        }
        if let Some(since) = self.reloading {
            say(true, format!("RELOADING=1\nMONOTONIC_USEC={since}\n"));
        }
        say(self.accepts, "READY=1\n".to_owned());
        say(self.stops, "STOPPING=1\n".to_owned());
        if let Some(status) = &self.status {
            say(true, format!("STATUS={status}\n"));
        }
        say(self.is_alive, "WATCHDOG=1\n".to_owned());
        lines.concat()
    }
}

impl Unsaid {
    fn is_nothing(&self) -> bool {
        self.news.message().is_empty()
    }

    /// Says it, if there is room: else it is kept.
    fn say(&mut self) {
        let message = self.news.message();
        if message.is_empty() {
            return;
        }
        match connect(&self.manager).and_then(|socket| socket.send(message.as_bytes())) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => tracing::debug!(%error, "the service manager cannot be told"),
            Ok(_) => {}
        }
        self.news = News::default();
    }
}

impl ServiceManager {
    /// The one that the environment names. Must be called within a runtime.
    pub(super) fn find() -> Self {
        let unsaid = std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let address = match name.as_bytes().strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(&name),
            };
            let told = address.inspect_err(|error| tracing::warn!(%error, "NOTIFY_SOCKET names no Unix socket"));
            told.ok().map(|manager| {
                let unsaid = watch::Sender::new(Unsaid { manager, news: News::default() });
                tokio::spawn(say_when_read(unsaid.clone()));
                unsaid
            })
        });
        Self { unsaid }
    }

    /// Whether there is one.
    pub(super) fn is_there(&self) -> bool {
        self.unsaid.is_some()
    }

    /// The sidecar accepts, with or without its registry: freshness is a status, since a restart would not mend it. Ends a reload too.
    pub(super) fn accepts(&self) {
        self.say(|news| news.accepts = true);
    }

    /// The same of one that has taken over: from here on it is the process that counts, whatever the one before does.
    pub(super) fn accepts_instead(&self) {
        self.say(|news| (news.main, news.accepts) = (Some(std::process::id().to_string()), true));
    }

    /// The process before is the one that counts again: this one ends.
    pub(super) fn gives_back(&self, process: &str) {
        self.say(|news| news.main = Some(process.to_owned()));
    }

    /// It reads its configuration again; [`ServiceManager::accepts`] says that it did, whatever came of it.
    pub(super) fn reloads(&self) {
        // By the same clock as the manager's: so it knows which reload this is.
        let now = clock_gettime(ClockId::Monotonic);
        let now = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.say(|news| (news.reloading, news.accepts) = (Some(now), false));
    }

    /// It drains.
    pub(super) fn stops(&self) {
        let status = "draining: finishing in-flight requests".to_owned();
        self.say(|news| *news = News { main: news.main.take(), stops: true, status: Some(status), ..News::default() });
    }

    fn say(&self, change: impl FnOnce(&mut News)) {
        if let Some(unsaid) = &self.unsaid {
            unsaid.send_modify(|unsaid| {
                change(&mut unsaid.news);
                unsaid.say();
            });
        }
    }

    /// Waits until it has been told everything.
    pub(super) async fn knows(&self) {
        if let Some(unsaid) = &self.unsaid {
            // The sender is held here.
            drop(unsaid.subscribe().wait_for(Unsaid::is_nothing).await);
        }
    }
}

/// Says what there was no room for, once there is. Never ends.
async fn say_when_read(unsaid: watch::Sender<Unsaid>) {
    let mut kept = unsaid.subscribe();
    // The sender is held here.
    while let Ok(manager) = kept.wait_for(|unsaid| !unsaid.is_nothing()).await.map(|unsaid| unsaid.manager.clone()) {
        // Where it is gone, so is what was to be said.
        drop(room(&manager).await);
        unsaid.send_modify(Unsaid::say);
    }
}

fn connect(manager: &SocketAddr) -> io::Result<StdDatagram> {
    let socket = StdDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(manager)?;
    Ok(socket)
}

async fn room(manager: &SocketAddr) -> io::Result<()> {
    UnixDatagram::from_std(connect(manager)?)?.writable().await
}

/// After how long without a word this process is taken for dead (`sd_watchdog_enabled(3)`).
fn watchdog() -> Option<Duration> {
    let number = |name| std::env::var_os(name)?.to_str()?.parse::<u64>().ok();
    let is_of_other =
        std::env::var_os("WATCHDOG_PID").is_some() && number("WATCHDOG_PID") != Some(std::process::id().into());
    number("WATCHDOG_USEC").filter(|time| !is_of_other && *time > 0).map(Duration::from_micros)
}

/// Tells the service manager how fresh the replica is, and feeds its watchdog while every worker answers. Never ends.
pub(super) async fn report(manager: ServiceManager, readiness: Arc<Readiness>, pulse: Arc<Pulse>) {
    let watchdog = watchdog();
    // Twice within the time after which the watchdog bites, at least.
    let mut interval = tokio::time::interval(watchdog.map_or(INTERVAL, |bites| (bites / 3).min(INTERVAL)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = None;
    loop {
        interval.tick().await;
        let status = readiness.problem();
        if told != Some(status) && status != Some(crate::readiness::DRAINING) {
            let text = status.map_or("ready".to_owned(), |problem| format!("not ready: {problem}"));
            manager.say(|news| news.status = Some(text));
            told = Some(status);
        }
        if watchdog.is_some() {
            let is_felt = pulse.is_felt();
            manager.say(|news| news.is_alive = is_felt);
            pulse.ask();
        }
    }
}

/// Whether the workers are alive: each is asked now and then, and answers when its turn comes.
#[derive(Debug)]
pub(super) struct Pulse {
    asked: watch::Sender<u64>,
    answered: Vec<AtomicU64>,
}

/// What a worker that has ended answers to all that is asked.
const ENDED: u64 = u64::MAX;

impl Pulse {
    pub(super) fn new(workers: usize) -> Self {
        Self { asked: watch::Sender::new(0), answered: (0..workers).map(|_| AtomicU64::new(0)).collect() }
    }

    fn ask(&self) {
        self.asked.send_modify(|asked| *asked += 1);
    }

    /// Whether all have answered what was asked last.
    fn is_felt(&self) -> bool {
        let asked = *self.asked.borrow();
        self.answered.iter().all(|answered| answered.load(Ordering::Relaxed) >= asked)
    }

    /// Answers for a worker. Never ends.
    pub(super) async fn answer(self: Arc<Self>, worker: usize) {
        let mut asked = self.asked.subscribe();
        while asked.changed().await.is_ok() {
            self.set(worker, *asked.borrow_and_update());
        }
    }

    /// The worker has ended, as it should: nothing is expected of it any more.
    pub(super) fn end(&self, worker: usize) {
        self.set(worker, ENDED);
    }

    fn set(&self, worker: usize, answer: u64) {
        if let Some(answered) = self.answered.get(worker) {
            answered.store(answer, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_worker_that_does_not_answer_is_enough() {
        let pulse = Arc::new(Pulse::new(2));
        assert!(pulse.is_felt(), "nothing was asked yet");
        let first = tokio::spawn(Arc::clone(&pulse).answer(0));
        let second = tokio::spawn(Arc::clone(&pulse).answer(1));
        tokio::task::yield_now().await;
        pulse.ask();
        assert!(!pulse.is_felt());
        while !pulse.is_felt() {
            tokio::task::yield_now().await;
        }
        second.abort();
        assert!(second.await.is_err());
        pulse.ask();
        while pulse.answered[0].load(Ordering::Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
        assert!(!pulse.is_felt(), "the second one hangs");
        pulse.end(1);
        assert!(pulse.is_felt(), "or has ended");
        first.abort();
    }
}
