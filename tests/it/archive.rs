//! `tollgate store`: what is moved or kept is whole, or is not there.

mod beside;
mod damage;
mod interrupted;
mod kills;
mod life;
mod pages;
mod places;
mod replicas;
mod target;

use std::path::Path;
use std::process::Output;

use tollgate::store::archive::{self, Backup, CopyError};
use tollgate::store::{Absent, Batch, Edit, Position, Settings, Store};

use crate::conformance::archive::{contents, fill};
use crate::conformance::{commit, created, token, tokens};
use crate::harness::{chain, run, settings};

fn sqlite(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

async fn open(url: &str, absent: Absent) -> std::sync::Arc<dyn Store> {
    tollgate::store::open(&settings(url), absent).await.expect("opens")
}

/// A registry with one of everything.
async fn filled(url: &str) -> std::sync::Arc<dyn Store> {
    let store = open(url, Absent::Create).await;
    fill(&*store).await;
    store
}

/// How many tokens are enough for many pieces of each kind.
const MANY: usize = 3_000;

/// A registry with one of everything, and many tokens.
async fn filled_with_many(url: &str) -> std::sync::Arc<dyn Store> {
    let store = filled(url).await;
    let max = store.user_by_name("max").await.expect("reads").expect("is there").record;
    let made: Vec<_> = (0..MANY).map(|number| token(max.id, &format!("many {number}"))).collect();
    let history = made.iter().map(|token| (token.id, created())).collect();
    commit(&*store, Batch { history, ..tokens(made.into_iter().map(Edit::Create)) }).await;
    store
}

/// What a command that failed said.
#[track_caller]
fn failed(output: &Output) -> String {
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]), "{output:?}");
    String::from_utf8(output.stderr.clone()).expect("text")
}

/// What a command said that did what it should.
#[track_caller]
fn done(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// `tollgate --store URL ...`
fn tollgate(url: &str, arguments: &[&str]) -> Output {
    run(&[&["--store", url], arguments].concat(), &[])
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// A new token for an agent, and its id.
fn agent_token(url: &str) -> (String, String) {
    let options = ["--user", "owner", "--description", "agent", "--preset", "telegraf-agent", "--json"];
    let json = done(&tollgate(url, &[&["token", "create"], &options[..]].concat()));
    let made: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let text = |key: &str| made[key].as_str().expect("a text").to_owned();
    (text("token"), text("id"))
}
