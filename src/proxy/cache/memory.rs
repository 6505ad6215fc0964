//! Which answers there are, in memory and as files not read yet, bounded together in number and bytes. What was used longest ago goes
//! first.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use super::CacheConfig;
use super::entry::Entry;
use super::key::{Key, Part, Place};
use super::outdated::{Answered, Outdated};

/// What an entry takes besides its own bytes: its place in the map, what knows of its memory, and what an allocator loses in all of that.
const OVERHEAD: usize = 512;

/// Of so many the one that was used longest ago is looked for at once.
const ELDERS: usize = 16;

/// Forms of one answer that are stored: more differ in what no agent says, and each is looked at for every request.
const MAX_FORMS: usize = 16;

/// A file that says the same is written again where it was asked for so much earlier, or an eighth of `max_age`: until then it only
/// makes the answer look older than it is.
const REWRITE: Duration = Duration::from_hours(1);

/// The stored answers.
#[derive(Debug, Default)]
pub(super) struct Memory {
    entries: BTreeMap<Place, Slot>,
    /// Some that were used longest ago, and when that was; the longest ago last. Who was used since is none of them any more.
    eldest: Vec<(u64, Place)>,
    uses: u64,
    bytes: usize,
    outdated: Outdated,
    /// Which files are not as they should be; `None`: there are no files.
    unsaved: Option<Unsaved>,
}

/// Which files are not as they should be.
#[derive(Debug, Default)]
struct Unsaved {
    /// To be removed, before anything is written: what was forgotten must not come back, and it makes room.
    removals: BTreeSet<Place>,
    writes: BTreeSet<Place>,
    /// What failed, and is tried again later.
    failed: BTreeSet<Place>,
    /// While another process has the files: what is true here of what it writes. `None`: they are this process's.
    told: Option<Told>,
}

/// Of what the Controller has said something to this process that is not stored: what another one stored of it is not true any more.
#[derive(Debug)]
enum Told {
    /// Of these paths, or of one question each: its subject.
    Some(BTreeSet<(Part, Option<Part>)>),
    /// Of all, or of too many to remember.
    All,
}

/// So many of them are remembered. Two processes have one directory for a moment only.
const MAX_TOLD: usize = 10_000;

#[derive(Debug)]
struct Slot {
    content: Content,
    used: u64,
    hits: u32,
    /// When what its file says was asked for, in seconds since the machine's start; `None`: before that, or it is not known.
    saved: Option<NonZeroU32>,
}

#[derive(Debug)]
enum Content {
    Entry(Arc<Entry>),
    /// A file of so many bytes that was not read yet.
    Unread(usize),
}

/// One stored answer, for people.
#[derive(Debug)]
pub(super) struct Listed {
    /// `None`: it is a file that was not read yet.
    pub(super) entry: Option<Arc<Entry>>,
    pub(super) bytes: usize,
    pub(super) hits: u32,
}

impl Memory {
    /// With files for all that is stored, which are this process's or not yet.
    pub(super) fn with_files(are_own: bool) -> Self {
        let told = (!are_own).then(|| Told::Some(BTreeSet::new()));
        Self { unsaved: Some(Unsaved { told, ..Unsaved::default() }), ..Self::default() }
    }

    /// The answer to a request with these fields.
    pub(super) fn find(&mut self, key: &Key, asked: &HeaderMap, bounds: &CacheConfig) -> Option<Arc<Entry>> {
        let (place, entry) = self.answer(key, asked, bounds).map(|(place, entry)| (*place, Arc::clone(entry)))?;
        self.uses += 1;
        if let Some(slot) = self.entries.get_mut(&place) {
            slot.used = self.uses;
            slot.hits = slot.hits.saturating_add(1);
        }
        Some(entry)
    }

    /// Whether there is one. It is not given.
    pub(super) fn has(&self, key: &Key, asked: &HeaderMap, bounds: &CacheConfig) -> bool {
        self.answer(key, asked, bounds).is_some()
    }

    fn answer<'a>(
        &'a self,
        key: &'a Key,
        asked: &HeaderMap,
        bounds: &CacheConfig,
    ) -> Option<(&'a Place, &'a Arc<Entry>)> {
        let answers = self.forms(key).filter(|(_, entry)| entry.is_within(bounds) && entry.answers(key, asked));
        // Of several, one in the very coding that was asked for: the others have none.
        answers.max_by_key(|(_, entry)| entry.is_coded_for(key))
    }

    /// The `Last-Modified` of any form of it.
    pub(super) fn last_modified(&self, key: &Key, bounds: &CacheConfig) -> Option<(HeaderValue, Arc<Entry>)> {
        let within = self.forms(key).filter(|(_, entry)| entry.is_within(bounds));
        let newest = within.filter_map(|(_, entry)| Some((entry.last_modified()?, entry)));
        let newest = newest.max_by_key(|(_, entry)| entry.asked_at);
        newest.map(|(modified, entry)| (modified, Arc::clone(entry)))
    }

    /// What is stored of one question, in every form.
    fn forms<'a>(&'a self, key: &'a Key) -> impl Iterator<Item = (&'a Place, &'a Arc<Entry>)> {
        let forms = self.slots(key).filter_map(|(place, slot)| Some((place, slot.entry()?)));
        forms.filter(|(_, entry)| entry.is_of(key))
    }

    fn slots(&self, key: &Key) -> impl Iterator<Item = (&Place, &Slot)> {
        let Place { path, subject, .. } = key.place;
        let slots = self.entries.range(Place { path, subject, form: Part::default() }..);
        slots.take_while(move |(place, _)| (place.path, place.subject) == (path, subject))
    }

    /// The files that have to be read before anything is said of this question.
    pub(super) fn unread(&self, key: &Key) -> Vec<Place> {
        self.slots(key).filter(|(_, slot)| slot.entry().is_none()).map(|(place, _)| *place).collect()
    }

    /// So many of the files that were not read yet, from this one on.
    pub(super) fn unread_from(&self, first: Place, count: usize) -> Vec<Place> {
        let unread = self.entries.range(first..).filter(|(_, slot)| slot.entry().is_none());
        unread.map(|(place, _)| *place).take(count).collect()
    }

    /// The files that were not read yet.
    pub(super) fn all_unread(&self) -> Vec<Place> {
        self.entries.iter().filter(|(_, slot)| slot.entry().is_none()).map(|(place, _)| *place).collect()
    }

    /// Stores an answer, and makes room for it, unless it is outdated. What another form of it says that was modified at another time
    /// is not true any more.
    pub(super) fn insert(&mut self, key: &Key, entry: Arc<Entry>, bounds: &CacheConfig) {
        let Some(place) = entry.place() else { return };
        if self.outdated.has(&place, &entry) || self.is_late(key, &place, &entry) {
            return;
        }
        self.drop_unlike(key, &place, &entry);
        let others = || self.slots(key).filter(|(other, _)| **other != place);
        if others().count() >= MAX_FORMS
            && let Some(oldest) = others().min_by_key(|(_, slot)| slot.used).map(|(other, _)| *other)
        {
            self.remove(&oldest);
        }
        let before = self.entries.get(&place);
        let hits = before.map_or(0, |slot| slot.hits);
        let is_same = before.and_then(Slot::entry).is_some_and(|before| before.is_same(&entry));
        let rewrite = REWRITE.min(bounds.max_age / 8);
        let is_recent = |saved: &NonZeroU32| {
            entry.asked_at.uptime().saturating_sub(Duration::from_secs(saved.get().into())) < rewrite
        };
        let saved = before.and_then(|slot| slot.saved).filter(|saved| is_same && is_recent(saved));
        self.put(place, Content::Entry(entry), hits, saved);
        // What another process has in its file meanwhile is not known.
        if saved.is_none() || self.is_beside() {
            self.unsave(place);
        }
        self.make_room(bounds);
    }

    /// Whether something was asked for later that is stored, and that this would not be true beside.
    fn is_late(&self, key: &Key, place: &Place, entry: &Entry) -> bool {
        let is_other =
            |(other, form): &(&Place, &Arc<Entry>)| *other == place || form.last_modified() != entry.last_modified();
        self.forms(key).filter(is_other).any(|(_, form)| form.asked_at > entry.asked_at)
    }

    /// An agent was told something that is not stored. A form that cannot be read cannot be compared with it.
    pub(super) fn outdate(&mut self, key: &Key, answered: Answered) {
        self.drop_forms(key, |_, form| form.is_none_or(|form| answered.outdates(form)));
        self.outdated.answered(&key.place, answered);
        // A form that is left was compared with it, and is true.
        if self.slots(key).next().is_none() {
            self.is_told(Some((key.place.path, Some(key.place.subject))));
        }
    }

    /// Forgets the other forms that were modified at another time.
    fn drop_unlike(&mut self, key: &Key, place: &Place, entry: &Entry) {
        let modified = entry.last_modified();
        let is_unlike = |form: &Entry| form.last_modified() != modified;
        self.drop_forms(key, |other, form| other != place && form.is_some_and(is_unlike));
    }

    /// Forgets these forms of an answer; `None`: one that was not read.
    fn drop_forms(&mut self, key: &Key, is_meant: impl Fn(&Place, Option<&Entry>) -> bool) {
        let meant = self.slots(key).filter(|(place, slot)| is_meant(place, slot.entry().map(Arc::as_ref)));
        let meant: Vec<Place> = meant.map(|(place, _)| *place).collect();
        meant.iter().for_each(|place| self.remove(place));
    }

    /// There is a file of so many bytes.
    pub(super) fn found(&mut self, place: Place, bytes: usize, bounds: &CacheConfig) {
        self.put(place, Content::Unread(bytes), 0, None);
        self.make_room(bounds);
    }

    /// The files are this process's from here on, and these are all. What it knows by itself is true, whatever they say.
    pub(super) fn take_files(&mut self, files: Vec<(Place, u64)>, bounds: &CacheConfig) {
        let Some(unsaved) = &mut self.unsaved else { return };
        let told = unsaved.told.take();
        let is_read = |place: &&Place| !unsaved.writes.contains(place);
        // It may have been written again since: it is read again.
        let read: Vec<Place> = self.entries.keys().filter(is_read).copied().collect();
        read.iter().for_each(|place| self.take(place));
        for (place, bytes) in files {
            let is_told = told.as_ref().is_some_and(|told| told.has(&place));
            match self.entries.contains_key(&place) {
                true => {} // it is written over
                false if is_told => self.unsave(place),
                false => self.found(place, usize::try_from(bytes).unwrap_or(usize::MAX), bounds),
            }
        }
    }

    /// Whether the files are another process's still.
    fn is_beside(&self) -> bool {
        self.unsaved.as_ref().is_some_and(|unsaved| unsaved.told.is_some())
    }

    /// The Controller, or an operator, has said something of this path, or of one question of it, or of all.
    fn is_told(&mut self, of: Option<(Part, Option<Part>)>) {
        let Some(told @ Told::Some(_)) = self.unsaved.as_mut().and_then(|unsaved| unsaved.told.as_mut()) else {
            return;
        };
        match (of, &mut *told) {
            (Some(of), Told::Some(known)) if known.len() < MAX_TOLD => drop(known.insert(of)),
            _ => *told = Told::All,
        }
    }

    /// A file was read, or turned out to be none. `false`: what was stored meanwhile is newer.
    pub(super) fn read(&mut self, place: Place, entry: Option<Entry>) -> bool {
        let Some(slot) = self.entries.get(&place).filter(|slot| slot.entry().is_none()) else { return false };
        let bytes = slot.size();
        match entry.and_then(|entry| Some((entry.key()?, entry))) {
            Some((key, entry)) if self.is_late(&key, &place, &entry) => self.remove(&place),
            Some((key, entry)) => {
                self.drop_unlike(&key, &place, &entry);
                if let Some(slot) = self.entries.get_mut(&place) {
                    slot.saved = asked_in(&entry);
                    slot.content = Content::Entry(Arc::new(entry));
                    self.bytes = self.bytes - bytes + slot.size();
                }
            }
            None => self.take(&place),
        }
        true
    }

    fn put(&mut self, place: Place, content: Content, hits: u32, saved: Option<NonZeroU32>) {
        self.take(&place);
        self.uses += 1;
        let slot = Slot { content, used: self.uses, hits, saved };
        self.bytes += slot.size();
        self.entries.insert(place, slot);
    }

    fn make_room(&mut self, bounds: &CacheConfig) {
        while self.bytes > bounds.max_bytes.get() || self.entries.len() > bounds.max_entries.get() {
            let Some(eldest) = self.eldest() else { break };
            self.remove(&eldest);
        }
    }

    /// The one that was used longest ago. A second map that is in order at every moment would take as much memory as this one.
    fn eldest(&mut self) -> Option<Place> {
        loop {
            while let Some((used, place)) = self.eldest.pop() {
                if self.entries.get(&place).is_some_and(|slot| slot.used == used) {
                    return Some(place);
                }
            }
            let mut all: Vec<_> = self.entries.iter().map(|(place, slot)| (slot.used, *place)).collect();
            let some = all.len().div_ceil(ELDERS).checked_sub(1)?;
            all.select_nth_unstable(some);
            all.truncate(some + 1);
            all.sort_unstable_by(|one, other| other.cmp(one));
            all.shrink_to_fit();
            self.eldest = all;
        }
    }

    fn take(&mut self, place: &Place) {
        if let Some(slot) = self.entries.remove(place) {
            self.bytes -= slot.size();
        }
    }

    fn remove(&mut self, place: &Place) {
        self.take(place);
        self.unsave(*place);
    }

    /// The file there is not as it should be.
    fn unsave(&mut self, place: Place) {
        let is_stored = self.entries.contains_key(&place);
        let Some(Unsaved { removals, writes, failed, told }) = &mut self.unsaved else { return };
        for places in [&mut *removals, &mut *writes, failed] {
            places.remove(&place);
        }
        match is_stored {
            true => drop(writes.insert(place)),
            false if told.is_none() => drop(removals.insert(place)),
            // It is not known yet which files there are to be removed.
            false => {}
        }
    }

    /// The file there could not be brought to what is stored.
    pub(super) fn not_saved(&mut self, place: Place) {
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.failed.insert(place);
        }
    }

    /// What failed before is tried again.
    pub(super) fn retry(&mut self) {
        let failed = self.unsaved.as_mut().map(|unsaved| std::mem::take(&mut unsaved.failed));
        failed.into_iter().flatten().for_each(|place| self.unsave(place));
    }

    /// Whether there is a file that should not be there.
    pub(super) fn is_left(&self, place: &Place) -> bool {
        let removed = |unsaved: &Unsaved| unsaved.removals.contains(place) || unsaved.failed.contains(place);
        !self.entries.contains_key(place) && self.unsaved.as_ref().is_some_and(removed)
    }

    /// Forgets all of a path, or everything: where that was, also where only a file was left that could not be removed.
    pub(super) fn forget(&mut self, path: Option<Part>) -> BTreeSet<Place> {
        self.outdated.forget(path);
        self.is_told(path.map(|path| (path, None)));
        let first = Place { path: path.unwrap_or_default(), subject: Part::default(), form: Part::default() };
        let is_meant = |place: &Place| path.is_none_or(|path| place.path == path);
        let left = self.unsaved.iter().flat_map(|unsaved| unsaved.removals.iter().chain(&unsaved.failed));
        let mut places: BTreeSet<Place> = left.copied().filter(is_meant).collect();
        places.extend(self.entries.range(first..).map(|(place, _)| *place).take_while(is_meant));
        places.iter().for_each(|place| self.remove(place));
        places
    }

    /// Forgets what is older than may be, by the clocks that nobody sets: by one that is wrong, it would be lost.
    pub(super) fn expire(&mut self, bounds: &CacheConfig) {
        let is_old = |slot: &Slot| slot.entry().is_some_and(|entry| entry.ran_for() > bounds.max_age);
        let old: Vec<Place> = self.entries.iter().filter(|(_, slot)| is_old(slot)).map(|(place, _)| *place).collect();
        old.iter().for_each(|place| self.remove(place));
    }

    /// Every file that was written in this run of the machine has to be written again, if it is this process's.
    pub(super) fn unsave_all(&mut self) {
        if self.unsaved.as_ref().is_none_or(|unsaved| unsaved.told.is_some()) {
            return;
        }
        let is_of_this_run = |slot: &Slot| slot.entry().is_some_and(|entry| entry.earlier.is_none());
        let places: Vec<Place> =
            self.entries.iter().filter(|(_, slot)| is_of_this_run(slot)).map(|(place, _)| *place).collect();
        places.into_iter().for_each(|place| self.unsave(place));
    }

    /// One file that is not as it should be, and what it should hold; `None` for nothing. It counts as written from here on.
    pub(super) fn next_unsaved(&mut self) -> Option<(Place, Option<Arc<Entry>>)> {
        let unsaved = self.unsaved.as_mut()?;
        let place = unsaved.removals.pop_first().or_else(|| unsaved.writes.pop_first())?;
        let slot = self.entries.get_mut(&place);
        let entry = slot.and_then(|slot| {
            let entry = slot.entry().cloned()?;
            slot.saved = asked_in(&entry);
            Some(entry)
        });
        Some((place, entry))
    }

    /// How many there are, and how many bytes they take.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }

    /// All of them.
    pub(super) fn list(&self) -> impl Iterator<Item = Listed> {
        self.entries.values().map(|slot| Listed { entry: slot.entry().cloned(), bytes: slot.len(), hits: slot.hits })
    }
}

impl Slot {
    /// `None`: it was not read yet.
    fn entry(&self) -> Option<&Arc<Entry>> {
        match &self.content {
            Content::Entry(entry) => Some(entry),
            Content::Unread(_) => None,
        }
    }

    fn len(&self) -> usize {
        match &self.content {
            Content::Entry(entry) => entry.len(),
            Content::Unread(bytes) => *bytes,
        }
    }

    /// How many bytes of memory it takes, or will when it was read.
    fn size(&self) -> usize {
        let content = match &self.content {
            Content::Entry(entry) => entry.size(),
            Content::Unread(bytes) => *bytes,
        };
        content.saturating_add(OVERHEAD)
    }
}

/// At which second since the machine's start it was asked for; `None`: before that.
fn asked_in(entry: &Entry) -> Option<NonZeroU32> {
    let seconds = u32::try_from(entry.asked_at.uptime().as_secs()).ok();
    seconds.and_then(NonZeroU32::new).filter(|_| entry.earlier.is_none())
}

impl Told {
    fn has(&self, place: &Place) -> bool {
        match self {
            Self::Some(known) => {
                [None, Some(place.subject)].iter().any(|subject| known.contains(&(place.path, *subject)))
            }
            Self::All => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use http::StatusCode;
    use http::header::{LAST_MODIFIED, VARY};

    use super::*;
    use crate::clock::Instant;

    fn key(target: &str) -> Key {
        Key::new(target.to_owned(), Vec::new(), String::new(), None)
    }

    fn bounds(max_bytes: usize, max_entries: usize) -> CacheConfig {
        let number = |number| NonZeroUsize::new(number).expect("not zero");
        CacheConfig { max_bytes: number(max_bytes), max_entries: number(max_entries), ..CacheConfig::default() }
    }

    /// An answer with `Last-Modified: modified`, to a request with `X-Region: region`.
    fn entry(key: &Key, region: &str, modified: &'static str, body: &[u8]) -> Arc<Entry> {
        let (mut asked, mut fields) = (HeaderMap::new(), HeaderMap::new());
        asked.insert("x-region", HeaderValue::from_str(region).expect("a value"));
        fields.insert(VARY, HeaderValue::from_static("X-Region"));
        fields.insert(LAST_MODIFIED, HeaderValue::from_static(modified));
        let entry = Entry::new(key, (Instant::now(), &asked), (StatusCode::OK, &fields), body);
        Arc::new(entry.expect("is for all"))
    }

    fn region(region: &str) -> HeaderMap {
        HeaderMap::from_iter([("x-region".parse().expect("a name"), HeaderValue::from_str(region).expect("a value"))])
    }

    /// What is counted is what is there, whatever happens.
    fn assert_sound(memory: &Memory) {
        let bytes: usize = memory.entries.values().map(Slot::size).sum();
        assert_eq!(memory.bytes, bytes);
    }

    #[test]
    fn bytes_and_number_are_bounded() {
        let (mut memory, few, small) = (Memory::default(), bounds(1 << 20, 3), bounds(20_000, 100));
        for at in 0..10 {
            let key = key(&format!("/c/{at}"));
            memory.insert(&key, entry(&key, "eu", "then", b"x"), &few);
            assert_sound(&memory);
        }
        assert_eq!(memory.sizes().0, 3);
        for at in 0..10 {
            let key = key(&format!("/c/large/{at}"));
            memory.insert(&key, entry(&key, "eu", "then", &[b'x'; 5000]), &small);
            assert!(memory.sizes().1 <= 20_000);
            assert_sound(&memory);
        }
        assert_eq!(memory.sizes().0, 3);
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let (mut memory, bounds) = (Memory::default(), bounds(1 << 20, 100));
        let keys: Vec<Key> = (0..300).map(|at| key(&format!("/c/{at}"))).collect();
        let mut used: Vec<usize> = Vec::new();
        for at in 0..keys.len() {
            memory.insert(&keys[at], entry(&keys[at], "eu", "then", b"x"), &bounds);
            used.push(at);
            // One of those that would go soon is used again.
            let again = used[used.len().saturating_sub(100) + at % 3 * usize::from(at >= 100)];
            assert!(memory.find(&keys[again], &region("eu"), &bounds).is_some(), "{again} at {at}");
            used.retain(|other| *other != again);
            used.push(again);
            for (at, key) in keys.iter().enumerate() {
                let is_used = used.iter().rev().take(100).any(|other| *other == at);
                assert_eq!(memory.has(key, &region("eu"), &bounds), is_used, "{at}");
            }
            assert_sound(&memory);
        }
    }

    #[test]
    fn forms_are_bounded_and_of_one_time() {
        let (mut memory, bounds, key) = (Memory::default(), bounds(1 << 20, 100), key("/c/a"));
        for at in 0..2 * MAX_FORMS {
            memory.insert(&key, entry(&key, &at.to_string(), "then", b"x"), &bounds);
            assert_sound(&memory);
        }
        assert_eq!(memory.sizes().0, MAX_FORMS);
        assert!(memory.find(&key, &region("31"), &bounds).is_some());
        assert!(memory.find(&key, &region("0"), &bounds).is_none());
        memory.insert(&key, entry(&key, "eu", "later", b"y"), &bounds);
        assert_eq!(memory.sizes().0, 1);
        assert_sound(&memory);
    }

    #[test]
    fn what_was_asked_for_earlier_does_not_replace_what_came_meanwhile() {
        let (mut memory, bounds, key) = (Memory::default(), bounds(1 << 20, 100), key("/c/a"));
        let slow = entry(&key, "eu", "then", b"old");
        memory.insert(&key, entry(&key, "eu", "later", b"new"), &bounds);
        memory.insert(&key, slow, &bounds);
        let found = memory.find(&key, &region("eu"), &bounds).expect("is there");
        assert_eq!(found.body().iter().collect::<Vec<_>>().concat(), b"new");
    }

    #[test]
    fn what_was_forgotten_while_it_was_fetched_is_not_stored() {
        let (mut memory, bounds, key) = (Memory::default(), bounds(1 << 20, 100), key("/c/a"));
        for path in [Some(key.place.path), None] {
            let slow = entry(&key, "eu", "then", b"old");
            memory.forget(path);
            memory.insert(&key, slow, &bounds);
            assert!(!memory.has(&key, &region("eu"), &bounds));
        }
        memory.insert(&key, entry(&key, "eu", "then", b"new"), &bounds);
        assert!(memory.has(&key, &region("eu"), &bounds));
    }

    /// An answer was stored before the files of its other forms were read.
    #[test]
    fn a_file_of_another_time_than_what_came_meanwhile_is_removed_when_it_is_read() {
        let (mut memory, bounds, key) = (Memory::with_files(true), bounds(1 << 20, 100), key("/c/a"));
        let [same, old] = [("us", "later"), ("asia", "then")].map(|(region, at)| entry(&key, region, at, b"x"));
        let places = [&same, &old].map(|entry| entry.place().expect("has one"));
        places.iter().for_each(|place| memory.found(*place, 100, &bounds));
        memory.insert(&key, entry(&key, "eu", "later", b"x"), &bounds);
        for (place, entry) in places.into_iter().zip([same, old]) {
            assert!(memory.read(place, Arc::into_inner(entry)));
        }
        assert!(memory.has(&key, &region("us"), &bounds) && !memory.has(&key, &region("asia"), &bounds));
        assert_eq!(memory.next_unsaved().map(|(place, entry)| (place, entry.is_some())), Some((places[1], false)));
        assert_sound(&memory);
    }

    /// Else what is fetched each time would be too old after a restart.
    #[test]
    fn a_file_is_written_again_when_what_it_says_is_old() {
        let key = key("/c/a");
        let bounds = CacheConfig { max_age: Duration::from_secs(80), ..bounds(1 << 20, 100) };
        let asked = |seconds| {
            let at = Instant::now().checked_sub(Duration::from_secs(seconds)).expect("it runs for longer");
            let mut fields = HeaderMap::new();
            fields.insert(LAST_MODIFIED, HeaderValue::from_static("then"));
            Entry::new(&key, (at, &HeaderMap::new()), (StatusCode::OK, &fields), b"x")
                .map(Arc::new)
                .expect("is for all")
        };
        let is_written = |memory: &mut Memory| memory.next_unsaved().is_some();
        for earlier_run in [false, true] {
            let mut memory = Memory::with_files(true);
            match earlier_run {
                true => {
                    memory.found(key.place, 100, &bounds);
                    assert!(memory.read(key.place, Arc::into_inner(asked(20))));
                }
                false => {
                    memory.insert(&key, asked(20), &bounds);
                    assert!(is_written(&mut memory));
                }
            }
            memory.insert(&key, asked(15), &bounds);
            assert!(!is_written(&mut memory), "it says the same, and is not much younger");
            memory.insert(&key, asked(0), &bounds);
            assert!(is_written(&mut memory), "the file is of 20 s ago");
        }
    }

    #[test]
    fn files_are_brought_to_what_is_stored() {
        let (mut memory, bounds, key) = (Memory::with_files(true), bounds(1 << 20, 100), key("/c/a"));
        let first = entry(&key, "eu", "then", b"x");
        let place = first.place().expect("has one");
        memory.insert(&key, first, &bounds);
        assert_eq!(memory.next_unsaved().map(|(place, entry)| (place, entry.is_some())), Some((place, true)));
        memory.insert(&key, entry(&key, "eu", "then", b"x"), &bounds);
        assert!(memory.next_unsaved().is_none(), "it says the same");
        memory.insert(&key, entry(&key, "eu", "later", b"y"), &bounds);
        assert!(memory.next_unsaved().is_some_and(|(_, entry)| entry.is_some()));
        memory.forget(Some(place.path));
        assert_eq!(memory.next_unsaved().map(|(place, entry)| (place, entry.is_some())), Some((place, false)));
        assert!(memory.next_unsaved().is_none());
        // One of an earlier run, not read yet.
        memory.found(place, 100, &bounds);
        assert_eq!((memory.unread(&key), memory.sizes().0), (vec![place], 1));
        memory.forget(None);
        assert_eq!(memory.next_unsaved().map(|(place, entry)| (place, entry.is_some())), Some((place, false)));
        assert_sound(&memory);
    }

    #[test]
    fn what_another_process_wrote_meanwhile_is_taken_but_for_what_is_known_better() {
        let (mut memory, bounds) = (Memory::with_files(false), bounds(1 << 20, 100));
        let [read, own, gone, new] = ["/c/read", "/c/own", "/c/gone", "/c/new"].map(key);
        let stored = |key: &Key| entry(key, "eu", "then", b"x");
        let place = |key: &Key| stored(key).place().expect("has one");
        memory.found(place(&read), 100, &bounds);
        assert!(memory.read(place(&read), Arc::into_inner(stored(&read))));
        memory.insert(&own, stored(&own), &bounds);
        memory.forget(Some(gone.place.path));
        let files = [&read, &own, &gone, &new].map(|key| (place(key), 200)).to_vec();
        memory.take_files(files, &bounds);
        assert_sound(&memory);
        assert_eq!((memory.unread(&read), memory.unread(&new)), (vec![place(&read)], vec![place(&new)]));
        assert!(memory.has(&own, &region("eu"), &bounds) && memory.unread(&gone).is_empty());
        let unsaved: Vec<_> = std::iter::from_fn(|| memory.next_unsaved()).collect();
        let unsaved: Vec<_> = unsaved.into_iter().map(|(place, entry)| (place, entry.is_some())).collect();
        assert_eq!(unsaved, [(place(&gone), false), (place(&own), true)]);
    }

    #[test]
    fn what_another_process_stored_of_other_questions_of_a_path_stays() {
        let (mut memory, bounds) = (Memory::with_files(false), bounds(1 << 20, 100));
        let [own, same, left, seen] = ["/c/a?own", "/c/a?same", "/c/a?left", "/c/a?seen"].map(key);
        let stored = |key: &Key| entry(key, "eu", "then", b"x");
        let place = |key: &Key| stored(key).place().expect("has one");
        memory.insert(&own, stored(&own), &bounds);
        for key in [&same, &seen] {
            memory.found(place(key), 100, &bounds);
            assert!(memory.read(place(key), Arc::into_inner(stored(key))));
        }
        memory.insert(&same, stored(&same), &bounds);
        let files = [&own, &same, &left, &seen].map(|key| (place(key), 200)).to_vec();
        memory.take_files(files, &bounds);
        assert_sound(&memory);
        assert!([&own, &same].iter().all(|key| memory.has(key, &region("eu"), &bounds)));
        assert_eq!((memory.unread(&left), memory.unread(&seen)), (vec![place(&left)], vec![place(&seen)]));
    }

    #[test]
    fn too_many_paths_to_remember_are_all() {
        let (mut memory, bounds, key) = (Memory::with_files(false), bounds(1 << 20, 100), key("/c/a"));
        for path in 0..=MAX_TOLD as u128 {
            memory.forget(Some(path.to_be_bytes()));
        }
        memory.take_files(vec![(key.place, 100)], &bounds);
        assert_eq!((memory.sizes().0, memory.next_unsaved().is_some()), (0, true));
    }
}
