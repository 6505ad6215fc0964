//! Making tokens: what is asked for, what is said, and what comes of the same call twice.

use jiff::{SignedDuration, Timestamp};
use tollgate::token::RawToken;

use super::*;

const TOKENS: &str = "/api/v1/tokens";

fn edge() -> Value {
    json!({ "description": "edge", "permissions": agent_permissions() })
}

#[tokio::test]
async fn a_token_is_made_and_its_value_is_in_that_reply_only() {
    let site = Site::start().await;
    let answer = post(&site, &site.owner, "/api/v1/tokens?wait=5s", edge()).await;
    assert_eq!(answer.status, 201);
    let location = answer.field("location").expect("says where").to_owned();
    let made = answer.done();
    assert_eq!((&made["user"], &made["created_by"], &made["left_out"]), (&json!("olga"), &json!("olga"), &json!([])));
    assert_eq!((&made["wait"]["complete"], &made["wait"]["applied"]), (&json!(true), &json!(1)));
    let raw = made["token"].as_str().expect("the value").to_owned();
    assert_eq!(made["controller"]["rawToken"], raw.as_str());
    let id = made["id"].as_str().expect("an id").parse().expect("an id");
    assert_eq!(site.beat(&Token { id, raw: raw.clone() }).await.status(), 200, "it works everywhere");
    let shown = get(&site, &site.owner, &location).await;
    assert!(shown.field("etag").is_some_and(|tag| tag.starts_with('"')));
    let shown = shown.done();
    assert_eq!((&shown["id"], &shown["history"][0]["event"]), (&made["id"], &json!("created")));
    assert!(!shown.to_string().contains(&raw) && shown.get("token").is_none());
}

#[tokio::test]
async fn what_is_missing_or_mistyped_makes_no_token() {
    let site = Site::start().await;
    let refused = async |body: Value| {
        let answer = post(&site, &site.owner, TOKENS, body).await;
        assert_eq!(answer.problem(), (400, "invalid"));
        answer.detail().to_owned()
    };
    let with = |name: &str, value: Value| {
        let mut body = edge();
        body[name] = value;
        body
    };
    assert!(refused(json!({ "description": "edge" })).await.contains("permissions"));
    assert!(refused(with("permissions", json!([]))).await.contains("permissions: name at least one"));
    assert!(refused(with("permissions", json!(null))).await.contains("null"));
    assert!(refused(with("expires", json!("2030-01-01T00:00:00Z"))).await.contains("did you mean `expires_at`?"));
    assert!(refused(with("permissions", json!(["config:read"]))).await.contains("did you mean `configs`?"));
    assert!(refused(with("expires_at", json!("tomorrow"))).await.starts_with("expires_at: "));
    assert!(refused(with("description", json!(" "))).await.contains("description"));
    let value = "tc-apiv1_0123456789abcdef0123456789abcdef";
    let said = refused(with("token", json!(value))).await;
    assert!(said.contains("64 lowercase hexadecimal digits") && !said.contains("0123456789"), "{said}");
    let said = refused(with("description", json!(value))).await;
    assert!(!said.contains("0123456789"), "{said}");
    let past = post(&site, &site.owner, TOKENS, with("expires_at", json!("2001-01-01T00:00:00Z"))).await;
    assert_eq!((past.problem(), past.detail().contains("is in the past")), ((409, "conflict"), true));
    let listed = get(&site, &site.owner, TOKENS).await.done();
    assert_eq!(ids(&listed).len(), 2, "only those that there were");
}

#[tokio::test]
async fn no_token_makes_one_that_can_do_more_or_lives_longer() {
    let site = Site::start().await;
    let end = Timestamp::now() + SignedDuration::from_hours(1);
    let body = json!({ "description": "maker", "permissions": ["tokens:write", "configs:read"], "expires_at": end });
    let made = post(&site, &site.owner, "/api/v1/tokens?wait=5s", body).await.done();
    let id = made["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    let maker = Token { id, raw: made["token"].as_str().expect("the value").to_owned() };
    let make = async |permission: &str, expires_at: Value| {
        let body = json!({ "description": "a", "permissions": [permission], "expires_at": expires_at });
        post(&site, &maker, TOKENS, body).await
    };
    assert_eq!(make("configs:read", json!(end)).await.status, 201);
    let more = make("heartbeat:write", json!(end)).await;
    let expected = ((403, "forbidden"), "Insufficient permissions: heartbeat:write required");
    assert_eq!((more.problem(), more.detail()), expected);
    assert_eq!(make("configs:read", json!(null)).await.problem(), (403, "forbidden"), "for ever");
    let later = end + SignedDuration::from_hours(1);
    assert_eq!(make("configs:read", json!(later)).await.problem(), (403, "forbidden"));
}

#[tokio::test]
async fn a_value_of_ones_own_is_taken_once_and_not_repeated() {
    let site = Site::start().await;
    let raw = RawToken::generate().expect("entropy");
    let mut body = edge();
    body["token"] = json!(raw.reveal());
    let made = post(&site, &site.owner, "/api/v1/tokens?wait=5s", body.clone()).await.done();
    assert!(!made.to_string().contains(raw.reveal()), "whoever brought it has it");
    let id = made["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    assert_eq!(site.beat(&Token { id, raw: raw.reveal().to_owned() }).await.status(), 200);
    let again = post(&site, &site.owner, TOKENS, body.clone()).await;
    assert_eq!(again.problem(), (409, "token_value_conflict"));
    let deleted = call(&site, &site.owner, "DELETE", &format!("{TOKENS}/{id}"), None).await;
    assert_eq!(deleted.done()["id"], made["id"]);
    assert_eq!(post(&site, &site.owner, TOKENS, body).await.problem(), (409, "token_value_conflict"), "for good");
}

#[tokio::test]
async fn the_same_call_twice_makes_one_token() {
    let site = Site::start().await;
    let admin = site.sidecar.admin();
    let create = |key: &str, body: &Value| {
        Call::new("POST", TOKENS).by(&site.owner.raw).with("Idempotency-Key", key).json(body).send(admin)
    };
    let first = create("a", &edge()).await;
    assert_eq!(first.status, 201);
    let first = first.done();
    let again = create("a", &edge()).await;
    assert_eq!(again.status, 200);
    let again = again.done();
    assert_eq!((&again["id"], again.get("token")), (&first["id"], None), "without the value");
    let mut other = edge();
    other["description"] = json!("another");
    assert_eq!(create("a", &other).await.problem(), (409, "key-reused"));
    assert_ne!(create("b", &edge()).await.done()["id"], first["id"]);
    let nothing = json!({ "description": " ", "permissions": ["configs:read"] });
    assert_eq!(create("c", &nothing).await.problem(), (400, "invalid"));
    assert_eq!(create("c", &edge()).await.status, 201, "a call that failed was none");
    assert_eq!(create("", &edge()).await.problem(), (400, "invalid"));
    // At once: one of them makes it.
    let (one, two) = tokio::join!(create("d", &edge()), create("d", &edge()));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert!(matches!(statuses, [200, 201] | [201, 409]), "{statuses:?}");
    let listed = get(&site, &site.owner, "/api/v1/tokens?text=edge").await.done();
    assert_eq!(ids(&listed).len(), 5, "the agent's, a, b, c and d");
}

#[tokio::test]
async fn a_value_that_is_there_already_is_what_was_wanted_if_that_was_said() {
    let site = Site::start().await;
    let max = person(&site, "max", Role::Manager).await;
    let raw = RawToken::generate().expect("entropy");
    let mut body = edge();
    body["token"] = json!(raw.reveal());
    let path = format!("{TOKENS}?if_not_exists=true");
    let made = post(&site, &site.owner, &path, body.clone()).await;
    assert_eq!(made.status, 201);
    let again = post(&site, &site.owner, &path, body.clone()).await;
    assert_eq!((again.status, &again.body["id"]), (200, &made.body["id"]));
    assert!(!again.body.to_string().contains(raw.reveal()), "{again:?}");
    assert_eq!(post(&site, &max, &path, body.clone()).await.problem(), (409, "token_value_conflict"), "another user's");
    let id = made.body["id"].as_str().expect("an id");
    assert_eq!(call(&site, &site.owner, "POST", &format!("{TOKENS}/{id}/revoke"), None).await.status, 200);
    assert_eq!(post(&site, &site.owner, &path, body).await.problem(), (409, "token_value_conflict"), "it was revoked");
}

/// What a date means depends on where one is, so programs give moments.
#[tokio::test]
async fn an_expiry_is_a_moment() {
    let site = Site::start().await;
    let create = async |expires_at: &str| {
        let mut body = edge();
        body["expires_at"] = json!(expires_at);
        post(&site, &site.owner, TOKENS, body).await
    };
    for vague in ["2999-01-31", "2999-01-31T00:00:00", "2999-02-30T00:00:00Z", "30d", ""] {
        assert_eq!(create(vague).await.problem(), (400, "invalid"), "{vague}");
    }
    let made = create("2999-01-31T23:59:59.7+02:00").await.done();
    assert_eq!(made["expires_at"], "2999-01-31T21:59:59Z", "in whole seconds, and none later");
    // As programs write "never".
    let made = create("9999-12-31T23:59:59Z").await.done();
    assert_eq!(made["expires_at"], "9999-12-30T22:00:00Z", "the last moment that there is");
    assert_eq!(create("tomorrow").await.detail(), "expires_at: write a time such as 2030-01-31T00:00:00Z");
}
