//! Lists, searches, and what is done to many tokens at once: to the very set that was seen.

use tollgate::registry::ImportOptions;
use tollgate::registry::import::parse_line;
use tollgate::token::Digest;

use super::*;
use crate::harness::operator;

const TOKENS: &str = "/api/v1/tokens";

#[tokio::test]
async fn lists_go_on_where_the_link_leads() {
    let site = Site::start().await;
    for _ in 0..4 {
        site.token("olga", &["configs:read"]).await;
    }
    let all = ids(&get(&site, &site.owner, TOKENS).await.done());
    assert_eq!(all.len(), 6);
    let (mut path, mut seen) = (format!("{TOKENS}?user=olga&limit=4"), Vec::new());
    loop {
        let answer = get(&site, &site.owner, &path).await;
        let link = answer.field("link").map(str::to_owned);
        seen.extend(ids(&answer.done()));
        let Some(link) = link else { break };
        let (target, relation) = link.split_once(">; ").expect("a link");
        assert_eq!(relation, "rel=\"next\"");
        path = target.strip_prefix('<').expect("a link").to_owned();
        assert!(path.contains("user=olga") && path.contains("limit=4"), "{path}");
    }
    assert_eq!(seen, all);
    // However `after` is written, it is in the link once.
    let coded = get(&site, &site.owner, &format!("{TOKENS}?%61fter={}&limit=2", all[0])).await;
    let link = coded.field("link").expect("goes on").to_owned();
    assert_eq!(link, format!("<{TOKENS}?limit=2&after={}>; rel=\"next\"", all[2]));
    assert_eq!(get(&site, &site.owner, "/api/v1/tokens?limit=6").await.field("link"), None, "there is no more");
    let users = get(&site, &site.owner, "/api/v1/users?limit=1").await.done();
    assert_eq!(users[0]["name"], "olga");
}

#[tokio::test]
async fn tokens_are_found_by_what_they_are() {
    let site = Site::start().await;
    site.user("max", Role::Manager).await;
    let body = json!({
        "user": "max", "description": "Plant 7", "permissions": ["labels:read"], "expires_at": "2999-01-01T00:00:00Z",
    });
    let plant = post(&site, &site.owner, TOKENS, body).await.done();
    let find = async |query: &str| ids(&get(&site, &site.owner, &format!("{TOKENS}?{query}")).await.done());
    let plant = [plant["id"].as_str().expect("an id").to_owned()];
    for query in [
        "user=max",
        "text=plant",
        "text=PLANT%207",
        "text=Plant+7",
        "expires_before=2999-01-01T00:00:01Z",
        "permission=labels:read&user=max",
        "state=active&text=max",
    ] {
        assert_eq!(find(query).await, plant, "{query}");
    }
    assert_eq!(find("state=revoked").await, [""; 0]);
    assert_eq!(find("permission=heartbeat:write").await.len(), 2, "the Owner's and the agent's");
    // Since a moment to come nothing was used: that would be every token, also those that agents use.
    for path in [TOKENS, "/api/v1/tokens/selection", "/api/v1/tokens/dependents"] {
        for query in ["unused_since=2999-01-01T00:00:00Z", "unused_since=2999-01-01T00:00:00Z&never_used=true"] {
            let later = get(&site, &site.owner, &format!("{path}?{query}")).await;
            assert_eq!((later.problem(), later.detail()), ((409, "conflict"), "unused_since is a moment of the past"));
        }
    }
}

#[tokio::test]
async fn what_is_confirmed_is_the_set_that_was_seen() {
    let site = Site::start().await;
    site.user("max", Role::Manager).await;
    for _ in 0..3 {
        site.token("max", &["configs:read"]).await;
    }
    let seen = get(&site, &site.owner, "/api/v1/tokens/selection?user=max").await.done();
    assert_eq!(seen["count"], 3);
    let revoke = async |count: u64, fingerprint: &Value| {
        let body = json!({ "filter": { "user": "max" }, "count": count, "fingerprint": fingerprint });
        post(&site, &site.owner, "/api/v1/tokens/revoke?wait=5s", body).await
    };
    assert_eq!(revoke(4, &seen["fingerprint"]).await.problem(), (409, "conflict"), "another number");
    // Another set of the same size.
    let ids_of_max = ids(&get(&site, &site.owner, "/api/v1/tokens?user=max").await.done());
    let path = format!("{TOKENS}/{}", ids_of_max[0]);
    assert_eq!(call(&site, &site.owner, "DELETE", &path, None).await.status, 200);
    let last = site.token("max", &["configs:read"]).await;
    let other = revoke(3, &seen["fingerprint"]).await;
    assert_eq!(other.problem(), (409, "conflict"));
    assert!(other.detail().contains("other tokens than those you have seen"), "{}", other.detail());
    assert_eq!(site.get("/api/configs/1/toml", &last).await.status(), 200, "nothing was done");
    let seen = get(&site, &site.owner, "/api/v1/tokens/selection?user=max").await.done();
    let done = revoke(3, &seen["fingerprint"]).await.done();
    assert_eq!((&done["count"], &done["wait"]["complete"]), (&json!(3), &json!(true)));
    assert_eq!(site.get("/api/configs/1/toml", &last).await.status(), 401, "with the receipt it is refused");
}

#[tokio::test]
async fn a_selection_that_says_nothing_is_refused() {
    let site = Site::start().await;
    let token = site.token("olga", &["configs:read"]).await;
    let delete = async |body: Value| post(&site, &site.owner, "/api/v1/tokens/delete", body).await;
    let fingerprint = "0".repeat(32);
    for (body, said) in [
        (json!({ "ids": [], "count": 0 }), "ids: name at least one"),
        (json!({ "filter": {}, "count": 3, "fingerprint": fingerprint }), "an empty one means every token"),
        (json!({ "filter": { "users": "olga" }, "count": 3, "fingerprint": fingerprint }), "did you mean `user`?"),
        (json!({ "filter": { "user": "olga" }, "count": 3 }), "fingerprint: needed with a filter"),
        (json!({ "count": 1 }), "either ids or a filter"),
        (json!({ "ids": [token.id], "filter": { "user": "olga" }, "count": 1 }), "either ids or a filter"),
        (json!({ "ids": [token.id] }), "count"),
        (json!({ "ids": [token.id, token.id], "count": 2 }), "named more than once"),
        (json!({ "ids": ["x"], "count": 1 }), "an id is 13 characters"),
        (json!({ "id": [token.id], "count": 1 }), "did you mean `ids`?"),
    ] {
        let answer = delete(body.clone()).await;
        assert_eq!(answer.problem(), (400, "invalid"), "{body}");
        assert!(answer.detail().contains(said), "{body}: {}", answer.detail());
    }
    assert_eq!(delete(json!({ "ids": [token.id], "count": 2 })).await.problem(), (409, "conflict"));
    let unknown = get(&site, &site.owner, "/api/v1/tokens/selection?users=olga").await;
    assert_eq!((unknown.problem(), unknown.detail().contains("`user`")), ((400, "invalid"), true));
    assert_eq!(site.get("/api/configs/1/toml", &token).await.status(), 200, "nothing was done");
}

#[tokio::test]
async fn several_are_reassigned_and_nobody_shuts_themselves_out() {
    let site = Site::start().await;
    site.user("max", Role::Manager).await;
    let tokens =
        [site.token("olga", &["configs:read"]).await, site.token("olga", &["users:read", "configs:read"]).await];
    let body = json!({ "to": "max", "ids": tokens.each_ref().map(|token| token.id), "count": 2 });
    assert_eq!(post(&site, &site.owner, "/api/v1/tokens/reassign", body).await.done()["count"], 2);
    let given = get(&site, &site.owner, &format!("{TOKENS}/{}", tokens[1].id)).await.done();
    assert_eq!((&given["user"], &given["permissions"]), (&json!("max"), &json!(["configs:read"])));
    let body = json!({ "ids": [site.owner.id, tokens[0].id], "count": 2, "force": true });
    let answer = post(&site, &site.owner, "/api/v1/tokens/revoke", body).await;
    assert_eq!(answer.problem(), (409, "conflict"));
    assert!(answer.detail().contains("the one that you are using"), "{}", answer.detail());
    let last = call(&site, &site.owner, "POST", &format!("{TOKENS}/{}/revoke", site.owner.id), None).await;
    assert_eq!(last.status, 200, "the agent's token is the Owner's too");
}

/// More than one commit: to whom it was not done is said.
#[tokio::test]
async fn a_bulk_that_breaks_off_says_what_is_left() {
    let site = Site::start().await;
    site.user("max", Role::Manager).await;
    let line = |number: usize| {
        let digest = Digest::of(format!("tc-apiv1_{number}").as_bytes());
        let line = json!({ "digest": digest, "user": "max", "description": "many", "permissions": ["configs:read"] });
        (number, parse_line(&line.to_string(), None).expect("a line"))
    };
    let all_or_none = ImportOptions { keep_going: false, skip_existing: false };
    site.registry.import(&operator(), (1..=700).map(line).collect(), all_or_none).await.expect("imports");
    site.replica_is_current().await;
    let seen = get(&site, &site.owner, "/api/v1/tokens/selection?user=max").await.done();
    assert_eq!(seen["count"], 700);
    site.store.fail_after(1);
    let body = json!({ "filter": { "user": "max" }, "count": 700, "fingerprint": seen["fingerprint"] });
    let answer = post(&site, &site.owner, "/api/v1/tokens/delete", body).await;
    assert_eq!(answer.problem(), (503, "unavailable"));
    assert_eq!(answer.body["done"], 500);
    assert_eq!(answer.body["remaining"].as_array().map(Vec::len), Some(200));
    let left = ids(&get(&site, &site.owner, "/api/v1/tokens?user=max&limit=1000").await.done());
    assert_eq!(json!(left), answer.body["remaining"]);
}

#[tokio::test]
async fn a_dry_run_says_what_depends_on_tokens_and_does_nothing() {
    let site = Site::start().await;
    assert_eq!(site.beat(&site.agent).await.status(), 200);
    let path = "/api/v1/tokens/dependents?user=olga&permission=heartbeat:write";
    soon("the use is known", async || get(&site, &site.owner, path).await.done()["agents_24h"] == 1).await;
    for verb in ["revoke", "delete", "reassign"] {
        let mut body = json!({ "ids": [site.agent.id], "count": 1, "dry_run": true });
        if verb == "reassign" {
            body["to"] = json!("olga");
        }
        let tried = post(&site, &site.owner, &format!("{TOKENS}/{verb}"), body).await.done();
        assert_eq!((&tried["count"], &tried["dependents"]["agents_24h"]), (&json!(1), &json!(1)), "{verb}: {tried}");
        assert!(tried["dependents"]["agents"][0]["address"].is_string(), "{tried}");
    }
    assert_eq!(site.beat(&site.agent).await.status(), 200, "nothing was done");
    let other = json!({ "ids": [site.agent.id], "count": 2, "dry_run": true });
    assert_eq!(post(&site, &site.owner, &format!("{TOKENS}/revoke"), other).await.problem(), (409, "conflict"));
}

#[tokio::test]
async fn those_that_are_gone_are_left_out_if_that_was_asked_for() {
    let site = Site::start().await;
    let (gone, there) = (site.token("olga", &["configs:read"]).await, site.token("olga", &["configs:read"]).await);
    assert_eq!(call(&site, &site.owner, "DELETE", &format!("{TOKENS}/{}", gone.id), None).await.status, 200);
    let revoke = async |ids: &[&Token], if_exists: bool| {
        let ids: Vec<_> = ids.iter().map(|token| token.id).collect();
        let body = json!({ "ids": ids, "count": ids.len(), "if_exists": if_exists });
        post(&site, &site.owner, &format!("{TOKENS}/revoke"), body).await
    };
    assert_eq!(revoke(&[&gone, &there], false).await.problem(), (404, "not-found"));
    let done = revoke(&[&gone, &there], true).await.done();
    assert_eq!((&done["count"], &done["ids"]), (&json!(1), &json!([there.id])));
    assert_eq!(revoke(&[&gone], true).await.done()["count"], 0);
}

/// Nobody is told yes, and no by the call itself.
#[tokio::test]
async fn a_dry_run_is_refused_where_the_call_is() {
    let site = Site::start().await;
    let max = person(&site, "max", Role::Manager).await;
    let (a, b) = (site.token("olga", &["configs:read"]).await, site.token("olga", &["configs:read"]).await);
    site.revoke(&b).await;
    site.user("dora", Role::Manager).await;
    assert_eq!(call(&site, &site.owner, "POST", "/api/v1/users/dora/disable", None).await.status, 200);
    site.replica_is_current().await;
    let both = async |by: &Token, verb: &str, mut body: Value| {
        let path = format!("{TOKENS}/{verb}");
        body["dry_run"] = json!(true);
        let tried = post(&site, by, &path, body.clone()).await;
        body["dry_run"] = json!(false);
        let done = post(&site, by, &path, body.clone()).await;
        assert_eq!((tried.problem(), tried.detail()), (done.problem(), done.detail()), "{verb} {body}");
        tried.status
    };
    let ids = |tokens: &[&Token]| json!(tokens.iter().map(|token| token.id).collect::<Vec<_>>());
    let of = |tokens: &[&Token]| json!({ "ids": ids(tokens), "count": tokens.len() });
    let to = |tokens: &[&Token], to: &str| json!({ "ids": ids(tokens), "count": tokens.len(), "to": to });
    assert_eq!(both(&site.owner, "revoke", of(&[&a, &a])).await, 400, "named twice");
    assert_eq!(both(&site.owner, "reassign", to(&[&a], "nobody")).await, 404);
    assert_eq!(both(&site.owner, "reassign", to(&[&a], "dora")).await, 409, "disabled");
    assert_eq!(both(&site.owner, "reassign", to(&[&b], "max")).await, 409, "revoked");
    assert_eq!(both(&site.owner, "delete", of(&[&site.owner, &a])).await, 409, "the calling one among others");
    let mut others = to(&[&a], "max");
    others["if_exists"] = json!(true);
    assert_eq!(both(&max, "reassign", others).await, 403);
    for token in [&a, &site.agent] {
        site.revoke(token).await;
    }
    assert_eq!(both(&site.owner, "revoke", of(&[&site.owner])).await, 409, "the Owner's last");
}
