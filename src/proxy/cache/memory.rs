//! The answers that are in memory, bounded in number, bytes and age. What was used longest ago goes first.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};

use super::CacheConfig;
use super::entry::Entry;
use super::key::{Key, Part, Place};

/// What an entry takes besides its own bytes: its places in the two maps, and what knows of its memory.
const OVERHEAD: usize = 384;

/// Forms of one answer that are stored: more differ in what no agent says, and each is looked at for every request.
const MAX_FORMS: usize = 16;

/// The stored answers.
#[derive(Debug, Default)]
pub(super) struct Memory {
    entries: BTreeMap<Place, Slot>,
    /// By when they were used, the longest ago first.
    order: BTreeMap<u64, Place>,
    uses: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Slot {
    entry: Arc<Entry>,
    used: u64,
}

impl Memory {
    /// The answer to a request with these fields.
    pub(super) fn find(&mut self, key: &Key, asked: &HeaderMap, bounds: &CacheConfig) -> Option<Arc<Entry>> {
        let answers = self.forms(key, bounds).filter(|(_, entry)| entry.answers(key, asked));
        // Of several, one in the very coding that was asked for: the others have none.
        let (place, entry) = answers.max_by_key(|(_, entry)| entry.is_coded_for(key))?;
        let (place, entry) = (*place, Arc::clone(entry));
        self.touch(place);
        Some(entry)
    }

    /// The `Last-Modified` of any form of it.
    pub(super) fn last_modified(&self, key: &Key, bounds: &CacheConfig) -> Option<(HeaderValue, Arc<Entry>)> {
        let newest = self.forms(key, bounds).filter_map(|(_, entry)| Some((entry.last_modified()?, entry)));
        let newest = newest.max_by_key(|(_, entry)| entry.stored);
        newest.map(|(modified, entry)| (modified, Arc::clone(entry)))
    }

    /// What is stored of one question, in every form.
    fn forms(&self, key: &Key, bounds: &CacheConfig) -> impl Iterator<Item = (&Place, &Arc<Entry>)> {
        let Place { path, subject, .. } = key.place(b"");
        let max_age = bounds.max_age;
        let slots = self.entries.range(Place { path, subject, form: Part::default() }..);
        let slots = slots.take_while(move |(place, _)| (place.path, place.subject) == (path, subject));
        slots
            .map(|(place, slot)| (place, &slot.entry))
            .filter(move |(_, entry)| entry.stored.elapsed() <= max_age && entry.is_of(key))
    }

    fn touch(&mut self, place: Place) {
        self.uses += 1;
        if let Some(slot) = self.entries.get_mut(&place) {
            self.order.remove(&slot.used);
            slot.used = self.uses;
            self.order.insert(slot.used, place);
        }
    }

    /// Stores an answer, and makes room for it. What another form of it says that was modified at another time is not true any more.
    pub(super) fn insert(&mut self, key: &Key, entry: Arc<Entry>, bounds: &CacheConfig) {
        let Some(place) = entry.place() else { return };
        let modified = entry.last_modified();
        let forms: Vec<(Place, bool, u64)> = self
            .forms(key, bounds)
            .map(|(place, other)| (*place, other.last_modified() == modified, self.entries[place].used))
            .collect();
        for (other, ..) in forms.iter().filter(|(_, is_true, _)| !is_true) {
            self.remove(other);
        }
        if forms.len() >= MAX_FORMS
            && let Some((oldest, ..)) = forms.iter().min_by_key(|(.., used)| *used)
        {
            self.remove(oldest);
        }
        self.remove(&place);
        self.bytes += entry.len() + OVERHEAD;
        self.entries.insert(place, Slot { entry, used: 0 });
        self.touch(place);
        while self.bytes > bounds.max_bytes.get() || self.entries.len() > bounds.max_entries.get() {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, place: &Place) {
        if let Some(slot) = self.entries.remove(place) {
            self.order.remove(&slot.used);
            self.bytes -= slot.entry.len() + OVERHEAD;
        }
    }

    /// Forgets all of a path. How many there were.
    pub(super) fn forget(&mut self, path: Part) -> usize {
        let first = Place { path, subject: Part::default(), form: Part::default() };
        let places: Vec<Place> =
            self.entries.range(first..).map(|(place, _)| *place).take_while(|place| place.path == path).collect();
        places.iter().for_each(|place| self.remove(place));
        places.len()
    }
}
