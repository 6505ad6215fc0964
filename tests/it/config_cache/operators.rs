//! What operators see of the cache, and do with it. Never what is in it.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::process::Output;

use serde_json::Value;

use super::{PATH, assert_stored, cached, fetched, is_away, with};
use crate::harness::{Client, Site, eventually, get, run};

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

/// A proxy before the admin listener, and a page in a browser here, come from this host, whoever sends them.
#[tokio::test]
async fn the_admin_listener_takes_no_commands() {
    let site = cached().start().await;
    fetched(&site, PATH, "interval = 1").await;
    for host in [site.sidecar.admin().to_string(), "localhost".to_owned()] {
        for line in
            ["GET /config-cache", "DELETE /config-cache", "DELETE /config-cache?path=/c/a", "POST /config-cache"]
        {
            let request = format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let reply = admin(&site, &request).await;
            assert!(reply.starts_with("HTTP/1.1 40") && !reply.contains("/api/configs/1"), "{line}: {reply}");
        }
    }
    is_away(&site);
    assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
}

/// What the sidecar says to a command as another user has it; nothing, where it does not hear it.
fn command(admin: SocketAddr, user: Option<u32>, line: &str) -> String {
    if let Some(user) = user {
        let user = rustix::process::Uid::from_raw(user);
        rustix::thread::set_thread_res_uid(user, user, user).expect("root may");
    }
    let address = UnixAddress::from_abstract_name(format!("tollgate/{admin}")).expect("a name");
    let mut stream = UnixStream::connect_addr(&address).expect("listens");
    let sent = write!(stream, "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut said = String::new();
    match sent.and_then(|()| stream.read_to_string(&mut said)) {
        Ok(_) => said,
        Err(error) => {
            assert!(user.is_some() && said.is_empty(), "{error}: {said}");
            said
        }
    }
}

#[tokio::test]
async fn commands_are_taken_of_the_sidecars_own_user_and_root() {
    let site = cached().start().await;
    fetched(&site, PATH, "interval = 1").await;
    let at = site.sidecar.admin();
    // On a thread of its own, which is another user from then on.
    let command = |user, line: &'static str| async move {
        let thread = std::thread::spawn(move || command(at, user, line));
        tokio::task::spawn_blocking(|| thread.join().expect("ends")).await.expect("ends")
    };
    assert!(command(None, "GET /config-cache").await.starts_with("HTTP/1.1 200 "));
    if rustix::process::geteuid().is_root() {
        for line in ["GET /config-cache", "DELETE /config-cache"] {
            assert_eq!(command(Some(65_534), line).await, "");
        }
    }
    // What is not understood is not taken for everything.
    for line in [
        "DELETE /config-cache?x=1",
        "DELETE /config-cache/c/a?x=1",
        "DELETE /config-cache/../a",
        "DELETE /config-cachet",
        "POST /config-cache",
    ] {
        let said = command(None, line).await;
        assert!(said.starts_with("HTTP/1.1 40"), "{line}: {said}");
    }
    is_away(&site);
    assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
}

#[tokio::test]
async fn what_is_purged_is_named_as_it_is_listed_and_must_be_there() {
    let site = cached().start().await;
    fetched(&site, PATH, "interval = 1").await;
    let nothing = tollgate(&site, &["cache", "purge", "/c/nothing"]).await;
    assert_eq!(nothing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("nothing is stored of /c/nothing"), "{nothing:?}");
    assert_eq!(text(&tollgate(&site, &["cache", "purge", PATH]).await), "1 forgotten\n");
    assert_eq!(text(&tollgate(&site, &["cache", "purge", "--all"]).await), "0 forgotten\n");
}

#[tokio::test]
async fn what_is_not_given_any_more_is_not_listed() {
    let site = cached().setting("CONFIG_CACHE__MAX_AGE", "1ms").start().await;
    fetched(&site, PATH, "interval = 1").await;
    let is_empty = || async { text(&tollgate(&site, &["cache", "list", "--json"]).await).trim() == "[]" };
    eventually("it is too old", is_empty).await;
}

/// What the client got is what the access log says, and the Controller's time is not Tollgate's.
#[tokio::test]
async fn the_access_log_says_what_was_given() {
    let site = cached().setting("ACCESS_LOG__FORMAT", "json").config_in(|config, directory| {
        config.access_log.output = directory.join("access.log").display().to_string().parse().expect("a path");
    });
    let site = site.start().await;
    let path = site.directory().join("access.log");
    let lines = async |count: usize| {
        let read = || std::fs::read_to_string(&path).unwrap_or_default();
        eventually("a line", || async { read().ends_with('\n') && read().lines().count() == count }).await;
        serde_json::from_str::<Value>(read().lines().last().expect("a line")).expect("JSON")
    };
    let pieces = site.api.next_in_pieces();
    let mut client = site.connect().await;
    client.send(get(PATH, &site.agent)).await;
    site.api.until("the fetch", |seen| !seen.requests.is_empty()).await;
    pieces.send(super::configuration("interval = 1").into()).await.expect("takes it");
    drop(pieces);
    assert_eq!(client.reply().await.text(), "interval = 1");
    let line = lines(1).await;
    assert!(line["upstream_ms"].is_number(), "{line}");
    is_away(&site);
    let reply = site.send(with(&site.agent, "HEAD", PATH, "")).await;
    assert_eq!(reply.status(), 200);
    let line = lines(2).await;
    assert_eq!((&line["status"], &line["outcome"]), (&200.into(), &"stored".into()), "{line}");
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
