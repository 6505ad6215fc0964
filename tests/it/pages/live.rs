//! What pages ask for by themselves.

use super::*;

/// A page that renews itself is left as soon as its session ends, by itself; and where one was is where one comes back to.
#[tokio::test]
async fn a_page_that_renews_itself_is_left_with_its_session() {
    let site = Site::start().await;
    let adam = person(&site, "adam", Role::Administrator).await;
    let browser = signed_in(&site, &adam, Looks::default()).await;
    browser.go("/fleet").await;
    // Something new is there without a click.
    let before = browser.text("[data-live] .facts").await;
    token_called(&site, "olga", "One more", PermissionSet::TELEGRAF_AGENT).await;
    while browser.text("[data-live] .facts").await == before {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    site.replica_reaches(site.revoke(&adam).await).await;
    browser.until_path("/sign-in?next=%2Ffleet").await;
}

/// A browser has few connections to a host over HTTP/1.1: no tab keeps one.
#[tokio::test]
async fn ten_tabs_that_renew_themselves_all_load() {
    let site = Site::start().await;
    let browser = signed_in(&site, &site.owner, Looks::default()).await;
    for tab in 0..10 {
        if tab > 0 {
            browser.open_tab().await;
        }
        browser.go("/fleet").await;
        browser.says("[data-live]", "Up to date").await;
    }
    browser.go("/tokens").await;
    browser.says("tbody", "olga").await;
}
