//! Real Redis servers, each in a directory of its own.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::PATIENCE;

/// A `redis-server` on a free port of the loopback interface. Ends, with all its data, when it is dropped.
pub struct RedisServer {
    directory: TempDir,
    port: u16,
    /// Read first; Redis rewrites it when it is told to.
    configuration: Option<PathBuf>,
    arguments: Vec<String>,
    process: Option<Process>,
}

/// A server's process, and one that ends it when this process ends without doing so.
struct Process {
    server: Child,
    watchdog: Child,
}

impl Process {
    /// Starts the watchdog, too: it reads from a pipe whose other end is held here.
    fn start(command: &mut Command) -> Self {
        let server = command.spawn().expect("redis-server is installed: tests/run.sh does it");
        let watchdog = Command::new("sh")
            .args(["-c", "read -r _; kill -9 \"$0\"", &server.id().to_string()])
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell is there");
        Self { server, watchdog }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // First, or the id that it knows could be another process's by the time it acts.
        for process in [&mut self.watchdog, &mut self.server] {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

impl RedisServer {
    /// With nothing on disk.
    pub fn start() -> Self {
        Self::with(&["--save", "", "--appendonly", "no"])
    }

    /// With these arguments to `redis-server` (`["--appendonly", "yes"]`). Returns when it answers.
    pub fn with(arguments: &[&str]) -> Self {
        Self::configured(None, arguments)
    }

    /// With a configuration file of its own.
    pub fn from_file(file: &Path, arguments: &[&str]) -> Self {
        Self::configured(Some(file.to_owned()), arguments)
    }

    fn configured(configuration: Option<PathBuf>, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut server = Self { directory, port: 0, configuration, arguments, process: None };
        // Another process can take a port between its being found free and its being used.
        for _ in 0..5 {
            server.port = free_port();
            if server.launch() {
                return server;
            }
        }
        panic!("redis-server does not start: {}", server.log());
    }

    /// With the users of an ACL file.
    pub fn with_users(users: &str) -> Self {
        Self::with_users_and(users, &[])
    }

    /// With the users of an ACL file, and these arguments.
    pub fn with_users_and(users: &str, arguments: &[&str]) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), users).expect("writes");
        // Read at the start only: it may go afterwards.
        let acl = ["--save", "", "--aclfile", file.path().to_str().expect("a plain path")];
        Self::with(&[&acl, arguments].concat())
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// As this user: `user` or `user:password`.
    pub fn url_as(&self, credentials: &str) -> String {
        format!("redis://{credentials}@127.0.0.1:{}", self.port)
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What it wrote to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// SIGKILL: as a crash, nothing is saved.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts again on the same port and with the same files, and returns when it answers.
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.launch(), "redis-server does not start again: {}", self.log());
    }

    /// SIGSTOP: connections stay, nothing is answered.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    /// One command, as `redis-cli` prints its answer.
    pub fn cli(&self, command: &[&str]) -> String {
        cli(self.port, command)
    }

    /// See [`has_all_reports`].
    pub fn has_all_reports(&self) {
        has_all_reports(self.port);
    }

    /// Starts again with these arguments besides, and does not wait until it answers.
    pub fn spawn(&mut self, arguments: &[&str]) {
        self.kill();
        let mut command = Command::new("redis-server");
        command
            .args(&self.configuration)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--logfile", "log"])
            .args(["--enable-debug-command", "yes", "--repl-diskless-sync-delay", "0"])
            .arg("--dir")
            .arg(self.directory.path())
            .args(&self.arguments)
            .args(arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.process = Some(Process::start(&mut command));
    }

    /// Starts the process; `false` if it ends instead of answering.
    fn launch(&mut self) -> bool {
        self.spawn(&[]);
        let process = self.process.as_mut().expect("just spawned");
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if process.server.try_wait().expect("asks").is_some() {
                return false;
            }
            // A server with users answers that it wants one, which is an answer too.
            let answer = cli(self.port, &["ping"]);
            if answer == "PONG" || answer.starts_with("NOAUTH") || answer.starts_with("NOPERM") {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    fn signal(&self, signal: &str) {
        let id = self.process.as_ref().expect("runs").server.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().expect("kill is there");
        assert!(sent.success(), "{signal}");
    }
}

/// A port that nothing listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// As after the minute for which a new server gives no receipts: whoever made it knows that no sidecar serves that has never
/// reported to it. It lasts for as long as sidecars report, and fifteen seconds.
pub fn has_all_reports(port: u16) {
    const BEGIN: &str = "local info = redis.call('INFO') \
         local function value(key) return string.match(info, key .. ':(%w+)') end \
         local tenure = value('master_replid') .. ' ' .. value('evicted_keys') .. ' 0' \
         return redis.call('SET', KEYS[1], tenure, 'PX', 15000)";
    assert_eq!(cli(port, &["EVAL", BEGIN, "1", "{tollgate}:tenure"]), "OK");
}

/// One command to whatever listens on the port, as `redis-cli` prints its answer.
pub fn cli(port: u16, command: &[impl AsRef<OsStr>]) -> String {
    let port = port.to_string();
    let output = Command::new("redis-cli").args(["-p", &port]).args(command).output().expect("redis-cli is there");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
