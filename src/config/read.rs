//! Reading values out of what was written: each reader names the key, and what it finds fault with is noted, with the
//! place, and reading goes on. A key that nobody reads is unknown: there is no second list of keys to keep in step.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::problem::{Problem, shown_name};
use super::raw::{Node, Place, Table, Value};
use crate::units::{InvalidDuration, format_size, parse_duration, parse_size};

/// Every key there is, by its path without list positions (`listener.address`).
pub(super) type Keys = BTreeMap<String, Kind>;

/// What stands under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A value.
    Value,
    /// A table with keys of its own.
    Section,
    /// A list of such tables.
    Sections,
}

/// Collects what readers ask for, and what they find.
#[derive(Default)]
pub(super) struct Reader {
    problems: RefCell<Vec<Problem>>,
    keys: RefCell<Keys>,
    /// Pretends that each list of tables has an empty one, so that its keys are asked for too.
    only_keys: bool,
}

impl Reader {
    /// Reads an empty configuration with `read`, to learn which keys it asks for.
    pub(super) fn learn_keys<T>(read: impl FnOnce(&Section<'_>) -> T) -> Keys {
        let reader = Self { only_keys: true, ..Self::default() };
        read(&reader.root(None));
        reader.keys.into_inner()
    }

    pub(super) fn root<'a>(&'a self, root: Option<&'a Table>) -> Section<'a> {
        Section { reader: self, place: None, table: root, path: String::new() }
    }

    pub(super) fn note(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    fn know(&self, path: &str, kind: Kind) {
        self.keys.borrow_mut().insert(generic(path), kind);
    }
}

/// The path with list positions removed.
fn generic(path: &str) -> String {
    let parts = path.split('.').map(|part| part.split_once('[').map_or(part, |(name, _)| name));
    parts.collect::<Vec<_>>().join(".")
}

/// One table, or the lack of it: then every key has its default.
#[derive(Clone)]
pub(super) struct Section<'a> {
    reader: &'a Reader,
    place: Option<&'a Place>,
    table: Option<&'a Table>,
    path: String,
}

impl<'a> Section<'a> {
    /// Whether it was written at all.
    pub(super) fn is_written(&self) -> bool {
        self.table.is_some()
    }

    pub(super) fn node(&self, key: &str) -> Option<&'a Node> {
        self.table?.get(key)
    }

    /// Where the key's value was written, or else the section.
    pub(super) fn place(&self, key: &str) -> Option<&'a Place> {
        self.node(key).map(|node| &node.place).or(self.place)
    }

    /// The full path of a key of this section.
    pub(super) fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Notes a problem with a key's value, or its lack.
    pub(super) fn problem(&self, key: &str, message: impl Into<String>) {
        self.reader.note(match self.node(key) {
            Some(node) => Problem::of_value(node, &self.path(key), message.into()),
            None => Problem::at(self.place, &self.path(key), message),
        });
    }

    /// Notes a problem with the section as a whole.
    pub(super) fn problem_here(&self, message: impl Into<String>) {
        self.reader.note(Problem::at(self.place, &self.path, message));
    }

    /// A table of this one.
    pub(super) fn section(&self, key: &str) -> Section<'a> {
        let path = self.path(key);
        self.reader.know(&path, Kind::Section);
        let node = self.node(key);
        self.inner(node, path)
    }

    fn inner(&self, node: Option<&'a Node>, path: String) -> Section<'a> {
        let table = match node {
            Some(Node { value: Value::Table(table), .. }) => Some(table),
            Some(node) => {
                self.reader.note(Problem::of_value(node, &path, "this is a table with keys of its own".to_owned()));
                None
            }
            None => None,
        };
        Section { reader: self.reader, place: node.map(|node| &node.key_place).or(self.place), table, path }
    }

    /// A list of tables; `None` if it was not written.
    pub(super) fn sections(&self, key: &str) -> Option<Vec<Section<'a>>> {
        let path = self.path(key);
        self.reader.know(&path, Kind::Sections);
        if self.reader.only_keys {
            return Some(vec![self.inner(None, path)]);
        }
        let node = self.node(key)?;
        match &node.value {
            Value::List(items) => {
                let section = |(at, item)| self.inner(Some(item), format!("{path}[{at}]"));
                Some(items.iter().enumerate().map(section).collect())
            }
            Value::Table(_) if !node.is_outside() => {
                self.problem(key, format!("there can be several: write [[{path}]]"));
                None
            }
            _ => {
                self.problem(key, "this is a list of tables, set as a whole: [{ key = \"value\" }, ...]");
                None
            }
        }
    }

    /// A value, if it is written and `parse` finds nothing wrong with it.
    fn value<T>(&self, key: &str, parse: impl FnOnce(&Node) -> Result<T, String>) -> Option<T> {
        let path = self.path(key);
        self.reader.know(&path, Kind::Value);
        let node = self.node(key)?;
        parse(node).map_err(|message| self.reader.note(Problem::of_value(node, &path, message))).ok()
    }

    /// A text, with its own form.
    pub(super) fn text<T, E: Display>(&self, key: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        self.value(key, |node| from_text(node, parse))
    }

    /// The path of a file.
    pub(super) fn file(&self, key: &str) -> Option<PathBuf> {
        self.text(key, |text| match text {
            "" => Err("name a file"),
            _ => Ok(PathBuf::from(text)),
        })
    }

    /// A duration, not zero.
    pub(super) fn duration(&self, key: &str) -> Option<Duration> {
        self.text(key, |text| match parse_duration(text) {
            Ok(Duration::ZERO) => Err("it must be longer than zero".to_owned()),
            Ok(duration) => Ok(duration),
            Err(error) => Err(error.to_string()),
        })
    }

    /// A duration that may be zero.
    pub(super) fn duration_or_zero(&self, key: &str) -> Option<Duration> {
        self.text::<_, InvalidDuration>(key, parse_duration)
    }

    /// A number within bounds.
    pub(super) fn number(&self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        self.number_because(key, range, "")
    }

    /// A number within bounds that need a word of explanation, for the end of the message.
    pub(super) fn number_because(&self, key: &str, range: RangeInclusive<u64>, why: &str) -> Option<u64> {
        let accepted = || format!("write a whole number from {} to {}{why}", range.start(), range.end());
        self.value(key, |node| {
            let number = match &node.value {
                Value::Integer(number) => Some(*number),
                Value::Text(text) if node.is_outside() => text.parse().ok(),
                _ => None,
            };
            number.filter(|number| range.contains(number)).ok_or_else(accepted)
        })
    }

    /// A size in bytes, within bounds.
    pub(super) fn size(&self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        self.value(key, |node| {
            let size = match &node.value {
                Value::Integer(bytes) => *bytes,
                _ => from_text(node, parse_size)?,
            };
            if range.contains(&size) {
                return Ok(size);
            }
            let shown = |bytes| format_size(bytes);
            Err(format!("it must be from {} to {}", shown(*range.start()), shown(*range.end())))
        })
    }

    /// A list of texts, if `parse` finds nothing wrong with any. An empty text in the environment is an empty list.
    pub(super) fn list<T, E: Display>(&self, key: &str, parse: impl Fn(&str) -> Result<T, E>) -> Option<Vec<T>> {
        let items = self.value(key, |node| match &node.value {
            Value::List(items) => Ok(items.clone()),
            Value::Text(text) if node.is_outside() => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Ok(items.map(|item| Node { value: Value::Text(item.to_owned()), ..node.clone() }).collect())
            }
            Value::Text(text) => Err(format!("this is a list: write [{text:?}]")),
            _ => Err("this is a list of texts: write [\"...\", \"...\"]".to_owned()),
        })?;
        let read = |(at, item)| {
            let path = self.path(&format!("{key}[{at}]"));
            let parsed = from_text(item, &parse);
            parsed.map_err(|message| self.reader.note(Problem::of_value(item, &path, message))).ok()
        };
        // All are read before the first that is no good ends it: each has its own problem.
        items.iter().enumerate().map(read).collect::<Vec<_>>().into_iter().collect()
    }

    /// A list of texts, each there once, and one at least.
    pub(super) fn set<T: PartialEq, E: Display>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let items = self.list(key, parse)?;
        let repeated = items.iter().enumerate().any(|(at, item)| items[..at].contains(item));
        if repeated || items.is_empty() {
            self.problem(key, "name one at least, and each only once");
            return None;
        }
        Some(items)
    }

    /// A table whose keys have a form of their own, with a text for each: the section, and those entries that `parse`
    /// finds nothing wrong with.
    pub(super) fn map<T, E: Display>(
        &self,
        key: &str,
        parse: impl Fn(&str, &str) -> Result<T, E>,
    ) -> (Section<'a>, Vec<T>) {
        let path = self.path(key);
        self.reader.know(&path, Kind::Value);
        let section = self.inner(self.node(key), path);
        let read = |(name, node): (&String, &'a Node)| {
            let path = section.path(shown_name(name));
            let entry = from_text(node, |text| parse(name, text));
            entry.map_err(|message| self.reader.note(Problem::of_value(node, &path, message))).ok()
        };
        let entries = section.table.into_iter().flatten().filter_map(read).collect();
        (section, entries)
    }

    /// What was read, or the default if nothing was written; `None` if what was written is no good.
    pub(super) fn or<T>(&self, key: &str, read: Option<T>, default: T) -> Option<T> {
        match self.node(key) {
            Some(_) => read,
            None => Some(default),
        }
    }
}

/// Reads a text. What is no text is put to `parse` as it would be written, for the message to say what is accepted.
fn from_text<T, E: Display>(node: &Node, parse: impl FnOnce(&str) -> Result<T, E>) -> Result<T, String> {
    let as_written = match &node.value {
        Value::Text(text) => return parse(text).map_err(|error| error.to_string()),
        Value::Integer(number) => number.to_string(),
        Value::Other(text) => text.clone(),
        Value::List(_) | Value::Table(_) => return Err("this is a single value: write a text in quotes".to_owned()),
    };
    match parse(&as_written) {
        Ok(_) => Err("write it in quotes".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
