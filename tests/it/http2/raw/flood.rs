//! Streams that are opened and reset without end, which cost a client nothing (CVE-2023-44487).

use super::{END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, block, frame};
use crate::harness::{CONFIG, Client, Script, Site};

const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const CANCEL: u32 = 8;

/// Streams that are opened and reset in one write, with a question behind them whose answer says that they were seen.
fn batch(block: &[u8], streams: impl Iterator<Item = u32>) -> Vec<u8> {
    let opened_and_reset = |stream| {
        let open = frame(HEADERS, END_STREAM | END_HEADERS, stream, block);
        [open, frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())].concat()
    };
    let mut bytes: Vec<u8> = streams.flat_map(opened_and_reset).collect();
    bytes.extend(frame(PING, 0, 0, b"are seen"));
    bytes
}

/// Whether the answer comes, rather than a farewell or the end.
async fn is_answered(client: &mut Client) -> bool {
    while let Some(header) = client.try_bytes(9).await {
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        let Some(payload) = client.try_bytes(length).await else { return false };
        match header[3] {
            PING if payload == b"are seen" => return true,
            7 => return false,
            _ => {}
        }
    }
    false
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_at_once_cost_no_upstream_connection_each() {
    const STREAMS: usize = 1000;
    // Few enough at a time for no limit of the codec's own to end it at once.
    const BATCH: u32 = 10;
    let site = Site::start().await;
    site.api.otherwise(Script::silent);
    let block = block(&site);
    let (mut opened, mut connections) = (0, 0);
    while opened < STREAMS {
        let mut client = site.connect().await;
        connections += 1;
        client.send([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        let mut next = 0;
        loop {
            client.send(batch(&block, (next..next + BATCH).map(|number| 2 * number + 1))).await;
            (next, opened) = (next + BATCH, opened + usize::try_from(BATCH).expect("small"));
            if opened >= STREAMS || !is_answered(&mut client).await {
                break;
            }
        }
    }
    site.api.until("every upstream is let go", |seen| seen.closed == seen.connections).await;
    let (at_upstream, requests) = (site.api.connections(), site.api.requests().len());
    println!("{opened} streams on {connections} connections: {at_upstream} at the upstream, {requests} requests");
    assert!(at_upstream <= STREAMS / 10, "{at_upstream} upstream connections for {opened} streams");
    assert!(requests <= STREAMS / 10, "{requests} requests of {opened} streams");
    // Nobody else is the worse for it.
    site.api.next(Script::reply(crate::harness::ok("served")));
    assert_eq!(site.get(CONFIG, &site.agent).await.text(), "served");
}
