//! A stored answer as a file: what it says, sealed, and when it was stored.
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | [`MAGIC`] |
//! | 32 | SHA-256 of which Controller it is from, the file's name, and all that follows |
//! | 8 | when it was asked for: seconds since 1970 by the clock on the wall, |
//! | 16, 8 | which run of the machine it was, and how many milliseconds after its start; |
//! | 8 | and for how many seconds the directory had been in use by then |
//! | 4 | its age by then |
//! | the rest | the entry |
//!
//! All numbers are little-endian. **Three clocks**, since each may mean nothing: that of the machine's run ends with it, that on the wall
//! may be wrong at boot (a host without a battery starts in 1970), that of the directory stands still while nobody runs.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _};
use sha2::{Digest as _, Sha256};

use super::entry::{Earlier, Entry};
use crate::clock::{self, Instant};

const MAGIC: &[u8; 8] = b"TGCACHE1";
const HEAD: usize = MAGIC.len() + 32;

/// What a file's seal covers besides the file: an answer of another Controller, or in another's place, is none.
pub(super) struct Seal<'a> {
    /// Which Controller, and whose credential it sees.
    pub(super) origin: &'a str,
    /// The file's name.
    pub(super) name: &'a str,
}

/// The clocks at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clocks {
    /// Seconds since 1970.
    pub(super) wall: i64,
    /// Which run of the machine; 0: not known.
    pub(super) boot: u128,
    /// The clock of that run.
    pub(super) now: Instant,
    /// For how many seconds the directory was in use.
    pub(super) in_use: u64,
}

impl Clocks {
    /// Now, for a directory that is in use for so long.
    pub(super) fn read(in_use: u64) -> Self {
        Self { wall: clock::unix_seconds(), boot: clock::boot(), now: Instant::now(), in_use }
    }
}

impl Seal<'_> {
    /// A file.
    pub(super) fn close(&self, entry: &Entry, clocks: &Clocks) -> Vec<u8> {
        // What was stored before this run began has no moment in it, and was written by the clock of then.
        let (wall, at) = match entry.earlier {
            None => {
                let at = u64::try_from(entry.asked_at.uptime().as_millis()).unwrap_or(u64::MAX);
                (clocks.wall.saturating_sub_unsigned(entry.ran_for().as_secs()), at)
            }
            Some(earlier) => (earlier.wall, u64::MAX),
        };
        let mut body = Vec::with_capacity(64 + entry.len());
        body.put_i64_le(wall);
        body.put_u128_le(clocks.boot);
        body.put_u64_le(at);
        body.put_u64_le(clocks.in_use.saturating_sub(entry.ran_for().as_secs()));
        body.put_u32_le(u32::try_from(entry.aged.as_secs()).unwrap_or(u32::MAX));
        entry.write(&mut body);
        [MAGIC.as_slice(), &self.hash(&body), &body].concat()
    }

    /// What is in a file. `None`: it is damaged, or of something else.
    pub(super) fn open(&self, file: &[u8], clocks: &Clocks) -> Option<Entry> {
        let (head, mut body) = file.split_at_checked(HEAD)?;
        let (magic, hash) = head.split_at(MAGIC.len());
        if magic != MAGIC || hash != self.hash(body) {
            return None;
        }
        let wall = body.try_get_i64_le().ok()?;
        let (boot, at) = (body.try_get_u128_le().ok()?, body.try_get_u64_le().ok()?);
        let in_use = body.try_get_u64_le().ok()?;
        let aged = Duration::from_secs(body.try_get_u32_le().ok()?.into());
        let is_this_run = boot == clocks.boot && boot != 0 && at != u64::MAX;
        let asked_at = Instant::since_boot(Duration::from_millis(at));
        if is_this_run && asked_at <= clocks.now {
            return Entry::read(body, asked_at, aged, None);
        }
        let earlier =
            Earlier { ran_for: Duration::from_secs(clocks.in_use.saturating_sub(in_use)), since: clocks.now, wall };
        // Whatever is fetched from here on is newer.
        Entry::read(body, Instant::since_boot(Duration::ZERO), aged, Some(earlier))
    }

    fn hash(&self, body: &[u8]) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [self.origin.as_bytes(), self.name.as_bytes()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update(body);
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use http::header::LAST_MODIFIED;
    use http::{HeaderMap, HeaderValue, StatusCode};

    use super::*;
    use crate::proxy::cache::key::Key;

    const SEAL: Seal<'_> = Seal { origin: "http://controller own", name: "name" };
    const DAY: u64 = 86_400;

    /// A day in 2026.
    const WALL: i64 = 20_500 * DAY.cast_signed();

    fn entry() -> Entry {
        let key = Key::new("/c/a".into(), Vec::new(), String::new(), None);
        let mut fields = HeaderMap::new();
        fields.insert(LAST_MODIFIED, HeaderValue::from_static("then"));
        let asked = (Instant::now(), &HeaderMap::new());
        Entry::new(&key, asked, (StatusCode::OK, &fields), b"body").expect("is for all")
    }

    fn clocks(boot: u128, wall: i64, in_use: u64) -> Clocks {
        Clocks { wall, boot, now: Instant::now(), in_use }
    }

    /// A file that was written at [`WALL`], when the directory had been in use for 100 s.
    fn file() -> Vec<u8> {
        SEAL.close(&entry(), &clocks(1, WALL, 100))
    }

    /// For how many days it is stored when it is opened so: as far as is known, and at least.
    fn days(clocks: &Clocks) -> (u64, u64) {
        let entry = SEAL.open(&file(), clocks).expect("whole");
        (entry.stored_for(clocks.wall).as_secs() / DAY, entry.ran_for().as_secs() / DAY)
    }

    #[test]
    fn a_file_has_all_that_was_stored() {
        let read = SEAL.open(&file(), &clocks(1, WALL, 100)).expect("whole");
        assert!(read.is_same(&entry()) && read.key() == entry().key() && read.earlier.is_none());
        assert_eq!(read.last_modified(), Some(HeaderValue::from_static("then")));
        assert_eq!(read.body().iter().collect::<Vec<_>>().concat(), b"body");
    }

    #[test]
    fn within_one_run_of_the_machine_the_clock_on_the_wall_means_nothing() {
        for wall in [0, WALL, 100 * WALL] {
            assert_eq!(days(&clocks(1, wall, 100)), (0, 0), "{wall}");
        }
    }

    #[test]
    fn a_wrong_clock_at_boot_neither_loses_an_answer_nor_keeps_it_for_ever() {
        let days_later = |days: i64| WALL + days * DAY.cast_signed();
        assert_eq!(days(&clocks(2, days_later(3), 100)), (3, 0), "a host that was off for three days");
        assert_eq!(days(&clocks(2, 0, 100)), (0, 0), "one that boots in 1970");
        assert_eq!(days(&clocks(2, 0, 100 + 8 * DAY)), (8, 8), "and has been running for eight days since");
        assert_eq!(
            days(&clocks(2, days_later(9999), 100)),
            (9999, 0),
            "one that boots in the future gives nothing, and loses nothing"
        );
    }

    /// What was read after a reboot is written down by the clock of then.
    #[test]
    fn a_file_that_is_written_again_is_as_old_as_before() {
        let later = clocks(2, 0, 200);
        let read = SEAL.open(&file(), &later).expect("whole");
        let again = SEAL.close(&read, &later);
        let read = SEAL.open(&again, &clocks(2, WALL + 3 * DAY.cast_signed(), 200)).expect("whole");
        assert_eq!(read.stored_for(WALL + 3 * DAY.cast_signed()).as_secs() / DAY, 3);
        assert_eq!(read.ran_for().as_secs(), 100);
    }

    /// It was switched off before its clock was set.
    #[test]
    fn what_was_stored_in_1970_is_as_old_as_the_directory_says() {
        let file = SEAL.close(&entry(), &clocks(1, 100, 100));
        let stored_for = |in_use| SEAL.open(&file, &clocks(2, WALL, in_use)).expect("whole").stored_for(WALL).as_secs();
        assert_eq!((stored_for(200), stored_for(100 + 8 * DAY)), (100, 8 * DAY));
    }

    #[test]
    fn every_damage_shows() {
        let (file, now) = (file(), clocks(1, WALL, 100));
        for length in 0..file.len() {
            assert!(SEAL.open(&file[..length], &now).is_none(), "cut at {length}");
        }
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            assert!(SEAL.open(&damaged, &now).is_none(), "byte {at}");
        }
        assert!(Seal { name: "other", ..SEAL }.open(&file, &now).is_none());
        assert!(Seal { origin: "http://other own", ..SEAL }.open(&file, &now).is_none());
    }
}
