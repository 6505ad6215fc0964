//! Where lines go: a file, standard output, a socket, and what takes none of them. The log on standard error too.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;

use super::read;
use crate::harness::{CONFIG, Client, Program, Upstream, eventually, request, within};

/// The program, and the two upstreams it is before.
async fn start(variables: &[(&str, &str)]) -> (Program, [Upstream; 2]) {
    let upstreams = [Upstream::start().await, Upstream::start().await];
    (Program::start(&upstreams[0], &upstreams[1], variables), upstreams)
}

fn fetch(token: &str) -> String {
    request("GET", CONFIG, &format!("Authorization: Bearer {token}\r\n"))
}

/// Sends so many requests on one connection, each after the reply to the one before.
async fn ask(address: SocketAddr, asked: &str, count: usize) {
    let mut client = Client::connect(address).await;
    for _ in 0..count {
        client.send(asked).await;
        client.reply().await;
    }
}

async fn lost(program: &Program) -> usize {
    let mut client = Client::connect(program.admin()).await;
    client.send("GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").await;
    let text = String::from_utf8(client.rest().await).expect("text");
    let value = text.lines().find_map(|line| line.strip_prefix("tollgate_access_log_lines_lost_total "));
    value.and_then(|value| value.parse().ok()).expect("a number")
}

fn is_whole(line: &str) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|line| line["trace_id"].is_null())
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_opened_again_at_a_signal() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, moved) = (directory.path().join("access.log"), directory.path().join("access.log.1"));
    let output = path.display().to_string();
    let (program, _upstreams) = start(&[("ACCESS_LOG__OUTPUT", &output), ("ACCESS_LOG__FORMAT", "json")]).await;
    let asked = fetch(&program.token);
    ask(program.address(), &asked, 1).await;
    eventually("a line", || async { read(&path).len() == 1 }).await;
    std::fs::rename(&path, &moved).expect("moves");
    program.signal("USR1");
    eventually("a new file", || async { path.exists() }).await;
    ask(program.address(), &asked, 3).await;
    eventually("its lines", || async { read(&path).len() == 3 }).await;
    assert_eq!(read(&moved).len(), 1);
    // What was asked last is written before it ends.
    ask(program.address(), &asked, 10).await;
    program.signal("TERM");
    assert!(program.ended().await.success());
    assert_eq!(read(&path).len(), 13);
}

/// A named pipe takes 64 KiB, and then nothing.
#[tokio::test]
async fn a_pipe_that_nobody_reads_loses_whole_lines_counts_them_and_holds_up_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("access.pipe");
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a pipe");
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut pipe = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(&path).expect("opens");
    let output = path.display().to_string();
    let (program, _upstreams) = start(&[("ACCESS_LOG__OUTPUT", &output), ("ACCESS_LOG__FORMAT", "json")]).await;
    let asked = request("GET", &format!("/{}", "x".repeat(480)), "");
    let mut sent = 0;
    while lost(&program).await == 0 {
        ask(program.address(), &asked, 200).await;
        sent += 200;
        assert!(sent < 20_000, "the queue has no end");
    }
    // From now on somebody reads.
    let mut received = Vec::new();
    eventually("every line that was not lost", || {
        drop(pipe.read_to_end(&mut received)); // ends with that there is no more now
        let lines = received.iter().filter(|byte| **byte == b'\n').count();
        let lost = lost(&program);
        async move { lines + lost.await == sent }
    })
    .await;
    assert!(String::from_utf8(received).expect("text").lines().all(is_whole));
    // Once more, and it ends all the same.
    ask(program.address(), &asked, 300).await;
    program.signal("TERM");
    assert!(program.ended().await.success());
}

#[tokio::test]
async fn a_datagram_is_a_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("log.sock");
    let socket = UnixDatagram::bind(&path).expect("binds");
    let output = format!("unix:{}", path.display());
    let (program, _upstreams) = start(&[("ACCESS_LOG__OUTPUT", &output), ("ACCESS_LOG__FORMAT", "json")]).await;
    ask(program.address(), &fetch(&program.token), 2).await;
    let received = tokio::task::spawn_blocking(move || {
        let mut buffer = [0; 4096];
        [(); 2].map(|()| {
            let length = socket.recv(&mut buffer).expect("a datagram");
            serde_json::from_slice::<Value>(&buffer[..length]).expect("one line")
        })
    });
    let received = within("two datagrams", received).await.expect("no panic");
    assert!(received.iter().all(|line| line["status"] == 200));
}

/// One that the test starts itself, with the store of another one.
struct Own {
    child: Child,
    log: BufReader<ChildStderr>,
    address: SocketAddr,
}

impl Own {
    fn start(beside: &Program, upstreams: &[Upstream; 2], prepare: impl FnOnce(Command) -> Command) -> Self {
        let [api, heartbeat] = upstreams.each_ref().map(|upstream| format!("http://{}", upstream.address()));
        let mut command = beside.command(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command.args(["--api-upstream", &api, "--heartbeat-upstream", &heartbeat]);
        command.env("TOLLGATE_LOG__FORMAT", "json").env("TOLLGATE_WORKERS", "1");
        command.env("TOLLGATE_ACCESS_LOG__FORMAT", "json");
        let mut child = prepare(command).stderr(Stdio::piped()).spawn().expect("starts");
        let mut own = Self {
            log: BufReader::new(child.stderr.take().expect("a pipe")),
            child,
            address: SocketAddr::from(([0; 4], 0)),
        };
        let listening = own.says("listening");
        own.address = listening["fields"]["address"].as_str().expect("an address").parse().expect("an address");
        own.says("ready");
        own
    }

    /// Reads its log up to this message.
    fn says(&mut self, message: &str) -> Value {
        loop {
            let mut line = String::new();
            assert_ne!(self.log.read_line(&mut line).expect("reads"), 0, "it ended before it said {message}");
            let line: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
            if line["fields"]["message"].as_str().is_some_and(|said| said.contains(message)) {
                return line;
            }
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed()).expect("a process")
    }

    async fn ends(&mut self) -> bool {
        rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM).expect("is there");
        let mut status = None;
        eventually("its end", || {
            status = self.child.try_wait().expect("waits");
            let has_ended = status.is_some();
            async move { has_ended }
        })
        .await;
        status.expect("ended").success()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test]
async fn standard_output_has_lines_and_nothing_else() {
    let (beside, upstreams) = start(&[]).await;
    let mut own = Own::start(&beside, &upstreams, |mut command| {
        command.env("TOLLGATE_ACCESS_LOG__OUTPUT", "stdout").stdout(Stdio::piped());
        command
    });
    ask(own.address, &fetch(&beside.token), 5).await;
    assert!(own.ends().await);
    let mut text = String::new();
    own.child.stdout.take().expect("a pipe").read_to_string(&mut text).expect("text");
    assert!(text.lines().count() == 5 && text.lines().all(is_whole), "{text}");
}

/// Every request is said in the log here. Before, the worker waited within that.
#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_nothing_and_not_the_end() {
    let (beside, upstreams) = start(&[]).await;
    let mut own = Own::start(&beside, &upstreams, |mut command| {
        command.env("TOLLGATE_LOG__FILTER", "debug");
        command
    });
    let asked = request("GET", &format!("/{}", "x".repeat(2000)), "");
    ask(own.address, &asked, 100).await; // three pipes full
    assert!(own.ends().await);
    let mut text = String::new();
    own.log.read_to_string(&mut text).expect("text");
    assert!(text.ends_with('\n') && text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{text}");
}

/// The disk is full: so is a file that may not grow.
#[tokio::test]
async fn a_full_disk_recovers_by_itself_and_no_line_is_torn() {
    const LIMIT: usize = 1 << 20;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("access.log");
    let filler = format!("{}\n", "x".repeat(LIMIT - 700));
    std::fs::write(&path, &filler).expect("written");
    let (beside, upstreams) = start(&[]).await;
    let mut own = Own::start(&beside, &upstreams, |mut command| {
        command.env("TOLLGATE_ACCESS_LOG__OUTPUT", &path);
        limited(&command)
    });
    let asked = fetch(&beside.token);
    ask(own.address, &asked, 20).await;
    own.says("the access log cannot be written");
    ask(own.address, &asked, 20).await;
    assert_eq!(std::fs::metadata(&path).expect("is there").len(), LIMIT as u64);
    let unlimited = Rlimit { current: None, maximum: None };
    prlimit(Some(own.pid()), Resource::Fsize, unlimited).expect("may grow");
    own.says("the access log is written again");
    eventually("all lines", || async { read(&path).len() == 41 }).await;
    assert!(read(&path)[1..].iter().all(|line| is_whole(line)));
}

/// In a shell that lets no file grow above 1 MiB, which would end the program otherwise.
fn limited(command: &Command) -> Command {
    let mut limited = Command::new("sh");
    limited.args(["-c", r#"trap '' XFSZ; ulimit -S -f 2048; exec "$0" "$@""#]).arg(command.get_program());
    limited.args(command.get_args()).env_clear();
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_said_at_the_start() {
    let (beside, _upstreams) = start(&[]).await;
    let mut command = beside.command(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    let output =
        command.env("TOLLGATE_ACCESS_LOG__OUTPUT", Path::new("/nonexistent/access.log")).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("access_log.output") && said.contains("No such file"), "{said}");
}
