//! What pages ask for by themselves.

use super::*;
use crate::harness::within;

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

/// That no answer comes is said in words, whether it fails or does not end; and no longer than that.
#[tokio::test]
async fn a_page_that_gets_no_answer_says_so() {
    let site = Site::start().await;
    let browser = signed_in(&site, &site.owner, Looks::default()).await;
    browser.go("/fleet").await;
    browser.says("[data-live]", "Up to date").await;
    assert_eq!(browser.text("[data-late]").await, "");
    assert_eq!(browser.property("[data-late]", "role").await, "status");
    site.store.set_broken(true);
    browser.says("[data-late]", "No answer since ").await;
    assert_eq!(browser.count("[data-live].stale").await, 1);
    site.store.set_broken(false);
    until_silent(&browser).await;
    assert_eq!(browser.count("[data-live].stale").await, 0);
    // A question that would be answered in a quarter of an hour is asked anew.
    browser.slow(Some(Duration::from_secs(900))).await;
    browser.says("[data-late]", "No answer since ").await;
    browser.slow(None).await;
    until_silent(&browser).await;
}

async fn until_silent(browser: &Browser) {
    within("an answer", async {
        while !browser.text("[data-late]").await.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// What somebody has marked, to copy it, stays marked while the rest is renewed.
#[tokio::test]
async fn what_is_marked_stays_marked() {
    let site = Site::start().await;
    let browser = signed_in(&site, &site.owner, Looks::default()).await;
    browser.go("/fleet").await;
    let marked = browser
        .script("const range = document.createRange(); range.selectNodeContents(document.querySelector('dd.mono')); getSelection().removeAllRanges(); getSelection().addRange(range); return String(getSelection())")
        .await;
    let before = browser.text("[data-live] .facts").await;
    token_called(&site, "olga", "One more", PermissionSet::TELEGRAF_AGENT).await;
    while browser.text("[data-live] .facts").await == before {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(browser.script("return String(getSelection())").await, marked);
    // More sidecars are there with the others.
    let store = site.registry.store();
    let mut other = store.sidecars().await.expect("reads").remove(0).report;
    (other.id, other.name) = (tollgate::store::SidecarId(7), "another-one".to_owned());
    store.report(&other, Duration::from_secs(60)).await.expect("reports");
    browser.says("[data-live] tbody", "another-one").await;
    assert_eq!(browser.script("return String(getSelection())").await, marked);
}
