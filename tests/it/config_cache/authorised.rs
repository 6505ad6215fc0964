//! A stored answer is given by the permissions of that moment.

use tollgate::upstream::CredentialMode;

use super::{PATH, assert_stored, cached, fetched, is_away, with};
use crate::harness::{Http2Client, Script, http2_cut, http2_with, ok, request};

#[tokio::test]
async fn a_revoked_token_gets_no_stored_answer() {
    let site = cached().start().await;
    fetched(&site, PATH, "interval = 1").await;
    is_away(&site);
    assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
    let revision = site.revoke(&site.agent).await;
    site.replica_reaches(revision).await;
    let reply = site.get(PATH, &site.agent).await;
    assert_eq!((reply.status(), reply.error().as_str()), (401, "Invalid token"));
    let reply = site.send(with(&site.agent, "HEAD", PATH, "")).await;
    assert_eq!((reply.status(), reply.field("Last-Modified")), (401, None));
    assert_eq!(site.send(request("GET", PATH, "")).await.status(), 401);
}

#[tokio::test]
async fn a_token_without_the_permission_gets_no_stored_answer() {
    let site = cached().config(|config| config.upstreams.api.credential = CredentialMode::Strip);
    let site = site.start().await;
    fetched(&site, PATH, "interval = 1").await;
    is_away(&site);
    let other = site.token("olga", &["heartbeat:write"]).await;
    let reply = site.get(PATH, &other).await;
    assert_eq!((reply.status(), reply.error().as_str()), (403, "Insufficient permissions: configs:read required"));
}

/// Whose token the Controller sees may get another answer than somebody else.
#[tokio::test]
async fn what_one_token_fetched_is_no_others_where_the_controller_sees_them() {
    for (mode, is_shared) in [("forward", false), ("strip", true), ("replace", true)] {
        let site = cached().config_in(move |config, directory| {
            let token_file = directory.join("service-token");
            std::fs::write(&token_file, "tc-apiv1_service-token").expect("writes");
            config.upstreams.api.credential = match mode {
                "forward" => CredentialMode::Forward,
                "strip" => CredentialMode::Strip,
                _ => CredentialMode::Replace { token_file },
            };
        });
        let site = site.start().await;
        fetched(&site, PATH, "interval = 1").await;
        is_away(&site);
        let other = site.token("olga", &["configs:read"]).await;
        let reply = site.get(PATH, &other).await;
        match is_shared {
            true => assert_stored(&reply, "interval = 1"),
            false => assert_eq!(reply.status(), 503),
        }
        assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
        assert_eq!(site.metric("tollgate_config_cache_entries").await, "1", "{mode}");
    }
}

#[tokio::test]
async fn the_download_of_a_stored_answer_is_cut_by_a_revocation() {
    let site = cached().start().await;
    site.api.next(Script::reply(ok(&"x".repeat(1_000_000))));
    assert_eq!(site.get(PATH, &site.agent).await.status(), 200);
    is_away(&site);
    let client = Http2Client::connect(site.address()).await;
    let (head, mut body) = client.send(http2_with(&site.agent, "GET", PATH)).await.head().await;
    assert_eq!(head.status, 200);
    assert!(head.field("age").is_some(), "{head:?}");
    let piece = body.data().await.expect("a piece").expect("comes");
    site.revoke(&site.agent).await;
    let (rest, error) = http2_cut(&mut body).await;
    assert!(error.is_reset() || error.is_go_away() || error.is_io(), "{error:?}");
    assert!(piece.len() + rest.len() < 1_000_000);
}
