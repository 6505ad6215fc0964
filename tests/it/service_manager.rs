//! What systemd is told, and what its journal gets.

use std::io::{PipeReader, Read as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, fstat, mknodat};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::harness::{PATIENCE, RedisServer, Serving, run};

/// What a process tells until something was told.
struct Told {
    socket: UnixDatagram,
    lines: Vec<String>,
}

impl Told {
    /// At this path, which is told to nobody yet.
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        Self { socket, lines: Vec::new() }
    }

    fn until(&mut self, expected: &str) {
        self.until_all(expected, 1);
    }

    /// So many times, since the beginning.
    fn until_all(&mut self, expected: &str, times: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.lines.iter().filter(|line| line.as_str() == expected).count() < times {
            assert!(Instant::now() < deadline, "not told {expected}: {:?}", self.lines);
            let mut buffer = [0; 4096];
            if let Ok(length) = self.socket.recv(&mut buffer) {
                let text = std::str::from_utf8(&buffer[..length]).expect("text");
                self.lines.extend(text.lines().map(str::to_owned));
            }
        }
    }
}

/// A sidecar with a configuration file, as a service.
struct Unit {
    told: Told,
    serving: Serving,
    file: PathBuf,
    _directory: TempDir,
    _redis: RedisServer,
}

impl Unit {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, file) = (directory.path().join("notify"), directory.path().join("tollgate.toml"));
        let told = Told::at(&path);
        std::fs::write(&file, "").expect("writes");
        let redis = RedisServer::start();
        let (path, config) = (path.display().to_string(), file.display().to_string());
        let variables = [("NOTIFY_SOCKET", path.as_str()), ("TOLLGATE_CONFIG", config.as_str())];
        let serving = Serving::start(&redis.url(), &variables).await;
        Self { told, serving, file, _directory: directory, _redis: redis }
    }
}

fn signal(serving: &Serving, signal: Signal) {
    let pid = Pid::from_raw(serving.pid().cast_signed()).expect("a process");
    kill_process(pid, signal).expect("a signal");
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_that_it_accepts_how_fresh_it_is_that_it_is_alive_and_that_it_stops() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notify");
    let mut told = Told::at(&path);
    // A registry that is away: that is no reason to start it again.
    let redis = RedisServer::start();
    redis.pause();
    let path = path.display().to_string();
    let variables =
        [("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "600000"), ("TOLLGATE_TIMEOUTS__DRAIN_DELAY", "1h")];
    let serving = Serving::start(&redis.url(), &variables).await;
    tokio::task::spawn_blocking(move || {
        told.until("READY=1");
        told.until("STATUS=not ready: the token registry has not been read yet");
        told.until_all("WATCHDOG=1", 5);
        signal(&serving, Signal::TERM);
        told.until("STOPPING=1");
        let fed = told.lines.iter().filter(|line| *line == "WATCHDOG=1").count();
        told.until_all("WATCHDOG=1", fed + 3);
        serving.kill();
    })
    .await
    .expect("told");
    redis.resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_of_reloads_and_that_they_are_over_also_when_they_were_refused() {
    let Unit { mut told, serving, file, _directory, _redis } = Unit::start().await;
    tokio::task::spawn_blocking(move || {
        told.until("READY=1");
        for (times, text) in [(1, "[limits]\nmax_headers = 9\n"), (2, "nonsense")] {
            std::fs::write(&file, text).expect("writes");
            signal(&serving, Signal::HUP);
            told.until_all("RELOADING=1", times);
            told.until_all("READY=1", times + 1);
        }
        let moments = told.lines.iter().filter_map(|line| line.strip_prefix("MONOTONIC_USEC=")?.parse::<u64>().ok());
        let moments: Vec<_> = moments.collect();
        assert!(matches!(moments[..], [first, second] if first < second), "{:?}", told.lines);
        let of_reload: Vec<_> = told.lines.iter().filter(|line| line.starts_with("RE")).collect();
        assert_eq!(of_reload, ["READY=1", "RELOADING=1", "READY=1", "RELOADING=1", "READY=1"]);
    })
    .await
    .expect("told");
}

/// Fills what a manager has not read.
fn fill(path: &str) {
    let socket = UnixDatagram::unbound().expect("a socket");
    socket.set_nonblocking(true).expect("does not block");
    while socket.send_to(b"full", path).is_ok() {}
}

/// A manager that hangs holds up nothing, and hears all that counts when it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_does_not_read_is_told_later_and_waited_for_by_nobody() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notify");
    let mut told = Told::at(&path);
    let path = path.display().to_string();
    fill(&path);
    let redis = RedisServer::start();
    assert!(run(&["--store", &redis.url(), "init"], &[]).status.success());
    let variables = [("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "600000")];
    let mut serving = Serving::start(&redis.url(), &variables).await;
    serving.says("ready").await;
    signal(&serving, Signal::HUP);
    serving.says("configuration reloaded: no key was changed that a reload can exchange").await;
    assert_eq!(serving.readiness().await, 200);
    let told = tokio::task::spawn_blocking(move || {
        told.until("READY=1");
        told.until("STATUS=ready");
        told.until_all("WATCHDOG=1", 3);
        told
    })
    .await
    .expect("told");
    let of_reload: Vec<_> = told.lines.iter().filter(|line| line.starts_with("RE")).collect();
    assert_eq!(of_reload, ["RELOADING=1", "READY=1"], "{:?}", told.lines);
    fill(&path);
    assert!(serving.stop().await.success());
}

/// Else the manager would take it for one that reloads for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_whose_files_hang_is_over_after_a_while() {
    let Unit { mut told, serving, file, _directory, _redis } = Unit::start().await;
    tokio::task::spawn_blocking(move || {
        told.until("READY=1");
        std::fs::remove_file(&file).expect("is there");
        mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
        signal(&serving, Signal::HUP);
        told.until("RELOADING=1");
        told.until_all("READY=1", 2);
    })
    .await
    .expect("told");
}

/// Runs the program with the journal for its standard error.
fn with_journal(variables: &[(&str, &str)], arguments: &[&str]) -> (Child, PipeReader) {
    let (log, write) = std::io::pipe().expect("a pipe");
    let found = fstat(&write).expect("a pipe");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.env_clear().envs(variables.iter().copied()).args(arguments).stdout(Stdio::null()).stderr(write);
    command.env("JOURNAL_STREAM", format!("{}:{}", found.st_dev, found.st_ino));
    (command.spawn().expect("starts"), log)
}

#[test]
fn lines_for_the_journal_have_their_priority() {
    let store = ["--store", "sqlite:/nonexistent/t.db"];
    let arguments = [&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"][..], &store].concat();
    for format in ["text", "json"] {
        let (mut child, mut log) = with_journal(&[("TOLLGATE_LOG__FORMAT", format)], &arguments);
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        while !text.ends_with(b"\n") {
            let length = log.read(&mut buffer).expect("a line");
            assert_ne!(length, 0, "{}", String::from_utf8_lossy(&text));
            text.extend_from_slice(&buffer[..length]);
        }
        child.kill().expect("is ended");
        child.wait().expect("ends");
        let text = String::from_utf8(text).expect("text");
        assert!(
            text.lines().all(|line| ["<3>", "<4>", "<6>"].iter().any(|priority| line.starts_with(priority))),
            "{text}"
        );
    }
}

#[test]
fn why_it_does_not_start_is_an_error_in_the_journal() {
    let variables =
        [("TOLLGATE_LIMITS__MAX_HEADERS", "many"), ("TOLLGATE_ACCESS_LOG__OUTPUT", "/nonexistent/access.log")];
    let (mut child, mut log) = with_journal(&variables, &["serve", "--store", "sqlite:/nonexistent/t.db"]);
    let mut text = String::new();
    log.read_to_string(&mut text).expect("text");
    assert!(!child.wait().expect("ends").success());
    // All that is wrong, the log that cannot be written too.
    assert!(text.contains("MAX_HEADERS") && text.contains("/nonexistent/access.log"), "{text}");
    assert!(text.lines().all(|line| line.starts_with("<3>")), "{text}");
}

#[test]
fn the_unit_lets_the_sidecar_write_where_the_documentation_has_it_write() {
    let unit = include_str!("../../deploy/systemd/tollgate.service");
    for (line, directory) in [
        ("StateDirectory=tollgate", "/var/lib/tollgate/"),
        ("LogsDirectory=tollgate", "/var/log/tollgate/"),
        ("RuntimeDirectory=tollgate", "/run/tollgate/"),
    ] {
        let is_named = [include_str!("../../docs/logs.md"), include_str!("../../docs/in-front.md"), unit]
            .iter()
            .any(|text| text.contains(directory));
        assert!(is_named && unit.lines().any(|found| found == line), "{line}");
    }
}
