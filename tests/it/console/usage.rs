//! Who uses tokens, as calls show it.

use tollgate::registry::LastUse;

use super::*;
use crate::harness::operator;

#[tokio::test]
async fn a_token_shows_who_uses_it_and_lists_find_those_that_nobody_does() {
    let site = Site::start().await;
    assert_eq!(site.beat(&site.agent).await.status(), 200);
    let shown = format!("/api/v1/tokens/{}", site.agent.id);
    soon("it is recorded", async || get(&site, &site.owner, &shown).await.done()["last_used_at"].is_string()).await;
    let usage = get(&site, &site.owner, &shown).await.done()["usage"].clone();
    assert_eq!((&usage["agents_24h"], &usage["never_used"]), (&json!(1), &json!(false)), "{usage}");
    assert_eq!(usage["agents"][0]["address"], "127.0.0.1", "{usage}");
    let idle = site.token("olga", &["configs:read"]).await;
    let found = async |query: &str| {
        let listed = get(&site, &site.owner, &format!("/api/v1/tokens?{query}")).await;
        ids(&listed.done())
    };
    let never = found("never_used=true").await;
    assert!(never.contains(&idle.id.to_string()) && !never.contains(&site.agent.id.to_string()), "{never:?}");
    assert_eq!(found("unused_since=2020-01-01T00:00:00Z").await, Vec::<String>::new(), "nothing was recorded then");
    // Both: never used, though made before that.
    assert_eq!(found("never_used=true&unused_since=2020-01-01T00:00:00Z").await, Vec::<String>::new());
    let now = jiff::Timestamp::now();
    assert_eq!(found(&format!("never_used=true&unused_since={now}")).await, never);
    let no = get(&site, &site.owner, "/api/v1/tokens?never_used=false").await;
    assert_eq!(no.problem(), (400, "invalid"), "that would say nothing");
    let filter = json!({ "never_used": true });
    let chosen = get(&site, &site.owner, "/api/v1/tokens/selection?never_used=true").await.done();
    let body = json!({ "filter": filter, "count": chosen["count"], "fingerprint": chosen["fingerprint"] });
    assert!(chosen["count"].as_u64().is_some_and(|count| count >= 1), "{chosen}");
    let refused = post(&site, &site.owner, "/api/v1/tokens/revoke", json!({ "filter": {}, "count": 0 })).await;
    assert_eq!(refused.problem(), (400, "invalid"));
    let revoked = post(&site, &site.owner, "/api/v1/tokens/revoke", body).await;
    assert!(matches!(revoked.status, 200 | 409), "{revoked:?}");
}

/// What works all day by calls alone is not among those that nobody uses.
#[tokio::test]
async fn a_call_is_a_use_and_a_refused_one_is_none() {
    let site = Site::start().await;
    let (automation, idle) = (site.token("olga", &["tokens:read"]).await, site.token("olga", &["configs:read"]).await);
    let call = Call::new("GET", "/api/v1/tokens").by(&automation.raw).with("User-Agent", "Telegraf/1.39.0");
    assert_eq!(call.send(site.sidecar.admin()).await.status, 200);
    assert_eq!(get(&site, &idle, "/api/v1/tokens").await.problem(), (403, "forbidden"));
    assert_eq!(get(&site, &idle, "/api/v1/audit-logs").await.problem(), (403, "forbidden"));
    // A sidecar that stops leaves nothing unsaid.
    let site = site.restart().await;
    let uses = site.registry.usage(&operator(), &[automation.id, idle.id]).await.expect("reads");
    assert!(matches!(uses.last_use(automation.id), LastUse::At(at) if at <= uses.now), "{uses:?}");
    assert!(!matches!(uses.last_use(idle.id), LastUse::At(_)), "{uses:?}");
    let agents = site.registry.agents(&operator(), automation.id, 10).await.expect("reads");
    let known: Vec<_> = agents.iter().map(|agent| (agent.name.to_string(), agent.version.clone())).collect();
    assert_eq!(known, [("127.0.0.1".to_owned(), Some("1.39.0".to_owned()))]);
}
