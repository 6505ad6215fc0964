//! Frames written by hand: what a careful client library would never send.

mod ends;
mod flood;
mod windows;

use std::time::Duration;

use crate::harness::{CONFIG, Client, Site};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// RFC 9113 section 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [length.as_slice(), &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field without indexing, its name and value plain (RFC 7541 section 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// The header block of a `GET` of [`CONFIG`].
fn block(site: &Site) -> Vec<u8> {
    let authorization = format!("Bearer {}", site.agent.raw);
    let fields = [(":method", "GET"), (":scheme", "http"), (":authority", "tollgate"), (":path", CONFIG)];
    let fields = fields.into_iter().chain([("authorization", authorization.as_str())]);
    fields.flat_map(|(name, value)| field(name, value)).collect()
}

/// The kind, flags, stream and payload of the next frame.
async fn receive(client: &mut Client) -> (u8, u8, u32, Vec<u8>) {
    let header = client.bytes(9).await;
    let [high, middle, low, kind, flags, stream @ ..] = header.as_slice() else { unreachable!("nine bytes") };
    let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
    let stream = u32::from_be_bytes(stream.try_into().expect("four bytes"));
    let (kind, flags) = (*kind, *flags);
    (kind, flags, stream, client.bytes(length).await)
}

/// Waits for the head of the reply on this stream, checks that its status is 200, and returns its header block.
async fn expect_ok(client: &mut Client, stream: u32) -> Vec<u8> {
    loop {
        let (kind, _, on, payload) = receive(client).await;
        if kind == HEADERS && on == stream {
            assert_eq!(payload[0], 0x88, ":status 200 in the static table");
            return payload;
        }
        assert!(![3, 7].contains(&kind), "RST_STREAM or GOAWAY: {payload:?}");
    }
}

/// However the network cuts the first bytes, they are those of HTTP/2.
#[tokio::test]
async fn the_preface_is_recognised_in_any_pieces() {
    let site = Site::start().await;
    let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&site));
    let bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &request].concat();
    for cut in 1..PREFACE.len() + 12 {
        let mut client = site.connect().await;
        client.send(&bytes[..cut]).await;
        // Gives the sidecar the time to read the first piece alone; nothing depends on whether it did.
        tokio::time::sleep(Duration::from_millis(2)).await;
        client.send(&bytes[cut..]).await;
        expect_ok(&mut client, 1).await;
    }
    let mut client = site.connect().await;
    for byte in &bytes {
        client.send([*byte]).await;
        tokio::task::yield_now().await;
    }
    expect_ok(&mut client, 1).await;
}

/// The first bytes may come together with the connection, or at any time after the sidecar has begun to wait for them.
#[tokio::test]
async fn the_preface_is_recognised_whenever_it_comes() {
    let site = Site::start().await;
    let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&site));
    let bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &request].concat();
    for round in 0..200 {
        let mut client = site.connect().await;
        tokio::time::sleep(Duration::from_micros(round * 10)).await;
        client.send(&bytes).await;
        expect_ok(&mut client, 1).await;
    }
}

/// What the codec keeps of a reply for the next one (RFC 7541 section 2.3.2) would hold the buffer that it was read into.
#[tokio::test]
async fn no_field_of_a_reply_is_kept_for_the_next_one() {
    let site = Site::start().await;
    let mut client = site.connect().await;
    client.send([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
    let mut lengths = Vec::new();
    for stream in [1, 3, 5] {
        client.send(frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&site))).await;
        lengths.push(expect_ok(&mut client, stream).await.len());
    }
    // Only the digits of the date differ, by a few bits.
    assert!(lengths.iter().all(|length| length.abs_diff(lengths[0]) <= 4), "bytes of the same head: {lengths:?}");
}

#[tokio::test]
async fn a_header_block_in_many_frames_is_one_request() {
    let site = Site::start().await;
    let block = block(&site);
    let mut client = site.connect().await;
    client.send(PREFACE).await;
    client.send(frame(SETTINGS, 0, 0, &[])).await;
    let pieces: Vec<_> = block.chunks(block.len().div_ceil(4)).collect();
    for (at, piece) in pieces.iter().enumerate() {
        let (kind, end_stream) = if at == 0 { (HEADERS, END_STREAM) } else { (CONTINUATION, 0) };
        let end_headers = if at + 1 == pieces.len() { END_HEADERS } else { 0 };
        client.send(frame(kind, end_stream | end_headers, 1, piece)).await;
    }
    expect_ok(&mut client, 1).await;
    assert_eq!(site.api.requests().len(), 1);
}

/// The deadline for a head holds for a header block too: at whatever point it stops, the connection ends.
#[tokio::test]
async fn a_head_that_does_not_end_closes_the_connection() {
    let site = Site::builder().config(|config| config.timeouts.request_head = Duration::from_millis(300)).start().await;
    let block = block(&site);
    let settings = frame(SETTINGS, 0, 0, &[]);
    let whole = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block);
    let open = frame(HEADERS, END_STREAM, 1, &block);
    let beginnings: [(&str, &[&[u8]]); 6] = [
        ("nothing at all", &[]),
        ("half a preface", &[&PREFACE[..20]]),
        ("half a frame header", &[PREFACE, &settings, &whole[..5]]),
        ("half a frame", &[PREFACE, &settings, &whole[..30]]),
        ("no END_HEADERS", &[PREFACE, &settings, &open]),
        (
            "an unfinished CONTINUATION",
            &[PREFACE, &settings, &open, &frame(CONTINUATION, END_HEADERS, 1, &block)[..12]],
        ),
    ];
    for (name, beginning) in beginnings {
        let mut client = site.connect().await;
        client.send(beginning.concat()).await;
        println!("{name}");
        client.is_cut().await;
        assert_eq!(site.forwarded(), 0);
    }
    // A whole head is served although the one before it on the connection took its time.
    let mut client = site.connect().await;
    client.send([PREFACE, &settings, &whole].concat()).await;
    expect_ok(&mut client, 1).await;
}

/// One byte now and then does not move the deadline.
#[tokio::test]
async fn a_head_that_drips_closes_the_connection() {
    let site = Site::builder().config(|config| config.timeouts.request_head = Duration::from_millis(300)).start().await;
    let mut client = site.connect().await;
    client.send([PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, END_STREAM, 1, &block(&site))].concat()).await;
    let drip = async {
        let piece = frame(CONTINUATION, 0, 1, &field("x", "y"));
        while client.send_up_to(&piece, piece.len()).await == piece.len() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    crate::harness::within("the connection's end", drip).await;
    assert_eq!(site.forwarded(), 0);
}

#[tokio::test]
async fn what_is_not_http2_after_the_preface_ends_the_connection() {
    let site = Site::start().await;
    for rest in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[0xff; 64], &frame(HEADERS, END_HEADERS, 1, &[0xff; 20])] {
        let mut client = site.connect().await;
        client.send([PREFACE, rest].concat()).await;
        client.is_cut().await;
    }
    assert_eq!(site.forwarded(), 0);
    assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
}

/// The codec keeps these out, by resetting the stream: none may reach an upstream.
#[tokio::test]
async fn fields_that_http2_forbids_reach_no_upstream() {
    let site = Site::start().await;
    let cases = [
        field("connection", "authorization"),
        field("transfer-encoding", "chunked"),
        field("Upper", "case"),
        field("bad name", "x"),
        field("x", "a\r\nx-injected: 1"),
        field("x", "a\0b"),
        field(":path", "/api/users"),
        field(":unknown", "x"),
        field("content-length", "5"), // and no body
    ];
    for (at, forbidden) in cases.iter().enumerate() {
        let mut client = site.connect().await;
        let block = [block(&site), forbidden.clone()].concat();
        let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block);
        client.send([PREFACE, &frame(SETTINGS, 0, 0, &[]), &request].concat()).await;
        loop {
            let (kind, _, _, payload) = receive(&mut client).await;
            match kind {
                HEADERS => panic!("a reply to case {at}: {payload:?}"),
                3 | 7 => break,
                _ => {}
            }
        }
    }
    assert_eq!(site.forwarded(), 0);
}
