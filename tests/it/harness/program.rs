//! The real program, as an operator runs it.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::{Upstream, within};

/// `tollgate serve` with a store of its own; killed when dropped.
pub(crate) struct Program {
    child: Child,
    listener: SocketAddr,
    /// The Owner's token.
    pub(crate) token: String,
    _directory: TempDir,
}

impl Program {
    /// Starts it before these upstreams, with these `TOLLGATE_` variables, and waits until it says that it is ready.
    pub(crate) fn start(api: &Upstream, heartbeat: &Upstream, variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let program = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
            let store = format!("sqlite:{}", directory.path().join("tollgate.db").display());
            command.env_clear().env("HOME", directory.path()).env("LOGNAME", "tester");
            command.args(["--store", &store]).args(arguments);
            command
        };
        let created = program(&["init"]).output().expect("runs");
        let token = String::from_utf8(created.stdout).expect("text").trim().to_owned();
        let url = |upstream: &Upstream| format!("http://{}", upstream.address());
        let mut command = program(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command.args(["--api-upstream", &url(api), "--heartbeat-upstream", &url(heartbeat)]);
        command.env("TOLLGATE_LOG__FORMAT", "json").env("TOLLGATE_WORKERS", "1").stderr(Stdio::piped());
        for (name, value) in variables {
            command.env(format!("TOLLGATE_{name}"), value);
        }
        let mut child = command.spawn().expect("starts");
        let mut log = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let mut listener = None;
        loop {
            let line = log.next().expect("it goes on").expect("reads");
            let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
            match entry["fields"]["message"].as_str() {
                Some("listening") => {
                    listener = entry["fields"]["address"].as_str().map(|text| text.parse().expect("an address"));
                }
                Some("ready") => break,
                _ => {}
            }
        }
        // Reads on, so that it never waits for its log.
        std::thread::spawn(move || log.for_each(drop));
        Self { child, listener: listener.expect("said where it listens"), token, _directory: directory }
    }

    /// Where agents connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listener
    }

    /// Sends a signal by its name without `SIG`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("runs").success());
    }

    /// Bytes of memory that it holds.
    pub(crate) fn resident_bytes(&self) -> usize {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("has memory");
        line.trim().strip_suffix(" kB").and_then(|number| number.parse::<usize>().ok()).expect("a number") * 1024
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        let ended = async {
            loop {
                match self.child.try_wait().expect("waits") {
                    Some(status) => return status,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        within("the program's end", ended).await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
