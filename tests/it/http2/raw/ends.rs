//! How connections end with a client that does not do its part: it is told, and it is not waited for.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{
    CONTINUATION, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, block, expect_ok, field, frame, receive,
};
use crate::harness::{Client, Site, ok, within};

const GOAWAY: u8 = 7;

/// Far below the drain's whole time.
const PROMPTLY: Duration = Duration::from_secs(5);

/// The kinds of the frames in these bytes.
fn kinds(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [high, middle, low, kind, ..] = bytes {
        kinds.push(*kind);
        let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
        bytes = bytes.get(9 + length..).unwrap_or_default();
    }
    kinds
}

/// RFC 9113 section 5.4.1: whoever ends a connection for an error should say so, with GOAWAY.
#[tokio::test]
async fn a_head_that_drips_or_stops_is_answered_by_goaway() {
    let site = Site::builder().setting("TIMEOUTS__REQUEST_HEAD", "300ms").start().await;
    for drips in [true, false] {
        let stream = within("connecting", TcpStream::connect(site.address())).await.expect("connects");
        let (mut reader, mut writer) = stream.into_split();
        let open = frame(HEADERS, END_STREAM, 1, &block(&site));
        writer.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &open].concat()).await.expect("sends");
        let reading = tokio::spawn(async move {
            let mut said = Vec::new();
            drop(reader.read_to_end(&mut said).await); // cleanly or not
            said
        });
        let piece = frame(CONTINUATION, 0, 1, &field("x", "y"));
        while drips && !reading.is_finished() && writer.write_all(&piece).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let said = within("the connection's end", reading).await.expect("no panic");
        let kinds = kinds(&said);
        assert!(kinds.contains(&GOAWAY), "drips: {drips}: frames of the kinds {kinds:?}");
    }
    assert_eq!(site.forwarded(), 0);
}

/// A connection on which one request was made; nothing that the sidecar says from here on is answered.
async fn connect(site: &Site) -> Client {
    let mut client = site.connect().await;
    let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(site));
    client.send([PREFACE, &frame(SETTINGS, 0, 0, &[]), &request].concat()).await;
    client
}

async fn is_told(client: &mut Client) {
    while receive(client).await.0 != GOAWAY {}
}

#[tokio::test]
async fn a_drain_does_not_wait_for_an_idle_client_that_answers_no_ping() {
    let site = Site::builder().setting("TIMEOUTS__REQUEST_HEAD", "60s");
    let site = site.config(|config| config.timeouts.drain = Duration::from_secs(60)).start().await;
    let mut client = connect(&site).await;
    expect_ok(&mut client, 1).await;
    let begun = Instant::now();
    let stop = tokio::spawn(site.sidecar.stop());
    is_told(&mut client).await;
    within("the stop", stop).await.expect("no panic");
    println!("stopped after {:?}", begun.elapsed());
    assert!(begun.elapsed() < PROMPTLY, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_drain_does_not_wait_for_one_whose_last_stream_has_ended() {
    let site = Site::builder().setting("TIMEOUTS__REQUEST_HEAD", "60s");
    let site = site.config(|config| config.timeouts.drain = Duration::from_secs(60)).start().await;
    let pieces = site.api.next_in_pieces();
    let mut client = connect(&site).await;
    site.api.until("the request", |seen| seen.requests.len() == 1).await;
    let stop = tokio::spawn(site.sidecar.stop());
    is_told(&mut client).await;
    assert!(!stop.is_finished(), "in-flight requests are finished");
    pieces.send(ok("finished").into_bytes()).await.expect("takes it");
    expect_ok(&mut client, 1).await;
    let ended = Instant::now();
    within("the stop", stop).await.expect("no panic");
    println!("stopped {:?} after the end of the last stream", ended.elapsed());
    assert!(ended.elapsed() < PROMPTLY, "{:?}", ended.elapsed());
}
