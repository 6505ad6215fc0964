//! Which files are not as they should be, and what is known better than the files of another process.
//!
//! While one process takes over from another, the files are the other one's. What this one hears of the Controller meanwhile counts,
//! whatever the other one writes; and what it hears nothing of is left as it is.

use std::collections::BTreeSet;

use super::key::{Part, Place};

/// So many of them are remembered. Two processes have one directory for a moment only.
pub(super) const MAX_TOLD: usize = 10_000;

/// Which files are not as they should be.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
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
pub(super) enum Told {
    /// Of these paths, or of one question each: its subject.
    Some(BTreeSet<(Part, Option<Part>)>),
    /// Of all, or of too many to remember.
    All,
}

impl Unsaved {
    /// Nothing yet: of files that are this process's, or not yet.
    pub(super) fn new(are_own: bool) -> Self {
        Self { told: (!are_own).then(|| Told::Some(BTreeSet::new())), ..Self::default() }
    }

    /// Whether the files are another process's still.
    pub(super) fn is_beside(&self) -> bool {
        self.told.is_some()
    }

    /// The files are this process's from here on. What it was told meanwhile.
    pub(super) fn take_over(&mut self) -> Option<Told> {
        self.told.take()
    }

    /// The Controller, or an operator, has said something of this path, or of one question of it, or of all.
    pub(super) fn is_told(&mut self, of: Option<(Part, Option<Part>)>) {
        match (of, &mut self.told) {
            (_, None | Some(Told::All)) => {}
            (Some(of), Some(Told::Some(known))) if known.len() < MAX_TOLD => drop(known.insert(of)),
            (_, told) => *told = Some(Told::All),
        }
    }

    /// The file there is not as it should be: it has to hold what is stored, or not to be there.
    pub(super) fn insert(&mut self, place: Place, is_stored: bool) {
        for places in [&mut self.removals, &mut self.writes, &mut self.failed] {
            places.remove(&place);
        }
        match is_stored {
            true => drop(self.writes.insert(place)),
            false if !self.is_beside() => drop(self.removals.insert(place)),
            // It is not known yet which files there are to be removed.
            false => {}
        }
    }

    /// Whether the file there is to be written.
    pub(super) fn is_to_be_written(&self, place: &Place) -> bool {
        self.writes.contains(place)
    }

    /// The file there could not be brought to what is stored.
    pub(super) fn has_failed(&mut self, place: Place) {
        self.failed.insert(place);
    }

    /// What failed before, to be tried again.
    pub(super) fn take_failed(&mut self) -> BTreeSet<Place> {
        std::mem::take(&mut self.failed)
    }

    /// Where there may be a file that should not be there, if nothing is stored of it.
    pub(super) fn left(&self) -> impl Iterator<Item = &Place> {
        self.removals.iter().chain(&self.failed)
    }

    /// Whether that is one of them.
    pub(super) fn is_left(&self, place: &Place) -> bool {
        self.removals.contains(place) || self.failed.contains(place)
    }

    /// One of them. It counts as done from here on.
    pub(super) fn pop(&mut self) -> Option<Place> {
        self.removals.pop_first().or_else(|| self.writes.pop_first())
    }
}

impl Told {
    /// Whether it is of what is stored there.
    pub(super) fn has(&self, place: &Place) -> bool {
        match self {
            Self::Some(known) => {
                [None, Some(place.subject)].iter().any(|subject| known.contains(&(place.path, *subject)))
            }
            Self::All => true,
        }
    }
}
