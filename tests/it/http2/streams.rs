//! What streams owe to each other, and what of a request is said differently in HTTP/1.1.

use std::time::Duration;

use bytes::Bytes;

use super::bearer;
use crate::harness::{CONFIG, HEARTBEAT, Http2Client, Script, Site, http2_request, within};

/// Fields of a request with a token of the agent and one more.
fn with<'a>(authorization: &'a str, name: &'a str, value: &'a str) -> [(&'a str, &'a str); 2] {
    [("authorization", authorization), (name, value)]
}

/// Names and values.
type Sent<'a> = &'a [(&'a str, &'a str)];

/// RFC 9113 section 8.2.3: a server of HTTP/1.1 knows only one.
#[tokio::test]
async fn cookies_become_one_field() {
    let open = r#"[{ methods = ["GET"], path = "/api/configs/{id}/public", auth = "none" }]"#;
    let site = Site::builder().setting("ROUTE", open).start().await;
    let client = Http2Client::connect(site.address()).await;
    let cases: [(Sent<'_>, Option<&str>); 4] = [
        (&[("cookie", "a=1"), ("cookie", "b=2")], Some("a=1; b=2")),
        (
            &[("cookie", "a=1"), ("x-between", "x"), ("cookie", "b=2; c=3"), ("cookie", "d=4")],
            Some("a=1; b=2; c=3; d=4"),
        ),
        (&[("cookie", "a=1")], Some("a=1")),
        (&[], None),
    ];
    for (at, (fields, expected)) in cases.into_iter().enumerate() {
        let reply = client.send(http2_request("GET", "/api/configs/1/public", fields)).await.reply().await;
        assert_eq!(reply.status(), 200);
        let request = &site.api.requests()[at];
        let cookies: Vec<_> =
            request.fields().into_iter().filter(|(name, _)| name.eq_ignore_ascii_case("cookie")).collect();
        let values: Vec<_> = cookies.iter().map(|(_, value)| *value).collect();
        assert_eq!(values, Vec::from_iter(expected), "{fields:?}");
    }
    // Where a token was checked, there are none at all.
    let authorization = bearer(&site.agent);
    let fields = [("authorization", authorization.as_str()), ("cookie", "a=1"), ("cookie", "b=2")];
    assert_eq!(client.send(http2_request("GET", CONFIG, &fields)).await.reply().await.status(), 200);
    assert_eq!(site.api.requests()[4].field("Cookie"), None);
}

const EXPECT: &str = "100-continue";

/// A client need not wait to be told (RFC 9110 section 10.1.1), and over HTTP/2 it is not told.
#[tokio::test]
async fn a_body_that_does_not_wait_for_100_continue_is_served() {
    let site = Site::start().await;
    let client = Http2Client::connect(site.address()).await;
    let authorization = bearer(&site.agent);
    let fields = [with(&authorization, "expect", EXPECT).to_vec(), vec![("content-length", "5")]].concat();
    for (at, fields) in [fields.as_slice(), &fields[..2]].into_iter().enumerate() {
        for (round, pause) in [Duration::ZERO, Duration::from_secs(1)].into_iter().enumerate() {
            let mut beat = client.begin(http2_request("POST", HEARTBEAT, fields)).await;
            tokio::time::sleep(pause).await;
            beat.body.send_data(Bytes::from_static(b"hello"), true).expect("an open stream");
            assert_eq!(beat.reply().await.status(), 200, "{fields:?} after {pause:?}");
            let request = &site.heartbeat.requests()[2 * at + round];
            assert_eq!((request.field("Expect"), request.body.as_slice()), (None, b"hello".as_slice()));
        }
    }
    // Nothing is expected where there is no body.
    let reply = client.send(http2_request("GET", CONFIG, &with(&authorization, "expect", EXPECT))).await.reply().await;
    assert_eq!((reply.status(), site.api.request().field("Expect")), (200, None));
}

/// No interim reply is sent, so whoever waits for one would wait for ever: the final one says that it will not come.
#[tokio::test]
async fn a_body_that_waits_for_100_continue_is_refused_soon() {
    let site = Site::start().await;
    let client = Http2Client::connect(site.address()).await;
    let authorization = bearer(&site.agent);
    let fields = [with(&authorization, "expect", EXPECT).to_vec(), vec![("content-length", "500000")]].concat();
    for fields in [fields.as_slice(), &fields[..2]] {
        let waiting = client.begin(http2_request("POST", HEARTBEAT, fields)).await;
        // Less than an agent waits for all of its request: `within` waits for 10 s.
        let reply = tokio::time::timeout(Duration::from_secs(5), waiting.reply()).await;
        let reply = reply.expect("a final status within a few seconds");
        assert_eq!((reply.status(), reply.error().as_str()), (417, "Expectation failed"));
    }
    assert_eq!(client.get(CONFIG, &site.agent).await.status(), 200, "the connection goes on");
    assert!(site.heartbeat.requests().iter().all(|request| !request.complete && request.field("Expect").is_none()));
}

/// Refusals are said at once, whatever is expected.
#[tokio::test]
async fn who_expects_and_is_refused_is_told_so_at_once() {
    let site = Site::start().await;
    let client = Http2Client::connect(site.address()).await;
    for (path, status) in [(HEARTBEAT, 401), ("/nothing", 404)] {
        let waiting = client.begin(http2_request("POST", path, &[("expect", EXPECT)])).await;
        assert_eq!(within("a refusal", waiting.reply()).await.status(), status);
    }
    assert_eq!(site.forwarded(), 0);
}

/// There is nowhere to put them, and nobody waits for them.
#[tokio::test]
async fn interim_replies_are_dropped() {
    let site = Site::start().await;
    let client = Http2Client::connect(site.address()).await;
    let interim = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n";
    site.api.next(Script::reply(interim.to_owned() + &crate::harness::ok("the answer")));
    let reply = client.get(CONFIG, &site.agent).await;
    assert_eq!((reply.text(), reply.field("link")), ("the answer", None));
}
