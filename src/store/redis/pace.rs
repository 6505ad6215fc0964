//! How much is carried at once, so that the line has it soon, and in few round trips: nothing that somebody waits for waits
//! behind it for long.

use std::time::Duration;

use super::fault::Fault;
use super::heard::Carried;
use crate::lock::Mutex;

/// Twice as much after what came soon, half as much after what came late, or broke off.
#[derive(Debug)]
pub(super) struct Pace {
    bytes: Mutex<usize>,
    least: usize,
    most: usize,
}

impl Pace {
    /// What is carried sooner may be twice as much the next time; what takes four times as long has to be half of it. Without
    /// the round trip: a long line may carry much.
    pub(super) const BRISK: Duration = Duration::from_millis(250);

    pub(super) const fn new(least: usize, first: usize, most: usize) -> Self {
        Self { bytes: Mutex::new(first), least, most }
    }

    /// Has so many bytes carried, and learns from how they were. Cancelled, or broken off, it was too much.
    pub(super) async fn carry<T, F>(&self, carry: impl FnOnce(usize) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<(T, Carried), Fault>>,
    {
        let bytes = *self.bytes.lock();
        let less = (bytes / 2).max(self.least);
        *self.bytes.lock() = less;
        let outcome = carry(bytes).await;
        *self.bytes.lock() = match &outcome {
            Ok((_, carried)) if carried.took >= Self::BRISK * 4 => less,
            // Little says nothing of what the line carries.
            Ok((_, carried)) if carried.took < Self::BRISK && carried.bytes >= bytes / 2 => (bytes * 2).min(self.most),
            Err(fault) if fault.ends_connection() => less,
            Ok(_) | Err(_) => bytes,
        };
        outcome.map(|(answer, _)| answer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const KIB: usize = 1024;

    fn pace() -> Pace {
        Pace::new(4 * KIB, 16 * KIB, 256 * KIB)
    }

    /// What is asked for after answers that carry all, or this much, for so long.
    async fn asked_after(pace: &Pace, answers: usize, bytes: Option<usize>, took: Duration) -> usize {
        for _ in 0..answers {
            let answer = async |asked| Ok(((), Carried { bytes: bytes.unwrap_or(asked), took }));
            pace.carry(answer).await.expect("answered");
        }
        *pace.bytes.lock()
    }

    #[tokio::test]
    async fn much_is_asked_for_where_much_is_carried_however_long_the_line() {
        let (pace, brisk, slow) = (pace(), Duration::from_millis(10), Duration::from_secs(2));
        assert_eq!(asked_after(&pace, 10, Some(100), brisk).await, 16 * KIB, "little says nothing");
        assert_eq!(asked_after(&pace, 10, None, brisk).await, 256 * KIB);
        assert_eq!(asked_after(&pace, 1, None, slow).await, 128 * KIB);
        assert_eq!(asked_after(&pace, 10, None, slow).await, 4 * KIB);
        assert_eq!(asked_after(&pace, 1, None, brisk).await, 8 * KIB);
    }

    #[tokio::test]
    async fn half_is_asked_for_after_what_broke_off() {
        let pace = pace();
        let broken = async |_| Err::<((), Carried), _>(Fault::TimedOut(Duration::ZERO));
        pace.carry(broken).await.expect_err("no answer");
        assert_eq!(*pace.bytes.lock(), 8 * KIB);
        let cancelled = async |_| std::future::pending().await;
        assert!(timeout(Duration::ZERO, pace.carry::<(), _>(cancelled)).await.is_err());
        assert_eq!(*pace.bytes.lock(), 4 * KIB);
        let refused = async |_| Err::<((), Carried), _>(Fault::Refused("LOADING".to_owned(), String::new()));
        pace.carry(refused).await.expect_err("refused");
        assert_eq!(*pace.bytes.lock(), 4 * KIB, "the line has carried that");
    }
}
