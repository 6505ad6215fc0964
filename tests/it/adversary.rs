//! The upstream as an adversary: it answers before it has read, breaks off anywhere, says more than it was asked, resets. The
//! client of such an exchange gets its reply or sees that it did not; the next ones on the same connections get theirs.

mod node;
mod opponent;
mod reset;
mod ways;

#[path = "../exchange/fuzz.rs"]
mod fuzz;

use std::path::Path;
use std::time::Duration;

use opponent::{Opponent, Way};

use crate::harness::{Reply, Site, get, post, within};

/// Path of the request that is played with.
const PLAYED: &str = "/api/configs/played";

/// A short part of what `tests/exchange/run.sh` does for as long as one likes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_exchanges_are_as_the_judge_expects() {
    let seed = tollgate_harness::random::fresh_seed();
    println!("seed {seed}");
    let program = Path::new(env!("CARGO_BIN_EXE_tollgate"));
    let report = fuzz::play(program, Duration::from_secs(10), seed, 16).await.expect("plays");
    if let Some(finding) = report.finding {
        panic!("seed {seed}, after {:?}: {finding}", report.time);
    }
    for what in [
        "connections of HTTP/1",
        "connections of HTTP/2",
        "the upstream's reply, whole",
        "refused with 401, whole",
        "a stored reply, whole",
    ] {
        assert!(report.counts.get(what).is_some_and(|count| *count > 0), "none: {what}, of {:?}", report.counts);
    }
}

/// One request that is played with, and what its client gets: nothing, if that is cut.
async fn play(site: &Site, opponent: &Opponent, way: Way, upload: usize) -> Option<Reply> {
    opponent.next(way);
    let mut client = site.connect().await;
    let request = match upload {
        0 => get(PLAYED, &site.owner).into_bytes(),
        length => post(PLAYED, &site.owner, &opponent::body(length, &site.owner)),
    };
    client.send(request).await;
    client.try_reply(false).await.ok()
}

/// Requests of other clients: each gets its own reply, and nothing else gets to the upstream.
async fn others_get_theirs(site: &Site, opponent: &Opponent, what: &str) {
    for number in 0..3 {
        let path = format!("/api/configs/{number}-{}", opponent.requests());
        let body = opponent::body(number * 40, &site.owner);
        // What must not be sent twice goes first: trying is no way to find out whether a connection is good.
        let mut posted = site.send(post(&path, &site.owner, &body)).await;
        // One that was found dead only when it was written to.
        if posted.status() == 502 {
            posted = site.send(post(&path, &site.owner, &body)).await;
        }
        assert_eq!(posted.text(), format!("reply to POST {path} {}", body.len()), "{what}");
        assert_eq!(site.get(&path, &site.owner).await.text(), format!("reply to GET {path} 0"), "{what}");
    }
    opponent.read_on();
    within("what was held back is read", opponent.settled()).await;
    assert_eq!(opponent.problems(), Vec::<String>::new(), "{what}");
}
