//! Much is read from replicas, and nothing that they say is taken for the word of the primary.

use std::time::Instant;

use tollgate::replica::{Replica, driver};
use tollgate::store::settings::ReadFrom;
use tollgate::store::{Changes, Feed, Revision, SnapshotItem, Versioned};
use tollgate::token::{TokenRecord, UserId};

use super::restart::as_user;
use super::users::{REGISTRY, SIDECAR, USERS};
use super::*;
use crate::conformance::{Held, commit, revoked, token, tokens, user, users};
use crate::harness::cluster::{OWNER, REPLICA};
use crate::harness::{RedisCluster, SentinelSet, Traffic, eventually, within};
use tollgate_harness::pair::{Pair, run};

fn from_replica(url: &str) -> Settings {
    Settings { read_from: ReadFrom::Replica, ..settings(url) }
}

fn reader(url: &str) -> RedisStore {
    RedisStore::new(&from_replica(url), Retention::default()).expect("a store")
}

/// How often a server was asked for a part of a snapshot.
async fn scans(server: &RedisServer) -> u64 {
    calls(&run(server, &["INFO", "commandstats"]).await)
}

fn calls(stats: &str) -> u64 {
    let line = stats.lines().find_map(|line| line.trim().strip_prefix("cmdstat_hscan:calls="));
    line.and_then(|line| line.split(',').next()).map_or(0, |count| count.parse().expect("a number"))
}

/// Bytes that a server has sent to clients other than replicas.
async fn sent(server: &RedisServer) -> u64 {
    let stats = run(server, &["INFO", "stats"]).await;
    let count = |name: &str| -> u64 {
        let found = stats.lines().find_map(|line| line.trim().strip_prefix(name));
        found.expect("is told").parse().expect("a number")
    };
    count("total_net_output_bytes:") - count("total_net_repl_output_bytes:")
}

/// A pair with a user who has so many tokens, the first of which is returned.
async fn filled(count: usize) -> (Pair, Arc<dyn Store>, UserId, Versioned<TokenRecord>) {
    let pair = Pair::start().await;
    let store = store(&pair.primary).await;
    let anna = user("anna");
    commit(&*store, users([Edit::Create(anna.clone())])).await;
    let all: Vec<_> = (0..count).map(|number| token(anna.id, &format!("token {number}"))).collect();
    let mut version = None;
    for some in all.chunks(500) {
        let committed = commit(&*store, tokens(some.iter().cloned().map(Edit::Create))).await;
        version = version.or(Some(committed.id));
    }
    let first = Versioned { record: all[0].clone(), version: version.expect("one at least") };
    pair.is_in_step().await;
    (pair, store, anna.id, first)
}

async fn revoke(store: &dyn Store, before: Versioned<TokenRecord>) {
    let after = revoked(before.record.clone());
    commit(store, tokens([Edit::Update { before, after }])).await;
}

/// A whole snapshot, which must be what the primary holds.
async fn is_whole(reader: &RedisStore, store: &dyn Store) {
    let (position, held) = within("a snapshot", Held::snapshot(reader)).await;
    assert_eq!(position, super::position(store).await);
    assert_eq!(held.checksum(), position.checksum);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_comes_from_the_replica_and_the_primary_is_not_asked_for_it() {
    let (pair, store, ..) = filled(1000).await;
    is_whole(&reader(&pair.primary.url()), &*store).await;
    assert_eq!(scans(&pair.primary).await, 0);
    assert!(scans(&pair.replica).await > 1);
    // Without being told to, a sidecar reads from the primary.
    let usual = RedisStore::new(&settings(&pair.primary.url()), Retention::default()).expect("a store");
    is_whole(&usual, &*store).await;
    assert!(scans(&pair.primary).await > 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_change_log_comes_from_the_replica_when_there_is_much_of_it() {
    let (pair, store, ..) = filled(20_000).await;
    let (reader, mut after, before) = (reader(&pair.primary.url()), Revision(1), sent(&pair.primary).await);
    let newest = position(&*store).await;
    loop {
        match within("a page", reader.changes(after)).await.expect("reads") {
            Changes::Page(entries) => after = entries.last().expect("progress").revision,
            Changes::Entries(entries) => break assert_eq!(entries.last().expect("the last").head, newest.head),
            other => panic!("{other:?}"),
        }
    }
    let from_primary = sent(&pair.primary).await - before;
    println!("{from_primary} bytes of the primary, {} of the replica", sent(&pair.replica).await);
    assert!(sent(&pair.replica).await > 20_000 * 60 && from_primary < 150_000, "{from_primary}");
}

/// Behind: what the primary writes does not reach it. And when it has lost the primary altogether.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_behind_is_never_taken_for_the_primary() {
    for traffic in [Traffic::Stalls, Traffic::Cut] {
        let (pair, store, anna, first) = filled(600).await;
        let sidecar = Arc::new(Replica::new());
        let own = Arc::new(reader(&pair.primary.url()));
        let task = driver::run(Arc::clone(&sidecar), own, Duration::from_secs(1), std::future::pending());
        let task = tokio::spawn(task);
        let level = async |position| {
            let mut at = sidecar.position();
            within("it is level", at.wait_for(|at| *at == Some(position))).await.expect("it runs");
        };
        level(position(&*store).await).await;
        assert_eq!(scans(&pair.primary).await, 0, "{traffic:?}");
        pair.link.set(traffic).await;
        revoke(&*store, first).await;
        for part in 0..4 {
            let some = (0..500).map(|number| Edit::Create(token(anna, &format!("{part} {number}"))));
            commit(&*store, tokens(some)).await;
        }
        level(position(&*store).await).await;
        is_whole(&reader(&pair.primary.url()), &*store).await;
        assert!(scans(&pair.primary).await > 0, "{traffic:?}");
        assert_eq!(sidecar.status().resyncs, 0, "{traffic:?}");
        task.abort();
    }
}

/// It comes to where the primary is within the second that it is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_a_little_behind_is_waited_for() {
    let (pair, store, _, first) = filled(600).await;
    pair.link.set(Traffic::Slow(Duration::from_millis(300))).await;
    revoke(&*store, first).await;
    is_whole(&reader(&pair.primary.url()), &*store).await;
    assert_eq!(scans(&pair.primary).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_hangs_keeps_nobody_from_reading() {
    let (pair, store, ..) = filled(600).await;
    run(&pair.replica, &["CLIENT", "PAUSE", "60000", "ALL"]).await;
    is_whole(&reader(&pair.primary.url()), &*store).await;
    assert!(scans(&pair.primary).await > 0);
}

/// Nothing is probed while a page is awaited, and the primary has it too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_hangs_holds_up_the_change_log_for_seconds_only_and_rests() {
    let (pair, ..) = filled(20_000).await;
    let reader = reader(&pair.primary.url());
    let page = async |after| match within("a page", reader.changes(after)).await.expect("reads") {
        Changes::Page(entries) => entries.last().expect("progress").revision,
        other => panic!("{other:?}"),
    };
    let after = page(page(Revision(1)).await).await;
    assert!(sent(&pair.replica).await > 20_000, "the second page came from there");
    run(&pair.replica, &["CLIENT", "PAUSE", "60000", "ALL"]).await;
    let began = Instant::now();
    let after = page(after).await;
    let (first, began) = (began.elapsed(), Instant::now());
    page(after).await;
    let second = began.elapsed();
    assert!(first < Duration::from_secs(4) && second < Duration::from_secs(1), "{first:?}, {second:?}");
}

/// Sidecars ask them in an order of their own: whoever has the bad one first reads from the other, and not from the primary.
async fn the_other_replica_is_read(traffic: Option<Traffic>) {
    let (pair, store, anna, _) = filled(600).await;
    let third = pair.third().await;
    match traffic {
        Some(traffic) => pair.link.set(traffic).await,
        None => drop(run(&pair.replica, &["CLIENT", "PAUSE", "60000", "ALL"]).await),
    }
    let from = position(&*store).await.revision;
    for part in 0..40 {
        let some = (0..500).map(|number| Edit::Create(token(anna, &format!("{part} {number}"))));
        commit(&*store, tokens(some)).await;
    }
    let newest = position(&*store).await;
    eventually("the third one is in step", || async {
        run(&third, &["HGET", "{tollgate}:meta", "revision"]).await == newest.revision.to_string()
    })
    .await;
    for _ in 0..6 {
        let (reader, mut after) = (reader(&pair.primary.url()), from);
        let (before, of_third, began) = (sent(&pair.primary).await, sent(&third).await, Instant::now());
        while after < newest.revision {
            match within("a page", reader.changes(after)).await.expect("reads") {
                Changes::Page(entries) | Changes::Entries(entries) => {
                    after = entries.last().expect("progress").revision
                }
                other => panic!("{other:?}"),
            }
        }
        let (from_primary, from_third) = (sent(&pair.primary).await - before, sent(&third).await - of_third);
        let took = began.elapsed();
        assert!(from_third > 20_000 * 60 && from_primary < 150_000, "{from_primary} and {from_third} bytes, {took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
        let before = scans(&pair.primary).await;
        is_whole(&reader, &*store).await;
        assert_eq!(scans(&pair.primary).await, before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_does_not_answer_is_passed_over_for_the_next_one() {
    the_other_replica_is_read(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_far_behind_is_passed_over_for_the_next_one() {
    the_other_replica_is_read(Some(Traffic::Stalls)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lost_its_link_is_passed_over_for_the_next_one() {
    the_other_replica_is_read(Some(Traffic::Cut)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_another_past_is_not_read() {
    let (pair, store, _, first) = filled(600).await;
    run(&pair.replica, &["CONFIG", "SET", "replica-read-only", "no"]).await;
    run(&pair.replica, &["HSET", "{tollgate}:meta", "head", &"f".repeat(32)]).await;
    is_whole(&reader(&pair.primary.url()), &*store).await;
    assert_eq!(scans(&pair.replica).await, 0);
    // At a later revision, too.
    revoke(&*store, first).await;
    pair.is_in_step().await;
    let (log, newest) = ("{tollgate}:log", position(&*store).await.revision);
    run(&pair.replica, &["HSET", "{tollgate}:meta", "revision", &(newest.0 + 1).to_string()]).await;
    run(&pair.replica, &["XDEL", log, &newest.to_string()]).await;
    is_whole(&reader(&pair.primary.url()), &*store).await;
    assert_eq!(scans(&pair.replica).await, 0);
}

/// It has from one moment to the next: as one that follows another primary all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_becomes_another_one_is_read_no_further() {
    let (pair, store, ..) = filled(6000).await;
    run(&pair.replica, &["CONFIG", "SET", "replica-read-only", "no"]).await;
    let (reader, mut mark, mut items) = (reader(&pair.primary.url()), None, 0);
    let mut sink = |item| {
        items += u32::from(matches!(item, SnapshotItem::Grant(..)));
        if items == 1 {
            pair.replica.cli(&["HSET", "{tollgate}:meta", "epoch", "0000000000000001"]);
        }
    };
    let error = within("an end", reader.snapshot(&mut mark, &mut sink)).await.expect_err("another one");
    assert!(chain(&error).contains("has another past"), "{}", chain(&error));
    assert!(mark.is_none() && (1..6000).contains(&items), "{items}");
    assert_eq!(scans(&pair.primary).await, 0);
    is_whole(&reader, &*store).await;
    assert!(scans(&pair.primary).await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_the_primary_does_not_have_is_not_taken() {
    let (pair, store, ..) = filled(4000).await;
    run(&pair.replica, &["CONFIG", "SET", "replica-read-only", "no"]).await;
    let forge = "local all = redis.call('XRANGE', KEYS[1], '-', '+') redis.call('DEL', KEYS[1])
        for _, entry in ipairs(all) do
            for place, part in ipairs(entry[2]) do
                if part == 'h' then entry[2][place + 1] = string.rep('f', 32) end
            end
            redis.call('XADD', KEYS[1], entry[1], unpack(entry[2]))
        end return #all";
    assert_eq!(run(&pair.replica, &["EVAL", forge, "1", "{tollgate}:log"]).await, "9");
    let (reader, mut after, mut heads) = (reader(&pair.primary.url()), Revision(0), Vec::new());
    while after < position(&*store).await.revision {
        let changes = within("a page", reader.changes(after)).await.expect("reads");
        let (Changes::Page(entries) | Changes::Entries(entries)) = changes else { panic!("{changes:?}") };
        after = entries.last().expect("progress").revision;
        heads.extend(entries.iter().map(|entry| entry.head));
    }
    let Ok(Changes::Entries(entries) | Changes::Page(entries)) = store.changes(Revision(0)).await else { panic!() };
    assert!(entries.iter().map(|entry| entry.head).eq(heads.iter().copied().take(entries.len())));
    assert_eq!(heads.last(), Some(&position(&*store).await.head));
    assert!(run(&pair.replica, &["INFO", "commandstats"]).await.contains("cmdstat_eval_ro"), "it was asked");
}

/// What the replica has lost is found by the checksum; the next snapshot, which is asked for at once, is the primary's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_replica_is_read_once() {
    let (pair, store, _, first) = filled(600).await;
    run(&pair.replica, &["CONFIG", "SET", "replica-read-only", "no"]).await;
    let only = "redis.call('HDEL', KEYS[1], redis.call('HKEYS', KEYS[1])[1])";
    run(&pair.replica, &["EVAL", only, "1", "{tollgate}:grants"]).await;
    let sidecar = Arc::new(Replica::new());
    let own = Arc::new(reader(&pair.primary.url()));
    let task = driver::run(Arc::clone(&sidecar), own, Duration::from_secs(1), std::future::pending());
    let task = tokio::spawn(task);
    eventually("it is fresh", || async { sidecar.staleness(tollgate::clock::Instant::now()).is_some() }).await;
    assert_eq!(sidecar.status().grants, 600);
    assert!(scans(&pair.replica).await > 0 && scans(&pair.primary).await > 0);
    revoke(&*store, first).await;
    eventually("it follows", || async { sidecar.status().grants == 599 }).await;
    task.abort();
}

/// One that has not is passed over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sidecars_user_reads_from_a_replica_that_knows_it() {
    let administrator = "user administrator on >admin ~* &* +@all\n";
    let shipped = format!("{USERS}\n{administrator}");
    let stats = |server: &RedisServer| calls(&as_user(server, "administrator:admin", &["INFO", "commandstats"]));
    for (known, on_replica) in [(true, shipped.as_str()), (false, administrator)] {
        let primary = RedisServer::with_users(&shipped);
        let port = primary.port().to_string();
        let follow = ["--replicaof", "127.0.0.1", &port, "--masteruser", "replica", "--masterauth", "CHANGE-REPLICA"];
        let replica = RedisServer::with_users_and(on_replica, &follow);
        let registry = open(&settings(&primary.url_as(REGISTRY)), Absent::Create).await.expect("opens");
        commit(&*registry, user_batch("anna")).await;
        let port = replica.port().to_string();
        eventually("it follows", || async {
            as_user(&primary, REGISTRY, &["ROLE"]).contains(&port)
                && as_user(&replica, "administrator:admin", &["HGET", "{tollgate}:meta", "revision"]) == "1"
        })
        .await;
        is_whole(&reader(&primary.url_as(SIDECAR)), &*registry).await;
        assert_eq!((stats(&replica) > 0, stats(&primary) > 0), (known, !known));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_sentinels() {
    let set = SentinelSet::start(1).await;
    let store = open(&settings(&set.url()), Absent::Create).await.expect("opens");
    commit(&*store, user_batch("anna")).await;
    is_whole(&reader(&set.url()), &*store).await;
    let primary = set.primary();
    assert_eq!(scans(&set.servers[primary]).await, 0);
    assert!(scans(&set.servers[1 - primary]).await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster() {
    let cluster = RedisCluster::start().await;
    let (url, replica) = (cluster.url(&[0]), cluster.nodes[REPLICA].port().to_string());
    eventually("it is known everywhere", || async {
        run(&cluster.nodes[0], &["CLUSTER", "SLOTS"]).await.contains(&replica)
    })
    .await;
    let store = open(&settings(&url), Absent::Create).await.expect("opens");
    commit(&*store, user_batch("anna")).await;
    is_whole(&reader(&url), &*store).await;
    assert_eq!(scans(&cluster.nodes[OWNER]).await, 0);
    assert!(scans(&cluster.nodes[REPLICA]).await > 0);
    // The replica is the primary now, and the only one that is left.
    cluster.fail_over().await;
    commit(&*store, user_batch("berta")).await;
    is_whole(&reader(&url), &*store).await;
}
