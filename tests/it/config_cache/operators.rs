//! What operators see of the cache, and do with it. Never what is in it.

use std::process::Output;

use serde_json::Value;

use super::{PATH, assert_stored, cached, fetched, is_away};
use crate::harness::{Client, Site, eventually, run};

pub(super) async fn tollgate(site: &Site, arguments: &[&str]) -> Output {
    let admin = site.sidecar.admin().to_string();
    let mut all: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    all.extend(["--admin-listen".to_owned(), admin]);
    let run = move || run(&all.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    tokio::task::spawn_blocking(run).await.expect("runs")
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

async fn admin(site: &Site, request: &str) -> String {
    let mut client = Client::connect(site.sidecar.admin()).await;
    client.send(request).await;
    String::from_utf8(client.rest().await).expect("text")
}

#[tokio::test]
async fn what_is_stored_is_listed_and_forgotten_but_not_shown() {
    let site = cached().start().await;
    fetched(&site, PATH, "password = 1").await;
    fetched(&site, "/c/other", "password = 2").await;
    is_away(&site);
    assert_stored(&site.get(PATH, &site.agent).await, "password = 1");
    let list = text(&tollgate(&site, &["cache", "list"]).await);
    assert!(list.contains(PATH) && list.contains("/c/other") && !list.contains("password"), "{list}");
    let list: Value = serde_json::from_str(&text(&tollgate(&site, &["cache", "list", "--json"]).await)).expect("JSON");
    assert_eq!((&list[0]["path"], &list[0]["hits"]), (&PATH.into(), &1.into()), "{list}");
    assert!(list[0]["bytes"].as_u64().is_some_and(|bytes| bytes > 12) && list[0]["age_seconds"].is_u64(), "{list}");

    assert_eq!(text(&tollgate(&site, &["cache", "purge", "/api/configs/1/toml"]).await), "1 forgotten\n");
    assert_eq!(site.get(PATH, &site.agent).await.status(), 503);
    assert_stored(&site.get("/c/other", &site.agent).await, "password = 2");
    assert_eq!(text(&tollgate(&site, &["cache", "purge", "--all"]).await), "1 forgotten\n");
    assert_eq!(site.get("/c/other", &site.agent).await.status(), 503);
}

#[tokio::test]
async fn a_sidecar_without_the_cache_says_so() {
    let site = Site::start().await;
    let output = tollgate(&site, &["cache", "list"]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(said.contains("config_cache.enabled is false"), "{said}");
    assert!(!site.metrics().await.contains("\ntollgate_config_cache"), "no value");
}

/// A web page cannot forget them by a name that leads to this host.
#[tokio::test]
async fn only_this_host_by_its_own_name_is_answered() {
    let site = cached().start().await;
    fetched(&site, PATH, "interval = 1").await;
    for method in ["GET", "DELETE"] {
        let request = format!("{method} /config-cache HTTP/1.1\r\nHost: evil.example:80\r\nConnection: close\r\n\r\n");
        assert!(admin(&site, &request).await.starts_with("HTTP/1.1 403 "));
    }
    let posted = admin(&site, "POST /config-cache HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").await;
    assert!(posted.starts_with("HTTP/1.1 40"), "{posted}");
    is_away(&site);
    assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
}

#[tokio::test]
async fn an_outage_shows() {
    let site = cached().start().await;
    fetched(&site, PATH, "interval = 1").await;
    assert_eq!(site.metric("tollgate_config_cache_open").await, "0");
    is_away(&site);
    assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
    for (name, value) in [("open", "1"), ("served_total", "1"), ("outages_total", "1"), ("entries", "1")] {
        assert_eq!(site.metric(&format!("tollgate_config_cache_{name}")).await, value, "{name}");
    }
    let ready = admin(&site, "GET /readyz HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").await;
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("the Controller has been away for"), "{ready}");
    let url = format!("sqlite:{}", site.directory().join("tollgate.db").display());
    let is_reported = || async {
        let url = url.clone();
        let status = tokio::task::spawn_blocking(move || run(&["--store", &url, "status"], &[])).await.expect("runs");
        text(&status).contains("agents get what is stored (1 configurations, given 1 times)")
    };
    eventually("the outage in `tollgate status`", is_reported).await;
    site.api.otherwise(|| crate::harness::Script::reply(super::configuration("interval = 2")));
    assert_eq!(site.get(PATH, &site.agent).await.text(), "interval = 2");
    assert_eq!(site.metric("tollgate_config_cache_open").await, "0");
}
