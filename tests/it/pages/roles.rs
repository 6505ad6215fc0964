//! The same pages for each of the four roles.

use super::*;

/// What everybody does who may have tokens, from its beginning to its end.
async fn creates_revokes_and_deletes(site: &Site, browser: &Browser, user: &str) {
    // Create: the value is shown this once, with that warning, and it works.
    let described = |name: &str| format!("{name} of {user}");
    browser.go("/tokens").await;
    browser.click(".head a.primary").await;
    browser.fill("#description", &described("Presses")).await;
    browser.fill("#expires", "90 days").await;
    browser.click("main form .primary").await;
    browser.says("h1", "API Token created").await;
    browser.says(".made", "it is shown this once, and cannot be had again").await;
    browser.says(".facts", "in 3 months").await;
    let raw = browser.property("#value", "value").await.as_str().expect("a value").to_owned();
    site.replica_is_current().await;
    assert_eq!(site.beat(&Token { raw: raw.clone(), id: site.agent.id }).await.status(), 200);
    // Whoever leaves takes it off the page, before a browser can keep the page to go back to.
    browser.script("window.dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))").await;
    let left =
        browser.script("return document.documentElement.outerHTML + document.querySelector('#value').value").await;
    assert!(!left.as_str().expect("a page").contains(&raw[9..]));
    // Revoke, from its row: it stays in the list, and says since when.
    browser.go("/tokens").await;
    browser.says("tbody tr:first-child", &described("Presses")).await;
    browser.click("tbody tr:first-child summary").await;
    browser.click("tbody tr:first-child a[href$='/revoke']").await;
    browser.says("dialog", "cannot be undone").await;
    browser.click("dialog .danger").await;
    browser.says("#notices", &format!("Revoked “{}”.", described("Presses"))).await;
    assert_eq!(site.beat(&Token { raw, id: site.agent.id }).await.status(), 401);
    browser.go("/tokens?state=revoked").await;
    browser.says("tbody tr:first-child [data-label=Status]", "Revoked").await;
    browser.says("tbody tr:first-child [data-label=Expires]", "revoked").await;
    assert_eq!(browser.count("tbody tr:first-child [data-label=Created] time").await, 1);
    // Delete, from its page: it is nowhere.
    browser.click(".title a").await;
    browser.click(".tabs a:nth-child(3)").await;
    browser.click("a[href$='/delete']").await;
    browser.says("dialog", "neither the record nor its history stays").await;
    browser.click("dialog .danger").await;
    browser.says("#notices", &format!("Deleted “{}”.", described("Presses"))).await;
    browser.go("/tokens?text=presses").await;
    browser.says("main", "No token matches").await;
    // Several at once.
    for number in 1..=3 {
        token_called(site, user, &described(&format!("Batch {number}")), PermissionSet::TELEGRAF_AGENT).await;
    }
    for (verb, dialog, done) in
        [("revoke", "Revoke 3 API tokens", "Revoked 3 tokens."), ("delete", "Delete 3 API tokens", "Deleted 3 tokens.")]
    {
        browser.go("/tokens?text=batch").await;
        for row in 1..=3 {
            browser.click(&format!("tr:nth-child({row}) td.pick input")).await;
        }
        browser.says("[data-count]", "3 selected").await;
        browser.click(&format!("button[value={verb}]")).await;
        browser.says("dialog h1", dialog).await;
        browser.says("dialog .blast", "used").await;
        browser.click("dialog .danger").await;
        browser.says("#notices", done).await;
    }
    browser.go("/tokens?text=batch").await;
    browser.says("main", "No token matches").await;
}

/// What the Owner and Administrators do besides: one from its row, and several from the bar above the list.
async fn reassigns(site: &Site, browser: &Browser, user: &str, to: &str) {
    let mut moved = Vec::new();
    for number in 1..=3 {
        let description = format!("Moving {number} of {user}");
        moved.push(token_called(site, user, &description, PermissionSet::TELEGRAF_AGENT).await);
    }
    browser.go("/tokens?text=moving").await;
    browser.click("tbody tr:first-child summary").await;
    browser.click("tbody tr:first-child a[href$='/reassign']").await;
    browser.fill("#to", to).await;
    browser.click("dialog .primary").await;
    browser.says("#notices", "Reassigned").await;
    browser.go(&format!("/tokens?text=moving&user={user}")).await;
    browser.click("[data-page]").await;
    browser.click("button[value=reassign]").await;
    browser.says("dialog h1", "Reassign 2 API tokens").await;
    browser.fill("#to", to).await;
    browser.click("dialog .primary").await;
    browser.says("#notices", "Reassigned 2 tokens.").await;
    browser.go(&format!("/tokens?text=moving&user={to}")).await;
    browser.says("nav[aria-label=Pages]", "of 3").await;
    for token in &moved {
        assert_eq!(site.beat(token).await.status(), 200, "agents go on");
    }
    site.registry
        .delete(&operator(), &moved.iter().map(|token| token.id).collect::<Vec<_>>(), false)
        .await
        .expect("deletes");
}

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
    creates_revokes_and_deletes(&site, &browser, "max").await;
    browser.click(".who button").await;
    browser.is_at("/sign-in").await;

    // An Administrator does all of it for everybody, but manages no Administrators.
    sign_in(&browser, &adam).await;
    browser.is_at("/tokens").await;
    browser.says("tbody", "olga").await;
    assert_eq!(browser.count("nav[aria-label=Main] a").await, 4);
    creates_revokes_and_deletes(&site, &browser, "adam").await;
    reassigns(&site, &browser, "adam", "max").await;
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
    creates_revokes_and_deletes(&site, &browser, "olga").await;
    reassigns(&site, &browser, "olga", "max").await;
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
