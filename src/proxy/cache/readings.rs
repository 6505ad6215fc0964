//! The files that are being read because somebody asked for what they say: each by one, few at a time, so that a disk that hangs holds a
//! few threads, and not one for each request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout_at};

use super::key::{Part, Place};
use crate::lock::Mutex;

/// A disk that takes longer to read a file is as good as one that has none.
const MAX_READING: Duration = Duration::from_secs(1);

/// Most files that are read at a time.
const MAX_TURNS: usize = 8;

/// The readings that are under way, by path and subject.
#[derive(Debug)]
pub(super) struct Readings {
    under_way: Mutex<BTreeMap<(Part, Part), Reading>>,
    turns: Semaphore,
}

/// Whoever waits for a reading has this.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    began: Instant,
    over: watch::Receiver<()>,
}

/// Whoever reads has this: dropped, it is over.
pub(super) struct UnderWay {
    readings: Arc<Readings>,
    subject: (Part, Part),
    _over: watch::Sender<()>,
}

impl Default for Readings {
    fn default() -> Self {
        Self { under_way: Mutex::default(), turns: Semaphore::new(MAX_TURNS) }
    }
}

impl Readings {
    /// Takes part in the reading of what is stored of this, or begins one.
    pub(super) fn join(self: &Arc<Self>, place: Place, begin: impl FnOnce(UnderWay)) -> Reading {
        let subject = (place.path, place.subject);
        let mut under_way = self.under_way.lock();
        if let Some(reading) = under_way.get(&subject) {
            return reading.clone();
        }
        let (sender, over) = watch::channel(());
        let reading = Reading { began: Instant::now(), over };
        under_way.insert(subject, reading.clone());
        drop(under_way);
        begin(UnderWay { readings: Arc::clone(self), subject, _over: sender });
        reading
    }

    /// Waits until few enough are read.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.acquire().await.ok()
    }
}

impl Reading {
    /// Waits for its end, for as long as is worth it since it began: one that takes longer goes on, and is there for who asks then.
    pub(super) async fn end(&mut self) {
        drop(timeout_at(self.began + MAX_READING, self.over.changed()).await);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.readings.under_way.lock().remove(&self.subject);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[tokio::test]
    async fn what_hangs_is_read_by_one_and_waited_for_once() {
        let readings = Arc::new(Readings::default());
        let place = |path| Place { path: [path; 16], ..Place::default() };
        let mut hangs = None;
        readings.join(place(1), |under_way| hangs = Some(under_way)).end().await;
        let mut second = readings.join(place(1), |_| panic!("it is being read"));
        let end = pin!(second.end()).poll(&mut Context::from_waker(Waker::noop()));
        assert!(end.is_ready(), "it is known to hang");
        readings.join(place(2), drop).end().await;
        drop(hangs);
        let mut begun = false;
        readings.join(place(1), |_| begun = true).end().await;
        assert!(begun && readings.under_way.lock().is_empty());
    }
}
