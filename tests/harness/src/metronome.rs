//! A clock that beats as long as this process is run, and notices when it is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::prober::History;

/// Notices when the machine is too busy to run this process: what is late then is nobody's fault.
pub struct Metronome {
    stop: Arc<AtomicBool>,
    stalled: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Metronome {
    /// Records in the history whatever is later than `notable`.
    pub fn start(history: History, notable: Duration) -> Self {
        const BEAT: Duration = Duration::from_millis(20);
        let (stop, stalled) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let beat = {
            let (stop, stalled) = (Arc::clone(&stop), Arc::clone(&stalled));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let before = Instant::now();
                    std::thread::sleep(BEAT);
                    let late = before.elapsed().saturating_sub(BEAT);
                    if late >= BEAT / 2 {
                        let late = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
                        stalled.fetch_add(late, Ordering::Relaxed);
                    }
                    if late >= notable {
                        history.with(|judge| judge.stood_still(before, Instant::now()));
                    }
                }
            }
        };
        Self { stop, stalled, thread: Some(std::thread::spawn(beat)) }
    }

    /// For how long in all.
    pub fn stalled(&self) -> Duration {
        Duration::from_millis(self.stalled.load(Ordering::Relaxed))
    }
}

impl Drop for Metronome {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of it has been printed.
            drop(thread.join());
        }
    }
}
