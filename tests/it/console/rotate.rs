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
