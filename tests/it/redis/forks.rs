//! A Redis that has lost writes and goes on: what the lost ones were about is read again, and nothing else.

use tollgate::clock::Instant;
use tollgate::registry::Registry;
use tollgate::token::{Permission, Role, TokenRecord, UserRecord, UserStatus};

use super::identity::{keep, lose};
use super::remote::Remote;
use super::*;
use crate::conformance::{commit, revoked, token, tokens, user, users};
use crate::harness::{Traffic, eventually, operator};
use tollgate_harness::pair::{Pair, run};

impl Remote {
    async fn lead_to(&self, server: &RedisServer) {
        self.relay.lead_to(server.address());
        self.relay.reset().await;
    }

    fn knows(&self, token: &TokenRecord) -> bool {
        self.replica.lookup(&token.digest).is_some()
    }

    /// Waits until it holds what the store holds, as far as it has not seen it revoked.
    async fn is_level(&self, store: &dyn Store) {
        eventually("the replica is level", || async {
            let position = position(store).await;
            let fresh = self.replica.staleness(Instant::now()).is_some_and(|stale| stale < Duration::from_secs(1));
            fresh && self.replica.status().position == Some(position)
        })
        .await;
        assert_eq!(self.replica.checksum(), position(store).await.checksum);
    }

    /// How often it found lost writes, and read everything again.
    fn found(&self) -> (u64, u64) {
        let status = self.replica.status();
        assert_eq!(status.divergences, 0);
        (status.forks, status.resyncs)
    }
}

async fn revoke(store: &dyn Store, some: &[&TokenRecord]) {
    let mut edits = Vec::new();
    for token in some {
        let before = stored(store, token).await;
        edits.push(Edit::Update { after: revoked(before.record.clone()), before });
    }
    commit(store, tokens(edits)).await;
}

async fn reassign(store: &dyn Store, token: &TokenRecord, owner: &UserRecord) {
    let before = stored(store, token).await;
    let after = TokenRecord { owner: owner.id, ..before.record.clone() };
    commit(store, tokens([Edit::Update { before, after }])).await;
}

async fn delete(store: &dyn Store, token: &TokenRecord) {
    commit(store, tokens([Edit::Delete(stored(store, token).await)])).await;
}

async fn create(store: &dyn Store, token: &TokenRecord) {
    commit(store, tokens([Edit::Create(token.clone())])).await;
}

/// What Redis says of itself.
async fn told(server: &RedisServer, section: &str, name: &str) -> u64 {
    let info = run(server, &["INFO", section]).await;
    let value = info.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.split(',').next()?.trim().parse().ok()).unwrap_or_default()
}

/// Six sidecars, 20,000 tokens, and one write that is lost with the primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_lost_write_costs_a_fleet_a_fraction_of_its_snapshots() {
    const SIDECARS: usize = 6;
    const TOKENS: usize = 20_000;
    let mut pair = Pair::start().await;
    let primary = store(&pair.primary).await;
    let vera = user("vera");
    commit(&*primary, users([Edit::Create(vera.clone())])).await;
    let made = import(&*primary, vera.id, "token", TOKENS).await;
    pair.is_in_step().await;

    let sent = async |server: &RedisServer| told(server, "stats", "total_net_output_bytes:").await;
    let before = sent(&pair.primary).await;
    let mut fleet = Vec::new();
    for _ in 0..SIDECARS {
        fleet.push(Remote::start(&pair.primary, Traffic::Flows, Duration::from_millis(100)).await);
    }
    for sidecar in &fleet {
        sidecar.is_level(&*primary).await;
    }
    let snapshots = sent(&pair.primary).await - before;

    pair.part().await;
    revoke(&*primary, &[&made[7]]).await;
    for sidecar in &fleet {
        sidecar.is_level(&*primary).await;
        assert!(!sidecar.knows(&made[7]));
    }
    pair.promote().await;
    let before = sent(&pair.primary).await;
    let promoted = store(&pair.primary).await;
    // The revision is given out again.
    let other = token(vera.id, "made after it");
    create(&*promoted, &other).await;
    for sidecar in &fleet {
        sidecar.lead_to(&pair.primary).await;
    }
    for sidecar in &fleet {
        sidecar.is_level(&*promoted).await;
        assert!(!sidecar.knows(&made[7]) && sidecar.knows(&made[8]) && sidecar.knows(&other));
        assert_eq!(sidecar.found(), (1, 0));
        assert_eq!(sidecar.replica.status().suppressed, 1);
    }
    let (repairs, scans) =
        (sent(&pair.primary).await - before, told(&pair.primary, "commandstats", "cmdstat_hscan:calls=").await);
    println!("{SIDECARS} snapshots of {TOKENS} tokens: {snapshots} bytes; repairs of one lost write: {repairs} bytes");
    assert_eq!(scans, 0, "nothing was read whole");
    assert!(repairs * 4 < snapshots, "{repairs} bytes were sent, as against {snapshots}");
    eventually("the revocation is recalled", || async {
        promoted.recalled(None).await.expect("reads").digests == [made[7].digest]
    })
    .await;
}

/// Everything that can be lost, at once: the store is then a good deal shorter, goes on, and comes past where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_lost_is_made_up_for() {
    let mut pair = Pair::start().await;
    let primary = store(&pair.primary).await;
    let registry = Registry::new(Arc::clone(&primary));
    registry.init(&operator(), "olga").await.expect("initialises");
    let [vera, max] = ["vera", "max"].map(user);
    commit(&*primary, users([vera.clone(), max.clone()].map(Edit::Create))).await;
    let made = import(&*primary, vera.id, "token", 20).await;
    let bulk: Vec<_> = (0..1_200).map(|number| token(vera.id, &format!("bulk {number}"))).collect();
    let [gone, anew] = ["lost, and not made again", "lost, and made again"].map(|name| token(vera.id, name));
    pair.is_in_step().await;
    let sidecar = Remote::start(&pair.primary, Traffic::Flows, Duration::from_millis(100)).await;
    sidecar.is_level(&*primary).await;

    pair.part().await;
    create(&*primary, &gone).await;
    create(&*primary, &anew).await;
    revoke(&*primary, &[&made[0]]).await;
    delete(&*primary, &made[1]).await;
    reassign(&*primary, &made[2], &max).await;
    reassign(&*primary, &made[3], &max).await;
    revoke(&*primary, &[&made[4], &made[5]]).await;
    commit(&*primary, tokens(bulk.iter().cloned().map(Edit::Create))).await;
    registry.set_status(&operator(), "max", UserStatus::Disabled).await.expect("disables");
    let lost = user("lost");
    commit(&*primary, users([Edit::Create(lost.clone())])).await;
    let of_lost = token(lost.id, "of somebody who is lost too");
    create(&*primary, &of_lost).await;
    sidecar.is_level(&*primary).await;
    assert!(sidecar.knows(&bulk[1_199]) && sidecar.knows(&of_lost));
    let longest = position(&*primary).await.revision;

    pair.promote().await;
    let promoted = store(&pair.primary).await;
    sidecar.lead_to(&pair.primary).await;
    sidecar.is_level(&*promoted).await;
    assert!(position(&*promoted).await.revision < longest);
    assert_eq!(sidecar.found(), (1, 0), "nothing was read whole");
    let known = |tokens: &[&TokenRecord]| tokens.iter().map(|token| sidecar.knows(token)).collect::<Vec<_>>();
    assert_eq!(known(&[&gone, &anew, &bulk[0], &bulk[1_199], &of_lost]), [false; 5], "created, and lost");
    assert_eq!(known(&[&made[0], &made[1], &made[4], &made[5]]), [false; 4], "seen revoked or deleted");
    assert_eq!(known(&[&made[2], &made[3], &made[6]]), [true; 3]);
    let owner = |token: &TokenRecord| sidecar.replica.lookup(&token.digest).map(|holder| holder.owner.id);
    assert_eq!(owner(&made[2]), Some(vera.id), "the reassignment is lost");
    assert_eq!(sidecar.replica.held_users(), ["max"]);
    assert_eq!(sidecar.replica.status().suppressed, 4);

    // The new history is about the same tokens, and longer in the end.
    revoke(&*promoted, &[&made[3]]).await;
    create(&*promoted, &anew).await;
    reassign(&*promoted, &made[6], &max).await;
    while position(&*promoted).await.revision <= longest {
        commit(&*promoted, Batch::default()).await;
    }
    sidecar.is_level(&*promoted).await;
    assert_eq!(known(&[&made[3], &anew, &made[6]]), [false, true, false], "what was lost alone may come again");
    Registry::new(Arc::clone(&promoted)).set_role(&operator(), "max", Role::Administrator).await.expect("a new word");
    eventually("it counts", || async { sidecar.knows(&made[6]) }).await;
    assert_eq!(sidecar.found(), (1, 0));
}

/// One failover after the other; the last ones while the sidecar is cut off, or has not caught up yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forks_one_after_the_other_and_while_catching_up() {
    let server = RedisServer::start();
    let store = store(&server).await;
    let vera = user("vera");
    commit(&*store, users([Edit::Create(vera.clone())])).await;
    let made = import(&*store, vera.id, "token", 40).await;
    let sidecar = Remote::start(&server, Traffic::Flows, Duration::from_millis(100)).await;
    sidecar.is_level(&*store).await;
    let mut forks = 0;
    for round in 0..8 {
        let (kept, lost) = (token(vera.id, &format!("kept {round}")), token(vera.id, &format!("lost {round}")));
        create(&*store, &kept).await;
        let sees = round % 4 != 3;
        if !sees {
            sidecar.is_level(&*store).await;
            sidecar.relay.set(Traffic::Cut).await;
        }
        keep(&server);
        create(&*store, &lost).await;
        revoke(&*store, &[&made[2 * round]]).await;
        if sees {
            sidecar.is_level(&*store).await;
            forks += 1;
        }
        lose(&server);
        // What is committed next has the revisions that were lost.
        revoke(&*store, &[&made[2 * round + 1]]).await;
        if round % 4 > 1 {
            import(&*store, vera.id, &format!("imported {round}"), 1_000).await;
        }
        if !sees {
            sidecar.relay.heal().await;
        }
        sidecar.is_level(&*store).await;
        let known = [&kept, &lost, &made[2 * round], &made[2 * round + 1]].map(|token| sidecar.knows(token));
        assert_eq!(known, [true, false, !sees, false], "round {round}");
    }
    let (found, resyncs) = sidecar.found();
    assert!(found >= forks, "{found} of {forks}");
    assert_eq!(resyncs, 0, "nothing was read whole");
}

/// A user was seen disabled, by a write that was lost. What the store has of her now was read again at once, and then comes a
/// log over a thin line in which she is enabled for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_again_is_not_undone_by_the_log_before_it() {
    let server = RedisServer::start();
    let store = store(&server).await;
    let registry = Registry::new(Arc::clone(&store));
    registry.init(&operator(), "olga").await.expect("initialises");
    let [vera, anna] = ["vera", "anna"].map(user);
    commit(&*store, users([vera.clone(), anna.clone()].map(Edit::Create))).await;
    let hers = import(&*store, anna.id, "hers", 1).await.remove(0);
    let sidecar = Remote::start(&server, Traffic::Flows, Duration::from_millis(100)).await;
    sidecar.is_level(&*store).await;
    let set = async |status| registry.set_status(&operator(), "anna", status).await.expect("sets");
    keep(&server);
    set(UserStatus::Disabled).await;
    sidecar.is_level(&*store).await;
    assert!(!sidecar.knows(&hers));
    sidecar.relay.set(Traffic::Cut).await;
    lose(&server);
    set(UserStatus::Disabled).await;
    set(UserStatus::Active).await;
    import(&*store, vera.id, "imported", 4_000).await;
    set(UserStatus::Disabled).await;

    let target = position(&*store).await;
    sidecar.relay.set(Traffic::Thin { delay: Duration::from_millis(5), bytes_per_second: 100_000 }).await;
    let permission: Permission = "heartbeat:write".parse().expect("a permission");
    let (mut looks, mut in_doubt) = (tokio::time::interval(Duration::from_millis(1)), 0);
    let watch = async {
        while sidecar.replica.status().position != Some(target) {
            looks.tick().await;
            if let Some(holder) = sidecar.replica.lookup(&hers.digest) {
                assert!(sidecar.replica.doubts(&hers.digest, &holder, permission), "she is let in");
                in_doubt += 1;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), watch).await.expect("level");
    assert!(in_doubt > 0, "it was too fast to show");
    assert!(!sidecar.knows(&hers));
    assert_eq!(sidecar.found(), (1, 0), "nothing was read whole");
}

/// Two sidecars that had applied an import are cut off; the store loses it, goes on, and no longer has the log since then.
/// What they miss then they learn from a snapshot, in which the import is absent just as what was revoked meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_was_lost_beyond_the_log_may_be_run_again() {
    let server = RedisServer::start();
    let store = store(&server).await;
    let registry = Registry::new(Arc::clone(&store));
    registry.init(&operator(), "olga").await.expect("initialises");
    let vera = user("vera");
    commit(&*store, users([Edit::Create(vera.clone())])).await;
    let [missed, deleted] = ["missed", "deleted"].map(|name| token(vera.id, name));
    commit(&*store, tokens([&missed, &deleted].map(|token| Edit::Create(token.clone())))).await;
    let start = || Remote::start(&server, Traffic::Flows, Duration::from_millis(100));
    let fleet = [start().await, start().await];
    let is_level = async || {
        for sidecar in &fleet {
            sidecar.is_level(&*store).await;
        }
    };
    is_level().await;
    keep(&server);
    let lost = import(&*store, vera.id, "imported", 50).await;
    is_level().await;
    fleet[0].relay.set(Traffic::Cut).await;
    lose(&server);
    revoke(&*store, &[&missed]).await;
    delete(&*store, &deleted).await;
    for _ in 0..8 {
        commit(&*store, Batch::default()).await;
    }
    // As it is once it is full.
    server.cli(&["XTRIM", "{tollgate}:log", "MAXLEN", "2"]);
    fleet[0].relay.heal().await;
    is_level().await;
    assert_eq!(fleet[0].found(), (0, 1), "it read a snapshot, and found nothing wrong");
    eventually("it is told of what it missed", || async { fleet[0].replica.status().tombstones == 2 }).await;

    for token in &lost {
        create(&*store, token).await;
    }
    is_level().await;
    assert!(fleet.iter().all(|sidecar| lost.iter().all(|token| sidecar.knows(token))), "nobody has revoked them");
    // What a sidecar had left to be revoked again would be revoked now.
    assert_eq!(store.probe().await.expect("a probe").recalls, 0);
    registry.add_user(&operator(), "max", Role::Viewer).await.expect("adds");
    assert!(stored(&*store, &lost[0]).await.record.is_active());

    // And what it was told stays so.
    lose(&server);
    for sidecar in &fleet {
        sidecar.is_level(&*store).await;
        assert!(!sidecar.knows(&missed) && !sidecar.knows(&deleted));
    }
    eventually("they are recalled", || async { store.probe().await.expect("a probe").recalled == 2 }).await;
}
