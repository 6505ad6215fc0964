//! Processes that end with this one, however it ends.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};

/// Ends all processes that are known to it when this process is gone: also by SIGKILL, which no destructor sees.
///
/// It is a shell that reads from a pipe whose other end is held here: `+ PID` for one that runs, `- PID` for one that is
/// about to be ended, or has.
pub(crate) struct Reaper {
    shell: Child,
    pipe: Option<Mutex<ChildStdin>>,
}

/// Signals to the whole process group must not end it before the others.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
pids=" "
while read -r sign pid; do
    case $sign in
        +) pids="$pids$pid " ;;
        -) pids="${pids%% "$pid" *} ${pids#* "$pid" }" ;;
    esac
done
for pid in $pids; do kill -9 "$pid"; done
"#;

impl Reaper {
    pub(crate) fn start() -> Result<Self, String> {
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("starting a shell: {error}"))?;
        let pipe = shell.stdin.take().map(Mutex::new);
        Ok(Self { shell, pipe })
    }

    fn send(&self, sign: char, pid: u32) {
        let Some(pipe) = &self.pipe else { return };
        let mut pipe = pipe.lock().expect("no panic");
        // Without the shell everything still ends with its owner.
        writeln!(pipe, "{sign} {pid}").unwrap_or_default();
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.pipe = None;
        self.shell.wait().map(drop).unwrap_or_default();
    }
}

/// A process that writes to a file. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    reaper: Arc<Reaper>,
}

impl Process {
    /// Starts it; what it says is added to the file.
    pub(crate) fn start(mut command: Command, log: &Path, reaper: &Arc<Reaper>) -> Result<Self, String> {
        let failed = |error| format!("starting {}: {error}", command.get_program().to_string_lossy());
        let file = OpenOptions::new().create(true).append(true).open(log).map_err(failed)?;
        let errors = file.try_clone().map_err(failed)?;
        let child = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
        let child = child.map_err(|error| format!("starting {}: {error}", command.get_program().to_string_lossy()))?;
        reaper.send('+', child.id());
        Ok(Self { child, log: log.to_owned(), reaper: Arc::clone(reaper) })
    }

    /// All that it has said.
    pub(crate) fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// How it has ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // It may have ended, which is noticed elsewhere.
        kill_process(Pid::from_child(&self.child), signal).unwrap_or_default();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // First, or the id that it knows could be another process's by the time it acts.
        self.reaper.send('-', self.child.id());
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}
