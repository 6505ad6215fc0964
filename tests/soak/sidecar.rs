//! `tollgate serve`, as a process of its own that can be killed, stopped and started again.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::prober::Place;

/// How it is started.
#[derive(Debug, Clone)]
pub(crate) struct Command_ {
    pub(crate) store: String,
    pub(crate) upstream: SocketAddr,
    pub(crate) max_staleness: Duration,
    pub(crate) probe_interval: Duration,
    pub(crate) quorum: u32,
    pub(crate) snapshot: Option<PathBuf>,
}

/// A sidecar. Killed when dropped.
pub(crate) struct Sidecar {
    command: Command_,
    pub(crate) place: Place,
    child: Child,
    log: Arc<Mutex<Log>>,
}

/// What it said.
#[derive(Debug, Default)]
struct Log {
    /// Lines that must never be written.
    bad: Vec<String>,
    last: std::collections::VecDeque<String>,
}

/// What an error in the log may say: that the store is not usable, which it is not while it is flushed.
const EXPECTED_ERRORS: [&str; 1] = ["the store cannot be used"];

/// Lines kept of each log.
const LAST: usize = 30;
