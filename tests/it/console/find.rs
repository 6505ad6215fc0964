//! Whose token it is.

use super::*;

const FIND: &str = "/api/v1/tokens/find";

#[tokio::test]
async fn a_token_is_found_by_its_value_and_by_its_digest() {
    let site = Site::start().await;
    let by_value = post(&site, &site.owner, FIND, json!({ "token": site.agent.raw })).await.done();
    assert_eq!(ids(&by_value), [site.agent.id.to_string()]);
    assert!(!by_value.to_string().contains(&site.agent.raw), "{by_value}");
    let digits = by_value[0]["digest_prefix"].as_str().expect("digits").to_uppercase();
    assert_eq!(post(&site, &site.owner, FIND, json!({ "digest": digits })).await.done(), by_value);
    assert_eq!(post(&site, &site.owner, FIND, json!({ "digest": &digits[..6] })).await.done(), by_value);
    let max = person(&site, "max", Role::Manager).await;
    for body in [json!({ "token": site.agent.raw }), json!({ "digest": digits })] {
        assert_eq!(post(&site, &max, FIND, body).await.problem(), (404, "not-found"), "another one's");
    }
    assert_eq!(ids(&post(&site, &max, FIND, json!({ "token": max.raw })).await.done()), [max.id.to_string()]);
    assert_eq!(
        call(&site, &site.owner, "DELETE", &format!("/api/v1/tokens/{}", site.agent.id), None).await.status,
        200
    );
    let deleted = post(&site, &site.owner, FIND, json!({ "token": site.agent.raw })).await;
    assert_eq!((deleted.problem(), deleted.detail().contains("was deleted")), ((404, "not-found"), true));
}

#[tokio::test]
async fn what_is_no_token_is_not_repeated() {
    let site = Site::start().await;
    let secret = "0123456789abcdef";
    for body in [
        json!({ "token": format!("apiv1_{secret}") }),
        json!({ "token": format!("tc-apiv1_{secret} ") }),
        json!({ "digest": format!("tc-apiv1_{secret}") }),
        json!({ "digest": "abcde" }),
        json!({ "digest": null }),
        json!({ "digest": "abcdef", "token": format!("tc-apiv1_{secret}") }),
        json!({ "tokens": format!("tc-apiv1_{secret}") }),
        json!({}),
    ] {
        let answer = post(&site, &site.owner, FIND, body.clone()).await;
        assert_eq!(answer.problem(), (400, "invalid"), "{body}");
        assert!(!answer.body.to_string().contains(secret), "{answer:?}");
    }
    let unknown = post(&site, &site.owner, FIND, json!({ "token": format!("tc-apiv1_{secret}") })).await;
    assert_eq!(unknown.problem(), (404, "not-found"));
    assert!(!unknown.body.to_string().contains(secret), "{unknown:?}");
}
