//! One keep-alive connection that sends requests, one at a time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connects");
        stream.set_nodelay(true).expect("a socket");
        Self { stream, buffer: Vec::with_capacity(4096) }
    }

    /// Sends a heartbeat with this token and returns the reply's status.
    pub(crate) async fn beat(&mut self, token: &str) -> u16 {
        let request = format!(
            "POST /agents/heartbeat HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        self.ask(&request).await.0
    }

    /// Fetches a configuration with this token: the reply's status, the bytes of its head and fields, and its body.
    pub(crate) async fn fetch(&mut self, path: &str, token: &str) -> (u16, usize, &[u8]) {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\nAccept: application/toml\r\n\
             Accept-Encoding: gzip\r\n\r\n"
        );
        let (status, body) = self.ask(&request).await;
        (status, body, &self.buffer[body..])
    }

    /// Sends a request. The reply's status, and where its body begins.
    async fn ask(&mut self, request: &str) -> (u16, usize) {
        self.stream.write_all(request.as_bytes()).await.expect("writes");
        self.buffer.clear();
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head = std::str::from_utf8(&self.buffer[..end]).expect("text").to_ascii_lowercase();
                let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
                let length: usize = length.map_or(0, |length| length.parse().expect("a length"));
                if self.buffer.len() >= end + 4 + length {
                    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
                    return (status, end + 4);
                }
            }
            let read = self.stream.read_buf(&mut self.buffer).await.expect("reads");
            assert!(read > 0, "the sidecar closed the connection");
        }
    }

    /// Sends heartbeats until the token is refused. Returns when the first one that was refused was sent: from then on,
    /// at the latest, the sidecar refused it.
    pub(crate) async fn until_refused(&mut self, token: &str) -> Instant {
        let give_up = Instant::now() + Duration::from_secs(30);
        loop {
            let sent = Instant::now();
            match self.beat(token).await {
                401 => return sent,
                200 => assert!(sent < give_up, "a revoked token is let in"),
                status => panic!("status {status}"),
            }
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
