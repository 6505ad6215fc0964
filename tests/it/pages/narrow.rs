//! Names as long as they may be, on windows of each width: nothing is cut, and nothing is broken that has another place to break.

use std::path::PathBuf;

use super::*;

/// What is wider than the window.
const CUT: &str = "const wide = document.documentElement.clientWidth; return [...document.querySelectorAll('body *')].filter(e => \
                   e.getClientRects().length && !e.closest('.vh, .skip, nav, svg, option') && e.getBoundingClientRect().right > wide + 1).map(e => \
                   e.outerHTML.slice(0, 120))";

/// Lines that the texts of these elements take, each.
async fn lines(browser: &Browser, selector: &str, text: &str) -> Vec<u64> {
    let script = format!(
        "return [...document.querySelectorAll('{selector}')].flatMap(e => {{ \
         const walker = document.createTreeWalker(e, NodeFilter.SHOW_TEXT); const found = []; \
         while (walker.nextNode()) {{ const at = walker.currentNode.data.indexOf('{text}'); if (at < 0) continue; \
         const range = document.createRange(); range.setStart(walker.currentNode, at); range.setEnd(walker.currentNode, at + {}); \
         found.push(new Set([...range.getClientRects()].map(r => Math.round(r.top))).size); }} return found; }})",
        text.len()
    );
    let found = browser.script(&script).await;
    found.as_array().expect("a list").iter().map(|lines| lines.as_u64().expect("a number")).collect()
}

#[tokio::test]
async fn nothing_long_is_cut_and_no_address_is_broken() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/screenshots"));
    std::fs::create_dir_all(&folder).expect("makes it");
    let site = Site::start().await;
    site.registry.store().record(&[]).await.expect("records");
    let long = format!("{0}_{0}_WW", "W".repeat(30));
    site.user(&long, Role::Administrator).await;
    site.user("operations@plant-7", Role::Manager).await;
    token_called(&site, "operations@plant-7", "Presses", PermissionSet::TELEGRAF_AGENT).await;
    let id = token_called(&site, &long, &"W".repeat(200), PermissionSet::TELEGRAF_AGENT).await.id;
    used_by(&site, id, &["rtm-hall3-pressline17-agent-01.plants.example.internal", "web-2", &"h".repeat(60)]).await;
    for (width, is_dark) in [(360, false), (768, true), (1000, false), (1280, true)] {
        let looks = Looks { width, is_dark, ..Looks::default() };
        let browser = signed_in(&site, &site.owner, looks).await;
        for (name, path) in [
            ("tokens", "/tokens".to_owned()),
            ("token", format!("/tokens/{id}")),
            ("history", format!("/tokens/{id}/history")),
            ("rotate", format!("/tokens/{id}/rotate")),
            ("revoke", format!("/tokens/{id}/revoke")),
            ("users", "/users".to_owned()),
            ("user", format!("/users/{long}")),
            ("audit", "/audit".to_owned()),
        ] {
            browser.go(&path).await;
            browser.says("body", "Tollgate").await;
            assert_eq!(browser.script(CUT).await, serde_json::json!([]), "{name} at {width}");
            let picture = folder.join(format!("long-{name}-{width}-{}.png", if is_dark { "dark" } else { "light" }));
            std::fs::write(picture, browser.picture().await).expect("writes");
            let whole = match name {
                "token" => lines(&browser, ".plain td", "10.0.7.").await,
                "tokens" => lines(&browser, "td[data-label=Owner]", "plant-").await,
                "audit" => lines(&browser, "td[data-label=From]", "127.0.0.1").await,
                _ => vec![1],
            };
            assert!(!whole.is_empty() && whole.iter().all(|lines| *lines == 1), "{name} at {width}: {whole:?}");
        }
        // A dialog that is longer than the window begins at its beginning, and its buttons are in view.
        browser.go(&format!("/users/{long}")).await;
        browser.click("a[href$='/transfer-ownership']").await;
        browser.says("dialog h1", "Transfer ownership").await;
        let place = "const shown = document.querySelector('dialog'), own = shown.getBoundingClientRect(); \
                     const title = shown.querySelector('h1').getBoundingClientRect(); \
                     const button = shown.querySelector('.danger').getBoundingClientRect(); \
                     return [shown.scrollTop, title.top - own.top >= 16, own.bottom - button.bottom >= 12]";
        assert_eq!(browser.script(place).await, serde_json::json!([0, true, true]), "at {width}");
        let picture = folder.join(format!("long-dialog-{width}-{}.png", if is_dark { "dark" } else { "light" }));
        std::fs::write(picture, browser.picture().await).expect("writes");
    }
}
