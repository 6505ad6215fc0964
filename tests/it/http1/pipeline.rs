//! Several requests at once on a connection: answered in order, each judged by itself.

use super::{assert_nothing_smuggled, beat};
use crate::harness::{CONFIG, HEARTBEAT, Script, Site, get, ok, request};

#[tokio::test]
async fn answers_come_in_order_and_what_is_refused_is_not_forwarded() {
    let site = Site::start().await;
    for text in ["first", "third", "sixth"] {
        site.api.next(Script::reply(ok(text)));
    }
    let unknown = "Authorization: Bearer tc-apiv1_unknown\r\n";
    let requests = [
        get("/api/configs/1", &site.agent),
        request("GET", "/api/configs/smuggled", unknown),
        get("/api/configs/3", &site.agent),
        request("POST", HEARTBEAT, "Content-Length: 5\r\n") + "hello",
        get("/api/users/smuggled", &site.agent),
        get("/api/configs/6", &site.agent),
        format!("{}beat!", beat(&site.agent, "Content-Length: 5\r\n")),
    ];
    let mut client = site.connect().await;
    client.send(requests.concat()).await;
    let mut replies = Vec::new();
    for _ in &requests {
        let reply = client.reply().await;
        replies.push((reply.status(), if reply.status() == 200 { reply.text().to_owned() } else { reply.error() }));
    }
    let expected = [
        (200, "first"),
        (401, "Invalid token"),
        (200, "third"),
        (401, "Missing or invalid Authorization header"),
        (403, "Insufficient permissions: users:read required"),
        (200, "sixth"),
        (200, "ok"),
    ];
    assert_eq!(replies, expected.map(|(status, text)| (status, text.to_owned())));
    let lines: Vec<_> = site.api.requests().iter().map(|request| request.request_line().to_owned()).collect();
    assert_eq!(lines, ["1", "3", "6"].map(|id| format!("GET /api/configs/{id} HTTP/1.1")));
    assert_eq!(site.heartbeat.request().body, b"beat!");
    assert_nothing_smuggled(&site);
}

/// One connection may carry many agents' requests, as behind a load balancer: what one was allowed, the next is not.
#[tokio::test]
async fn every_request_is_judged_by_its_own_token() {
    let site = Site::start().await;
    let beater = site.token("olga", &["heartbeat:write"]).await;
    let mut client = site.connect().await;
    for _ in 0..3 {
        for (token, status) in [(&site.agent, 200), (&beater, 403), (&site.owner, 200)] {
            client.send(get(CONFIG, token)).await;
            assert_eq!(client.reply().await.status(), status);
        }
        client.send(request("GET", CONFIG, "")).await;
        assert_eq!(client.reply().await.status(), 401, "nothing is remembered");
    }
    let seen: Vec<_> =
        site.api.requests().iter().map(|request| request.field("X-Tollgate-Token-Id").map(str::to_owned)).collect();
    let (agent, owner) = (site.agent.id.to_string(), site.owner.id.to_string());
    assert_eq!(seen, [&agent, &owner, &agent, &owner, &agent, &owner].map(|id| Some(id.clone())));
}

/// The token is looked up anew for each request: revocation is not outlived by a connection.
#[tokio::test]
async fn a_revoked_token_is_refused_on_a_connection_that_it_opened() {
    let site = Site::start().await;
    let mut client = site.connect().await;
    client.send(get(CONFIG, &site.agent)).await;
    assert_eq!(client.reply().await.status(), 200);
    let revision = site.revoke(&site.agent).await;
    site.replica_reaches(revision).await;
    client.send(get(CONFIG, &site.agent)).await;
    assert_eq!(client.reply().await.error(), "Invalid token");
    client.send(get(CONFIG, &site.owner)).await;
    assert_eq!(client.reply().await.status(), 200, "another one may go on with it");
}

#[tokio::test]
async fn close_is_kept_to_and_nothing_after_it_is_read() {
    let site = Site::start().await;
    for option in ["close", "Close", "keep-alive, CLOSE", "X-Y,close"] {
        let before = site.api.requests().len();
        let mut client = site.connect().await;
        let first = get(CONFIG, &site.agent).replace("\r\n\r\n", &format!("\r\nConnection: {option}\r\n\r\n"));
        client.send(first + &get("/api/configs/smuggled", &site.agent)).await;
        let reply = client.reply().await;
        assert_eq!((reply.status(), reply.closes()), (200, true), "{option}");
        client.ends().await;
        assert_eq!(site.api.requests().len(), before + 1, "{option}");
    }
    let mut client = site.connect().await;
    client.send(request("GET", CONFIG, "Connection: close\r\n")).await;
    assert!(client.reply().await.closes(), "refusals too");
    client.ends().await;
    assert_nothing_smuggled(&site);
}

#[tokio::test]
async fn a_client_that_has_said_everything_still_gets_its_answers() {
    let site = Site::start().await;
    let mut client = site.connect().await;
    client.send(get(CONFIG, &site.agent).repeat(2)).await;
    client.finish().await;
    for _ in 0..2 {
        assert_eq!(client.reply().await.status(), 200);
    }
    client.ends().await;
}
