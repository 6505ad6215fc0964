//! Each flow step by step, as people go through it.

use serde_json::Value;

use super::dialogs::until_closed;
use super::*;

/// See, create, revoke, delete: the value is shown once, and whoever uses the token is refused at once.
#[tokio::test]
async fn a_token_is_made_shown_once_revoked_and_deleted() {
    let site = Site::start().await;
    let browser = signed_in(&site, &site.owner, Looks::default()).await;
    browser.click("a[href='/tokens/new']").await;
    browser.is_at("/tokens/new").await;
    browser.fill("#description", "Web servers").await;
    browser.click("main form .primary").await;
    browser.says("h1", "API Token created").await;
    let value = browser.property("#value", "value").await;
    let raw = value.as_str().expect("a value").to_owned();
    let (digits, hint) = (raw.strip_prefix("tc-apiv1_").expect("a token"), &raw[raw.len() - 6..]);
    assert_eq!(digits.len(), 64);
    assert!(!browser.path().await.contains(digits), "in no address");
    // What was shown is wiped before the page is left, and is not on the page after it.
    browser.script("const link = document.querySelector('[data-acknowledge]'); link.addEventListener('click', event => event.preventDefault()); link.click()").await;
    assert_eq!(browser.property("#value", "value").await, Value::String(String::new()));
    browser.go("/tokens").await;
    browser.says("tbody", "Web servers").await;
    let page = browser.script("return document.documentElement.outerHTML").await;
    assert!(!page.as_str().expect("a page").contains(digits) && page.as_str().expect("a page").contains(hint));
    // Sent once more, the form makes nothing.
    let count = browser.count("tbody tr").await;
    browser.script("history.back()").await;
    browser.go("/tokens").await;
    assert_eq!(browser.count("tbody tr").await, count);

    let token = Token { raw, id: site.agent.id };
    site.replica_is_current().await;
    assert_eq!(site.beat(&token).await.status(), 200);
    browser.click(".title a").await;
    browser.says("h1", "Web servers").await;
    browser.click(".tabs a:nth-child(3)").await;
    browser.click("a[href$='/revoke']").await;
    browser.says("dialog h1", "Revoke API token").await;
    browser.says("dialog", "cannot be undone").await;
    let focus = browser.script("return document.activeElement.textContent").await;
    assert_eq!(focus, "Cancel", "the focus is on the harmless button");
    browser.click("dialog .danger").await;
    browser.says("#notices", "Revoked “Web servers”.").await;
    browser.says("#notices", "Refused by the only sidecar").await;
    assert_eq!(site.beat(&token).await.status(), 401);
    browser.says(".head .pill", "Revoked").await;
    browser.click(".tabs a:nth-child(2)").await;
    browser.says(".history", "Revoked").await;
    browser.click(".tabs a:nth-child(3)").await;
    browser.click("a[href$='/delete']").await;
    browser.says("dialog", "neither the record nor its history stays").await;
    browser.click("dialog .danger").await;
    browser.is_at("/tokens").await;
    browser.says("#notices", "Deleted “Web servers”.").await;
    assert!(!browser.text("tbody").await.contains("Web servers"));
}

/// Tick rows, or all that match: the count is named, above ten it is typed, and another set of equal size is refused.
#[tokio::test]
async fn many_are_done_at_once_and_are_those_that_were_seen() {
    let site = Site::start().await;
    for number in 0..12 {
        token_called(&site, "olga", &format!("batch {number}"), PermissionSet::TELEGRAF_AGENT).await;
    }
    let browser = signed_in(&site, &site.owner, Looks::default()).await;
    browser.go("/tokens?text=batch").await;
    browser.click("td.pick input").await;
    browser.click("tr:nth-child(2) td.pick input").await;
    browser.click("button[value=revoke]").await;
    browser.says("dialog h1", "Revoke 2 API tokens").await;
    browser.click("dialog .danger").await;
    browser.says("#notices", "Revoked 2 tokens.").await;
    // All that match, with the number typed. Meanwhile one goes and another comes.
    let confirm = async || {
        browser.go("/tokens?text=batch").await;
        browser.click("[data-all]").await;
        browser.click("button[value=delete]").await;
        browser.says("dialog h1", "Delete 12 API tokens").await;
        browser.fill("#typed", "12").await;
    };
    confirm().await;
    let listed = site.registry.tokens(&operator(), &Default::default(), None, 1).await.expect("lists");
    site.registry.delete(&operator(), &[listed[0].0.id], false).await.expect("deletes");
    token_called(&site, "olga", "batch of somebody else's", PermissionSet::TELEGRAF_AGENT).await;
    browser.click("dialog .danger").await;
    browser.says("h1", "Nothing was done").await;
    browser.says("main", "other tokens by now").await;
    confirm().await;
    browser.click("dialog .danger").await;
    browser.says("#notices", "Deleted 12 tokens.").await;
    browser.says("main", "No token matches").await;
    let left = site.registry.tokens(&operator(), &Default::default(), None, 10).await.expect("lists");
    assert_eq!(left.len(), 2, "the two that the site began with");
}

/// Reassign, from the row's menu, with what depends on it; then rotate, and look at what the trail says.
#[tokio::test]
async fn a_token_moves_to_another_user_and_is_rotated() {
    let site = Site::start().await;
    site.registry.store().record(&[]).await.expect("records");
    site.user("max", Role::Manager).await;
    let token = token_called(&site, "olga", "Gateways", PermissionSet::TELEGRAF_AGENT).await;
    used_by(&site, token.id, &["gateway-1", "gateway-2"]).await;
    let browser = signed_in(&site, &site.owner, Looks::default()).await;
    browser.says("tbody tr:first-child", "2 agents in 24 h").await;
    browser.click("tbody tr:first-child summary").await;
    browser.click("tbody tr:first-child a[href$='/reassign']").await;
    browser.says("dialog .blast", "2 agents used this token in the last 24 h.").await;
    browser.says("dialog .blast", "gateway-1").await;
    browser.fill("#to", "max").await;
    browser.click("dialog .primary").await;
    browser.says("#notices", "Reassigned “Gateways”.").await;
    browser.says(".head", "max").await;
    assert_eq!(site.beat(&token).await.status(), 200, "it works on");
    // Of a Manager a token is made by the Manager, or by whoever manages the Manager.
    browser.click(".tabs a:nth-child(3)").await;
    browser.click("a[href$='/rotate']").await;
    browser.says(".blast", "agents used this token").await;
    browser.click("main form .primary").await;
    browser.says("h1", "API Token rotated").await;
    browser.says(".facts", "The old one ends").await;
    let raw = browser.property("#value", "value").await.as_str().expect("a value").to_owned();
    site.replica_is_current().await;
    assert_eq!(site.beat(&Token { raw, id: token.id }).await.status(), 200);
    assert_eq!(site.beat(&token).await.status(), 200, "both, for a while");
    browser.go("/audit").await;
    browser.says("tbody", "token.rotate").await;
    browser.says("tbody", "token.reassign").await;
    browser.says("tbody", "127.0.0.1").await;
    browser.click(".head form button").await;
    browser.says("#notices", "The chain holds").await;
}

/// Users, as far as tokens need them; and by the keyboard alone.
#[tokio::test]
async fn users_are_added_disabled_and_deleted_by_the_keyboard() {
    const TAB: &str = "\u{e004}";
    const ENTER: &str = "\u{e007}";
    const ESCAPE: &str = "\u{e00c}";
    let site = Site::start().await;
    let browser = signed_in(&site, &site.owner, Looks::default()).await;
    browser.go("/add-user").await;
    browser.fill("#name", "max").await;
    browser.press(&[ENTER]).await;
    browser.says("#notices", "Added max.").await;
    let token = token_called(&site, "max", "Plant", PermissionSet::TELEGRAF_AGENT).await;
    // The first thing that Tab reaches leads past the navigation.
    browser.go("/users/max").await;
    browser.press(&[TAB]).await;
    assert_eq!(browser.script("return document.activeElement.className").await, "skip");
    let focus = async |selector: &str| browser.script(&format!("document.querySelector(\"{selector}\").focus()")).await;
    focus("a[href$='/disable']").await;
    browser.press(&[ENTER]).await;
    browser.says("dialog h1", "Disable user").await;
    browser.press(&[ESCAPE]).await;
    until_closed(&browser).await;
    assert_eq!(site.beat(&token).await.status(), 200, "nothing was done");
    focus("a[href$='/disable']").await;
    browser.press(&[ENTER]).await;
    browser.says("dialog", "This user has 1 token.").await;
    browser.press(&[TAB, ENTER]).await;
    browser.says("#notices", "Disabled max.").await;
    assert_eq!(site.beat(&token).await.status(), 401);
    browser.click("a[href$='/delete']").await;
    browser.click("dialog .danger").await;
    browser.says("#notices", "Deleted max and 1 token.").await;
    browser.go("/fleet").await;
    browser.says("[data-live]", "Up to date").await;
}
