//! What one stream may hold must leave room in the connection's window for the others.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::{END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, field, frame};
use crate::harness::{HEARTBEAT, Script, Site, Token, within};

const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 8;

/// RFC 9113 section 6.5.2.
const INITIAL_WINDOW_SIZE: u8 = 4;

/// RFC 9113 section 6.9.2.
const INITIAL_WINDOW: usize = 65_535;
const LARGEST_FRAME: usize = 16_384;

/// A client that knows how much it may send.
struct Sender {
    writer: OwnedWriteHalf,
    frames: mpsc::Receiver<(u8, u32, Vec<u8>)>,
    connection: usize,
    /// Of the stream that sends.
    stream: usize,
}

/// Reads frames until the end.
async fn read(mut reader: OwnedReadHalf, frames: mpsc::Sender<(u8, u32, Vec<u8>)>) -> std::io::Result<()> {
    loop {
        let length = reader.read_u24_be().await?;
        let (kind, _flags, stream) = (reader.read_u8().await?, reader.read_u8().await?, reader.read_u32().await?);
        let mut payload = vec![0; length];
        reader.read_exact(&mut payload).await?;
        if frames.send((kind, stream, payload)).await.is_err() {
            return Ok(());
        }
    }
}

/// Three bytes, the most significant first.
trait ReadU24 {
    async fn read_u24_be(&mut self) -> std::io::Result<usize>;
}

impl ReadU24 for OwnedReadHalf {
    async fn read_u24_be(&mut self) -> std::io::Result<usize> {
        let high = usize::from(self.read_u8().await?);
        Ok(high << 16 | usize::from(self.read_u16().await?))
    }
}

/// The header block of a `POST` with a body of this length.
fn block(token: &Token, path: &str, length: usize) -> Vec<u8> {
    let (authorization, length) = (format!("Bearer {}", token.raw), length.to_string());
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "tollgate"),
        (":path", path),
        ("authorization", &authorization),
        ("content-length", &length),
    ];
    fields.into_iter().flat_map(|(name, value)| field(name, value)).collect()
}

impl Sender {
    async fn connect(site: &Site) -> Self {
        let stream = within("connecting", TcpStream::connect(site.address())).await.expect("connects");
        stream.set_nodelay(true).expect("sets");
        let (reader, mut writer) = stream.into_split();
        writer.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.expect("sends");
        let (sender, frames) = mpsc::channel(1024);
        tokio::spawn(read(reader, sender));
        let mut client = Self { writer, frames, connection: INITIAL_WINDOW, stream: INITIAL_WINDOW };
        // They say how large the window of a stream is.
        while within("the settings", client.next(Duration::MAX, 1)).await != Some((SETTINGS, 0)) {}
        client
    }

    async fn send(&mut self, bytes: &[u8]) {
        within("sending", self.writer.write_all(bytes)).await.expect("sends");
    }

    /// Takes note of the next frame, if one comes in this time; returns its kind and stream.
    async fn next(&mut self, time: Duration, sending: u32) -> Option<(u8, u32)> {
        let next = tokio::time::timeout(time, self.frames.recv()).await.ok()?;
        let (kind, stream, payload) = next.expect("the connection goes on");
        if kind == SETTINGS {
            let initial = payload.chunks_exact(6).find(|setting| setting[..2] == [0, INITIAL_WINDOW_SIZE]);
            if let Some(setting) = initial {
                let size = u32::from_be_bytes(setting[2..].try_into().expect("four bytes"));
                self.stream = usize::try_from(size).expect("fits");
            }
        } else if kind == WINDOW_UPDATE {
            let increment = u32::from_be_bytes(payload.try_into().expect("four bytes"));
            let window = if stream == 0 { &mut self.connection } else { &mut self.stream };
            if stream == 0 || stream == sending {
                *window += usize::try_from(increment).expect("fits");
            }
        }
        Some((kind, stream))
    }

    /// Sends this body on stream 1 until it is complete, or nothing more may be sent for a while. Returns how much was.
    async fn send_until_stuck(&mut self, length: usize) -> usize {
        let mut sent = 0;
        while sent < length {
            let count = self.connection.min(self.stream).min(LARGEST_FRAME).min(length - sent);
            if count == 0 {
                if self.next(Duration::from_secs(1), 1).await.is_none() {
                    return sent;
                }
                continue;
            }
            self.send(&frame(DATA, 0, 1, &vec![b'x'; count])).await;
            (self.connection, self.stream, sent) = (self.connection - count, self.stream - count, sent + count);
        }
        sent
    }
}

#[tokio::test]
async fn an_upload_that_is_held_up_does_not_stop_the_others_of_its_connection() {
    const LENGTH: usize = 9_900_000;
    let body = vec![b'x'; 1000];
    let site = Site::start().await;
    // Sometimes the last update of the window happens to leave enough for one more.
    for _ in 0..5 {
        site.api.next(Script::deaf());
        let mut client = Sender::connect(&site).await;
        client.send(&frame(HEADERS, END_HEADERS, 1, &block(&site.owner, "/api/configs", LENGTH))).await;
        let sent = client.send_until_stuck(LENGTH).await;
        println!("held up after {sent} bytes, the connection's window is {}", client.connection);
        assert!(sent < LENGTH, "the upload is held up");

        for stream in [3, 5, 7] {
            client.send(&frame(HEADERS, END_HEADERS, stream, &block(&site.agent, HEARTBEAT, body.len()))).await;
            let what = format!("room for a heartbeat, beside an upload that is held up after {sent} bytes");
            let room = async {
                while client.connection < body.len() {
                    client.next(Duration::MAX, 1).await;
                }
            };
            within(&what, room).await;
            client.connection -= body.len();
            client.send(&frame(DATA, END_STREAM, stream, &body)).await;
            let answered = async { while client.next(Duration::MAX, 1).await != Some((HEADERS, stream)) {} };
            within("the heartbeat is answered", answered).await;
        }
    }
    assert!(site.heartbeat.requests().iter().all(|request| request.body == body));
}
