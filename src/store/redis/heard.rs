//! What arrives on connections, and when: an answer that is still arriving is not given up, and how fast it arrives says how
//! much the line carries. Counted below TLS, for whose records a thin line takes seconds.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, sleep_until};

use crate::lock::Mutex;

/// What was heard on a connection, or on all of them.
#[derive(Debug)]
pub(super) struct Heard(Mutex<State>);

#[derive(Debug)]
struct State {
    last: Instant,
    /// The first bytes since something was asked, and how many have come since.
    first: Option<Instant>,
    bytes: usize,
}

/// How an answer arrived.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrived {
    pub(super) bytes: usize,
    /// From its first bytes to its last: the round trip is not in it.
    pub(super) took: Duration,
}

impl Heard {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { last: Instant::now(), first: None, bytes: 0 })))
    }

    /// Something is asked: what arrives from here on is the answer.
    pub(super) fn ask(&self) {
        let mut state = self.0.lock();
        (state.first, state.bytes) = (None, 0);
    }

    /// How what was asked last was answered. Of several questions at once it is the whole.
    pub(super) fn arrived(&self) -> Arrived {
        let state = self.0.lock();
        Arrived { bytes: state.bytes, took: state.first.map_or(Duration::ZERO, |first| state.last - first) }
    }

    /// When something was heard last.
    pub(super) fn last(&self) -> Instant {
        self.0.lock().last
    }

    /// What is waited for, until nothing arrives for so long: then `None`.
    pub(super) async fn unless_silent<T>(&self, limit: Duration, answer: impl Future<Output = T>) -> Option<T> {
        let began = Instant::now();
        let silence = async {
            loop {
                let until = self.last().max(began) + limit;
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
        state.last = now;
        state.first.get_or_insert(now);
        state.bytes += bytes;
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
        Pin::new(&mut self.stream).poll_write(cx, data)
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
        let arrived = heard.arrived();
        assert!(arrived.bytes >= 100 && arrived.took < began.elapsed(), "without the wait for the first: {arrived:?}");
        assert!(heard.unless_silent(Duration::from_millis(1), pending::<()>()).await.is_none());
    }
}
