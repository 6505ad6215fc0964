//! Every page, in both themes and at three widths: nothing is cut, and axe finds nothing. Pictures of them for people to look
//! at, in `target/screenshots`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;

/// Where axe-core is, if `tests/run.sh` has fetched it.
fn axe() -> Option<String> {
    let place = concat!(env!("CARGO_MANIFEST_DIR"), "/target/axe/package/axe.min.js");
    std::fs::read_to_string(place).ok()
}

/// Looks at a page: what is wider than the window, and what axe finds.
async fn look(browser: &Browser, axe: Option<&str>, name: &str, folder: &Path) -> Vec<String> {
    std::fs::write(folder.join(format!("{name}.png")), browser.picture().await).expect("writes");
    let wide = browser
        .script("return document.documentElement.scrollWidth > document.documentElement.clientWidth ? [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1 && !e.closest('nav, .vh')).map(e => e.outerHTML.slice(0, 120)) : []")
        .await;
    let mut faults: Vec<_> =
        wide.as_array().expect("a list").iter().map(|part| format!("{name}: cut: {part}")).collect();
    if let Some(axe) = axe {
        browser.script(axe).await;
        let found = browser
            .script_async("const done = arguments[arguments.length - 1]; axe.run(document, { resultTypes: ['violations'] }).then(found => done(found.violations.map(v => v.id + ': ' + v.help + ': ' + v.nodes.map(n => n.html + ' ' + n.failureSummary).join(' | '))), error => done([String(error)]))")
            .await;
        let found = found.as_array().cloned().unwrap_or_default();
        faults.extend(found.iter().map(|fault: &Value| format!("{name}: {fault}")));
    }
    faults
}

/// Enough of everything that no page is empty.
async fn furnished() -> (Site, Token) {
    let site = Site::start().await;
    site.registry.store().record(&[]).await.expect("records");
    site.user("adam", Role::Administrator).await;
    site.user("fleet-operations@plant-7.example", Role::Manager).await;
    let agent = PermissionSet::TELEGRAF_AGENT;
    for (user, description) in [
        ("fleet-operations@plant-7.example", "Presses, hall 3"),
        (
            "fleet-operations@plant-7.example",
            "Edge gateways with a description that goes on for rather longer than anybody would like, Rotterdam",
        ),
        ("adam", "Weather station <b>north</b>"),
        ("adam", "Database hosts"),
        ("olga", "Continuous integration"),
    ] {
        let token = token_called(&site, user, description, agent).await;
        used_by(&site, token.id, &["press-1", "press-2", "press-3", "press-4", "press-5", "press-6"]).await;
    }
    let gone = token_called(&site, "adam", "Decommissioned rack", agent).await;
    site.revoke(&gone).await;
    let late = token_called(&site, "adam", "Trade fair demonstrator", agent).await;
    site.expire(&late).await;
    let web = token_called(&site, "olga", "Web servers", agent).await;
    used_by(&site, web.id, &["web-1", "web-2", "web-3", "web-4", "web-5", "web-6", "web-7"]).await;
    site.replica_is_current().await;
    (site, web)
}

async fn tour(looks: Looks, name: &str) -> Vec<String> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/screenshots"));
    std::fs::create_dir_all(&folder).expect("makes it");
    let (axe, (site, web)) = (axe(), furnished().await);
    let browser = Browser::open(site.sidecar.admin(), looks).await;
    let mut faults = Vec::new();
    browser.go("/sign-in").await;
    browser.says("h1", "Sign in").await;
    faults.extend(look(&browser, axe.as_deref(), &format!("sign-in-{name}"), &folder).await);
    sign_in(&browser, &site.owner).await;
    browser.is_at("/tokens").await;
    let id = web.id;
    for (page, path) in [
        ("tokens", "/tokens".to_owned()),
        ("tokens-filtered", "/tokens?text=e&state=active&user=olga&sort=-last-used".to_owned()),
        ("tokens-none", "/tokens?text=nothing+is+called+so".to_owned()),
        ("token", format!("/tokens/{id}")),
        ("token-history", format!("/tokens/{id}/history")),
        ("token-manage", format!("/tokens/{id}/manage")),
        ("token-delete", format!("/tokens/{id}/delete")),
        ("token-reassign", format!("/tokens/{id}/reassign")),
        ("token-rotate", format!("/tokens/{id}/rotate")),
        ("create", "/tokens/new".to_owned()),
        ("users", "/users".to_owned()),
        ("user", "/users/adam".to_owned()),
        ("user-delete", "/users/adam/delete".to_owned()),
        ("user-add", "/add-user".to_owned()),
        ("sidecars", "/fleet".to_owned()),
        ("audit", "/audit".to_owned()),
        ("not-found", "/nowhere".to_owned()),
    ] {
        browser.go(&path).await;
        browser.says("body", "Tollgate").await;
        faults.extend(look(&browser, axe.as_deref(), &format!("{page}-{name}"), &folder).await);
    }
    browser.go("/tokens").await;
    browser.click("td.pick input").await;
    browser.click("tr:nth-child(3) td.pick input").await;
    browser.says("[data-count]", "2 selected").await;
    faults.extend(look(&browser, axe.as_deref(), &format!("tokens-selected-{name}"), &folder).await);
    browser.click("button[value=delete]").await;
    browser.says("dialog h1", "Delete 2 API tokens").await;
    faults.extend(look(&browser, axe.as_deref(), &format!("tokens-dialog-{name}"), &folder).await);
    browser.go("/tokens/new").await;
    browser.click("#custom").await;
    faults.extend(look(&browser, axe.as_deref(), &format!("create-custom-{name}"), &folder).await);
    browser.click("input[value=telegraf-agent]").await;
    browser.fill("#description", "Pictured").await;
    browser.click("main form .primary").await;
    browser.says("h1", "API Token created").await;
    faults.extend(look(&browser, axe.as_deref(), &format!("created-{name}"), &folder).await);
    browser.go(&format!("/tokens/{id}/revoke")).await;
    browser.click("main .danger").await;
    browser.says("#notices", "Revoked “Web servers”").await;
    faults.extend(look(&browser, axe.as_deref(), &format!("revoked-{name}"), &folder).await);
    faults
}

async fn at_each_width(is_dark: bool, theme: &str) {
    let mut faults = Vec::new();
    for width in [360, 768, 1280] {
        faults.extend(tour(Looks { width, is_dark, ..Looks::default() }, &format!("{width}-{theme}")).await);
    }
    assert_eq!(faults, Vec::<String>::new());
}

#[tokio::test]
async fn nothing_is_cut_and_everybody_can_use_it_in_the_light() {
    at_each_width(false, "light").await;
}

#[tokio::test]
async fn nothing_is_cut_and_everybody_can_use_it_in_the_dark() {
    at_each_width(true, "dark").await;
}
