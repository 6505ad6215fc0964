//! A path that two servers could read differently is refused, never repaired and never forwarded.

use crate::harness::{HEARTBEAT, Site};

/// A request whose target is these bytes, with a token that may do everything.
fn request(site: &Site, target: &[u8]) -> Vec<u8> {
    let fields = format!(" HTTP/1.1\r\nHost: tollgate\r\nAuthorization: Bearer {}\r\n\r\n", site.owner.raw);
    [b"GET ", target, fields.as_bytes()].concat()
}

#[tokio::test]
async fn ambiguous_paths_are_refused() {
    let site = Site::start().await;
    let cases: &[&[u8]] = &[
        // Not a path from the root.
        b"*",
        b"api/configs",
        b"tollgate:80",
        b"?/api/configs",
        b"../api/configs",
        // Empty segments.
        b"//",
        b"//api/configs",
        b"/api//configs",
        b"/api/configs//",
        b"/api/configs///x",
        // Dot segments.
        b"/.",
        b"/..",
        b"/./api/configs",
        b"/api/./configs",
        b"/api/../api/configs",
        b"/api/agents/../configs",
        b"/api/configs/.",
        b"/api/configs/..",
        b"/../api/configs",
        // The same, encoded; also half, twice, and in other encodings.
        b"/api/%2e/configs",
        b"/api/%2E%2E/configs",
        b"/api/.%2e/configs",
        b"/api/%2e./configs",
        b"/api/agents/%2e%2e/configs",
        b"/api/%252e%252e/configs",
        b"/api/%25%32%65/configs",
        b"/api/%c0%ae%c0%ae/configs",
        b"/api/%u002e/configs",
        // Encoded slashes and backslashes, and backslashes.
        b"/api%2fconfigs",
        b"/api%2Fconfigs",
        b"/api/configs%2f..%2fusers",
        b"/api%5cconfigs",
        b"/api%5Cconfigs",
        b"/api\\configs",
        b"\\api\\configs",
        b"/api/configs\\..\\users",
        // Path parameters.
        b"/api;x/configs",
        b"/api/configs;x=1",
        b"/api/configs/..;/users",
        b"/api/configs%3bx",
        // Control bytes, spaces, quotes, non-ASCII, in all their forms.
        b"/api/configs%00",
        b"/api/configs%00.toml",
        b"/api/configs%0a",
        b"/api/configs%0d%0aX-Tollgate-User:%20root",
        b"/api/configs%09",
        b"/api/configs%1f",
        b"/api/configs%7f",
        b"/api/configs\x00",
        b"/api/configs\x01",
        b"/api/configs\x7f",
        b"/api/configs\tx",
        b"/api/\"configs\"",
        b"/api/<configs>",
        b"/api/{configs}",
        b"/api/[configs]",
        b"/api/^configs",
        b"/api/`configs`",
        b"/api/a|b",
        "/api/configs/é".as_bytes(),
        b"/api/configs/\xff",
        b"/api/configs/%c3%a9",
        b"/api/configs/%ff",
        "/api/configs／..".as_bytes(),
        // Fragments and what only looks like a query.
        b"/api/configs#x",
        b"/api/configs#/../users",
        b"/api/configs%23x",
        b"/api/configs%3fx",
        // Broken encodings.
        b"/api/configs%",
        b"/api/configs%4",
        b"/api/configs%zz",
        b"/api/configs%+1",
        b"/api/configs/%",
        b"/api/configs% 20",
        // The same by an absolute target.
        b"http://tollgate//api/configs",
        b"http://tollgate/api/../configs",
        b"http://tollgate/api%2fconfigs",
        b"http://tollgate?/api/configs",
        // Queries with bytes that could end the target early.
        b"/api/configs?x#y",
        b"/api/configs?\xff",
        b"/api/configs?\x00",
        b"/api/configs?x y",
    ];
    for target in cases {
        let reply = site.send(request(&site, target)).await;
        assert_eq!(reply.status(), 400, "{} {}", target.escape_ascii(), reply.text());
    }
    assert_eq!(site.forwarded(), 0, "none may reach the upstream: {:?}", site.api.requests());
    assert_eq!(site.api.connections(), 0);
}

#[tokio::test]
async fn clear_paths_go_on_byte_for_byte() {
    let site = Site::start().await;
    let targets = [
        "/api/configs",
        "/api/configs/1/",
        "/api/configs/a.b",
        "/api/configs/...",
        "/api/configs/.hidden",
        "/api/configs/a..b/c.",
        "/api/configs/~x/@y:z,=+!$&'()*",
        "/api/configs/a%20b",
        "/api/%63onfigs/1",
        "/api/configs/1/toml?name=a%2Fb&c=../..;//%00[]",
        "/api/configs?",
        "/api/configs??a=/b/../c",
    ];
    for target in targets {
        assert_eq!(site.send(request(&site, target.as_bytes())).await.status(), 200, "{target}");
    }
    let seen: Vec<_> = site.api.requests().iter().map(|request| request.request_line().to_owned()).collect();
    assert_eq!(seen, targets.map(|target| format!("GET {target} HTTP/1.1")));
}

/// RFC 3986 does not allow them in a query, people write them, and every server reads them encoded alike.
#[tokio::test]
async fn quotes_and_the_like_in_a_query_go_on_encoded() {
    let site = Site::start().await;
    assert_eq!(site.send(request(&site, b"/api/configs?a=\"b\"&c=<d>\\")).await.status(), 200);
    assert_eq!(site.api.request().request_line(), "GET /api/configs?a=%22b%22&c=%3Cd%3E%5C HTTP/1.1");
}

/// An absolute target is for servers to accept (RFC 9112 section 3.2.2); what goes on is its path.
#[tokio::test]
async fn absolute_targets_go_on_as_their_path() {
    let site = Site::start().await;
    let targets = [
        ("http://tollgate/api/configs?a=b", 200, "GET /api/configs?a=b HTTP/1.1"),
        ("HTTP://TOLLGATE/api/configs", 200, "GET /api/configs HTTP/1.1"),
        ("https://tollgate/api/configs", 200, "GET /api/configs HTTP/1.1"),
        ("http://elsewhere/api/configs", 400, ""),
        ("http://tollgate:80/api/configs", 400, ""),
        ("http://user@tollgate/api/configs", 400, ""),
        ("http:///api/configs", 400, ""),
        ("ftp://tollgate/api/configs", 400, ""),
        ("http:/api/configs", 400, ""),
    ];
    for (target, status, line) in targets {
        let before = site.api.requests().len();
        assert_eq!(site.send(request(&site, target.as_bytes())).await.status(), status, "{target}");
        let seen = site.api.requests();
        assert_eq!(seen.get(before).map_or("", |request| request.request_line()), line, "{target}");
    }
    assert_eq!(site.send(request(&site, b"http://tollgate")).await.status(), 404);
}

/// What decides is the path: a heartbeat token must not reach anything else by writing its path in another way.
#[tokio::test]
async fn an_encoded_path_is_judged_by_what_it_means() {
    let site = Site::start().await;
    let token = site.token("olga", &["agents:read"]).await;
    let with = |path: &str| crate::harness::get(path, &token);
    for path in ["/api/configs/1", "/api/%63onfigs/1", "/api/c%6Fnfigs/1"] {
        assert_eq!(site.send(with(path)).await.error(), "Insufficient permissions: configs:read required", "{path}");
    }
    assert_eq!(site.send(with("/api/%61gents")).await.status(), 200);
    assert_eq!(site.send(with(&HEARTBEAT.replace("heart", "Heart"))).await.status(), 404);
}
