//! The same pages for each of the four roles.

use super::*;

#[tokio::test]
async fn each_role_finds_what_it_may_do() {
    let site = Site::start().await;
    let adam = person(&site, "adam", Role::Administrator).await;
    let max = person(&site, "max", Role::Manager).await;
    site.user("vera", Role::Viewer).await;
    let vera = token_called(&site, "max", "given away", PermissionSet::TELEGRAF_AGENT).await;
    site.registry.reassign(&operator(), &[vera.id], "vera", false).await.expect("reassigns");
    site.replica_is_current().await;
    let browser = Browser::open(site.sidecar.admin(), Looks::default()).await;

    // A Viewer has no such page, and an agent's token is none to sign in with, whoever owns it.
    sign_in(&browser, &vera).await;
    browser.says("[role=alert]", "belongs to a viewer").await;
    sign_in(&browser, &site.agent).await;
    browser.says("[role=alert]", "lacks tokens:read").await;

    // A Manager sees the own tokens, makes, revokes and deletes them, and gives none away.
    sign_in(&browser, &max).await;
    browser.is_at("/tokens").await;
    browser.says("tbody", "max signs in").await;
    assert!(!browser.text("tbody").await.contains("olga"));
    assert_eq!(browser.count("nav[aria-label=Main] a").await, 1);
    assert_eq!(browser.count("button[value=reassign]").await, 0);
    assert_eq!(browser.count("select[name=user]").await, 0);
    browser.go(&format!("/tokens/{}", site.owner.id)).await;
    browser.says("h1", "There is no such thing").await;
    for path in ["/users", "/fleet", "/audit"] {
        browser.go(path).await;
        browser.says("h1", "You may not do this").await;
    }
    browser.go("/tokens/new").await;
    assert_eq!(browser.property("input[value='users:write']", "disabled").await, true);
    assert_eq!(browser.property("input[value='users:write']", "title").await, "not in your role");
    assert_eq!(browser.count("#user").await, 0);
    browser.fill("#description", "Presses").await;
    browser.click("main form .primary").await;
    browser.says("h1", "API Token created").await;
    browser.go("/tokens").await;
    browser.click(".title a").await;
    browser.click(".tabs a:nth-child(3)").await;
    browser.click("a[href$='/revoke']").await;
    browser.click("dialog .danger").await;
    browser.says("#notices", "Revoked “Presses”.").await;
    browser.click(".tabs a:nth-child(3)").await;
    browser.click("a[href$='/delete']").await;
    browser.click("dialog .danger").await;
    browser.says("#notices", "Deleted “Presses”.").await;
    browser.click(".who button").await;
    browser.is_at("/sign-in").await;

    // An Administrator does all of it for everybody, but manages no Administrators.
    sign_in(&browser, &adam).await;
    browser.is_at("/tokens").await;
    browser.says("tbody", "olga").await;
    assert_eq!(browser.count("nav[aria-label=Main] a").await, 4);
    browser.go(&format!("/tokens/{}/reassign", max.id)).await;
    browser.fill("#to", "adam").await;
    browser.click("main form .primary").await;
    browser.says("#notices", "Reassigned").await;
    browser.go(&format!("/tokens/{}/revoke", site.agent.id)).await;
    browser.click("main form .danger").await;
    browser.says("#notices", "Revoked").await;
    browser.go("/users/olga").await;
    browser.says("main", "This is the Owner").await;
    browser.go("/audit").await;
    browser.says("tbody", "sign-in").await;
    browser.click(".who button").await;
    browser.is_at("/sign-in").await;

    // The Owner, besides, passes the ownership on: by typing the name.
    sign_in(&browser, &site.owner).await;
    browser.is_at("/tokens").await;
    browser.go("/users/adam").await;
    browser.click("a[href$='/transfer-ownership']").await;
    browser.fill("#typed", "adam").await;
    browser.click("dialog .danger").await;
    browser.says("#notices", "adam is the Owner now").await;
    // A session ends with its token, at once.
    site.replica_reaches(site.revoke(&site.owner).await).await;
    browser.go("/tokens").await;
    browser.is_at("/sign-in").await;
}
