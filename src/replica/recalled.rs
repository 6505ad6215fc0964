//! The digests that the store shows as recalled, as far as they were read: refused besides those that have a tombstone here.
//!
//! They are shown for as long as no command has settled them, so they neither age nor take the place of a tombstone.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasherDefault;

use super::entry::DigestHasher;
use crate::token::Digest;

/// See the module's documentation. Bounded by whoever reads them, see [`RECALLS_TAKEN`](crate::store::RECALLS_TAKEN).
#[derive(Debug, Default)]
pub(super) struct Recalled {
    /// In which reading each was seen last.
    seen: HashMap<Digest, u8, BuildHasherDefault<DigestHasher>>,
    reading: u8,
    /// Those that it showed, and shows no more although they are active there: it has lost them again.
    lost: HashSet<Digest, BuildHasherDefault<DigestHasher>>,
}

impl Recalled {
    /// Begins a reading. One that was begun before and not ended is given up; what it brought stays.
    pub(super) fn begin(&mut self) {
        self.reading = self.reading.wrapping_add(1);
    }

    pub(super) fn insert(&mut self, digest: Digest) {
        self.lost.remove(&digest);
        self.seen.insert(digest, self.reading);
    }

    /// Ends a reading, which has shown all that there are: others are forgotten, but for those that are active in the store.
    pub(super) fn end(&mut self, is_active: impl Fn(&Digest) -> bool) {
        let (reading, lost) = (self.reading, &mut self.lost);
        self.seen.retain(|digest, seen| {
            let is_shown = *seen == reading;
            if !is_shown && is_active(digest) {
                lost.insert(*digest);
            }
            is_shown
        });
        self.seen.shrink_to_fit();
        self.lost.retain(is_active);
    }

    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.is_shown(digest) || self.lost.contains(digest)
    }

    /// Whether the store shows it, as far as is known: what is not has to be recalled again.
    pub(super) fn is_shown(&self, digest: &Digest) -> bool {
        self.seen.contains_key(digest)
    }

    pub(super) fn remove(&mut self, digest: &Digest) {
        self.seen.remove(digest);
        self.lost.remove(digest);
    }

    /// How many different ones the store showed since the reading began that was ended last.
    pub(super) fn shown(&self) -> usize {
        self.seen.len()
    }

    pub(super) fn len(&self) -> usize {
        self.seen.len() + self.lost.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_whole_reading_no_longer_shows_is_forgotten_unless_it_is_kept() {
        let digest = |number: u8| Digest::of(&[number]);
        let mut recalled = Recalled::default();
        recalled.begin();
        (0..4).for_each(|number| recalled.insert(digest(number)));
        recalled.end(|_| false);
        recalled.begin();
        recalled.insert(digest(1));
        assert_eq!(recalled.len(), 4, "the reading has not come to its end");
        recalled.begin();
        recalled.insert(digest(2));
        recalled.end(|active| *active == digest(3));
        assert!((0..4).map(|number| recalled.contains(&digest(number))).eq([false, false, true, true]));
        assert!(
            (0..4).map(|number| recalled.is_shown(&digest(number))).eq([false, false, true, false]),
            "3 was lost again"
        );
        recalled.insert(digest(3));
        assert!(recalled.is_shown(&digest(3)));
    }
}
