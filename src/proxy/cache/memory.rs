//! Which answers there are, in memory and as files not read yet, bounded together in number and bytes. What was used longest ago goes
//! first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use super::CacheConfig;
use super::entry::Entry;
use super::key::{Key, Part, Place};
use super::outdated::{Outdated, Told};
use crate::clock::Instant;

/// What an entry takes besides its own bytes: its places in the two maps, and what knows of its memory.
const OVERHEAD: usize = 384;

/// Forms of one answer that are stored: more differ in what no agent says, and each is looked at for every request.
const MAX_FORMS: usize = 16;

/// A file that says the same is written again after so long: until then it only makes the answer look older than it is.
const REWRITE: Duration = Duration::from_hours(1);

/// The stored answers.
#[derive(Debug, Default)]
pub(super) struct Memory {
    entries: BTreeMap<Place, Slot>,
    /// By when they were used, the longest ago first.
    order: BTreeMap<u64, Place>,
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
}

#[derive(Debug)]
struct Slot {
    /// `None`: it is a file that was not read yet.
    entry: Option<Arc<Entry>>,
    bytes: usize,
    used: u64,
    hits: u64,
    /// When its file was written.
    saved_at: Option<Instant>,
}

/// One stored answer, for people.
#[derive(Debug)]
pub(super) struct Listed {
    /// `None`: it is a file that was not read yet.
    pub(super) entry: Option<Arc<Entry>>,
    pub(super) bytes: usize,
    pub(super) hits: u64,
}

impl Memory {
    /// With files for all that is stored.
    pub(super) fn with_files() -> Self {
        Self { unsaved: Some(Unsaved::default()), ..Self::default() }
    }

    /// The answer to a request with these fields.
    pub(super) fn find(&mut self, key: &Key, asked: &HeaderMap, bounds: &CacheConfig) -> Option<Arc<Entry>> {
        let (place, entry) = self.answer(key, asked, bounds).map(|(place, entry)| (*place, Arc::clone(entry)))?;
        self.touch(place);
        if let Some(slot) = self.entries.get_mut(&place) {
            slot.hits += 1;
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
        let forms = self.slots(key).filter_map(|(place, slot)| Some((place, slot.entry.as_ref()?)));
        forms.filter(|(_, entry)| entry.is_of(key))
    }

    fn slots(&self, key: &Key) -> impl Iterator<Item = (&Place, &Slot)> {
        let Place { path, subject, .. } = key.place;
        let slots = self.entries.range(Place { path, subject, form: Part::default() }..);
        slots.take_while(move |(place, _)| (place.path, place.subject) == (path, subject))
    }

    /// The files that have to be read before anything is said of this question.
    pub(super) fn unread(&self, key: &Key) -> Vec<Place> {
        self.slots(key).filter(|(_, slot)| slot.entry.is_none()).map(|(place, _)| *place).collect()
    }

    /// The files that were not read yet.
    pub(super) fn all_unread(&self) -> Vec<Place> {
        self.entries.iter().filter(|(_, slot)| slot.entry.is_none()).map(|(place, _)| *place).collect()
    }

    fn touch(&mut self, place: Place) {
        self.uses += 1;
        if let Some(slot) = self.entries.get_mut(&place) {
            self.order.remove(&slot.used);
            slot.used = self.uses;
            self.order.insert(slot.used, place);
        }
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
        let is_same = before.and_then(|slot| slot.entry.as_ref()).is_some_and(|before| before.is_same(&entry));
        let saved_at = before.and_then(|slot| slot.saved_at).filter(|saved| is_same && saved.elapsed() < REWRITE);
        self.put(place, Slot { bytes: entry.len() + OVERHEAD, entry: Some(entry), used: 0, hits, saved_at });
        if saved_at.is_none() {
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
    pub(super) fn outdate(&mut self, key: &Key, told: Told) {
        self.drop_forms(key, |_, form| form.is_none_or(|form| told.outdates(form)));
        self.outdated.tell(&key.place, told);
    }

    /// Forgets the other forms that were modified at another time.
    fn drop_unlike(&mut self, key: &Key, place: &Place, entry: &Entry) {
        let modified = entry.last_modified();
        let is_unlike = |form: &Entry| form.last_modified() != modified;
        self.drop_forms(key, |other, form| other != place && form.is_some_and(is_unlike));
    }

    /// Forgets these forms of an answer; `None`: one that was not read.
    fn drop_forms(&mut self, key: &Key, is_meant: impl Fn(&Place, Option<&Entry>) -> bool) {
        let meant = self.slots(key).filter(|(place, slot)| is_meant(place, slot.entry.as_deref()));
        let meant: Vec<Place> = meant.map(|(place, _)| *place).collect();
        meant.iter().for_each(|place| self.remove(place));
    }

    /// There is a file of so many bytes.
    pub(super) fn found(&mut self, place: Place, bytes: usize, bounds: &CacheConfig) {
        let saved_at = Some(Instant::now());
        self.put(place, Slot { entry: None, bytes: bytes + OVERHEAD, used: 0, hits: 0, saved_at });
        self.make_room(bounds);
    }

    /// A file was read, or turned out to be none. `false`: what was stored meanwhile is newer.
    pub(super) fn read(&mut self, place: Place, entry: Option<Entry>) -> bool {
        if self.entries.get(&place).is_none_or(|slot| slot.entry.is_some()) {
            return false;
        }
        match entry.and_then(|entry| Some((entry.key()?, entry))) {
            Some((key, entry)) if self.is_late(&key, &place, &entry) => self.remove(&place),
            Some((key, entry)) => {
                self.drop_unlike(&key, &place, &entry);
                self.entries.entry(place).and_modify(|slot| slot.entry = Some(Arc::new(entry)));
            }
            None => self.take(&place),
        }
        true
    }

    fn put(&mut self, place: Place, slot: Slot) {
        self.take(&place);
        self.bytes += slot.bytes;
        self.entries.insert(place, slot);
        self.touch(place);
    }

    fn make_room(&mut self, bounds: &CacheConfig) {
        while self.bytes > bounds.max_bytes.get() || self.entries.len() > bounds.max_entries.get() {
            let Some((_, oldest)) = self.order.first_key_value().map(|(used, place)| (*used, *place)) else { break };
            self.remove(&oldest);
        }
    }

    fn take(&mut self, place: &Place) {
        if let Some(slot) = self.entries.remove(place) {
            self.order.remove(&slot.used);
            self.bytes -= slot.bytes;
        }
    }

    fn remove(&mut self, place: &Place) {
        self.take(place);
        self.unsave(*place);
    }

    /// The file there is not as it should be.
    fn unsave(&mut self, place: Place) {
        let is_stored = self.entries.contains_key(&place);
        let Some(Unsaved { removals, writes, failed }) = &mut self.unsaved else { return };
        for places in [&mut *removals, &mut *writes, failed] {
            places.remove(&place);
        }
        if is_stored { writes } else { removals }.insert(place);
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
        let is_old = |slot: &Slot| slot.entry.as_ref().is_some_and(|entry| entry.ran_for() > bounds.max_age);
        let old: Vec<Place> = self.entries.iter().filter(|(_, slot)| is_old(slot)).map(|(place, _)| *place).collect();
        old.iter().for_each(|place| self.remove(place));
    }

    /// Every file that was written in this run of the machine has to be written again.
    pub(super) fn unsave_all(&mut self) {
        let is_of_this_run = |slot: &Slot| slot.entry.as_ref().is_some_and(|entry| entry.earlier.is_none());
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
            slot.saved_at = Some(Instant::now());
            slot.entry.clone()
        });
        Some((place, entry))
    }

    /// How many there are, and how many bytes they take.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }

    /// All of them.
    pub(super) fn list(&self) -> impl Iterator<Item = Listed> {
        self.entries.values().map(|Slot { entry, bytes, hits, .. }| Listed {
            entry: entry.clone(),
            bytes: bytes - OVERHEAD,
            hits: *hits,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use http::StatusCode;
    use http::header::{LAST_MODIFIED, VARY};

    use super::*;

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
        let bytes: usize = memory.entries.values().map(|slot| slot.bytes).sum();
        assert_eq!((memory.bytes, memory.order.len()), (bytes, memory.entries.len()));
        assert!(memory.order.iter().all(|(used, place)| memory.entries[place].used == *used));
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
        assert_eq!(found.body(), b"new".as_slice());
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
        let (mut memory, bounds, key) = (Memory::with_files(), bounds(1 << 20, 100), key("/c/a"));
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

    #[test]
    fn files_are_brought_to_what_is_stored() {
        let (mut memory, bounds, key) = (Memory::with_files(), bounds(1 << 20, 100), key("/c/a"));
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
}
