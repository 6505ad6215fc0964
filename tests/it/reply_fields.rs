//! Fields that a proxy owes to both sides: `Date` and `Via`, and `Last-Modified`, which agents act upon.

use crate::harness::{
    CONFIG, HEARTBEAT, Http2Client, Reply, Script, Site, get, http2_request, post, request, scripted,
};

const DATE: &str = "Wed, 21 Oct 2015 07:28:00 GMT";

/// Every value of a field, as one list.
fn list(fields: &[(String, String)], name: &str) -> String {
    let values = fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str());
    values.collect::<Vec<_>>().join(", ")
}

/// One request with the agent's token by each protocol.
async fn by_each(
    site: &Site,
    client: &Http2Client,
    method: &str,
    script: impl Fn() -> Script,
) -> [(Reply, &'static str); 2] {
    site.api.next(script());
    let first = site.send(get(CONFIG, &site.agent).replacen("GET", method, 1)).await;
    site.api.next(script());
    let bearer = format!("Bearer {}", site.agent.raw);
    let second = client.send(http2_request(method, CONFIG, &[("authorization", &bearer)])).await.reply().await;
    [(first, "HTTP/1.1"), (second, "HTTP/2")]
}

/// RFC 9110 section 6.6.1: a recipient that caches or forwards it adds the time of its receipt.
#[tokio::test]
async fn a_reply_without_a_date_gets_one() {
    let site = Site::start().await;
    let client = Http2Client::connect(site.address()).await;
    for (method, status) in
        [("GET", "200 OK"), ("GET", "404 Not Found"), ("HEAD", "200 OK"), ("GET", "304 Not Modified")]
    {
        let script = || Script::reply(format!("HTTP/1.1 {status}\r\nServer: scripted\r\nContent-Length: 0\r\n\r\n"));
        for (reply, version) in by_each(&site, &client, method, script).await {
            let date =
                reply.field("Date").unwrap_or_else(|| panic!("{method} {status} by {version}: {:?}", reply.head));
            assert!(date.len() == DATE.len() && date.ends_with(" GMT"), "{date}");
        }
    }
}

#[tokio::test]
async fn the_date_of_the_origin_stays() {
    let site = Site::start().await;
    let client = Http2Client::connect(site.address()).await;
    let script = || Script::reply(scripted("200 OK", &format!("Date: {DATE}\r\n"), "x"));
    for (reply, version) in by_each(&site, &client, "GET", script).await {
        assert_eq!(reply.field("Date"), Some(DATE), "{version}");
    }
}

/// RFC 9110 section 7.6.3: each hop says the version that it received, behind what earlier hops said.
#[tokio::test]
async fn the_upstream_is_told_via_what_a_request_came() {
    let site = Site::start().await;
    let client = Http2Client::connect(site.address()).await;
    let bearer = format!("Bearer {}", site.agent.raw);
    for (sent, before) in
        [("", ""), ("Via: 1.0 fred\r\n", "1.0 fred, "), ("Via: 1.0 a\r\nvia: 2 b (c)\r\n", "1.0 a, 2 b (c), ")]
    {
        let at = site.api.requests().len();
        let fields = format!("Authorization: {bearer}\r\n{sent}");
        assert_eq!(site.send(request("GET", CONFIG, &fields)).await.status(), 200);
        let mut fields = vec![("authorization", bearer.as_str())];
        fields.extend(sent.split_terminator("\r\n").map(|line| ("via", &line[5..])));
        assert_eq!(client.send(http2_request("GET", CONFIG, &fields)).await.reply().await.status(), 200);
        for (request, version) in site.api.requests()[at..].iter().zip(["1.1", "2"]) {
            let fields = request.fields().into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(
                list(&fields.collect::<Vec<_>>(), "Via"),
                format!("{before}{version} tollgate"),
                "{}",
                request.head
            );
        }
    }
    assert_eq!(site.beat(&site.agent).await.status(), 200);
    assert_eq!(site.heartbeat.request().field("Via"), Some("1.1 tollgate"));
}

#[tokio::test]
async fn the_client_is_told_via_what_a_reply_came() {
    let site = Site::start().await;
    let client = Http2Client::connect(site.address()).await;
    for (sent, expected) in [("", "1.1 tollgate"), ("Via: 1.1 inner\r\n", "1.1 inner, 1.1 tollgate")] {
        let script = || Script::reply(scripted("200 OK", sent, "x"));
        for (reply, version) in by_each(&site, &client, "GET", script).await {
            assert_eq!(list(&reply.head.fields, "Via"), expected, "{version}");
        }
    }
}

/// `Connection` could take it away otherwise, and with it the sign of a loop.
#[tokio::test]
async fn via_is_there_although_connection_names_it() {
    let site = Site::start().await;
    let fields = format!("Authorization: Bearer {}\r\nConnection: Via\r\nVia: 1.0 fred\r\n", site.agent.raw);
    let reply = site.send(request("GET", CONFIG, &fields)).await;
    // Refused, or without the client's part: never without ours.
    if reply.status() == 200 {
        let request = site.api.request();
        assert!(request.field("Via").is_some_and(|via| via.ends_with("1.1 tollgate")), "{}", request.head);
    } else {
        assert_eq!((reply.status(), site.forwarded()), (400, 0));
    }
}

/// An agent that watches its configuration compares `Last-Modified` without looking at the status: a 503 with another one
/// makes the whole fleet reload.
#[tokio::test]
async fn last_modified_comes_with_success_and_not_modified_only() {
    let site = Site::start().await;
    let client = Http2Client::connect(site.address()).await;
    let cases = [
        ("200 OK", true),
        ("201 Created", true),
        ("206 Partial Content", true),
        ("304 Not Modified", true),
        ("301 Moved Permanently", false),
        ("302 Found", false),
        ("400 Bad Request", false),
        ("402 Payment Required", false),
        ("404 Not Found", false),
        ("410 Gone", false),
        ("500 Internal Server Error", false),
    ];
    for method in ["GET", "HEAD"] {
        for (status, kept) in cases {
            let head = format!("HTTP/1.1 {status}\r\nServer: scripted\r\nlast-modified: {DATE}\r\nX-Kept: 1\r\n");
            let script = || Script::reply(format!("{head}Content-Length: 0\r\n\r\n"));
            for (reply, version) in by_each(&site, &client, method, script).await {
                assert_eq!(reply.status().to_string(), status[..3]);
                let shown = format!("{method} {status} by {version}");
                assert_eq!(reply.field("Last-Modified"), kept.then_some(DATE), "{shown}");
                assert_eq!(reply.field("X-Kept"), Some("1"), "{shown}");
            }
        }
    }
    // 502, 503 and 504 to GET, whose HEAD is another matter.
    for status in ["502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"] {
        let script =
            || Script::reply(scripted(status, &format!("Last-Modified: {DATE}\r\nRetry-After: 5\r\n"), "away"));
        for (reply, version) in by_each(&site, &client, "GET", script).await {
            assert_eq!((reply.status().to_string().as_str(), reply.text()), (&status[..3], "away"));
            assert_eq!(reply.field("Last-Modified"), None, "{status} by {version}");
        }
    }
    site.heartbeat.next(Script::reply(scripted("500 Oh No", &format!("Last-Modified: {DATE}\r\n"), "x")));
    let reply = site.send(post(HEARTBEAT, &site.agent, b"{}")).await;
    assert_eq!(reply.field("Last-Modified"), None);
}
