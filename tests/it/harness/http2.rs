//! A client of HTTP/2. Its replies are checked as those of [`Client`](super::Client) are.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::reply::{Head, Reply};
use super::{Token, within};

/// One connection.
pub(crate) struct Http2Client {
    requests: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

/// One request on it.
pub(crate) struct Http2Stream {
    /// Where the request's body goes; ended already if it has none.
    pub(crate) body: SendStream<Bytes>,
    response: ResponseFuture,
    to_head: bool,
}

/// A request without a credential. `fields` are names and values.
pub(crate) fn http2_request(method: &str, path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(format!("http://tollgate{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request")
}

/// A request with a token.
pub(crate) fn http2_with(token: &Token, method: &str, path: &str) -> Request<()> {
    http2_request(method, path, &[("authorization", &format!("Bearer {}", token.raw))])
}

impl Http2Client {
    /// By prior knowledge.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::connect_with(address, &Builder::new()).await
    }

    /// By prior knowledge, with settings of its own.
    pub(crate) async fn connect_with(address: SocketAddr, settings: &Builder) -> Self {
        let stream = within("connecting", TcpStream::connect(address)).await.expect("connects");
        Self::over(stream, settings).await
    }

    /// On a connection that was made for it.
    pub(crate) async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, settings: &Builder) -> Self {
        let (requests, connection) = within("settings", settings.handshake(stream)).await.expect("speaks HTTP/2");
        Self { requests, connection: tokio::spawn(connection) }
    }

    /// Sends a request whose body follows.
    pub(crate) async fn begin(&self, request: Request<()>) -> Http2Stream {
        self.start(request, false).await
    }

    /// Sends a request without a body.
    pub(crate) async fn send(&self, request: Request<()>) -> Http2Stream {
        self.start(request, true).await
    }

    /// A `GET` with a token, and its reply.
    pub(crate) async fn get(&self, path: &str, token: &Token) -> Reply {
        self.send(http2_with(token, "GET", path)).await.reply().await
    }

    async fn start(&self, request: Request<()>, ended: bool) -> Http2Stream {
        let to_head = request.method() == http::Method::HEAD;
        let ready = within("a free stream", self.requests.clone().ready()).await;
        let (response, body) = ready.expect("an open connection").send_request(request, ended).expect("is sent");
        Http2Stream { body, response, to_head }
    }

    /// Waits until the sidecar has closed the connection, and says how.
    pub(crate) async fn closed(self) -> Result<(), h2::Error> {
        let Self { requests, connection } = self;
        let _held = requests; // or the client would end it itself
        within("the connection's end", connection).await.expect("no panic")
    }
}

impl Http2Stream {
    /// A piece of the body.
    pub(crate) fn piece(&mut self, data: &'static [u8]) {
        self.body.send_data(Bytes::from_static(data), false).expect("an open stream");
    }

    /// The end of the body, in a frame of its own.
    pub(crate) fn end(&mut self) {
        self.body.send_data(Bytes::new(), true).expect("an open stream");
    }

    /// The whole reply.
    pub(crate) async fn reply(self) -> Reply {
        let to_head = self.to_head;
        let (head, mut body) = self.head().await;
        let mut received = Vec::new();
        while let Some(data) = within("a piece of the reply", body.data()).await {
            let data = data.unwrap_or_else(|error| panic!("{head:?} was cut: {error}"));
            body.flow_control().release_capacity(data.len()).expect("an open stream");
            received.extend_from_slice(&data);
        }
        Reply::of_http2(head, received, to_head)
    }

    /// Whether a reply comes at all.
    pub(crate) async fn outcome(self) -> Result<u16, h2::Error> {
        within("a reply or none", self.response).await.map(|response| response.status().as_u16())
    }

    /// The reply's head; its body stays to be read.
    pub(crate) async fn head(self) -> (Head, RecvStream) {
        let response = within("a reply", self.response).await.expect("a reply");
        let (parts, body) = response.into_parts();
        let text = |value: &http::HeaderValue| value.to_str().expect("text").to_owned();
        let fields = parts.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        let phrase = parts.status.canonical_reason().unwrap_or_default().to_owned();
        (Head { status: parts.status.as_u16(), phrase, fields }, body)
    }
}

/// Reads to where the stream breaks off: what came, and why it ended. Panics at a clean end.
pub(crate) async fn http2_cut(body: &mut RecvStream) -> (Vec<u8>, h2::Error) {
    let mut received = Vec::new();
    loop {
        match within("a piece or the cut", body.data()).await {
            None => panic!("this looks like a whole body: {} bytes", received.len()),
            Some(Err(error)) => return (received, error),
            Some(Ok(data)) => {
                body.flow_control().release_capacity(data.len()).expect("an open stream");
                received.extend_from_slice(&data);
            }
        }
    }
}
