//! What is sent has bounds and a form, and what is refused is repeated nowhere.

use super::*;

#[tokio::test]
async fn bodies_have_a_form_and_a_bound() {
    let site = Site::start().await;
    let admin = site.sidecar.admin();
    let create = || Call::new("POST", "/api/v1/tokens").by(&site.owner.raw);
    assert_eq!(create().send(admin).await.problem(), (415, "not-json"));
    assert_eq!(create().raw("text/plain", "{}").send(admin).await.problem(), (415, "not-json"));
    assert_eq!(create().raw("application/json", "{").send(admin).await.problem(), (400, "invalid"));
    assert_eq!(create().raw("application/json; charset=utf-8", "[]").send(admin).await.problem(), (400, "invalid"));
    let large = format!("{{\"description\":\"{}\"}}", "a".repeat(300_000));
    assert_eq!(create().raw("application/json", &large).send(admin).await.problem(), (413, "too-large"));
    // Who may not call is not read.
    let stranger = Call::new("POST", "/api/v1/tokens").raw("application/json", "{");
    assert_eq!(stranger.send(admin).await.problem(), (401, "unauthenticated"));
}

/// What takes no body leaves none aside: `wait` belongs into the query.
#[tokio::test]
async fn a_body_where_none_is_wanted_is_refused_and_nothing_done() {
    let site = Site::start().await;
    let admin = site.sidecar.admin();
    site.user("adam", Role::Administrator).await;
    let token = format!("/api/v1/tokens/{}", site.agent.id);
    let with = |method: &str, path: &str| Call::new(method, path).by(&site.owner.raw);
    for (method, path) in [
        ("POST", format!("{token}/revoke")),
        ("DELETE", token.clone()),
        ("POST", "/api/v1/users/adam/disable".to_owned()),
        ("POST", "/api/v1/users/adam/enable".to_owned()),
        ("POST", "/api/v1/users/adam/transfer-ownership".to_owned()),
        ("DELETE", "/api/v1/users/adam".to_owned()),
    ] {
        let refused = with(method, &path).json(&json!({ "wait": "5s" })).send(admin).await;
        assert_eq!(refused.problem(), (400, "invalid"), "{method} {path}");
        assert!(refused.detail().contains("there is no `wait` here"), "{refused:?}");
        assert_eq!(with(method, &path).raw("text/plain", "wait").send(admin).await.problem(), (415, "not-json"));
    }
    assert_eq!(get(&site, &site.owner, &token).await.done()["state"], "active");
    let revoked = with("POST", &format!("{token}/revoke")).json(&json!({})).send(admin).await;
    assert_eq!(revoked.done()["state"], "revoked");
}

#[tokio::test]
async fn queries_have_a_form() {
    let site = Site::start().await;
    let refused = async |query: &str| {
        let answer = get(&site, &site.owner, &format!("/api/v1/tokens?{query}")).await;
        assert_eq!(answer.problem(), (400, "invalid"), "{query}");
        answer.detail().to_owned()
    };
    assert!(refused("usr=max").await.contains("did you mean `user`?"));
    assert!(refused("state=dead").await.contains("\"active\", \"revoked\" and \"expired\""));
    assert!(refused("permission=config:read").await.contains("did you mean `configs`?"));
    assert!(refused("limit=0").await.contains("1 to 1000"));
    assert!(refused("limit=x").await.contains("invalid digit"));
    assert!(refused("after=x").await.contains("an id is 13 characters"));
    assert!(refused("user=a&user=b").await.contains("duplicate field"));
    let said = refused(&format!("text={}", site.agent.raw)).await;
    assert!(said.contains("must not be in a query") && !said.contains(&site.agent.raw), "{said}");
    assert!(refused("text=").await.contains("1 to 200 characters"));
    for wait in ["5", "0s", "61s", "+5s", "2h", ""] {
        let answer = call(&site, &site.owner, "POST", &format!("/api/v1/users/olga/enable?wait={wait}"), None).await;
        let said = "wait: write so many seconds, from 1s to 60s";
        assert_eq!((answer.problem(), answer.detail()), ((400, "invalid"), said), "{wait}");
    }
}

#[tokio::test]
async fn what_is_nowhere_is_said_so() {
    let site = Site::start().await;
    assert_eq!(get(&site, &site.owner, "/api/v1/nothing").await.problem(), (404, "not-found"));
    assert_eq!(get(&site, &site.owner, "/api/nothing").await.problem(), (404, "not-found"));
    let other = call(&site, &site.owner, "PATCH", "/api/v1/tokens", None).await;
    assert_eq!(other.problem(), (405, "method"));
    assert!(other.field("allow").is_some_and(|allow| allow.contains("GET") && allow.contains("POST")), "{other:?}");
}

#[tokio::test]
async fn one_token_cannot_flood_it() {
    let site = Site::start().await;
    let admin = site.sidecar.admin();
    let mut stream = TcpStream::connect(admin).await.expect("connects");
    let request =
        format!("GET /api/v1/self HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {}\r\n\r\n", site.agent.raw);
    let (mut reader, mut writer) = stream.split();
    let flood = async {
        for _ in 0..3000 {
            if writer.write_all(request.as_bytes()).await.is_err() {
                break;
            }
        }
    };
    let refused = async {
        let mut said = Vec::new();
        while !said.windows(12).any(|part| part == b"HTTP/1.1 429") {
            assert_ne!(reader.read_buf(&mut said).await.expect("receives"), 0, "it ends");
        }
    };
    tokio::select! {
        () = async { tokio::join!(flood, std::future::pending::<()>()).1 } => {}
        () = within("a refusal", refused) => {}
    }
    assert_eq!(get(&site, &site.owner, "/api/v1/self").await.status, 200, "another token's");
}

/// By position it would be taken for what nobody meant: a token without an end, say.
#[tokio::test]
async fn an_array_is_taken_for_no_object() {
    let site = Site::start().await;
    let token = format!("/api/v1/tokens/{}", site.agent.id);
    for (path, body) in [
        ("/api/v1/tokens".to_owned(), json!(["olga", "by position", ["configs:read"], null, null])),
        ("/api/v1/users".to_owned(), json!(["arr", "manager"])),
        ("/api/v1/tokens/revoke".to_owned(), json!([[site.agent.id], null, 1, null, false, false, true])),
        ("/api/v1/tokens/find".to_owned(), json!([null, "000000"])),
        ("/api/v1/tokens/purge".to_owned(), json!(["2020-01-01T00:00:00Z", null, null])),
        (format!("{token}/rotate"), json!([0, null, null])),
        (format!("{token}/revoke"), json!([])),
        (
            "/api/v1/tokens/revoke".to_owned(),
            json!({
                "filter": ["olga", "active", null, null, null, true, null],
                "count": 0, "fingerprint": "0".repeat(32), "dry_run": true,
            }),
        ),
    ] {
        let answer = post(&site, &site.owner, &path, body.clone()).await;
        assert_eq!(answer.problem(), (400, "invalid"), "{path} {body}");
        assert!(answer.detail().contains("expected a JSON object"), "{path} {body}: {answer:?}");
    }
    assert_eq!(ids(&get(&site, &site.owner, "/api/v1/tokens").await.done()).len(), 2, "nothing was made");
}

/// `wiat=5s` would be a change that nobody waits for.
#[tokio::test]
async fn every_call_refuses_a_parameter_that_is_not_known() {
    let site = Site::start().await;
    let admin = site.sidecar.admin();
    let described = Call::new("GET", "/api/v1/openapi.json").send(admin).await.done();
    for (path, calls) in described["paths"].as_object().expect("paths") {
        let path = path.replace("{id}", &site.agent.id.to_string()).replace("{name}", "olga");
        for method in calls.as_object().expect("calls").keys() {
            let call = Call::new(&method.to_uppercase(), &format!("{path}?wiat=5s")).by(&site.owner.raw);
            let answer = call.send(admin).await;
            assert_eq!(answer.problem(), (400, "invalid"), "{method} {path}");
            assert!(answer.detail().contains("there is no `wiat` here"), "{method} {path}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_body_that_is_coded_is_refused_as_such() {
    let site = Site::start().await;
    for (path, kind) in [("/api/v1/tokens", "not-json"), ("/api/v1/tokens/import", "not-lines")] {
        let media = if kind == "not-json" { "application/json" } else { "application/x-ndjson" };
        let call = || Call::new("POST", path).by(&site.owner.raw).raw(media, "{}");
        let coded = call().with("Content-Encoding", "gzip").send(site.sidecar.admin()).await;
        assert_eq!((coded.problem(), coded.field("accept-encoding")), ((415, kind), Some("identity")), "{coded:?}");
        let plain = call().with("Content-Encoding", "identity").send(site.sidecar.admin()).await;
        assert_ne!(plain.status, 415, "{plain:?}");
    }
}
