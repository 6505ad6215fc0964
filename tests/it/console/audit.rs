//! What the audit trail says of calls, and who may read it.

use super::*;

/// The entries of the trail, the newest first.
async fn trail(site: &Site, query: &str) -> Vec<Value> {
    let listed = get(site, &site.owner, &format!("/api/v1/audit-logs?{query}")).await.done();
    listed.as_array().expect("a list").clone()
}

#[tokio::test]
async fn a_change_says_by_whom_and_from_where_and_is_chained() {
    let site = Site::start().await;
    let path = format!("/api/v1/tokens/{}/revoke", site.agent.id);
    let agent = format!("ops/1 {} (of a script)", site.agent.raw);
    let call = Call::new("POST", &path).by(&site.owner.raw).with("User-Agent", &agent);
    call.send(site.sidecar.admin()).await.done();
    let found = trail(&site, &format!("subject={}&action=token.revoke", site.agent.id)).await;
    let [entry] = &found[..] else { panic!("{found:?}") };
    let said = ["actorType", "actorName", "outcome", "ipAddress"].map(|name| entry[name].as_str().unwrap_or_default());
    assert_eq!(said, ["Token", "olga", "Success", "127.0.0.1"]);
    assert_eq!((&entry["actorId"], &entry["userAgent"]), (&json!(site.owner.id.to_string()), &json!("ops/1 ")));
    // The sidecar does that, as it commits.
    soon("it is chained", async || {
        let verdict = get(&site, &site.owner, "/api/v1/audit-logs/verify").await.done();
        verdict["whole"] == true && verdict["not_chained"] == 0 && verdict["head"]["hash"].is_string()
    })
    .await;
    assert_eq!(trail(&site, &format!("subject={}&action=token.revoke", site.agent.id)).await[0]["chained"], true);
}

/// One that nobody knows has one entry a minute, whatever it does.
#[tokio::test]
async fn what_was_refused_is_there_too() {
    let site = Site::start().await;
    let path = format!("/api/v1/tokens/{}", site.owner.id);
    let denied = call(&site, &site.agent, "DELETE", &path, None).await;
    assert_eq!(denied.problem(), (403, "forbidden"));
    assert_eq!(get(&site, &site.agent, &path).await.status, 403, "whoever only looks leaves none");
    soon("it has an entry", async || {
        let found = trail(&site, "outcome=denied&action=token").await;
        assert!(found.len() <= 1, "{found:?}");
        let about = |entry: &Value| (entry["action"].clone(), entry["tokens"].clone(), entry["actorId"].clone());
        let id = |token: &Token| token.id.to_string();
        let expected = (json!("token.delete"), json!([id(&site.owner)]), json!(id(&site.agent)));
        found.first().is_some_and(|entry| about(entry) == expected)
    })
    .await;
    for _ in 0..5 {
        let stranger = Call::new("GET", "/api/v1/tokens").by("tc-apiv1_nobody").send(site.sidecar.admin()).await;
        assert_eq!(stranger.status, 401);
    }
    soon("strangers have an entry", async || {
        let found = trail(&site, "action=sign-in").await;
        assert!(found.len() <= 1, "{found:?}");
        found.first().is_some_and(|entry| entry["outcome"] == "Denied" && entry["ipAddress"] == "127.0.0.1")
    })
    .await;
}

#[tokio::test]
async fn who_may_read_it_pages_through_it() {
    let site = Site::start().await;
    let max = person(&site, "max", Role::Manager).await;
    assert_eq!(get(&site, &max, "/api/v1/audit-logs").await.problem(), (403, "forbidden"));
    assert_eq!(get(&site, &max, "/api/v1/audit-logs/verify").await.problem(), (403, "forbidden"));
    let bad = get(&site, &site.owner, "/api/v1/audit-logs?outcome=some").await;
    assert_eq!((bad.problem(), bad.detail()), ((400, "invalid"), "outcome: success, failure or denied"));
    soon("all are chained", async || {
        get(&site, &site.owner, "/api/v1/audit-logs/verify").await.done()["not_chained"] == 0
    })
    .await;
    let all = trail(&site, "limit=1000&outcome=success").await;
    let (mut paged, mut path) = (Vec::new(), "/api/v1/audit-logs?limit=1&outcome=success".to_owned());
    loop {
        let page = get(&site, &site.owner, &path).await;
        let next = page.field("link").map(|link| link[1..link.find('>').expect("an end")].to_owned());
        paged.extend(page.done().as_array().expect("a list").clone());
        let Some(next) = next else { break };
        path = next;
    }
    assert!(all.len() > 2 && paged == all, "{paged:#?}");
}

/// Entries that are not chained yet are pages too.
#[tokio::test]
async fn pages_have_what_is_not_chained_yet() {
    let site = Site::start().await;
    // As a site's own registry is no process that chains, and the sidecar does so every two seconds: some are loose.
    for number in 0..12 {
        site.user(&format!("user-{number}"), Role::Viewer).await;
    }
    let (mut named, mut path) = (Vec::new(), "/api/v1/audit-logs?limit=2&action=user.create".to_owned());
    loop {
        let page = get(&site, &site.owner, &path).await;
        let next = page.field("link").map(|link| link[1..link.find('>').expect("an end")].to_owned());
        let entries = page.done();
        let entries = entries.as_array().expect("a list").clone();
        assert!(entries.len() <= 2, "{entries:?}");
        named.extend(entries.iter().map(|entry| entry["userName"].as_str().expect("a name").to_owned()));
        let Some(next) = next else { break };
        path = next;
    }
    let expected: Vec<_> = (0..12).rev().map(|number| format!("user-{number}")).collect();
    assert_eq!(named[..12], expected);
}

/// Whoever asks is told the same: what the file has and the store has not was cut off.
#[tokio::test]
async fn the_file_of_the_trail_shows_that_its_end_was_cut_off() {
    let site = Site::builder()
        .config_in(|config, directory| config.audit.file = Some(directory.join("audit.jsonl")))
        .start()
        .await;
    let verdict = async || get(&site, &site.owner, "/api/v1/audit-logs/verify").await.done();
    let file = site.directory().join("audit.jsonl");
    let lines = || std::fs::read_to_string(&file).map_or(0, |text| text.lines().count() as u64);
    soon("all is written", async || {
        let verdict = verdict().await;
        verdict["not_chained"] == 0 && verdict["entries"] == lines()
    })
    .await;
    let whole = verdict().await;
    assert_eq!((&whole["whole"], &whole["elsewhere"]), (&json!(true), &json!([])));
    let head = format!("{}:{}", whole["head"]["seq"], whole["head"]["hash"].as_str().expect("a hash"));
    let by_head = format!("/api/v1/audit-logs/verify?head={head}");
    assert_eq!(get(&site, &site.owner, &by_head).await.done()["whole"], true);
    let refused = get(&site, &site.owner, "/api/v1/audit-logs/verify?head=1").await;
    assert_eq!(refused.problem(), (400, "invalid"));
    rusqlite::Connection::open(site.directory().join("tollgate.db"))
        .and_then(|database| database.execute("DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)", []))
        .expect("cuts it off");
    let cut = verdict().await;
    let said = format!("entry {} is not in the store: the end of its trail was cut off", whole["entries"]);
    assert_eq!((&cut["whole"], &cut["elsewhere"]), (&json!(false), &json!([said])));
    let cut = get(&site, &site.owner, &by_head).await.done();
    assert_eq!(cut["elsewhere"], json!([said, said]));
}

#[tokio::test]
async fn the_trail_is_compared_with_a_line_that_went_elsewhere() {
    let site = Site::start().await;
    let verify = async |query: &str| get(&site, &site.owner, &format!("/api/v1/audit-logs/verify{query}")).await;
    soon("there is a head", async || verify("").await.done()["head"].is_object()).await;
    let head = verify("").await.done()["head"].clone();
    let (seq, hash) = (head["seq"].as_u64().expect("a number"), head["hash"].as_str().expect("a hash").to_owned());
    assert_eq!(verify(&format!("?head={seq}:{hash}")).await.done()["whole"], true);
    let replaced = verify(&format!("?head={seq}:{}", "0".repeat(64))).await.done();
    assert_eq!((&replaced["whole"], &replaced["findings"]), (&json!(false), &json!([])));
    assert!(replaced["elsewhere"][0].as_str().is_some_and(|said| said.contains("was replaced")), "{replaced}");
    let cut = verify(&format!("?head={}:{hash}", seq + 1000)).await.done();
    assert!(cut["elsewhere"][0].as_str().is_some_and(|said| said.contains("cut off")), "{cut}");
    for bad in ["1", "x:y", "0:00"] {
        assert_eq!(verify(&format!("?head={bad}")).await.problem(), (400, "invalid"), "{bad}");
    }
}

/// Queries are kept in logs.
#[tokio::test]
async fn a_token_is_looked_for_in_no_query() {
    let site = Site::start().await;
    for condition in ["actor", "action", "subject"] {
        let answer = get(&site, &site.owner, &format!("/api/v1/audit-logs?{condition}={}", site.agent.raw)).await;
        assert_eq!(answer.problem(), (400, "invalid"), "{condition}");
        assert!(answer.detail().starts_with(&format!("{condition}: this may be a token")), "{answer:?}");
        assert!(!answer.body.to_string().contains(&site.agent.raw), "{answer:?}");
    }
}
