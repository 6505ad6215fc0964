//! `tollgate serve`, as a process of its own that can be killed, stopped and started again.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use tollgate_harness::PATIENCE;
use tollgate_harness::prober::Place;

/// How it is started.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) store: String,
    pub(crate) upstream: SocketAddr,
    pub(crate) max_staleness: Duration,
    pub(crate) probe_interval: Duration,
    pub(crate) quorum: u32,
    pub(crate) snapshot: Option<PathBuf>,
}

/// A sidecar. Killed when dropped.
pub(crate) struct Sidecar {
    settings: Settings,
    pub(crate) place: Place,
    child: Child,
    log: Arc<Mutex<Log>>,
}

/// What it said.
#[derive(Debug, Default)]
struct Log {
    /// Errors that no fault of the store explains.
    bad: Vec<String>,
    last: VecDeque<String>,
}

/// Errors that are to be expected while Redis is broken.
const EXPECTED: [&str; 5] = [
    "the store cannot be used",
    "does not take recalls",
    "requests are refused: for too long",
    "there is no registry",
    "the registry is gone",
];

/// Lines kept of each log.
const LAST: usize = 40;

impl Sidecar {
    /// Starts it and waits until it listens.
    pub(crate) fn start(settings: Settings) -> Result<Self, String> {
        let log = Arc::default();
        let (child, address) = launch(&settings, &log)?;
        Ok(Self { settings, place: Place::of(address), child, log })
    }

    /// SIGKILL, and start again.
    pub(crate) fn restart(&mut self) -> Result<(), String> {
        self.kill();
        let (child, address) = launch(&self.settings, &self.log)?;
        self.child = child;
        self.place.moves_to(address);
        Ok(())
    }

    /// SIGTERM, and start again when it has ended.
    pub(crate) fn restart_gently(&mut self) -> Result<(), String> {
        self.signal(Signal::TERM);
        let status = self.child.wait().map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!("a sidecar ended with {status} after SIGTERM"));
        }
        self.restart()
    }

    /// It stays connected and does nothing.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Whether it runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Lines of its log that should not be there.
    pub(crate) fn bad_lines(&self) -> Vec<String> {
        self.log.lock().expect("no panic").bad.clone()
    }

    /// That it holds something else than the store is to be expected once the store has lost writes.
    pub(crate) fn forgive_differences(&self) {
        const DIFFERENCES: [&str; 2] = ["differs from the store", "has lost that this user was disabled"];
        let is_forgiven = |line: &String| DIFFERENCES.iter().any(|difference| line.contains(difference));
        self.log.lock().expect("no panic").bad.retain(|line| !is_forgiven(line));
    }

    /// The end of its log.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        self.log.lock().expect("no panic").last.iter().cloned().collect()
    }

    fn signal(&self, signal: Signal) {
        // It may have died, which is noticed elsewhere.
        kill_process(Pid::from_child(&self.child), signal).unwrap_or_default();
    }

    fn kill(&mut self) {
        // It may have ended already.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.kill();
    }
}

fn launch(settings: &Settings, log: &Arc<Mutex<Log>>) -> Result<(Child, SocketAddr), String> {
    let upstream = format!("http://{}", settings.upstream);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(["serve", "--store", &settings.store, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    command.args(["--api-upstream", &upstream, "--heartbeat-upstream", &upstream]);
    command.env_clear().env("HOME", "/nonexistent").env("LOGNAME", "soak");
    let millis = |time: Duration| format!("{}ms", time.as_millis());
    let mut set = |key: &str, value: String| _ = command.env(format!("TOLLGATE_{key}"), value);
    set("LOG__FORMAT", "json".to_owned());
    set("WORKERS", "1".to_owned());
    set("TIMEOUTS__DRAIN", "1s".to_owned());
    set("FRESHNESS__PROBE_INTERVAL", millis(settings.probe_interval));
    set("FRESHNESS__MAX_STALENESS", millis(settings.max_staleness));
    if settings.quorum > 0 {
        set("STORE__QUORUM_REPLICAS", settings.quorum.to_string());
    }
    if let Some(file) = &settings.snapshot {
        set("STORE__SNAPSHOT_FILE", file.display().to_string());
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("starting a sidecar: {error}"))?;
    let Some(lines) = child.stderr.take() else { return Err("a sidecar has no log".to_owned()) };
    let (listens, address) = mpsc::channel();
    let kept = Arc::clone(log);
    std::thread::spawn(move || read(lines, &kept, &listens));
    match address.recv_timeout(PATIENCE) {
        Ok(address) => Ok((child, address)),
        Err(_) => {
            child.kill().and_then(|()| child.wait()).map(drop).unwrap_or_default();
            let said = log.lock().expect("no panic").last.iter().cloned().collect::<Vec<_>>().join("\n");
            Err(format!("a sidecar does not start:\n{said}"))
        }
    }
}

/// Reads a log to its end, so that nobody ever waits for it.
fn read(lines: ChildStderr, log: &Mutex<Log>, listens: &mpsc::Sender<SocketAddr>) {
    for line in BufReader::new(lines).lines().map_while(Result::ok) {
        let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        let message = entry["fields"]["message"].as_str().unwrap_or_default();
        if message == "listening"
            && let Some(address) = entry["fields"]["address"].as_str().and_then(|text| text.parse().ok())
        {
            // Nobody listens any more once the address is known.
            listens.send(address).unwrap_or_default();
        }
        let is_bad = entry["level"] == "ERROR" || entry["level"].is_null();
        let mut log = log.lock().expect("no panic");
        if is_bad && !EXPECTED.iter().any(|expected| message.contains(expected)) {
            log.bad.push(line.clone());
        }
        if log.last.len() == LAST {
            log.last.pop_front();
        }
        log.last.push_back(line);
    }
}
