//! What lines are written to. None of them waits for long: the thread that writes has to notice when it shall end.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, FileType, OFlags, fstat};

/// Longest wait for room.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A pipe takes so much at once or nothing of it (`PIPE_BUF`): no line is torn, and where `poll` finds room there is as much.
const ATOMIC: usize = 4096;

/// Takes lines.
pub(crate) trait Output: Send + 'static {
    /// Writes some of these whole lines, from the beginning, and returns how many bytes. Waits for a moment at most.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room. Nothing was written then.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize>;

    /// Opens it anew, if it can be.
    ///
    /// # Errors
    /// When it cannot: it is what it was then.
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the process was given: standard output or standard error.
#[derive(Debug)]
pub(crate) struct Stream {
    descriptor: OwnedFd,
    is_file: bool,
}

impl Stream {
    /// A descriptor of its own for it.
    ///
    /// # Errors
    /// When there is none, or it is closed.
    pub(crate) fn new(stream: impl AsFd) -> io::Result<Self> {
        Self::of(stream.as_fd().try_clone_to_owned()?)
    }

    fn of(descriptor: OwnedFd) -> io::Result<Self> {
        let is_file = FileType::from_raw_mode(fstat(&descriptor)?.st_mode) == FileType::RegularFile;
        Ok(Self { descriptor, is_file })
    }
}

impl Output for Stream {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let mut lines = lines;
        if !self.is_file {
            wait_for_room(&self.descriptor)?;
            let piece = lines.get(..ATOMIC).unwrap_or(lines);
            let end = memchr::memrchr(b'\n', piece).map_or(piece.len(), |end| end + 1);
            lines = lines.get(..end).unwrap_or(piece);
        }
        Ok(rustix::io::write(&self.descriptor, lines)?)
    }
}

fn wait_for_room(descriptor: &impl AsFd) -> io::Result<()> {
    match poll(&mut [PollFd::new(descriptor, PollFlags::OUT)], Some(&LOOK))? {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    }
}

/// A file that is appended to, and may be moved away.
#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    stream: Stream,
}

impl File {
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        Ok(Self { stream: open(&path)?, path })
    }
}

fn open(path: &Path) -> io::Result<Stream> {
    Stream::of(options(path).create(true).mode(0o640).open(path)?.into())
}

fn options(path: &Path) -> OpenOptions {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = OpenOptions::new();
    options.append(true).custom_flags(flags.bits().cast_signed());
    // A named pipe may have no reader yet, or none any more: then it fills, and lines are lost until one comes.
    options.read(std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()));
    options
}

/// Whether [`File::open`] will do, as far as can be said without making the file: who checks may be somebody else.
///
/// # Errors
/// Why not.
pub(crate) fn try_file(path: &Path) -> io::Result<()> {
    match options(path).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().unwrap_or(Path::new("/"));
            Ok(rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK)?)
        }
        found => found.map(drop),
    }
}

impl Output for File {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.stream.write(lines)
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.stream = open(&self.path)?;
        Ok(())
    }
}

/// A Unix datagram socket that somebody reads: one line a datagram, without its line feed.
#[derive(Debug)]
pub(crate) struct Datagram {
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl Datagram {
    /// Whoever reads may come later.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, socket: None }
    }

    fn send(&mut self, line: &[u8]) -> io::Result<()> {
        if self.socket.is_none() {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            socket.connect(&self.path)?;
            self.socket = Some(socket);
        }
        let Some(socket) = &self.socket else { return Ok(()) };
        socket.send(line).or_else(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                wait_for_room(socket)?;
                socket.send(line)
            }
            _ => Err(error),
        })?;
        Ok(())
    }
}

impl Output for Datagram {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let end = memchr::memchr(b'\n', lines).unwrap_or(lines.len());
        let line = lines.get(..end).unwrap_or_default();
        match self.send(line) {
            Ok(()) => Ok((end + 1).min(lines.len())),
            Err(error) => {
                // It may be another one that listens there by now.
                if error.kind() != io::ErrorKind::WouldBlock {
                    self.socket = None;
                }
                Err(error)
            }
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.socket = None;
        Ok(())
    }
}
