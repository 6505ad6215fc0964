//! `HEAD` for a configuration while the Controller is away. Telegraf's watcher forgets what it knew at any reply without
//! `Last-Modified` and reloads at one with another, whatever the status; at a broken connection it remembers. So what
//! would be 502, 503 or 504 gets no reply.

use h2::Reason;

use crate::harness::{
    CONFIG, Http2Client, Script, Site, eventually, get, http2_with, refusing, request, scripted, within,
};

/// Configurations, as agents watch them and as others look at them.
const CONFIGS: [&str; 5] =
    [CONFIG, "/api/configs/1/toml?host=a", "/api/configs/1", "/c/web-servers?host=a", "/%63/web-servers"];

const AWAY: [&str; 3] = ["502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"];

fn head(site: &Site, path: &str) -> String {
    request("HEAD", path, &format!("Authorization: Bearer {}\r\n", site.agent.raw))
}

/// Asserts that there is no reply: the connection ends without a byte, the stream is reset.
async fn assert_no_reply(site: &Site, path: &str, prepare: impl Fn(&Site)) {
    prepare(site);
    let mut client = site.connect().await;
    client.send(head(site, path)).await;
    client.ends_unanswered().await;

    prepare(site);
    let client = Http2Client::connect(site.address()).await;
    let stream = client.send(http2_with(&site.agent, "HEAD", path)).await;
    let error = within("the reset", stream.outcome()).await.expect_err("no reply");
    assert!(error.is_reset() && error.is_remote(), "{error:?}");
    assert_ne!(error.reason(), Some(Reason::REFUSED_STREAM), "that one would be sent again at once");
    // Only the stream: others of the connection are not the watcher's.
    let other = client.get("/nothing", &site.agent).await;
    assert_eq!(other.status(), 404);
}

/// The upstream answers so, to everything.
fn answering(status: &'static str) -> impl Fn(&Site) {
    move |site| {
        let fields = "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\nRetry-After: 5\r\nContent-Length: 4\r\n";
        site.api.next(Script::reply(format!("HTTP/1.1 {status}\r\nServer: scripted\r\n{fields}\r\n")));
    }
}

#[tokio::test]
async fn a_controller_that_is_away_by_its_own_word_gives_a_watcher_no_reply() {
    let site = Site::start().await;
    for status in AWAY {
        for path in CONFIGS {
            assert_no_reply(&site, path, answering(status)).await;
        }
    }
}

#[tokio::test]
async fn a_controller_that_cannot_be_reached_gives_a_watcher_no_reply() {
    let (_socket, nobody) = refusing();
    let site = Site::builder().api_at(format!("http://{nobody}")).start().await;
    for path in CONFIGS {
        assert_no_reply(&site, path, |_| ()).await;
    }
    let reply = site.get(CONFIG, &site.agent).await;
    assert_eq!((reply.status(), reply.error().as_str()), (502, "Upstream unavailable"), "GET is told as ever");
}

#[tokio::test]
async fn a_controller_that_breaks_off_gives_a_watcher_no_reply() {
    let site = Site::start().await;
    for part in ["", "HTTP/1.1 200 OK\r\nLast-Mod", "SSH-2.0-OpenSSH_9.6\r\n\r\n"] {
        assert_no_reply(&site, CONFIG, |site| {
            // A second try is allowed.
            site.api.next(Script::reply(part).then_close());
            site.api.next(Script::reply(part).then_close());
        })
        .await;
        let rest = || async {
            // What the second try was for, if there was none.
            site.get(CONFIG, &site.agent).await.status() == 200
        };
        eventually("the Controller answers again", rest).await;
    }
}

#[tokio::test]
async fn a_controller_that_says_nothing_gives_a_watcher_no_reply() {
    let site = Site::builder().setting("UPSTREAM__API__TIMEOUTS__FIRST_BYTE", "300ms").start().await;
    assert_no_reply(&site, CONFIG, |site| site.api.next(Script::silent())).await;
    site.api.next(Script::silent());
    let reply = site.get(CONFIG, &site.agent).await;
    assert_eq!((reply.status(), reply.error().as_str()), (504, "Upstream timeout"), "GET is told as ever");
}

#[tokio::test]
async fn a_sidecar_without_its_registry_gives_a_watcher_no_reply() {
    let site = Site::builder().store_is_down().start().await;
    for path in CONFIGS {
        assert_no_reply(&site, path, |_| ()).await;
    }
    let reply = site.get(CONFIG, &site.agent).await;
    assert_eq!((reply.status(), reply.error().as_str()), (503, "Token registry unavailable"));
}

/// Replies to what was asked before on the same connection are not lost with it.
#[tokio::test]
async fn what_was_asked_before_is_answered() {
    let site = Site::start().await;
    let mut client = site.connect().await;
    client.send(get(CONFIG, &site.agent)).await;
    assert_eq!(client.reply().await.status(), 200);
    answering("503 Service Unavailable")(&site);
    client.send(head(&site, CONFIG)).await;
    client.ends_unanswered().await;

    let mut client = site.connect().await;
    site.api.next(Script::reply(scripted("200 OK", "", "first")));
    answering("503 Service Unavailable")(&site);
    client.send(get(CONFIG, &site.agent) + &head(&site, CONFIG) + &get("/api/configs/behind", &site.agent)).await;
    assert_eq!(client.reply().await.text(), "first");
    client.ends_unanswered().await;
    assert!(site.api.requests().iter().all(|request| !request.head.contains("behind")), "nor is what comes behind");
}

/// An answer is an answer, also one that is no success.
#[tokio::test]
async fn a_watcher_gets_every_other_refusal() {
    let site = Site::start().await;
    for status in ["200 OK", "304 Not Modified", "402 Payment Required", "404 Not Found", "500 Oh No", "501 Not Here"] {
        answering(status)(&site);
        assert_eq!(site.send(head(&site, CONFIG)).await.status().to_string(), status[..3]);
    }
    let cases = [
        (request("HEAD", CONFIG, ""), 401),
        (request("HEAD", CONFIG, "Authorization: Bearer tc-apiv1_unknown\r\n"), 401),
        (request("HEAD", "/api/users", &format!("Authorization: Bearer {}\r\n", site.agent.raw)), 403),
        (head(&site, "/api/../configs"), 400),
    ];
    for (request, status) in cases {
        assert_eq!(site.send(&request).await.status(), status, "{request}");
    }
}

#[tokio::test]
async fn head_elsewhere_and_get_report_that_the_controller_is_away() {
    let site = Site::start().await;
    for status in AWAY {
        let script = || Script::reply(format!("HTTP/1.1 {status}\r\nServer: scripted\r\nContent-Length: 0\r\n\r\n"));
        for path in ["/api/users", "/api/agents/configs"] {
            site.api.next(script());
            let fields = format!("Authorization: Bearer {}\r\n", site.owner.raw);
            let reply = site.send(request("HEAD", path, &fields)).await;
            assert_eq!(reply.status().to_string(), status[..3], "HEAD {path}");
        }
        for path in CONFIGS {
            site.api.next(script());
            assert_eq!(site.get(path, &site.agent).await.status().to_string(), status[..3], "GET {path}");
        }
    }
}
