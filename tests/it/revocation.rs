//! Losing access: a commit of another process, as the command line makes it beside a running sidecar, ends in-flight requests and
//! refuses what follows.

use std::future::Future;
use std::time::{Duration, Instant};

use h2::Reason;
use tokio::sync::mpsc;
use tollgate::registry::Registry;
use tollgate::store::{Retention, SqliteStore};
use tollgate::token::{Role, UserStatus};

use crate::harness::{
    CONFIG, DOWNLOAD, HEARTBEAT, Http2Client, Script, Site, Token, get, http2_cut, http2_with, ok, operator, post,
    request, within,
};

/// Far above what it takes, since the machine may be busy. What it took is printed.
const PROMPTLY: Duration = Duration::from_secs(5);

/// The registry as another process has it: another handle on the same file.
async fn elsewhere(site: &Site) -> Registry {
    let path = site.directory().join("tollgate.db");
    Registry::new(std::sync::Arc::new(SqliteStore::open(&path, Retention::default()).await.expect("opens")))
}

/// Waits for what must follow a commit, says how long that took and checks that it was not too long.
async fn promptly<T>(what: &str, committed: Instant, future: impl Future<Output = T>) -> T {
    let value = within(what, future).await;
    let delay = committed.elapsed();
    println!("{what}: {delay:?} after the commit");
    assert!(delay < PROMPTLY, "{what}: {delay:?}");
    value
}

/// What takes a token's access to its configuration away.
#[derive(Debug, Clone, Copy)]
enum Loss {
    Revoked,
    Deleted,
    OwnerDisabled,
    OwnerDeleted,
    /// The owner becomes a Viewer, which cannot manage tokens: they are revoked.
    RoleNarrowed,
    /// To a Viewer, whose role has none of the token's permissions.
    Reassigned,
}

impl Loss {
    const ALL: [Self; 6] =
        [Self::Revoked, Self::Deleted, Self::OwnerDisabled, Self::OwnerDeleted, Self::RoleNarrowed, Self::Reassigned];

    async fn commit(self, registry: &Registry, token: &Token) -> Instant {
        let (actor, ids) = (operator(), [token.id]);
        match self {
            Self::Revoked => drop(registry.revoke(&actor, &ids, false).await.expect("revokes")),
            Self::Deleted => drop(registry.delete(&actor, &ids, false).await.expect("deletes")),
            Self::OwnerDisabled => {
                drop(registry.set_status(&actor, "max", UserStatus::Disabled).await.expect("disables"));
            }
            Self::OwnerDeleted => drop(registry.delete_user(&actor, "max").await.expect("deletes").to_string()),
            Self::RoleNarrowed => drop(registry.set_role(&actor, "max", Role::Viewer).await.expect("narrows")),
            Self::Reassigned => drop(registry.reassign(&actor, &ids, "vera", false).await.expect("reassigns")),
        }
        Instant::now()
    }

    /// What a request that comes afterwards is told.
    fn refusal(self) -> (u16, &'static str) {
        match self {
            Self::Reassigned => (403, "Insufficient permissions: configs:write required"),
            _ => (401, "Invalid token"),
        }
    }
}

/// A site with a manager `max`, and a viewer `vera`.
async fn site() -> Site {
    let site = Site::start().await;
    site.user("max", Role::Manager).await;
    site.user("vera", Role::Viewer).await;
    site
}

/// Needs `configs:write`, which no Viewer has.
fn write(token: &Token) -> Vec<u8> {
    post(CONFIG, token, b"{}")
}

/// Waits until the upstream of a download that was cut can write no more.
async fn is_let_go(pieces: &mpsc::Sender<Vec<u8>>) {
    within("its upstream is let go", async { while pieces.send(b"more".to_vec()).await.is_ok() {} }).await;
}

#[tokio::test]
async fn the_next_request_is_refused() {
    for loss in Loss::ALL {
        let site = site().await;
        let (token, other) = (site.token("max", &["configs:write"]).await, site.agent.clone());
        let mut client = site.connect().await;
        client.send(write(&token)).await;
        assert_eq!(client.reply().await.status(), 200);

        let committed = loss.commit(&elsewhere(&site).await, &token).await;
        let refused = async {
            loop {
                client.send(write(&token)).await;
                let reply = client.reply().await;
                if reply.status() != 200 {
                    return reply;
                }
            }
        };
        // It may have been waiting for its upstream already; then all that is lost is told alike.
        let reply = promptly(&format!("{loss:?}: refused"), committed, refused).await;
        assert!([401, loss.refusal().0].contains(&reply.status()), "{loss:?}: {reply:?}");
        let fields = format!("Authorization: Bearer {}\r\nX-Afterwards: yes\r\n", token.raw);
        client.send(request("POST", CONFIG, &fields)).await;
        let reply = client.reply().await;
        assert_eq!((reply.status(), reply.error().as_str()), loss.refusal(), "{loss:?}: and stays so");
        assert!(site.api.requests().iter().all(|request| request.field("X-Afterwards").is_none()), "{loss:?}");
        assert_eq!(site.get(CONFIG, &other).await.status(), 200, "{loss:?} of another token");
    }
}

#[tokio::test]
async fn a_heartbeat_after_the_revocation_is_told_so() {
    let site = Site::start().await;
    let mut client = site.connect().await;
    client.send(post(HEARTBEAT, &site.agent, b"{}")).await;
    assert_eq!(client.reply().await.status(), 200);
    let registry = elsewhere(&site).await;
    registry.revoke(&operator(), &[site.agent.id], false).await.expect("revokes");
    site.replica_reaches(site.revision().await).await;
    client.send(post(HEARTBEAT, &site.agent, b"{}")).await;
    let reply = client.reply().await;
    assert_eq!((reply.status(), reply.error().as_str()), (401, "Invalid token"));
    assert_eq!(site.heartbeat.requests().len(), 1);
}

#[tokio::test]
async fn a_download_is_cut_and_another_goes_on() {
    for loss in Loss::ALL {
        let site = site().await;
        let token = site.token("max", &["configs:write"]).await;
        let other = site.token("olga", &["configs:write"]).await;
        let (mut cut, pieces) = site.download(write(&token)).await;
        let (mut going_on, more) = site.download(write(&other)).await;

        let committed = loss.commit(&elsewhere(&site).await, &token).await;
        promptly(&format!("{loss:?}: a download is cut"), committed, cut.is_reset()).await;
        is_let_go(&pieces).await;

        more.send(vec![b'x'; 1000]).await.expect("takes it");
        assert_eq!(going_on.bytes(1000).await, [b'x'; 1000], "{loss:?} of another token");
        drop(more);
    }
}

/// One that nobody reads is cut too: then it is the client that is waited for.
#[tokio::test]
async fn a_download_that_is_stuck_is_cut() {
    let site = site().await;
    let token = site.token("max", &["configs:read"]).await;
    let head = "HTTP/1.1 200 OK\r\nServer: scripted\r\nContent-Length: 1000000000\r\n\r\n";
    site.api.next(Script::flood(head, vec![b'x'; 100_000], 10_000));
    let mut client = site.connect().await;
    client.send(get(CONFIG, &token)).await;
    let mut sent = 0;
    crate::harness::eventually("the buffers are full", || {
        let full = site.api.sent() > 0 && sent == site.api.sent();
        sent = site.api.sent();
        async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            full
        }
    })
    .await;
    let committed = Loss::Revoked.commit(&elsewhere(&site).await, &token).await;
    let let_go = site.api.until("its upstream is let go", |seen| seen.closed == 1);
    promptly("a stuck download is cut", committed, let_go).await;
    client.is_cut().await;
}

#[tokio::test]
async fn an_upload_is_refused_half_way() {
    let site = site().await;
    let token = site.token("max", &["configs:write"]).await;
    let mut client = site.connect().await;
    let fields = format!("Authorization: Bearer {}\r\nContent-Length: 100000\r\n", token.raw);
    client.send(request("POST", CONFIG, &fields)).await;
    client.send("{".repeat(20_000)).await;
    site.api.until("a piece of it", |seen| seen.requests.first().is_some_and(|request| !request.body.is_empty())).await;
    let committed = Loss::Revoked.commit(&elsewhere(&site).await, &token).await;
    let reply = promptly("an upload is refused", committed, client.reply()).await;
    assert_eq!((reply.status(), reply.error().as_str()), (401, "Invalid token"));
    site.api.until("its upstream is let go", |seen| seen.closed == 1).await;
    assert!(!site.api.request().complete, "what was cut off may not look whole");
}

#[tokio::test]
async fn a_request_that_waits_for_its_upstream_is_refused() {
    for loss in [Loss::Revoked, Loss::OwnerDisabled, Loss::Reassigned] {
        let site = site().await;
        let token = site.token("max", &["configs:write"]).await;
        site.api.next(Script::silent());
        let mut client = site.connect().await;
        client.send(write(&token)).await;
        site.api.until("the request", |seen| seen.requests.len() == 1).await;
        let committed = loss.commit(&elsewhere(&site).await, &token).await;
        let reply = promptly(&format!("{loss:?}: a waiting request is refused"), committed, client.reply()).await;
        let expected = match loss {
            Loss::Reassigned => (403, "Insufficient permissions: configs:write required"),
            _ => (401, "Invalid token"),
        };
        assert_eq!((reply.status(), reply.error().as_str()), expected);
        site.api.until("its upstream is let go", |seen| seen.closed == 1).await;
        assert_eq!(site.beat(&site.agent).await.status(), 200);
    }
}

#[tokio::test]
async fn one_stream_of_a_connection_is_cut_and_the_others_go_on() {
    for loss in [Loss::Revoked, Loss::Deleted, Loss::RoleNarrowed] {
        let site = site().await;
        let token = site.token("max", &["configs:read"]).await;
        let client = Http2Client::connect(site.address()).await;
        let (mut bodies, mut pieces) = (Vec::new(), Vec::new());
        for token in [&token, &site.agent] {
            let sender = site.api.next_in_pieces();
            sender.send(DOWNLOAD.into()).await.expect("takes it");
            pieces.push(sender);
            let (head, mut body) = client.send(http2_with(token, "GET", CONFIG)).await.head().await;
            assert_eq!(head.status, 200);
            assert_eq!(within("a piece", body.data()).await.expect("a piece").expect("goes on"), "beginning");
            bodies.push(body);
        }
        site.api.next(Script::silent());
        let waiting = client.send(http2_with(&token, "GET", CONFIG)).await;
        site.api.until("the third request", |seen| seen.requests.len() == 3).await;

        let committed = loss.commit(&elsewhere(&site).await, &token).await;
        let what = format!("{loss:?}: a stream is cut");
        let (_, error) = promptly(&what, committed, http2_cut(&mut bodies[0])).await;
        assert_eq!(error.reason(), Some(Reason::CANCEL));
        let reply = promptly(&format!("{loss:?}: a waiting stream is refused"), committed, waiting.reply()).await;
        assert_eq!((reply.status(), reply.error().as_str()), (401, "Invalid token"));
        is_let_go(&pieces[0]).await;
        site.api.until("both upstreams are let go", |seen| seen.closed == 2).await;

        pieces[1].send(b"more".to_vec()).await.expect("takes it");
        assert_eq!(within("a piece", bodies[1].data()).await.expect("a piece").expect("goes on"), "more");
        assert_eq!(client.get(CONFIG, &site.agent).await.text(), "ok");
    }
}

/// What a token loses ends only what needed it.
#[tokio::test]
async fn a_narrowed_token_keeps_what_it_still_permits() {
    let site = site().await;
    let token = site.token("max", &["configs:read", "configs:write"]).await;
    let pieces = site.api.next_in_pieces();
    pieces.send(DOWNLOAD.into()).await.expect("takes it");
    let mut reading = site.connect().await;
    reading.send(get(CONFIG, &token)).await;
    assert_eq!(reading.head().await.expect("a head").status, 200);
    let (mut writing, _pieces) = site.download(write(&token)).await;

    let committed = Loss::Reassigned.commit(&elsewhere(&site).await, &token).await;
    promptly("a narrowed download is cut", committed, writing.is_reset()).await;
    assert_eq!(reading.bytes(9).await, b"beginning");
    pieces.send(b"more".to_vec()).await.expect("takes it");
    assert_eq!(reading.bytes(4).await, b"more");
    let reply = site.get(CONFIG, &token).await;
    assert_eq!((reply.status(), reply.text()), (200, "ok"));
    assert_eq!(site.api.requests().last().and_then(|request| request.field("X-Tollgate-User")), Some("vera"));
}

/// Disabling is not forever: enabled again, the tokens work again.
#[tokio::test]
async fn a_user_that_is_enabled_again_has_their_tokens_back() {
    let site = site().await;
    let token = site.token("max", &["configs:write"]).await;
    let registry = elsewhere(&site).await;
    for (status, expected) in [(UserStatus::Disabled, 401), (UserStatus::Active, 200), (UserStatus::Disabled, 401)] {
        registry.set_status(&operator(), "max", status).await.expect("sets");
        site.replica_reaches(site.revision().await).await;
        assert_eq!(site.send(write(&token)).await.status(), expected);
    }
}

/// The same for many tokens in one commit: none is missed, and what has none of them is served meanwhile.
#[tokio::test]
async fn a_bulk_revocation_cuts_every_download_of_its_tokens() {
    let site = site().await;
    let mut downloads = Vec::new();
    let mut ids = Vec::new();
    for _ in 0..20 {
        let token = site.token("max", &["configs:write"]).await;
        ids.push(token.id);
        downloads.push(site.download(write(&token)).await);
    }
    elsewhere(&site).await.revoke(&operator(), &ids, false).await.expect("revokes");
    let committed = Instant::now();
    for (client, _) in &mut downloads {
        promptly("a download is cut", committed, client.is_reset()).await;
    }
    site.api.next(Script::reply(ok("still here")));
    assert_eq!(site.get(CONFIG, &site.agent).await.text(), "still here");
}
