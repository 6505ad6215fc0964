//! An upstream connection's bytes below hyper: gives writes a deadline, and goes on reading when the upstream takes no more.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use crate::socket::Socket;
use crate::worker::alarm::Alarm;

/// What the one who sends a request wants to know of its connection, beside what hyper reports.
#[derive(Debug, Default)]
pub(super) struct Signs {
    /// The upstream takes no more. What is written is dropped: it may have answered, and its answer is worth more than the
    /// rest of the request.
    pub(super) deaf: Cell<bool>,
    /// Something came since the request was sent.
    pub(super) answered: Cell<bool>,
}

/// A stream that hyper's client reads and writes.
pub(super) struct Io {
    socket: Rc<Socket>,
    /// Runs while the upstream takes nothing.
    alarm: Alarm,
    /// Longest time that it may take nothing.
    pause: Duration,
    stalled: bool,
    signs: Rc<Signs>,
    /// A write met a reset, so no read will be: what looks like an end from here on is none.
    reset: bool,
    /// Its place among the connections to the upstream.
    _slot: OwnedSemaphorePermit,
}

impl Io {
    pub(super) fn new(
        socket: Rc<Socket>,
        alarm: Alarm,
        pause: Duration,
        signs: Rc<Signs>,
        slot: OwnedSemaphorePermit,
    ) -> Self {
        Self { socket, alarm, pause, stalled: false, signs, reset: false, _slot: slot }
    }

    /// What a write of `count` bytes came to.
    fn written(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
        count: usize,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => {
                if !std::mem::replace(&mut self.stalled, true) {
                    self.alarm.set(self.pause);
                }
                self.alarm.poll(context).map(|_| Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Ready(written) => {
                if std::mem::replace(&mut self.stalled, false) {
                    self.alarm.clear();
                }
                Poll::Ready(written.or_else(|error| {
                    // Nobody is there to answer any more. After all other errors it is for the reading side to say how it ends.
                    if error.kind() == io::ErrorKind::TimedOut {
                        return Err(error);
                    }
                    self.signs.deaf.set(true);
                    self.reset |= error.kind() != io::ErrorKind::BrokenPipe;
                    Ok(count)
                }))
            }
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut *self.socket.stream()).poll_read(context, buffer);
        let came = buffer.filled().len() > before;
        if came {
            self.signs.answered.set(true);
        }
        if self.reset && matches!(read, Poll::Ready(Ok(()))) && !came {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        read
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.signs.deaf.get() {
            return Poll::Ready(Ok(data.len()));
        }
        let written = Pin::new(&mut *self.socket.stream()).poll_write(context, data);
        self.written(context, written, data.len())
    }

    /// TLS may hold back what was written, so this has the same deadline.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.signs.deaf.get() {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut *self.socket.stream()).poll_flush(context).map_ok(|()| 0);
        self.written(context, flushed, 0).map_ok(drop)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.socket.stream()).poll_shutdown(context)
    }
}
