//! The backup file: a first line that says what it is, an item a line, a line with the position and counts, and a checksum of
//! all of that.
//!
//! It is written beside its place, under a name that nobody else's file has, and renamed, so that a name never stands for half a
//! backup; and read to its end before anything is done with it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read as _, Seek as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::item::Item;
use super::tally::{Summary, Tally, hex};
use super::{AHEAD, CopyError, Whole, joined};
use crate::hex::Hex;
use crate::random;
use crate::store::{Epoch, Head, Position, Revision, Store};

/// The version of the format. It grows with every change that an older program could not read.
const FORMAT: u32 = 2;

/// The oldest that is read: it has nothing of usage and of the audit trail.
const OLDEST_FORMAT: u32 = 1;

/// Longest line: a token with a history of thousands of entries.
const LONGEST: u64 = 256 << 20;

/// Lines handed over at once.
const PIECE: usize = 500;

/// Why a backup was not written, or is none.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file cannot be written or read.
    #[error("{operation} {}", file.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of that name is there.
    #[error("{} exists already: name another file, or move it away", .0.display())]
    Exists(PathBuf),
    /// It is something else.
    #[error("{} is not a backup of a Tollgate registry: name a file that `tollgate store backup` wrote", .0.display())]
    Foreign(PathBuf),
    /// It was written by a newer program.
    #[error("{} has the backup format {format}, this program knows {FORMAT}: restore it with the program that made it, or a newer one", file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// What its first line says.
        format: u32,
    },
    /// It was cut off, or changed.
    #[error("{} is damaged at line {line}: {problem}. Nothing was restored; take another backup", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        problem: String,
    },
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct First {
    tollgate_backup: u32,
    /// The program that wrote it.
    version: String,
    /// What it is of.
    store: String,
    at: jiff::Timestamp,
}

/// The line after the items but for its name, `end`.
#[derive(Debug, Serialize, Deserialize)]
struct Last {
    #[serde(with = "hex")]
    epoch: u64,
    revision: Revision,
    head: Head,
    #[serde(flatten)]
    summary: Summary,
}

#[derive(Debug, Serialize, Deserialize)]
struct End {
    end: Last,
}

/// Writes everything that a store holds into a new file.
///
/// # Errors
/// [`CopyError`]; there is no file of that name then.
pub async fn write_backup(from: &dyn Store, file: &Path) -> Result<Whole, CopyError> {
    if file.symlink_metadata().is_ok() {
        return Err(BackupError::Exists(file.to_owned()).into());
    }
    let mut writer = Writer::begin(file)?;
    let first = First {
        tollgate_backup: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        store: from.describe(),
        at: jiff::Timestamp::now(),
    };
    writer.line(&first)?;
    let (items, mut received) = mpsc::channel(AHEAD);
    let lines = &mut writer;
    // It owns its end: where it fails, the source is not left waiting for room.
    let write = async move {
        let mut tally = Tally::default();
        while let Some(items) = received.recv().await {
            tally.take(items).iter().try_for_each(|item| lines.line(item))?;
        }
        Ok::<_, BackupError>(tally.summary())
    };
    let whole = joined(from, from.dump(items), write).await?;
    writer.end(&whole)?;
    Ok(whole)
}

/// The last line, after what was hashed.
fn checksum(hash: &Sha256) -> Vec<u8> {
    format!("{{\"sha256\":\"{}\"}}\n", Hex(&hash.clone().finalize())).into_bytes()
}

/// A file that is not whole yet, which is removed unless it becomes so.
struct Writer {
    file: PathBuf,
    part: PathBuf,
    lines: BufWriter<File>,
    hash: Sha256,
}

impl Writer {
    fn begin(file: &Path) -> Result<Self, BackupError> {
        let mut part = file.as_os_str().to_owned();
        // A process id is another process's too, in another container or on another host.
        part.push(format!(".{:016x}.part", random::number()));
        let part = PathBuf::from(part);
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
        let opened = opened.map_err(|source| failed("creating", &part, source))?;
        Ok(Self { file: file.to_owned(), part, lines: BufWriter::new(opened), hash: Sha256::new() })
    }

    fn line(&mut self, value: &impl Serialize) -> Result<(), BackupError> {
        let mut line = serde_json::to_vec(value).map_err(|error| failed("writing", &self.part, error.into()))?;
        line.push(b'\n');
        self.hash.update(&line);
        self.lines.write_all(&line).map_err(|source| failed("writing", &self.part, source))
    }

    fn end(mut self, whole: &Whole) -> Result<(), BackupError> {
        let Position { epoch, revision, head, .. } = whole.position;
        self.line(&End { end: Last { epoch: epoch.0, revision, head, summary: whole.summary } })?;
        let checksum = checksum(&self.hash);
        self.lines.write_all(&checksum).map_err(|source| failed("writing", &self.part, source))?;
        let ended = self.lines.flush().and_then(|()| self.lines.get_ref().sync_all());
        ended.map_err(|source| failed("writing", &self.part, source))?;
        name_new(&self.part, &self.file).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => BackupError::Exists(self.file.clone()),
            _ => failed("naming", &self.file, source),
        })?;
        sync_directory_of(&self.file).map_err(|source| failed("writing the directory of", &self.file, source))
    }
}

impl Drop for Writer {
    /// Of no use any more, either way.
    fn drop(&mut self) {
        fs::remove_file(&self.part).ok();
    }
}

/// Gives a whole file its name, which must be nobody's.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] where something has that name. It is as it was.
pub(in crate::store) fn name_new(part: &Path, file: &Path) -> io::Result<()> {
    // Not by a link: FAT, and much that is mounted from elsewhere, has none.
    match renameat_with(CWD, part, CWD, file, RenameFlags::NOREPLACE).map_err(io::Error::from) {
        Err(error) if is_unsupported(&error) => name_claimed(part, file),
        renamed => renamed,
    }
}

/// The same where the file system has no such rename: the name is taken first, by an empty file, and that one replaced.
fn name_claimed(part: &Path, file: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    fs::rename(part, file).inspect_err(|_| _ = fs::remove_file(file))
}

/// A file's name is as durable as its directory.
pub(in crate::store) fn sync_directory_of(file: &Path) -> io::Result<()> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(directory)?.sync_all() {
        // Where names are another host's, there is nothing to be done.
        Err(error) if is_unsupported(&error) => Ok(()),
        synced => synced,
    }
}

/// What file systems say of what they do not have.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

fn failed(operation: &'static str, file: &Path, source: io::Error) -> BackupError {
    BackupError::Io { operation, file: file.to_owned(), source }
}

/// A backup that was read to its end and is whole.
#[derive(Debug)]
pub struct Backup {
    lines: Lines,
    whole: Whole,
    /// How many lines of items are left.
    left: u64,
}

impl Backup {
    /// Reads the file to its end, and goes back to its beginning.
    ///
    /// # Errors
    /// [`BackupError`], for a file that is not whole too.
    pub fn open(file: &Path) -> Result<Self, BackupError> {
        let opened = File::open(file).map_err(|source| failed("opening", file, source))?;
        let mut lines = Lines { file: file.to_owned(), reader: BufReader::new(opened), number: 0, line: Vec::new() };
        lines.first()?;
        let (mut tally, mut count, mut hash) = (Tally::default(), 0, Sha256::new());
        hash.update(&lines.line);
        let end = loop {
            if !lines.read()? {
                return Err(lines.damaged("it ends before the line that says what it holds"));
            }
            hash.update(&lines.line);
            if lines.line.starts_with(b"{\"end\"") {
                break lines.parse::<End>()?.end;
            }
            count += 1;
            let item = lines.parse()?;
            tally.take(vec![item]);
        };
        if !lines.read()? {
            return Err(lines.damaged("it ends before its checksum"));
        }
        if lines.line != checksum(&hash) || end.summary != tally.summary() {
            return Err(lines.damaged("its checksum is not that of the lines before"));
        }
        if lines.read()? {
            return Err(lines.damaged("something comes after its last line"));
        }
        let Last { epoch, revision, head, summary, .. } = end;
        let position = Position { epoch: Epoch(epoch), revision, head, checksum: summary.checksum };
        lines.rewind()?;
        Ok(Self { lines, whole: Whole { summary, position }, left: count })
    }

    /// What it is of.
    #[must_use]
    pub fn whole(&self) -> Whole {
        self.whole
    }

    /// The next items; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Vec<Item>>, BackupError> {
        let mut items = Vec::with_capacity(PIECE);
        while items.len() < PIECE && self.left > 0 {
            if !self.lines.read()? {
                return Err(self.lines.damaged("it has become shorter since it was opened"));
            }
            items.push(self.lines.parse()?);
            self.left -= 1;
        }
        Ok(Some(items).filter(|items| !items.is_empty()))
    }
}

/// The lines of a file.
#[derive(Debug)]
struct Lines {
    file: PathBuf,
    reader: BufReader<File>,
    number: u64,
    line: Vec<u8>,
}

impl Lines {
    /// The next one, if there is one. The last one of a file that was cut off has no end.
    fn read(&mut self) -> Result<bool, BackupError> {
        self.line.clear();
        self.number += 1;
        let read = self.reader.by_ref().take(LONGEST).read_until(b'\n', &mut self.line);
        read.map_err(|source| failed("reading", &self.file, source))?;
        match self.line.last() {
            None => Ok(false),
            Some(b'\n') => Ok(true),
            Some(_) => Err(self.damaged("the line has no end")),
        }
    }

    fn first(&mut self) -> Result<(), BackupError> {
        let foreign = || BackupError::Foreign(self.file.clone());
        let is_line = matches!(self.reader.fill_buf(), Ok(buffer) if buffer.starts_with(b"{\"tollgate_backup\":"));
        if !is_line {
            return Err(foreign());
        }
        self.read()?;
        #[derive(Deserialize)]
        struct Format {
            tollgate_backup: u32,
        }
        let Format { tollgate_backup: format } = self.parse()?;
        match format {
            OLDEST_FORMAT..=FORMAT => self.parse::<First>().map(drop),
            format => Err(BackupError::Format { file: self.file.clone(), format }),
        }
    }

    fn parse<T: for<'de> Deserialize<'de>>(&self) -> Result<T, BackupError> {
        serde_json::from_slice(&self.line).map_err(|error| self.damaged(error))
    }

    /// To before the first item.
    fn rewind(&mut self) -> Result<(), BackupError> {
        self.reader.rewind().map_err(|source| failed("reading", &self.file, source))?;
        self.number = 0;
        self.read().map(drop)
    }

    fn damaged(&self, problem: impl std::fmt::Display) -> BackupError {
        BackupError::Damaged { file: self.file.clone(), line: self.number, problem: problem.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn whole() -> Whole {
        let summary = Tally::default().summary();
        let (revision, head) = (Revision::default(), Head::default());
        Whole { summary, position: Position { epoch: Epoch(1), revision, head, checksum: summary.checksum } }
    }

    fn begun(file: &Path) -> Writer {
        let mut writer = Writer::begin(file).expect("begins");
        let (version, store, at) = (String::new(), String::new(), jiff::Timestamp::UNIX_EPOCH);
        writer.line(&First { tollgate_backup: FORMAT, version, store, at }).expect("writes");
        writer
    }

    /// As two processes of one id do, in containers of their own.
    #[test]
    fn two_at_once_do_not_write_into_one_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("backup");
        let (one, other) = (begun(&file), begun(&file));
        one.end(&whole()).expect("is the first");
        assert!(matches!(other.end(&whole()), Err(BackupError::Exists(_))));
        Backup::open(&file).expect("is whole");
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 1, "the parts are gone");
    }

    #[test]
    fn what_is_in_the_way_is_not_written_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, other) = (folder.path().join("backup"), folder.path().join("other"));
        fs::write(&other, "another's").expect("writes");
        symlink(&other, folder.path().join(format!("backup.{}.part", std::process::id()))).expect("links");
        begun(&file).end(&whole()).expect("ends");
        assert_eq!(fs::read_to_string(&other).expect("is there"), "another's");
        let mode = fs::symlink_metadata(&file).expect("is there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    /// By the rename that most file systems have, and by what is done on the others.
    #[test]
    fn a_new_name_is_nobody_elses() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        for name in [name_new, name_claimed] {
            fs::write(path("part"), "whole").expect("writes");
            name(&path("part"), &path("file")).expect("is free");
            assert_eq!(fs::read_to_string(path("file")).expect("is there"), "whole");
            assert!(!path("part").exists(), "it has one name");
            for taken in ["file", "dangling"] {
                fs::write(path("part"), "another").expect("writes");
                _ = symlink(path("nowhere"), path("dangling"));
                let refused = name(&path("part"), &path(taken)).expect_err("is taken");
                assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists, "{taken}");
            }
            assert!(!path("nowhere").exists(), "no link is followed");
            assert_eq!(fs::read_to_string(path("file")).expect("is there"), "whole");
            fs::remove_file(path("file")).expect("removes");
        }
        assert!(name_claimed(&path("gone"), &path("file")).is_err() && !path("file").exists(), "nor is it left taken");
    }
}
