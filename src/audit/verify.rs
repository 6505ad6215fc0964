//! Whether a trail is what was written: nothing missing, nothing changed.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::chain::{Head, Members, START};
use super::event::Action;
use crate::store::AuditLine;

/// Something that is wrong with a trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub enum Finding {
    /// These are not there, and it was not retention that removed them.
    Missing {
        /// The first of them.
        from: u64,
        /// The last.
        to: u64,
    },
    /// It is not what it was when it was chained.
    Changed {
        /// Which one.
        seq: u64,
    },
    /// It does not follow the one that is before it.
    Unlinked {
        /// Which one.
        seq: u64,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { from, to } if from == to => write!(f, "entry {from} is missing"),
            Self::Missing { from, to } => write!(f, "entries {from} to {to} are missing"),
            Self::Changed { seq } => write!(f, "entry {seq} was changed: its hash is another one"),
            Self::Unlinked { seq } => {
                write!(f, "entry {seq} does not follow the one before it: one of them was replaced")
            }
        }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How many lines there are.
    pub entries: u64,
    /// The number of the first one.
    pub first: Option<u64>,
    /// The end of the trail.
    pub head: Option<Head>,
    /// What is wrong, in the order of the trail: the first thousand.
    pub findings: Vec<Finding>,
    /// How many more.
    pub more: u64,
}

/// Findings that are listed.
const MOST: usize = 1000;

/// Looks at the lines of a trail one after the other.
#[derive(Debug, Default)]
pub struct Verifier {
    /// It may begin anywhere.
    is_part: bool,
    entries: u64,
    /// Number of the first one, and the hash that it names.
    first: Option<(u64, String)>,
    head: Option<Head>,
    /// What is said to have been removed: up to which line, with which hash.
    removed: HashSet<(u64, String)>,
    findings: Vec<Finding>,
    more: u64,
}

/// An entry that retention leaves.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Anchor {
    action: String,
    through: u64,
    through_hash: String,
}

impl Verifier {
    /// For a part of a trail, as a file may have it: it begins anywhere.
    #[must_use]
    pub fn of_part() -> Self {
        Self { is_part: true, ..Self::default() }
    }

    /// The next line, in the order of the numbers.
    pub fn add(&mut self, line: &AuditLine) {
        self.entries += 1;
        let members = Members::of(line);
        let is_sound = members.is_some_and(|members| members.is_of(line));
        if !is_sound {
            self.find(Finding::Changed { seq: line.seq });
        }
        match (self.head.take(), members) {
            (None, members) => {
                let previous = members.map_or_else(String::new, |members| members.previous.to_owned());
                self.first = Some((line.seq, previous));
            }
            (Some(head), _) if line.seq > head.seq + 1 => {
                self.find(Finding::Missing { from: head.seq + 1, to: line.seq - 1 });
            }
            (Some(head), Some(members)) if is_sound && members.previous != head.hash => {
                self.find(Finding::Unlinked { seq: line.seq });
            }
            (Some(_), _) => {}
        }
        if is_sound
            && let Ok(anchor) = serde_json::from_slice::<Anchor>(&line.text)
            && anchor.action == Action::AuditTrim.name()
        {
            self.removed.insert((anchor.through, anchor.through_hash));
        }
        self.head = Some(Head::of(line));
    }

    fn find(&mut self, finding: Finding) {
        match self.findings.len() < MOST {
            true => self.findings.push(finding),
            false => self.more += 1,
        }
    }

    /// What came of it.
    #[must_use]
    pub fn verdict(mut self) -> Verdict {
        // Where a trail begins later than at its beginning, an entry must say so that retention has left.
        let first = self.first.as_ref().map(|(first, _)| *first);
        let is_whole_before = match self.first.take() {
            None => true,
            Some((1, previous)) => previous == START || self.findings.contains(&Finding::Changed { seq: 1 }),
            Some((first, previous)) => self.is_part || self.removed.contains(&(first - 1, previous)),
        };
        match first {
            Some(1) if !is_whole_before => self.findings.insert(0, Finding::Unlinked { seq: 1 }),
            Some(first) if !is_whole_before => self.findings.insert(0, Finding::Missing { from: 1, to: first - 1 }),
            _ => {}
        }
        let Self { entries, head, findings, more, .. } = self;
        Verdict { entries, first, head, findings, more }
    }
}

#[cfg(test)]
mod tests {
    use super::super::chain::tests::trail;
    use super::*;

    fn verdict<'a>(lines: impl IntoIterator<Item = &'a AuditLine>) -> Verdict {
        let mut verifier = Verifier::default();
        lines.into_iter().for_each(|line| verifier.add(line));
        verifier.verdict()
    }

    fn findings<'a>(lines: impl IntoIterator<Item = &'a AuditLine>) -> Vec<Finding> {
        verdict(lines).findings
    }

    #[test]
    fn a_whole_trail_is_found_whole() {
        let lines = trail(5);
        let found = verdict(&lines);
        assert_eq!((found.entries, found.first, found.findings.len()), (5, Some(1), 0));
        assert_eq!(found.head, Some(Head::of(&lines[4])));
        assert_eq!(verdict([]).head, None);
    }

    #[test]
    fn every_change_and_every_gap_is_found() {
        let lines = trail(5);
        for at in 0..5 {
            let seq = at as u64 + 1;
            for byte in 0..lines[at].text.len() {
                let mut changed = lines.clone();
                changed[at].text[byte] ^= 1;
                let found = findings(&changed);
                // The hash that a line names may be what was changed: then the next one follows another.
                assert!(found.contains(&Finding::Changed { seq }), "byte {byte} of {seq}: {found:?}");
            }
            let mut gone = lines.clone();
            gone.remove(at);
            let expected = if seq == 5 { vec![] } else { vec![Finding::Missing { from: seq, to: seq }] };
            assert_eq!(findings(&gone), expected, "only a head that is known elsewhere shows a cut tail");
        }
    }

    #[test]
    fn a_line_that_was_made_anew_does_not_fit_the_next_one() {
        let mut lines = trail(4);
        lines[1] = Head::of(&lines[0]).next(br#"{"number":22}"#).0;
        assert_eq!(findings(&lines), [Finding::Unlinked { seq: 3 }]);
        lines[0] = Head { seq: 0, hash: "1".repeat(64) }.next(br#"{"number":1}"#).0;
        assert_eq!(findings(&lines)[0], Finding::Unlinked { seq: 1 });
    }

    #[test]
    fn what_retention_removed_is_vouched_for_by_the_entry_that_it_left() {
        let mut lines = trail(4);
        let (at, last) = (Head::of(&lines[1]), Head::of(&lines[3]));
        let anchor =
            |through: u64| format!(r#"{{"action":"audit.trim","through":{through},"throughHash":"{}"}}"#, at.hash);
        lines.push(last.next(anchor(2).as_bytes()).0);
        assert_eq!(findings(&lines[2..]), []);
        assert_eq!(findings(&lines[1..4]), [Finding::Missing { from: 1, to: 1 }], "without it");
        assert_eq!(findings(&lines[3..]), [Finding::Missing { from: 1, to: 3 }], "nor for more than it says");
        lines[4] = last.next(anchor(3).as_bytes()).0;
        assert_eq!(findings(&lines[3..]), [Finding::Missing { from: 1, to: 3 }], "nor with another hash");
    }
}
