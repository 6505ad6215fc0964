//! Users, the versions of records, and the status of the fleet.

use super::*;
use crate::harness::eventually;

#[tokio::test]
async fn a_users_life() {
    let site = Site::start().await;
    let owner = &site.owner;
    let added = post(&site, owner, "/api/v1/users", json!({ "name": "max", "role": "administrator" })).await;
    assert_eq!((added.status, added.field("location")), (201, Some("/api/v1/users/max")));
    let again = post(&site, owner, "/api/v1/users", json!({ "name": "max", "role": "viewer" })).await;
    assert_eq!(again.problem(), (409, "conflict"));
    let token = site.token("max", &["users:read", "configs:read"]).await;
    let role = json!({ "role": "manager" });
    let changed = post(&site, owner, "/api/v1/users/max/role?wait=5s", role).await.done();
    assert_eq!((&changed["role"], &changed["tokens_narrowed"]), (&json!("manager"), &json!(1)));
    assert_eq!(changed["wait"]["complete"], true);
    assert_eq!(get(&site, &token, "/api/v1/users").await.problem(), (403, "forbidden"));
    let disabled = call(&site, owner, "POST", "/api/v1/users/max/disable?wait=5s", None).await.done();
    assert_eq!(disabled["status"], "disabled");
    assert_eq!(get(&site, &token, "/api/v1/self").await.problem(), (401, "unauthenticated"));
    let enabled = call(&site, owner, "POST", "/api/v1/users/max/enable?wait=5s", None).await.done();
    assert_eq!(enabled["status"], "active");
    assert_eq!(get(&site, &token, "/api/v1/self").await.status, 200);
    let deleted = call(&site, owner, "DELETE", "/api/v1/users/max?wait=5s", None).await.done();
    assert_eq!((&deleted["name"], &deleted["tokens_deleted"]), (&json!("max"), &json!(1)));
    assert_eq!(get(&site, &token, "/api/v1/self").await.problem(), (401, "unauthenticated"));
    assert_eq!(get(&site, owner, "/api/v1/users/max").await.problem(), (404, "not-found"));
}

#[tokio::test]
async fn the_rules_of_the_owner_hold_here_too() {
    let site = Site::start().await;
    let adam = person(&site, "adam", Role::Administrator).await;
    let disable = call(&site, &adam, "POST", "/api/v1/users/olga/disable", None).await;
    assert_eq!(disable.problem(), (409, "conflict"));
    let promote = post(&site, &adam, "/api/v1/users/adam/role", json!({ "role": "owner" })).await;
    assert_eq!(promote.problem(), (400, "invalid"));
    let own = call(&site, &adam, "DELETE", "/api/v1/users/adam", None).await;
    assert_eq!(own.status, 409);
    let transfer = call(&site, &adam, "POST", "/api/v1/users/adam/transfer-ownership", None).await;
    assert_eq!(transfer.problem(), (403, "forbidden"));
    let moved = call(&site, &site.owner, "POST", "/api/v1/users/adam/transfer-ownership?wait=5s", None).await.done();
    assert_eq!((&moved["owner"]["name"], &moved["before"]["role"]), (&json!("adam"), &json!("administrator")));
}

#[tokio::test]
async fn what_has_changed_since_it_was_read_stays_as_it_is() {
    let site = Site::start().await;
    site.user("max", Role::Manager).await;
    let token = site.token("max", &["configs:read"]).await;
    let admin = site.sidecar.admin();
    let path = format!("/api/v1/tokens/{}", token.id);
    let tag = async |path: &str| get(&site, &site.owner, path).await.field("etag").expect("a tag").to_owned();
    let old = tag(&path).await;
    let body = json!({ "to": "olga" });
    assert_eq!(post(&site, &site.owner, &format!("{path}/reassign"), body).await.status, 200);
    let delete = |tag: &str| Call::new("DELETE", &path).by(&site.owner.raw).with("If-Match", tag).send(admin);
    assert_eq!(delete(&old).await.problem(), (412, "changed"));
    assert_eq!(delete("\"x\"").await.problem(), (400, "invalid"));
    let rotate = |tag: &str| {
        let call = Call::new("POST", &format!("{path}/rotate")).by(&site.owner.raw).with("If-Match", tag);
        call.json(&json!({ "overlap_seconds": 0 })).send(admin)
    };
    let refused = rotate(&old).await;
    assert_eq!(refused.problem(), (412, "changed"));
    assert!(!refused.body.to_string().contains("tc-apiv1_"), "{refused:?}");
    assert_eq!(rotate(&tag(&path).await).await.status, 201);
    assert_eq!(delete(&tag(&path).await).await.status, 200);

    site.user("adam", Role::Administrator).await;
    let old = tag("/api/v1/users/adam").await;
    let transfer = |tag: &str| {
        let path = "/api/v1/users/adam/transfer-ownership";
        Call::new("POST", path).by(&site.owner.raw).with("If-Match", tag).send(admin)
    };
    for change in ["disable", "enable"] {
        let path = format!("/api/v1/users/adam/{change}");
        assert_eq!(call(&site, &site.owner, "POST", &path, None).await.status, 200);
    }
    assert_eq!(transfer(&old).await.problem(), (412, "changed"));

    let old = tag("/api/v1/users/max").await;
    let with = |method: &str, path: &str, tag: &str| {
        Call::new(method, path).by(&site.owner.raw).with("If-Match", tag).send(admin)
    };
    assert_eq!(with("POST", "/api/v1/users/max/disable", &old).await.status, 200);
    assert_eq!(with("POST", "/api/v1/users/max/enable", &old).await.problem(), (412, "changed"));
    assert_eq!(with("DELETE", "/api/v1/users/max", &old).await.problem(), (412, "changed"));
    assert_eq!(with("DELETE", "/api/v1/users/max", "*").await.status, 200);
    assert_eq!(transfer(&tag("/api/v1/users/adam").await).await.status, 200);
}

/// Whatever changes one record can be told which version of it is meant, and says so.
#[tokio::test]
async fn every_change_of_one_record_takes_if_match() {
    let site = Site::start().await;
    let described = get(&site, &site.owner, "/api/v1/openapi.json").await.done();
    let mut changes = 0;
    for (path, operations) in described["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            if method == "get" || !path.contains('{') {
                continue;
            }
            changes += 1;
            let parameters = operation["parameters"].as_array().expect("parameters");
            assert!(parameters.iter().any(|parameter| parameter["name"] == "If-Match"), "{method} {path}");
        }
    }
    assert!(changes >= 9, "{changes}");
}

#[tokio::test]
async fn the_status_names_every_sidecar() {
    let site = Site::start().await;
    eventually("its report is there", async || {
        let status = get(&site, &site.owner, "/api/v1/status").await.done();
        assert_eq!((&status["tokens"], status["sidecars"].as_array().map(Vec::len)), (&json!(2), Some(1)));
        status["sidecars"][0]["revision"] == status["revision"]
    })
    .await;
}

#[tokio::test]
async fn a_user_who_is_there_already_is_what_was_wanted_if_that_was_said() {
    let site = Site::start().await;
    let add = async |role: &str, query: &str| {
        post(&site, &site.owner, &format!("/api/v1/users{query}"), json!({ "name": "max", "role": role })).await
    };
    assert_eq!(add("manager", "?if_not_exists=true").await.status, 201);
    assert_eq!(add("manager", "?if_not_exists=true").await.status, 200);
    assert_eq!(add("manager", "").await.problem(), (409, "conflict"));
    assert_eq!(add("viewer", "?if_not_exists=true").await.problem(), (409, "conflict"), "with another role");
    site.token("max", &["configs:read"]).await;
    assert_eq!(get(&site, &site.owner, "/api/v1/users/max").await.done()["tokens"], 1);
}
