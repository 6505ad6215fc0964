//! Commands of this host, and others on it who want to give them, to take them in the sidecar's place, or to be in the way. Who is
//! another user has to be one: without root there is nothing to see here.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::Uid;
use tempfile::TempDir;
use tollgate_harness::redis::free_port;

use crate::harness::{Client, Site, eventually, run, within};

const NOBODY: u32 = 65_534;
const ANOTHER: u32 = 65_533;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What another user does, on a thread of its own; until `end` is dropped, or what it returns.
fn as_nobody<T: Send + 'static>(act: impl FnOnce(Receiver<()>) -> T + Send + 'static) -> (Sender<()>, JoinHandle<T>) {
    let (end, ended) = channel();
    let thread = std::thread::spawn(move || {
        let user = Uid::from_raw(NOBODY);
        rustix::thread::set_thread_res_uid(user, user, user).expect("root may");
        act(ended)
    });
    (end, thread)
}

fn name(admin: SocketAddr) -> UnixAddress {
    UnixAddress::from_abstract_name(format!("tollgate/{admin}")).expect("a name")
}

/// `tollgate drain` of this process's user, with what else is said.
async fn drain(admin: SocketAddr, more: &[&str]) -> Output {
    let admin = admin.to_string();
    let arguments: Vec<_> =
        ["drain", "--admin-listen", &admin].iter().chain(more).map(|text| (*text).to_owned()).collect();
    let run = move || run(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    within("the command", tokio::task::spawn_blocking(run)).await.expect("runs")
}

async fn readiness(admin: SocketAddr) -> String {
    let mut client = Client::connect(admin).await;
    client.send(format!("GET /readyz HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")).await;
    String::from_utf8(client.rest().await).expect("text")
}

/// Answers every command with "done", in the sidecar's place; says in the end what it was told.
fn pretend(listener: &UnixListener, ended: &Receiver<()>) -> Vec<u8> {
    listener.set_nonblocking(true).expect("can");
    let (mut told, mut connections) = (Vec::new(), Vec::<UnixStream>::new());
    while ended.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
        connections.extend(listener.accept().into_iter().map(|(stream, _)| stream));
        for stream in &mut connections {
            let body = "{\"drained\":true}";
            stream.set_nonblocking(true).expect("can");
            drop(stream.read_to_end(&mut told)); // as much as there is
            drop(write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
            drop(stream.shutdown(std::net::Shutdown::Write));
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    told
}

#[tokio::test]
async fn who_takes_the_sidecars_place_is_not_believed() {
    if !is_root() {
        return;
    }
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (bound, is_bound) = channel();
    let (end, pretending) = as_nobody(move |ended| {
        let listener = UnixListener::bind_addr(&name(admin)).expect("nobody has it");
        bound.send(()).expect("is awaited");
        pretend(&listener, &ended)
    });
    is_bound.recv().expect("binds");
    let site = Site::builder().config(move |config| config.admin.address = admin).start().await;
    assert_eq!(site.sidecar.admin(), admin);

    let output = drain(admin, &[]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{output:?}");
    assert!(said.contains("user 65534 (process ") && said.contains(&admin.to_string()), "{said}");
    eventually("the sidecar says so too", || async {
        let said = readiness(admin).await;
        said.starts_with("HTTP/1.1 200 ") && said.contains("another process has the name of the socket for commands")
    })
    .await;
    drop(end);
    let told = pretending.join().expect("ends");
    assert!(told.is_empty(), "{}", String::from_utf8_lossy(&told));
    // Then the place is the sidecar's.
    eventually("it takes commands", || async { drain(admin, &[]).await.status.success() }).await;
    let said = readiness(admin).await;
    assert!(said.starts_with("HTTP/1.1 503 ") && !said.contains("warnings"), "{said}");
}

#[tokio::test]
async fn strangers_who_connect_keep_nobody_out() {
    if !is_root() {
        return;
    }
    let site = Site::start().await;
    let admin = site.sidecar.admin();
    assert!(drain(admin, &["--undo"]).await.status.success(), "it takes commands");
    let (held, is_held) = channel();
    let (end, holding) = as_nobody(move |ended| {
        let connections: Vec<_> = (0..40).map(|_| UnixStream::connect_addr(&name(admin)).expect("listens")).collect();
        held.send(()).expect("is awaited");
        drop((ended.recv(), connections));
    });
    is_held.recv().expect("connects");
    // And of those who may, none who says nothing.
    let _silent: Vec<_> = (0..4).map(|_| UnixStream::connect_addr(&name(admin)).expect("listens")).collect();
    let output = drain(admin, &[]).await;
    assert!(output.status.success(), "{output:?}");
    assert!(readiness(admin).await.starts_with("HTTP/1.1 503 "));
    drop(end);
    holding.join().expect("ends");
}

/// `tollgate serve` as another user. Killed when dropped.
struct OfAnother {
    child: Child,
    admin: SocketAddr,
    program: PathBuf,
    _directory: TempDir,
}

impl OfAnother {
    /// With an admin listener that it opens, or with this one.
    fn start(inherited: Option<TcpListener>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let program = directory.path().join("tollgate");
        if fs::hard_link(env!("CARGO_BIN_EXE_tollgate"), &program).is_err() {
            fs::copy(env!("CARGO_BIN_EXE_tollgate"), &program).expect("copies");
        }
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("allows");
        chown(directory.path(), Some(NOBODY), Some(NOBODY)).expect("root may");
        let store = format!("sqlite:{}", directory.path().join("t.db").display());
        let mut command = Command::new("bash");
        command.env_clear().env("HOME", directory.path()).current_dir(directory.path()).uid(NOBODY).gid(NOBODY);
        command.env("TOLLGATE_STORE__URL", &store).env("TOLLGATE_LOG__FORMAT", "json").env("TOLLGATE_WORKERS", "1");
        let address = match &inherited {
            Some(listener) => listener.local_addr().expect("bound").to_string(),
            None => "127.0.0.1:0".to_owned(),
        };
        // Under a number that no child of another test has.
        let socket = inherited.map(|listener| fcntl_dupfd_cloexec(listener.as_fd(), 100).expect("a descriptor"));
        let given = socket.as_ref().map_or_else(String::new, |socket| {
            fcntl_setfd(socket, FdFlags::empty()).expect("inheritable");
            format!("exec 3<&{}; export LISTEN_PID=$$ LISTEN_FDS=1;", socket.as_raw_fd())
        });
        let script = format!("\"$0\" init > owner && {given} exec \"$0\" \"$@\"");
        command.arg("-c").arg(script).arg(&program).args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            &address,
        ]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
        let mut log = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let admin = loop {
            let line = log.next().expect("it goes on").expect("reads");
            let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
            if line["fields"]["message"] == "started" {
                break line["fields"]["admin"].as_str().and_then(|at| at.parse().ok()).expect("an address");
            }
        };
        std::thread::spawn(move || log.for_each(drop));
        Self { child, admin, program, _directory: directory }
    }

    /// What `tollgate drain` says to this user.
    fn drain(&self, user: u32) -> Output {
        let mut command = Command::new(&self.program);
        command.env_clear().uid(user).gid(user).args(["drain", "--admin-listen", &self.admin.to_string()]);
        command.output().expect("runs")
    }
}

impl Drop for OfAnother {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_and_the_sidecars_own_user_command_it_also_where_systemd_opened_its_listener() {
    if !is_root() {
        return;
    }
    let opened = TcpListener::bind("127.0.0.1:0").expect("a socket");
    for inherited in [None, Some(opened)] {
        let sidecar = OfAnother::start(inherited);
        eventually("root commands it", || async {
            let output = drain(sidecar.admin, &[]).await;
            assert!(!String::from_utf8_lossy(&output.stderr).contains("nothing was asked"), "{output:?}");
            output.status.success()
        })
        .await;
        assert!(readiness(sidecar.admin).await.starts_with("HTTP/1.1 503 "));
        let own = sidecar.drain(NOBODY);
        assert!(own.status.success(), "{own:?}");
        let other = sidecar.drain(ANOTHER);
        let said = String::from_utf8_lossy(&other.stderr).into_owned();
        assert_eq!((other.status.code(), other.stdout.len()), (Some(1), 0), "{other:?}");
        assert!(said.contains("user 65534 ") && said.contains("as that user, or as root"), "{said}");
    }
}
