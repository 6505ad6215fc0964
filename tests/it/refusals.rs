//! Who is refused, and what they are told: every row of the Controller's table, and everything else that is not served.

mod limits;
mod registry_down;

use std::time::Duration;

use tollgate::token::{Role, UserStatus};

use crate::harness::{CONFIG, HEARTBEAT, Reply, Site, get, operator, post, request, within};

/// The reply is a refusal with this status and exactly this text.
#[track_caller]
fn assert_refused(reply: &Reply, status: u16, error: &str) {
    assert_eq!((reply.status(), reply.error().as_str()), (status, error));
}

const NO_CREDENTIAL: &str = "Missing or invalid Authorization header";

#[tokio::test]
async fn a_token_gets_what_it_permits_in_every_form_of_the_credential() {
    let site = Site::start().await;
    let (agent, owner) = (&site.agent, &site.owner);
    let with = |scheme: &str| request("GET", CONFIG, &format!("authorization: {scheme} {}\r\n", agent.raw));
    let requests = [
        get(CONFIG, agent),
        get("/api/users", owner),
        with("bearer"),
        with("BEARER"),
        with("Token"),
        with("tOKEN"),
        with("Bearer   "),
    ];
    for request in &requests {
        let reply = site.send(request).await;
        assert_eq!((reply.status(), reply.text()), (200, "ok"), "{request}");
    }
    assert_eq!(site.beat(agent).await.status(), 200);
    assert_eq!(site.api.requests().len(), requests.len());
    assert_eq!(site.heartbeat.request().body, b"{}");
}

#[tokio::test]
async fn anything_but_one_credential_is_401() {
    let site = Site::start().await;
    let raw = &site.agent.raw;
    let cases = [
        String::new(),
        "Authorization:\r\n".to_owned(),
        "Authorization: Bearer\r\n".to_owned(),
        format!("Authorization: {raw}\r\n"),
        format!("Authorization: Basic {raw}\r\n"),
        format!("Authorization: Bearer{raw}\r\n"),
        format!("Authorization: Bearer {raw} {raw}\r\n"),
        format!("Authorization: Bearer {raw}, Bearer {raw}\r\n"),
        // A user who sets the field twice in Telegraf's configuration: nobody can say which one counts.
        format!("Authorization: Bearer {raw}\r\nAuthorization: Bearer {raw}\r\n"),
        format!("Authorization: Bearer {raw}\r\nauthorization: Token {raw}\r\n"),
        format!("Authorization: Basic eDp5\r\nAuthorization: Bearer {raw}\r\n"),
        format!("Proxy-Authorization: Bearer {raw}\r\n"),
        format!("X-Authorization: Bearer {raw}\r\n"),
        format!("Cookie: token={raw}; Authorization=Bearer {raw}\r\n"),
    ];
    for fields in &cases {
        let reply = site.send(request("GET", CONFIG, fields)).await;
        assert_refused(&reply, 401, NO_CREDENTIAL);
        // RFC 6750 section 3: without a credential there is no error to name.
        assert_eq!(reply.field("WWW-Authenticate"), Some("Bearer realm=\"tollgate\""), "{fields}");
    }
    for target in [format!("{CONFIG}?token={raw}"), format!("{CONFIG}?access_token={raw}&Authorization=Bearer%20{raw}")]
    {
        assert_refused(&site.send(request("GET", &target, "")).await, 401, NO_CREDENTIAL);
    }
    assert_eq!(site.forwarded(), 0);
}

#[tokio::test]
async fn every_row_of_the_controllers_table_has_its_text() {
    let site = Site::start().await;
    let (reader, beater) =
        (site.token("olga", &["configs:read", "agents:read"]).await, site.token("olga", &["heartbeat:write"]).await);
    let with = |value: &str| request("POST", HEARTBEAT, &format!("Authorization: {value}\r\nContent-Length: 0\r\n"));
    let insufficient = |permission: &str| format!("Insufficient permissions: {permission} required");
    let cases = [
        (request("POST", HEARTBEAT, "Content-Length: 0\r\n"), 401, NO_CREDENTIAL.to_owned()),
        (with("Basic dXNlcjpwYXNz"), 401, NO_CREDENTIAL.to_owned()),
        (with("Bearer something-else"), 401, "Invalid token format".to_owned()),
        (with("Token tc-apiv2_0123456789"), 401, "Invalid token format".to_owned()),
        (with("Bearer TC-APIV1_0123456789"), 401, "Invalid token format".to_owned()),
        (with("Bearer tc-apiv1_"), 401, "Invalid token format".to_owned()),
        (with("Bearer tc-apiv1_never-issued"), 401, "Invalid token".to_owned()),
        (with(&format!("Bearer {}x", site.agent.raw)), 401, "Invalid token".to_owned()),
        (with(&format!("Bearer {}", reader.raw)), 403, insufficient("heartbeat:write")),
        (get(CONFIG, &beater), 403, insufficient("configs:read")),
        (get("/api/users", &reader), 403, insufficient("users:read")),
        (get("/api/tokens", &site.agent), 403, insufficient("tokens:read")),
    ];
    for (request, status, error) in &cases {
        assert_refused(&site.send(request).await, *status, error);
    }
    assert_refused(
        &site.send(request("DELETE", "/api/configs/1", &format!("Authorization: Bearer {}\r\n", reader.raw))).await,
        403,
        &insufficient("configs:delete"),
    );
    for method in ["PUT", "PATCH"] {
        let fields = format!("Authorization: Bearer {}\r\nContent-Length: 0\r\n", reader.raw);
        let reply = site.send(request(method, "/api/agents/1", &fields)).await;
        assert_refused(&reply, 403, &insufficient("agents:write"));
    }
    assert_eq!(site.forwarded(), 0, "nothing that was refused reached an upstream");
}

#[tokio::test]
async fn where_any_token_will_do_it_has_to_work_and_to_go_on_working() {
    const DESCRIPTION: &str = "/api/docs/openapi.json";
    let site = Site::start().await;
    let [token, other] = [site.token("olga", &["heartbeat:write"]).await, site.token("olga", &["agents:read"]).await];
    assert_refused(&site.send(request("GET", DESCRIPTION, "")).await, 401, NO_CREDENTIAL);
    let stranger = request("GET", DESCRIPTION, "Authorization: Bearer tc-apiv1_never-issued\r\n");
    assert_refused(&site.send(stranger).await, 401, "Invalid token");
    for token in [&token, &other] {
        assert_eq!(site.get(DESCRIPTION, token).await.status(), 200, "whatever it permits");
    }
    let (mut download, _pieces) = site.download(get(DESCRIPTION, &token)).await;
    let revision = site.revoke(&token).await;
    site.replica_reaches(revision).await;
    within("the download is cut", download.rest()).await;
    assert_refused(&site.get(DESCRIPTION, &token).await, 401, "Invalid token");
    assert_eq!(site.get(DESCRIPTION, &other).await.status(), 200);
    site.expire(&other).await;
    assert_refused(&site.get(DESCRIPTION, &other).await, 401, "Token expired");
}

#[tokio::test]
async fn an_agent_fetches_by_an_alias_and_groups_and_constants_have_permissions_of_their_own() {
    let site = Site::start().await;
    assert_eq!(site.get("/c/web-servers?host=a", &site.agent).await.status(), 200);
    assert_eq!(site.api.request().request_line(), "GET /c/web-servers?host=a HTTP/1.1");
    for resource in ["config-groups", "constants"] {
        let (path, permission) = (format!("/api/{resource}/1"), format!("{resource}:read"));
        let token = site.token("olga", &[&permission]).await;
        assert_eq!(site.get(&path, &token).await.status(), 200);
        assert_refused(
            &site.get("/c/web-servers", &token).await,
            403,
            "Insufficient permissions: configs:read required",
        );
        let reply = site.get(&path, &site.agent).await;
        assert_refused(&reply, 403, &format!("Insufficient permissions: {permission} required"));
    }
}

#[tokio::test]
async fn a_token_that_was_good_is_refused_from_the_moment_it_is_not() {
    let site = Site::start().await;
    let tokens = [
        site.token("olga", &["configs:read"]).await,
        site.token("olga", &["configs:read"]).await,
        site.token("olga", &["configs:read"]).await,
    ];
    for token in &tokens {
        assert_eq!(site.get(CONFIG, token).await.status(), 200);
    }
    let [expired, revoked, deleted] = tokens;
    site.expire(&expired).await;
    let reply = site.get(CONFIG, &expired).await;
    assert_refused(&reply, 401, "Token expired");
    assert!(reply.field("WWW-Authenticate").is_some_and(|value| value.contains("error=\"invalid_token\"")));
    let revision = site.revoke(&revoked).await;
    site.replica_reaches(revision).await;
    assert_refused(&site.get(CONFIG, &revoked).await, 401, "Invalid token");
    site.registry.delete(&operator(), &[deleted.id], false).await.expect("deletes");
    site.replica_is_current().await;
    assert_refused(&site.get(CONFIG, &deleted).await, 401, "Invalid token");
    assert_eq!(site.forwarded(), 3);
}

#[tokio::test]
async fn an_expired_token_is_remembered_for_a_while() {
    let hour = Duration::from_hours(1);
    let (default, hasty) =
        (Site::start().await, Site::builder().config(|config| config.expired_retention = Duration::ZERO));
    let token = default.token("olga", &["configs:read"]).await;
    for (ago, text) in [(30 * 24 * hour - hour, "Token expired"), (30 * 24 * hour, "Invalid token")] {
        default.expire_ago(&token, ago).await;
        assert_refused(&default.get(CONFIG, &token).await, 401, text);
    }
    let hasty = hasty.start().await;
    let token = hasty.token("olga", &["configs:read"]).await;
    hasty.expire(&token).await;
    assert_refused(&hasty.get(CONFIG, &token).await, 401, "Invalid token");
}

#[tokio::test]
async fn the_owners_state_and_role_decide_over_their_tokens() {
    let site = Site::start().await;
    site.user("mia", Role::Manager).await;
    let token = site.token("mia", &["configs:read", "configs:write"]).await;
    let write = || site.send(post("/api/configs", &token, b"x"));
    assert_eq!(write().await.status(), 200);
    for (status, expected) in [(UserStatus::Disabled, 401), (UserStatus::Active, 200)] {
        site.registry.set_status(&operator(), "mia", status).await.expect("sets");
        site.replica_is_current().await;
        let reply = write().await;
        assert_eq!(reply.status(), expected);
        if expected == 401 {
            assert_eq!(reply.error(), "Invalid token");
        }
    }
    site.registry.set_role(&operator(), "mia", Role::Viewer).await.expect("sets");
    site.replica_is_current().await;
    assert_refused(&write().await, 401, "Invalid token");

    site.user("max", Role::Manager).await;
    let given = site.token("max", &["configs:read", "configs:write"]).await;
    site.user("vera", Role::Viewer).await;
    site.registry.reassign(&operator(), &[given.id], "vera", false).await.expect("reassigns");
    site.replica_is_current().await;
    assert_eq!(site.get(CONFIG, &given).await.status(), 200, "clamped, not taken away");
    let reply = site.send(post("/api/configs", &given, b"x")).await;
    assert_refused(&reply, 403, "Insufficient permissions: configs:write required");
    site.registry.delete_user(&operator(), "vera").await.expect("deletes");
    site.replica_is_current().await;
    assert_refused(&site.get(CONFIG, &given).await, 401, "Invalid token");
}

#[tokio::test]
async fn what_has_no_route_is_not_found_whoever_asks() {
    let site = Site::start().await;
    for path in [
        "/",
        "/api",
        "/api/",
        "/api/nothing",
        "/api/configs/",
        "/apiconfigs",
        "/API/configs",
        "/agents",
        "/agents/heartbeat/x",
    ] {
        assert_refused(&site.get(path, &site.owner).await, 404, "Not found");
        assert_refused(&site.send(request("GET", path, "")).await, 404, "Not found");
    }
    assert_eq!(site.forwarded(), 0);
}

#[tokio::test]
async fn another_method_gets_the_allowed_ones() {
    let site = Site::start().await;
    let fields = format!("Authorization: Bearer {}\r\n", site.owner.raw);
    let cases = [
        ("GET", HEARTBEAT, "POST"),
        ("OPTIONS", HEARTBEAT, "POST"),
        ("POST", "/api/analytics", "GET, HEAD"),
        ("DELETE", "/api/settings", "GET, HEAD, POST, PUT, PATCH"),
        ("OPTIONS", "/api/configs", "GET, HEAD, POST, PUT, PATCH, DELETE"),
        ("TRACE", "/api/configs", "GET, HEAD, POST, PUT, PATCH, DELETE"),
        ("CONNECT", "/api/configs", "GET, HEAD, POST, PUT, PATCH, DELETE"),
        ("get", "/api/configs", "GET, HEAD, POST, PUT, PATCH, DELETE"),
        ("BREW", "/api/configs/1", "GET, HEAD, POST, PUT, PATCH, DELETE"),
    ];
    for (method, path, allow) in cases {
        let reply = site.send(request(method, path, &fields)).await;
        assert_refused(&reply, 405, "Method not allowed");
        assert_eq!(reply.field("Allow"), Some(allow), "{method} {path}");
    }
    assert_eq!(site.send(request("HEAD", HEARTBEAT, &fields)).await.status(), 405);
    assert_eq!(site.forwarded(), 0);
}

#[tokio::test]
async fn opened_groups_need_no_token_and_the_others_still_do() {
    let site = Site::builder().setting("DISABLED_AUTH_GROUPS", "heartbeat").start().await;
    assert_eq!(site.send(request("POST", HEARTBEAT, "Content-Length: 0\r\n")).await.status(), 200);
    let unknown = "Authorization: Bearer tc-apiv1_unknown\r\nContent-Length: 0\r\n";
    assert_eq!(site.send(request("POST", HEARTBEAT, unknown)).await.status(), 200);
    assert_refused(&site.send(request("GET", CONFIG, "")).await, 401, NO_CREDENTIAL);
    assert_eq!(site.heartbeat.requests().len(), 2);
}
