//! The path at which listeners answer balancers.

use crate::harness::{Builder, Client, HaProxy, Http2Client, Site, eventually, get, http2_request, request};

fn site() -> Builder {
    Site::builder().setting("HEALTH__PATH", "/healthz")
}

#[tokio::test]
async fn who_asks_learns_whether_the_sidecar_is_ready_and_needs_no_token() {
    let site = site().start().await;
    let mut client = site.connect().await;
    for _ in 0..2 {
        client.send(request("GET", "/healthz", "")).await;
        let reply = client.reply().await;
        assert_eq!(
            (reply.status(), reply.field("Content-Length"), reply.field("Cache-Control")),
            (200, Some("14"), Some("no-store"))
        );
        client.send(request("HEAD", "/healthz?from=a-balancer", "")).await;
        assert_eq!(client.reply_to_head().await.status(), 200);
    }
    // HAProxy's own check, where it is told nothing else.
    client.send("GET /healthz HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.reply().await.status(), 200);
    let http2 = Http2Client::connect(site.address()).await;
    assert_eq!(http2.send(http2_request("GET", "/healthz", &[])).await.reply().await.status(), 200);
    assert_eq!(site.forwarded(), 0);
}

#[tokio::test]
async fn nothing_else_has_that_path() {
    let site = site().start().await;
    for path in ["/healthz/", "/health", "/Healthz"] {
        assert_eq!(site.send(request("GET", path, "")).await.status(), 404, "{path}");
    }
    for method in ["POST", "OPTIONS", "DELETE"] {
        let reply = site.send(request(method, "/healthz", "")).await;
        assert_eq!((reply.status(), reply.field("Allow")), (405, Some("GET, HEAD")), "{method}");
    }
    let without = Site::start().await;
    assert_eq!(without.send(request("GET", "/healthz", "")).await.status(), 404);
}

#[tokio::test]
async fn a_sidecar_that_is_stale_says_so() {
    let site =
        site().setting("FRESHNESS__PROBE_INTERVAL", "50ms").setting("FRESHNESS__MAX_STALENESS", "500ms").start().await;
    site.store.set_broken(true);
    let asked = || async { site.send(request("GET", "/healthz", "")).await };
    eventually("it is not ready", || async { asked().await.status() == 503 }).await;
    assert_eq!(asked().await.error(), "Not ready: the token registry is stale");
    site.store.set_broken(false);
    eventually("it is ready again", || async { asked().await.status() == 200 }).await;
}

/// As the documentation has it: HAProxy sends agents to those that are ready.
#[tokio::test]
async fn haproxy_sends_nobody_to_a_sidecar_that_is_not_ready() {
    let (good, stale) = (site().start().await, site().store_is_down().start().await);
    let server = |site: &Site| format!("server s{0} {0} check inter 50ms", site.address());
    let haproxy = HaProxy::start(&format!(
        "mode http\n    option httpchk GET /healthz\n    {}\n    {}",
        server(&good),
        server(&stale)
    ))
    .await;
    let asked = || async {
        let mut agent = Client::connect(haproxy.address()).await;
        agent.send(get("/api/configs", &good.owner)).await;
        agent.reply().await.status()
    };
    eventually("one was found out", || async {
        let answers = [asked().await, asked().await, asked().await, asked().await];
        answers.iter().all(|status| *status == 200)
    })
    .await;
}
