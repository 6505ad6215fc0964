//! HTTP/1 as it stands in the RFC and no looser: what both ends of the fuzzer read with. Shares no code with the sidecar.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// What comes from one side of a connection.
pub(crate) struct Inbox<R> {
    stream: R,
    received: Vec<u8>,
    /// Where what was not taken yet begins.
    start: usize,
}

/// The sending side of a connection. Unlike tokio's, it does not say that it ends when it is dropped: a reset would look like
/// a good end.
pub(crate) struct Outbox {
    stream: Option<OwnedWriteHalf>,
    met_reset: MetReset,
}

/// Whether a write met a reset: the system reports that once, so the reading side then sees what looks like a good end.
/// Locked while a write is tried, so that who read an end knows whether a write was told something else just before.
pub(crate) type MetReset = Arc<Mutex<bool>>;

impl Outbox {
    pub(crate) fn new(stream: OwnedWriteHalf) -> Self {
        Self { stream: Some(stream), met_reset: MetReset::default() }
    }

    pub(crate) fn met_reset(&self) -> MetReset {
        Arc::clone(&self.met_reset)
    }

    pub(crate) async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let Some(stream) = &self.stream else { return Ok(()) };
        while !bytes.is_empty() {
            stream.writable().await?;
            let mut met_reset = self.met_reset.lock().unwrap_or_else(PoisonError::into_inner);
            match stream.try_write(bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    // A broken pipe is what a connection that was closed in the regular way says.
                    *met_reset |= error.kind() != io::ErrorKind::BrokenPipe;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Says that nothing more comes.
    pub(crate) async fn finish(&mut self) {
        if let Some(stream) = &mut self.stream {
            // The other side may have closed already.
            stream.shutdown().await.unwrap_or_default();
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.forget();
        }
    }
}

/// What ends the reading of a message.
#[derive(Debug)]
pub(crate) enum WireError {
    /// The other side closed, in this way.
    End(End),
    /// It is no HTTP.
    Bad(String),
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Clean,
    Reset,
}

/// First line and fields.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) line: String,
    pub(crate) fields: Vec<(String, String)>,
}

/// How a body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    Length(usize),
    Chunked,
    /// Nothing was said.
    Unsaid,
}

impl Head {
    /// Values of a field, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let is_it = |field: &&(String, String)| field.0.eq_ignore_ascii_case(name);
        self.fields.iter().filter(is_it).map(|(_, value)| value.as_str()).collect()
    }

    /// The only value of a field.
    pub(crate) fn one(&self, name: &str) -> Option<&str> {
        match self.all(name).as_slice() {
            [value] => Some(value),
            _ => None,
        }
    }

    /// The one statement about the body's length.
    pub(crate) fn body(&self) -> Result<Body, String> {
        match (self.all("content-length").as_slice(), self.all("transfer-encoding").as_slice()) {
            ([], []) => Ok(Body::Unsaid),
            ([length], []) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
                length.parse().map(Body::Length).map_err(|_| format!("a length of {length}"))
            }
            ([], ["chunked"]) => Ok(Body::Chunked),
            other => Err(format!("framing that can be read in two ways: {other:?}")),
        }
    }
}

impl<R: AsyncRead + Unpin> Inbox<R> {
    pub(crate) fn new(stream: R) -> Self {
        Self { stream, received: Vec::new(), start: 0 }
    }

    /// What came and was not taken yet.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.received[self.start..]
    }

    /// Waits for more.
    pub(crate) async fn fill(&mut self) -> Result<(), WireError> {
        self.received.drain(..std::mem::take(&mut self.start));
        self.received.reserve(8 * 1024);
        match self.stream.read_buf(&mut self.received).await {
            Ok(0) => Err(WireError::End(End::Clean)),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(WireError::End(End::Reset)),
            // Of a socket that is reset already.
            Err(_) => Err(WireError::End(End::Reset)),
        }
    }

    /// Reads until the connection ends.
    pub(crate) async fn end(&mut self) -> End {
        loop {
            if let Err(WireError::End(end)) = self.fill().await {
                return end;
            }
        }
    }

    /// The next head.
    pub(crate) async fn head(&mut self) -> Result<Head, WireError> {
        let mut line = self.line().await?;
        let mut head = Head { line: std::mem::take(&mut line), fields: Vec::new() };
        loop {
            line = self.line().await?;
            if line.is_empty() {
                return Ok(head);
            }
            let Some((name, value)) = line.split_once(':') else {
                return Err(WireError::Bad(format!("a field {line:?}")));
            };
            let is_token =
                !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            if !is_token {
                return Err(WireError::Bad(format!("a field {line:?}")));
            }
            head.fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
        }
    }

    /// At most so many bytes, at least one.
    pub(crate) async fn data(&mut self, most: usize) -> Result<Vec<u8>, WireError> {
        if self.unread().is_empty() {
            self.fill().await?;
        }
        let data = self.unread()[..most.min(self.unread().len())].to_vec();
        self.start += data.len();
        Ok(data)
    }

    /// A line, which ends with CR LF.
    pub(crate) async fn line(&mut self) -> Result<String, WireError> {
        loop {
            match self.unread().iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    let line = self.unread()[..end].to_vec();
                    self.start += end + 1;
                    let text = line.strip_suffix(b"\r").and_then(|line| str::from_utf8(line).ok());
                    let text = text.filter(|text| !text.contains('\r'));
                    return text
                        .map(str::to_owned)
                        .ok_or_else(|| WireError::Bad(format!("a line {}", line.escape_ascii())));
                }
                None if self.unread().len() > 64 * 1024 => {
                    return Err(WireError::Bad("a line without an end".to_owned()));
                }
                None => self.fill().await?,
            }
        }
    }
}

impl Inbox<OwnedReadHalf> {
    /// When it is dropped, the connection is reset.
    pub(crate) fn resets(&self) {
        SockRef::from(self.stream.as_ref()).set_linger(Some(Duration::ZERO)).unwrap_or_default();
    }
}

/// Reads a body piece by piece.
pub(crate) struct Pieces {
    framing: Body,
    left: usize,
    /// Within chunks, after the first.
    begun: bool,
    ended: bool,
}

impl Pieces {
    pub(crate) fn new(framing: Body) -> Self {
        let left = if let Body::Length(length) = framing { length } else { 0 };
        Self { framing, left, begun: false, ended: framing == Body::Length(0) }
    }

    /// The next piece; `None` at the end that its framing says.
    pub(crate) async fn next<R: AsyncRead + Unpin>(
        &mut self,
        inbox: &mut Inbox<R>,
    ) -> Result<Option<Vec<u8>>, WireError> {
        if self.ended {
            return Ok(None);
        }
        if self.framing == Body::Unsaid {
            return match inbox.data(usize::MAX).await {
                Ok(data) => Ok(Some(data)),
                Err(WireError::End(End::Clean)) => {
                    self.ended = true;
                    Ok(None)
                }
                Err(stop) => Err(stop),
            };
        }
        if self.framing == Body::Chunked && self.left == 0 {
            if std::mem::replace(&mut self.begun, true) && !inbox.line().await?.is_empty() {
                return Err(WireError::Bad("a chunk longer than its size".to_owned()));
            }
            let line = inbox.line().await?;
            let size = line.split(';').next().filter(|size| !size.is_empty() && !size.starts_with('+'));
            let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
            self.left = size.ok_or_else(|| WireError::Bad(format!("a chunk's size {line:?}")))?;
            if self.left == 0 {
                self.ended = true;
                return match inbox.line().await?.as_str() {
                    "" => Ok(None),
                    trailer => Err(WireError::Bad(format!("a trailer {trailer:?}"))),
                };
            }
        }
        let data = inbox.data(self.left).await?;
        self.left -= data.len();
        self.ended = self.framing != Body::Chunked && self.left == 0;
        Ok(Some(data))
    }
}
