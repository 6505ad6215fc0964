//! How histories lie in Redis: an entry is written by itself, and takes the place of one that is too old.

use tollgate::store::{Batch, Edit, Versioned};
use tollgate::token::{HistoryEntry, MAX_HISTORY, UserId};

use super::*;
use crate::conformance::{commit, created, token, tokens};

const HISTORY: &str = "{tollgate}:history";

#[tokio::test]
async fn an_entry_of_a_history_rewrites_none_of_the_others() {
    let server = RedisServer::start();
    let store = store(&server).await;
    let made = token(UserId::from_u64(1), "a");
    let begun = |by: &str| (made.id, HistoryEntry { by: by.to_owned(), ..created() });
    let create = tokens([Edit::Create(made.clone())]);
    let version = commit(&*store, Batch { history: vec![begun("a"), begun("b")], ..create }).await.id;
    let id = made.id.to_string();
    let first = server.cli(&["hget", HISTORY, &id]);
    assert_eq!(first.lines().count(), 2, "as all had it before entries lay by themselves");
    for number in 0..MAX_HISTORY + 50 {
        commit(&*store, Batch { history: vec![begun(&number.to_string())], ..Batch::default() }).await;
        let longest = server.cli(&["eval", LONGEST, "1", HISTORY]).parse::<usize>().expect("a number");
        assert!(longest <= first.len(), "{longest} bytes of {}", first.len());
    }
    assert_eq!(server.cli(&["hget", HISTORY, &id]), first);
    assert_eq!(server.cli(&["hlen", HISTORY]), (2 + MAX_HISTORY).to_string(), "the count, and the latest");
    commit(&*store, tokens([Edit::Delete(Versioned { record: made, version })])).await;
    assert_eq!(server.cli(&["exists", HISTORY]), "0");
}

/// Bytes of the longest value of a hash.
const LONGEST: &str = "
    local longest = 0
    for _, value in ipairs(redis.call('HVALS', KEYS[1])) do longest = math.max(longest, #value) end
    return longest";

#[tokio::test]
async fn a_damaged_entry_of_a_history_is_named() {
    let server = RedisServer::start();
    let store = store(&server).await;
    let made = token(UserId::from_u64(1), "a");
    let history = |count| vec![(made.id, created()); count];
    commit(&*store, Batch { history: history(1), ..tokens([Edit::Create(made.clone())]) }).await;
    commit(&*store, Batch { history: history(3), ..Batch::default() }).await;
    for (field, value) in [("01", "1 x"), ("01", "x"), ("+", "x")] {
        let (name, field) = (made.id.to_string(), format!("{}{field}", made.id));
        let before = server.cli(&["hget", HISTORY, &field]);
        server.cli(&["hset", HISTORY, &field, value]);
        let error = store.history(made.id).await.expect_err(value).to_string();
        assert!(error.contains(&format!("{HISTORY} {name}")), "{error}");
        server.cli(&["hset", HISTORY, &field, &before]);
    }
    assert_eq!(store.history(made.id).await.expect("reads").len(), 4);
}
