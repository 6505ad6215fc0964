//! A registry as a whole: read while it changes, written to a file, restored, and frozen.

use tokio::sync::mpsc;
use tollgate::store::archive::{self, Backup, Summary, Tally, write_backup};
use tollgate::store::{self, CommitError, StateFilter, StoreError, TokenFilter};

use super::*;
use crate::harness::settings;

/// One of everything: users, one of whom lost the name and one of whom was deleted; tokens that are active, expiring, revoked,
/// with histories, and deleted; a recall.
pub(crate) async fn fill(store: &dyn Store) {
    let [anna, max, gone] = ["anna", "max", "gone"].map(user);
    commit(store, users([&anna, &max, &gone].map(|user| Edit::Create(user.clone())))).await;
    let before = store.user(anna.id).await.expect("reads").expect("is there");
    let after = UserRecord { name: "hanna".to_owned(), status: UserStatus::Disabled, ..anna.clone() };
    commit(store, users([Edit::Update { before, after }])).await;
    let before = store.user(gone.id).await.expect("reads").expect("is there");
    commit(store, users([Edit::Delete(before)])).await;
    let mut made: Vec<_> = (0..40).map(|number| token(max.id, &format!("token {number}"))).collect();
    made[3].expires_at = Some("2030-01-02T03:04:05Z".parse().expect("a time"));
    made[4].expires_at = Some("2020-01-02T03:04:05Z".parse().expect("a time"));
    let history = made.iter().map(|token| (token.id, created())).collect();
    let version = commit(store, Batch { history, ..tokens(made.iter().cloned().map(Edit::Create)) }).await.id;
    let before = |number: usize| Versioned { record: made[number].clone(), version };
    let revoke = |number: usize| Edit::Update { before: before(number), after: revoked(made[number].clone()) };
    let event = TokenEvent::Revoked { reason: Some("lost, \"really\"".to_owned()) };
    let history = vec![(
        made[0].id,
        HistoryEntry { at: Timestamp::UNIX_EPOCH, by: "anna".to_owned(), event, operator_reason: None },
    )];
    let edits = [revoke(0), revoke(1), Edit::Delete(before(2)), Edit::Delete(before(5))];
    commit(store, Batch { history, ..tokens(edits) }).await;
    store.recall(&[Digest::of(b"token 7")]).await.expect("recalls");
    trail::chain(store, 700).await;
    trail::leave(store, 3).await;
}

/// All that a store tells, but where it stands and what its log has.
pub(crate) async fn contents(store: &dyn Store) -> String {
    let (_, held) = Held::snapshot(store).await;
    let users = store.users(None, 1000).await.expect("reads");
    let mut text = format!("{:016x}\n", held.checksum());
    for user in &users {
        let (id, name) = (user.record.id, &user.record.name);
        let by_name = store.user_by_name(name).await.expect("reads").map(|user| user.record.id);
        let filter = TokenFilter { owner: Some(id), ..TokenFilter::default() };
        let (count, set) =
            (store.count_tokens(filter).await.expect("counts"), store.token_set(id).await.expect("reads"));
        text += &format!("{user:?} {by_name:?} {count} {set:?}\n");
    }
    let now = Timestamp::now().as_second();
    let states = [StateFilter::Active { now }, StateFilter::Revoked, StateFilter::Expired { now }].map(Some);
    for state in states.into_iter().chain([None]) {
        let filter = TokenFilter { state, ..TokenFilter::default() };
        let tokens = store.tokens(filter, None, 1000).await.expect("reads");
        text += &format!("{tokens:?} {}\n", store.count_tokens(filter).await.expect("counts"));
        for token in &tokens {
            text += &format!("{:?}\n", store.history(token.record.id).await.expect("reads"));
        }
    }
    text += &format!("{:?}\n", store.trail_after(0, 10_000).await.expect("reads"));
    text += &format!("{:?}\n", store.trail_ends(10_000).await.expect("reads").loose);
    let digests: Vec<_> = (0..40).map(|number| Digest::of(format!("token {number}").as_bytes())).collect();
    let retired = store.retired(&digests).await.expect("reads");
    format!("{text}{retired:?} {:?}", store.recalled(None).await.expect("reads").digests)
}

/// Everything that the store hands over, and where it stood.
pub(crate) async fn dumped(store: &dyn Store) -> (Summary, Position) {
    beside(store, async || ()).await
}

/// The same, while something is done after each piece.
async fn beside(store: &dyn Store, mut work: impl AsyncFnMut()) -> (Summary, Position) {
    let (items, mut received) = mpsc::channel(1);
    let count = async {
        let mut tally = Tally::default();
        while let Some(items) = received.recv().await {
            tally.take(items);
            work().await;
        }
        tally.summary()
    };
    let (inventory, summary) = tokio::join!(store.dump(items), count);
    (summary, inventory.expect("reads everything").position)
}

pub(super) async fn a_backup_makes_the_same_registry_in_either_kind_of_store<D: Database>() {
    let (_database, store) = store::<D>().await;
    fill(&*store).await;
    let (folder, server) = (tempfile::tempdir().expect("a folder"), RedisServer::start());
    let file = folder.path().join("registry.backup");
    let whole = write_backup(&*store, &file).await.expect("writes");
    assert_eq!(whole.position, store.position().await.expect("reads"));
    let summary = whole.summary;
    assert_eq!((summary.users, summary.tokens, summary.retired, summary.recalled), (2, 38, 2, 1));
    for url in [format!("sqlite:{}", folder.path().join("restored.db").display()), server.url()] {
        let settings = settings(&url);
        let backup = Backup::open(&file).expect("is whole");
        let target = archive::begin(&settings).await.expect("is empty");
        let made = archive::restore(backup, target, &settings).await.expect("restores");
        assert_eq!((made.of, made.unconfirmed), (whole, None));
        let position = made.position;
        let other = store::open(&settings, Absent::Refuse).await.expect("is a registry");
        assert_eq!(other.position().await.expect("reads"), position);
        assert_eq!(position.revision, whole.position.revision.next());
        assert_ne!(position.epoch, whole.position.epoch, "another life");
        assert_eq!(contents(&*other).await, contents(&*store).await, "{url}");
        assert_eq!(dumped(&*other).await.0, summary);
        // It goes on: a digest that was deleted does not come back, and what changes is in its log.
        let max = other.user_by_name("max").await.expect("reads").expect("is there").record;
        let deleted = other.commit(tokens([Edit::Create(token(max.id, "token 2"))])).await;
        assert!(matches!(deleted, Err(CommitError::DigestRetired(_))), "{deleted:?}");
        let later = commit(&*other, tokens([Edit::Create(token(max.id, "later"))])).await.position;
        let (at, held) = Held::snapshot(&*other).await;
        assert_eq!((at, held.checksum()), (later, later.checksum));
    }
}

pub(super) async fn a_copy_is_the_same_registry_in_either_kind_of_store<D: Database>() {
    let (_database, store) = store::<D>().await;
    fill(&*store).await;
    let (folder, server) = (tempfile::tempdir().expect("a folder"), RedisServer::start());
    for url in [format!("sqlite:{}", folder.path().join("copy.db").display()), server.url()] {
        let settings = settings(&url);
        let target = archive::begin(&settings).await.expect("is empty");
        archive::copy(&*store, None, target, &settings).await.expect("copies");
        let other = store::open(&settings, Absent::Refuse).await.expect("is a registry");
        assert_eq!(contents(&*other).await, contents(&*store).await, "{url}");
        let refused = archive::begin(&settings).await.err().expect("is not empty").to_string();
        assert!(refused.contains("nothing is written over"), "{refused}");
        assert_eq!(contents(&*other).await, contents(&*store).await, "{url}");
    }
}

/// One commit after each piece that is handed over, of every kind that there is.
pub(super) async fn what_is_read_beside_commits_is_the_registry_at_one_position<D: Database>() {
    let (database, store) = store::<D>().await;
    fill(&*store).await;
    let max = store.user_by_name("max").await.expect("reads").expect("is there").record;
    for part in 0..3 {
        let made = (0..600).map(|number| token(max.id, &format!("{part} {number}")));
        let made: Vec<_> = made.collect();
        let history = made.iter().map(|token| (token.id, created())).collect();
        commit(&*store, Batch { history, ..tokens(made.into_iter().map(Edit::Create)) }).await;
    }
    let (before, at_first) = (dumped(&*store).await, store.position().await.expect("reads"));
    assert_eq!(before.1, at_first);
    let writer = database.handle().await;
    let mut done = 0;
    let (summary, position) = beside(&*store, async || {
        done += 1;
        if done <= 40 {
            change(&*writer, &max, done).await;
        }
    })
    .await;
    assert!(done > 4, "there was more than one piece");
    assert_eq!(summary.checksum, position.checksum);
    let (after, last) = dumped(&*store).await;
    let expected = if position == at_first { before.0 } else { after };
    assert!(position == at_first || position == last, "{position:?}");
    assert_eq!(summary, expected);
}

/// One commit, of another kind each time.
async fn change(store: &dyn Store, max: &UserRecord, number: usize) {
    let some = store.tokens(TokenFilter::default(), None, 700).await.expect("reads");
    let Versioned { record, version } = some[number * 13 % some.len()].clone();
    let before = Versioned { record: record.clone(), version };
    let history = vec![(record.id, created())];
    let batch = match number % 7 {
        0 => tokens([Edit::Create(token(max.id, &format!("new {number}")))]),
        1 => tokens([Edit::Delete(before)]),
        2 => Batch { history, ..tokens([Edit::Update { before, after: revoked(record) }]) },
        3 => tokens([Edit::Update { before, after: TokenRecord { description: "other".to_owned(), ..record } }]),
        4 => Batch { history, ..Batch::default() },
        5 => users([Edit::Create(user(&format!("user {number}")))]),
        _ => {
            let newest = store.users(None, 1).await.expect("reads").remove(0);
            match newest.record.id == max.id {
                true => Batch::default(),
                false => users([Edit::Delete(newest)]),
            }
        }
    };
    commit(store, batch).await;
}

pub(super) async fn a_frozen_registry_refuses_changes_and_nothing_else<D: Database>() {
    let (database, store) = store::<D>().await;
    fill(&*store).await;
    let before = (contents(&*store).await, store.position().await.expect("reads"));
    assert_eq!(store.frozen().await.expect("reads"), None);
    assert!(store.freeze(Some("moving, it's \"soon\" done"), None).await.expect("freezes"));
    let other = database.handle().await;
    for handle in [&store, &other] {
        assert_eq!(handle.frozen().await.expect("reads").as_deref(), Some("moving, it's \"soon\" done"));
        let refused = handle.commit(users([Edit::Create(user("late"))])).await;
        let Err(CommitError::Failed(error @ StoreError::Frozen { .. })) = refused else { panic!("{refused:?}") };
        let text = error.to_string();
        assert!(text.contains("(moving, it's \"soon\" done)") && text.contains("tollgate store unfreeze"), "{text}");
    }
    assert_eq!((contents(&*other).await, other.position().await.expect("reads")), before);
    assert_eq!(dumped(&*other).await.1, before.1);
    // Of a sidecar, all goes on.
    other.recall(&[Digest::of(b"token 8")]).await.expect("recalls");
    other.settle_recalls(&[Digest::of(b"token 8")]).await.expect("settles");
    assert!(store.freeze(Some("twice"), None).await.expect("freezes"));
    assert_eq!(other.frozen().await.expect("reads").as_deref(), Some("twice"));
    // Who has frozen it lifts that, or puts another in its place, and nobody else's.
    for reason in [None, Some("three times")] {
        assert!(!other.freeze(reason, Some("moving, it's \"soon\" done")).await.expect("asks"));
        assert_eq!(other.frozen().await.expect("reads").as_deref(), Some("twice"));
    }
    assert!(other.freeze(Some("three times"), Some("twice")).await.expect("freezes"));
    assert_eq!(store.frozen().await.expect("reads").as_deref(), Some("three times"));
    assert!(store.freeze(None, Some("three times")).await.expect("lifts it"));
    assert!(store.freeze(None, None).await.expect("lifts it"));
    commit(&*other, users([Edit::Create(user("late"))])).await;
}
