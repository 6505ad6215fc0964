//! A primary with replicas, watched by three Sentinels.

use std::cell::Cell;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{RedisServer, eventually};
use tollgate_harness::redis::{cli, free_port};

/// What the Sentinels call the primary.
pub(crate) const NAME: &str = "main";

/// Sentinels tell each other of themselves every two seconds.
const SECOND_LOOK: Duration = Duration::from_secs(4);

/// A primary, its replicas, and the Sentinels. All end when it is dropped.
pub(crate) struct SentinelSet {
    /// The first one is the primary at the beginning.
    pub(crate) servers: Vec<RedisServer>,
    pub(crate) sentinels: Vec<Sentinel>,
}

/// A Sentinel's process.
pub(crate) struct Sentinel {
    port: u16,
    process: Child,
    _directory: TempDir,
}

impl SentinelSet {
    /// Starts everything, and waits until the Sentinels know each other and the replicas.
    pub(crate) async fn start(replicas: usize) -> Self {
        Self::with(replicas, "").await
    }

    /// With these lines in the configuration of each Sentinel.
    pub(crate) async fn with(replicas: usize, lines: &str) -> Self {
        let primary = RedisServer::start();
        let port = primary.port().to_string();
        let replica =
            |_| RedisServer::with(&["--save", "", "--appendonly", "no", "--replicaof", "127.0.0.1", port.as_str()]);
        let servers: Vec<_> = std::iter::once(primary).chain((0..replicas).map(replica)).collect();
        // Before the Sentinels: they ask a primary for its replicas when they meet it, and then every ten seconds only.
        for replica in &servers[1..] {
            eventually("a replica is in step", || async {
                replica.cli(&["INFO", "replication"]).contains("master_link_status:up")
            })
            .await;
        }
        let sentinels = (0..3).map(|_| Sentinel::start("127.0.0.1", servers[0].port(), lines)).collect();
        let set = Self { servers, sentinels };
        for sentinel in &set.sentinels {
            let asked = Cell::new(Instant::now());
            eventually("a Sentinel knows the others and the replicas", || async {
                // One that was starved when it met the primary would ask again only when our patience is over.
                if asked.get().elapsed() > SECOND_LOOK {
                    sentinel.cli(&["SENTINEL", "RESET", NAME]);
                    asked.set(Instant::now());
                }
                let state = sentinel.cli(&["SENTINEL", "MASTER", NAME]);
                let state: Vec<_> = state.lines().collect();
                let is = |name: &str, value: usize| {
                    state.windows(2).any(|pair| pair[0] == name && pair[1] == value.to_string())
                };
                is("num-other-sentinels", 2) && is("num-slaves", replicas)
            })
            .await;
        }
        set
    }

    /// The URL of a store: the Sentinels' addresses, and the primary's name.
    pub(crate) fn url(&self) -> String {
        let addresses: Vec<_> = self.sentinels.iter().map(|sentinel| sentinel.address().to_string()).collect();
        format!("redis-sentinel://{}/{NAME}", addresses.join(","))
    }

    /// Which server is the primary, as the first Sentinel sees it.
    pub(crate) fn primary(&self) -> usize {
        let answer = self.sentinels[0].cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]);
        let port = answer.lines().nth(1).and_then(|port| port.parse().ok());
        self.servers.iter().position(|server| Some(server.port()) == port).expect("one of ours")
    }

    /// Has the Sentinels make another server the primary, and waits until it is one. The old one goes on as if nothing had
    /// happened for some 8 seconds more, until the Sentinels make it a replica: what it takes in between is lost.
    pub(crate) async fn fail_over(&self) -> usize {
        let before = self.primary();
        assert_eq!(self.sentinels[0].cli(&["SENTINEL", "FAILOVER", NAME]), "OK");
        self.primary_is_not(before).await
    }

    /// Waits until another server than this is the primary: which.
    pub(crate) async fn primary_is_not(&self, before: usize) -> usize {
        eventually("another server is the primary", || async {
            let primary = self.primary();
            primary != before && self.servers[primary].cli(&["ROLE"]).starts_with("master")
        })
        .await;
        self.primary()
    }
}

impl Sentinel {
    /// Watches this server, with these lines in its configuration.
    pub(crate) fn start(host: &str, primary: u16, lines: &str) -> Self {
        Self::configured(|port| {
            format!(
                "port {port}\nbind 127.0.0.1\nlogfile log\n{lines}\nsentinel monitor {NAME} {host} {primary} 2\n\
                 sentinel down-after-milliseconds {NAME} 500\nsentinel failover-timeout {NAME} 3000\n"
            )
        })
    }

    /// With a configuration in which it listens at the port that it is given.
    pub(crate) fn configured(configuration: impl FnOnce(u16) -> String) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (port, file) = (free_port(), directory.path().join("sentinel.conf"));
        std::fs::write(&file, configuration(port)).expect("writes");
        let process = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed: tests/run.sh does it");
        Self { port, process, _directory: directory }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub(crate) fn cli(&self, command: &[&str]) -> String {
        cli(self.port, command)
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.kill();
    }
}
