//! Lines on their way out of the process: the log, and the access log. Whoever has one to write leaves it in a bounded queue
//! and goes on; one thread writes. What takes nothing (a pipe that nobody reads, a full disk) makes the queue full, and then
//! whole lines are lost and counted. Nobody ever waits for it, but for a bounded moment at the end.

mod output;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use output::{Datagram, File, Output, Stream, try_file};

/// Between two tries of what failed.
const RETRY: Duration = Duration::from_secs(1);

/// Between two times that it is said that lines were lost.
const SAY_INTERVAL: Duration = Duration::from_secs(10);

/// A queue of lines, and the thread that writes them. Its end is [`Lines::finish`], or the process's.
#[derive(Debug, Clone)]
pub(crate) struct Lines(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: std::sync::Mutex<State>,
    changed: Condvar,
    /// Bytes that may wait.
    capacity: usize,
    lost: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// The writer waits for lines, and has to be told of the first.
    is_resting: bool,
    is_failing: bool,
    reopen: bool,
    closing: bool,
    abandoned: bool,
    done: bool,
}

impl Lines {
    /// Starts the thread. What is called `name` has a bounded number of bytes waiting; for `gather` after the first line more
    /// are waited for, so that many cost no more wake-ups than a few. Lines that find no room are counted in `lost`.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn start(
        name: &'static str,
        output: Box<dyn Output>,
        capacity: usize,
        gather: Duration,
        lost: Arc<AtomicU64>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared { state: std::sync::Mutex::default(), changed: Condvar::new(), capacity, lost });
        let writer = Writer {
            shared: Arc::clone(&shared),
            name,
            output,
            gather,
            batch: Vec::new(),
            reopen_at: None,
            is_failing: false,
            lost_said: (0, None),
        };
        std::thread::Builder::new().name(name.replace(' ', "-")).spawn(move || writer.run())?;
        Ok(Self(shared))
    }

    /// Leaves a line, which ends with a line feed, to be written, or loses it.
    pub(crate) fn push(&self, line: &[u8]) {
        let mut state = self.0.lock();
        if state.waiting.len() + line.len() > self.0.capacity || state.done {
            drop(state);
            self.0.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.waiting.extend_from_slice(line);
        let is_first = std::mem::replace(&mut state.is_resting, false);
        drop(state);
        if is_first {
            self.0.changed.notify_all();
        }
    }

    /// Counts the lines of the process's log that were lost. There is one log, and so one count.
    pub(crate) fn lost_of_log() -> &'static Arc<AtomicU64> {
        static LOST: LazyLock<Arc<AtomicU64>> = LazyLock::new(Arc::default);
        &LOST
    }

    /// Has what is written to opened anew, since it was moved away.
    pub(crate) fn reopen(&self) {
        self.0.lock().reopen = true;
        self.0.changed.notify_all();
    }

    /// Waits until everything is written, so long at most, and ends the thread. Not for what fails already. `false`: not
    /// everything was.
    pub(crate) fn finish(&self, within: Duration) -> bool {
        let mut state = self.0.lock();
        state.closing = true;
        self.0.changed.notify_all();
        let waited = self.0.changed.wait_timeout_while(state, within, |state| !state.done && !state.is_failing);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.abandoned = true;
        let is_done = state.done;
        drop(state);
        self.0.changed.notify_all();
        is_done
    }
}

/// One line with each write, as who formats events does it.
impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    /// Nothing under it panics in between.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for as long as this holds, and so long at most.
    fn wait(&self, longest: Option<Duration>, holds: impl FnMut(&mut State) -> bool) -> MutexGuard<'_, State> {
        match longest {
            None => self.changed.wait_while(self.lock(), holds).unwrap_or_else(PoisonError::into_inner),
            Some(longest) => {
                let waited = self.changed.wait_timeout_while(self.lock(), longest, holds);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }
}

/// The thread's side.
struct Writer {
    shared: Arc<Shared>,
    name: &'static str,
    output: Box<dyn Output>,
    gather: Duration,
    batch: Vec<u8>,
    /// When opening is tried again that failed.
    reopen_at: Option<Instant>,
    is_failing: bool,
    /// How many lost ones were said, and when.
    lost_said: (u64, Option<Instant>),
}

impl Writer {
    fn run(mut self) {
        while self.take() {
            self.reopen_if_due();
            self.write();
            self.say_lost();
        }
        self.shared.lock().done = true;
        self.shared.changed.notify_all();
    }

    /// Waits for lines, or for something else to do. `false`: there is nothing any more.
    fn take(&mut self) -> bool {
        let until = self.reopen_at.map(|at| at.saturating_duration_since(Instant::now()));
        self.batch.clear();
        let state = self.shared.wait(until, |state| {
            let rests = state.waiting.is_empty() && !state.reopen && !state.closing;
            state.is_resting = rests;
            rests
        });
        let gathers = !state.closing && !state.waiting.is_empty() && !self.gather.is_zero();
        drop(state);
        let mut state = match gathers {
            true => self.shared.wait(Some(self.gather), |state| !state.closing),
            false => self.shared.lock(),
        };
        state.is_resting = false;
        std::mem::swap(&mut state.waiting, &mut self.batch);
        !(state.abandoned || (state.closing && self.batch.is_empty()))
    }

    fn write(&mut self) {
        let mut at = 0;
        while at < self.batch.len() {
            match self.output.write(&self.batch[at..]) {
                Ok(written) => {
                    at += written;
                    self.set_failing(None);
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => {
                    self.set_failing(Some(&error));
                    drop(self.shared.wait(Some(RETRY), |state| !state.reopen && !state.abandoned));
                }
            }
            if self.shared.lock().abandoned {
                return;
            }
            // The rest of a line that began elsewhere is none.
            if self.reopen_if_due() && at > 0 && self.batch[at - 1] != b'\n' {
                let end = memchr::memchr(b'\n', &self.batch[at..]).map_or(self.batch.len(), |end| at + end + 1);
                at = end;
                self.shared.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Whether it was opened anew.
    fn reopen_if_due(&mut self) -> bool {
        let is_asked = std::mem::take(&mut self.shared.lock().reopen);
        if !is_asked && self.reopen_at.is_none_or(|at| Instant::now() < at) {
            return false;
        }
        match self.output.reopen() {
            Ok(()) => {
                self.reopen_at = None;
                tracing::info!("the {} was opened again", self.name);
                true
            }
            Err(error) => {
                if is_asked || self.reopen_at.is_none() {
                    tracing::error!(%error, "the {} cannot be opened again: it goes on where it was, and that is tried every second", self.name);
                }
                self.reopen_at = Some(Instant::now() + RETRY);
                false
            }
        }
    }

    fn set_failing(&mut self, error: Option<&io::Error>) {
        if self.is_failing == error.is_some() {
            return;
        }
        self.is_failing = error.is_some();
        self.shared.lock().is_failing = self.is_failing;
        match error {
            Some(error) => {
                self.shared.changed.notify_all();
                tracing::error!(%error, "the {} cannot be written: lines that find no room are lost; tried every second", self.name);
            }
            None => tracing::info!("the {} is written again", self.name),
        }
    }

    fn say_lost(&mut self) {
        let lost = self.shared.lost.load(Ordering::Relaxed);
        let (said, at) = self.lost_said;
        if lost > said && at.is_none_or(|at| at.elapsed() >= SAY_INTERVAL) {
            self.lost_said = (lost, Some(Instant::now()));
            tracing::warn!(
                lines = lost - said,
                "lines of the {} were lost: what it goes to takes them too slowly",
                self.name
            );
        }
    }
}

#[cfg(test)]
mod tests;
