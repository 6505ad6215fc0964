//! What connections carry, and when: an answer that is still arriving is not given up, nor a question that may still be on its
//! way, and how fast both are carried says how much the line carries. Counted below TLS, for whose records a thin line takes
//! seconds.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, sleep_until};

use crate::lock::Mutex;

/// What a line carries at least, in bytes per millisecond: what was written may be on its way for so long. The system takes it
/// at once, and does not say when it is gone.
const LEAST_RATE: usize = 4;

/// What was heard on a connection, or on all of them.
#[derive(Debug)]
pub(super) struct Heard(Mutex<State>);

#[derive(Debug)]
struct State {
    last: Instant,
    /// How many bytes were written since.
    unanswered: usize,
    asked: Instant,
    /// The first bytes since something was asked, and how many have come since, and were written.
    first: Option<Instant>,
    bytes: usize,
    written: usize,
    /// The shortest time from a question to the first bytes after it.
    round_trip: Option<Duration>,
}

/// How much was carried, and how long that took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Carried {
    pub(super) bytes: usize,
    pub(super) took: Duration,
}

/// How a question was answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exchange {
    /// The answer, from its first bytes to its last: the round trip is not in it.
    pub(super) answer: Carried,
    /// The question too; without the round trip of the shortest one.
    pub(super) whole: Carried,
}

impl Heard {
    pub(super) fn new() -> Arc<Self> {
        let now = Instant::now();
        let state = State { last: now, unanswered: 0, asked: now, first: None, bytes: 0, written: 0, round_trip: None };
        Arc::new(Self(Mutex::new(state)))
    }

    /// Something is asked: what arrives from here on is the answer.
    pub(super) fn ask(&self) {
        let mut state = self.0.lock();
        (state.asked, state.first, state.bytes, state.written) = (Instant::now(), None, 0, 0);
    }

    /// How what was asked last was answered. Of several questions at once it is the whole.
    pub(super) fn exchange(&self) -> Exchange {
        let state = self.0.lock();
        let answer = state.first.map_or(Duration::ZERO, |first| state.last - first);
        let whole = state.last.saturating_duration_since(state.asked);
        let whole = whole.saturating_sub(state.round_trip.unwrap_or_default());
        Exchange {
            answer: Carried { bytes: state.bytes, took: answer },
            whole: Carried { bytes: state.bytes + state.written, took: whole },
        }
    }

    /// When something was heard last.
    pub(super) fn last(&self) -> Instant {
        self.0.lock().last
    }

    /// For how long what was written since something was heard last may be on its way.
    pub(super) fn on_its_way(&self) -> Duration {
        Duration::from_millis((self.0.lock().unanswered / LEAST_RATE) as u64)
    }

    /// What is waited for, until nothing arrives for so long, once what was asked must have arrived: then `None`.
    pub(super) async fn unless_silent<T>(&self, limit: Duration, answer: impl Future<Output = T>) -> Option<T> {
        let began = Instant::now();
        let silence = async {
            loop {
                let until = self.last().max(began) + self.on_its_way() + limit;
                if until <= Instant::now() {
                    return;
                }
                sleep_until(until).await;
            }
        };
        tokio::select! {
            biased;
            answer = answer => Some(answer),
            () = silence => None,
        }
    }

    fn note(&self, bytes: usize) {
        let (now, mut state) = (Instant::now(), self.0.lock());
        (state.last, state.unanswered) = (now, 0);
        if state.first.is_none() {
            let round_trip = now - state.asked;
            state.first = Some(now);
            state.round_trip = Some(state.round_trip.map_or(round_trip, |shortest| shortest.min(round_trip)));
        }
        state.bytes += bytes;
    }

    fn note_written(&self, bytes: usize) {
        let mut state = self.0.lock();
        state.unanswered += bytes;
        state.written += bytes;
    }
}

/// A TCP connection on which is listened: of itself, and as one of all.
#[derive(Debug)]
pub(super) struct Audible {
    pub(super) stream: TcpStream,
    pub(super) heard: [Arc<Heard>; 2],
}

impl AsyncRead for Audible {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        let bytes = buf.filled().len() - before;
        if bytes > 0 {
            self.heard.iter().for_each(|heard| heard.note(bytes));
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Audible {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, data));
        if let Ok(bytes) = &written {
            self.heard.iter().for_each(|heard| heard.note_written(*bytes));
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn what_is_still_arriving_is_waited_for() {
        let (heard, limit) = (Heard::new(), Duration::from_secs(2));
        heard.ask();
        let began = Instant::now();
        let arriving = async {
            while began.elapsed() < limit * 3 / 2 {
                tokio::time::sleep(Duration::from_millis(200)).await;
                heard.note(100);
            }
        };
        assert!(heard.unless_silent(limit, arriving).await.is_some());
        let Exchange { answer, .. } = heard.exchange();
        assert!(answer.bytes >= 100 && answer.took < began.elapsed(), "without the wait for the first: {answer:?}");
        assert!(heard.unless_silent(Duration::from_millis(1), pending::<()>()).await.is_none());
    }

    #[tokio::test]
    async fn what_may_still_be_on_its_way_is_waited_for() {
        let (heard, began) = (Heard::new(), Instant::now());
        heard.note_written(2_000);
        assert!(heard.unless_silent(Duration::from_millis(100), pending::<()>()).await.is_none());
        assert!(began.elapsed() >= Duration::from_millis(600), "{:?}", began.elapsed());
        heard.note(1);
        assert_eq!(heard.on_its_way(), Duration::ZERO, "it has arrived");
    }

    #[tokio::test]
    async fn a_question_s_way_is_told_from_the_round_trip() {
        let heard = Heard::new();
        let ask = async |bytes, millis| {
            let asked = Instant::now();
            heard.ask();
            heard.note_written(bytes);
            tokio::time::sleep(Duration::from_millis(millis)).await;
            heard.note(50);
            asked.elapsed()
        };
        let round_trip = ask(100, 100).await;
        let all = ask(10_000, 500).await;
        let Exchange { answer, whole } = heard.exchange();
        assert_eq!((answer.took, whole.bytes), (Duration::ZERO, 10_050));
        assert!((Duration::from_millis(500) - round_trip..=all).contains(&whole.took), "{whole:?}");
    }
}
