//! Behind a real nginx, with TLS and below a sub-path, in a real browser.

use std::net::SocketAddr;

use serde_json::Value;
use tollgate_harness::redis::free_port;

use super::*;
use crate::harness::Nginx;

const NAME: &str = "ops.example";

/// From here nginx connects, so that it can be told from its clients.
const NGINX: &str = "127.0.0.8";

/// A site that is reached by nginx only, and where people find it.
async fn published(location: impl FnOnce(SocketAddr) -> String) -> (Site, Nginx, String) {
    let port = free_port();
    let url = format!("https://{NAME}:{port}/tollgate");
    let trusted = vec![format!("{NGINX}/32").parse().expect("a network")];
    let site = Site::builder()
        .setting("ADMIN__PUBLIC_URL", &url)
        .config(|config| config.trusted_proxies = trusted)
        .start()
        .await;
    let location = location(site.sidecar.admin());
    let forwarded = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";
    let rest = format!("location /tollgate/ {{ {location} proxy_bind {NGINX}; {forwarded} }}");
    let nginx = Nginx::start(port, NAME, &rest).await;
    (site, nginx, url)
}

/// Whether every link, form and asset of the page is below the path that is the console's.
async fn stays_below_its_path(browser: &Browser) {
    let elsewhere = browser
        .script(
            "return [...document.querySelectorAll('[href], [action], [src]')].map(e => e.getAttribute('href') ?? \
             e.getAttribute('action') ?? e.getAttribute('src')).filter(to => !to.startsWith('/tollgate/') && !to.startsWith('#'))",
        )
        .await;
    assert_eq!(elsewhere, Value::Array(Vec::new()), "{}", browser.path().await);
    let style = browser.script("return getComputedStyle(document.body).display").await;
    assert_eq!(style, "grid", "the stylesheet was loaded");
}

/// Everything that changes something, and where it leads.
async fn managed(site: &Site, url: &str, is_host_seen: bool) {
    let browser = Browser::open_at(url.to_owned(), Looks::default()).await;
    browser.go("/").await;
    browser.is_at("/sign-in").await;
    browser.fill("#token", &site.owner.raw).await;
    browser.click("main form button").await;
    browser.until_path("/tokens").await;
    let cookies = browser.cookies().await;
    let session = cookies.iter().find(|cookie| cookie["name"] == "__Host-tollgate").expect("a session");
    assert_eq!(
        [&session["path"], &session["secure"], &session["httpOnly"], &session["sameSite"], &session["domain"]],
        [&Value::from("/"), &true.into(), &true.into(), &"Strict".into(), &NAME.into()]
    );
    for path in ["/tokens?sort=owner", "/users", "/fleet", "/audit", "/tokens/new"] {
        browser.go(path).await;
        browser.says("nav[aria-label=Main]", "API Tokens").await;
        stays_below_its_path(&browser).await;
    }
    browser.fill("#description", "Behind nginx").await;
    browser.click("main form .primary").await;
    browser.says("h1", "API Token created").await;
    browser.click("[data-acknowledge]").await;
    browser.says("h1", "Behind nginx").await;
    stays_below_its_path(&browser).await;
    browser.click(".tabs a:nth-child(3)").await;
    browser.click("a[href$='/revoke']").await;
    browser.says("dialog h1", "Revoke API token").await;
    browser.click("dialog .danger").await;
    browser.says("#notices", "Revoked “Behind nginx”.").await;
    browser.is_at("/tokens/").await;
    // Whose it was: the browser's address, by the word of nginx, and not the one that nginx has.
    browser.go("/audit?action=token.revoke").await;
    browser.says("td[data-label=From]", "127.0.0.1").await;
    assert!(!browser.text("tbody").await.contains(NGINX));
    browser.click(".who button").await;
    browser.is_at("/sign-in").await;
    // The same pages by another name of the same nginx: nothing is taken there.
    drop(browser);
    let browser = Browser::open_at(url.replace(NAME, "elsewhere.example"), Looks::default()).await;
    browser.go("/sign-in").await;
    if !is_host_seen {
        browser.fill("#token", &site.owner.raw).await;
        browser.click("main form button").await;
    }
    browser.says("body", if is_host_seen { "misdirected" } else { "Open the console at https://ops.example" }).await;
}

/// As nginx does it by itself: the path is taken away, and `Host` is the address of the console.
#[tokio::test]
async fn with_its_path_taken_away_and_another_host() {
    let (site, _nginx, url) = published(|admin| format!("proxy_pass http://{admin}/;")).await;
    managed(&site, &url, false).await;
}

/// With the path and the `Host` that the browser sent.
#[tokio::test]
async fn with_its_path_and_host_as_they_came() {
    let (site, _nginx, url) =
        published(|admin| format!("proxy_pass http://{admin}; proxy_set_header Host $http_host;")).await;
    managed(&site, &url, true).await;
}
