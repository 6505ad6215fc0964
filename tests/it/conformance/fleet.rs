//! What a fleet needs of a store besides commits: proofs, recalls, and what sidecars say of themselves.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tollgate::store::{Edit, Probe, RECALLS_LEFT, Report, Reported, SidecarId};

use super::*;
use crate::harness::eventually;

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(3600);

pub(super) async fn a_probe_tells_the_position<D: Database>() {
    let (_database, store) = store::<D>().await;
    assert_eq!(probe(&*store).await, Probe::from(store.position().await.expect("a position")));
    commit(&*store, users([Edit::Create(user("anna"))])).await;
    assert_eq!(probe(&*store).await, Probe::from(store.position().await.expect("a position")));
}

pub(super) async fn digests_of_deleted_tokens_are_retired<D: Database>() {
    let (_database, store) = store::<D>().await;
    let made = ["active", "revoked", "deleted"].map(|name| token(UserId::from_u64(1), name));
    let version = commit(&*store, tokens(made.clone().map(Edit::Create))).await.id;
    let [active, revoking, deleting] = made.map(|record| Versioned { record, version });
    let after = revoked(revoking.record.clone());
    let digests = [deleting.record.digest, active.record.digest, Digest::of(b"none"), revoking.record.digest];
    commit(&*store, tokens([Edit::Update { before: revoking, after }, Edit::Delete(deleting)])).await;
    assert_eq!(store.retired(&digests).await.expect("reads"), [true, false, false, false]);
    assert_eq!(store.retired(&digests[..1]).await.expect("reads"), [true]);
    assert_eq!(store.retired(&[]).await.expect("reads"), [true; 0]);
}

pub(super) async fn digests_of_revoked_and_deleted_tokens_are_removed<D: Database>() {
    let (_database, store) = store::<D>().await;
    let made: Vec<_> = (0..3000).map(|number| token(UserId::from_u64(1), &format!("{number}"))).collect();
    let version = commit(&*store, tokens(made.iter().cloned().map(Edit::Create))).await.id;
    // One of three is revoked, one deleted, half of these revoked before.
    let versioned = |number: usize| Versioned { record: made[number].clone(), version };
    let revoke = |before: Versioned<TokenRecord>| Edit::Update { after: revoked(before.record.clone()), before };
    let revoking = (0..3000).filter(|number| number % 3 == 0 || number % 6 == 1);
    let version = commit(&*store, tokens(revoking.map(|number| revoke(versioned(number))))).await.id;
    let deleting = (0..3000).filter(|number| number % 3 == 1).map(|number| match number % 6 {
        1 => Edit::Delete(Versioned { record: revoked(made[number].clone()), version }),
        _ => Edit::Delete(versioned(number)),
    });
    commit(&*store, tokens(deleting)).await;
    let digests: Vec<_> = made.iter().map(|token| token.digest).chain([Digest::of(b"none")]).collect();
    let mut told = Vec::new();
    while told.len() < digests.len() {
        let page = store.removed(&digests[told.len()..]).await.expect("reads");
        assert!(!page.is_empty(), "one at least");
        told.extend(page);
    }
    let expected = (0..3000).map(|number| number % 3 != 2).chain([false]);
    assert_eq!(told, expected.collect::<Vec<_>>());
    assert_eq!(store.removed(&[]).await.expect("reads"), [true; 0]);
}

pub(super) async fn recalls_are_told_page_by_page_until_they_are_settled<D: Database>() {
    let (database, store) = store::<D>().await;
    let other = database.handle().await;
    let position = store.position().await.expect("a position");
    let mut digests: Vec<_> = (0..3000u32).map(|n| Digest::of(&n.to_le_bytes())).collect();
    digests.sort_unstable_by_key(|digest| *digest.as_bytes());
    store.recall(&digests).await.expect("recalls");
    store.recall(&digests[..10]).await.expect("recalls again");
    let (told, pages) = recalled(&*other).await;
    assert_eq!(told, digests);
    assert!(pages > 1, "48 kB at most are carried at once");
    assert_eq!(probe(&*other).await, Probe { position, recalls: 3000, recalled: 3000 }, "no commit, and each one once");

    other.settle_recalls(&digests[..2999]).await.expect("settles");
    other.settle_recalls(&digests[..1]).await.expect("settles what is settled");
    assert_eq!(recalled(&*store).await, (digests[2999..].to_vec(), 1));
    store.recall(&[]).await.expect("recalls nothing");
    store.settle_recalls(&[]).await.expect("settles nothing");
    assert_eq!(probe(&*store).await, Probe { position, recalls: 3000, recalled: 1 });
    store.recall(&digests[..1]).await.expect("recalls what was settled");
    assert_eq!(probe(&*store).await.recalls, 3001);
}

/// What was added while the pages were read may be on them; what was there is on them.
pub(super) async fn what_is_recalled_meanwhile_hides_nothing<D: Database>() {
    let (database, store) = store::<D>().await;
    let other = database.handle().await;
    let digests: Vec<_> = (0..20_000u32).map(|n| Digest::of(&n.to_le_bytes())).collect();
    let (before, later) = digests.split_at(4_000);
    store.recall(before).await.expect("recalls");
    let (mut told, mut place, mut later) = (BTreeSet::new(), None, later.chunks(2_000));
    loop {
        let page = store.recalled(place.as_ref()).await.expect("reads");
        told.extend(page.digests.iter().map(|digest| *digest.as_bytes()));
        if let Some(more) = later.next() {
            other.recall(more).await.expect("recalls");
        }
        if page.is_last {
            break;
        }
        place = page.next;
    }
    assert!(before.iter().all(|digest| told.contains(digest.as_bytes())));
}

pub(super) async fn no_more_is_recalled_than_sidecars_take<D: Database>() {
    let (_database, store) = store::<D>().await;
    let digests: Vec<_> = (0..=RECALLS_LEFT).map(|n| Digest::of(&n.to_le_bytes())).collect();
    let (all, last) = digests.split_at(digests.len() - 1);
    store.recall(all).await.expect("recalls");
    let refused = store.recall(last).await.expect_err("there are enough");
    let why = std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default();
    assert!(why.contains("250000 tokens are recalled already"), "{why}");
    assert_eq!(store.recalled(None).await.expect("reads").total, RECALLS_LEFT);
    store.settle_recalls(&all[..1]).await.expect("settles");
    store.recall(last).await.expect("there is room again");
}

pub(super) async fn reports_are_told_in_the_order_of_their_names<D: Database>() {
    let (database, store) = store::<D>().await;
    let other = database.handle().await;
    assert_eq!(reports(&*store).await, []);
    let position = store.position().await.expect("a position");
    let made = [report(3, "a"), report(1, "b"), report(u64::MAX, "b"), report(2, "ä, \"quoted\"")];
    for report in made.iter().rev() {
        store.report(report, LONG).await.expect("reports");
    }
    assert_eq!(reports(&*other).await, made);
    assert_eq!(store.position().await.expect("a position"), position, "a report is no commit");
}

pub(super) async fn a_report_takes_the_place_of_the_one_before<D: Database>() {
    let (_database, store) = store::<D>().await;
    let began = Instant::now();
    store.report(&report(1, "edge"), LONG).await.expect("reports");
    let empty = Report { applied: None, staleness_ms: None, connections: 0, ..report(1, "edge") };
    store.report(&empty, LONG).await.expect("reports");
    let told = sidecars(&*store).await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].report, empty);
    // Stores may count whole milliseconds, by a clock of their own.
    assert!(told[0].age <= began.elapsed() + Duration::from_millis(50), "{:?}", told[0].age);
}

pub(super) async fn a_report_grows_old_and_is_forgotten<D: Database>() {
    let (_database, store) = store::<D>().await;
    store.report(&report(1, "stays"), LONG).await.expect("reports");
    store.report(&report(2, "goes"), Duration::from_millis(300)).await.expect("reports");
    eventually("a report is forgotten", async || reports(&*store).await == [report(1, "stays")]).await;
    let told = sidecars(&*store).await;
    assert!(told[0].age >= Duration::from_millis(250), "{:?}", told[0].age);
    store.report(&report(2, "goes"), LONG).await.expect("reports");
    assert_eq!(reports(&*store).await, [report(2, "goes"), report(1, "stays")], "it is back with its next report");
}

pub(super) async fn a_report_that_comes_back_while_others_look_is_found_from_then_on<D: Database>() {
    let (database, store) = store::<D>().await;
    let other = database.handle().await;
    for _ in 0..100 {
        store.report(&report(1, "edge"), Duration::from_millis(1)).await.expect("reports");
        tokio::time::sleep(Duration::from_millis(3)).await; // it grows old
        let back = report(1, "edge");
        let (_, reported) = tokio::join!(sidecars(&*other), store.report(&back, LONG));
        reported.expect("reports");
        assert_eq!(reports(&*other).await, [report(1, "edge")]);
    }
}

pub(super) async fn a_report_can_be_withdrawn<D: Database>() {
    let (_database, store) = store::<D>().await;
    for id in [1, 2] {
        store.report(&report(id, "edge"), LONG).await.expect("reports");
    }
    store.withdraw(SidecarId(1)).await.expect("withdraws");
    store.withdraw(SidecarId(1)).await.expect("withdraws what is not there");
    assert_eq!(reports(&*store).await, [report(2, "edge")]);
}

async fn probe(store: &dyn Store) -> Probe {
    store.probe().await.expect("a probe")
}

/// All of them, in order, and on how many pages they were.
async fn recalled(store: &dyn Store) -> (Vec<Digest>, usize) {
    let (mut told, mut pages, mut place) = (BTreeSet::new(), 0, None);
    loop {
        let page = store.recalled(place.as_ref()).await.expect("reads");
        assert!(page.digests.len() <= 1500);
        told.extend(page.digests.iter().map(|digest| *digest.as_bytes()));
        (pages, place) = (pages + 1, page.next);
        if page.is_last {
            assert_eq!(told.len() as u64, page.total);
            return (told.into_iter().map(Digest::from_bytes).collect(), pages);
        }
    }
}

async fn sidecars(store: &dyn Store) -> Vec<Reported> {
    store.sidecars().await.expect("reads")
}

async fn reports(store: &dyn Store) -> Vec<Report> {
    sidecars(store).await.into_iter().map(|reported| reported.report).collect()
}
