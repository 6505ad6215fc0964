//! Two processes with one directory, as while one takes over from the other: one of them writes.

use std::fs;
use std::sync::Arc;

use rustix::process::Signal;

use super::disk::ready;
use super::{LATER, MODIFIED, PATH, assert_fresh, assert_stored, configuration, modified};
use crate::harness::{Client, Program, Reply, Script, Upstream, eventually, request, scripted};
use crate::take_over::{LISTENER, Line, configuration as settings, registry};

fn fetch(token: &str, path: &str) -> String {
    request("GET", path, &format!("Authorization: Bearer {token}\r\n"))
}

async fn fetched(client: &mut Client, token: &str, path: &str) -> Reply {
    client.send(fetch(token, path)).await;
    client.reply().await
}

/// What the one before fetches when another one serves is neither written over what is newer, nor back when it was deleted.
#[tokio::test]
async fn one_that_drains_writes_nothing_over_what_its_successor_knows() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let (directory, token) = registry();
    let stored = directory.path().join("configs");
    let more = "[timeouts]\ndrain = '10m'";
    let text = settings(&api, &heartbeat, LISTENER, more)
        + &format!("[config_cache]\nenabled = true\ndirectory = '{}'\n", stored.display());
    let mut line = Line::with(Arc::clone(&directory), token.clone(), &text, |_| {}).await;
    let old = line.process();
    let slow = api.next_in_pieces();
    let mut running = Client::connect(line.listener).await;
    running.send(fetch(&token, "/c/one")).await;
    api.until("the request", |seen| seen.requests.len() == 1).await;
    let mut kept = Client::connect(line.listener).await;
    api.next(Script::reply(configuration("kept")));
    assert_eq!(fetched(&mut kept, &token, "/c/kept").await.text(), "kept");
    line.take_over().await;

    api.next(Script::reply(configuration("by the old one")));
    assert_eq!(fetched(&mut kept, &token, "/c/two").await.text(), "by the old one");
    let mut new = Client::connect(line.listener).await;
    api.next(Script::reply(modified(LATER, "newer")));
    assert_eq!(fetched(&mut new, &token, "/c/one").await.text(), "newer");
    slow.send(configuration("older").into_bytes()).await.expect("takes it");
    assert_eq!(running.reply().await.text(), "older");
    line.has_ended(old).await;
    api.next(Script::reply(scripted("404 Not Found", "", "gone")));
    assert_eq!(fetched(&mut new, &token, "/c/two").await.status(), 404);
    line.signal(Signal::TERM);
    line.says("stopped").await;
    line.has_ended(line.process()).await;

    drop(api.kill().await);
    let line = Line::with(directory, token.clone(), &text, |_| {}).await;
    let mut client = Client::connect(line.listener).await;
    assert_stored(&fetched(&mut client, &token, "/c/one").await, "newer");
    assert_stored(&fetched(&mut client, &token, "/c/kept").await, "kept");
    assert_eq!(fetched(&mut client, &token, "/c/two").await.status(), 502);
}

/// One that was listed before the other one wrote it, even if that was killed.
#[tokio::test]
async fn what_another_process_stored_is_found_when_it_has_ended() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let directory = tempfile::tempdir().expect("a directory");
    let variables = [
        ("CONFIG_CACHE__ENABLED", "true"),
        ("CONFIG_CACHE__DIRECTORY", directory.path().to_str().expect("a plain path")),
    ];
    let first = Program::start(&api, &heartbeat, &variables);
    let second = first.beside(&api, &heartbeat, &variables);
    let token = first.token.clone();
    let files = || {
        let files = fs::read_dir(directory.path()).expect("a directory").map(|entry| entry.expect("an entry").path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "config")).count()
    };
    let mut client = Client::connect(second.address()).await;
    api.next(Script::reply(configuration("of the second")));
    assert_fresh(&fetched(&mut client, &token, "/c/second").await);
    let mut client = Client::connect(first.address()).await;
    api.next(Script::reply(modified(MODIFIED, "of the first")));
    assert_fresh(&fetched(&mut client, &token, PATH).await);
    eventually("the file of the first", || async { files() == 1 }).await;
    let said = ready(&second).await;
    assert!(said.starts_with("HTTP/1.1 200 ") && said.contains("another process has config_cache.directory"), "{said}");

    drop((first, api.kill().await));
    eventually("the file of the second", || async { files() == 2 }).await;
    let said = ready(&second).await;
    assert!(!said.contains("another process"), "{said}");
    let mut client = Client::connect(second.address()).await;
    assert_stored(&fetched(&mut client, &token, PATH).await, "of the first");
}
