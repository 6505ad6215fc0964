//! `--wait`: a receipt is about a commit, from every sidecar that could still let the token in. Whatever else there is, is no
//! yes.

use std::process::Output;
use std::time::{Duration, Instant};

use tollgate::store::{Absent, Batch, Report, SidecarId, TokenFilter};
use tollgate::token::Role;

use crate::harness::fleet::{open, settings};
use crate::harness::{CONFIG, Fleet, RedisServer, Relay, Serving, Site, Traffic, Upstream, address_of, eventually};
use crate::redis::{id_of, import, stdout, tollgate};
use tollgate_harness::pair::{Pair, run};

/// Exit code 1, and why.
fn refused(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    said
}

/// The commit is lost with its primary, and its number given to another one, which all sidecars apply.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_was_lost_is_not_vouched_for_by_the_next_of_its_number() {
    let pair = Pair::start().await;
    let primary = pair.primary.address();
    let mut fleet = Fleet::behind_relays(pair, primary, 0).await;
    let [revoked] = fleet.tokens().await;
    let id = fleet.oracle.ids(&[revoked])[0].to_string();
    fleet.redis.is_in_step().await;
    let revision = async |server: &RedisServer| run(server, &["HGET", "{tollgate}:meta", "revision"]).await;
    let before: u64 = revision(&fleet.redis.primary).await.parse().expect("a number");
    fleet.redis.part().await;
    for relay in &fleet.relays {
        relay.set(Traffic::Stalls).await;
    }
    let operator = Relay::start(primary).await;
    let url = format!("redis://{}", operator.address());
    let command = ["token", "revoke", id.as_str(), "--wait", "--timeout", "6s"];
    let lose = async {
        let number = (before + 1).to_string();
        eventually("it is committed", async || revision(&fleet.redis.primary).await == number).await;
        fleet.redis.promote().await;
        let primary = fleet.redis.primary.address();
        fleet.use_registry_at(&format!("redis://{primary}"), 0).await;
        fleet.oracle.add_user(Role::Manager).await.expect("adds");
        assert_eq!(revision(&fleet.redis.primary).await, number, "another commit has its number");
        for relay in fleet.relays.iter().chain([&operator]) {
            relay.lead_to(primary);
            relay.reset().await;
            relay.heal().await;
        }
        fleet.is_level().await;
    };
    let (ended, ()) = tokio::join!(tollgate(&url, 0, &command), lose);
    let said = refused(&ended);
    assert!(said.contains("there is no receipt: the store has lost the commit"), "{said}");
    fleet.answers(0, revoked, 200).await;
}

/// The store loses the first ones, and the others are committed to what is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_commit_of_a_command_must_be_there_in_the_end() {
    let (server, mut older) = (RedisServer::start(), RedisServer::start());
    let url = server.url();
    stdout(&tollgate(&url, 0, &["init"]).await);
    stdout(&tollgate(&url, 0, &["user", "add", "fleet", "--role", "manager"]).await);
    let line =
        |n| format!(r#"{{"digest":"{n:064x}","user":"fleet","description":"x","permissions":["configs:read"]}}"#);
    let lines = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(lines.path(), (0..2000).map(|n| line(n) + "\n").collect::<String>()).expect("writes");
    stdout(&tollgate(&url, 0, &["token", "import", lines.path().to_str().expect("plain")]).await);
    let store = open(&settings(&url, 0), Absent::Refuse).await;
    let owner = store.user_by_name("fleet").await.expect("reads").expect("is there").record.id;
    let filter = TokenFilter { owner: Some(owner), ..TokenFilter::default() };
    let tokens = store.tokens(filter, None, 2000).await.expect("reads");
    let ids: Vec<_> = tokens.iter().map(|token| token.record.id.to_string()).collect();
    let before = store.position().await.expect("reads").revision;
    server.cli(&["SAVE"]);
    std::fs::copy(server.directory().join("dump.rdb"), older.directory().join("dump.rdb")).expect("copies");
    older.restart();

    let operator = Relay::start(server.address()).await;
    operator.set(Traffic::Slow(Duration::from_millis(150))).await;
    let url = format!("redis://{}", operator.address());
    let ids = ids.iter().map(String::as_str);
    let command: Vec<_> = ["token", "revoke", "--yes", "--wait", "--timeout", "3s"].into_iter().chain(ids).collect();
    let lose = async {
        eventually("two commits", async || store.position().await.expect("reads").revision.0 == before.0 + 2).await;
        // The answer to the second one arrives, the third one does not.
        tokio::time::sleep(Duration::from_millis(200)).await;
        operator.lead_to(older.address());
        operator.reset().await;
    };
    let (ended, ()) = tokio::join!(tollgate(&url, 0, &command), lose);
    let said = refused(&ended);
    assert!(said.contains("there is no receipt: the store has lost the commit"), "{said}");
}

/// Asserts that who revokes this token now and waits gets no receipt, since reports may be lost.
async fn may_have_lost_reports(fleet: &Fleet, id: &str) {
    let ended = tollgate(&fleet.redis.url(), 0, &["token", "revoke", id, "--wait", "--timeout", "3s"]).await;
    let said = refused(&ended);
    assert!(said.contains("may have lost reports"), "{said}");
}

/// A sidecar that is cut off is not in the reports that an older file brings back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_may_have_lost_reports_gives_no_receipt() {
    let mut fleet = Fleet::start(&[]).await;
    fleet.redis.has_all_reports();
    let [revoked] = fleet.tokens().await;
    let id = fleet.oracle.ids(&[revoked])[0].to_string();
    let address = address_of(&fleet.sidecars[2]).to_string();
    let reports = fleet.store().sidecars().await.expect("reads");
    let cut_off = reports.iter().find(|reported| reported.report.address == address).expect("it reports").report.id;
    fleet.relays[2].set(Traffic::Cut).await;
    fleet.redis_does(&["DEL", &format!("{{tollgate}}:sidecar:{cut_off}")]).await;
    fleet.redis_does(&["SAVE"]).await;
    fleet.restart_redis();
    may_have_lost_reports(&fleet, &id).await;
}

/// It has lost everything, and was made anew: whoever was cut off before serves on by the registry before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_was_made_anew_gives_no_receipt() {
    let fleet = Fleet::start(&[]).await;
    fleet.redis.has_all_reports();
    fleet.redis_does(&["FLUSHALL"]).await;
    let (_, id) = init(&fleet.redis.url()).await;
    let reports = || async { fleet.store().sidecars().await.expect("reads").len() };
    eventually("they report again", async || reports().await == 3).await;
    may_have_lost_reports(&fleet, &id).await;
}

/// It was never demoted while another one was in charge, and may lack what was reported there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_primary_that_is_in_charge_again_gives_no_receipt() {
    let pair = Pair::start().await;
    let first = pair.primary.address();
    let mut fleet = Fleet::behind_relays(pair, first, 0).await;
    fleet.redis.primary.has_all_reports();
    let names = fleet.tokens::<2>().await;
    let ids: Vec<_> = fleet.oracle.ids(&names).iter().map(ToString::to_string).collect();
    let url = format!("redis://{first}");
    let revoke = async |id: &str| tollgate(&url, 0, &["token", "revoke", id, "--wait", "--timeout", "3s"]).await;
    let said = stdout(&revoke(&ids[0]).await);
    assert!(said.contains("applied by all 3 sidecars"), "{said}");
    fleet.redis.is_in_step().await;
    fleet.redis.promote().await;
    let second = fleet.redis.primary.address();
    let lead_to = async |server| {
        for relay in &fleet.relays {
            relay.lead_to(server);
            relay.reset().await;
            relay.heal().await;
        }
    };
    let there = open(&settings(&format!("redis://{second}"), 0), Absent::Refuse).await;
    for reported in there.sidecars().await.expect("reads") {
        there.withdraw(reported.report.id).await.expect("withdraws");
    }
    lead_to(second).await;
    eventually("they report to the second one", async || there.sidecars().await.expect("reads").len() == 3).await;
    lead_to(first).await;
    let said = refused(&revoke(&ids[1]).await);
    assert!(said.contains("may have lost reports"), "{said}");
}

/// A report has a time to live, so a policy that spares the registry takes reports.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_evicts_gives_no_receipt() {
    let mut fleet = Fleet::start(&[]).await;
    fleet.redis.has_all_reports();
    let [revoked] = fleet.tokens().await;
    let id = fleet.oracle.ids(&[revoked])[0].to_string();
    fleet.relays[2].set(Traffic::Cut).await;
    fleet.redis_does(&["CONFIG", "SET", "maxmemory-policy", "volatile-ttl"]).await;
    fleet.redis_does(&["SET", "other", "x", "EX", "1000"]).await;
    fleet.redis_does(&["CONFIG", "SET", "maxmemory", "1"]).await;
    eventually("it evicts", async || !run(&fleet.redis, &["GET", "other"]).await.contains('x')).await;
    fleet.redis_does(&["CONFIG", "SET", "maxmemory", "0"]).await;
    may_have_lost_reports(&fleet, &id).await;
}

/// Without a report that stands, no probe makes a sidecar fresh.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_is_fresh_only_while_the_store_has_its_report() {
    let mut fleet = Fleet::start(&[]).await;
    let [token] = fleet.tokens().await;
    fleet.answers(0, token, 200).await;
    let reports = || async { fleet.store().sidecars().await.expect("reads") };
    fleet.redis_does(&["ACL", "SETUSER", "default", "-set"]).await;
    for reported in reports().await {
        fleet.redis_does(&["DEL", &format!("{{tollgate}}:sidecar:{}", reported.report.id)]).await;
    }
    for sidecar in 0..fleet.sidecars.len() {
        fleet.answers(sidecar, token, 503).await;
    }
    fleet.redis_does(&["ACL", "SETUSER", "default", "+set"]).await;
    for sidecar in 0..fleet.sidecars.len() {
        fleet.answers(sidecar, token, 200).await;
    }
    assert_eq!(reports().await.len(), 3);
}

/// One that stops and leaves a file to start from can let the token in again at once. It stays in the reports, as itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_can_start_from_its_file_is_waited_for() {
    let site = Site::builder()
        .config_in(|config, directory| config.snapshot_file = Some(directory.join("replica.snapshot")))
        .start()
        .await;
    let reports = async |site: &Site| site.registry.store().sidecars().await.expect("reads");
    eventually("it reports", async || reports(&site).await.len() == 1).await;
    let before = reports(&site).await.remove(0).report;
    let registry = site.registry.clone();
    let restarted = site.restart_after(move || {}).await;
    eventually("it reports again", async || {
        let reports = registry.store().sidecars().await.expect("reads");
        reports.len() == 1 && reports[0].report.started_at > before.started_at
    })
    .await;
    let after = reports(&restarted).await.remove(0).report;
    assert_eq!(after.id, before.id, "whoever waits knows that it is the same");
    assert_eq!(restarted.get(CONFIG, &restarted.agent).await.status(), 200);
    restarted.sidecar.stop().await;
    assert_eq!(registry.store().sidecars().await.expect("reads").len(), 1, "it may start again");
}

/// Its file is older than what it has reported. It is killed, and the store is away when it starts again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_reported_to_be_out_stays_out_after_a_crash() {
    let mut redis = RedisServer::start();
    let url = redis.url();
    let (token, id) = init(&url).await;
    let (directory, api) = (tempfile::tempdir().expect("a directory"), Upstream::start().await);
    let (file, api) = (directory.path().join("replica.snapshot"), format!("http://{}", api.address()));
    let variables = [
        ("TOLLGATE_UPSTREAM__API__URL", api.as_str()),
        ("TOLLGATE_STORE__SNAPSHOT_FILE", file.to_str().expect("plain")),
    ];
    let sidecar = Serving::start(&url, &variables).await;
    eventually("the file is written", async || file.exists()).await;
    assert_eq!(sidecar.fetch(&token).await, 200);
    redis.has_all_reports();
    stdout(&tollgate(&url, 0, &["token", "revoke", &id, "--wait", "--timeout", "30s"]).await);
    redis.kill();
    sidecar.kill();
    let mut sidecar = Serving::start(&url, &variables).await;
    sidecar.says("the replica was loaded from the snapshot file").await;
    assert_eq!(sidecar.fetch(&token).await, 503);
}

/// The copy would report under the id that is in it, each of the two in the other's place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_was_set_up_from_a_copy_is_waited_for() {
    let redis = RedisServer::start();
    let url = redis.url();
    let (token, id) = init(&url).await;
    let (folder, api) = (tempfile::tempdir().expect("a directory"), Upstream::start().await);
    let (api, file) = (format!("http://{}", api.address()), |name: &str| folder.path().join(name).join("snapshot"));
    let start = async |name, url: &str| {
        let file = file(name);
        let variables = [
            ("TOLLGATE_UPSTREAM__API__URL", api.as_str()),
            ("TOLLGATE_STORE__SNAPSHOT_FILE", file.to_str().expect("plain")),
        ];
        let sidecar = Serving::start(url, &variables).await;
        eventually("it serves", async || sidecar.fetch(&token).await == 200).await;
        sidecar
    };
    for name in ["one", "two"] {
        std::fs::create_dir(folder.path().join(name)).expect("creates");
    }
    let one = start("one", &url).await;
    eventually("the file is written", async || file("one").exists()).await;
    for extension in ["", ".id"] {
        let at = |name| format!("{}{extension}", file(name).display());
        assert!(std::fs::copy(at("one"), at("two")).expect("copies") > 0);
    }
    let relay = Relay::start(redis.address()).await;
    let two = start("two", &format!("redis://{}", relay.address())).await;
    // Each one is the same again after a crash.
    one.kill();
    let _one = start("one", &url).await;
    eventually("the copy's file is written", async || {
        let ids = ["one", "two"].map(|name| std::fs::read(file(name).with_added_extension("id")).expect("reads"));
        ids[0] != ids[1]
    })
    .await;
    two.kill();
    let two = start("two", &format!("redis://{}", relay.address())).await;
    let create = ["token", "create", "--user", "owner", "--description", "x", "--wait"];
    redis.has_all_reports();
    let created = tollgate(&url, 0, &create).await;
    let said = String::from_utf8_lossy(&created.stderr).into_owned();
    assert!(said.contains("applied by all 2 sidecars"), "{said}");

    relay.set(Traffic::Cut).await;
    let said = refused(&tollgate(&url, 0, &["token", "revoke", &id, "--wait", "--timeout", "1s"]).await);
    assert!(said.contains("by 1 of 2 sidecars"), "{said}");
    assert_eq!(two.fetch(&token).await, 200, "it was not told");
}

/// What is left of a user who is deleted is cheaper to read than how they went: for a sidecar, and not for who asks what was
/// applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_deletion_has_its_receipt_whatever_is_committed_beside_it() {
    let redis = RedisServer::start();
    let url = redis.url();
    init(&url).await;
    stdout(&tollgate(&url, 0, &["user", "add", "bulk", "--role", "manager"]).await);
    let store = open(&settings(&url, 0), Absent::Refuse).await;
    let bulk = store.user_by_name("bulk").await.expect("reads").expect("is there");
    import(&*store, bulk.record.id, "token", 20_000).await;
    let _sidecar = Serving::start(&url, &[]).await;
    redis.has_all_reports();
    let before = store.position().await.expect("reads").revision.0;
    let delete = ["user", "delete", "bulk", "--yes", "--wait", "--timeout", "30s"];
    let beside = async {
        let is_under_way = async || store.position().await.expect("reads").revision.0 > before + 2;
        eventually("some are deleted", is_under_way).await;
        store.commit(Batch::default()).await.expect("commits");
    };
    let (deleted, ()) = tokio::join!(tollgate(&url, 0, &delete), beside);
    let said = stdout(&deleted);
    assert!(said.contains("applied by the only sidecar"), "{said}");
}

/// A registry with one token, and the token's id.
async fn init(url: &str) -> (String, String) {
    stdout(&tollgate(url, 0, &["init"]).await);
    let create = ["token", "create", "--user", "owner", "--description", "x", "--json"];
    let created = stdout(&tollgate(url, 0, &create).await);
    let token: serde_json::Value = serde_json::from_str(&created).expect("JSON");
    (token["token"].as_str().expect("its value").to_owned(), id_of(&created))
}

/// A report that names a revision and not what was committed: from a version before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_tells_the_number_only_is_no_yes() {
    let server = RedisServer::start();
    let url = server.url();
    stdout(&tollgate(&url, 0, &["init"]).await);
    let create = ["token", "create", "--user", "owner", "--description", "x", "--json"];
    let id = id_of(&stdout(&tollgate(&url, 0, &create).await));
    let store = open(&settings(&url, 0), Absent::Refuse).await;
    let position = store.position().await.expect("reads");
    let mut report: Report = serde_json::from_value(serde_json::json!({
        "id": 7, "name": "old", "version": "0.0.9", "address": "127.0.0.1:1", "started_at": "2026-01-02T03:04:05Z",
        "applied": [position.epoch, position.revision.0 + 9], "staleness_ms": 1, "connections": 0,
    }))
    .expect("a report of the version before");
    store.report(&report, Duration::from_secs(60)).await.expect("reports");
    let revoke = ["token", "revoke", &id, "--wait", "--timeout", "200ms"];
    let said = refused(&tollgate(&url, 0, &revoke).await);
    assert!(said.contains("old (version 0.0.9, which gives no receipts"), "{said}");
    // Nor is one that somebody wrote in another's place.
    report.id = SidecarId(8);
    let text = format!("60000 {}", serde_json::to_string(&report).expect("serializes"));
    server.cli(&["SET", "{tollgate}:sidecar:0000000000000007", &text, "PX", "60000"]);
    let said = refused(&tollgate(&url, 0, &revoke).await);
    assert!(said.contains("no sidecar reports to this store"), "{said}");
}

/// An import that is repeated finds all tokens, and has no receipt for them yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_were_there_are_waited_for_too() {
    let fleet = Fleet::start(&[]).await;
    fleet.redis.has_all_reports();
    let url = fleet.redis.url();
    stdout(&tollgate(&url, 0, &["user", "add", "max", "--role", "manager"]).await);
    for relay in &fleet.relays {
        relay.set(Traffic::Stalls).await;
    }
    let line =
        format!(r#"{{"digest":"{}","user":"max","description":"z","permissions":["configs:read"]}}"#, "ab".repeat(32));
    let lines = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(lines.path(), line).expect("writes");
    let import = ["token", "import", lines.path().to_str().expect("plain"), "--skip-existing", "--wait", "--timeout"];
    for _ in 0..2 {
        let said = refused(&tollgate(&url, 0, &[&import[..], &["200ms"]].concat()).await);
        assert!(said.contains("of 3 sidecars"), "{said}");
    }
    for relay in &fleet.relays {
        relay.set(Traffic::Flows).await;
    }
    let said = stdout(&tollgate(&url, 0, &[&import[..], &["30s"]].concat()).await);
    assert!(said.contains("skipped 1 that existed") && said.contains("applied by all 3 sidecars"), "{said}");
}

/// Every command that takes something away, or gives something that shall work everywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_that_changes_who_gets_in_can_wait() {
    let fleet = Fleet::start(&[]).await;
    fleet.redis.has_all_reports();
    let url = fleet.redis.url();
    let run = async |arguments: &[&str]| tollgate(&url, 0, arguments).await;
    for (name, role) in [("anna", "administrator"), ("max", "manager"), ("rita", "manager")] {
        stdout(&run(&["user", "add", name, "--role", role]).await);
    }
    let began = Instant::now();
    let create = run(&["token", "create", "--user", "max", "--description", "x", "--wait"]).await;
    let (out, err) = (stdout(&create), String::from_utf8_lossy(&create.stderr).into_owned());
    assert!(out.starts_with("tc-apiv1_") && !out.contains('\n'), "the token is alone: {out}");
    assert!(err.contains("applied by all 3 sidecars"), "{err}");
    let create = ["token", "create", "--user", "max", "--description", "y", "--wait", "--json"];
    let created: serde_json::Value = serde_json::from_str(&stdout(&run(&create).await)).expect("JSON");
    assert_eq!((&created["wait"]["applied"], &created["wait"]["sidecars"]), (&3.into(), &3.into()));
    let id = created["id"].as_str().expect("an id");
    let line =
        format!(r#"{{"digest":"{}","user":"max","description":"z","permissions":["configs:read"]}}"#, "ab".repeat(32));
    let lines = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(lines.path(), line).expect("writes");
    for command in [
        &["token", "import", lines.path().to_str().expect("plain"), "--wait"][..],
        &["token", "reassign", id, "--to", "rita", "--wait"],
        &["user", "disable", "rita", "--yes", "--wait"],
        &["user", "set-role", "max", "viewer", "--yes", "--wait"],
        &["user", "delete", "rita", "--yes", "--wait"],
        &["user", "transfer-ownership", "anna", "--yes", "--wait"],
    ] {
        let said = stdout(&run(command).await);
        assert!(said.contains("applied by all 3 sidecars"), "{command:?}: {said}");
    }
    println!("all of them within {:?}", began.elapsed());
}
