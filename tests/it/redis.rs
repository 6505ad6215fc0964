//! The Redis store beyond what every store does: servers that refuse, keys that are not ours, answers that do not come.

mod announcements;
mod catching_up;
mod damage;
mod deploy;
mod doubt;
mod forks;
mod full;
mod history;
mod identity;
mod outcome;
mod quorum;
mod read_from;
mod recalls;
mod refusals;
mod remote;
mod restart;
mod tenure;
mod topologies;
mod upwards;
mod usage;
mod users;

use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use tollgate::store::{
    Absent, Batch, CommitError, Edit, Position, RedisStore, Retention, Settings, Store, StoreError, Versioned,
};
use tollgate::token::{TokenRecord, UserId, UserRecord};

use crate::conformance;
use crate::harness::{RedisServer, chain, settings};

async fn open(settings: &Settings, absent: Absent) -> Result<Arc<dyn Store>, StoreError> {
    Ok(Arc::new(RedisStore::open(settings, absent, Retention::default()).await?))
}

/// A registry on this server, made if it is not there.
async fn store(server: &RedisServer) -> Arc<dyn Store> {
    open(&settings(&server.url()), Absent::Create).await.expect("opens")
}

async fn position(store: &dyn Store) -> Position {
    store.position().await.expect("a position")
}

/// A commit that must fail and change nothing, and what is said of it.
async fn refused(store: &dyn Store, batch: Batch) -> String {
    match store.commit(batch).await {
        Err(CommitError::Failed(error)) => chain(&error),
        other => panic!("{other:?}"),
    }
}

/// A Redis with a registry of one user.
async fn site_of_anna() -> (RedisServer, Arc<dyn Store>, UserRecord) {
    let server = RedisServer::start();
    let store = store(&server).await;
    let anna = conformance::user("anna");
    conformance::commit(&*store, conformance::users([Edit::Create(anna.clone())])).await;
    (server, store, anna)
}

/// So many tokens of a user, in commits of five hundred.
pub(crate) async fn import(store: &dyn Store, owner: UserId, name: &str, count: usize) -> Vec<TokenRecord> {
    let all: Vec<_> = (0..count).map(|number| conformance::token(owner, &format!("{name} {number}"))).collect();
    for some in all.chunks(500) {
        conformance::commit(store, conformance::tokens(some.iter().cloned().map(Edit::Create))).await;
    }
    all
}

/// A token as the store has it.
async fn stored(store: &dyn Store, token: &TokenRecord) -> Versioned<TokenRecord> {
    store.tokens_by_id(&[token.id]).await.expect("reads").remove(0).expect("is there")
}

fn user_batch(name: &str) -> Batch {
    conformance::users([Edit::Create(conformance::user(name))])
}

/// `tollgate` with a Redis for its store, to the end.
pub(crate) async fn tollgate(url: &str, quorum: u32, arguments: &[&str]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(arguments).env_clear().env("HOME", "/nonexistent").env("TOLLGATE_STORE__URL", url);
    command.env("TOLLGATE_STORE__QUORUM_REPLICAS", quorum.to_string());
    tokio::task::spawn_blocking(move || command.output().expect("runs")).await.expect("no panic")
}

pub(crate) fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text").trim().to_owned()
}

pub(crate) fn id_of(json: &str) -> String {
    let record: serde_json::Value = serde_json::from_str(json).expect("JSON");
    record["id"].as_str().expect("an id").to_owned()
}
