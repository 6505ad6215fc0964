//! Places in sorted lists. A list goes on where a token was, whatever became of that token: what is made or deleted meanwhile
//! puts no other one on two pages, or on none.

use std::cmp::Ordering;
use std::fmt;

use jiff::Timestamp;

use crate::token::TokenId;
use crate::words::words;

words! {
    /// What a list is sorted by.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum SortKey ("orders") {
        /// When they were made.
        Created = "created",
        /// What people call them.
        Description = "description",
        /// The owner's name.
        Owner = "owner",
        /// When they were last used. Those that were not, or of which it is not known, are as those used first of all.
        LastUsed = "last-used",
        /// When they expire. Those that never do, and those that were revoked, are as those that do so last of all.
        Expires = "expires",
    }
}

/// The order of a list. What is equal is in the order of making, the newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sort {
    /// By what.
    pub by: SortKey,
    /// The largest first.
    pub is_descending: bool,
}

impl Default for Sort {
    /// The newest first.
    fn default() -> Self {
        Self { by: SortKey::Created, is_descending: true }
    }
}

/// What of a token a list is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key<'a> {
    /// Its id alone.
    Id,
    Text(&'a str),
    Moment(Option<Timestamp>),
}

impl Sort {
    /// How two tokens follow each other.
    pub(super) fn compare(self, (a, a_id): (Key<'_>, TokenId), (b, b_id): (Key<'_>, TokenId)) -> Ordering {
        let order = if self.by == SortKey::Created { a_id.cmp(&b_id) } else { a.cmp(&b) };
        let order = if self.is_descending { order.reverse() } else { order };
        order.then_with(|| b_id.cmp(&a_id))
    }
}

/// A place in a list: that of a token as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    id: TokenId,
    key: OwnKey,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum OwnKey {
    Id,
    Text(Box<str>),
    Moment(Option<Timestamp>),
}

impl Mark {
    pub(super) fn new(id: TokenId, key: Key<'_>) -> Self {
        let key = match key {
            Key::Id => OwnKey::Id,
            Key::Text(text) => OwnKey::Text(text.into()),
            Key::Moment(moment) => OwnKey::Moment(moment),
        };
        Self { id, key }
    }

    pub(super) fn place(&self) -> (Key<'_>, TokenId) {
        let key = match &self.key {
            OwnKey::Id => Key::Id,
            OwnKey::Text(text) => Key::Text(text),
            OwnKey::Moment(moment) => Key::Moment(*moment),
        };
        (key, self.id)
    }

    /// Reads what one is written as, in a list that is sorted so. `None`: it is none.
    pub fn parse(text: &str, by: SortKey) -> Option<Self> {
        let (id, key) = text.split_once('.').map_or((text, None), |(id, key)| (id, Some(key)));
        let key = match (by, key) {
            (SortKey::Created, None) => OwnKey::Id,
            // Its end is marked: who reads a form may trim what is in it.
            (SortKey::Description | SortKey::Owner, Some(text)) => {
                OwnKey::Text(unescaped(text.strip_suffix('.')?)?.into())
            }
            (SortKey::LastUsed | SortKey::Expires, Some("")) => OwnKey::Moment(None),
            (SortKey::LastUsed | SortKey::Expires, Some(text)) => OwnKey::Moment(Some(text.parse().ok()?)),
            _ => return None,
        };
        Some(Self { id: id.parse().ok()?, key })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            OwnKey::Id => write!(f, "{}", self.id),
            OwnKey::Text(text) => write!(f, "{}.{}.", self.id, escaped(text)),
            OwnKey::Moment(None) => write!(f, "{}.", self.id),
            OwnKey::Moment(Some(moment)) => write!(f, "{}.{moment}", self.id),
        }
    }
}

/// In a single line: forms have line ends of their own.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r")
}

fn unescaped(text: &str) -> Option<String> {
    let mut symbols = text.chars();
    let mut plain = String::new();
    while let Some(symbol) = symbols.next() {
        plain.push(match symbol {
            '\\' => match symbols.next()? {
                'n' => '\n',
                'r' => '\r',
                '\\' => '\\',
                _ => return None,
            },
            symbol => symbol,
        });
    }
    Some(plain)
}

/// Which part of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Part {
    /// Its beginning.
    #[default]
    First,
    /// What follows there; its end, where nothing does any more.
    After(Mark),
    /// What leads there; its beginning, where that is less than a part.
    Before(Mark),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_what_is_written_of_it() {
        let id = TokenId::from_u64(7);
        let moment = "2026-11-27T08:00:00.123456789Z".parse().ok();
        for (by, key) in [
            (SortKey::Created, Key::Id),
            (SortKey::Description, Key::Text("plant 7.\nabc123")),
            (SortKey::Description, Key::Text("c:\\new\\\r\n")),
            (SortKey::Owner, Key::Text("")),
            (SortKey::LastUsed, Key::Moment(None)),
            (SortKey::LastUsed, Key::Moment(moment)),
            (SortKey::Expires, Key::Moment(Some(Timestamp::MAX))),
        ] {
            let mark = Mark::new(id, key);
            assert!(!mark.to_string().contains(['\n', '\r']), "{mark}");
            assert_eq!(Mark::parse(&mark.to_string(), by), Some(mark), "{by}");
        }
        for (text, by) in
            [("", SortKey::Created), ("0000000000007.x", SortKey::Created), ("0000000000007", SortKey::Owner)]
        {
            assert_eq!(Mark::parse(text, by), None, "{text}");
        }
        assert_eq!(Mark::parse("0000000000007.soon", SortKey::Expires), None);
    }
}
