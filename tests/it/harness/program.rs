//! The real program, as an operator runs it.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;

use super::{Upstream, within};

/// `tollgate serve`; killed when dropped.
pub(crate) struct Program {
    child: Child,
    listener: SocketAddr,
    admin: SocketAddr,
    starting: Vec<String>,
    log: Arc<Mutex<Vec<String>>>,
    /// The Owner's token.
    pub(crate) token: String,
    /// With the store in it.
    directory: Arc<TempDir>,
}

impl Program {
    /// Starts it with a store of its own before these upstreams, with these `TOLLGATE_` variables, and waits until it says
    /// that it is ready.
    pub(crate) fn start(api: &Upstream, heartbeat: &Upstream, variables: &[(&str, &str)]) -> Self {
        Self::start_at(&url(api), &url(heartbeat), variables)
    }

    /// As [`Program::start`], before upstreams with these URLs.
    pub(crate) fn start_at(api: &str, heartbeat: &str, variables: &[(&str, &str)]) -> Self {
        let (token, directory) = initialised();
        Self::serve(&[], api, heartbeat, variables, token, directory)
    }

    /// As [`Program::start`], with a limit of open files.
    pub(crate) fn start_limited(files: u64, api: &Upstream, heartbeat: &Upstream, variables: &[(&str, &str)]) -> Self {
        let (token, directory) = initialised();
        let limit = ["sh", "-c", r#"ulimit -n "$0" && exec "$@""#, &files.to_string()];
        Self::serve(&limit, &url(api), &url(heartbeat), variables, token, directory)
    }

    /// Starts another one with the same store.
    pub(crate) fn beside(&self, api: &Upstream, heartbeat: &Upstream, variables: &[(&str, &str)]) -> Self {
        Self::serve(&[], &url(api), &url(heartbeat), variables, self.token.clone(), Arc::clone(&self.directory))
    }

    /// Prepares `tollgate` with its store.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        command(&self.directory, arguments)
    }

    /// Runs `tollgate` with its store, to the end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().expect("runs")
    }

    /// `wrapper` is a command that runs the one which follows it, in its own place.
    fn serve(
        wrapper: &[&str],
        api: &str,
        heartbeat: &str,
        variables: &[(&str, &str)],
        token: String,
        directory: Arc<TempDir>,
    ) -> Self {
        let serve = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
        let mut command = wrapped(wrapper, &directory, &serve);
        command.args(["--api-upstream", api, "--heartbeat-upstream", heartbeat]);
        command.env("TOLLGATE_LOG__FORMAT", "json").env("TOLLGATE_WORKERS", "1").stderr(Stdio::piped());
        for (name, value) in variables {
            command.env(format!("TOLLGATE_{name}"), value);
        }
        let mut child = command.spawn().expect("starts");
        let mut log = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let (mut listener, mut admin, mut said) = (None, None, Vec::new());
        loop {
            let line = log.next().expect("it goes on").expect("reads");
            let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
            let fields = &entry["fields"];
            let address = |key: &str| fields[key].as_str().map(|text| text.parse().expect("an address"));
            said.push(line);
            match fields["message"].as_str() {
                Some("listening") => listener = address("address"),
                Some("started") => admin = address("admin"),
                Some("ready") => break,
                _ => {}
            }
        }
        // Reads on, so that it never waits for its log.
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&lines);
        std::thread::spawn(move || {
            log.map_while(Result::ok).for_each(|line| kept.lock().expect("no panic").push(line))
        });
        let (listener, admin) = listener.zip(admin).expect("said where it listens");
        Self { child, listener, admin, starting: said, log: lines, token, directory }
    }

    /// The file of its store.
    pub(crate) fn database(&self) -> std::path::PathBuf {
        self.directory.path().join("tollgate.db")
    }

    /// What it logged until it was ready.
    pub(crate) fn starting_log(&self) -> Vec<String> {
        self.starting.clone()
    }

    /// What it has logged since it was ready.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().expect("no panic").clone()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where agents connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listener
    }

    /// Where health and metrics are.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Sends a signal by its name without `SIG`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("runs").success());
        if name == "STOP" {
            self.stands_still();
        }
    }

    /// Waits until it does: one thread takes the signal, as soon as it gets a processor, and the others go on until then.
    fn stands_still(&self) {
        let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.expect("a thread").path().join("stat")).expect("runs");
            stat.rsplit(") ").next().is_some_and(|state| state.starts_with('T'))
        };
        let deadline = std::time::Instant::now() + super::PATIENCE;
        while !std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("runs").all(is_stopped) {
            assert!(std::time::Instant::now() < deadline, "it does not stop");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
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

fn url(upstream: &Upstream) -> String {
    format!("http://{}", upstream.address())
}

/// A store of its own with an Owner, whose token comes first.
fn initialised() -> (String, Arc<TempDir>) {
    let directory = Arc::new(tempfile::tempdir().expect("a directory"));
    let created = command(&directory, &["init"]).output().expect("runs");
    (String::from_utf8(created.stdout).expect("text").trim().to_owned(), directory)
}

fn command(directory: &TempDir, arguments: &[&str]) -> Command {
    wrapped(&[], directory, arguments)
}

fn wrapped(wrapper: &[&str], directory: &TempDir, arguments: &[&str]) -> Command {
    let program = [wrapper, &[env!("CARGO_BIN_EXE_tollgate")]].concat();
    let mut command = Command::new(program[0]);
    command.args(&program[1..]);
    let store = format!("sqlite:{}", directory.path().join("tollgate.db").display());
    command.env_clear().env("HOME", directory.path()).env("LOGNAME", "tester");
    command.args(["--store", &store]).args(arguments);
    command
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
