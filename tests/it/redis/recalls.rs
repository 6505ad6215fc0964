//! Recalled digests, many of them: what they cost sidecars, and commands.

use tollgate::clock::Instant;
use tollgate::store::{Change, Changes, Position, Revision};
use tollgate::token::Digest;

use super::remote::Remote;
use super::*;
use crate::conformance::{commit, token, tokens};
use crate::harness::{Traffic, eventually};

fn digests(count: u32) -> Vec<Digest> {
    (0..count).map(|number| Digest::of(&number.to_le_bytes())).collect()
}

/// A registry with one token, and a replica of it behind a line of its own.
async fn site(traffic: Traffic) -> (RedisServer, Arc<dyn Store>, Position, Remote) {
    let (server, store, anna) = site_of_anna().await;
    let position = commit(&*store, tokens([Edit::Create(token(anna.id, "kept"))])).await.position;
    let remote = Remote::start(&server, traffic, Duration::from_secs(1)).await;
    remote.reaches(position, Duration::from_secs(10)).await;
    (server, store, position, remote)
}

async fn knows(remote: &Remote, recalled: usize) {
    eventually("they were read", async || remote.replica.status().recalled == recalled).await;
}

/// Waits until so many further positions were told, and proven.
async fn proofs(remote: &Remote, count: usize) {
    for _ in 0..count {
        let asked = Instant::now();
        eventually("it is proven again", async || remote.replica.proven() > Some(asked)).await;
    }
}

/// Each probe carried all of them before, and renewed the tombstone of each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_are_carried_once_and_take_no_tombstone_s_place() {
    let (_server, store, _, remote) = site(Traffic::Flows).await;
    store.recall(&digests(60_000)).await.expect("recalls");
    knows(&remote, 60_000).await;
    let before = remote.relay.carried();
    proofs(&remote, 3).await;
    let carried = remote.relay.carried() - before;
    assert!(carried < 20_000, "{carried} bytes for three probes");
    assert_eq!(remote.replica.status().tombstones, 0);

    let before = remote.relay.carried();
    store.recall(&[Digest::of(b"another")]).await.expect("recalls");
    knows(&remote, 60_001).await;
    let carried = remote.relay.carried() - before;
    assert!(carried < 20_000, "{carried} bytes for one more");
    assert_eq!(remote.replica.status().grants, 1);
    // The line was cut, and the server is the same.
    let before = remote.relay.carried();
    remote.relay.reset().await;
    proofs(&remote, 2).await;
    store.recall(&[Digest::of(b"a third")]).await.expect("recalls");
    knows(&remote, 60_002).await;
    let carried = remote.relay.carried() - before;
    assert!(carried < 50_000, "{carried} bytes for a connection, and one more");
}

/// Reading them takes far longer than the time between two moves of their counter, and each move had all of them read anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_line_gets_level_while_more_and_more_are_recalled() {
    const FIRST: u32 = 10_000;
    let (server, store, _, remote) = site(Traffic::Flows).await;
    remote.relay.set(Traffic::Thin { delay: Duration::from_millis(50), bytes_per_second: 100_000 }).await;
    let before = remote.relay.carried();
    let all = digests(FIRST + 1_000);
    let (first, more) = all.split_at(FIRST as usize);
    store.recall(first).await.expect("recalls");
    let mut more = more.iter();
    let began = Instant::now();
    while remote.replica.status().recalled < FIRST as usize + 10 {
        store.recall(&[*more.next().expect("it gets level")]).await.expect("recalls");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // From here on what is known moves nothing.
    let (carried, took) = (remote.relay.carried() - before, began.elapsed());
    assert!(carried < 2 * u64::from(FIRST) * 40, "{carried} bytes in {took:?}");
    for one in more.by_ref().take(4) {
        let asked = Instant::now();
        store.recall(&[*one]).await.expect("recalls");
        eventually("it is proven again", async || remote.replica.proven() > Some(asked)).await;
    }
    let carried = remote.relay.carried() - before;
    assert!(carried < 2 * u64::from(FIRST) * 40, "{carried} bytes");

    // As sidecars of the version before do, or one that dies half-way: without the list. All are read again, and each reading
    // proves up to when it began.
    let asked = Instant::now();
    for one in more.take(20) {
        server.cli(&["eval", ADD_HEX, "1", "{tollgate}:recalled", &one.to_string()]);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    eventually("it is proven again", async || remote.replica.proven() > Some(asked)).await;
}

/// One member, as hexadecimal digits.
const ADD_HEX: &str = "return redis.call('SADD', KEYS[1], (string.gsub(ARGV[1], '..', function(pair) \
    return string.char(tonumber(pair, 16)) end)))";

const LIST_HEX: &str = "return redis.call('RPUSH', KEYS[1], (string.gsub(ARGV[1], '..', function(pair) \
    return string.char(tonumber(pair, 16)) end)))";

/// Whoever has a sidecar's user may list anything: in the place of what is recalled without the list, by the version before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_listed_and_was_not_recalled_hides_nothing() {
    let (server, store, _, remote) = site(Traffic::Flows).await;
    let all = digests(5);
    let (foreign, all) = all.split_last().expect("five");
    store.recall(&all[..1]).await.expect("recalls");
    knows(&remote, 1).await;
    for (known, entry) in [(1, "61".to_owned()), (2, all[0].to_string()), (3, foreign.to_string())] {
        server.cli(&["eval", LIST_HEX, "1", "{tollgate}:recall_log", &entry]);
        proofs(&remote, 1).await;
        server.cli(&["eval", ADD_HEX, "1", "{tollgate}:recalled", &all[known].to_string()]);
        knows(&remote, known + 1).await;
        proofs(&remote, 1).await;
    }
    assert_eq!(remote.replica.status().recalled, all.len(), "and nothing else is recalled by that");
}

/// Settled, they are forgotten at the next reading, and what is recalled then is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_after_all_were_settled_is_read() {
    let (server, store, _, remote) = site(Traffic::Flows).await;
    let all = digests(3_000);
    store.recall(&all[..2_000]).await.expect("recalls");
    knows(&remote, 2_000).await;
    store.settle_recalls(&all[..2_000]).await.expect("settles");
    assert_eq!(server.cli(&["exists", "{tollgate}:recall_log"]), "0");
    store.recall(&all[2_000..]).await.expect("recalls");
    knows(&remote, 1_000).await;
    proofs(&remote, 1).await;
    // Taken back and lost again: the same ones.
    store.settle_recalls(&all[2_000..2_500]).await.expect("settles");
    store.recall(&all[2_000..2_100]).await.expect("recalls");
    assert_eq!(server.cli(&["llen", "{tollgate}:recall_log"]), "1100");
    proofs(&remote, 1).await;
}

/// The line breaks every second and a half, in which it carries less than half of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reading_goes_on_where_it_broke_off() {
    let (_server, store, _, remote) = site(Traffic::Flows).await;
    let traffic = Traffic::Thin { delay: Duration::from_millis(5), bytes_per_second: 150_000 };
    remote.relay.set(traffic).await;
    let before = remote.relay.carried();
    store.recall(&digests(12_000)).await.expect("recalls");
    let breaks = async {
        loop {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            remote.relay.set(Traffic::Cut).await;
            remote.relay.set(traffic).await;
        }
    };
    let read = async {
        while remote.replica.status().recalled < 12_000 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = breaks => {}
        read = tokio::time::timeout(Duration::from_secs(60), read) => read.expect("they were read"),
    }
    // What was read is read again after the line came back, as the server may be another one: but not from the beginning.
    proofs(&remote, 1).await;
    let carried = remote.relay.carried() - before;
    assert!(carried < 4 * 12_000 * 40, "{carried} bytes were carried");
}

/// 200,000 of them took five seconds, which a revocation waited.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_waits_for_none_of_them() {
    let (server, store, before, remote) = site(Traffic::Flows).await;
    let owner = store.users(None, 1).await.expect("reads").remove(0).record.id;
    let lost: Vec<_> = (0..500).map(|number| token(owner, &format!("lost {number}"))).collect();
    let after = commit(&*store, tokens(lost.iter().cloned().map(Edit::Create))).await.position;
    assert_eq!(after.revision, before.revision.next());
    store.recall(&digests(199_500)).await.expect("recalls");
    let of_tokens: Vec<_> = lost.iter().map(|token| token.digest).collect();
    store.recall(&of_tokens).await.expect("recalls");
    knows(&remote, 200_000).await;
    assert_eq!((remote.replica.status().grants, remote.replica.status().suppressed), (1, 500));

    let urgent =
        store.tokens_by_digest(&[token(owner, "kept").digest]).await.expect("reads").remove(0).expect("is there");
    let revoked = tollgate(&server.url(), 0, &["token", "revoke", &urgent.record.id.to_string(), "--force"]).await;
    let said = String::from_utf8_lossy(&revoked.stderr);
    assert!(revoked.status.success() && said.contains("revoked 500 tokens again"), "{said}");
    let (mut log, mut last) = (Vec::new(), after.revision);
    while last < position(&*store).await.revision {
        let (Changes::Entries(entries) | Changes::Page(entries)) = store.changes(last).await.expect("reads") else {
            panic!("truncated")
        };
        last = entries.last().map_or(Revision(0), |entry| entry.revision);
        log.extend(entries);
    }
    assert_eq!(log[0].changes, [Change::RemoveGrant(urgent.record.digest)], "first of all");
    assert_eq!(log[1..].iter().map(|entry| entry.changes.len()).sum::<usize>(), 500);
    assert_eq!(store.recalled(None).await.expect("reads").total, 0);
}

/// Somebody adds far more than sidecars ever leave there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_sidecars_take_prove_nothing_and_are_not_carried() {
    const ADD: &str = "for n = 1, 600000 do redis.call('SADD', KEYS[1], string.sub(redis.sha1hex(n), 1, 32)) end";
    let (server, store, position, remote) = site(Traffic::Flows).await;
    server.cli(&["eval", ADD, "1", "{tollgate}:recalled"]);
    let failed = || remote.replica.status().reads_failed;
    eventually("a probe finds them", async || failed() > 0).await;
    let (before, proven, seen) = (remote.relay.carried(), remote.replica.proven(), failed());
    eventually("they are found again and again", async || failed() > seen + 3).await;
    assert_eq!(remote.replica.proven(), proven);
    let carried = remote.relay.carried() - before;
    assert!(carried < 4096 * (failed() - seen + 2), "{carried} bytes");
    assert_eq!(remote.replica.status().recalled, 0);

    // Whoever settles them is not kept from it.
    server.cli(&["eval", "redis.call('SPOP', KEYS[1], 599000)", "1", "{tollgate}:recalled"]);
    eventually("it is proven again", async || remote.replica.proven() > proven).await;
    assert_eq!(store.position().await.expect("reads"), position);
}
