//! Reading a registry that others change all the while.

use std::time::Duration;

use tollgate::store::Edit;

use super::*;
use crate::conformance::archive::dumped;
use crate::conformance::{user, users};
use crate::harness::{RedisServer, Relay, Traffic};

/// So many users take longer to read than it is from one change to the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reading_ends_although_changes_do_not() {
    let server = RedisServer::start();
    let store = open(&server.url(), Absent::Create).await;
    commit(&*store, users((0..4_000).map(|number| Edit::Create(user(&format!("user {number}")))))).await;
    let relay = Relay::start(server.address()).await;
    let far = open(&format!("redis://{}", relay.address()), Absent::Refuse).await;
    relay.set(Traffic::Slow(Duration::from_millis(10))).await;
    let changes = async {
        let mut every = tokio::time::interval(Duration::from_millis(200));
        for number in 0.. {
            every.tick().await;
            commit(&*store, users([Edit::Create(user(&format!("late {number}")))])).await;
        }
    };
    let reading = tokio::time::timeout(Duration::from_secs(60), dumped(&*far));
    let (summary, position) = tokio::select! {
        read = reading => read.expect("it ends"),
        () = changes => unreachable!("they do not end"),
    };
    assert_eq!(summary.checksum, position.checksum);
    assert_eq!(summary.users, 4_000 + position.revision.0 - 1);
}
