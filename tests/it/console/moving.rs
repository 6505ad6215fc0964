//! Imports and exports by calls.

use tollgate::token::{Digest, RawToken};

use super::*;

const IMPORT: &str = "/api/v1/tokens/import";
const EXPORT: &str = "/api/v1/tokens/export";

async fn import(site: &Site, token: &Token, query: &str, kind: &str, lines: &str) -> Answer {
    let call = Call::new("POST", &format!("{IMPORT}{query}")).by(&token.raw).raw(kind, lines);
    call.send(site.sidecar.admin()).await
}

async fn import_lines(site: &Site, token: &Token, query: &str, lines: &[Value]) -> Answer {
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    import(site, token, query, "application/x-ndjson", &lines).await
}

/// A line with a token of its own.
fn line(user: &str, permissions: &[&str]) -> (RawToken, Value) {
    let raw = RawToken::generate().expect("entropy");
    let line = json!({ "token": raw.reveal(), "user": user, "description": "moved", "permissions": permissions });
    (raw, line)
}

/// Number and kind of each line that was refused.
fn refused(import: &Value) -> Vec<(u64, &str)> {
    let refused = import["refused"].as_array().unwrap_or_else(|| panic!("{import}"));
    refused.iter().map(|line| (line["line"].as_u64().unwrap_or(0), line["kind"].as_str().unwrap_or("?"))).collect()
}

/// The lines of an export.
fn exported(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.field("content-type"), Some("application/x-ndjson"), "{answer:?}");
    match &answer.body {
        Value::String(text) => text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect(),
        line => vec![line.clone()],
    }
}

#[tokio::test]
async fn tokens_are_imported_and_work_everywhere() {
    let site = Site::start().await;
    let (raw, first) = line("olga", &["configs:read", "heartbeat:write"]);
    let lines = [first, line("olga", &["configs:read"]).1];
    let answer = import_lines(&site, &site.owner, "?wait=5s", &lines).await.done();
    assert_eq!(
        (&answer["imported"], &answer["skipped"], &answer["wait"]["complete"]),
        (&json!(2), &json!(0), &json!(true))
    );
    assert_eq!(answer["tokens"][1]["line"], 2);
    let id = answer["tokens"][0]["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    assert_eq!(site.beat(&Token { id, raw: raw.reveal().to_owned() }).await.status(), 200);
    // Once more: each is there already, which `skip_existing` takes for what was wanted.
    let again = import_lines(&site, &site.owner, "", &lines).await;
    assert_eq!((again.problem(), refused(&again.body["import"])), ((422, "lines"), vec![(1, "exists"), (2, "exists")]));
    assert!(!again.body.to_string().contains("tc-apiv1_"), "{again:?}");
    let again = import_lines(&site, &site.owner, "?skip_existing=true&wait=5s", &lines).await.done();
    assert_eq!((&again["imported"], &again["skipped"], &again["differing"]), (&json!(0), &json!(2), &json!(0)));
    let digest = Digest::of(b"tc-apiv1_abc");
    let csv = format!("digest,user,description\n{digest},olga,by its digest\n");
    let unsaid = import(&site, &site.owner, "", "text/csv", &csv).await;
    assert_eq!((unsaid.problem(), refused(&unsaid.body["import"])), ((422, "lines"), vec![(2, "malformed")]));
    let said = unsaid.body["import"]["refused"][0]["reason"].as_str().expect("a reason");
    assert_eq!(said, "give `permissions`, or `permissions` in the query for all lines without them");
    let query = "?permissions=configs:read,heartbeat:write";
    assert_eq!(import(&site, &site.owner, query, "text/csv", &csv).await.done()["imported"], 1);
}

#[tokio::test]
async fn all_lines_are_imported_or_none_and_why_is_said_by_line() {
    let site = Site::start().await;
    site.user("vera", Role::Viewer).await;
    let (good, nobody, viewer) =
        (line("olga", &["configs:read"]).1, line("nobody", &["configs:read"]).1, line("vera", &["configs:read"]).1);
    let mistyped = json!({ "token": "tc-apiv1_a", "user": "olga", "description": "x", "permissions": ["config:read"] });
    let short = json!({ "tokn": "tc-apiv1_0123456789abcdef", "user": "olga", "description": "x" });
    let lines = [good.clone(), nobody, viewer, good.clone(), mistyped, short];
    // Those that cannot be read are said first: the registry is not asked about the others.
    let answer = import_lines(&site, &site.owner, "", &lines).await;
    assert_eq!(
        (answer.problem(), refused(&answer.body["import"])),
        ((422, "lines"), vec![(5, "malformed"), (6, "malformed")])
    );
    assert!(!answer.body.to_string().contains("0123456789"), "{answer:?}");
    let answer = import_lines(&site, &site.owner, "", &lines[..4]).await;
    let kinds = vec![(2, "not-found"), (3, "conflict"), (4, "repeated")];
    assert_eq!((answer.problem(), refused(&answer.body["import"])), ((422, "lines"), kinds));
    assert_eq!(answer.body["import"]["imported"], 0);
    assert_eq!(ids(&get(&site, &site.owner, "/api/v1/tokens?text=moved").await.done()), [""; 0]);
    let answer = import_lines(&site, &site.owner, "?keep_going=true", &lines).await.done();
    let kinds = vec![(2, "not-found"), (3, "conflict"), (4, "repeated"), (5, "malformed"), (6, "malformed")];
    assert_eq!((&answer["imported"], refused(&answer)), (&json!(1), kinds));
    let id = answer["tokens"][0]["id"].as_str().expect("an id");
    assert_eq!(call(&site, &site.owner, "POST", &format!("/api/v1/tokens/{id}/revoke"), None).await.status, 200);
    let revoked = import_lines(&site, &site.owner, "?skip_existing=true", std::slice::from_ref(&good)).await;
    assert_eq!(refused(&revoked.body["import"]), [(1, "revoked")]);
    assert_eq!(call(&site, &site.owner, "DELETE", &format!("/api/v1/tokens/{id}"), None).await.status, 200);
    assert_eq!(refused(&import_lines(&site, &site.owner, "", &[good]).await.body["import"]), [(1, "deleted")]);
    let header = import(&site, &site.owner, "", "text/csv", "token,user,desc\n").await;
    assert_eq!((header.problem(), header.detail().contains("the header of CSV")), ((400, "invalid"), true));
}

#[tokio::test]
async fn nobody_imports_what_they_could_not_make() {
    let site = Site::start().await;
    let max = person(&site, "max", Role::Manager).await;
    assert_eq!(import_lines(&site, &max, "", &[line("max", &["configs:read"]).1]).await.done()["imported"], 1);
    // Whether another user exists is not a Manager's to know.
    for user in ["olga", "nobody"] {
        let others = import_lines(&site, &max, "", &[line(user, &["configs:read"]).1]).await;
        assert_eq!(refused(&others.body["import"]), [(1, "forbidden")]);
    }
    let mut past = line("max", &["configs:read"]).1;
    for (name, value) in
        [("id", "0000000000001"), ("state", "active"), ("created_at", "2020-01-01T00:00:00Z"), ("created_by", "olga")]
    {
        past[name] = json!(value);
    }
    assert_eq!(refused(&import_lines(&site, &max, "", &[past]).await.body["import"]), [(1, "forbidden")]);
    let writer = site.token("olga", &["tokens:write"]).await;
    let more = import_lines(&site, &writer, "", &[line("olga", &["configs:read"]).1]).await;
    assert_eq!(refused(&more.body["import"]), [(1, "forbidden")], "no more than the token has");
    assert_eq!(
        import_lines(&site, &site.agent, "", &[line("olga", &["configs:read"]).1]).await.problem(),
        (403, "forbidden")
    );
    soon("each attempt has an entry", async || {
        let query = "/api/v1/audit-logs?action=token.import&outcome=denied";
        let found = get(&site, &site.owner, query).await.done();
        let of = |name: &str| found.as_array().into_iter().flatten().filter(|entry| entry["actorName"] == name).count();
        (of("max"), of("olga")) == (3, 2)
    })
    .await;
}

#[tokio::test]
async fn a_policy_for_new_tokens_is_not_got_around_by_importing_them() {
    let lifetime = std::time::Duration::from_hours(24);
    let site = Site::builder().config(move |config| config.max_token_lifetime = Some(lifetime)).start().await;
    let mut long = line("olga", &["configs:read"]).1;
    long["expires_at"] = json!("2999-01-01T00:00:00Z");
    let answer = import_lines(&site, &site.owner, "", &[long]).await;
    assert_eq!(refused(&answer.body["import"]), [(1, "conflict")]);
    let done = import_lines(&site, &site.owner, "", &[line("olga", &["configs:read"]).1]).await.done();
    let id = done["tokens"][0]["id"].as_str().expect("an id");
    let shown = get(&site, &site.owner, &format!("/api/v1/tokens/{id}")).await.done();
    assert!(shown["expires_at"].is_string(), "the longest that it may have: {shown}");
}

#[tokio::test]
async fn an_import_has_a_form_and_a_bound() {
    let site = Site::start().await;
    assert_eq!(import(&site, &site.owner, "", "application/json", "{}").await.problem(), (415, "not-lines"));
    let large = "a".repeat(4 * 1024 * 1024 + 1);
    assert_eq!(import(&site, &site.owner, "", "text/csv", &large).await.problem(), (413, "too-large"));
    let many = import(&site, &site.owner, "?keep_going=true", "application/jsonl", &"x\n".repeat(10_001)).await;
    assert_eq!((many.problem(), many.detail().contains("10000 lines")), ((413, "too-large"), true));
    let unknown = import(&site, &site.owner, "?skip=true", "text/csv", "").await;
    assert_eq!((unknown.problem(), unknown.detail().contains("`skip_existing`")), ((400, "invalid"), true));
    assert_eq!(import(&site, &site.owner, "?permissions=", "text/csv", "").await.problem(), (400, "invalid"));
    assert_eq!(import(&site, &site.owner, "", "text/csv", "").await.done()["imported"], 0);
}

/// More than one commit: what is done and what is not is said, and the same import brings the rest.
#[tokio::test]
async fn an_import_that_breaks_off_says_what_it_did() {
    let site = Site::start().await;
    let lines: Vec<_> = (0..700).map(|_| line("olga", &["configs:read"]).1).collect();
    site.store.fail_after(1);
    let answer = import_lines(&site, &site.owner, "", &lines).await;
    assert_eq!(answer.problem(), (503, "unavailable"));
    assert_eq!(answer.body["import"]["tokens"].as_array().map(Vec::len), Some(500));
    assert!(
        answer.detail().contains("500 of 700 lines") && answer.detail().contains("skip_existing"),
        "{}",
        answer.detail()
    );
    site.store.fail_after(usize::MAX);
    let rest = import_lines(&site, &site.owner, "?skip_existing=true", &lines).await.done();
    assert_eq!((&rest["imported"], &rest["skipped"]), (&json!(200), &json!(500)));
}

#[tokio::test]
async fn what_is_exported_can_be_imported_elsewhere_as_it_was() {
    let (site, other) = tokio::join!(Site::start(), Site::start());
    let revoked = site.token("olga", &["configs:read"]).await;
    site.revoke(&revoked).await;
    let mut path = format!("{EXPORT}?full=true&limit=2");
    let mut lines = Vec::new();
    loop {
        let page = get(&site, &site.owner, &path).await;
        assert!(page.field("tollgate-revision").is_some_and(|revision| revision.parse::<u64>().is_ok()), "{page:?}");
        lines.extend(exported(&page));
        let Some(next) = page.field("link").and_then(|link| link.strip_prefix('<')?.split('>').next()) else { break };
        assert!(next.starts_with("/api/v1/tokens/export?") && next.contains("full=true"), "{next}");
        path = next.to_owned();
    }
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines.iter().all(|line| line["digest"].is_string() && line["history"].is_array()), "{lines:?}");
    assert_eq!((&lines[0]["id"], &lines[0]["state"]), (&json!(revoked.id.to_string()), &json!("revoked")));
    let working = get(&site, &site.owner, EXPORT).await;
    assert_eq!(working.field("tollgate-left-out"), Some("tokens=1, permissions=0"));
    assert_eq!(exported(&working).len(), 2);
    assert!(exported(&working).iter().all(|line| line.get("id").is_none()), "{working:?}");
    let done = import_lines(&other, &other.owner, "?wait=5s", &lines).await.done();
    assert_eq!(done["imported"], 3, "{done}");
    assert_eq!(other.beat(&site.agent).await.status(), 200, "the same token works there");
    let there = get(&other, &other.owner, &format!("/api/v1/tokens/{}", revoked.id)).await.done();
    assert_eq!(there["state"], "revoked");
}

/// Whoever has the digests can have tokens let in elsewhere.
#[tokio::test]
async fn digests_are_for_those_who_may_do_anything_to_tokens() {
    let site = Site::start().await;
    let max = person(&site, "max", Role::Manager).await;
    assert_eq!(get(&site, &max, EXPORT).await.problem(), (403, "forbidden"));
    let anna = person(&site, "anna", Role::Administrator).await;
    assert_eq!(get(&site, &anna, EXPORT).await.status, 200);
    let reader = site.token("anna", &["tokens:read", "tokens:write"]).await;
    let refused = get(&site, &reader, EXPORT).await;
    assert_eq!(
        (refused.problem(), refused.detail()),
        ((403, "forbidden"), "Insufficient permissions: tokens:delete required")
    );
    assert_eq!(get(&site, &site.agent, EXPORT).await.problem(), (403, "forbidden"));
    soon("both that and what was refused have entries", async || {
        let found = get(&site, &site.owner, "/api/v1/audit-logs?action=token.export").await.done();
        let of =
            |outcome: &str| found.as_array().into_iter().flatten().filter(|entry| entry["outcome"] == outcome).count();
        (of("Success"), of("Denied")) == (1, 3)
    })
    .await;
}

/// Of a token that is not a Manager's to see neither the id is told nor what became of it.
#[tokio::test]
async fn a_value_tells_a_manager_nothing_of_others_tokens() {
    let site = Site::start().await;
    let max = person(&site, "max", Role::Manager).await;
    let [active, revoked, deleted] = [
        site.token("olga", &["configs:read"]),
        site.token("olga", &["configs:read"]),
        site.token("olga", &["configs:read"]),
    ];
    let (active, revoked, deleted) = (active.await, revoked.await, deleted.await);
    site.revoke(&revoked).await;
    assert_eq!(call(&site, &site.owner, "DELETE", &format!("/api/v1/tokens/{}", deleted.id), None).await.status, 200);
    let mut said = Vec::new();
    for token in [&active, &revoked, &deleted] {
        let line = json!({ "token": token.raw, "user": "max", "description": "x", "permissions": ["configs:read"] });
        for query in ["", "?skip_existing=true"] {
            let answer = import_lines(&site, &max, query, std::slice::from_ref(&line)).await;
            assert_eq!((answer.problem(), refused(&answer.body["import"])), ((422, "lines"), vec![(1, "exists")]));
            said.push(answer.body["import"]["refused"][0]["reason"].clone());
        }
        let new = json!({ "token": token.raw, "description": "x", "permissions": ["configs:read"] });
        for query in ["", "?if_not_exists=true"] {
            // A test's token may be of another length than those that one may bring.
            let answer = post(&site, &max, &format!("/api/v1/tokens{query}"), new.clone()).await;
            assert_eq!(answer.problem(), (409, "token_value_conflict"), "{answer:?}");
            said.push(json!(answer.detail()));
        }
    }
    said.dedup();
    assert_eq!(said.len(), 1, "{said:#?}");
    let own = json!({ "token": max.raw, "user": "max", "description": "x", "permissions": ["configs:read"] });
    assert_eq!(import_lines(&site, &max, "?skip_existing=true", &[own]).await.done()["skipped"], 1);
}

/// A reason is kept in logs: the digest lets a token in elsewhere.
#[tokio::test]
async fn a_reason_has_no_whole_digest_and_no_command() {
    let site = Site::start().await;
    let line = |token: &Token| json!({ "token": token.raw, "user": "olga", "description": "x", "permissions": ["configs:read"] });
    let digest = Digest::of(site.agent.raw.as_bytes()).to_string();
    let answer = import_lines(&site, &site.owner, "", &[line(&site.agent)]).await;
    assert_eq!(refused(&answer.body["import"]), [(1, "exists")]);
    assert!(!answer.body.to_string().contains(&digest), "{answer:?}");
    site.user("dora", Role::Manager).await;
    assert_eq!(call(&site, &site.owner, "POST", "/api/v1/users/dora/disable", None).await.status, 200);
    let path = format!("/api/v1/tokens/{}/reassign", site.agent.id);
    let answer = post(&site, &site.owner, &path, json!({ "to": "dora" })).await;
    assert_eq!((answer.problem(), answer.detail()), ((409, "conflict"), "dora is disabled; enable them first"));
}
