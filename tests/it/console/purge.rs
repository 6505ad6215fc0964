//! Deleting what has been of no use for long.

use jiff::{SignedDuration, Timestamp};

use super::*;

const PURGE: &str = "/api/v1/tokens/purge";

#[tokio::test]
async fn as_many_are_deleted_as_were_counted() {
    let site = Site::start().await;
    let tokens = [site.token("olga", &["configs:read"]).await, site.token("olga", &["configs:read"]).await];
    for token in &tokens {
        site.revoke(token).await;
    }
    site.expire(&site.token("olga", &["configs:read"]).await).await;
    let now = Timestamp::now();
    let purge = async |body: Value| post(&site, &site.owner, PURGE, body).await;
    let found = purge(json!({ "revoked_by": now, "expired_by": now })).await.done();
    assert_eq!(found, json!({ "count": 3, "expired": 1, "revoked": 2, "dry_run": true }));
    assert_eq!(ids(&get(&site, &site.owner, "/api/v1/tokens").await.done()).len(), 5, "nothing was done");
    assert_eq!(purge(json!({ "revoked_by": now, "count": 3 })).await.problem(), (409, "conflict"), "another number");
    let long_ago = now - SignedDuration::from_hours(1);
    assert_eq!(purge(json!({ "revoked_by": long_ago })).await.done()["count"], 0);
    let done = purge(json!({ "revoked_by": now, "count": 2 })).await.done();
    assert_eq!((&done["count"], &done["dry_run"]), (&json!(2), &json!(false)));
    let left = ids(&get(&site, &site.owner, "/api/v1/tokens").await.done());
    assert!(left.len() == 3 && tokens.iter().all(|token| !left.contains(&token.id.to_string())), "{left:?}");
}

#[tokio::test]
async fn a_purge_that_says_nothing_or_means_what_works_is_refused() {
    let site = Site::start().await;
    let soon = Timestamp::now() + SignedDuration::from_hours(1);
    for body in
        [json!({}), json!({ "count": 0 }), json!({ "expired_by": null }), json!({ "expired": soon, "count": 0 })]
    {
        assert_eq!(post(&site, &site.owner, PURGE, body.clone()).await.problem(), (400, "invalid"), "{body}");
    }
    let future = post(&site, &site.owner, PURGE, json!({ "expired_by": soon, "count": 0 })).await;
    assert_eq!((future.problem(), future.detail().contains("of the past")), ((409, "conflict"), true));
    let writer = site.token("olga", &["tokens:write", "tokens:read"]).await;
    assert_eq!(
        post(&site, &writer, PURGE, json!({ "revoked_by": "2020-01-01T00:00:00Z" })).await.problem(),
        (403, "forbidden")
    );
}
