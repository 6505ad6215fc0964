//! Who may do what: the calling token's permissions first, then its owner's role.

use super::*;
use crate::harness::{eventually, operator};

/// Each role with the calls that it may make, and what the others are told.
#[tokio::test]
async fn each_role_may_do_what_it_may() {
    let site = Site::start().await;
    let adam = person(&site, "adam", Role::Administrator).await;
    let max = person(&site, "max", Role::Manager).await;
    site.user("vera", Role::Viewer).await;
    let vera = site.token("max", &["configs:read"]).await;
    site.registry.reassign(&operator(), &[vera.id], "vera", false).await.expect("reassigns");
    site.replica_is_current().await;
    let status = async |token: &Token, path: &str| get(&site, token, path).await.status;
    let of = async |path: &str| {
        [
            status(&site.owner, path).await,
            status(&adam, path).await,
            status(&max, path).await,
            status(&vera, path).await,
        ]
    };
    assert_eq!(of("/api/v1/self").await, [200, 200, 200, 200]);
    assert_eq!(of("/api/v1/tokens").await, [200, 200, 200, 403]);
    assert_eq!(of("/api/v1/users").await, [200, 200, 403, 403]);
    assert_eq!(of("/api/v1/users/max").await, [200, 200, 403, 403]);
    assert_eq!(of("/api/v1/status").await, [200, 200, 403, 403]);
    // What a Manager may not see is not there.
    let others = format!("/api/v1/tokens/{}", site.owner.id);
    assert_eq!(of(&others).await, [200, 200, 404, 403]);
    assert_eq!(of(&format!("/api/v1/tokens/{}", max.id)).await, [200, 200, 200, 403]);
    assert_eq!(of("/api/v1/tokens/0000000000000").await, [404, 404, 404, 403]);
    assert_eq!(of("/api/v1/tokens/nonsense").await, [404, 404, 404, 403]);
}

#[tokio::test]
async fn a_manager_sees_and_changes_the_own_tokens_only() {
    let site = Site::start().await;
    let max = person(&site, "max", Role::Manager).await;
    let own = site.token("max", &["configs:read"]).await;
    let listed = get(&site, &max, "/api/v1/tokens").await.done();
    assert_eq!(ids(&listed), [own.id.to_string(), max.id.to_string()]);
    let revoke = async |id: &str| call(&site, &max, "POST", &format!("/api/v1/tokens/{id}/revoke"), None).await;
    let hidden = revoke(&site.agent.id.to_string()).await;
    let missing = revoke("0000000000000").await;
    assert_eq!((hidden.problem(), missing.problem()), ((404, "not-found"), (404, "not-found")));
    let without_id = |answer: &Answer, id: &str| answer.detail().replace(id, "");
    assert_eq!(
        without_id(&hidden, &site.agent.id.to_string()),
        without_id(&missing, "0000000000000"),
        "nobody learns of it"
    );
    assert_eq!(revoke(&own.id.to_string()).await.done()["state"], "revoked");
    let given = post(&site, &max, &format!("/api/v1/tokens/{}/reassign", max.id), json!({ "to": "olga" })).await;
    assert_eq!(given.problem(), (403, "forbidden"));
    let for_other = json!({ "user": "olga", "description": "a", "permissions": ["configs:read"] });
    assert_eq!(post(&site, &max, "/api/v1/tokens", for_other).await.problem(), (403, "forbidden"));
    assert_eq!(site.beat(&site.agent).await.status(), 200, "it is as it was");
}

/// An agent's token of the Owner can do nothing here.
#[tokio::test]
async fn the_calling_token_counts_before_its_owner() {
    let site = Site::start().await;
    let olga = "/api/v1/tokens";
    let answer = get(&site, &site.agent, olga).await;
    assert_eq!(
        (answer.problem(), answer.detail()),
        ((403, "forbidden"), "Insufficient permissions: tokens:read required")
    );
    let own = get(&site, &site.agent, "/api/v1/self").await.done();
    assert_eq!(
        (&own["user"], &own["role"], &own["permissions"]),
        (&json!("olga"), &json!("owner"), &agent_permissions())
    );
    let reader = site.token("olga", &["tokens:read"]).await;
    assert_eq!(get(&site, &reader, olga).await.status, 200);
    let new = json!({ "description": "a", "permissions": ["tokens:read"] });
    assert_eq!(post(&site, &reader, olga, new).await.detail(), "Insufficient permissions: tokens:write required");
    let writer = site.token("olga", &["tokens:write"]).await;
    let path = format!("/api/v1/tokens/{}", site.agent.id);
    assert_eq!(call(&site, &writer, "DELETE", &path, None).await.problem(), (403, "forbidden"));
}

#[tokio::test]
async fn who_shows_no_good_token_is_told_so() {
    let site = Site::start().await;
    let admin = site.sidecar.admin();
    let list = || Call::new("GET", "/api/v1/tokens");
    let nobody = list().send(admin).await;
    assert_eq!(
        (nobody.problem(), nobody.detail()),
        ((401, "unauthenticated"), "Missing or invalid Authorization header")
    );
    assert_eq!(nobody.field("www-authenticate"), Some("Bearer realm=\"tollgate\""));
    let unknown = list().by("tc-apiv1_0123456789").send(admin).await;
    assert_eq!((unknown.problem(), unknown.detail()), ((401, "unauthenticated"), "Invalid token"));
    // No cookie, no query, not twice.
    let raw = &site.owner.raw;
    assert_eq!(list().with("Cookie", &format!("token={raw}")).send(admin).await.status, 401);
    assert_eq!(Call::new("GET", &format!("/api/v1/tokens?access_token={raw}")).send(admin).await.status, 401);
    assert_eq!(list().by(raw).by(raw).send(admin).await.status, 401);
    // A token that is revoked, from that moment on.
    let max = person(&site, "max", Role::Manager).await;
    assert_eq!(get(&site, &max, "/api/v1/tokens").await.status, 200);
    site.replica_reaches(site.revoke(&max).await).await;
    assert_eq!(get(&site, &max, "/api/v1/tokens").await.problem(), (401, "unauthenticated"));
}

/// By address, as proxies that are believed name it; never in the way of a good token, nor of who is on this host.
#[tokio::test]
async fn guessing_is_bounded() {
    let site = Site::builder().setting("TRUSTED_PROXIES", "127.0.0.1").setting("LIMITS__FAILED_AUTH__BURST", "5");
    // So few a second that a busy machine gives none back.
    let site = site.setting("LIMITS__FAILED_AUTH__RATE", "1").start().await;
    let guess = async |from: &str| {
        let guess = Call::new("GET", "/api/v1/tokens").by("tc-apiv1_guess0000").with("X-Forwarded-For", from);
        guess.send(site.sidecar.admin()).await
    };
    let mut last = guess("203.0.113.7").await;
    for _ in 0..40 {
        last = guess("198.51.100.1, 203.0.113.7").await;
    }
    assert_eq!(last.problem(), (429, "too-many"));
    assert!(last.field("retry-after").is_some());
    assert_eq!(guess("203.0.113.7, 203.0.113.8").await.status, 401, "another client, whatever it says of others");
    let good = Call::new("GET", "/api/v1/self").by(&site.owner.raw).with("X-Forwarded-For", "203.0.113.7");
    assert_eq!(good.send(site.sidecar.admin()).await.status, 200);
    for _ in 0..40 {
        assert_eq!(guess("127.0.0.1").await.status, 401);
    }
}

#[tokio::test]
async fn a_replica_that_is_stale_knows_nobody() {
    let site =
        Site::builder().setting("FRESHNESS__PROBE_INTERVAL", "100ms").setting("FRESHNESS__MAX_STALENESS", "400ms");
    let site = site.start().await;
    assert_eq!(get(&site, &site.owner, "/api/v1/self").await.status, 200);
    site.store.set_broken(true);
    eventually("it is stale", async || get(&site, &site.owner, "/api/v1/self").await.status != 200).await;
    let answer = get(&site, &site.owner, "/api/v1/self").await;
    assert_eq!((answer.problem(), answer.detail()), ((503, "unavailable"), "Token registry unavailable"));
    assert!(answer.field("retry-after").is_some());
}
