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
use super::unsaved::Unsaved;

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
        Self { unsaved: Some(Unsaved::new(are_own)), ..Self::default() }
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
        let told = unsaved.take_over();
        let is_read = |place: &&Place| !unsaved.is_to_be_written(place);
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
        self.unsaved.as_ref().is_some_and(Unsaved::is_beside)
    }

    /// The Controller, or an operator, has said something of this path, or of one question of it, or of all.
    fn is_told(&mut self, of: Option<(Part, Option<Part>)>) {
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.is_told(of);
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
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.insert(place, is_stored);
        }
    }

    /// The file there could not be brought to what is stored.
    pub(super) fn not_saved(&mut self, place: Place) {
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.has_failed(place);
        }
    }

    /// What failed before is tried again.
    pub(super) fn retry(&mut self) {
        let failed = self.unsaved.as_mut().map(Unsaved::take_failed);
        failed.into_iter().flatten().for_each(|place| self.unsave(place));
    }

    /// Whether there is a file that should not be there.
    pub(super) fn is_left(&self, place: &Place) -> bool {
        !self.entries.contains_key(place) && self.unsaved.as_ref().is_some_and(|unsaved| unsaved.is_left(place))
    }

    /// Forgets all of a path, or everything: where that was, also where only a file was left that could not be removed.
    pub(super) fn forget(&mut self, path: Option<Part>) -> BTreeSet<Place> {
        self.outdated.forget(path);
        self.is_told(path.map(|path| (path, None)));
        let first = Place { path: path.unwrap_or_default(), subject: Part::default(), form: Part::default() };
        let is_meant = |place: &Place| path.is_none_or(|path| place.path == path);
        let left = self.unsaved.iter().flat_map(Unsaved::left);
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
        if self.unsaved.is_none() || self.is_beside() {
            return;
        }
        let is_of_this_run = |slot: &Slot| slot.entry().is_some_and(|entry| entry.earlier.is_none());
        let places: Vec<Place> =
            self.entries.iter().filter(|(_, slot)| is_of_this_run(slot)).map(|(place, _)| *place).collect();
        places.into_iter().for_each(|place| self.unsave(place));
    }

    /// One file that is not as it should be, and what it should hold; `None` for nothing. It counts as written from here on.
    pub(super) fn next_unsaved(&mut self) -> Option<(Place, Option<Arc<Entry>>)> {
        let place = self.unsaved.as_mut()?.pop()?;
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

#[cfg(test)]
mod tests;
