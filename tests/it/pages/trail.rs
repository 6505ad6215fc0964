//! The audit trail, as the page shows it.

use super::client::owner;
use super::*;

#[tokio::test]
async fn an_entry_names_its_tokens_and_the_client_and_is_found_by_its_day() {
    let site = Site::start().await;
    let mut client = owner(&site).await;
    client.more = "User-Agent: Plant browser/7\r\n".to_owned();
    let other = token_called(&site, "olga", "other", PermissionSet::TELEGRAF_AGENT).await;
    let ids = format!("id={}&id={}", site.agent.id, other.id);
    let asked = client.post("/tokens/confirm", &format!("verb=revoke&{ids}")).await;
    let form = format!("{ids}&fingerprint={}", asked.hidden("fingerprint"));
    assert_eq!(client.post("/tokens/do/revoke", &form).await.status, 303);
    let page = client.get("/audit?action=token.revoke").await.body;
    assert!(page.contains("<summary>2 tokens</summary>") && page.contains("Plant browser/7"), "{page}");
    for id in [site.agent.id, other.id] {
        assert!(page.contains(&format!("href=\"/audit?subject={id}\">{id}</a>")), "{page}");
    }
    let found = client.get(&format!("/audit?subject={}", other.id)).await.body;
    assert!(found.contains("token.create") && found.contains("token.revoke"), "{found}");
    // By days, both of them included.
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let (yesterday, tomorrow) = (today.yesterday().expect("a day"), today.tomorrow().expect("a day"));
    for (query, is_there) in [
        (format!("since={yesterday}&until={tomorrow}"), true),
        (format!("until={yesterday}"), false),
        (format!("since={}", tomorrow.tomorrow().expect("a day")), false),
    ] {
        let led = client.post("/audit/search", &query).await;
        assert_eq!(led.field("location"), Some(format!("/audit?{query}").as_str()));
        let page = client.get(&format!("/audit?{query}")).await.body;
        assert_eq!(page.contains("token.revoke</b>"), is_there, "{query}: {page}");
        assert!(page.contains(query.split(['=', '&']).nth(1).expect("a day")), "the field keeps it");
    }
    for wrong in ["since=soon", "until=2027-02-30"] {
        assert_eq!(client.post("/audit/search", wrong).await.status, 400, "{wrong}");
        assert_eq!(client.get(&format!("/audit?{wrong}")).await.status, 400, "{wrong}");
    }
}
