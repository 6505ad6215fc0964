//! Up to when what was asked for is outdated: the fetches that are under way then do not bring back what was forgotten meanwhile, and
//! do not replace what an agent was given since.
//!
//! Compared in one place, under the memory's lock, when an answer is to be stored: so it is the same whichever fetch brings it, how long
//! that took, and what it waited for. A moment matters while a fetch that began before it may be under way, so few are remembered; where
//! there are more, the latest is that of everything, and all that is lost is that what is being fetched is not stored.

use std::collections::BTreeMap;

use http::HeaderValue;

use super::entry::Entry;
use super::key::{Part, Place};
use crate::clock::Instant;

/// Most moments that are remembered.
const MAX_MOMENTS: usize = 1024;

/// The moments before which what was asked for is outdated.
#[derive(Debug)]
pub(super) struct Outdated {
    all: Instant,
    paths: BTreeMap<Part, Instant>,
    /// By path and subject.
    subjects: BTreeMap<(Part, Part), Answered>,
}

/// What an agent was answered that is not stored.
#[derive(Debug)]
pub(super) struct Answered {
    /// When that was asked for.
    pub(super) asked_at: Instant,
    /// Its `Last-Modified`: what has the same one is true still. `None`: whatever was asked for before is not.
    pub(super) modified: Option<Option<HeaderValue>>,
}

impl Default for Outdated {
    fn default() -> Self {
        Self { all: Instant::since_boot(std::time::Duration::ZERO), paths: BTreeMap::new(), subjects: BTreeMap::new() }
    }
}

impl Outdated {
    /// All of a path, or everything, is forgotten now.
    pub(super) fn forget(&mut self, path: Option<Part>) {
        let now = Instant::now();
        match path {
            Some(path) => drop(self.paths.insert(path, now)),
            None => self.all = now,
        }
        self.bound();
    }

    /// An agent was answered so.
    pub(super) fn answered(&mut self, place: &Place, answered: Answered) {
        let subject = (place.path, place.subject);
        if self.subjects.get(&subject).is_none_or(|before| before.asked_at <= answered.asked_at) {
            self.subjects.insert(subject, answered);
        }
        self.bound();
    }

    fn bound(&mut self) {
        if self.paths.len() + self.subjects.len() > MAX_MOMENTS {
            *self = Self { all: Instant::now(), ..Self::default() };
        }
    }

    /// Whether this answer is.
    pub(super) fn has(&self, place: &Place, entry: &Entry) -> bool {
        let is_before = |moment: &Instant| entry.asked_at <= *moment;
        is_before(&self.all)
            || self.paths.get(&place.path).is_some_and(is_before)
            || self.subjects.get(&(place.path, place.subject)).is_some_and(|answered| answered.outdates(entry))
    }
}

impl Answered {
    /// Nothing that can be compared.
    pub(super) fn another() -> Self {
        Self { asked_at: Instant::now(), modified: None }
    }

    /// Whether this is not true any more.
    pub(super) fn outdates(&self, entry: &Entry) -> bool {
        entry.asked_at <= self.asked_at
            && self.modified.as_ref().is_none_or(|modified| *modified != entry.last_modified())
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::super::key::Key;
    use super::*;

    fn key(target: &str) -> Key {
        Key::new(target.to_owned(), Vec::new(), String::new(), None)
    }

    fn asked_now(key: &Key) -> Entry {
        let asked = (Instant::now(), &HeaderMap::new());
        Entry::new(key, asked, (StatusCode::OK, &HeaderMap::new()), b"x").expect("is for all")
    }

    #[test]
    fn what_was_asked_for_since_is_not() {
        let (mut outdated, one, other) = (Outdated::default(), key("/c/one"), key("/c/other"));
        let (before, others) = (asked_now(&one), asked_now(&other));
        outdated.forget(Some(one.place.path));
        assert!(outdated.has(&one.place, &before) && !outdated.has(&other.place, &others));
        assert!(!outdated.has(&one.place, &asked_now(&one)));
        outdated.forget(None);
        assert!(outdated.has(&other.place, &others) && !outdated.has(&one.place, &asked_now(&one)));
    }

    #[test]
    fn what_says_the_same_is_not() {
        let (mut outdated, key) = (Outdated::default(), key("/c/one"));
        let before = asked_now(&key);
        outdated.answered(&key.place, Answered { modified: Some(before.last_modified()), ..Answered::another() });
        assert!(!outdated.has(&key.place, &before));
        outdated.answered(
            &key.place,
            Answered { modified: Some(Some(HeaderValue::from_static("later"))), ..Answered::another() },
        );
        assert!(outdated.has(&key.place, &before));
        // One that comes late does not count.
        outdated.answered(&key.place, Answered { asked_at: before.asked_at, modified: Some(before.last_modified()) });
        assert!(outdated.has(&key.place, &before));
        outdated.answered(&key.place, Answered::another());
        assert!(outdated.has(&key.place, &before) && !outdated.has(&key.place, &asked_now(&key)));
    }

    #[test]
    fn too_many_to_remember_are_everything() {
        let (mut outdated, key) = (Outdated::default(), key("/c/one"));
        let before = asked_now(&key);
        for path in 0..=MAX_MOMENTS as u128 {
            assert!(!outdated.has(&key.place, &before));
            outdated.forget(Some(path.to_be_bytes()));
        }
        assert!(outdated.has(&key.place, &before) && !outdated.has(&key.place, &asked_now(&key)));
        assert!(outdated.paths.is_empty());
    }
}
