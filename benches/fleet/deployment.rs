//! One Redis, one upstream, and sidecars, all of them processes that end with what holds them.

use std::fmt::Display;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tollgate::registry::{Actor, ImportOptions, Registry};
use tollgate::store::{self, Absent, Settings, Store, StoreUrl};
use tollgate::token::{Digest, RawToken};
use tollgate_harness::oracle::agent_line;
use tollgate_harness::redis;

/// A child that does not outlive us.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// User and system time so far.
    pub(crate) fn cpu(&self) -> Duration {
        cpu_of(self.0.id())
    }

    /// SIGKILL.
    fn end(&mut self) {
        // Gone already is as good.
        self.0.kill().unwrap_or_default();
        self.0.wait().map(drop).unwrap_or_default();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// User and system time of a process so far, in the kernel's ticks of 10 ms.
pub(crate) fn cpu_of(process: impl Display) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    let ticks = fields.split_ascii_whitespace().skip(11).take(2);
    Duration::from_millis(10 * ticks.map(|ticks| ticks.parse::<u64>().expect("a number")).sum::<u64>())
}

/// Everything but the sidecars.
pub(crate) struct Deployment {
    pub(crate) redis: Process,
    pub(crate) redis_port: u16,
    pub(crate) upstream: SocketAddr,
    pub(crate) directory: TempDir,
    pub(crate) registry: Registry,
    pub(crate) store: Arc<dyn Store>,
}

impl Deployment {
    /// An initialised registry in a Redis of its own, with appendonly on, as `deploy/redis` has it.
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// The same, with more arguments for `redis-server`.
    pub(crate) async fn with(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let redis_port = redis::free_port();
        let redis = redis_server(directory.path(), redis_port, &[&["--appendonly", "yes"], arguments].concat()).await;
        let registry = registry(&format!("redis://127.0.0.1:{redis_port}")).await;
        let store = Arc::clone(registry.store());
        registry.init(&operator(), "olga").await.expect("initialises");
        Self { redis, redis_port, upstream: upstream().await, directory, registry, store }
    }

    /// SIGKILL; what `meanwhile` does to its files; and a new start with these arguments. Returns when Redis answers again.
    pub(crate) async fn restart_redis(&mut self, meanwhile: impl FnOnce(&Path), arguments: &[&str]) {
        self.redis.end();
        meanwhile(self.directory.path());
        self.redis = redis_server(self.directory.path(), self.redis_port, arguments).await;
    }

    pub(crate) fn store_url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.redis_port)
    }

    /// A `tollgate` command on this deployment's store.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command.env_clear().env("HOME", self.directory.path()).args(["--store", &self.store_url()]).args(arguments);
        command
    }

    /// Starts sidecars, and waits until all are ready.
    pub(crate) fn sidecars(&self, count: usize) -> Vec<Sidecar> {
        let mut sidecars: Vec<_> = (0..count).map(|_| Sidecar::spawn(self, &[])).collect();
        sidecars.iter_mut().for_each(Sidecar::wait_until_ready);
        sidecars
    }

    /// Imports tokens with `tollgate token import` and says how long that took.
    pub(crate) fn import(&self, digests: impl Iterator<Item = Digest>) -> Duration {
        let path: PathBuf = self.directory.path().join("import.jsonl");
        let mut file = std::io::BufWriter::new(std::fs::File::create(&path).expect("a file"));
        for digest in digests {
            let line = format!(
                r#"{{"digest":"{digest}","user":"olga","description":"agent","permissions":["configs:read","heartbeat:write"]}}"#
            );
            writeln!(file, "{line}").expect("writes");
        }
        drop(file);
        let began = Instant::now();
        let done = self.command(&["token", "import", &path.to_string_lossy()]).stdout(Stdio::null()).status();
        assert!(done.expect("runs").success(), "the import failed");
        began.elapsed()
    }

    /// Imports one token, in this process.
    pub(crate) async fn import_here(&self, token: &RawToken) {
        let line = agent_line(token.digest(), "olga");
        self.registry.import(&operator(), vec![(1, line)], ImportOptions::default()).await.expect("imports");
    }

    /// The longest command in Redis's slow log.
    pub(crate) fn longest_command(&self) -> Duration {
        let log = self.redis(&["--json", "SLOWLOG", "GET", "-1"]);
        let log: Vec<(u64, u64, u64, serde_json::Value, serde_json::Value, serde_json::Value)> =
            serde_json::from_str(&log).unwrap_or_else(|error| panic!("{error}: {log:.300}"));
        Duration::from_micros(log.iter().map(|entry| entry.2).max().unwrap_or(0))
    }

    /// Commands that Redis has processed since its start.
    pub(crate) fn redis_commands(&self) -> u64 {
        self.info("total_commands_processed")
    }

    /// A number that Redis says of itself.
    pub(crate) fn info(&self, name: &str) -> u64 {
        let text = self.redis(&["INFO", "everything"]);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_else(|| panic!("no {name} in INFO")).trim().parse().expect("a number")
    }

    /// What redis-cli prints.
    pub(crate) fn redis(&self, arguments: &[&str]) -> String {
        redis::cli(self.redis_port, arguments)
    }
}

/// `tollgate serve`.
pub(crate) struct Sidecar {
    pub(crate) process: Process,
    log: Option<std::io::Lines<BufReader<std::process::ChildStderr>>>,
    address: Option<SocketAddr>,
    started: Instant,
}

impl Sidecar {
    pub(crate) fn spawn(deployment: &Deployment, variables: &[(&str, &Path)]) -> Self {
        let upstream = format!("http://{}", deployment.upstream);
        let mut command = deployment.command(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command.args(["--api-upstream", &upstream, "--heartbeat-upstream", &upstream]);
        command.env("TOLLGATE_WORKERS", "1").env("TOLLGATE_LOG__FORMAT", "json").envs(variables.iter().copied());
        let started = Instant::now();
        let mut child = command.stderr(Stdio::piped()).spawn().expect("tollgate starts");
        let log = child.stderr.take().map(|stderr| BufReader::new(stderr).lines());
        Self { process: Process(child), log, address: None, started }
    }

    /// Reads the log until it says `ready`.
    pub(crate) fn wait_until_ready(&mut self) {
        let mut log = self.log.take().expect("once");
        loop {
            let line = log.next().expect("it goes on").expect("reads");
            let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
            match entry["fields"]["message"].as_str() {
                Some("listening") => {
                    self.address = entry["fields"]["address"].as_str().and_then(|text| text.parse().ok());
                }
                Some("ready") => break,
                _ => {}
            }
        }
        // Reads on, so that it never waits for its log.
        std::thread::spawn(move || log.for_each(drop));
    }

    /// As [`Sidecar::wait_until_ready`]; the time since its start.
    pub(crate) fn time_to_ready(&mut self) -> Duration {
        self.wait_until_ready();
        self.started.elapsed()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address.expect("it is ready")
    }

    /// The proportional set size of the process, in MiB.
    pub(crate) fn memory(&self) -> f64 {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.process.0.id())).expect("reads");
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).expect("in smaps_rollup");
        let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kibibytes / 1024.0
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.process.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
        self.process.0.wait().expect("it ends");
    }
}

/// The registry in this store, made if it is not there.
pub(crate) async fn registry(url: &str) -> Registry {
    let url: StoreUrl = url.parse().expect("a URL");
    Registry::new(store::open(&Settings::from(url), Absent::Create).await.expect("opens"))
}

/// Answers every request with 200 and nothing more.
async fn upstream() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                // Requests here are small and come one at a time, so that each arrives whole.
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    let mut end = read;
                    while !buffer[..end].ends_with(b"{}") {
                        match stream.read(&mut buffer[end..]).await {
                            Ok(more @ 1..) => end += more,
                            _ => return,
                        }
                    }
                    if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Tokens that are known here only.
pub(crate) fn tokens(count: usize) -> Vec<RawToken> {
    (0..count).map(|_| RawToken::generate().expect("entropy")).collect()
}

/// A digest that no token is known for.
pub(crate) fn filler(number: usize) -> Digest {
    Digest::of(&number.to_le_bytes())
}

pub(crate) fn operator() -> Actor {
    Actor::Operator("cli:bench".to_owned())
}

/// Starts `redis-server`, and waits until it has read its files and answers.
async fn redis_server(directory: &Path, port: u16, arguments: &[&str]) -> Process {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--maxclients", "10000"]);
    command.args(arguments).arg("--dir").arg(directory).stdout(Stdio::null());
    let redis = Process(command.spawn().expect("redis-server starts (Debian: apt-get install redis-server)"));
    let give_up = Instant::now() + Duration::from_secs(30);
    while redis::cli(port, &["PING"]) != "PONG" {
        assert!(Instant::now() < give_up, "redis-server does not answer");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    redis
}
