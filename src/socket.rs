//! A connection's bytes, plain or in TLS, shared by a reader and a writer of one task.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::http1::Buffer;

/// The two kinds of connection.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
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

/// A connection that one task reads and writes at once. The stream is borrowed only within a poll.
#[derive(Debug)]
pub struct Socket(RefCell<Stream>);

impl Socket {
    /// Takes the stream over.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self(RefCell::new(stream))
    }

    /// Gives the stream back.
    #[must_use]
    pub fn into_inner(self) -> Stream {
        self.0.into_inner()
    }

    /// Waits until there is something to read, or the end, without holding a buffer for it.
    ///
    /// # Errors
    /// The connection's.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.0.borrow().tcp().poll_read_ready(cx)).await
    }

    /// Receives into the buffer's room and returns how much; 0 is the end. A full buffer is an error, so that it cannot
    /// be taken for the end.
    ///
    /// # Errors
    /// The connection's, or `StorageFull`.
    pub async fn read(&self, buffer: &mut Buffer) -> io::Result<usize> {
        poll_fn(|cx| {
            let room = buffer.room();
            if room.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::StorageFull.into()));
            }
            let mut room = ReadBuf::new(room);
            match Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, &mut room) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(result) => {
                    let count = room.filled().len();
                    buffer.received(count);
                    Poll::Ready(result.map(|()| count))
                }
            }
        })
        .await
    }

    /// Like [`Socket::read`], without waiting: `None` when there is nothing yet. In TLS, bytes may wait decrypted where
    /// [`Socket::readable`] cannot see them, so this comes before it.
    ///
    /// # Errors
    /// As [`Socket::read`].
    pub async fn read_now(&self, buffer: &mut Buffer) -> io::Result<Option<usize>> {
        let mut read = std::pin::pin!(self.read(buffer));
        poll_fn(|cx| match read.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(result.map(Some)),
            Poll::Pending => Poll::Ready(Ok(None)),
        })
        .await
    }

    /// Writes some of the first slice and then of the second, and takes what was written off their fronts. May be
    /// dropped half-way: what was taken off was written.
    ///
    /// # Errors
    /// The connection's; `WriteZero` when it takes nothing.
    pub async fn write_some(&self, first: &mut &[u8], second: &mut &[u8]) -> io::Result<usize> {
        let count = poll_fn(|cx| {
            let mut stream = self.0.borrow_mut();
            match (first.is_empty(), second.is_empty()) {
                (_, true) => Pin::new(&mut *stream).poll_write(cx, first),
                (true, false) => Pin::new(&mut *stream).poll_write(cx, second),
                (false, false) => {
                    let slices = [IoSlice::new(first), IoSlice::new(second)];
                    Pin::new(&mut *stream).poll_write_vectored(cx, &slices)
                }
            }
        })
        .await?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let of_first = count.min(first.len());
        *first = first.get(of_first..).unwrap_or_default();
        *second = second.get(count - of_first..).unwrap_or_default();
        Ok(count)
    }

    /// Hands on what TLS still holds back.
    ///
    /// # Errors
    /// The connection's.
    pub async fn flush(&self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx)).await
    }

    /// Says that nothing more will be written.
    ///
    /// # Errors
    /// The connection's.
    pub async fn shutdown(&self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)).await
    }

    /// Makes closing visible as a break, not an end: what was sent is not whole.
    pub fn reset(&self) {
        // Where that cannot be set, the missing end of the reply still tells.
        drop(self.0.borrow().tcp().set_zero_linger());
    }

    /// Whether the other side has neither closed nor said anything: whether an idle connection can be used. Costs a
    /// system call only when something did happen.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let mut byte = [0; 1];
        let read = self.0.borrow().tcp().try_read(&mut byte);
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}
