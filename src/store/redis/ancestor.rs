//! Where the store's past and a replica's part: the latest of its places that the change log shows.
//!
//! A replica remembers hundreds of them, and a fleet behind one thin line looks at one time. So a few are asked about at once:
//! heads are chained, and thus the log shows all places from the common one back to its own beginning, and none after it.

use std::ops::Range;

use super::fault::Fault;
use super::layout::Key;
use super::{Access, script};
use crate::store::{Head, Revision};

const ANCESTOR: &str = include_str!("ancestor.lua");

/// Where the log shows the first of these heads, which are those at a revision, the one before, and so on.
pub(super) async fn ancestor(access: &Access, latest: Revision, heads: &[Head]) -> Result<Option<Revision>, Fault> {
    let mut search = Search::of(heads.len());
    while !search.unknown.is_empty() {
        let places = search.places();
        let mut question = script("EVAL_RO", ANCESTOR, &[access.layout.key(Key::Log)]);
        for place in &places {
            question.arg(latest.0.saturating_sub(*place as u64)).arg(heads[*place].to_string());
        }
        let (shown, oldest): (usize, Option<u64>) = access.ask(&question).await?;
        let reaches = oldest.and_then(|oldest| (latest.0 + 1).checked_sub(oldest)).unwrap_or(0);
        search.learn(&places, shown.checked_sub(1), usize::try_from(reaches).unwrap_or(usize::MAX));
    }
    Ok(search.found.map(|place| Revision(latest.0 - place as u64)))
}

/// Of places in a row, the first that the log shows.
struct Search {
    /// Of these it is not known. It shows none before.
    unknown: Range<usize>,
    found: Option<usize>,
}

impl Search {
    fn of(places: usize) -> Self {
        Self { unknown: 0..places, found: None }
    }

    /// Which to ask about: close together at first, as few are lost in most cases.
    fn places(&self) -> Vec<usize> {
        let steps = (0..usize::BITS).map(|power| (1_usize << power) - 1);
        steps
            .map(|step| self.unknown.start.saturating_add(step))
            .take_while(|place| *place < self.unknown.end)
            .collect()
    }

    /// Takes which of them was the first to be shown, by a log that reaches back over so many.
    fn learn(&mut self, places: &[usize], shown: Option<usize>, reaches: usize) {
        self.unknown.end = self.unknown.end.min(reaches);
        let shown = shown.and_then(|at| places.get(at));
        if let Some(place) = shown {
            (self.unknown.end, self.found) = (*place, Some(*place));
        }
        let is_later = |place: &&usize| shown.is_none_or(|shown| *place < shown) && **place < self.unknown.end;
        if let Some(last) = places.iter().rev().find(is_later) {
            self.unknown.start = last + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found among 512 places, of which the log reaches back over some, and shows those from one on; and after how many
    /// questions.
    fn found(first: usize, reaches: usize) -> (Option<usize>, usize) {
        let (mut search, mut questions) = (Search::of(512), 0);
        while !search.unknown.is_empty() {
            let places = search.places();
            assert!((1..=10).contains(&places.len()), "{places:?}");
            let is_shown = |place: &usize| (first..reaches).contains(place);
            search.learn(&places, places.iter().position(is_shown), reaches);
            questions += 1;
        }
        (search.found, questions)
    }

    #[test]
    fn the_first_that_is_shown_is_found_by_a_few_questions() {
        for reaches in [0, 1, 2, 3, 100, 511, 512, 10_000] {
            for first in 0..=512 {
                let (found, questions) = found(first, reaches);
                assert_eq!(found, (first < reaches.min(512)).then_some(first), "{first} of {reaches}");
                assert!(questions <= 10, "{questions} for {first} of {reaches}");
            }
        }
        assert_eq!(
            (found(0, 512).1, found(1, 512).1, found(2, 512).1),
            (1, 1, 2),
            "what is lost is little in most cases"
        );
    }
}
