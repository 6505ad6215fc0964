//! Commits: whole or not at all, and only onto what was read.

use std::time::Duration;

use tollgate::store::{Batch, CommitError, CommitId, Contradiction, Edit, Pin, Retention, Revision, Store, Versioned};
use tollgate::token::{TokenRecord, UserStatus};

use super::*;

pub(super) async fn an_empty_store_is_at_revision_zero<D: Database>() {
    let (database, store) = store::<D>().await;
    let position = store.position().await.expect("a position");
    assert_eq!((position.revision, position.checksum), (Revision(0), 0));
    assert_eq!(Held::snapshot(&*store).await, (position, Held::default()));
    let other = database.handle().await;
    assert_eq!(other.position().await.expect("a position"), position, "the epoch is the database's");
}

pub(super) async fn a_commit_adds_one_to_the_revision_and_is_the_version_of_what_it_wrote<D: Database>() {
    let (_database, store) = store::<D>().await;
    let anna = user("anna");
    let (first, second) = (token(anna.id, "first"), token(anna.id, "second"));
    assert_eq!(commit(&*store, users([Edit::Create(anna.clone())])).await.position.revision, Revision(1));
    let one = commit(&*store, tokens([Edit::Create(first.clone())])).await;
    let two = commit(&*store, tokens([Edit::Create(second.clone())])).await;
    assert_eq!((one.position.revision, two.position.revision), (Revision(2), Revision(3)));
    assert_eq!(commit(&*store, Batch::default()).await.position.revision, Revision(4));
    let before = stored(&*store, first.id).await.expect("there");
    assert_eq!(before, Versioned { record: first.clone(), version: one.id });
    let last = commit(&*store, tokens([Edit::Update { before, after: revoked(first.clone()) }])).await;
    assert_eq!(last.position.revision, Revision(5));
    assert_eq!(stored(&*store, first.id).await, Some(Versioned { record: revoked(first), version: last.id }));
    assert_eq!(stored(&*store, second.id).await.map(|token| token.version), Some(two.id));
    assert_eq!(store.position().await.expect("a position"), last.position);
}

pub(super) async fn a_record_that_changed_meanwhile_is_a_conflict<D: Database>() {
    let (_database, store) = store::<D>().await;
    let (anna, token) = seeded(&*store).await;
    let changed = TokenRecord { description: "changed".to_owned(), ..token.record.clone() };
    commit(&*store, tokens([Edit::Update { before: token.clone(), after: changed }])).await;
    let disabled = UserRecord { status: UserStatus::Disabled, ..anna.record.clone() };
    commit(&*store, users([Edit::Update { before: anna.clone(), after: disabled.clone() }])).await;

    let update = Edit::Update { before: token.clone(), after: revoked(token.record.clone()) };
    refused_as_conflict(&*store, tokens([update])).await;
    refused_as_conflict(&*store, tokens([Edit::Delete(token)])).await;
    refused_as_conflict(&*store, users([Edit::Update { before: anna.clone(), after: disabled }])).await;
    refused_as_conflict(&*store, users([Edit::Delete(anna)])).await;
}

pub(super) async fn a_record_that_exists_cannot_be_created<D: Database>() {
    let (_database, store) = store::<D>().await;
    let (anna, existing) = seeded(&*store).await;
    let same_id = TokenRecord { id: existing.record.id, ..token(anna.record.id, "another") };
    refused_as_conflict(&*store, tokens([Edit::Create(same_id)])).await;
    let same_id = UserRecord { id: anna.record.id, ..user("berta") };
    refused_as_conflict(&*store, users([Edit::Create(same_id)])).await;
}

pub(super) async fn a_record_that_is_gone_is_a_conflict<D: Database>() {
    let (_database, store) = store::<D>().await;
    let (_, token) = seeded(&*store).await;
    commit(&*store, tokens([Edit::Delete(token.clone())])).await;
    let update = Edit::Update { before: token.clone(), after: revoked(token.record.clone()) };
    refused_as_conflict(&*store, tokens([update])).await;
    refused_as_conflict(&*store, tokens([Edit::Delete(token.clone())])).await;
    refused_as_conflict(&*store, tokens([Edit::Require(token)])).await;
}

pub(super) async fn a_required_record_must_not_have_changed<D: Database>() {
    let (_database, store) = store::<D>().await;
    let (anna, _) = seeded(&*store).await;
    let create = |name: &str| Batch {
        users: vec![Edit::Require(anna.clone())],
        tokens: vec![Edit::Create(token(anna.record.id, name))],
        ..Batch::default()
    };
    commit(&*store, create("first")).await;
    let unchanged = store.user(anna.record.id).await.expect("reads").expect("there");
    assert_eq!(unchanged, anna, "requiring a record does not write it");
    let after = UserRecord { status: UserStatus::Disabled, ..anna.record.clone() };
    commit(&*store, users([Edit::Update { before: anna.clone(), after }])).await;
    refused_as_conflict(&*store, create("second")).await;
}

pub(super) async fn pins_hold_what_no_record_shows<D: Database>() {
    let (_database, store) = store::<D>().await;
    let no_users = |name| Batch { pins: vec![Pin::NoUsers], ..users([Edit::Create(user(name))]) };
    commit(&*store, no_users("anna")).await;
    refused_as_conflict(&*store, no_users("berta")).await;
    commit(&*store, users([Edit::Create(user("berta"))])).await;
    let [anna, berta] = ["anna", "berta"].map(|name| store.user_by_name(name));
    let (anna, berta) = (anna.await.expect("reads").expect("there"), berta.await.expect("reads").expect("there"));

    let set = async |user: &Versioned<UserRecord>| store.token_set(user.record.id).await.expect("reads");
    let pin = |user: &Versioned<UserRecord>, since| Pin::TokensOf { user: user.record.id, since };
    let pinned = |pins: &[Pin]| Batch { pins: pins.to_vec(), ..Batch::default() };
    assert_eq!((set(&anna).await, set(&berta).await), (None, None), "neither had a token ever");
    commit(&*store, pinned(&[pin(&anna, None), pin(&berta, None)])).await;
    let made = commit(&*store, tokens([Edit::Create(token(anna.record.id, "first"))])).await;
    assert_eq!((set(&anna).await, set(&berta).await), (Some(made.id), None), "a token was made for one of them");
    refused_as_conflict(&*store, pinned(&[pin(&berta, None), pin(&anna, None)])).await;
    refused_as_conflict(&*store, pinned(&[pin(&anna, Some(CommitId(7)))])).await;
    commit(&*store, pinned(&[pin(&anna, Some(made.id))])).await;

    // What a user already has may change: the records of what was read tell.
    let first = store.tokens(Default::default(), None, 1).await.expect("reads").remove(0);
    let after = TokenRecord { description: "other".to_owned(), ..first.record.clone() };
    let changed = commit(&*store, tokens([Edit::Update { before: first, after: after.clone() }])).await;
    assert_eq!(set(&anna).await, Some(made.id));
    let before = Versioned { record: after.clone(), version: changed.id };
    let given = TokenRecord { owner: berta.record.id, ..after };
    let reassigned = commit(&*store, tokens([Edit::Update { before, after: given }])).await;
    assert_eq!((set(&anna).await, set(&berta).await), (Some(made.id), Some(reassigned.id)), "it came to the other one");
    commit(&*store, users([Edit::Delete(anna.clone())])).await;
    assert_eq!(set(&anna).await, None, "it goes with the user");
}

pub(super) async fn a_digest_belongs_to_one_token<D: Database>() {
    let (_database, store) = store::<D>().await;
    let (anna, existing) = seeded(&*store).await;
    let again = || tokens([Edit::Create(token(anna.record.id, "seeded"))]);
    let digest = existing.record.digest;
    let refusal = refused(&*store, again()).await;
    assert!(matches!(refusal, CommitError::DigestTaken(taken) if taken == digest), "{refusal}");

    let after = revoked(existing.record.clone());
    commit(&*store, tokens([Edit::Update { before: existing, after }])).await;
    let refusal = refused(&*store, again()).await;
    assert!(matches!(refusal, CommitError::DigestTaken(taken) if taken == digest), "{refusal}");

    let twice = ["twice", "twice"].map(|name| Edit::Create(token(anna.record.id, name)));
    let refusal = refused(&*store, tokens(twice)).await;
    assert!(matches!(refusal, CommitError::DigestTaken(_)), "{refusal}");
}

pub(super) async fn a_digest_never_comes_back<D: Database>() {
    let (_database, store) = store::<D>().await;
    let (anna, deleted) = seeded(&*store).await;
    let digest = deleted.record.digest;
    let in_one_batch = [Edit::Delete(deleted.clone()), Edit::Create(token(anna.record.id, "seeded"))];
    let refusal = refused(&*store, tokens(in_one_batch)).await;
    assert!(matches!(refusal, CommitError::DigestRetired(retired) if retired == digest), "{refusal}");

    commit(&*store, tokens([Edit::Delete(deleted.clone())])).await;
    assert_eq!(store.tokens_by_digest(&[digest]).await.expect("reads"), [None]);
    let refusal = refused(&*store, tokens([Edit::Create(token(anna.record.id, "seeded"))])).await;
    assert!(matches!(refusal, CommitError::DigestRetired(retired) if retired == digest), "{refusal}");
}

pub(super) async fn old_retired_digests_are_forgotten_when_there_are_too_many<D: Database>() {
    let database = D::create(Retention { tombstones: 2, ..Retention::default() }).await;
    let store = database.handle().await;
    let anna = user("anna");
    commit(&*store, users([Edit::Create(anna.clone())])).await;
    for name in ["a", "b", "c", "d"] {
        let token = token(anna.id, name);
        let version = commit(&*store, tokens([Edit::Create(token.clone())])).await.id;
        commit(&*store, tokens([Edit::Delete(Versioned { record: token, version })])).await;
    }
    let mut retired = 0;
    for name in ["a", "b", "c", "d"] {
        retired += u32::from(store.commit(tokens([Edit::Create(token(anna.id, name))])).await.is_err());
    }
    assert_eq!(retired, 2);
}

pub(super) async fn a_name_belongs_to_one_user<D: Database>() {
    let (_database, store) = store::<D>().await;
    let (anna, _) = seeded(&*store).await;
    let refusal = refused(&*store, users([Edit::Create(user("anna"))])).await;
    assert!(matches!(&refusal, CommitError::NameTaken(name) if name == "anna"), "{refusal}");
    commit(&*store, users([Edit::Create(user("Anna"))])).await; // names are exact
    let refusal = refused(&*store, users([Edit::Create(user("b")), Edit::Create(user("b"))])).await;
    assert!(matches!(&refusal, CommitError::NameTaken(name) if name == "b"), "{refusal}");
    commit(&*store, users([Edit::Delete(anna)])).await;
    commit(&*store, users([Edit::Create(user("anna"))])).await;
}

pub(super) async fn a_name_can_be_given_up_and_taken_in_one_batch<D: Database>() {
    let (_database, store) = store::<D>().await;
    let (old, _) = seeded(&*store).await;
    let new = user("anna");
    commit(&*store, users([Edit::Create(new.clone()), Edit::Delete(old)])).await;
    let found = store.user_by_name("anna").await.expect("reads").expect("there");
    assert_eq!(found.record, new);
}

pub(super) async fn a_batch_that_fails_at_its_end_changes_nothing<D: Database>() {
    let (_database, store) = store::<D>().await;
    let (anna, seeded) = seeded(&*store).await;
    let berta = user("berta");
    let disabled = UserRecord { status: UserStatus::Disabled, ..anna.record.clone() };
    let good = || Batch {
        users: vec![Edit::Create(berta.clone()), Edit::Update { before: anna.clone(), after: disabled.clone() }],
        tokens: vec![Edit::Create(token(berta.id, "good")), Edit::Delete(seeded.clone())],
        history: vec![],
        audit: Vec::new(),
        pins: Vec::new(),
    };
    let stale = Versioned { record: token(anna.record.id, "no such token"), version: CommitId(1) };
    let mut batch = good();
    batch.tokens.push(Edit::Delete(stale));
    refused_as_conflict(&*store, batch).await;
    let mut batch = good();
    batch.tokens.push(Edit::Create(token(anna.record.id, "good")));
    assert!(matches!(refused(&*store, batch).await, CommitError::DigestTaken(_)));
    assert_eq!(store.user(berta.id).await.expect("reads"), None);
    assert_eq!(store.user(anna.record.id).await.expect("reads"), Some(anna.clone()));
    assert_eq!(stored(&*store, seeded.record.id).await, Some(seeded.clone()));
    assert_eq!(store.history(seeded.record.id).await.expect("reads"), [created()]);
    commit(&*store, good()).await;
}

pub(super) async fn a_batch_that_contradicts_itself_is_refused<D: Database>() {
    let (_database, store) = store::<D>().await;
    let (anna, seeded) = seeded(&*store).await;
    let id = seeded.record.id;
    let other_digest = TokenRecord { digest: Digest::of(b"other"), ..seeded.record.clone() };
    for (batch, contradiction) in [
        (tokens([Edit::Require(seeded.clone()), Edit::Delete(seeded.clone())]), Contradiction::TokenTwice(id)),
        (users([Edit::Require(anna.clone()), Edit::Require(anna.clone())]), Contradiction::UserTwice(anna.record.id)),
        (tokens([Edit::Update { before: seeded.clone(), after: other_digest }]), Contradiction::TokenId(id)),
        (
            Batch { history: vec![(id, created())], ..tokens([Edit::Delete(seeded)]) },
            Contradiction::HistoryOfDeleted(id),
        ),
    ] {
        assert_eq!(batch.check(), Err(contradiction));
        assert!(matches!(refused(&*store, batch).await, CommitError::Failed(_)), "{contradiction}");
    }
}

pub(super) async fn history_for_a_token_that_is_gone_is_a_conflict<D: Database>() {
    let (_database, store) = store::<D>().await;
    let (_, seeded) = seeded(&*store).await;
    let line = || Batch { history: vec![(seeded.record.id, created())], ..Batch::default() };
    commit(&*store, line()).await;
    commit(&*store, tokens([Edit::Delete(seeded.clone())])).await;
    refused_as_conflict(&*store, line()).await;
}

pub(super) async fn two_handles_never_lose_an_update<D: Database>() {
    const EACH: usize = 40;
    let (database, store) = store::<D>().await;
    let (_, counter) = seeded(&*store).await;
    let id = counter.record.id;
    commit(&*store, tokens([Edit::Update { after: counting(&counter.record, 0), before: counter }])).await;
    let mut tasks = Vec::new();
    for handle in [store.clone(), store.clone(), database.handle().await, database.handle().await] {
        tasks.push(tokio::spawn(async move {
            let mut done = 0;
            while done < EACH {
                let before = stored(&*handle, id).await.expect("there");
                let count: usize = before.record.description.parse().expect("a number");
                let after = counting(&before.record, count + 1);
                match handle.commit(tokens([Edit::Update { before, after }])).await {
                    Ok(_) => done += 1,
                    Err(CommitError::Conflict) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        }));
    }
    for task in tasks {
        task.await.expect("no panic");
    }
    let counted = stored(&*store, id).await.expect("there").record.description;
    assert_eq!(counted, (4 * EACH).to_string());
}

pub(super) async fn a_commit_whose_caller_went_away_happens_whole_or_not_at_all<D: Database>() {
    let (_database, store) = store::<D>().await;
    let anna = user("anna");
    commit(&*store, users([Edit::Create(anna.clone())])).await;
    for round in 0..20u64 {
        let batch = tokens((0..20).map(|n| Edit::Create(token(anna.id, &format!("{round} {n}")))));
        let cut = tokio::time::timeout(Duration::from_micros(round * 100), store.commit(batch));
        drop(cut.await);
        let held = Held::snapshot(&*store).await.1;
        assert_eq!(held.grants.len() % 20, 0);
    }
    let (position, held) = Held::snapshot(&*store).await;
    assert_eq!(position.checksum, held.checksum());
}

fn counting(record: &TokenRecord, count: usize) -> TokenRecord {
    TokenRecord { description: count.to_string(), ..record.clone() }
}

/// A user with a token, in a store that was empty.
async fn seeded(store: &dyn Store) -> (Versioned<UserRecord>, Versioned<TokenRecord>) {
    let anna = user("anna");
    let token = token(anna.id, "seeded");
    let batch = Batch {
        history: vec![(token.id, created())],
        users: vec![Edit::Create(anna.clone())],
        ..tokens([Edit::Create(token.clone())])
    };
    let version = commit(store, batch).await.id;
    (Versioned { record: anna, version }, Versioned { record: token, version })
}

/// Commits what must be refused, and checks that nothing moved.
async fn refused(store: &dyn Store, batch: Batch) -> CommitError {
    let before = Held::snapshot(store).await;
    let refusal = store.commit(batch).await.expect_err("refused");
    assert_eq!(Held::snapshot(store).await, before);
    refusal
}

async fn refused_as_conflict(store: &dyn Store, batch: Batch) {
    let refusal = refused(store, batch).await;
    assert!(matches!(refusal, CommitError::Conflict), "{refusal}");
}
