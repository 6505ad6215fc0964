//! How a store in Redis finds the server in charge, stays with it, and hears of commits: with real servers.

mod access;
mod cluster;
mod fleet;
mod sentinel;
mod start;
mod tls;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use tollgate::store::{self, Absent, CommitError, Edit, Notice, Revision, Settings, Store, StoreError, Watch};

use crate::conformance::{user, users};
use crate::harness::{settings, within};

/// The registry at this URL, made if need be.
async fn open(url: &str) -> Arc<dyn Store> {
    store::open(&settings(url), Absent::Create).await.expect("opens")
}

/// What is wrong with these settings: it has to be for somebody to mend.
async fn unusable(settings: &Settings) -> String {
    match store::open(settings, Absent::Create).await {
        Err(error @ StoreError::Unusable { .. }) => error.to_string(),
        Err(error) => panic!("not for somebody to mend: {error:?}"),
        Ok(_) => panic!("opened"),
    }
}

/// Commits something new, at once.
async fn commit(store: &dyn Store, name: &str) -> Revision {
    store.commit(users([Edit::Create(user(name))])).await.expect("commits").position.revision
}

/// Commits something new, as soon as the store takes it.
async fn commit_at_last(store: &dyn Store, name: &str) -> Revision {
    within("a commit is taken", async {
        loop {
            match store.commit(users([Edit::Create(user(name))])).await {
                Ok(committed) => return committed.position.revision,
                // The attempt before was not answered, and happened.
                Err(CommitError::NameTaken(_)) => return store.position().await.expect("reads").revision,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await
}

fn tells_of(notice: &Notice, revision: Revision) -> bool {
    match notice {
        Notice::Committed { entry, .. } => entry.revision == revision,
        Notice::Advanced { revision: told, .. } => *told == revision,
        Notice::Moved | Notice::Lost => false,
    }
}

/// Waits until a notice tells of this revision.
async fn hears(watch: &mut Box<dyn Watch>, revision: Revision) {
    within("the commit is announced", async {
        loop {
            if tells_of(&watch.next().await, revision) {
                return;
            }
        }
    })
    .await;
}

/// Commits until a commit is announced: the subscription has moved to where `committer` commits.
async fn hears_again(watch: &mut Box<dyn Watch>, committer: &dyn Store) {
    within("commits are announced again", async {
        for attempt in 0.. {
            let revision = commit_at_last(committer, &format!("again {attempt}")).await;
            let announced = async { while !tells_of(&watch.next().await, revision) {} };
            if tokio::time::timeout(Duration::from_millis(200), announced).await.is_ok() {
                return;
            }
        }
    })
    .await;
}

/// Waits until the subscription stands: a notice that something may have been missed.
async fn subscribed(watch: &mut Box<dyn Watch>) {
    within("the subscription stands", async { while watch.next().await != Notice::Lost {} }).await;
}
