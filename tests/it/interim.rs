//! Interim replies, early ones, and those that a stop cuts off: none of them is taken for what it is not.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::harness::{CONFIG, Client, HEARTBEAT, Program, Script, Site, Upstream, get, ok, request, scripted, within};

const INTERIM: [&str; 3] = [
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 102 Processing\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n",
];

async fn say(pieces: &mpsc::Sender<Vec<u8>>, text: &str) {
    pieces.send(text.as_bytes().to_vec()).await.expect("takes it");
}

/// The pause within a reply counts from the final head on; until then the upstream thinks, as it may.
#[tokio::test]
async fn an_interim_reply_does_not_shorten_the_wait_for_the_final_one() {
    let site = Site::builder()
        .setting("UPSTREAM__API__TIMEOUTS__FIRST_BYTE", "20s")
        .setting("UPSTREAM__API__TIMEOUTS__IDLE", "300ms")
        .start()
        .await;
    for interim in INTERIM {
        let pieces = site.api.next_in_pieces();
        let mut client = site.connect().await;
        client.send(get(CONFIG, &site.agent)).await;
        say(&pieces, interim).await;
        tokio::time::sleep(Duration::from_millis(1000)).await;
        say(&pieces, &ok("at last")).await;
        let reply = client.reply().await;
        assert_eq!((reply.status(), reply.text()), (200, "at last"), "{interim}");
    }
}

/// Nor does it lengthen it: whoever says that it is about to answer has answered nothing.
#[tokio::test]
async fn interim_replies_do_not_lengthen_the_wait_for_the_final_one() {
    let site = Site::builder().setting("UPSTREAM__API__TIMEOUTS__FIRST_BYTE", "500ms").start().await;
    for interim in INTERIM {
        let pieces = site.api.next_in_pieces();
        let mut client = site.connect().await;
        client.send(get(CONFIG, &site.agent)).await;
        let keeps_promising = async {
            while pieces.send(interim.as_bytes().to_vec()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let begun = Instant::now();
        let reply = tokio::select! {
            reply = client.reply() => reply,
            () = keeps_promising => client.reply().await,
        };
        assert_eq!((reply.status(), reply.error().as_str()), (504, "Upstream timeout"), "{interim}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{interim}: {:?}", begun.elapsed());
    }
}

/// The upstream owes nothing before it has the whole request, whatever it said meanwhile.
#[tokio::test]
async fn the_clock_of_the_final_reply_starts_with_the_end_of_the_request() {
    let site = Site::builder()
        .setting("UPSTREAM__HEARTBEAT__TIMEOUTS__FIRST_BYTE", "700ms")
        .setting("UPSTREAM__HEARTBEAT__TIMEOUTS__IDLE", "300ms")
        .start()
        .await;
    for interim in INTERIM {
        site.heartbeat.next(Script::early_reply(interim).then_reply(ok("the whole")));
        let fields = format!("Authorization: Bearer {}\r\nContent-Length: 100000\r\n", site.agent.raw);
        let mut client = site.connect().await;
        client.send(request("POST", HEARTBEAT, &fields)).await;
        client.send([b'x'; 50_000]).await;
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            client.send([b'x'; 10_000]).await;
        }
        let reply = client.reply().await;
        assert_eq!((reply.status(), reply.text()), (200, "the whole"), "{interim}");
    }
    assert!(site.heartbeat.requests().iter().all(|request| request.complete && request.body.len() == 100_000));
}

/// What is left of the body makes the connection useless, which the client must know before it sends its next request.
#[tokio::test]
async fn a_reply_before_the_end_of_the_body_says_that_the_connection_ends() {
    let site = Site::start().await;
    let chunked = "HTTP/1.1 413 Payload Too Large\r\nServer: scripted\r\nTransfer-Encoding: chunked\r\n\r\n\
                   2\r\nno\r\n0\r\n\r\n";
    let no = || scripted("413 Payload Too Large", "", "no");
    let cases = [
        ("Content-Length: 1000000", Script::reply_only(no())),
        ("Transfer-Encoding: chunked", Script::reply_only(no())),
        ("Content-Length: 1000000", Script::reply_only(scripted("200 OK", "Connection: keep-alive\r\n", "no"))),
        ("Content-Length: 1000000", Script::reply_only(chunked)),
        ("Content-Length: 1000000", Script::early_reply(no())),
        ("Content-Length: 1000000", Script::answer_and_close(no())),
    ];
    for (at, (framing, script)) in cases.into_iter().enumerate() {
        site.heartbeat.next(script);
        let mut client = site.connect().await;
        let fields = format!("Authorization: Bearer {}\r\n{framing}\r\n", site.agent.raw);
        client.send(request("POST", HEARTBEAT, &fields)).await;
        client.send([b"4e20\r\n".as_slice(), &[b'x'; 20_000], b"\r\n"].concat()).await;
        let reply = client.reply().await;
        assert_eq!(reply.text(), "no", "case {at}");
        assert!(reply.closes(), "case {at}: {:?}", reply.head);
        client.is_cut().await;
    }
}

/// Begins a download by HTTP/1.0, where only the end of the connection tells the end of the reply.
async fn old_download(address: std::net::SocketAddr, token: &str, api: &Upstream, head: &str) -> (Client, Held) {
    let pieces = api.next_in_pieces();
    let mut client = Client::connect(address).await;
    let fields = format!("Authorization: Bearer {token}\r\n");
    client.send(request("GET", CONFIG, &fields).replace("HTTP/1.1", "HTTP/1.0")).await;
    say(&pieces, head).await;
    let reply = client.head().await.expect("a head");
    assert_eq!((reply.status, reply.field("Content-Length")), (200, None));
    assert_eq!(client.bytes(5).await, b"hello");
    (client, pieces)
}

/// Keeps the reply from ending.
type Held = mpsc::Sender<Vec<u8>>;

/// Replies whose end an HTTP/1.0 client knows by the end of the connection alone.
const ENDLESS: [&str; 2] = [
    "HTTP/1.1 200 OK\r\nServer: scripted\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "HTTP/1.1 200 OK\r\nServer: scripted\r\n\r\nhello",
];

#[tokio::test]
async fn a_reply_that_the_stop_cuts_off_does_not_look_complete() {
    for head in ENDLESS {
        let site = Site::builder().setting("TIMEOUTS__DRAIN", "300ms").start().await;
        let (mut client, _held) = old_download(site.address(), &site.agent.raw, &site.api, head).await;
        let stop = tokio::spawn(site.sidecar.stop());
        client.is_reset().await;
        within("the stop", stop).await.expect("no panic");
    }
}

/// The system closes what a process leaves open, cleanly unless it was told otherwise.
#[tokio::test]
async fn a_reply_that_the_end_of_the_program_cuts_off_does_not_look_complete() {
    for head in ENDLESS {
        for drain in ["300ms", "0s"] {
            let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
            let program = Program::start(&api, &heartbeat, &[("TIMEOUTS__DRAIN", drain)]);
            let (mut client, _held) = old_download(program.address(), &program.token, &api, head).await;
            program.signal("TERM");
            client.is_reset().await;
            program.ended().await;
        }
    }
}
