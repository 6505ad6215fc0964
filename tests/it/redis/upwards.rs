//! Lines that carry little upwards: what is asked or written there takes longer than the answer, and no answer comes meanwhile.

use tollgate::clock::Instant;
use tollgate::store::{Feed, Subject};
use tollgate::token::Digest;

use super::identity::{keep, lose};
use super::remote::Remote;
use super::*;
use crate::conformance::{commit, revoked, token, tokens};
use crate::harness::{Relay, Traffic};

fn thin(bytes_per_second: u32) -> Traffic {
    Traffic::Thin { delay: Duration::from_millis(50), bytes_per_second }
}

/// The store as it is behind a relay.
async fn far(server: &RedisServer) -> (Relay, RedisStore) {
    let relay = Relay::start(server.address()).await;
    let store = RedisStore::new(&settings(&format!("redis://{}", relay.address())), Retention::default());
    (relay, store.expect("a store"))
}

/// Does something, and says for how long the slowest of the probes took that were made meanwhile, each one second after the
/// other.
async fn slowest_probe_beside(store: &RedisStore, work: impl Future<Output = ()>) -> Duration {
    let mut slowest = Duration::ZERO;
    let probes = async {
        loop {
            let began = Instant::now();
            store.probe().await.expect("a probe");
            slowest = slowest.max(began.elapsed());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        () = work => slowest,
        never = probes => never,
    }
}

/// 200 kB at 16 kB a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_commit_is_made_once() {
    let (server, here, anna) = site_of_anna().await;
    let (relay, far) = far(&server).await;
    far.probe().await.expect("a probe");
    relay.set(thin(16_000)).await;
    let before = position(&*here).await.revision;
    let all = (0..500).map(|number| Edit::Create(token(anna.id, &format!("token {number}"))));
    commit(&far, tokens(all)).await;
    assert_eq!(position(&*here).await.revision, before.next());
    assert_eq!(relay.accepted(), 1, "nothing was sent twice");
}

/// One after the other they would take the line eleven seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_recalls_hold_up_no_probe() {
    let (server, here, _) = site_of_anna().await;
    let (relay, far) = far(&server).await;
    far.probe().await.expect("a probe");
    relay.set(thin(8_000)).await;
    let all: Vec<_> = (0..700_u32).map(|number| Digest::of(&number.to_le_bytes())).collect();
    let slowest = slowest_probe_beside(&far, async { far.recall(&all).await.expect("recalls") }).await;
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert_eq!(relay.accepted(), 1);
    assert_eq!(here.probe().await.expect("a probe").recalled, 700);
}

/// The line carried much before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_questions_hold_up_no_probe() {
    let (server, here, anna) = site_of_anna().await;
    let made = import(&*here, anna.id, "token", 5_000).await;
    let (relay, far) = far(&server).await;
    far.snapshot(&mut None, &mut drop).await.expect("a snapshot");
    relay.set(thin(8_000)).await;
    let digests: Vec<_> = made.iter().map(|token| token.digest).take(400).collect();
    let asking = async {
        let mut rest = &digests[..];
        while !rest.is_empty() {
            let removed = far.removed(rest).await.expect("answers");
            assert!(!removed.contains(&true));
            rest = &rest[removed.len()..];
        }
        let subjects: Vec<_> = digests.iter().map(|digest| Subject::Token(*digest)).collect();
        assert_eq!(far.items(&subjects).await.expect("answers").len(), digests.len());
    };
    let slowest = slowest_probe_beside(&far, asking).await;
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

/// What the replica remembers would take the line eight seconds to be asked about at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_write_is_found_by_small_questions() {
    let (server, store, anna) = site_of_anna().await;
    let kept = token(anna.id, "kept");
    commit(&*store, tokens([Edit::Create(kept.clone())])).await;
    let remote = Remote::start(&server, Traffic::Flows, Duration::from_secs(2)).await;
    remote.reaches(position(&*store).await, Duration::from_secs(10)).await;
    for _ in 0..520 {
        commit(&*store, Batch::default()).await;
    }
    keep(&server);
    let before = stored(&*store, &kept).await;
    commit(&*store, tokens([Edit::Update { after: revoked(before.record.clone()), before }])).await;
    remote.reaches(position(&*store).await, Duration::from_secs(10)).await;
    lose(&server);
    remote.relay.set(thin(2_000)).await;
    let (asked, connections) = (Instant::now(), remote.relay.accepted());
    let proven = async {
        while remote.replica.proven() < Some(asked) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), proven).await.is_ok(), "{:?}", remote.replica);
    let status = remote.replica.status();
    assert_eq!((status.forks, status.resyncs, status.suppressed), (1, 0, 1));
    assert_eq!(remote.relay.accepted(), connections, "none was given up");
}
