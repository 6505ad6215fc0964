//! Notices: at least one for every commit.

use std::time::Duration;

use tollgate::store::{Batch, Edit, Notice, Revision, Watch};

use super::*;

/// Far longer than any notice takes.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn own_commits_are_told<D: Database>() {
    let (_database, store) = store::<D>().await;
    let mut watch = store.watch();
    let anna = user("anna");
    let committed = commit(&*store, users([Edit::Create(anna.clone())])).await;
    let told = loop {
        if let Notice::Committed { epoch, entry } = next(&mut *watch).await {
            break (epoch, entry);
        }
    };
    assert_eq!(told.1.committed(told.0), committed);
    assert_eq!(told.1.changes, [Change::PutOwner(anna.id, anna.owner())]);
}

pub(super) async fn commits_of_other_handles_are_told<D: Database>() {
    let (database, store) = store::<D>().await;
    let other = database.handle().await;
    let mut watch = store.watch();
    for round in 1..=10 {
        commit(&*other, Batch::default()).await;
        next(&mut *watch).await;
        let revision = store.position().await.expect("a position").revision;
        assert_eq!(revision, Revision(round), "a notice comes when the commit can be seen");
    }
}

pub(super) async fn nothing_is_missed_after_watching_began<D: Database>() {
    let (database, store) = store::<D>().await;
    let other = database.handle().await;
    for round in 0..20 {
        // A handle whose first watcher this is, or not: both begin to watch at once.
        let watching = if round % 2 == 0 { database.handle().await } else { store.clone() };
        let mut watch = watching.watch();
        commit(&*other, Batch::default()).await;
        next(&mut *watch).await;
    }
}

pub(super) async fn every_watcher_is_told<D: Database>() {
    let (_database, store) = store::<D>().await;
    let mut watches: Vec<_> = (0..3).map(|_| store.watch()).collect();
    commit(&*store, Batch::default()).await;
    for watch in &mut watches {
        next(&mut **watch).await;
    }
}

async fn next(watch: &mut dyn Watch) -> Notice {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("a notice")
}
