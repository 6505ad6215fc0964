//! Which of a reply's fields the client gets, and what becomes of replies without a body.

use crate::harness::{CONFIG, Client, Script, Site, get, request, scripted};

const DATE: &str = "Wed, 21 Oct 2015 07:28:00 GMT";

/// Fields as pairs, for comparing.
fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| (name.to_lowercase(), (*value).to_owned())).collect()
}

async fn one_more(site: &Site, client: &mut Client) {
    client.send(get(CONFIG, &site.agent)).await;
    assert_eq!(client.reply().await.text(), "ok", "the connection goes on");
}

#[tokio::test]
async fn what_agents_and_operators_look_for_comes_through_untouched() {
    let site = Site::start().await;
    let fields = format!(
        "Last-Modified: {DATE}\r\nETag: \"x\"\r\nDate: {DATE}\r\nX-License-Expiring: 3 days\r\n\
         X-License-Expired: no\r\nX-Entitlement-Warning: over\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
         Cache-Control: private\r\nWWW-Authenticate: Basic\r\n"
    );
    for status in ["200 OK", "402 Payment Required", "404 Nowhere To Be Found", "500 Oh No", "301 Moved Permanently"] {
        site.api.next(Script::reply(scripted(status, &fields, "the body")));
        let reply = site.get(CONFIG, &site.agent).await;
        assert_eq!(format!("{} {}", reply.status(), reply.head.phrase), status);
        assert_eq!(reply.text(), "the body");
        let expected = [
            ("Server", "scripted"),
            ("Last-Modified", DATE),
            ("ETag", "\"x\""),
            ("Date", DATE),
            ("X-License-Expiring", "3 days"),
            ("X-License-Expired", "no"),
            ("X-Entitlement-Warning", "over"),
            ("Set-Cookie", "a=1"),
            ("Set-Cookie", "b=2"),
            ("Cache-Control", "private"),
            ("WWW-Authenticate", "Basic"),
            ("Via", "1.1 tollgate"),
            ("Content-Length", "8"),
        ];
        // An agent compares it without looking at the status, and would reload.
        let expected: Vec<_> =
            expected.into_iter().filter(|(name, _)| *name != "Last-Modified" || status == "200 OK").collect();
        assert_eq!(reply.head.fields, pairs(&expected), "{status}");
    }
}

#[tokio::test]
async fn what_concerns_only_the_hop_to_the_upstream_stays_there() {
    let site = Site::start().await;
    let fields = "Connection: keep-alive, X-Named\r\nX-Named: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\n\
                  Proxy-Connection: keep-alive\r\nProxy-Authenticate: Basic\r\nTrailer: X\r\nTE: x\r\nX-Kept: 1\r\n";
    site.api.next(Script::reply(scripted("200 OK", fields, "x")));
    let reply = site.get(CONFIG, &site.agent).await;
    let names: Vec<_> = reply.head.fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["server", "x-kept", "date", "via", "content-length"]);
}

#[tokio::test]
async fn the_upstreams_close_is_not_the_clients() {
    let site = Site::start().await;
    let mut client = site.connect().await;
    site.api.next(Script::reply(scripted("200 OK", "Connection: close\r\n", "x")).then_close());
    client.send(get(CONFIG, &site.agent)).await;
    let reply = client.reply().await;
    assert_eq!((reply.text(), reply.closes()), ("x", false));
    one_more(&site, &mut client).await;
    assert_eq!(site.api.connections(), 2);
}

#[tokio::test]
async fn a_reply_without_a_length_is_chunked_for_the_client() {
    let site = Site::start().await;
    let mut client = site.connect().await;
    for reply in [
        "HTTP/1.1 200 OK\r\nServer: scripted\r\n\r\nuntil the end",
        "HTTP/1.0 200 OK\r\nServer: scripted\r\n\r\nuntil the end",
        "HTTP/1.1 200 OK\r\nServer: scripted\r\nTransfer-Encoding: Chunked\r\n\r\n\
         9;x=\"y\"\r\nuntil the\r\n4\r\n end\r\n0\r\nTrailer: x\r\n\r\n",
    ] {
        site.api.next(Script::reply(reply).then_close());
        client.send(get(CONFIG, &site.agent)).await;
        let reply = client.reply().await;
        assert_eq!(reply.text(), "until the end");
        let names: Vec<_> = reply.head.fields.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["server", "date", "via", "transfer-encoding"]);
        assert_eq!(reply.field("Transfer-Encoding"), Some("chunked"));
    }
    one_more(&site, &mut client).await;
}

/// Replies to HEAD, 204 and 304 end with their head, whatever length they tell of. An agent that watches its
/// configuration sends HEAD and compares `Last-Modified`.
#[tokio::test]
async fn replies_without_a_body_end_with_their_head_and_the_connection_goes_on() {
    let site = Site::start().await;
    let mut client = site.connect().await;
    let last_modified = format!("Last-Modified: {DATE}\r\n");
    let head = format!("{last_modified}Content-Length: 4096\r\n");
    let cases = [
        ("HEAD", "200 OK", head.as_str(), Some("4096")),
        ("HEAD", "200 OK", last_modified.as_str(), None),
        ("HEAD", "404 Not Found", "Content-Length: 7\r\n", Some("7")),
        ("GET", "304 Not Modified", head.as_str(), Some("4096")),
        ("GET", "304 Not Modified", last_modified.as_str(), None),
        ("GET", "204 No Content", last_modified.as_str(), None),
    ];
    for (method, status, fields, length) in cases {
        site.api.next(Script::reply(format!("HTTP/1.1 {status}\r\nServer: scripted\r\n{fields}\r\n")));
        client.send(get(CONFIG, &site.agent).replacen("GET", method, 1)).await;
        let reply = if method == "HEAD" { client.reply_to_head().await } else { client.reply().await };
        assert_eq!(reply.status().to_string(), status[..3]);
        assert_eq!(reply.field("Content-Length"), length, "{method} {status} {fields}");
        assert_eq!(reply.field("Transfer-Encoding"), None);
        assert_eq!(reply.field("Last-Modified"), fields.contains(DATE).then_some(DATE));
    }
    one_more(&site, &mut client).await;
    assert_eq!(site.api.connections(), 1, "and so does the one to the upstream");
}

/// A `Last-Modified` on a refusal would make the whole fleet reload at once.
#[tokio::test]
async fn refusals_to_head_have_no_body_and_no_last_modified() {
    let site = Site::start().await;
    let mut client = site.connect().await;
    for (path, status) in [(CONFIG, 401), ("/nothing", 404), ("/agents/heartbeat", 405), ("/api/../x", 400)] {
        client.send(request("HEAD", path, "")).await;
        let reply = client.reply_to_head().await;
        assert_eq!(reply.status(), status, "{path}");
        assert_eq!(reply.field("Last-Modified"), None);
    }
    one_more(&site, &mut client).await;
}
