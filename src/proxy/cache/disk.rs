//! The directory of stored answers: one file for each, which only this program's user may read, and which is there whole or not at all.
//!
//! One process writes there at a time, which has the directory locked: of two, as while one takes over from the other, the one before
//! would write what it fetched earlier over what is newer, or back what was forgotten.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::entry::{Entry, MAX_BODY};
use super::key::Place;
use super::seal::{Clocks, Seal};
use crate::clock::{Instant, unix_seconds};
use crate::hex::Hex;
use crate::lock::Mutex;
use crate::random;

/// What the name of a file ends with.
const SUFFIX: &str = ".config";
/// And of one that is not whole yet.
const UNFINISHED: &str = ".new";
/// How long the directory was in use.
const CLOCK: &str = "clock";
/// Said there: no file is of a question with what may be a token. Earlier versions stored those too.
const SWEPT: &str = "swept";

/// By so many seconds the clock on the wall may differ from what was written down.
const MAX_DRIFT: u64 = 30;

/// Largest file that is read: a body with its fields.
const MAX_FILE: u64 = MAX_BODY as u64 + (1 << 20);

/// A directory of stored answers.
#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
    origin: String,
    /// For how many seconds it had been in use when this program started.
    used_before: AtomicU64,
    started: Instant,
    /// When the machine was started, by the clock on the wall when it was looked at last.
    booted_at: AtomicI64,
    /// Locked by who writes or removes what memory says.
    pub(super) claim: Mutex<Claim>,
    /// Another process has it; may be read while somebody writes.
    awaits: AtomicBool,
    swept: AtomicBool,
}

/// Whose the files are.
#[derive(Debug)]
pub(super) enum Claim {
    /// Another process's: they are read, and not written.
    Awaited,
    /// This one's, for as long as the directory is locked.
    Held(#[expect(dead_code, reason = "its lock ends with it")] File),
    /// They were left to another process.
    Left,
}

/// What reading a file came to.
pub(super) enum Found {
    /// An answer.
    Entry(Entry),
    /// There is no such file.
    Gone,
    /// It is damaged, or an answer to something else, of another Controller, or to a question that may have a token in it.
    Damaged,
}

impl Disk {
    /// A directory, which is made if there is none.
    ///
    /// # Errors
    /// When it cannot be made or listed.
    pub(super) fn open(directory: &Path, origin: String) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let disk = Self {
            directory: directory.to_owned(),
            origin,
            used_before: AtomicU64::new(0),
            started: Instant::now(),
            booted_at: AtomicI64::new(booted_at()),
            claim: Mutex::new(Claim::Awaited),
            awaits: AtomicBool::new(true),
            swept: AtomicBool::new(false),
        };
        let claim = disk.lock()?;
        disk.set(&mut disk.claim.lock(), claim);
        disk.read_clock();
        Ok(disk)
    }

    /// Locks the directory, if no other process has.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn lock(&self) -> io::Result<Claim> {
        let directory = File::open(&self.directory)?;
        Ok(match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Claim::Awaited,
            // A file system that has no locks does without.
            _ => Claim::Held(directory),
        })
    }

    /// From here on they are whose they are.
    pub(super) fn set(&self, claim: &mut Claim, now: Claim) {
        self.awaits.store(matches!(now, Claim::Awaited), Ordering::Relaxed);
        *claim = now;
    }

    /// Whether another process has them, which may leave them to this one.
    pub(super) fn awaits(&self) -> bool {
        self.awaits.load(Ordering::Relaxed)
    }

    /// Reads for how long the directory was in use: up to this moment. Where that is not known, it was not.
    pub(super) fn read_clock(&self) {
        let (seconds, is_swept) = match fs::read(self.directory.join(CLOCK)) {
            Ok(bytes) => std::str::from_utf8(&bytes).ok().and_then(unseal).unwrap_or_else(|| {
                let file = self.directory.join(CLOCK).display().to_string();
                tracing::warn!(
                    file,
                    "for how long stored configurations were there is damaged, and counted anew: until then only the clock on the wall says how old they are"
                );
                (0, false)
            }),
            Err(_) => (0, false),
        };
        self.used_before.store(seconds.saturating_sub(self.started.elapsed().as_secs()), Ordering::Relaxed);
        self.swept.store(is_swept, Ordering::Relaxed);
    }

    /// Whether the clock on the wall was set since this was asked last.
    pub(super) fn was_clock_set(&self) -> bool {
        let now = booted_at();
        let was_set = self.booted_at.load(Ordering::Relaxed).abs_diff(now) > MAX_DRIFT;
        if was_set {
            self.booted_at.store(now, Ordering::Relaxed);
        }
        was_set
    }

    /// Whether no file is of a question that may have a token in it.
    pub(super) fn is_swept(&self) -> bool {
        self.swept.load(Ordering::Relaxed)
    }

    /// From here on none is.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub(super) fn swept(&self) -> io::Result<()> {
        self.swept.store(true, Ordering::Relaxed);
        self.tick()
    }

    /// The files that there are, with their sizes, the one written longest ago first. Of what is this process's, what was left
    /// unfinished is removed.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub(super) fn list(&self, claim: &Claim) -> io::Result<Vec<(Place, u64)>> {
        let mut files = Vec::new();
        for file in fs::read_dir(&self.directory)? {
            let file = file?;
            let name = file.file_name();
            let name = name.to_string_lossy();
            if is_unfinished(&name) {
                if claim.is_held() {
                    drop(fs::remove_file(file.path()));
                }
            } else if let (Some(place), Ok(metadata)) = (place(&name), file.metadata()) {
                files.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), place, metadata.len()));
            }
        }
        files.sort_unstable();
        Ok(files.into_iter().map(|(_, place, bytes)| (place, bytes)).collect())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, which says nothing of what is in it.
    pub(super) fn read(&self, place: &Place) -> io::Result<Found> {
        let name = name(place);
        let open = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(self.directory.join(&name));
        let file = match open {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Gone),
            Err(error) => return Err(error),
        };
        if !is_own(&file)? {
            return Ok(Found::Damaged);
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes)?;
        let seal = Seal { origin: &self.origin, name: &name };
        let entry = seal.open(&bytes, &self.clocks());
        // Its key is what it is the answer to, wherever it lies.
        Ok(match entry.filter(|entry| entry.place().as_ref() == Some(place) && !entry.may_show_token()) {
            Some(entry) => Found::Entry(entry),
            None => Found::Damaged,
        })
    }

    /// Writes a file.
    ///
    /// # Errors
    /// When it cannot be written. The one that was there stays.
    pub(super) fn write(&self, place: &Place, entry: &Entry) -> io::Result<()> {
        let name = name(place);
        let seal = Seal { origin: &self.origin, name: &name };
        self.put(&name, &seal.close(entry, &self.clocks()))
    }

    /// Removes a file.
    ///
    /// # Errors
    /// When it is still there.
    pub(super) fn remove(&self, place: &Place) -> io::Result<()> {
        match fs::remove_file(self.directory.join(name(place))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes down for how long the directory was in use.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn tick(&self) -> io::Result<()> {
        self.put(CLOCK, seal(self.clocks().in_use, self.is_swept()).as_bytes())
    }

    /// Where an answer is.
    pub(super) fn path(&self, place: &Place) -> PathBuf {
        self.directory.join(name(place))
    }

    fn clocks(&self) -> Clocks {
        Clocks::read(self.used_before.load(Ordering::Relaxed).saturating_add(self.started.elapsed().as_secs()))
    }

    /// In the place of what was there, at once.
    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let unfinished = self.directory.join(format!("{:016x}{UNFINISHED}", random::number()));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&unfinished, self.directory.join(name))
        })();
        if written.is_err() {
            drop(fs::remove_file(&unfinished));
        }
        written
    }
}

/// The text of [`CLOCK`]: seconds, maybe that there is nothing to sweep, and a checksum of that. By a damaged number all that is stored
/// would be too old.
fn seal(seconds: u64, is_swept: bool) -> String {
    let said = if is_swept { format!("{seconds} {SWEPT}") } else { seconds.to_string() };
    let checksum = Sha256::digest(&said);
    format!("{said} {}\n", Hex(&checksum))
}

/// What it says. `None`: it is damaged.
fn unseal(text: &str) -> Option<(u64, bool)> {
    let mut words = text.split(' ');
    let seconds = words.next()?.parse().ok()?;
    let is_swept = words.next()? == SWEPT;
    (seal(seconds, is_swept) == text).then_some((seconds, is_swept))
}

/// When the machine was started, by the clock on the wall: it moves when that is set.
fn booted_at() -> i64 {
    unix_seconds().saturating_sub_unsigned(Instant::now().uptime().as_secs())
}

impl Claim {
    /// Whether they are this process's.
    pub(super) fn is_held(&self) -> bool {
        matches!(self, Self::Held(_))
    }
}

/// Whether nobody else can have written it.
fn is_own(file: &File) -> io::Result<bool> {
    let metadata = file.metadata()?;
    let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
    Ok(metadata.is_file() && is_ours && metadata.mode() & 0o022 == 0)
}

/// Whether [`Disk::put`] has named it. What else lies there is somebody's.
fn is_unfinished(name: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    name.strip_suffix(UNFINISHED).is_some_and(|name| name.len() == 16 && name.bytes().all(is_digit))
}

fn name(Place { path, subject, form }: &Place) -> String {
    format!("{}{}{}{SUFFIX}", Hex(path), Hex(subject), Hex(form))
}

fn place(name: &str) -> Option<Place> {
    let digits = name.strip_suffix(SUFFIX)?;
    let part = |at: usize| u128::from_str_radix(digits.get(at * 32..(at + 1) * 32)?, 16).ok().map(u128::to_be_bytes);
    let place = Place { path: part(0)?, subject: part(1)?, form: part(2)? };
    (self::name(&place) == name).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_clock_is_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let in_use = || Disk::open(directory.path(), String::new()).expect("opens").clocks().in_use;
        let write = |text: &str| fs::write(directory.path().join(CLOCK), text).expect("writes");
        for is_swept in [false, true] {
            let text = seal(86_400, is_swept);
            write(&text);
            assert_eq!((in_use(), unseal(&text)), (86_400, Some((86_400, is_swept))));
            for at in 0..text.len() {
                let mut damaged = text.clone().into_bytes();
                damaged[at] ^= 1;
                write(&String::from_utf8(damaged).expect("text"));
                assert_eq!(in_use(), 0, "{at}");
                write(&text[..at]);
                assert_eq!(in_use(), 0, "cut at {at}");
            }
        }
        write("86400\n");
        assert_eq!(in_use(), 0);
        write(&seal(u64::MAX, false));
        let disk = Disk {
            started: Instant::since_boot(std::time::Duration::ZERO),
            ..Disk::open(directory.path(), String::new()).expect("opens")
        };
        assert_eq!(disk.clocks().in_use, u64::MAX, "and no overflow");
    }

    #[test]
    fn only_what_was_left_unfinished_here_is_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let disk = Disk::open(directory.path(), String::new()).expect("opens");
        let foreign = ["notes.new", "0123456789ABCDEF.new", "0123456789abcde.new", "0123456789abcdeg.new", ".new"];
        for name in foreign.iter().chain(&["0123456789abcdef.new"]) {
            fs::write(directory.path().join(name), b"x").expect("writes");
        }
        assert!(disk.list(&disk.claim.lock()).expect("lists").is_empty());
        assert!(foreign.iter().all(|name| directory.path().join(name).exists()));
        assert!(!directory.path().join("0123456789abcdef.new").exists());
    }
}
