//! What commits publish: little, whatever they change, so that subscribers who do not keep up cost little too.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use tollgate::clock::Instant;
use tollgate::store::Versioned;
use tollgate::token::{Digest, PermissionSet, TokenRecord};

use super::remote::Remote;
use super::*;
use crate::conformance::{commit, revoked, tokens};
use crate::harness::Traffic;

/// A socket that is subscribed, and read from only when it is asked.
struct Subscriber(TcpStream);

impl Subscriber {
    fn start(server: &RedisServer) -> Self {
        let mut stream = TcpStream::connect(server.address()).expect("connects");
        stream.write_all(b"SUBSCRIBE {tollgate}:changes:0\r\n").expect("writes");
        let (mut answer, end) = (Vec::new(), b":1\r\n");
        while !answer.ends_with(end) {
            let mut piece = [0; 1];
            stream.read_exact(&mut piece).expect("is subscribed");
            answer.extend(piece);
        }
        Self(stream)
    }

    /// What has arrived, when everything has: the answer to what is asked last.
    fn heard(&mut self) -> Vec<u8> {
        self.0.write_all(b"UNSUBSCRIBE x-the-end\r\n").expect("writes");
        let (mut heard, mut piece) = (Vec::new(), [0; 65536]);
        while !heard.windows(9).any(|part| part == b"x-the-end") {
            let length = self.0.read(&mut piece).expect("reads");
            assert!(length > 0, "Redis has closed the connection");
            heard.extend_from_slice(&piece[..length]);
        }
        heard
    }
}

fn has(heard: &[u8], digest: Digest) -> bool {
    heard.windows(32).any(|part| part == digest.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_away_is_announced_and_what_gives_is_not() {
    let (server, store, anna) = site_of_anna().await;
    let mut subscriber = Subscriber::start(&server);
    let made = import(&*store, anna.id, "bulk", 2_000).await;
    let heard = subscriber.heard();
    assert!(heard.len() < 4 * 300 && !has(&heard, made[0].digest), "{} bytes for four commits", heard.len());

    let mut subscriber = Subscriber::start(&server);
    let before = stored(&*store, &made[0]).await;
    let after = revoked(before.record.clone());
    commit(&*store, tokens([Edit::Update { before, after }])).await;
    let before = stored(&*store, &made[1]).await;
    let after = TokenRecord { permissions: PermissionSet::EMPTY, ..before.record.clone() };
    commit(&*store, tokens([Edit::Update { before, after }])).await;
    let heard = subscriber.heard();
    assert!(has(&heard, made[0].digest) && has(&heard, made[1].digest));

    // Many at once are too much: that there are some is told.
    let mut subscriber = Subscriber::start(&server);
    let mut edits = Vec::new();
    for record in &made[500..1_000] {
        edits.push(Edit::Delete(stored(&*store, record).await));
    }
    commit(&*store, tokens(edits)).await;
    let heard = subscriber.heard();
    assert!(heard.len() < 300 && !has(&heard, made[500].digest), "{} bytes", heard.len());
}

/// Each of them brought every sidecar to ask Redis once, or carried all of it to every sidecar.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_change_is_fetched_in_pages_and_a_new_token_soon() {
    let (server, store, anna) = site_of_anna().await;
    let mut remotes = Vec::new();
    for _ in 0..3 {
        remotes.push(Remote::start(&server, Traffic::Flows, Duration::from_secs(1)).await);
    }
    let level = async |position| {
        for remote in &remotes {
            remote.reaches(position, Duration::from_secs(10)).await;
        }
    };
    level(position(&*store).await).await;
    let calls = || {
        let stats = server.cli(&["info", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_eval_ro:calls="));
        line.and_then(|line| line.split(',').next()?.parse::<usize>().ok()).unwrap_or(0)
    };
    let before = calls();
    let began = Instant::now();
    import(&*store, anna.id, "bulk", 20_000).await;
    level(position(&*store).await).await;
    let (made, elapsed) = (calls() - before, began.elapsed());
    // By time, or as many as fit into a page: not one for each of the forty commits.
    let most = 3 * (elapsed.as_millis() / 150 + 2 + 20_000 * 100 / (48 * 1024) + 5) as usize;
    println!("{made} calls in {elapsed:?}, {most} at most");
    assert!(made <= most && most < 3 * 40 * 4, "{made} calls in {elapsed:?}");

    let mut slowest = Duration::ZERO;
    for round in 0..10 {
        let began = Instant::now();
        let made = import(&*store, anna.id, &format!("single {round}"), 1).await;
        level(position(&*store).await).await;
        assert!(remotes.iter().all(|remote| remote.replica.lookup(&made[0].digest).is_some()));
        slowest = slowest.max(began.elapsed());
    }
    println!("a new token works everywhere within {slowest:?}");
    // 250 ms on a machine that does nothing else; with the next probe otherwise.
    assert!(slowest < Duration::from_millis(800), "{slowest:?}");
}

/// Changes tokens in so many commits, by turns to what permits less and what permits more.
async fn churn(store: &dyn Store, made: &mut [Versioned<TokenRecord>], commits: usize) {
    for number in 0..commits {
        let permissions = if number % 2 == 0 { PermissionSet::EMPTY } else { PermissionSet::TELEGRAF_AGENT };
        let edits = made.iter().map(|before| {
            let after = TokenRecord { permissions, ..before.record.clone() };
            Edit::Update { before: before.clone(), after }
        });
        let version = commit(store, tokens(edits.collect::<Vec<_>>())).await.id;
        for token in &mut *made {
            (token.record.permissions, token.version) = (permissions, version);
        }
    }
}

/// Redis holds whatever they do not take, and counts it as memory that it uses: bulk changes of 4 MB broke off at 30 of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_that_never_read_keep_nobody_from_bulk_changes() {
    let (server, store, anna) = site_of_anna().await;
    let mut made = Vec::new();
    for record in import(&*store, anna.id, "bulk", 500).await {
        made.push(stored(&*store, &record).await);
    }
    let used = || {
        let memory = server.cli(&["info", "memory"]);
        let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:"));
        used.and_then(|used| used.trim().parse::<usize>().ok()).expect("a number")
    };
    let before = used();
    churn(&*store, &mut made, 120).await;
    let grown = used() - before;
    let subscribers: Vec<_> = (0..30).map(|_| Subscriber::start(&server)).collect();
    // As much again, and a little for everything else.
    let limit = used() + grown + 12 * 1024 * 1024;
    server.cli(&["config", "set", "client-output-buffer-limit", "pubsub 0 0 0"]);
    server.cli(&["config", "set", "maxmemory", &limit.to_string()]);
    churn(&*store, &mut made, 120).await;
    println!("{} of {limit} bytes used", used());
    let id = made[0].record.id.to_string();
    stdout(&tollgate(&server.url(), 0, &["token", "revoke", &id]).await);
    assert_eq!(
        server.cli(&["pubsub", "numsub", "{tollgate}:changes:0"]).lines().last(),
        Some("30"),
        "none was cut off"
    );
    drop(subscribers);
}
