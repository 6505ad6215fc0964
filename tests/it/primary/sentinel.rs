//! Behind Sentinels: the primary is found, and followed when it changes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::{commit, commit_at_last, hears, hears_again, open, settings, subscribed, unusable};
use crate::harness::{RedisServer, SentinelSet, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordered_failover_is_followed() {
    let mut set = SentinelSet::start(1).await;
    let (store, other) = (open(&set.url()).await, open(&set.url()).await);
    let mut watch = store.watch();
    subscribed(&mut watch).await;
    hears(&mut watch, commit(&*other, "before").await).await;
    let before = set.primary();
    let after = set.fail_over().await;
    // The handle from before does not watch, and would go on with the old primary for as long as that does.
    let other = open(&set.url()).await;
    let revision = commit_at_last(&*other, "after").await;
    eventually("the probe is answered by the new primary", || async {
        store.probe().await.is_ok_and(|probe| probe.position.revision >= revision)
    })
    .await;
    // Not at the old primary, which lives on.
    hears_again(&mut watch, &*other).await;
    set.servers[before].kill();
    commit(&*store, "without the old one").await;
    eventually("the new primary has the subscription", || async {
        set.servers[after].cli(&["PUBSUB", "NUMSUB", "{tollgate}:changes:0"]).ends_with('1')
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_dies_is_replaced() {
    let mut set = SentinelSet::start(1).await;
    // The first Sentinel in the URL is dead too: the next one is asked.
    let url = set.url();
    let (store, other) = (open(&url).await, open(&url).await);
    let mut watch = store.watch();
    subscribed(&mut watch).await;
    commit(&*store, "before").await;
    let before = set.primary();
    set.servers[before].kill();
    set.primary_is_not(before).await;
    set.sentinels[0].kill();
    let revision = commit_at_last(&*store, "after").await;
    hears_again(&mut watch, &*other).await;
    let late = open(&url).await;
    assert!(late.position().await.expect("reads").revision >= revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_have_users_of_their_own() {
    let set = SentinelSet::with(0, "user tollgate on >sesame +@all").await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "sesame\n").expect("writes");
    let mut settings = settings(&set.url());
    settings.sentinel_username = Some("tollgate".to_owned());
    settings.sentinel_password_file = Some(file.path().to_owned());
    let store = tollgate::store::open(&settings, tollgate::store::Absent::Create).await.expect("opens");
    commit(&*store, "a").await;
    std::fs::write(file.path(), "open\n").expect("writes");
    let message = unusable(&settings).await;
    let sentinel = set.sentinels[0].address();
    assert!(
        message.contains("refuses the user or its password") && message.contains("127.0.0.1"),
        "{sentinel}: {message}"
    );
    assert!(!message.contains("open\n"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_named_wrongly_is_said() {
    let set = SentinelSet::start(0).await;
    let sentinel = set.sentinels[0].address();
    let message = unusable(&settings(&format!("redis-sentinel://{sentinel}/other"))).await;
    assert!(message.contains("`other`") && message.contains(&sentinel.to_string()), "{message}");
    let message = unusable(&settings(&format!("redis://{sentinel}"))).await;
    assert!(message.contains(&format!("write redis-sentinel://{sentinel}/NAME")), "{message}");
    let redis = RedisServer::start();
    let message = unusable(&settings(&format!("redis-sentinel://127.0.0.1:{}/main", redis.port()))).await;
    assert!(message.contains("redis-sentinel:// names the Sentinels"), "{message}");
    assert_eq!(redis.cli(&["DBSIZE"]), "0");
}

/// The old primary answers as before: nothing but the announcement says that it is one no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_announced_failover_is_followed_at_once() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let (before, after) = (open(&old.url()).await, open(&new.url()).await);
    let sentinel = Announcing::start(old.port());
    let store = open(&format!("redis-sentinel://{}/main", sentinel.address)).await;
    assert_eq!(store.position().await.expect("reads").epoch, before.position().await.expect("reads").epoch);
    let mut watch = store.watch();
    subscribed(&mut watch).await;
    eventually("the Sentinel is listened to", || async { !sentinel.listeners().is_empty() }).await;
    sentinel.announce("other", new.port());
    sentinel.announce("main", new.port());
    subscribed(&mut watch).await;
    hears(&mut watch, commit(&*after, "there").await).await;
    assert_eq!(store.position().await.expect("reads").epoch, after.position().await.expect("reads").epoch);
    assert!(old.cli(&["PUBSUB", "NUMSUB", "{tollgate}:changes:0"]).ends_with('0'));
}

/// As much of a Sentinel as a store needs.
struct Announcing {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    primary: u16,
    listeners: Vec<TcpStream>,
}

impl Announcing {
    fn start(primary: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State { primary, listeners: Vec::new() }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || answer(stream, &state));
            }
        });
        Self { address, state }
    }

    fn listeners(&self) -> Vec<TcpStream> {
        let state = self.state.lock().expect("whole");
        state.listeners.iter().map(|stream| stream.try_clone().expect("clones")).collect()
    }

    /// Says that this primary is another one from now on.
    fn announce(&self, name: &str, primary: u16) {
        if name == "main" {
            self.state.lock().expect("whole").primary = primary;
        }
        let message = format!("{name} 127.0.0.1 1 127.0.0.1 {primary}");
        let push = format!(">3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n${}\r\n{message}\r\n", message.len());
        for mut listener in self.listeners() {
            listener.write_all(push.as_bytes()).expect("sends");
        }
    }
}

fn answer(stream: TcpStream, state: &Mutex<State>) {
    let mut answers = stream.try_clone().expect("clones");
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let answer = match line.as_str() {
            "HELLO" => "%2\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$4\r\nmode\r\n$8\r\nsentinel\r\n".to_owned(),
            "GET-MASTER-ADDR-BY-NAME" => {
                let port = state.lock().expect("whole").primary.to_string();
                format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len())
            }
            "SUBSCRIBE" => {
                state.lock().expect("whole").listeners.push(answers.try_clone().expect("clones"));
                ">3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n".to_owned()
            }
            _ => continue,
        };
        drop(answers.write_all(answer.as_bytes()));
    }
}
