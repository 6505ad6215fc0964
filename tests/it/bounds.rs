//! How much may be under way to an upstream at once, who goes first when that is reached, and what does not count: requests
//! whose small body is still coming.

mod address;
mod small_bodies;

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;

use crate::harness::{
    Builder, CONFIG, Client, HEARTBEAT, Http2Client, Script, Site, Upstream, eventually, get, http2_with, ok, post,
    reset, within,
};

/// A site whose upstreams have room for so many requests at once.
fn with_room(max_in_flight: usize) -> Builder {
    let room = max_in_flight.to_string();
    Site::builder().setting("UPSTREAM__API__MAX_IN_FLIGHT", &room).setting("UPSTREAM__HEARTBEAT__MAX_IN_FLIGHT", &room)
}

/// Lets the sidecar, which has one worker here, take note of all that was sent to it.
async fn is_noted(site: &Site) {
    for _ in 0..3 {
        assert_eq!(site.beat(&site.agent).await.status(), 200);
    }
}

/// What the metrics say of the API server.
async fn of_api(site: &Site, of: &str) -> String {
    site.metric(&format!("tollgate_upstream_{of}{{upstream=\"api\"}}")).await
}

#[tokio::test]
async fn above_the_bound_a_request_waits_for_two_seconds_and_is_refused() {
    let site = with_room(1).start().await;
    let (mut first, pieces) = site.occupy().await;
    let waiting = async {
        let begun = Instant::now();
        let reply = site.get("/api/users", &site.owner).await;
        (reply, begun.elapsed())
    };
    let stream = async {
        let begun = Instant::now();
        let client = Http2Client::connect(site.address()).await;
        (client.get("/api/users", &site.owner).await, begun.elapsed())
    };
    let (by_http1, by_http2) = tokio::join!(waiting, stream);
    for (reply, took) in [by_http1, by_http2] {
        println!("refused after {took:?}: {}", reply.error());
        assert_eq!(reply.status(), 503);
        assert!(reply.field("Retry-After").is_some());
        assert!((Duration::from_secs(1)..Duration::from_secs(5)).contains(&took), "{took:?}");
    }
    assert_eq!((site.api.requests().len(), site.api.connections()), (1, 1));
    assert_eq!(site.beat(&site.agent).await.status(), 200, "the other upstream has a bound of its own");

    pieces.send(ok("at last").into_bytes()).await.expect("takes it");
    assert_eq!(first.reply().await.text(), "at last", "in-flight requests are not touched");
    drop(pieces);
    assert_eq!(site.get("/api/users", &site.owner).await.status(), 200, "the place is free again");
}

#[tokio::test]
async fn a_request_that_waits_is_served_when_a_place_is_free() {
    let site = with_room(1).start().await;
    let (mut first, pieces) = site.occupy().await;
    let mut second = site.connect().await;
    second.send(get("/api/users", &site.owner)).await;
    is_noted(&site).await;
    assert_eq!(site.api.requests().len(), 1, "it waits");
    pieces.send(ok("first").into_bytes()).await.expect("takes it");
    drop(pieces);
    assert_eq!(first.reply().await.text(), "first");
    assert_eq!(second.reply().await.text(), "ok");
    assert_eq!(site.api.requests().len(), 2);
}

/// Agents do not start without their configuration, and give up after a few tries.
#[tokio::test]
async fn a_configuration_fetch_goes_first_although_it_came_later() {
    let site = with_room(1).start().await;
    let (mut first, pieces) = site.occupy().await;
    let mut others = Vec::new();
    for _ in 0..3 {
        let mut client = site.connect().await;
        client.send(get("/api/users", &site.owner)).await;
        is_noted(&site).await;
        others.push(client);
    }
    let mut fetch = site.connect().await;
    fetch.send(get("/api/configs/late/toml", &site.agent)).await;
    is_noted(&site).await;
    assert_eq!(site.api.requests().len(), 1, "all wait");
    pieces.send(ok("first").into_bytes()).await.expect("takes it");
    drop(pieces);
    assert_eq!(first.reply().await.text(), "first");
    assert_eq!(fetch.reply().await.text(), "ok");
    for client in &mut others {
        assert_eq!(client.reply().await.text(), "ok");
    }
    let lines: Vec<_> = site.api.requests().iter().map(|request| request.request_line().to_owned()).collect();
    assert_eq!(lines[1], "GET /api/configs/late/toml HTTP/1.1", "{lines:?}");
    assert_eq!(lines.len(), 5);
}

/// A refusal would make a watcher forget what it knew (see `config_head`).
#[tokio::test]
async fn a_watcher_that_finds_no_place_gets_no_reply() {
    let site = with_room(1).start().await;
    let (_first, _pieces) = site.occupy().await;
    let mut watcher = site.connect().await;
    watcher.send(get(CONFIG, &site.agent).replacen("GET", "HEAD", 1)).await;
    watcher.ends_unanswered().await;
    assert_eq!(site.api.requests().len(), 1);
}

/// A client that gives up leaves the queue, and those behind it move up.
#[tokio::test]
async fn who_gives_up_while_waiting_is_never_sent() {
    let site = with_room(1).start().await;
    let (mut first, pieces) = site.occupy().await;
    let mut leaving = within("connecting", tokio::net::TcpStream::connect(site.address())).await.expect("connects");
    leaving.write_all(get("/api/users?from=gone", &site.owner).as_bytes()).await.expect("sends");
    is_noted(&site).await;
    let mut staying = site.connect().await;
    staying.send(get("/api/users?from=here", &site.owner)).await;
    is_noted(&site).await;
    assert_eq!(of_api(&site, "waiting").await, "2");
    reset(leaving);
    is_noted(&site).await;
    assert_eq!(of_api(&site, "waiting").await, "1");
    assert_eq!(of_api(&site, "refused_total").await, "1");
    pieces.send(ok("first").into_bytes()).await.expect("takes it");
    drop(pieces);
    assert_eq!(first.reply().await.text(), "first");
    assert_eq!(staying.reply().await.text(), "ok");
    is_noted(&site).await;
    assert_eq!(site.api.requests().len(), 2, "nobody wants the other one any more");
    assert_eq!(of_api(&site, "waiting").await, "0");
    assert_eq!(of_api(&site, "waits_total").await, "2");
    assert_ne!(of_api(&site, "wait_seconds_total").await, "0");
}

/// Streams of one connection have no more room than connections.
#[tokio::test]
async fn the_bound_holds_for_streams_too() {
    let site = with_room(2).start().await;
    site.api.otherwise(Script::silent);
    let client = Http2Client::connect(site.address()).await;
    let mut streams = Vec::new();
    for _ in 0..12 {
        streams.push(client.send(http2_with(&site.owner, "GET", "/api/users")).await);
    }
    let last = streams.split_off(2);
    for stream in last {
        assert_eq!(stream.reply().await.status(), 503);
    }
    assert_eq!((site.api.requests().len(), site.api.connections()), (2, 2));
}

/// Each worker serves the connections that the system gives it, and all of them share the bound.
#[tokio::test]
async fn the_bound_holds_over_all_workers() {
    let site = with_room(3).config(|config| config.workers = 4.try_into().expect("not 0")).start().await;
    site.api.otherwise(Script::silent);
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = site.connect().await;
        client.send(get("/api/users", &site.owner)).await;
        clients.push(client);
    }
    let mut refused = tokio::task::JoinSet::new();
    for mut client in clients {
        refused.spawn(async move { client.reply().await.status() });
    }
    for _ in 0..37 {
        let status = within("a refusal", refused.join_next()).await.expect("there are more").expect("no panic");
        assert_eq!(status, 503);
    }
    assert_eq!((site.api.requests().len(), site.api.connections()), (3, 3));
}

/// A place is one of a request and of its connection: an unused connection of one worker makes room for another's.
#[tokio::test]
async fn unused_connections_count_and_make_room() {
    let controller = Controller::start(true);
    let site = with_room(2)
        .api_at(format!("http://{}", controller.address))
        .config(|config| config.workers = 4.try_into().expect("not 0"))
        .start()
        .await;
    for _ in 0..60 {
        assert_eq!(site.get("/api/users", &site.owner).await.status(), 200);
    }
    println!("{} connections, {} at once", controller.accepted(), controller.peak());
    assert!(controller.peak() <= 2, "{} connections at once", controller.peak());
}

/// Of several nodes, too: near the bound it is no new connection for each request.
#[tokio::test]
async fn near_the_bound_an_unused_connection_to_another_node_is_as_good_as_a_new_one() {
    let nodes = [Upstream::start().await, Upstream::start().await, Upstream::start().await];
    let urls: Vec<_> = nodes.iter().map(|node| format!("http://{}", node.address())).collect();
    let site = with_room(2).api_at(urls.join(",")).setting("UPSTREAM__API__HEALTH__INTERVAL", "1h").start().await;
    for node in &nodes {
        node.until("it is checked", |seen| seen.closed == 1).await;
    }
    let mut client = site.connect().await;
    for _ in 0..12 {
        client.send(get("/api/users", &site.owner)).await;
        assert_eq!(client.reply().await.status(), 200);
    }
    assert_eq!(nodes.iter().map(|node| node.requests().len()).sum::<usize>(), 12);
    let made: usize = nodes.iter().map(|node| node.connections() - 1).sum();
    assert_eq!(made, 2, "as many as there may be, and no more");
}

/// Whoever gives up frees its place; a Controller that is slow already is not made slower by dead requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_give_up_leave_no_more_than_the_bound_at_a_controller_that_hangs() {
    const BOUND: usize = 16;
    let controller = Controller::start(false);
    let site = with_room(BOUND).api_at(format!("http://{}", controller.address)).start().await;
    let (address, request) = (site.address(), get("/api/users", &site.owner));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let request = request.clone();
        clients.spawn(async move {
            for _ in 0..3 {
                let mut client = Client::connect(address).await;
                client.send(&request).await;
                // It is refused, or gives up.
                drop(tokio::time::timeout(Duration::from_secs(1), client.try_reply(false)).await);
            }
        });
    }
    clients.join_all().await;
    println!("{} connections, {} at once", controller.accepted(), controller.peak());
    assert!(controller.peak() <= BOUND, "{} at once", controller.peak());
    assert!(controller.accepted() > BOUND, "places of those that gave up were given to others");
    eventually("nothing is left behind", || async { controller.open() == 0 }).await;
}

/// A Controller that counts its connections exactly: before each new one it looks which of the others have ended.
struct Controller {
    address: SocketAddr,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicUsize,
    open: AtomicUsize,
    peak: AtomicUsize,
    over: AtomicBool,
}

impl Controller {
    /// One that answers `GET`, or that accepts and never says anything.
    fn start(answers: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        listener.set_nonblocking(true).expect("sets");
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        std::thread::spawn(move || {
            let mut open: Vec<TcpStream> = Vec::new();
            while !shared.over.load(Ordering::Relaxed) {
                let accepted = listener.accept();
                open.retain_mut(|stream| goes_on(stream, answers));
                if let Ok((stream, _)) = accepted {
                    stream.set_nonblocking(true).expect("sets");
                    open.push(stream);
                    shared.accepted.fetch_add(1, Ordering::Relaxed);
                    shared.peak.fetch_max(open.len(), Ordering::Relaxed);
                } else {
                    std::thread::sleep(Duration::from_millis(1));
                }
                shared.open.store(open.len(), Ordering::Relaxed);
            }
        });
        Self { address, counts }
    }

    fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    fn open(&self) -> usize {
        self.counts.open.load(Ordering::Relaxed)
    }

    fn peak(&self) -> usize {
        self.counts.peak.load(Ordering::Relaxed)
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.counts.over.store(true, Ordering::Relaxed);
    }
}

/// Reads what came, answers it if it shall, and says whether the connection is still open.
fn goes_on(stream: &mut TcpStream, answers: bool) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return false,
            Ok(count) if answers && bytes[..count].ends_with(b"\r\n\r\n") => {
                if std::io::Write::write_all(stream, ok("ok").as_bytes()).is_err() {
                    return false;
                }
            }
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
}

/// The place of a request is free before its client can send the next one.
#[tokio::test]
async fn the_bound_of_one_request_serves_many_one_after_the_other() {
    let site = with_room(1).start().await;
    let mut client = site.connect().await;
    client.send(post(HEARTBEAT, &site.agent, b"{}").repeat(50)).await;
    for _ in 0..50 {
        assert_eq!(client.reply().await.status(), 200);
    }
    assert_eq!(site.heartbeat.requests().len(), 50);
}
