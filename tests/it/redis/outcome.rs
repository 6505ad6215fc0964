//! Commits that are not answered: found, or cancelled for good, or said to be unknown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tollgate::store::{Absent, Batch, Changes, CommitError, Revision};

use super::*;
use crate::conformance::commit;
use crate::harness::{eventually, within};

/// What becomes of the first commit that passes the [`Interceptor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is executed, and the connection is cut instead of the answer.
    AnswerLost,
    /// It is held back while the connection to the client is cut, and goes on to the server when it is released.
    Late,
    /// It is executed, and from then on nothing is to be reached any more.
    CutOff,
    /// As [`Fate::AnswerLost`], and nothing is to be reached until it is released.
    AnswerLostForLong,
}

/// Stands between the store and its server, and waits for the first commit.
struct Interceptor {
    address: SocketAddr,
    release: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Interceptor {
    async fn start(server: SocketAddr, fate: Fate) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let (release, caught) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let released = Arc::clone(&release);
        let task = tokio::spawn(async move {
            let (mut connections, mut commits) = (JoinSet::new(), true);
            loop {
                tokio::select! {
                    client = listener.accept() => {
                        let (client, _) = client.expect("accepts");
                        // Only a connection that was there before the commit is watched for it.
                        let watched = commits.then_some(fate);
                        connections.spawn(carry(client, server, watched, Arc::clone(&released), Arc::clone(&caught)));
                    }
                    () = caught.notified() => {
                        commits = false;
                        match fate {
                            Fate::CutOff => return,
                            Fate::AnswerLostForLong => released.notified().await,
                            Fate::AnswerLost | Fate::Late => {}
                        }
                    }
                }
            }
        });
        Self { address, release, task }
    }

    fn url(&self) -> String {
        format!("redis://{}", self.address)
    }
}

impl Drop for Interceptor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    mut client: TcpStream,
    server: SocketAddr,
    watched: Option<Fate>,
    released: Arc<Notify>,
    caught: Arc<Notify>,
) {
    let mut server = TcpStream::connect(server).await.expect("connects");
    let (mut request, mut answer) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        tokio::select! {
            count = client.read(&mut request) => {
                let Ok(count @ 1..) = count else { return };
                let piece = &request[..count];
                let has = |word: &[u8]| piece.windows(word.len()).any(|part| part == word);
                // Not the one by which a connection tries whether its user may run any.
                let is_commit = has(b"EVAL\r\n") && !has(b"return 0");
                match watched.filter(|_| is_commit) {
                    None => server.write_all(piece).await.expect("writes"),
                    Some(Fate::Late) => {
                        caught.notify_one();
                        drop(client);
                        released.notified().await;
                        server.write_all(piece).await.expect("writes");
                        return server.readable().await.expect("answers");
                    }
                    Some(Fate::AnswerLost | Fate::CutOff | Fate::AnswerLostForLong) => {
                        server.write_all(piece).await.expect("writes");
                        // The answer: it was executed.
                        server.readable().await.expect("answers");
                        caught.notify_one();
                        return;
                    }
                }
            }
            count = server.read(&mut answer) => {
                let Ok(count @ 1..) = count else { return };
                if client.write_all(&answer[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// A registry, and a handle to it whose first commit meets its fate.
async fn intercepted(fate: Fate) -> (RedisServer, Interceptor, Arc<dyn Store>, Arc<dyn Store>) {
    let server = RedisServer::start();
    let direct = store(&server).await;
    let interceptor = Interceptor::start(([127, 0, 0, 1], server.port()).into(), fate).await;
    let through = open(&settings(&interceptor.url()), Absent::Refuse).await.expect("opens");
    (server, interceptor, direct, through)
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_found() {
    let (_server, _interceptor, direct, through) = intercepted(Fate::AnswerLost).await;
    assert_eq!(through.commit(Batch::default()).await.expect("found").position.revision, Revision(1));
    assert_eq!(position(&*direct).await.revision, Revision(1), "it was committed once");
    assert_eq!(commit(&*through, user_batch("anna")).await.position.revision, Revision(2));
}

#[tokio::test]
async fn a_commit_that_did_not_arrive_is_done_again_and_can_never_happen_late() {
    let (server, interceptor, direct, through) = intercepted(Fate::Late).await;
    assert_eq!(through.commit(Batch::default()).await.expect("done again").position.revision, Revision(1));
    assert_eq!(server.cli(&["zcard", "{tollgate}:cancelled"]), "1");
    let scripts = || server.cli(&["info", "commandstats"]);
    let before = count_of(&scripts(), "eval");
    interceptor.release.notify_one();
    eventually("the first attempt arrives", async || count_of(&scripts(), "eval") == before + 1).await;
    assert_eq!(position(&*direct).await.revision, Revision(1), "it was refused");
    assert!(matches!(direct.changes(Revision(0)).await, Ok(Changes::Entries(entries)) if entries.len() == 1));
}

#[tokio::test]
async fn a_commit_that_nobody_can_be_asked_about_is_unknown() {
    let (_server, interceptor, direct, through) = intercepted(Fate::CutOff).await;
    let error = within_long("an outcome", through.commit(Batch::default())).await.expect_err("unknown");
    assert!(matches!(error, CommitError::Unknown(_)), "{error:?}");
    let text = chain(&error);
    assert!(text.contains("not known") && text.contains(&interceptor.url()), "{text}");
    assert_eq!(position(&*direct).await.revision, Revision(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_the_log_no_longer_goes_back_to_is_unknown() {
    let (server, interceptor, direct, through) = intercepted(Fate::AnswerLostForLong).await;
    let committing = tokio::spawn(async move { through.commit(user_batch("anna")).await });
    eventually("it is executed", async || position(&*direct).await.revision == Revision(1)).await;
    let short = Retention { log_entries: 3, ..Retention::default() };
    let busy = RedisStore::open(&settings(&server.url()), Absent::Refuse, short).await.expect("opens");
    for number in 0..4 {
        commit(&busy, user_batch(&format!("user {number}"))).await;
    }
    interceptor.release.notify_one();
    let outcome = within_long("an outcome", committing).await.expect("no panic");
    let Err(error @ CommitError::Unknown(_)) = outcome else { panic!("{outcome:?}") };
    assert!(chain(&error).contains("the change log no longer goes back to the commit"), "{}", chain(&error));
    assert_eq!(position(&*direct).await.revision, Revision(5), "it is not done again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_said_of_a_commit_while_redis_hangs_is_true() {
    let server = RedisServer::start();
    let store = store(&server).await;
    for name in ["anna", "berta"] {
        store.probe().await.expect("connected");
        server.pause();
        let committing = tokio::spawn({
            let store = Arc::clone(&store);
            let batch = user_batch(name);
            async move { store.commit(batch).await }
        });
        // The command is on its way, or given up already.
        tokio::time::sleep(Duration::from_millis(if name == "anna" { 100 } else { 5500 })).await;
        server.resume();
        let outcome = within_long("an outcome", committing).await.expect("no panic");
        let is_there = store.user_by_name(name).await.expect("reads").is_some();
        match outcome {
            Ok(committed) => assert!(is_there, "committed at {}", committed.position.revision),
            Err(CommitError::Failed(_)) => assert!(!is_there),
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[tokio::test]
async fn a_connection_that_was_cut_is_replaced_without_anybody_noticing() {
    let server = RedisServer::start();
    let store = store(&server).await;
    for name in ["anna", "berta", "carla"] {
        server.cli(&["client", "kill", "type", "normal"]);
        store.commit(user_batch(name)).await.expect("commits");
        server.cli(&["client", "kill", "type", "normal"]);
        store.probe().await.expect("a probe");
    }
    assert_eq!(position(&*store).await.revision, Revision(3));
}

#[tokio::test]
async fn a_redis_that_comes_back_is_found_again() {
    let mut server = RedisServer::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let store = store(&server).await;
    store.commit(user_batch("anna")).await.expect("commits");
    let before = position(&*store).await;
    server.kill();
    let error = within("an error", store.position()).await.expect_err("it is gone");
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    let text = refused(&*store, user_batch("berta")).await;
    assert!(text.contains(&server.port().to_string()), "{text}");
    server.restart();
    assert_eq!(position(&*store).await, before);
    assert_eq!(store.commit(user_batch("berta")).await.expect("commits").position.revision, Revision(2));
}

/// As [`within`], for what takes its own time to give up.
async fn within_long<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(40), future).await {
        Ok(value) => value,
        Err(_) => panic!("not in time: {what}"),
    }
}

/// How often a command was executed, from `INFO commandstats`.
fn count_of(statistics: &str, command: &str) -> u64 {
    let prefix = format!("cmdstat_{command}:calls=");
    let count = statistics.lines().find_map(|line| line.strip_prefix(&prefix)?.split(',').next()?.parse().ok());
    count.unwrap_or(0)
}
