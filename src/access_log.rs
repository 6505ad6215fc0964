//! The access log: one line for each request, or for one of so many; for every one that failed. Off by default.
//!
//! A worker writes the line into a buffer of its own and leaves it with [`Lines`]; it never waits for what the lines go to.

mod render;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use crate::lines::{self, Datagram, File, Lines, Output, Stream};
use crate::token::TokenId;
use crate::words::words;

/// Bytes of lines that may wait: some four thousand lines.
const CAPACITY: usize = 1 << 20;

/// How long lines are gathered before they are written.
const GATHER: Duration = Duration::from_millis(10);

/// How long the end waits for what the lines go to.
const FLUSH_TIME: Duration = Duration::from_millis(500);

/// What is logged of requests, where and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLogConfig {
    /// Where to.
    pub output: AccessLogOutput,
    /// Text or JSON.
    pub format: AccessLogFormat,
    /// Of so many requests that worked, one; 0: none.
    pub one_in: u32,
}

impl Default for AccessLogConfig {
    fn default() -> Self {
        Self { output: AccessLogOutput::Off, format: AccessLogFormat::Text, one_in: 1 }
    }
}

words! {
    /// The form of lines.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum AccessLogFormat ("formats") {
        /// `name=value`, in this order.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogOutput {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// This file; opened again when asked to.
    File(PathBuf),
    /// This Unix datagram socket.
    Datagram(PathBuf),
}

/// A text that is no output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write \"off\", \"stdout\", the path of a file from the root, or unix:PATH for a Unix datagram socket")]
pub struct InvalidOutput;

impl FromStr for AccessLogOutput {
    type Err = InvalidOutput;

    fn from_str(text: &str) -> Result<Self, InvalidOutput> {
        match (text, text.strip_prefix("unix:")) {
            ("off", _) => Ok(Self::Off),
            ("stdout", _) => Ok(Self::Stdout),
            (_, Some(path)) if path.starts_with('/') => Ok(Self::Datagram(path.into())),
            (path, None) if path.starts_with('/') => Ok(Self::File(path.into())),
            _ => Err(InvalidOutput),
        }
    }
}

impl fmt::Display for AccessLogOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Stdout => f.write_str("stdout"),
            Self::File(path) => path.display().fmt(f),
            Self::Datagram(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What is said of one request. Texts are escaped and cut when they are written.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    pub time: SystemTime,
    pub client: IpAddr,
    pub method: Option<&'a str>,
    pub path: Option<&'a str>,
    /// The pattern of the route.
    pub route: Option<&'a str>,
    /// 0: there was no whole reply.
    pub status: u16,
    /// `served`, or why not.
    pub outcome: &'a str,
    pub token: Option<TokenId>,
    pub user: Option<&'a str>,
    /// Of the reply's body, as the upstream sent it.
    pub bytes: u64,
    /// From the request's head to its being handed on, or refused.
    pub own: Duration,
    /// From there to the head of the reply.
    pub upstream: Option<Duration>,
    /// All of it.
    pub total: Duration,
    pub request_id: &'a str,
    /// Of the client's certificate.
    pub subject: Option<&'a str>,
    /// The trace that it belongs to.
    pub trace_id: Option<&'a str>,
}

/// The access log, as all workers share it.
#[derive(Debug)]
pub(crate) struct AccessLog {
    lines: Lines,
    format: AccessLogFormat,
    one_in: u32,
    is_file: bool,
}

impl AccessLog {
    /// Opens it; `None`: it is off. Lines that are lost are counted in `lost`.
    ///
    /// # Errors
    /// When its file cannot be opened.
    pub(crate) fn open(config: &AccessLogConfig, lost: &Arc<AtomicU64>) -> io::Result<Option<Arc<Self>>> {
        let start = |output: Box<dyn Output>| Lines::start("access log", output, CAPACITY, GATHER, Arc::clone(lost));
        let lines = match &config.output {
            AccessLogOutput::Off => return Ok(None),
            AccessLogOutput::Stdout => start(Box::new(Stream::new(io::stdout())?)),
            AccessLogOutput::File(path) => start(Box::new(File::open(path.clone())?)),
            AccessLogOutput::Datagram(path) => start(Box::new(Datagram::new(path.clone()))),
        };
        let is_file = matches!(config.output, AccessLogOutput::File(_));
        Ok(Some(Arc::new(Self { lines: lines?, format: config.format, one_in: config.one_in, is_file })))
    }

    /// Whether it can be opened, without opening it.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check(config: &AccessLogConfig) -> io::Result<()> {
        match &config.output {
            AccessLogOutput::File(path) => lines::try_file(path),
            AccessLogOutput::Off | AccessLogOutput::Stdout | AccessLogOutput::Datagram(_) => Ok(()),
        }
    }

    /// Whether this request has a line.
    pub(crate) fn takes(&self, has_failed: bool) -> bool {
        thread_local!(static COUNT: Cell<u64> = const { Cell::new(0) });
        match self.one_in {
            _ if has_failed => true,
            0 => false,
            1 => true,
            // Spread, so that what comes at regular intervals is not always, or never, the one.
            one_in => {
                let count = COUNT.replace(COUNT.get().wrapping_add(1));
                (count.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).is_multiple_of(u64::from(one_in))
            }
        }
    }

    /// Writes a line, or loses it.
    pub(crate) fn write(&self, line: &Line<'_>) {
        thread_local!(static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
        BUFFER.with_borrow_mut(|buffer| {
            buffer.clear();
            render::render(self.format, line, buffer);
            self.lines.push(buffer);
        });
    }

    /// Has the file opened again, since it was moved away. `false`: there is none.
    pub(crate) fn reopen(&self) -> bool {
        if self.is_file {
            self.lines.reopen();
        }
        self.is_file
    }

    /// Writes what is left, for a bounded time.
    pub(crate) fn finish(&self) {
        self.lines.finish(FLUSH_TIME);
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.lines.finish(Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_written_as_they_are_read() {
        for text in ["off", "stdout", "/var/log/tollgate/access.log", "unix:/run/log.sock"] {
            assert_eq!(text.parse::<AccessLogOutput>().expect(text).to_string(), text);
        }
        for text in ["", "on", "access.log", "unix:", "unix:log", "stderr"] {
            assert_eq!(text.parse::<AccessLogOutput>(), Err(InvalidOutput), "{text}");
        }
    }
}
