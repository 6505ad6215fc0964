//! The change log, the checksum and the snapshot: three ways to know the same.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Handle;
use tollgate::store::{Batch, Changes, CommitId, Edit, Head, LogEntry, Revision};

use super::*;

pub(super) async fn the_newest_revision_has_nothing_after_it<D: Database>() {
    let (_database, store) = store::<D>().await;
    assert_eq!(after(&*store, 0).await, Changes::Entries(vec![]));
    commit(&*store, Batch::default()).await;
    assert_eq!(after(&*store, 1).await, Changes::Entries(vec![]));
}

pub(super) async fn entries_follow_each_other_without_a_gap<D: Database>() {
    let (_database, store) = store::<D>().await;
    for n in 0..10 {
        commit(&*store, users([Edit::Create(user(&n.to_string()))])).await;
    }
    for start in 0..=10 {
        let revisions: Vec<u64> = entries(&*store, start).await.iter().map(|entry| entry.revision.0).collect();
        assert_eq!(revisions, (start + 1..=10).collect::<Vec<_>>());
    }
}

pub(super) async fn a_revision_that_the_store_has_not_reached_is_told_as_such<D: Database>() {
    let (_database, store) = store::<D>().await;
    commit(&*store, Batch::default()).await;
    assert_eq!(after(&*store, 2).await, Changes::Below);
    assert_eq!(after(&*store, u64::MAX).await, Changes::Below);
}

pub(super) async fn the_log_shows_where_two_histories_part<D: Database>() {
    let database = D::create(Retention { log_entries: 4, ..Retention::default() }).await;
    let store = database.handle().await;
    let mut heads = Vec::new();
    for _ in 0..8 {
        heads.insert(0, commit(&*store, Batch::default()).await.position.head);
    }
    let ancestor = async |latest, heads: &[Head]| {
        store.ancestor(Revision(latest), heads).await.expect("reads").map(|revision| revision.0)
    };
    assert_eq!(ancestor(8, &heads).await, Some(8));
    let other = [Head(1), Head(2), Head(3)];
    assert_eq!(ancestor(11, &[&other, &heads[..]].concat()).await, Some(8), "the store is shorter");
    assert_eq!(ancestor(9, &[&other, &heads[2..]].concat()).await, Some(6), "or has other commits");
    assert_eq!(ancestor(7, &[&other, &heads[4..]].concat()).await, None, "where they part, the log was trimmed");
    assert_eq!(ancestor(8, &[&other, &heads[..]].concat()).await, None, "heads count at their revisions only");
    assert_eq!(ancestor(2, &[Head(1), Head(2), Head(3), Head(4)]).await, None);
    assert_eq!(ancestor(8, &[]).await, None);
}

pub(super) async fn the_log_is_trimmed_by_changes<D: Database>() {
    let database = D::create(Retention { log_changes: 9, ..Retention::default() }).await;
    let store = database.handle().await;
    for n in 0..20 {
        let batch = users((0..3).map(|m| Edit::Create(user(&format!("{n}-{m}")))));
        commit(&*store, batch).await;
    }
    // Three entries of three changes fit exactly.
    assert_eq!(entries(&*store, 17).await.len(), 3);
    assert_eq!(after(&*store, 16).await, Changes::Truncated);
    assert_eq!(after(&*store, 0).await, Changes::Truncated);
}

pub(super) async fn the_log_is_trimmed_by_entries<D: Database>() {
    let database = D::create(Retention { log_entries: 4, ..Retention::default() }).await;
    let store = database.handle().await;
    for _ in 0..10 {
        commit(&*store, Batch::default()).await;
    }
    assert_eq!(entries(&*store, 6).await.len(), 4);
    assert_eq!(after(&*store, 5).await, Changes::Truncated);
}

pub(super) async fn the_newest_entry_stays_however_large<D: Database>() {
    let database = D::create(Retention { log_changes: 5, ..Retention::default() }).await;
    let store = database.handle().await;
    commit(&*store, users([Edit::Create(user("anna"))])).await;
    commit(&*store, users((0..20).map(|n| Edit::Create(user(&n.to_string()))))).await;
    assert_eq!(entries(&*store, 1).await.len(), 1);
    assert_eq!(after(&*store, 0).await, Changes::Truncated);
    commit(&*store, users([Edit::Create(user("berta"))])).await;
    assert_eq!(entries(&*store, 2).await.len(), 1);
    assert_eq!(after(&*store, 1).await, Changes::Truncated);
}

pub(super) async fn checksum_snapshot_and_log_tell_the_same<D: Database>() {
    let batches = prop::collection::vec(prop::collection::vec(any_op(), 0..6), 1..20);
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(24) });
    let (runtime, run) = (Handle::current(), |batches| async move { tell_the_same::<D>(batches).await });
    let result = tokio::task::block_in_place(|| {
        runner.run(&batches, |batches| {
            runtime.block_on(run(batches));
            Ok(())
        })
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

pub(super) async fn the_position_of_a_snapshot_is_read_before_its_items<D: Database>() {
    let (database, store) = store::<D>().await;
    let other = database.handle().await;
    let anna = user("anna");
    commit(&*store, users([Edit::Create(anna.clone())])).await;
    let batch = tokens((0..10_000).map(|n| Edit::Create(token(anna.id, &n.to_string()))));
    let existing = commit(&*store, batch).await;
    let first = store.tokens(Default::default(), None, 1).await.expect("reads").pop().expect("a token");

    let (mut held, mut moved, runtime) = (Held::default(), false, Handle::current());
    let mut sink = |item| {
        held.add(item);
        if !std::mem::replace(&mut moved, true) {
            let batch = tokens([
                Edit::Create(token(anna.id, "late")),
                Edit::Update { before: first.clone(), after: revoked(first.record.clone()) },
            ]);
            let newest = tokio::task::block_in_place(|| runtime.block_on(commit(&*other, batch)));
            assert!(newest.position.revision > existing.position.revision);
        }
    };
    let position = store.snapshot(&mut None, &mut sink).await.expect("a snapshot");
    assert_eq!(position, existing.position);
    for entry in entries(&*store, position.revision.0).await {
        held.apply(&entry.changes);
    }
    let newest = store.position().await.expect("a position");
    assert_eq!((held.checksum(), held.grants.len()), (newest.checksum, 10_000));
}

/// One edit of a random batch; the numbers pick among the records that exist.
#[derive(Debug, Clone)]
enum Op {
    CreateUser,
    SetRole(usize, usize),
    Disable(usize),
    DeleteUser(usize),
    CreateToken { owner: usize, expires_at: Option<i64> },
    Describe(usize),
    Narrow(usize),
    Reassign(usize, usize),
    Revoke(usize),
    DeleteToken(usize),
}

fn any_op() -> impl Strategy<Value = Op> {
    let n = 0..100usize;
    prop_oneof![
        1 => Just(Op::CreateUser),
        1 => (n.clone(), n.clone()).prop_map(|(user, role)| Op::SetRole(user, role)),
        1 => n.clone().prop_map(Op::Disable),
        1 => n.clone().prop_map(Op::DeleteUser),
        4 => (n.clone(), prop::option::of(-10i64..4_000_000_000))
            .prop_map(|(owner, expires_at)| Op::CreateToken { owner, expires_at }),
        1 => n.clone().prop_map(Op::Describe),
        1 => n.clone().prop_map(Op::Narrow),
        1 => (n.clone(), n.clone()).prop_map(|(token, owner)| Op::Reassign(token, owner)),
        1 => n.clone().prop_map(Op::Revoke),
        1 => n.prop_map(Op::DeleteToken),
    ]
}

/// The records as the store should hold them.
#[derive(Default)]
struct Model {
    users: BTreeMap<UserId, Versioned<UserRecord>>,
    tokens: BTreeMap<TokenId, Versioned<TokenRecord>>,
}

impl Model {
    /// Makes a batch of the operations, leaving out those about a record that the batch has already.
    fn batch(&self, ops: &[Op], batch_number: usize) -> Batch {
        let (mut batch, mut touched) = (Batch::default(), BTreeSet::new());
        let pick_user = |n: usize| self.users.values().nth(n % self.users.len().max(1));
        let pick_token = |n: usize| self.tokens.values().nth(n % self.tokens.len().max(1));
        for (number, op) in ops.iter().enumerate() {
            match *op {
                Op::CreateUser => batch.users.push(Edit::Create(user(&format!("user-{batch_number}-{number}")))),
                Op::SetRole(n, _) | Op::Disable(n) | Op::DeleteUser(n) => {
                    let Some(before) = pick_user(n).cloned() else { continue };
                    if !touched.insert(before.record.id.to_u64()) {
                        continue;
                    }
                    let mut after = before.record.clone();
                    match *op {
                        Op::SetRole(_, role) => after.role = Role::ALL[role % 4],
                        Op::Disable(_) => after.status = UserStatus::Disabled,
                        _ => {
                            batch.users.push(Edit::Delete(before));
                            continue;
                        }
                    }
                    batch.users.push(Edit::Update { before, after });
                }
                Op::CreateToken { owner, expires_at } => {
                    let Some(owner) = pick_user(owner) else { continue };
                    let mut token = token(owner.record.id, &format!("token-{batch_number}-{number}"));
                    token.expires_at = expires_at.map(|second| Timestamp::from_second(second).expect("a time"));
                    batch.history.push((token.id, created()));
                    batch.tokens.push(Edit::Create(token));
                }
                Op::Describe(n) | Op::Narrow(n) | Op::Reassign(n, _) | Op::Revoke(n) | Op::DeleteToken(n) => {
                    let Some(before) = pick_token(n).cloned() else { continue };
                    if !touched.insert(before.record.id.to_u64()) {
                        continue;
                    }
                    let mut after = before.record.clone();
                    match *op {
                        Op::Describe(_) => after.description.push('!'),
                        Op::Narrow(_) => after.permissions = PermissionSet::EMPTY,
                        Op::Reassign(_, n) => after.owner = pick_user(n).map_or(after.owner, |user| user.record.id),
                        Op::Revoke(_) => after = revoked(after),
                        _ => {
                            batch.tokens.push(Edit::Delete(before));
                            continue;
                        }
                    }
                    batch.tokens.push(Edit::Update { before, after });
                }
            }
        }
        batch
    }

    fn apply(&mut self, batch: &Batch, version: CommitId) {
        for edit in &batch.users {
            match edit {
                Edit::Create(record) | Edit::Update { after: record, .. } => {
                    self.users.insert(record.id, Versioned { record: record.clone(), version });
                }
                Edit::Delete(before) => drop(self.users.remove(&before.record.id)),
                Edit::Require(_) => {}
            }
        }
        for edit in &batch.tokens {
            match edit {
                Edit::Create(record) | Edit::Update { after: record, .. } => {
                    self.tokens.insert(record.id, Versioned { record: record.clone(), version });
                }
                Edit::Delete(before) => drop(self.tokens.remove(&before.record.id)),
                Edit::Require(_) => {}
            }
        }
    }

    fn held(&self) -> Held {
        let owners = self.users.values().map(|user| (user.record.id, user.record.owner()));
        let grants = self.tokens.values().filter_map(|token| Some((token.record.digest, token.record.grant()?)));
        Held { owners: owners.collect(), grants: grants.collect() }
    }
}

async fn tell_the_same<D: Database>(batches: Vec<Vec<Op>>) {
    let (_database, store) = store::<D>().await;
    let (mut model, mut replayed, mut commits) = (Model::default(), Held::default(), Vec::new());
    for (number, ops) in batches.iter().enumerate() {
        let batch = model.batch(ops, number);
        let committed = commit(&*store, batch.clone()).await;
        model.apply(&batch, committed.id);
        commits.push(committed);
    }
    let (mut head, mut revision) = (Head::START, Revision(0));
    for (entry, committed) in entries(&*store, 0).await.into_iter().zip(&commits) {
        assert!(entry.follows(head, revision), "the heads are a chain");
        (head, revision) = (entry.head, entry.revision);
        assert_eq!(entry.committed(committed.position.epoch), *committed);
        replayed.apply(&entry.changes);
        assert_eq!(replayed.checksum(), entry.checksum, "at revision {}", entry.revision);
    }
    let (position, snapshot) = Held::snapshot(&*store).await;
    assert_eq!(snapshot, model.held());
    assert_eq!(snapshot, replayed);
    assert_eq!((position.checksum, position.head), (snapshot.checksum(), head));
    let users: Vec<_> = model.users.into_values().rev().collect();
    assert_eq!(store.users(None, 1000).await.expect("reads"), users);
    let tokens: Vec<_> = model.tokens.into_values().rev().collect();
    assert_eq!(store.tokens(Default::default(), None, 1000).await.expect("reads"), tokens);
}

async fn after(store: &dyn Store, revision: u64) -> Changes {
    store.changes(Revision(revision)).await.expect("reads")
}

/// The log after a revision, however many pages that takes.
pub(crate) async fn entries(store: &dyn Store, mut revision: u64) -> Vec<LogEntry> {
    let mut read = Vec::new();
    loop {
        match after(store, revision).await {
            Changes::Entries(entries) => return [read, entries].concat(),
            Changes::Page(entries) => read.extend(entries),
            Changes::Costly(_) | Changes::Truncated | Changes::Below => panic!("nothing after {revision}"),
        }
        revision = read.last().map_or(revision, |entry| entry.revision.0);
    }
}
