//! A process that is replaced by a new one: nobody is refused, and two that run side by side are two.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc;
use tollgate_harness::authority::Authority;

use crate::harness::{CONFIG, Client, HEARTBEAT, PATIENCE, Upstream, eventually, ok, request, run, within};

/// `tollgate serve`, and those that take over from it. What is left of them is killed in the end.
pub(crate) struct Line {
    first: Child,
    /// Those that came, the latest last.
    processes: Vec<Pid>,
    log: mpsc::Receiver<Value>,
    directory: Arc<TempDir>,
    pub(crate) token: String,
    pub(crate) listener: SocketAddr,
    admin: SocketAddr,
}

fn pid(number: u64) -> Pid {
    Pid::from_raw(i32::try_from(number).expect("a process")).expect("a process")
}

/// A directory with a registry in it, and its Owner's token.
pub(crate) fn registry() -> (Arc<TempDir>, String) {
    let directory = Arc::new(tempfile::tempdir().expect("a directory"));
    let created = tollgate(&directory, &["init"]).output().expect("runs");
    (directory, String::from_utf8(created.stdout).expect("text").trim().to_owned())
}

fn tollgate(directory: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.env_clear().env("HOME", directory.path()).env("LOGNAME", "tester").args(arguments);
    command.env("TOLLGATE_STORE__URL", format!("sqlite:{}", directory.path().join("t.db").display()));
    command
}

/// One line of a configuration's text, and what comes below it.
pub(crate) fn configuration(api: &Upstream, heartbeat: &Upstream, listeners: &str, more: &str) -> String {
    format!(
        "{more}\n[upstream.api]\nurl = 'http://{}'\n[upstream.heartbeat]\nurl = 'http://{}'\n[log]\nformat = 'json'\n{listeners}",
        api.address(),
        heartbeat.address()
    )
}

pub(crate) const LISTENER: &str = "[[listener]]\naddress = '127.0.0.1:0'\n[admin]\naddress = '127.0.0.1:0'\n";

impl Line {
    async fn start(api: &Upstream, heartbeat: &Upstream, more: &str, variables: &[(&str, &str)]) -> Self {
        let (directory, token) = registry();
        let text = configuration(api, heartbeat, LISTENER, more);
        let prepare = |command: &mut Command| {
            command.envs(variables.iter().copied());
        };
        Self::with(directory, token, &text, prepare).await
    }

    pub(crate) async fn with(
        directory: Arc<TempDir>,
        token: String,
        text: &str,
        prepare: impl FnOnce(&mut Command),
    ) -> Self {
        let file = directory.path().join("tollgate.toml");
        fs::write(&file, text).expect("writes");
        let mut command = tollgate(&directory, &["serve", "--config", file.to_str().expect("text")]);
        prepare(&mut command);
        let mut first = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
        let lines = BufReader::new(first.stderr.take().expect("a pipe")).lines();
        let (send, log) = mpsc::channel(100_000);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                drop(send.try_send(serde_json::from_str(&line).unwrap_or(Value::String(line))));
            }
        });
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let processes = vec![pid(first.id().into())];
        let mut line = Self { first, processes, log, directory, token, listener: nowhere, admin: nowhere };
        line.listener =
            line.says("listening").await["address"].as_str().and_then(|at| at.parse().ok()).unwrap_or(nowhere);
        line.admin = line.says("started").await["admin"].as_str().and_then(|at| at.parse().ok()).expect("an address");
        line.says("ready").await;
        line
    }

    /// Waits for a line of the log: its fields.
    pub(crate) async fn says(&mut self, message: &str) -> Value {
        within(message, async {
            let mut before = Vec::new();
            loop {
                let mut line = self.log.recv().await.unwrap_or_else(|| panic!("{message:?} was not said: {before:#?}"));
                if line["fields"]["message"] == message {
                    return line["fields"].take();
                }
                before.push(line);
            }
        })
        .await
    }

    pub(crate) fn process(&self) -> Pid {
        *self.processes.last().expect("one")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.process(), signal).expect("runs");
    }

    /// Lets another process take over.
    pub(crate) async fn take_over(&mut self) {
        self.signal(Signal::USR2);
        let said = self.says("another process has taken over: finishing in-flight requests").await;
        self.processes.push(pid(said["process"].as_u64().expect("its id")));
    }

    /// Waits until that one has ended.
    pub(crate) async fn has_ended(&mut self, process: Pid) {
        let first = pid(self.first.id().into());
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let over = match process == first {
                true => self.first.try_wait().expect("waits").is_some(),
                false => test_kill_process(process).is_err(),
            };
            if over {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "it does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        tollgate(&self.directory, arguments).output().expect("runs")
    }

    fn fetch(&self) -> String {
        request("GET", CONFIG, &format!("Authorization: Bearer {}\r\n", self.token))
    }

    /// What a new connection is answered.
    async fn answers(&self) -> u16 {
        let mut client = Client::connect(self.listener).await;
        client.send(self.fetch()).await;
        client.reply().await.status()
    }

    async fn ready(&self) -> String {
        said_by_admin(self.admin, "/readyz").await
    }

    fn sidecars(&self) -> Vec<Value> {
        let output = self.run(&["status", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        status["sidecars"].as_array().expect("a list").clone()
    }
}

async fn said_by_admin(admin: SocketAddr, path: &str) -> String {
    let mut client = Client::connect(admin).await;
    client.send(format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")).await;
    String::from_utf8(client.rest().await).expect("text")
}

impl Drop for Line {
    fn drop(&mut self) {
        for process in &self.processes[1..] {
            kill_process(*process, Signal::KILL).ok();
        }
        self.first.kill().ok();
        self.first.wait().ok();
    }
}

/// Requests until told to stop: each must be answered by 200. How many there were.
async fn stream(address: SocketAddr, request: String, keeps: bool, stop: Arc<AtomicBool>, count: Arc<AtomicUsize>) {
    let mut client = Client::connect(address).await;
    while !stop.load(Ordering::Relaxed) {
        client.send(&request).await;
        let reply = client.reply().await;
        assert_eq!(reply.status(), 200);
        count.fetch_add(1, Ordering::Relaxed);
        let ends = reply.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if ends || !keeps {
            client = Client::connect(address).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_in_a_row_under_load_fail_nobody() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let mut line = Line::start(&api, &heartbeat, "workers = 2", &[]).await;
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let fields = format!("Authorization: Bearer {}\r\nContent-Length: 2\r\n", line.token);
    let beat = request("POST", HEARTBEAT, &fields) + "{}";
    let mut streams = Vec::new();
    for number in 0..8 {
        let request = if number % 4 < 2 { line.fetch() } else { beat.clone() };
        let stream = stream(line.listener, request, number % 2 == 0, Arc::clone(&stop), Arc::clone(&count));
        streams.push(tokio::spawn(stream));
    }
    // Probes, to which no process may say that it drains.
    let (admin, probing) = (line.admin, Arc::clone(&stop));
    streams.push(tokio::spawn(async move {
        while !probing.load(Ordering::Relaxed) {
            let said = said_by_admin(admin, "/readyz").await;
            assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
        }
    }));
    for _ in 0..3 {
        let before = line.process();
        let seen = count.load(Ordering::Relaxed);
        eventually("requests go on", || async { count.load(Ordering::Relaxed) > seen + 50 }).await;
        line.take_over().await;
        line.has_ended(before).await;
    }
    let seen = count.load(Ordering::Relaxed);
    eventually("requests go on", || async { count.load(Ordering::Relaxed) > seen + 50 }).await;
    stop.store(true, Ordering::Relaxed);
    for stream in streams {
        within("a stream's end", stream).await.expect("nothing failed");
    }
    println!("{} requests, none failed", count.load(Ordering::Relaxed));
}

/// What it was doing is done, a connection that idles is not closed under its next request, and that one is told to go.
#[tokio::test]
async fn what_the_old_one_has_it_finishes() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let mut line = Line::start(&api, &heartbeat, "[timeouts]\ndrain = '10m'", &[]).await;
    let old = line.process();
    let pieces = api.next_in_pieces();
    let mut running = Client::connect(line.listener).await;
    running.send(line.fetch()).await;
    api.until("the request", |seen| seen.requests.len() == 1).await;
    let mut idle = Client::connect(line.listener).await;
    idle.send(line.fetch()).await;
    assert_eq!(idle.reply().await.status(), 200);
    let mut untouched = Client::connect(line.listener).await;
    line.take_over().await;

    let reported = line.sidecars();
    assert_eq!(reported.len(), 2, "{reported:?}");
    assert_ne!(reported[0]["id"], reported[1]["id"]);
    for client in [&mut idle, &mut untouched] {
        client.send(line.fetch()).await;
        let reply = client.reply().await;
        assert_eq!((reply.status(), reply.field("connection")), (200, Some("close")));
        client.ends().await;
    }
    pieces.send(ok("finished").into_bytes()).await.expect("takes it");
    assert_eq!(running.reply().await.text(), "finished");
    line.has_ended(old).await;
    assert_eq!(line.answers().await, 200);
    assert!(line.ready().await.starts_with("HTTP/1.1 200 "));
    eventually("the report is taken back", || async { line.sidecars().len() == 1 }).await;
    line.signal(Signal::TERM);
    line.says("stopped").await;
}

#[tokio::test]
async fn one_that_cannot_start_changes_nothing() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let mut line = Line::start(&api, &heartbeat, "", &[]).await;
    let good = fs::read_to_string(line.file("tollgate.toml")).expect("reads");
    fs::write(line.file("tollgate.toml"), good.clone() + "\nnonsense = 1\n").expect("writes");
    line.signal(Signal::USR2);
    let said = line.says("nobody has taken over: serving on").await;
    assert!(said["error"].as_str().is_some_and(|text| text.contains("ended (exit status: ")), "{said}");
    assert_eq!(line.answers().await, 200);
    fs::write(line.file("tollgate.toml"), good).expect("writes");
    line.take_over().await;
    assert_eq!(line.answers().await, 200);
}

/// A Unix socket, more workers, another address: what stays is handed over, what goes is closed, what comes is opened.
#[tokio::test]
async fn addresses_and_workers_may_change() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let (directory, token) = registry();
    let [stays, goes, comes] = ["stays", "goes", "comes"].map(|name| directory.path().join(name));
    let on = |paths: [&PathBuf; 2], workers: usize| {
        let unix = paths.map(|path| format!("[[listener]]\naddress = 'unix:{}'\n", path.display())).concat();
        configuration(&api, &heartbeat, &(LISTENER.to_owned() + &unix), &format!("workers = {workers}"))
    };
    let mut line = Line::with(directory, token, &on([&stays, &goes], 1), |_| {}).await;
    let old = line.process();
    fs::write(line.file("tollgate.toml"), on([&stays, &comes], 3)).expect("writes");
    line.take_over().await;
    line.has_ended(old).await;
    for path in [&stays, &comes] {
        let mut client = Client::over(UnixStream::connect(path).await.expect("listens"));
        client.send(line.fetch()).await;
        assert_eq!(client.reply().await.status(), 200);
    }
    assert!(!goes.exists(), "nobody listens there");
    assert_eq!(line.answers().await, 200);
    let old = line.process();
    fs::write(line.file("tollgate.toml"), on([&stays, &comes], 1)).expect("writes");
    line.take_over().await;
    line.has_ended(old).await;
    for _ in 0..20 {
        assert_eq!(line.answers().await, 200, "each of the three queues is served");
    }
    line.signal(Signal::TERM);
    line.says("stopped").await;
    eventually("the sockets' files are gone", || async { !stays.exists() && !comes.exists() }).await;
}

/// Two processes, two ids: what is waited for is what both have done. The snapshot file is the one's or the other's.
#[tokio::test]
async fn the_snapshot_file_has_one_owner_at_a_time() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let (directory, token) = registry();
    let snapshot = directory.path().join("replica");
    let more = "[timeouts]\ndrain = '10m'";
    let text = configuration(&api, &heartbeat, LISTENER, more)
        + &format!("[store]\nsnapshot_file = '{}'\n", snapshot.display());
    let mut line = Line::with(directory, token, &text, |_| {}).await;
    let id_beside = || fs::read_to_string(snapshot.with_added_extension("id")).expect("an id")[..16].to_owned();
    let id_in = |sidecar: &Value| sidecar["id"].as_str().expect("an id").to_owned();
    let first = id_in(&line.sidecars()[0]);
    eventually("it is the first one's", || async { snapshot.exists() && id_beside() == first }).await;

    let old = line.process();
    let pieces = api.next_in_pieces();
    let mut running = Client::connect(line.listener).await;
    running.send(line.fetch()).await;
    api.until("the request", |seen| seen.requests.len() == 1).await;
    line.take_over().await;
    let ids: Vec<_> = line.sidecars().iter().map(id_in).collect();
    assert_eq!((ids.len(), id_beside() == first), (2, true), "{ids:?}");
    // Both are waited for.
    let add = line.run(&["token", "create", "--user", "owner", "--description", "x", "--json"]);
    let made: Value = serde_json::from_slice(&add.stdout).expect("JSON");
    let id = made["id"].as_str().expect("an id");
    let revoked = line.run(&["token", "revoke", id, "--wait", "--yes"]);
    let said = String::from_utf8_lossy(&[revoked.stdout.clone(), revoked.stderr.clone()].concat()).into_owned();
    assert!(revoked.status.success() && said.contains("2 sidecars"), "{revoked:?}");
    pieces.send(ok("finished").into_bytes()).await.expect("takes it");
    assert_eq!(running.reply().await.text(), "finished");
    line.has_ended(old).await;
    let second = ids.into_iter().find(|id| *id != first).expect("another");
    eventually("it is the second one's", || async { id_beside() == second }).await;
    eventually("nobody waits for the first", || async { line.sidecars().len() == 1 }).await;
}

/// Neither the addresses of one that runs, nor its snapshot file.
#[tokio::test]
async fn a_second_one_that_is_not_to_take_over_is_told_what_to_change() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let (directory, token) = registry();
    let snapshot = format!("[store]\nsnapshot_file = '{}'\n", directory.path().join("replica").display());
    let text = configuration(&api, &heartbeat, LISTENER, "") + &snapshot;
    let line = Line::with(directory, token, &text, |_| {}).await;
    let store = format!("sqlite:{}", line.file("t.db").display());
    let serve = |arguments: &[&str], variables: &[(&str, &str)]| {
        let output = run(&[&["serve", "--store", &store], arguments].concat(), variables);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    let (listener, admin) = (line.listener.to_string(), line.admin.to_string());
    let said = serve(&["--listen", &listener, "--admin-listen", "127.0.0.1:0"], &[]);
    assert!(said.contains(&format!("cannot listen on {listener}")) && said.contains("--listen"), "{said}");
    assert!(said.contains("SIGUSR2"), "{said}");
    let said = serve(&["--listen", "127.0.0.1:0", "--admin-listen", &admin], &[]);
    assert!(said.contains(&format!("cannot listen on {admin}")) && said.contains("--admin-listen"), "{said}");
    let file = line.file("replica").display().to_string();
    let variables = [("TOLLGATE_STORE__SNAPSHOT_FILE", file.as_str())];
    let said = serve(&["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"], &variables);
    assert!(said.contains("another sidecar uses the snapshot file") && said.contains("store.snapshot_file"), "{said}");
    assert_eq!(line.answers().await, 200);
}

/// It is told of the new process before the old one ends, and nothing by the old one afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_follows() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let next = || {
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).expect("is told");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let until = |wanted: &str| {
        let mut told = next();
        while !told.lines().any(|line| line == wanted) {
            assert!(!told.contains("STOPPING=1"), "{told}");
            told = next();
        }
        told
    };
    let path = path.display().to_string();
    // It is the process's own: of another one nothing is expected.
    let watched = [("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "600000")];
    let mut line = Line::start(&api, &heartbeat, "[timeouts]\ndrain = '10m'", &watched).await;
    until("READY=1");
    until("WATCHDOG=1");
    let old = line.process();
    let pieces = api.next_in_pieces();
    let mut running = Client::connect(line.listener).await;
    running.send(line.fetch()).await;
    api.until("the request", |seen| seen.requests.len() == 1).await;
    line.take_over().await;
    let new = line.process().as_raw_nonzero().get();
    assert!(until("READY=1").contains(&format!("MAINPID={new}")));
    until("WATCHDOG=1");
    pieces.send(ok("finished").into_bytes()).await.expect("takes it");
    assert_eq!(running.reply().await.text(), "finished");
    line.has_ended(old).await;
    until("WATCHDOG=1");
    until("WATCHDOG=1");
}

/// The same socket, as children get it, under a number that none of theirs has.
fn inheritable(socket: impl AsFd) -> OwnedFd {
    let socket = fcntl_dupfd_cloexec(socket, 100).expect("a descriptor");
    fcntl_setfd(&socket, FdFlags::empty()).expect("inheritable");
    socket
}

/// `sd_listen_fds(3)`, as systemd does it: from descriptor 3 on, for this process.
fn inherit(command: &mut Command, sockets: &[OwnedFd]) {
    let mut script = String::new();
    for (number, socket) in sockets.iter().enumerate() {
        script += &format!("exec {}<&{}\n", number + 3, socket.as_raw_fd());
    }
    script += &format!("export LISTEN_PID=$$ LISTEN_FDS={}\nexec \"$0\" \"$@\"", sockets.len());
    let program = std::mem::replace(command, Command::new("bash"));
    command.args(["-c", &script]).arg(program.get_program()).args(program.get_args()).env_clear();
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
}

#[tokio::test]
async fn sockets_that_systemd_opened_are_used_and_handed_on() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let (directory, token) = registry();
    let path = directory.path().join("tollgate.sock");
    let [agents, admin] = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a socket"));
    let unix = UnixListener::bind(&path).expect("a socket");
    let [at, admin_at] = [&agents, &admin].map(|socket| socket.local_addr().expect("bound"));
    let sockets = [inheritable(agents), inheritable(admin), inheritable(unix)];
    // Somebody connects before there is a process.
    let mut early = Client::over(TcpStream::connect(at).await.expect("waits"));
    let listeners = format!(
        "[[listener]]\naddress = '{at}'\n[[listener]]\naddress = 'unix:{}'\n[admin]\naddress = '{admin_at}'\n",
        path.display()
    );
    let text = configuration(&api, &heartbeat, &listeners, "workers = 2");
    let mut line = Line::with(directory, token, &text, |command| inherit(command, &sockets)).await;
    drop(sockets);
    let unix_answers = async |line: &Line| {
        let mut client = Client::over(UnixStream::connect(&path).await.expect("listens"));
        client.send(line.fetch()).await;
        client.reply().await.status()
    };
    assert_eq!((line.listener, line.admin), (at, admin_at));
    early.send(line.fetch()).await;
    assert_eq!(early.reply().await.status(), 200);
    for _ in 0..2 {
        assert_eq!((line.answers().await, unix_answers(&line).await), (200, 200));
        assert!(line.ready().await.starts_with("HTTP/1.1 200 "));
        let old = line.process();
        drop(std::mem::replace(&mut early, Client::connect(at).await));
        early.send(line.fetch()).await;
        assert_eq!(early.reply().await.status(), 200);
        line.take_over().await;
        early.send(line.fetch()).await;
        assert_eq!(early.reply().await.status(), 200);
        line.has_ended(old).await;
    }
    line.signal(Signal::TERM);
    line.says("stopped").await;
    assert!(path.exists(), "it is systemd's");
}

#[tokio::test]
async fn a_socket_of_systemd_that_nobody_wants_is_refused() {
    let (directory, _) = registry();
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = socket.local_addr().expect("bound").to_string();
    let mut command = tollgate(&directory, &["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    let sockets = [inheritable(socket)];
    inherit(&mut command, &sockets);
    let output = command.output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("opened a socket at {address}")) && said.contains("ListenStream="), "{said}");
}

/// And one that takes over is drained as the one before.
#[tokio::test]
async fn what_an_operator_drained_stays_so_until_it_is_undone() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let mut line = Line::start(&api, &heartbeat, "[health]\npath = '/healthz'", &[]).await;
    let admin = line.admin.to_string();
    let drain = |line: &Line, more: &[&str]| {
        let output = line.run(&[&["drain", "--admin-listen", &admin], more].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let health = async |line: &Line| {
        let mut client = Client::connect(line.listener).await;
        client.send(request("GET", "/healthz", "")).await;
        client.reply().await.status()
    };
    assert!(drain(&line, &[]).starts_with("drained"));
    for _ in 0..2 {
        let said = line.ready().await;
        assert!(said.starts_with("HTTP/1.1 503 ") && said.contains("drained by an operator"), "{said}");
        assert_eq!((health(&line).await, line.answers().await), (503, 200));
        assert!(said_by_admin(line.admin, "/metrics").await.contains("\ntollgate_drained 1\n"));
        let old = line.process();
        line.take_over().await;
        line.has_ended(old).await;
    }
    eventually("the status says so", || async {
        line.sidecars().iter().any(|sidecar| sidecar["draining"].as_str().is_some_and(|text| text.contains("operator")))
    })
    .await;
    let text = String::from_utf8(line.run(&["status"]).stdout).expect("text");
    assert!(text.contains("drained by an operator"), "{text}");
    assert_eq!(drain(&line, &["--undo", "--json"]).split_whitespace().collect::<String>(), "{\"drained\":false}");
    assert!(line.ready().await.starts_with("HTTP/1.1 200 "));
    assert_eq!(health(&line).await, 200);
    // Not by the admin listener, which a page that a browser on this host shows could reach, or a proxy.
    let mut client = Client::connect(line.admin).await;
    client.send(format!("PUT /drain HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")).await;
    let said = String::from_utf8(client.rest().await).expect("text");
    assert!(said.starts_with("HTTP/1.1 4"), "{said}");
    assert!(line.ready().await.starts_with("HTTP/1.1 200 "));
}

/// The admin listener's own certificate is believed, and no other.
#[tokio::test]
async fn commands_reach_an_admin_listener_with_tls() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let (directory, token) = registry();
    let authority = Authority::create();
    let (certificate, key) = authority.issue("sidecar", &["tollgate.example"]);
    let (foreign, _) = authority.issue("foreign", &["tollgate.example"]);
    let tls = |certificate: &Path| {
        format!("[admin.tls]\ncertificate = '{}'\nkey = '{}'\n", certificate.display(), key.display())
    };
    let text = configuration(&api, &heartbeat, LISTENER, "") + &tls(&certificate);
    let line = Line::with(directory, token, &text, |_| {}).await;
    let admin = line.admin.to_string();
    let asked = |command: &[&str], certificate: &Path| {
        let file = line.file("client.toml");
        fs::write(&file, tls(certificate)).expect("writes");
        let more = ["--admin-listen", &admin, "--config", file.to_str().expect("text")];
        line.run(&[command, &more].concat())
    };
    let output = asked(&["health"], &certificate);
    assert!(output.status.success(), "{output:?}");
    assert!(asked(&["drain"], &certificate).status.success());
    assert!(!asked(&["health"], &certificate).status.success());
    assert!(asked(&["drain", "--undo"], &certificate).status.success());
    let said = String::from_utf8(asked(&["cache", "list"], &certificate).stderr).expect("text");
    assert!(said.contains("config_cache.enabled is false"), "{said}");
    let output = asked(&["health"], &foreign);
    assert!(!output.status.success(), "another certificate is another sidecar");
    assert!(!line.run(&["health", "--admin-listen", &admin]).status.success(), "in the clear");
}
