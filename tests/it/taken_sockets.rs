//! The sockets of a process that is replaced: nobody waits at one where nobody accepts, whatever the new configuration says.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::harness::{Client, Upstream, eventually, ok, run, within};
use crate::take_over::{LISTENER, Line, configuration, registry, stream};

/// The queues of this port: how many clients wait in each.
fn queues(address: SocketAddr) -> Vec<u32> {
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux says");
    let suffix = format!(":{:04X}", address.port());
    let listening = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let of_port = listening.filter(|fields| fields[1].ends_with(&suffix) && fields[3] == "0A");
    of_port.map(|fields| u32::from_str_radix(&fields[4][9..], 16).expect("a number")).collect()
}

/// Requests on new connections until told to stop.
struct Streams {
    tasks: Vec<tokio::task::JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
}

impl Streams {
    fn start(line: &Line, address: SocketAddr) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let one = |number: usize| {
            tokio::spawn(stream(address, line.fetch(), number == 0, Arc::clone(&stop), Arc::clone(&count)))
        };
        Self { tasks: (0..4).map(one).collect(), stop, count }
    }

    async fn go_on(&self) {
        let seen = self.count.load(Ordering::Relaxed);
        eventually("requests go on", || async { self.count.load(Ordering::Relaxed) > seen + 50 }).await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            within("a stream's end", task).await.expect("nothing failed");
        }
    }
}

/// A process with more workers waits for its store: until it accepts, all that comes is for the one that does.
#[tokio::test]
async fn further_queues_open_when_there_is_who_accepts() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let (directory, token) = registry();
    let at = |name: &str| format!("sqlite:{}", directory.path().join(name).display());
    let text = |workers: usize, store: &str| {
        configuration(&api, &heartbeat, LISTENER, &format!("workers = {workers}"))
            + &format!("[store]\nurl = '{store}'\n")
    };
    let (now, later) = (at("t.db"), at("later.db"));
    let (first, second) = (text(1, &now), text(4, &later));
    let mut line = Line::with(directory, token, &first, |command| {
        command.env_remove("TOLLGATE_STORE__URL");
    })
    .await;
    assert_eq!(queues(line.listener).len(), 1);
    fs::write(line.file("tollgate.toml"), second).expect("writes");
    line.signal(Signal::USR2);
    line.says("started").await;
    for _ in 0..30 {
        assert_eq!(line.answers().await, 200);
    }
    assert_eq!(queues(line.listener).len(), 1);
    let created = run(&["init", "--store", &later], &[]);
    assert!(created.status.success(), "{created:?}");
    line.token = String::from_utf8(created.stdout).expect("text").trim().to_owned();
    let old = line.process();
    line.is_taken_over().await;
    line.has_ended(old).await;
    assert_eq!(queues(line.listener).len(), 4);
    for _ in 0..30 {
        assert_eq!(line.answers().await, 200, "each of the four is served");
    }
}

/// A client that waits for a place has sent its request: it gets its answer from the process that has accepted it.
#[tokio::test]
async fn who_waits_for_a_place_gets_one() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let more = "workers = 1\n[limits]\nmax_connections = 1\n[timeouts]\ndrain = '10m'";
    let mut line = Line::start(&api, &heartbeat, more, &[]).await;
    let old = line.process();
    let pieces = api.next_in_pieces();
    let mut running = Client::connect(line.listener).await;
    running.send(line.fetch()).await;
    api.until("the request", |seen| seen.requests.len() == 1).await;
    let mut waiting = Client::connect(line.listener).await;
    waiting.send(line.fetch()).await;
    eventually("it is accepted", || async { queues(line.listener) == [0] }).await;
    let mut behind = Client::connect(line.listener).await;
    behind.send(line.fetch()).await;
    assert_eq!(queues(line.listener), [1]);
    line.take_over().await;
    assert_eq!(behind.reply().await.status(), 200, "by the new one");
    pieces.send(ok("finished").into_bytes()).await.expect("takes it");
    assert_eq!(running.reply().await.text(), "finished");
    drop(pieces); // its connection is free for the next request
    assert_eq!(waiting.reply().await.status(), 200);
    line.has_ended(old).await;
}

/// From one interface to all of them, and back: who connects to the one notices nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_may_grow_and_shrink() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let on = |address: &str| format!("[[listener]]\naddress = '{address}'\n[admin]\naddress = '127.0.0.1:0'\n");
    for (first, then) in [("127.0.0.1", &["0.0.0.0", "[::]", "127.0.0.1"][..]), ("[::]", &["127.0.0.1", "0.0.0.0"])] {
        let (directory, token) = registry();
        let text = |address: &str| configuration(&api, &heartbeat, &on(address), "workers = 2");
        let mut line = Line::with(directory, token, &text(&format!("{first}:0")), |_| {}).await;
        let port = line.listener.port();
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let streams = Streams::start(&line, here);
        for host in then {
            streams.go_on().await;
            let old = line.process();
            fs::write(line.file("tollgate.toml"), text(&format!("{host}:{port}"))).expect("writes");
            line.take_over().await;
            line.has_ended(old).await;
            line.listener = SocketAddr::from(([127, 0, 0, 2], port));
            match *host {
                "127.0.0.1" => assert!(TcpStream::connect(line.listener).await.is_err(), "{first} {host}"),
                _ => assert_eq!(line.answers().await, 200, "{first} {host}"),
            }
        }
        streams.go_on().await;
        streams.end().await;
    }
}

/// The admin listener shares its address with nobody, and an agent's socket is none for it.
#[tokio::test]
async fn what_only_a_restart_can_change_is_said_before_anything_is_changed() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let (directory, token) = registry();
    let path = directory.path().join("agents.sock");
    let on = |agents: &str, admin: &str, mode: &str| {
        let unix = format!("[[listener]]\naddress = 'unix:{}'\nmode = '{mode}'\n", path.display());
        let listeners = format!("[[listener]]\naddress = '{agents}'\n{unix}[admin]\naddress = '{admin}'\n");
        configuration(&api, &heartbeat, &listeners, "")
    };
    let text = on("127.0.0.1:0", "127.0.0.1:0", "0666");
    let mut line = Line::with(directory, token, &text, |_| {}).await;
    let mode = || fs::metadata(&path).expect("it is there").permissions().mode() & 0o777;
    let (agents, admin) = (line.listener.to_string(), line.admin.to_string());
    let everywhere = format!("0.0.0.0:{}", line.admin.port());
    for (agents, wanted, holder) in [
        (agents.as_str(), everywhere.as_str(), &admin),
        (&admin, "127.0.0.1:0", &admin),
        ("127.0.0.2:0", &agents, &agents),
    ] {
        fs::write(line.file("tollgate.toml"), on(agents, wanted, "0600")).expect("writes");
        line.signal(Signal::USR2);
        let said = within("why", async {
            loop {
                match line.log.recv().await.expect("it is said") {
                    Value::String(said) if said.contains("cannot listen on") => break said,
                    _ => {}
                }
            }
        })
        .await;
        let expected = format!("the process that is to be replaced listens on {holder}");
        assert!(said.contains(&expected) && said.contains("stop it and start it again"), "{said}");
        line.says("nobody has taken over: serving on").await;
        assert_eq!((mode(), line.answers().await), (0o666, 200), "as it was");
        assert!(line.ready().await.starts_with("HTTP/1.1 200 "));
    }
    fs::write(line.file("tollgate.toml"), on(&agents, &admin, "0600")).expect("writes");
    line.take_over().await;
    assert_eq!(mode(), 0o600);
}

/// The first of three has a download still when the third takes over from the second: the snapshot file is the third's after that.
#[tokio::test]
async fn the_snapshot_file_comes_to_the_latest_in_the_end() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let (directory, token) = registry();
    let snapshot = directory.path().join("replica");
    let text = configuration(&api, &heartbeat, LISTENER, "[timeouts]\ndrain = '10m'")
        + &format!("[store]\nsnapshot_file = '{}'\n", snapshot.display());
    let mut line = Line::with(directory, token, &text, |_| {}).await;
    let id_beside =
        || fs::read_to_string(snapshot.with_added_extension("id")).expect("an id").get(..16).map(str::to_owned);
    let ids = |line: &Line| -> Vec<_> {
        line.sidecars().iter().map(|sidecar| sidecar["id"].as_str().expect("an id").to_owned()).collect()
    };
    let first_id = ids(&line).pop();
    eventually("it is the first one's", || async { snapshot.exists() && id_beside() == first_id }).await;
    let first = line.process();
    let pieces = api.next_in_pieces();
    let mut running = Client::connect(line.listener).await;
    running.send(line.fetch()).await;
    api.until("the request", |seen| seen.requests.len() == 1).await;
    line.take_over().await;
    line.take_over().await;
    // The second says the one, the third the other.
    let mut awaited = vec![
        "stopped",
        "another process has the snapshot file still: this one goes on without one until that has ended",
    ];
    within("both", async {
        while !awaited.is_empty() {
            let said = line.log.recv().await.expect("it is said");
            awaited.retain(|message| said["fields"]["message"] != *message);
        }
    })
    .await;
    assert_eq!(id_beside(), first_id);
    pieces.send(ok("finished").into_bytes()).await.expect("takes it");
    assert_eq!(running.reply().await.text(), "finished");
    line.has_ended(first).await;
    eventually("one sidecar is left", || async { ids(&line).len() == 1 }).await;
    let third_id = ids(&line).pop();
    eventually("it is the third one's", || async { id_beside() == third_id && snapshot.exists() }).await;
}

/// Somebody has put a link where the socket was.
#[tokio::test]
async fn what_lies_in_the_place_of_a_socket_is_left_alone() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let (directory, token) = registry();
    let (path, victim) = (directory.path().join("agents.sock"), directory.path().join("victim"));
    fs::write(&victim, "theirs").expect("writes");
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).expect("may");
    let unix = format!("[[listener]]\naddress = 'unix:{}'\nmode = '0666'\n", path.display());
    let listeners = format!("[[listener]]\naddress = '127.0.0.1:0'\n{unix}[admin]\naddress = '127.0.0.1:0'\n");
    let mut line = Line::with(directory, token, &configuration(&api, &heartbeat, &listeners, ""), |_| {}).await;
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    fs::remove_file(&path).expect("removes");
    std::os::unix::fs::symlink(&victim, &path).expect("links");
    line.signal(Signal::USR2);
    line.says("nobody has taken over: serving on").await;
    assert_eq!((mode(&victim), line.answers().await), (0o600, 200));
    fs::remove_file(&path).expect("removes");
    line.take_over().await;
    assert_eq!((mode(&path), mode(&victim), line.answers().await), (0o666, 0o600, 200), "it is opened anew");
}
