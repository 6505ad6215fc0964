//! Lines on their way out of the store: appended to a file, handed to a syslog daemon.
//!
//! What was written is known from the file itself, whose last line has its number and hash, and of syslog from the store. So
//! nothing is written to a file twice, whoever does it, and what could not be written is written by the next one that can.
//! Syslog may get a line again.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::spawn_blocking;

use super::Settings;
use super::chain::{Head, Members, TrailText};
use crate::store::{AuditLine, Store, StoreError};

/// Lines written at once.
const PAGE: usize = 200;

/// Longest line that is looked for at the end of a file: an entry names 500 tokens at most.
const LONGEST: u64 = 64 << 10;

/// How long a syslog daemon may take for a line.
const SYSLOG_TIMEOUT: Duration = Duration::from_secs(1);

/// Facility 13 (log audit), severity 6 (informational): RFC 5424 6.2.1.
const PRIORITY: u32 = 13 * 8 + 6;

/// What was written, and what was not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// Lines that were written now, to all places together.
    pub written: u64,
    /// Lines that could not be written, of the place that lacks most.
    pub waiting: u64,
    /// Why, for people.
    pub problems: Vec<String>,
}

/// Why lines are not written.
#[derive(Debug, thiserror::Error)]
enum ForwardError {
    #[error("{operation} {}: {source}", place.display())]
    Io { operation: &'static str, place: PathBuf, source: io::Error },
    #[error("{} is no audit trail: its last line is none of one. Name another file (audit.file)", .0.display())]
    Foreign(PathBuf),
    #[error(
        "{} ends with entry {seq}, and the store has no such entry: its audit trail was cut off, or is that of a backup. \
         `tollgate audit verify` says more; move the file away to begin another one",
        place.display()
    )]
    OtherTrail { place: PathBuf, seq: u64 },
    #[error("writing the audit trail was broken off")]
    Stopped(#[from] tokio::task::JoinError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Writes what is chained and was not written yet to each place that the settings name.
///
/// # Errors
/// When the store fails. That a place takes nothing is told in what is returned.
pub async fn forward(store: &dyn Store, settings: &Settings) -> Result<Forwarded, StoreError> {
    let mut forwarded = Forwarded::default();
    if settings.file.is_none() && settings.syslog.is_none() {
        return Ok(forwarded);
    }
    let head = store.trail_before(None, 1).await?.first().map_or(0, |line| line.seq);
    if let Some(path) = &settings.file {
        let place = place("file", path);
        let outcome = to_file(store, &place, path, &mut forwarded.written).await;
        forwarded.note(store, &place, head, outcome).await?;
    }
    if let Some(path) = &settings.syslog {
        let place = place("syslog", path);
        let outcome = to_syslog(store, &place, path, &mut forwarded.written).await;
        forwarded.note(store, &place, head, outcome).await?;
    }
    Ok(forwarded)
}

/// What the store knows a place by: a path means one on each host.
fn place(kind: &str, path: &Path) -> String {
    let host = rustix::system::uname();
    format!("{kind}:{}:{}", host.nodename().to_string_lossy(), path.display())
}

impl Forwarded {
    async fn note(
        &mut self,
        store: &dyn Store,
        place: &str,
        head: u64,
        outcome: Result<(), ForwardError>,
    ) -> Result<(), StoreError> {
        let problem = match outcome {
            Ok(()) => return Ok(()),
            Err(ForwardError::Store(error)) => return Err(error),
            Err(problem) => problem.to_string(),
        };
        let written = store.written_to(place).await?.unwrap_or(0);
        self.waiting = self.waiting.max(head.saturating_sub(written));
        self.problems.push(problem);
        Ok(())
    }
}

async fn to_file(store: &dyn Store, place: &str, path: &Path, written: &mut u64) -> Result<(), ForwardError> {
    let known = store.written_to(place).await?.unwrap_or(0);
    let opening = path.to_owned();
    let mut trail = spawn_blocking(move || TrailFile::open(opening)).await??;
    let mut after = match trail.last.take() {
        Some(last) => {
            let here = store.trail_after(last.seq - 1, 1).await?;
            match here.first() {
                Some(line) if Head::of(line) == last => last.seq,
                // Retention may have removed it before it was ever asked for again.
                Some(line) if line.seq > last.seq => last.seq,
                _ => return Err(ForwardError::OtherTrail { place: path.to_owned(), seq: last.seq }),
            }
        }
        // A file that was moved away goes on where it ended; with a store that has less, all is written.
        None => match store.trail_after(known.saturating_sub(1), 1).await?.first() {
            Some(line) if line.seq <= known.max(1) => known,
            _ => 0,
        },
    };
    loop {
        let lines = store.trail_after(after, PAGE).await?;
        let Some(last) = lines.last().map(|line| line.seq) else { break };
        *written += lines.len() as u64;
        trail = spawn_blocking(move || trail.append(&lines)).await??;
        after = last;
    }
    if after != known {
        store.set_written_to(place, after).await?;
    }
    Ok(())
}

/// A file that is locked for as long as it is open: of two that write, one waits.
#[derive(Debug)]
struct TrailFile {
    file: File,
    path: PathBuf,
    /// Its last line's, when it was opened.
    last: Option<Head>,
}

impl TrailFile {
    /// Opens it, and makes it, readable to this user only, where there is none. What was written of a line and not ended is
    /// taken off.
    fn open(path: PathBuf) -> Result<Self, ForwardError> {
        let failed = |operation, source| ForwardError::Io { operation, place: path.clone(), source };
        let opened = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path);
        let mut file = opened.map_err(|error| failed("opening", error))?;
        file.lock().map_err(|error| failed("locking", error))?;
        let length = file.metadata().map_err(|error| failed("reading", error))?.len();
        let from = length.saturating_sub(LONGEST);
        let mut tail = Vec::new();
        file.seek(SeekFrom::Start(from))
            .and_then(|_| io::Read::by_ref(&mut file).take(LONGEST).read_to_end(&mut tail))
            .map_err(|error| failed("reading", error))?;
        let whole = memchr::memrchr(b'\n', &tail).map_or(0, |end| end + 1);
        if whole == 0 && !tail.is_empty() && !(from == 0 && tail.starts_with(b"{\"seq\":")) {
            return Err(ForwardError::Foreign(path));
        }
        if whole < tail.len() {
            file.set_len(from + whole as u64).map_err(|error| failed("writing", error))?;
        }
        tail.truncate(whole.saturating_sub(1));
        let begin = memchr::memrchr(b'\n', &tail).map_or(0, |end| end + 1);
        let last = match &tail[begin..] {
            [] if length == 0 || whole == 0 => None,
            text => Some(read_head(text).ok_or_else(|| ForwardError::Foreign(path.clone()))?),
        };
        Ok(Self { file, path, last })
    }

    fn append(mut self, lines: &[AuditLine]) -> Result<Self, ForwardError> {
        let mut text = Vec::with_capacity(lines.iter().map(|line| line.text.len() + 1).sum());
        for line in lines {
            // What somebody else wrote into the store begins no line of its own.
            text.extend(line.text.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }));
            text.push(b'\n');
        }
        let appended = self.file.write_all(&text).and_then(|()| self.file.sync_data());
        match appended {
            Ok(()) => Ok(self),
            Err(source) => Err(ForwardError::Io { operation: "writing", place: self.path, source }),
        }
    }
}

fn read_head(text: &[u8]) -> Option<Head> {
    let line = TrailText(text).line()?;
    Members::of(&line).map(|members| Head { seq: line.seq, hash: members.hash.to_owned() })
}

async fn to_syslog(store: &dyn Store, place: &str, path: &Path, written: &mut u64) -> Result<(), ForwardError> {
    let known = store.written_to(place).await?.unwrap_or(0);
    let head = store.trail_before(None, 1).await?.first().map_or(0, |line| line.seq);
    // Of a store that has less than was sent, everything is sent.
    let mut after = if known > head { 0 } else { known };
    loop {
        let lines = store.trail_after(after, PAGE).await?;
        let Some(last) = lines.last().map(|line| line.seq) else { return Ok(()) };
        let (count, socket) = (lines.len() as u64, path.to_owned());
        spawn_blocking(move || send(&socket, &lines)).await??;
        store.set_written_to(place, last).await?;
        (*written, after) = (*written + count, last);
    }
}

/// In the form that daemons read on their local socket: priority, time, program (RFC 3164, without the host).
fn send(path: &Path, lines: &[AuditLine]) -> Result<(), ForwardError> {
    let failed = |operation, source| ForwardError::Io { operation, place: path.to_owned(), source };
    let socket = UnixDatagram::unbound().map_err(|error| failed("opening a socket for", error))?;
    socket.connect(path).map_err(|error| failed("connecting to", error))?;
    socket.set_write_timeout(Some(SYSLOG_TIMEOUT)).map_err(|error| failed("writing to", error))?;
    let time = Timestamp::now().strftime("%b %e %H:%M:%S").to_string();
    for line in lines {
        let begin = format!("<{PRIORITY}>{time} tollgate-audit[{}]: ", std::process::id());
        socket.send(&[begin.as_bytes(), &line.text].concat()).map_err(|error| failed("writing to", error))?;
    }
    Ok(())
}
