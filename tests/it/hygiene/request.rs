//! Which of a client's fields the upstream gets, and which only Tollgate says.

use crate::harness::{CONFIG, HEARTBEAT, Recorded, Site, request};

/// Names of the fields that Tollgate writes itself.
const OWN: [&str; 11] = [
    "host",
    "authorization",
    "content-length",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-request-id",
    "x-tollgate-token-id",
    "x-tollgate-user",
    "x-tollgate-role",
    "via",
];

/// The other fields. Names arrive in lower case, as they stand for comparing anyway (RFC 9110 section 5.1).
fn beyond_own(recorded: &Recorded) -> Vec<(String, String)> {
    let fields = recorded.fields().into_iter();
    let others = fields.filter(|(name, _)| !OWN.contains(&name.to_ascii_lowercase().as_str()));
    others.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// What Tollgate says by itself, each once, whatever the client tried. `field` panics over a repeated one.
#[track_caller]
fn assert_own(site: &Site, recorded: &Recorded, sent: &str) {
    let is = |name: &str, value: &str| assert_eq!(recorded.field(name), Some(value), "{name} after {sent}");
    is("Host", &site.api.address().to_string());
    is("X-Forwarded-For", "127.0.0.1");
    is("X-Forwarded-Proto", "http");
    is("X-Forwarded-Host", "tollgate");
    is("X-Tollgate-Token-Id", &site.agent.id.to_string());
    is("X-Tollgate-User", "olga");
    is("X-Tollgate-Role", "owner");
    is("Via", "1.1 tollgate");
    is("Authorization", &format!("Bearer {}", site.agent.raw));
    let id = recorded.field("X-Request-Id").expect("an id");
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id:?} after {sent}");
}

/// Sends the fields (whole lines) with the agent's token and returns what arrived.
async fn forwarded(site: &Site, path: &str, fields: &str) -> Recorded {
    let before = site.api.requests().len();
    let fields = format!("Authorization: Bearer {}\r\n{fields}", site.agent.raw);
    let reply = site.send(request("GET", path, &fields)).await;
    assert_eq!(reply.status(), 200, "{fields} {}", reply.text());
    site.api.requests().swap_remove(before)
}

#[tokio::test]
async fn only_what_means_nothing_to_a_proxy_goes_on() {
    let site = Site::start().await;
    // What is sent, and what arrives of it.
    let cases = [
        ("Accept: application/toml\r\nUser-Agent: Telegraf/1.37.0 Go/1.25\r\n", "accept user-agent"),
        ("If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\nRange: bytes=0-9\r\n", "if-modified-since range"),
        ("X-Own: 1\r\nX-Own: 2\r\nx_own: 3\r\n", "x-own x-own x_own"),
        ("X-Empty:\r\nX-Spaces: \t a b \t\r\n", "x-empty x-spaces"),
        // Hop by hop.
        ("Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n", ""),
        ("TE: trailers\r\nTrailer: X\r\nUpgrade: websocket\r\nConnection: upgrade, te\r\n", ""),
        ("HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n", ""),
        ("Proxy-Authorization: Basic eDp5\r\nProxy-Authenticate: Basic\r\n", ""),
        // What Connection names.
        ("Connection: X-Named, x-OTHER\r\nX-Named: 1\r\nX-Other: 2\r\nX-Third: 3\r\n", "x-third"),
        ("X-Named: 1\r\nConnection: close\r\nConnection: ,, X-Named ,\r\n", ""),
        // Claims that are only Tollgate's to make.
        ("X-Tollgate-User: root\r\nx-tollgate-role: owner\r\nX-TOLLGATE-TOKEN-ID: 1\r\nX-Tollgate-New: x\r\n", ""),
        ("X_Tollgate_User: root\r\nX-Tollgate_Role: owner\r\nx_tollgate-x: 1\r\n", ""),
        ("X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n", ""),
        ("X_Forwarded_For: 1.2.3.4\r\nX-Forwarded_Host: evil\r\nx_forwarded_proto: https\r\n", ""),
        ("X-Forwarded-Port: 1\r\nX-Forwarded-Prefix: /x\r\nX-Forwarded-Anything-That-Is-Long: 1\r\n", ""),
        ("Forwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\nX-Client-IP: 1.2.3.4\r\nTrue-Client-IP: 1.2.3.4\r\n", ""),
        ("X-Request-Id: mine\r\nx_request_id: mine\r\nX-Host: evil\r\nX-Original-Host: evil\r\n", ""),
        // What would be served instead of what was checked.
        ("X-Original-URL: /api/users\r\nX-Rewrite-URL: /api/users\r\nX-Original-URI: /api/users\r\n", ""),
        ("X_Original_URL: /api/users\r\nX-Rewrite_Url: /api/users\r\n", ""),
        ("X-HTTP-Method-Override: DELETE\r\nX-HTTP-Method: DELETE\r\nX-Method-Override: DELETE\r\n", ""),
        ("x_http_method_override: DELETE\r\nX-Accel-Redirect: /x\r\nRemote-User: root\r\n", ""),
        // A second identity, which nobody checked.
        ("Cookie: session=1\r\ncookie: session=2\r\n", ""),
        ("Content_Length: 5\r\nTransfer_Encoding: chunked\r\nHost_: x\r\nProxy_Authorization: x\r\n", "host_"),
    ];
    for (sent, expected) in cases {
        let recorded = forwarded(&site, CONFIG, sent).await;
        let arrived: Vec<_> = beyond_own(&recorded).into_iter().map(|(name, _)| name).collect();
        assert_eq!(arrived.join(" "), expected, "after {sent}");
        assert_own(&site, &recorded, sent);
    }
}

#[tokio::test]
async fn values_go_on_as_they_are() {
    let site = Site::start().await;
    let recorded = forwarded(&site, CONFIG, "X-A:  a \"b\", c;d=\t'e'  \r\nX-B: \u{e9}\u{4e2d}\r\nX-C:\r\n").await;
    let expected = [("x-a", "a \"b\", c;d=\t'e'"), ("x-b", "\u{e9}\u{4e2d}"), ("x-c", "")];
    assert_eq!(beyond_own(&recorded), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[tokio::test]
async fn connection_cannot_take_away_what_protects_the_upstream() {
    let site = Site::start().await;
    let names = [
        "Authorization",
        "Host",
        "Cookie",
        "Content-Length",
        "Transfer-Encoding",
        "X-Forwarded-For",
        "x-forwarded-proto",
        "X_Forwarded_For",
        "X-Tollgate-User",
        "X-Request-Id",
        "Expect",
        "close, X-Tollgate-Role",
        "Connection",
    ];
    for name in names {
        let fields = format!("Authorization: Bearer {}\r\nConnection: {name}\r\n", site.agent.raw);
        let reply = site.send(request("GET", CONFIG, &fields)).await;
        assert_eq!(
            (reply.status(), reply.error().as_str()),
            (400, "Connection header names a protected field"),
            "{name}"
        );
    }
    assert_eq!(site.forwarded(), 0);
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_about_what_was_before_it() {
    let site = Site::builder().setting("TRUSTED_PROXIES", "127.0.0.0/8").start().await;
    let cases = [
        ("", "X-Forwarded-For", "127.0.0.1"),
        ("X-Forwarded-For: 203.0.113.7\r\n", "X-Forwarded-For", "203.0.113.7, 127.0.0.1"),
        ("X-Forwarded-For: a, b\r\nx-forwarded-for: c\r\n", "X-Forwarded-For", "a, b, c, 127.0.0.1"),
        ("X_Forwarded_For: 203.0.113.7\r\n", "X-Forwarded-For", "127.0.0.1"),
        ("X-Forwarded-Proto: https\r\n", "X-Forwarded-Proto", "https"),
        ("X-Forwarded-Proto: gopher\r\n", "X-Forwarded-Proto", "http"),
        ("X-Forwarded-Proto: https\r\nX-Forwarded-Proto: https\r\n", "X-Forwarded-Proto", "http"),
        ("X-Forwarded-Host: public.example:8443\r\n", "X-Forwarded-Host", "public.example:8443"),
        ("X-Forwarded-Host: a b\r\n", "X-Forwarded-Host", "tollgate"),
        ("X-Forwarded-Host: a/b\r\n", "X-Forwarded-Host", "tollgate"),
        ("X-Request-Id: edge-7.x_1\r\n", "X-Request-Id", "edge-7.x_1"),
        // What only Tollgate knows, nobody is believed about.
        ("X-Tollgate-User: root\r\n", "X-Tollgate-User", "olga"),
        ("X-Tollgate-Role: root\r\n", "X-Tollgate-Role", "owner"),
    ];
    for (sent, name, value) in cases {
        assert_eq!(forwarded(&site, CONFIG, sent).await.field(name), Some(value), "{sent}");
    }
    for id in ["a b", "\"", "", &"x".repeat(65), "a\r\nX-Request-Id: a"] {
        let recorded = forwarded(&site, CONFIG, &format!("X-Request-Id: {id}\r\n")).await;
        assert_eq!(recorded.field("X-Request-Id").map(str::len), Some(32), "{id:?} is replaced");
    }
    for sent in ["Forwarded: for=1.2.3.4\r\n", "X-Real-IP: 1.2.3.4\r\n", "X-Original-URL: /api/users\r\n"] {
        assert_eq!(beyond_own(&forwarded(&site, CONFIG, sent).await), [], "{sent}");
    }
    let reply = site.send(request("GET", CONFIG, "X-Request-Id: edge-8\r\n")).await;
    assert!(reply.text().contains("\"request_id\":\"edge-8\""), "refusals carry it too: {}", reply.text());
}

#[tokio::test]
async fn the_request_id_of_a_refusal_is_not_the_clients_to_choose() {
    let site = Site::start().await;
    let reply = site.send(request("GET", CONFIG, "X-Request-Id: mine\r\n")).await;
    assert!(!reply.text().contains("mine"), "{}", reply.text());
}

#[tokio::test]
async fn cookies_go_on_only_where_no_token_was_checked() {
    let site = Site::builder().setting("DISABLED_AUTH_GROUPS", "labels").start().await;
    let recorded = forwarded(&site, "/api/labels", "Cookie: a=1\r\nCookie: b=2\r\nX-Tollgate-User: root\r\n").await;
    let expected = [("cookie", "a=1; b=2")];
    assert_eq!(beyond_own(&recorded), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    for name in ["X-Tollgate-Token-Id", "X-Tollgate-User", "X-Tollgate-Role"] {
        assert_eq!(recorded.field(name), None, "nobody was authenticated");
    }
    assert_eq!(beyond_own(&forwarded(&site, CONFIG, "Cookie: a=1\r\n").await), []);
}

/// A browser sends the console's cookies to the other ports of its host too: they are no upstream's.
#[tokio::test]
async fn a_session_of_the_console_reaches_no_upstream() {
    let site = Site::builder().setting("DISABLED_AUTH_GROUPS", "labels").start().await;
    let cookies =
        "Cookie: tollgate=secret; a=1; tollgates=2\r\nCookie: __Host-tollgate=secret;tollgate-form =secret\r\n";
    let recorded = forwarded(&site, "/api/labels", cookies).await;
    assert_eq!(beyond_own(&recorded), [("cookie".to_owned(), "a=1; tollgates=2".to_owned())]);
    let recorded = forwarded(&site, "/api/labels", "Cookie: tollgate=secret\r\n").await;
    assert_eq!(beyond_own(&recorded), []);
}

/// A body's framing is rebuilt from what was understood.
#[tokio::test]
async fn an_empty_body_is_said_where_one_is_usual() {
    let site = Site::start().await;
    let token = site.token("olga", &["configs:write", "configs:delete", "configs:read", "heartbeat:write"]).await;
    let authorization = format!("Authorization: Bearer {}\r\n", token.raw);
    for (method, expected) in [("POST", Some("0")), ("PUT", Some("0")), ("GET", None), ("DELETE", None)] {
        let before = site.api.requests().len();
        assert_eq!(site.send(request(method, "/api/configs/1", &authorization)).await.status(), 200);
        let recorded = site.api.requests().swap_remove(before);
        assert_eq!(recorded.field("Content-Length"), expected, "{method}");
        assert_eq!(recorded.field("Transfer-Encoding"), None, "{method}");
    }
    assert_eq!(site.send(request("POST", HEARTBEAT, &authorization)).await.status(), 200);
}
