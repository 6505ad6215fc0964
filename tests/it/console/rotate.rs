//! Rotation by a call.

use super::*;

fn path(token: &Token) -> String {
    format!("/api/v1/tokens/{}/rotate", token.id)
}

#[tokio::test]
async fn a_successor_is_handed_out_once_and_both_work_for_the_overlap() {
    let site = Site::start().await;
    let answer = post(&site, &site.owner, &path(&site.agent), json!({ "overlap_seconds": 3600 })).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let id = answer.body["id"].as_str().expect("an id").to_owned();
    assert_eq!(answer.field("location"), Some(format!("/api/v1/tokens/{id}").as_str()));
    let raw = answer.body["token"].as_str().expect("the value").to_owned();
    let old = get(&site, &site.owner, &format!("/api/v1/tokens/{}", site.agent.id)).await.done();
    let new = get(&site, &site.owner, &format!("/api/v1/tokens/{id}")).await.done();
    assert_eq!((&old["successor"], &new["predecessor"]), (&json!(id), &json!(site.agent.id.to_string())));
    assert!(old["expires_at"].is_string() && new.get("token").is_none(), "{new}");
    site.replica_is_current().await;
    assert_eq!(get(&site, &site.agent, "/api/v1/self").await.status, 200);
    assert_eq!(Call::new("GET", "/api/v1/self").by(&raw).send(site.sidecar.admin()).await.status, 200);
    let again = post(&site, &site.owner, &path(&site.agent), json!({ "overlap_seconds": 0 })).await;
    assert_eq!(again.problem(), (409, "conflict"));
    assert!(!again.body.to_string().contains("tc-apiv1_"), "{again:?}");
}

#[tokio::test]
async fn who_could_not_make_that_token_cannot_rotate_it() {
    let site = Site::start().await;
    let writer = site.token("olga", &["tokens:write"]).await;
    let refused = post(&site, &writer, &path(&site.agent), json!({ "overlap_seconds": 0 })).await;
    assert_eq!(refused.problem(), (403, "forbidden"));
    let max = person(&site, "max", Role::Manager).await;
    let hidden = post(&site, &max, &path(&site.agent), json!({ "overlap_seconds": 0 })).await;
    assert_eq!(hidden.problem(), (404, "not-found"));
    let unsaid = post(&site, &site.owner, &path(&site.agent), json!({ "overlap": 5 })).await;
    assert_eq!(unsaid.problem(), (400, "invalid"));
    assert!(unsaid.detail().contains("overlap_seconds"), "{unsaid:?}");
    assert_eq!(get(&site, &site.agent, "/api/v1/self").await.done()["expires_at"], Value::Null);
}

#[tokio::test]
async fn an_overlap_lengthens_no_life() {
    let site = Site::start().await;
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let body = json!({ "description": "short", "permissions": ["configs:read"], "expires_at": end });
    let made = post(&site, &site.owner, "/api/v1/tokens", body).await.done();
    let id = made["id"].as_str().expect("an id");
    let rotate = format!("/api/v1/tokens/{id}/rotate");
    assert_eq!(post(&site, &site.owner, &rotate, json!({ "overlap_seconds": 864_000 })).await.status, 201);
    let old = get(&site, &site.owner, &format!("/api/v1/tokens/{id}")).await.done();
    assert_eq!(old["expires_at"], made["expires_at"]);
}

#[tokio::test]
async fn what_has_ended_is_not_rotated() {
    let site = Site::start().await;
    let (revoked, expired) = (site.token("olga", &["configs:read"]).await, site.token("olga", &["configs:read"]).await);
    site.revoke(&revoked).await;
    site.expire(&expired).await;
    for (token, said) in [(revoked, "is revoked"), (expired, "has expired")] {
        let refused = post(&site, &site.owner, &path(&token), json!({ "overlap_seconds": 60 })).await;
        assert_eq!((refused.problem(), refused.detail().contains(said)), ((409, "conflict"), true), "{refused:?}");
        assert!(!refused.body.to_string().contains("tc-apiv1_"), "{refused:?}");
    }
}

#[tokio::test]
async fn of_two_rotations_at_once_one_gets_a_value() {
    let site = Site::start().await;
    let path = path(&site.agent);
    let rotate = || post(&site, &site.owner, &path, json!({ "overlap_seconds": 60 }));
    let (one, two) = tokio::join!(rotate(), rotate());
    let (won, lost) = if one.status == 201 { (one, two) } else { (two, one) };
    assert_eq!((won.status, lost.problem()), (201, (409, "conflict")));
    assert!(won.body["token"].is_string() && !lost.body.to_string().contains("tc-apiv1_"), "{lost:?}");
    let listed = get(&site, &site.owner, "/api/v1/tokens?permission=heartbeat:write").await.done();
    assert_eq!(ids(&listed).len(), 3, "the Owner's, the agent's and one successor");
}
