//! All of it without scripts: plain links and forms.

use super::*;

#[tokio::test]
async fn everything_works_without_scripts() {
    let site = Site::start().await;
    site.user("max", Role::Manager).await;
    let one = token_called(&site, "olga", "Scriptless one", PermissionSet::TELEGRAF_AGENT).await;
    token_called(&site, "olga", "Scriptless two", PermissionSet::TELEGRAF_AGENT).await;
    let browser = signed_in(&site, &site.owner, Looks { has_scripts: false, ..Looks::default() }).await;
    // Search, and take the filter away.
    browser.fill("input[name=text]", "scriptless").await;
    browser.click(".filters button").await;
    browser.is_at("/tokens?text=scriptless").await;
    assert_eq!(browser.count("tbody tr").await, 2);
    // A token that somebody pastes is looked for, and is in no address.
    browser.fill("input[name=text]", &one.raw).await;
    browser.click(".filters button").await;
    browser.is_at(&format!("/tokens?text={}", &one.raw[one.raw.len() - 6..])).await;
    browser.says("tbody", "Scriptless one").await;
    browser.go("/tokens?text=scriptless").await;
    browser.click(".chips a").await;
    browser.until_path("/tokens").await;
    // Create, with single permissions and a whole row of them.
    browser.go("/tokens/new").await;
    browser.fill("#description", "Scriptless three").await;
    browser.click("#custom").await;
    browser.click("fieldset summary").await;
    browser.click("input[value=labels]").await;
    browser.click("input[value='configs:read']").await;
    browser.click("main form .primary").await;
    browser.says("h1", "API Token created").await;
    browser.says(".facts", "configs:read, labels:read, labels:write, labels:delete").await;
    browser.click("[data-acknowledge]").await;
    browser.says("h1", "Scriptless three").await;
    // Reassign and revoke one, delete several.
    browser.click(".tabs a:nth-child(3)").await;
    browser.click("a[href$='/reassign']").await;
    browser.fill("#to", "max").await;
    browser.click("main form .primary").await;
    browser.says("#notices", "Reassigned “Scriptless three”.").await;
    browser.click(".tabs a:nth-child(3)").await;
    browser.click("a[href$='/revoke']").await;
    browser.click("main form .danger").await;
    browser.says("#notices", "Revoked “Scriptless three”.").await;
    browser.go("/tokens?text=scriptless").await;
    browser.click("button[value=delete]").await;
    browser.says("h1", "No token is selected").await;
    browser.says("main", "Select at least one token first").await;
    browser.go("/tokens?text=scriptless").await;
    browser.click("[data-all]").await;
    browser.click("button[value=delete]").await;
    browser.says("h1", "Delete 3 API tokens").await;
    browser.click("main form .danger").await;
    browser.says("#notices", "Deleted 3 tokens.").await;
    browser.click(".who button").await;
    browser.is_at("/sign-in").await;
}
