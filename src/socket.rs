//! A connection's bytes, plain or in TLS, shared by those of one thread that read, write and look after it.

use std::cell::{RefCell, RefMut};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::http1::Buffer;

/// The two kinds of connection.
#[derive(Debug)]
pub(crate) enum Stream {
    /// TCP. Or a Unix socket, of which an established connection is nothing else to who uses it: it is told by its making and
    /// its peer's address alone, and so spares the data path a distinction.
    Plain(TcpStream),
    /// TLS over TCP, either side of it. Boxed: plain connections shall not carry its weight.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// The certificate that the other side has shown, if any.
    pub(crate) fn peer_certificate(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.peer_certificates()?.first().map(|certificate| &**certificate),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, data),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A connection that is shared within a thread. The stream is borrowed only within a poll.
#[derive(Debug)]
pub(crate) struct Socket(RefCell<Stream>);

impl Socket {
    /// Takes the stream over.
    pub(crate) fn new(stream: Stream) -> Self {
        Self(RefCell::new(stream))
    }

    /// Gives the stream back.
    pub(crate) fn into_inner(self) -> Stream {
        self.0.into_inner()
    }

    /// The stream, for as long as a poll lasts.
    pub(crate) fn stream(&self) -> RefMut<'_, Stream> {
        self.0.borrow_mut()
    }

    /// Whether the other side has neither closed nor said anything that was not read. The kernel is asked: the runtime learns
    /// of what arrived at its next turn only, and the one who asks may come first.
    pub(crate) fn is_quiet(&self) -> bool {
        let peeked = recv(self.0.borrow().tcp(), &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        matches!(peeked, Err(Errno::WOULDBLOCK))
    }

    /// Waits until there is something to read, or the end, without holding a buffer for it.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.0.borrow().tcp().poll_read_ready(cx)).await
    }

    /// Receives into the buffer's room and returns how much; 0 is the end. A full buffer is an error, so that it cannot
    /// be taken for the end. In TLS, bytes may wait decrypted where [`Socket::readable`] cannot see them, so this comes before
    /// it.
    pub(crate) fn poll_read(&self, context: &mut Context<'_>, buffer: &mut Buffer) -> Poll<io::Result<usize>> {
        let room = buffer.room();
        if room.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::StorageFull.into()));
        }
        let mut room = ReadBuf::new(room);
        std::task::ready!(Pin::new(&mut *self.0.borrow_mut()).poll_read(context, &mut room))?;
        let count = room.filled().len();
        buffer.received(count);
        Poll::Ready(Ok(count))
    }

    /// Writes some of the first slice and then of the second, and takes what was written off their fronts; with nothing left
    /// of both, hands on what TLS still holds back. Fails with `WriteZero` when the connection takes nothing.
    pub(crate) fn poll_write(
        &self,
        context: &mut Context<'_>,
        first: &mut &[u8],
        second: &mut &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut stream = self.0.borrow_mut();
        let stream = Pin::new(&mut *stream);
        let count = std::task::ready!(match (first.is_empty(), second.is_empty()) {
            (true, true) => return stream.poll_flush(context).map_ok(|()| 0),
            (false, true) => stream.poll_write(context, first),
            (true, false) => stream.poll_write(context, second),
            (false, false) => {
                let slices = [IoSlice::new(first), IoSlice::new(second)];
                stream.poll_write_vectored(context, &slices)
            }
        })?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let of_first = count.min(first.len());
        *first = first.get(of_first..).unwrap_or_default();
        *second = second.get(count - of_first..).unwrap_or_default();
        Poll::Ready(Ok(count))
    }

    /// Says that nothing more will be written.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) async fn shutdown(&self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)).await
    }

    /// Makes closing visible as a break, not an end: what was sent is not whole.
    pub(crate) fn reset(&self) {
        // Where that cannot be set, the missing end of the reply still shows it.
        drop(self.0.borrow().tcp().set_zero_linger());
    }

    /// Whether it can: a Unix socket knows no reset.
    pub(crate) fn can_reset(&self) -> bool {
        let address = socket2::SockRef::from(self.0.borrow().tcp()).local_addr();
        address.is_ok_and(|address| !address.is_unix())
    }

    /// Takes [`Socket::reset`] back.
    pub(crate) fn end_cleanly(&self) {
        // Where that cannot be set, it is closed by a reset: broken rather than falsely whole.
        drop(socket2::SockRef::from(self.0.borrow().tcp()).set_linger(None));
    }

    /// What the other side has done beyond what was read: for when there is no room to read more.
    pub(crate) fn hangup(&self) -> Hangup {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let stream = self.0.borrow();
        let mut asked = [PollFd::new(stream.tcp(), PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut asked, Some(&now)).is_err() {
            return Hangup::None;
        }
        let events = asked[0].revents();
        if events.intersects(PollFlags::ERR | PollFlags::HUP) {
            Hangup::Gone
        } else if events.contains(PollFlags::RDHUP) {
            Hangup::Sending
        } else {
            Hangup::None
        }
    }
}

/// How far the other side has closed a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hangup {
    /// Not at all, as far as can be seen.
    None,
    /// It sends no more.
    Sending,
    /// It is gone.
    Gone,
}
