//! A client that sends what it is told to, byte for byte, and believes nothing it gets.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::reply::{Ending, Head, Reply};
use super::within;

type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// One connection to the sidecar.
pub(crate) struct Client {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    writer: Option<WriteHalf>,
    received: Vec<u8>,
    dripping: Option<AbortHandle>,
}

/// A reply did not come to a good end.
#[derive(Debug)]
pub(crate) struct Cut {
    /// What came of the reply's body, if its head came.
    pub(crate) body: Option<Vec<u8>>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = within("connecting", TcpStream::connect(address)).await.expect("connects");
        stream.set_nodelay(true).expect("sets");
        Self::over(stream)
    }

    /// On a connection that was made for it.
    pub(crate) fn over(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self { reader: Box::new(reader), writer: Some(Box::new(writer)), received: Vec::new(), dripping: None }
    }

    /// Sends bytes. The sidecar may have closed meanwhile, which is for what follows to notice.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        drop(within("sending", self.writer().write_all(bytes.as_ref())).await);
    }

    /// Sends until it is done or the sidecar takes no more; returns how much was sent.
    pub(crate) async fn send_up_to(&mut self, bytes: &[u8], total: usize) -> usize {
        let mut sent = 0;
        while sent < total {
            match within("sending", self.writer().write(&bytes[..bytes.len().min(total - sent)])).await {
                Ok(count) => sent += count,
                Err(_) => return sent,
            }
        }
        sent
    }

    /// Sends the same byte again and again, slowly, beside whatever else is done from here on.
    pub(crate) fn drip(&mut self, byte: u8) {
        let mut writer = self.writer.take().expect("still here");
        let drip = async move {
            while writer.write_all(&[byte]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        self.dripping = Some(tokio::spawn(drip).abort_handle());
    }

    fn writer(&mut self) -> &mut WriteHalf {
        self.writer.as_mut().expect("it does not drip")
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn finish(&mut self) {
        self.writer().shutdown().await.expect("shuts down");
    }

    /// The next reply, complete.
    pub(crate) async fn reply(&mut self) -> Reply {
        match self.try_reply(false).await {
            Ok(reply) => reply,
            Err(cut) => panic!("a reply was expected, it was cut: {cut:?}"),
        }
    }

    /// The next reply, to a HEAD request: without a body.
    pub(crate) async fn reply_to_head(&mut self) -> Reply {
        match self.try_reply(true).await {
            Ok(reply) => reply,
            Err(cut) => panic!("a reply was expected, it was cut: {cut:?}"),
        }
    }

    /// A reply that is cut off: what came of it. Panics if it came to a good end.
    pub(crate) async fn cut_reply(&mut self) -> Cut {
        match self.try_reply(false).await {
            Ok(reply) => panic!("this looks like a whole reply: {reply:?}"),
            Err(cut) => cut,
        }
    }

    /// The next reply, or how far it came.
    pub(crate) async fn try_reply(&mut self, to_head: bool) -> Result<Reply, Cut> {
        let head = self.head().await?;
        let mut reply = Reply::new(head, to_head);
        loop {
            if let Some(used) = reply.take_body(&self.received) {
                self.received.drain(..used);
                reply.check();
                return Ok(reply);
            }
            match self.receive().await {
                Ok(0) if reply.ending == Ending::Close => {
                    reply.body = std::mem::take(&mut self.received);
                    reply.check();
                    return Ok(reply);
                }
                Ok(0) | Err(_) => {
                    return Err(Cut { body: Some(std::mem::take(&mut self.received)) });
                }
                Ok(_) => {}
            }
        }
    }

    /// The head of the next reply, interim ones included; what follows stays to be read.
    pub(crate) async fn head(&mut self) -> Result<Head, Cut> {
        loop {
            if let Some(end) = self.received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head: Vec<u8> = self.received.drain(..end + 4).collect();
                return Ok(Head::parse(&head));
            }
            match self.receive().await {
                Ok(0) | Err(_) => return Err(Cut { body: None }),
                Ok(_) => {}
            }
        }
    }

    /// Waits for so many bytes in all that were not read as part of a reply, and returns them.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.received.len() < count {
            let received = self.receive().await.expect("receives");
            assert_ne!(received, 0, "the connection ended after {:?}", self.received.escape_ascii().to_string());
        }
        self.received.drain(..count).collect()
    }

    /// As [`Client::bytes`], or `None` if the connection ends before.
    pub(crate) async fn try_bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.received.len() < count {
            if self.receive().await.unwrap_or(0) == 0 {
                return None;
            }
        }
        Some(self.received.drain(..count).collect())
    }

    /// Asserts that the connection ends here, cleanly and with nothing more said.
    pub(crate) async fn ends(&mut self) {
        let received = self.receive().await.expect("a clean end");
        assert_eq!(received, 0, "more was said: {:?}", self.received.escape_ascii().to_string());
        assert!(self.received.is_empty(), "more was said: {:?}", self.received.escape_ascii().to_string());
    }

    /// Asserts that the connection ends here, cleanly or not, with nothing more said.
    pub(crate) async fn ends_unanswered(&mut self) {
        drop(self.receive().await);
        assert_eq!(self.received.escape_ascii().to_string(), "", "nothing was to be said");
    }

    /// Waits until the connection is over, cleanly or not, whatever comes until then.
    pub(crate) async fn is_cut(&mut self) {
        while self.receive().await.is_ok_and(|count| count > 0) {
            self.received.clear();
        }
    }

    /// Waits until the connection is reset: what was sent before is not whole, and cannot be taken for it.
    pub(crate) async fn is_reset(&mut self) {
        loop {
            match self.receive().await {
                Ok(0) => panic!("a clean end, after {:?}", self.received.escape_ascii().to_string()),
                Ok(_) => {}
                Err(error) => return assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
            }
        }
    }

    /// Whatever comes until the connection is over, cleanly or not.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.receive().await.is_ok_and(|count| count > 0) {}
        std::mem::take(&mut self.received)
    }

    async fn receive(&mut self) -> io::Result<usize> {
        within("something from the sidecar", self.reader.read_buf(&mut self.received)).await
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(dripping) = &self.dripping {
            dripping.abort();
        }
    }
}
