//! Several sidecars on one store: what they report, who waits for them, and what operators see.

use std::io::{BufRead as _, BufReader};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tollgate::store::Reported;

use crate::harness::{CONFIG, Program, Site, Upstream, eventually, within};

/// Two sidecars on one SQLite file.
struct Pair {
    one: Program,
    two: Program,
    _upstreams: (Upstream, Upstream),
}

impl Pair {
    async fn start() -> Self {
        let upstreams = (Upstream::start().await, Upstream::start().await);
        let one = Program::start(&upstreams.0, &upstreams.1, &[("NAME", "edge-1")]);
        let two = one.beside(&upstreams.0, &upstreams.1, &[("NAME", "edge-2")]);
        let pair = Self { one, two, _upstreams: upstreams };
        let both = async || json(&pair.one.run(&["status", "--json"]))["sidecars"].as_array().map(Vec::len) == Some(2);
        eventually("both have reported", both).await;
        pair
    }

    /// A new token's id.
    fn token(&self) -> String {
        let created = self.one.run(&["token", "create", "--user", "owner", "--description", "x", "--json"]);
        json(&created)["id"].as_str().expect("an id").to_owned()
    }
}

#[track_caller]
fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

#[track_caller]
fn json(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_waits_until_all_sidecars_have_applied_it() {
    let pair = Pair::start().await;
    let said = stdout(&pair.one.run(&["token", "revoke", &pair.token(), "--wait", "--timeout", "30s"]));
    println!("{said}");
    let line = said.lines().last().expect("a line");
    assert!(line.starts_with("applied by all 2 sidecars in ") && line.contains(" ms (slowest: edge-"), "{said}");

    let id = pair.token();
    let said = json(&pair.one.run(&["token", "delete", &id, "--wait", "--json"]));
    assert_eq!(said["tokens"][0]["id"], id.as_str());
    let wait = &said["wait"];
    assert_eq!((&wait["sidecars"], &wait["applied"], &wait["missing"]), (&2.into(), &2.into(), &Value::Array(vec![])));
    assert!(wait["milliseconds"].as_f64().is_some_and(|milliseconds| milliseconds > 0.0), "{said}");

    // What was revoked before needs no waiting, and without --wait the form is a list.
    let id = pair.token();
    assert_eq!(json(&pair.one.run(&["token", "revoke", &id, "--json"]))[0]["id"], id.as_str());
    stdout(&pair.one.run(&["token", "revoke", &id, "--wait", "--timeout", "30s"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_does_not_apply_it_is_named() {
    let pair = Pair::start().await;
    let id = pair.token();
    pair.two.signal("STOP");
    let ended = pair.one.run(&["token", "revoke", &id, "--wait", "--timeout", "3s"]);
    let said = String::from_utf8(ended.stderr).expect("text");
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("by 1 of 2 sidecars: edge-2 (at revision "), "{said}");
    assert!(!said.contains("edge-1"), "{said}");
    assert!(String::from_utf8(ended.stdout).expect("text").contains("revoked"), "the token is");

    let id = pair.token();
    let ended = pair.one.run(&["token", "revoke", &id, "--wait", "--timeout", "3s", "--json"]);
    assert_eq!(ended.status.code(), Some(1));
    let said: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    assert_eq!(said["wait"]["missing"][0]["name"], "edge-2");
    assert_eq!(said["wait"]["applied"], 1);

    pair.two.signal("CONT");
    stdout(&pair.one.run(&["token", "revoke", &id, "--wait", "--timeout", "30s"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_shows_the_store_and_every_sidecar() {
    let pair = Pair::start().await;
    let current = || async {
        let status = json(&pair.one.run(&["status", "--json"]));
        let sidecars = status["sidecars"].as_array().expect("a list").clone();
        sidecars.len() == 2 && sidecars.iter().all(|sidecar| sidecar["revision"] == status["revision"])
    };
    eventually("both are at the store's revision", current).await;
    let status = json(&pair.one.run(&["status", "--json"]));
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&status), ["epoch", "recalled", "revision", "sidecars", "store", "tokens"]);
    let expected = ["connections", "id", "name", "revision", "staleness_seconds", "started_at", "version"];
    assert_eq!(keys(&status["sidecars"][0]), expected);
    assert_eq!(status["tokens"], 1);
    assert_eq!((&status["sidecars"][0]["name"], &status["sidecars"][1]["name"]), (&"edge-1".into(), &"edge-2".into()));

    let text = stdout(&pair.one.run(&["status"]));
    println!("{text}");
    assert!(text.contains("revision") && text.contains("edge-2") && text.contains(env!("CARGO_PKG_VERSION")), "{text}");
    assert!(text.contains(&pair.two.address().to_string()), "{text}");

    pair.two.signal("TERM");
    assert!(pair.two.ended().await.success());
    let status = json(&pair.one.run(&["status", "--json"]));
    assert_eq!(status["sidecars"].as_array().map(Vec::len), Some(1), "who stops in good order is gone: {status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidecars_of_one_host_have_different_names() {
    let upstreams = (Upstream::start().await, Upstream::start().await);
    let one = Program::start(&upstreams.0, &upstreams.1, &[]);
    let names = |count| {
        let status = json(&one.run(&["status", "--json"]));
        let sidecars = status["sidecars"].as_array().expect("a list");
        let names: Vec<_> = sidecars.iter().map(|sidecar| sidecar["name"].as_str().expect("text").to_owned()).collect();
        (names.len() == count).then_some(names)
    };
    eventually("the first reports", async || names(1).is_some()).await;
    let host = names(1).expect("it reports").remove(0);
    let two = one.beside(&upstreams.0, &upstreams.1, &[]);
    eventually("the second reports", async || names(2).is_some()).await;
    let mut expected = [one.address(), two.address()].map(|address| format!("{host}:{}", address.port()));
    expected.sort();
    assert_eq!(names(2).expect("both report"), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_can_be_watched() {
    let upstreams = (Upstream::start().await, Upstream::start().await);
    let program = Program::start(&upstreams.0, &upstreams.1, &[]);
    let mut watch = program.command(&["status", "--watch", "--json"]).stdout(Stdio::piped()).spawn().expect("runs");
    let lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
    let looks = tokio::task::spawn_blocking(move || {
        lines
            .take(2)
            .map(|line| serde_json::from_str::<Value>(&line.expect("reads")).expect("JSON"))
            .collect::<Vec<_>>()
    });
    let looks = within("two looks", looks).await.expect("reads");
    assert!(looks.iter().all(|look| look["revision"] == 1), "{looks:?}");
    watch.kill().expect("runs");
    watch.wait().expect("ends");
}

/// The one report of a site's sidecar.
async fn report(site: &Site) -> Option<Reported> {
    let mut sidecars = site.registry.store().sidecars().await.expect("reads");
    assert!(sidecars.len() <= 1, "{sidecars:?}");
    sidecars.pop()
}

#[tokio::test]
async fn a_report_follows_what_is_applied_and_is_taken_back_at_the_end() {
    let site = Site::builder().setting("NAME", "edge-7").start().await;
    let revision = site.revoke(&site.agent).await;
    let applied = || async { report(&site).await.and_then(|reported| reported.report.applied) };
    eventually("the revocation is reported", || async {
        applied().await.is_some_and(|(_, applied)| applied >= revision)
    })
    .await;
    let reported = report(&site).await.expect("one").report;
    assert_eq!((reported.name.as_str(), reported.address), ("edge-7", site.address().to_string()));
    assert!(reported.staleness_ms.is_some());
    let Site { sidecar, registry, .. } = site;
    within("the sidecar stops", sidecar.stop()).await;
    assert!(registry.store().sidecars().await.expect("reads").is_empty());
}

#[tokio::test]
async fn reports_that_fail_are_counted_and_disturb_nobody() {
    let site = Site::start().await;
    let client = site.connect().await;
    eventually("the connection is counted", || async {
        site.metrics().await.contains("tollgate_connections_open 1\n")
    })
    .await;
    let said = site.metrics().await;
    let revision = site.revision().await;
    for line in ["tollgate_ready 1", "tollgate_store_reports_failed_total 0", "tollgate_replica_grants 2"] {
        assert!(said.contains(&format!("\n{line}\n")), "{line}: {said}");
    }
    assert!(said.contains(&format!("\ntollgate_replica_revision {revision}\n")), "{said}");
    site.store.set_broken(true);
    eventually("the failures are counted", || async {
        let said = site.metrics().await;
        ["reads", "reports"].iter().all(|kind| !said.contains(&format!("tollgate_store_{kind}_failed_total 0\n")))
    })
    .await;
    assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
    drop(client);
    eventually("no connection is left", || async { site.metrics().await.contains("tollgate_connections_open 0\n") })
        .await;
    site.store.set_broken(false);
    let token = site.token("olga", &["configs:read"]).await;
    let revision = site.revoke(&token).await;
    tokio::time::timeout(Duration::from_secs(10), async {
        while report(&site).await.and_then(|reported| reported.report.applied).is_none_or(|at| at.1 < revision) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("reports go on");
}
