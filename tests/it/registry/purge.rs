//! Which tokens a purge deletes, and that it goes on where it was broken off.

use jiff::{Timestamp, ToSpan as _};
use tollgate::registry::{PartlyDone, PurgeFilter, Purged};
use tollgate::store::Store;

use super::*;
use crate::harness::FaultyStore;

const NOTHING: PurgeFilter = PurgeFilter { expired_by: None, revoked_by: None };

/// So many days ago.
fn days(ago: i64) -> Timestamp {
    Timestamp::now() - (24 * ago).hours()
}

/// A token that was brought from elsewhere, with what happened to it there.
fn past(number: u64, user: &str, expired: Option<Timestamp>, revoked: Option<Timestamp>) -> Box<ImportLine> {
    let id = TokenId::from_u64(number);
    let expires_at = expired.map_or(String::new(), |at| format!(r#""expires_at": "{at}","#));
    let state = match revoked {
        Some(at) => format!(r#""state": "revoked", "revoked_at": "{at}", "revoked_by": "x""#),
        None => r#""state": "active""#.to_owned(),
    };
    let text = format!(
        r#"{{"digest": "{number:064x}", "user": "{user}", "description": "{number}", "permissions": ["heartbeat:write"],
            {expires_at} "id": "{id}", "created_at": "2020-01-01T00:00:00Z", "created_by": "x", {state}}}"#
    );
    parse_line(&text, None).expect("valid")
}

async fn import(registry: &Registry, lines: impl IntoIterator<Item = Box<ImportLine>>) {
    let lines = lines.into_iter().enumerate().map(|(number, line)| (number + 1, line)).collect();
    registry.import(&operator(), lines, ALL_OR_NONE).await.expect("imports");
}

async fn numbers(fixture: &Fixture, user: &str) -> Vec<u64> {
    let mut numbers: Vec<_> = fixture.tokens(user, None).await.iter().map(|token| token.id.to_u64()).collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test]
async fn a_purge_deletes_what_expired_or_was_revoked_so_long_ago() {
    let fixture = Fixture::start().await;
    let max = fixture.add("max", Role::Manager).await;
    fixture.add("mia", Role::Manager).await;
    let lines = [
        past(1, "max", None, None),
        past(2, "max", Some(days(-1)), None),
        past(3, "max", Some(days(80)), None),
        past(4, "max", Some(days(100)), None),
        past(5, "max", None, Some(days(80))),
        past(6, "max", None, Some(days(100))),
        past(7, "max", Some(days(400)), Some(days(80))),
        past(8, "mia", Some(days(100)), None),
    ];
    import(&fixture.registry, lines).await;
    let expired = PurgeFilter { expired_by: Some(days(90)), ..NOTHING };
    let revoked = PurgeFilter { revoked_by: Some(days(90)), ..NOTHING };
    let both = PurgeFilter { expired_by: Some(days(90)), revoked_by: Some(days(60)) };
    let revision = fixture.revision().await;
    for (filter, expired, revoked) in [(expired, 2, 0), (revoked, 0, 1), (both, 2, 3), (NOTHING, 0, 0)] {
        let found = fixture.registry.count_purgeable(&operator(), &filter).await.expect("counts");
        assert_eq!(found, Purged { expired, revoked }, "{filter:?}");
    }
    assert_eq!(fixture.revision().await, revision, "counting changes nothing");

    // A Manager deletes only what a Manager may see.
    let purged = fixture.registry.purge(&max, &expired).await.expect("purges");
    assert_eq!(purged, Purged { expired: 1, revoked: 0 });
    assert_eq!(numbers(&fixture, "max").await, [1, 2, 3, 5, 6, 7], "revoked ones are not those that expired");
    let purged = fixture.registry.purge(&operator(), &both).await.expect("purges");
    assert_eq!(purged, Purged { expired: 1, revoked: 3 });
    assert_eq!((numbers(&fixture, "max").await, numbers(&fixture, "mia").await), (vec![1, 2, 3], vec![]));
    let gone = ["4", "6", "8"].map(|number| format!("{number:0>64}").parse().expect("a digest"));
    assert_eq!(fixture.registry.store().retired(&gone).await.expect("reads"), [true; 3], "as after any deletion");

    let revision = fixture.revision().await;
    assert_eq!(fixture.registry.purge(&operator(), &both).await.expect("purges"), Purged::default());
    assert_eq!(fixture.revision().await, revision, "nothing is left to delete");
    let vera = fixture.add("vera", Role::Viewer).await;
    assert_eq!(kind(fixture.registry.purge(&vera, &both).await), ErrorKind::Forbidden);
    assert_eq!(kind(fixture.registry.count_purgeable(&vera, &both).await), ErrorKind::Forbidden);
}

#[tokio::test]
async fn a_purge_that_was_broken_off_goes_on() {
    let fixture = Fixture::start().await;
    fixture.add("max", Role::Manager).await;
    // One of three is left alone, and a page has less than a commit may delete.
    let line = |number: u64| past(number, "max", Some(days(if number.is_multiple_of(3) { 10 } else { 100 })), None);
    import(&fixture.registry, (1..=3000).map(line)).await;
    let store = Arc::new(FaultyStore::new(Arc::clone(fixture.registry.store())));
    let registry = Registry::new(Arc::clone(&store) as Arc<dyn Store>);
    let filter = PurgeFilter { expired_by: Some(days(90)), ..NOTHING };
    store.fail_after(0);
    let error = registry.purge(&operator(), &filter).await.expect_err("fails");
    assert!(!matches!(error, RegistryError::Interrupted { .. }), "nothing was done: {error}");
    store.fail_after(3);
    let error = registry.purge(&operator(), &filter).await.expect_err("breaks");
    let left = numbers(&fixture, "max").await.len();
    let RegistryError::Interrupted { done, .. } = &error else { panic!("{error:?}") };
    assert_eq!((done, error.kind()), (&PartlyDone::Purged(3000 - left), ErrorKind::Unavailable));
    assert!((1000..3000).contains(&left), "{left}");
    store.fail_after(usize::MAX);
    let purged = registry.purge(&operator(), &filter).await.expect("goes on");
    assert_eq!(purged, Purged { expired: left - 1000, revoked: 0 });
    assert!(numbers(&fixture, "max").await.iter().all(|number| number.is_multiple_of(3)));
}

/// And what is deleted by others meanwhile is no reason to end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_purges_at_once_each_token_is_deleted_by_one() {
    let fixture = Fixture::start().await;
    fixture.add("max", Role::Manager).await;
    import(&fixture.registry, (1..=4000).map(|number| past(number, "max", None, Some(days(100))))).await;
    let filter = PurgeFilter { revoked_by: Some(days(90)), ..NOTHING };
    let purging = [fixture.elsewhere().await, fixture.elsewhere().await]
        .map(|registry| tokio::spawn(async move { registry.purge(&operator(), &filter).await.expect("purges") }));
    let mut purged = 0;
    for purge in purging {
        purged += purge.await.expect("no panic").revoked;
    }
    assert_eq!((purged, numbers(&fixture, "max").await.len()), (4000, 0));
}
