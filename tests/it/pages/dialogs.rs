//! What asks first, by the keyboard and by hasty clicks.

use super::*;
use crate::harness::eventually;

const ENTER: &str = "\u{e007}";
const ESCAPE: &str = "\u{e00c}";
const SPACE: &str = " ";
const TAB: &str = "\u{e004}";

/// What the focus is on, by its name.
async fn focus(browser: &Browser) -> String {
    let name = "const at = document.activeElement; return at.getAttribute('aria-label') || at.textContent.trim()";
    browser.script(name).await.as_str().expect("a name").to_owned()
}

pub(super) async fn until_closed(browser: &Browser) {
    eventually("no dialog", || async { browser.count("dialog").await == 0 }).await;
}

#[tokio::test]
async fn the_focus_comes_back_to_where_it_was() {
    let site = Site::start().await;
    let browser = signed_in(&site, &site.owner, Looks::default()).await;
    token_called(&site, "olga", "Presses", PermissionSet::TELEGRAF_AGENT).await;
    browser.go("/tokens").await;
    browser.script("document.querySelector('tbody tr:first-child summary').focus()").await;
    browser.press(&[ENTER, TAB, TAB, TAB, ENTER]).await;
    browser.says("dialog h1", "Revoke API token").await;
    assert_eq!(focus(&browser).await, "Cancel");
    browser.press(&[ESCAPE]).await;
    until_closed(&browser).await;
    assert_eq!(focus(&browser).await, "Actions for Presses");
    // What says that it is a button is pressed like one.
    browser.go(&format!("/tokens/{}/manage", site.agent.id)).await;
    browser.script("document.querySelector(\"a[href$='/revoke']\").focus()").await;
    browser.press(&[ENTER]).await;
    browser.says("dialog h1", "Revoke API token").await;
    browser.press(&[SPACE]).await;
    until_closed(&browser).await;
    assert_eq!(focus(&browser).await, "Revoke");
    assert_eq!(site.beat(&site.agent).await.status(), 200, "nothing was done");
    // From the bar above the list, too.
    browser.go("/tokens").await;
    browser.click("td.pick input").await;
    browser.click("button[value=revoke]").await;
    browser.says("dialog h1", "Revoke API token").await;
    browser.press(&[ESCAPE]).await;
    until_closed(&browser).await;
    assert_eq!(focus(&browser).await, "Revoke");
}

#[tokio::test]
async fn two_clicks_ask_once_and_nothing_is_asked_about_nothing() {
    let site = Site::start().await;
    let browser = signed_in(&site, &site.owner, Looks::default()).await;
    browser.go(&format!("/tokens/{}/manage", site.agent.id)).await;
    // The replies to both would be there before that of the last.
    let twice = "const done = arguments[arguments.length - 1]; const link = document.querySelector(\"a[href$='/revoke']\"); \
                 let asked = 0; const real = window.fetch; window.fetch = (...all) => { asked++; return real(...all); }; \
                 link.click(); link.click(); const look = () => document.querySelector('dialog') ? done(asked) : setTimeout(look, 20); look()";
    assert_eq!(browser.script_async(twice).await, 1);
    assert_eq!(browser.count("dialog").await, 1);
    browser.press(&[ESCAPE]).await;
    until_closed(&browser).await;
    browser.click("a[href$='/revoke']").await;
    browser.says("dialog h1", "Revoke API token").await;
    browser.go("/tokens").await;
    browser.click("button[value=delete]").await;
    browser.says("[data-count]", "Select at least one token first").await;
    browser.until_path("/tokens").await;
    browser.click("td.pick input").await;
    browser.says("[data-count]", "1 selected").await;
}

#[tokio::test]
async fn single_permissions_are_in_view_as_soon_as_one_wants_to_choose_them() {
    let site = Site::start().await;
    let browser = signed_in(&site, &site.owner, Looks::default()).await;
    browser.go("/tokens/new").await;
    assert_eq!(browser.property("fieldset details", "open").await, false);
    browser.click("#custom").await;
    assert_eq!(browser.property("fieldset details", "open").await, true);
    browser.click("input[value=telegraf-agent]").await;
    assert_eq!(browser.property("fieldset details", "open").await, false);
    browser.click("fieldset summary").await;
    browser.click("input[value='configs:read']").await;
    assert_eq!(browser.property("#custom", "checked").await, true);
    assert_eq!(browser.property("fieldset details", "open").await, true);
}
