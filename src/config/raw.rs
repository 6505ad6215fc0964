//! The configuration as written: the file with the environment and the flags over it. Values that nobody has judged
//! yet, each with the place where it was written, so that whatever is wrong with it can be said of that place.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In the configuration file.
    File {
        /// The file, as it was named.
        file: Arc<str>,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
    },
    /// In this environment variable.
    Variable(String),
    /// In this flag.
    Flag(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// A value with its place.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    /// Where the value is written.
    pub(super) place: Place,
    /// Where its key is written; of an item in a list, the same as `place`.
    pub(super) key_place: Place,
}

/// What TOML can say, as far as this configuration uses it.
#[derive(Clone)]
pub(super) enum Value {
    Text(String),
    Integer(u64),
    List(Vec<Node>),
    Table(TomlTable),
    /// A boolean, or a kind that no key takes (a negative number, a fraction, a date), as written.
    Other(String),
}

pub(super) type TomlTable = BTreeMap<String, Node>;

impl Node {
    /// A value whose key is written in the same place.
    pub(super) fn at(place: Place, value: Value) -> Self {
        Self { value, key_place: place.clone(), place }
    }

    /// A value of the environment or a flag. Whether it is a number or a text is decided by whoever reads it; only
    /// what is a list or a table as TOML writes them is taken for one.
    pub(super) fn outside(text: &str, place: Place) -> Self {
        let toml = text.starts_with(['[', '{']).then(|| DeValue::parse(text).ok()).flatten();
        match toml {
            Some(value) => Self::new(&value, place.clone(), &|_| place.clone()),
            None => Self::at(place, Value::Text(text.to_owned())),
        }
    }

    /// Whether it comes from the environment or a flag, where everything is text and lists are separated by commas.
    pub(super) fn is_outside(&self) -> bool {
        !matches!(self.place, Place::File { .. })
    }

    fn new(value: &Spanned<DeValue<'_>>, key_place: Place, locate: &dyn Fn(Range<usize>) -> Place) -> Self {
        let place = locate(value.span());
        let value = match value.get_ref() {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => match u64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => Value::Other(number.to_string()),
            },
            DeValue::Float(number) => Value::Other(number.to_string()),
            DeValue::Boolean(boolean) => Value::Other(boolean.to_string()),
            DeValue::Datetime(datetime) => Value::Other(datetime.to_string()),
            DeValue::Array(items) => {
                Value::List(items.iter().map(|item| Self::new(item, locate(item.span()), locate)).collect())
            }
            DeValue::Table(entries) => Value::Table(table(entries, locate)),
        };
        Self { value, place, key_place }
    }

    fn merge(&mut self, over: Self) {
        match (&mut self.value, over) {
            (Value::Table(entries), Node { value: Value::Table(over), .. }) => merge(entries, over),
            (_, over) => *self = over,
        }
    }
}

fn table(entries: &DeTable<'_>, locate: &dyn Fn(Range<usize>) -> Place) -> TomlTable {
    entries
        .iter()
        .map(|(key, value)| (key.get_ref().to_string(), Node::new(value, locate(key.span()), locate)))
        .collect()
}

/// Puts the values of `over` in the place of those of `below`, tables key by key.
fn merge(below: &mut TomlTable, over: TomlTable) {
    for (key, node) in over {
        match below.entry(key) {
            Entry::Vacant(free) => {
                free.insert(node);
            }
            Entry::Occupied(mut taken) => taken.get_mut().merge(node),
        }
    }
}

/// The path of a key of this table.
pub(super) fn join(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

/// Puts one value over what is there. Where something else than a table is in the way it stays, and is found fault
/// with when it is read.
pub(super) fn put(root: &mut TomlTable, path: &str, node: Node) {
    let Some((key, rest)) = path.split_once('.') else {
        return merge(root, TomlTable::from([(path.to_owned(), node)]));
    };
    let place = node.place.clone();
    let table = root.entry(key.to_owned()).or_insert_with(|| Node::at(place, Value::Table(TomlTable::new())));
    if let Value::Table(inner) = &mut table.value {
        put(inner, rest, node);
    }
}

/// Reads the file's text.
///
/// # Errors
/// Every error of syntax, with its place. Never with the text there: it could be a secret.
pub(super) fn parse(text: &str, file: &Arc<str>) -> Result<TomlTable, Vec<(Place, String)>> {
    let locate = |span: Range<usize>| {
        let before = text.get(..span.start).unwrap_or(text);
        let in_line = before.rfind('\n').map_or(before, |newline| &before[newline + 1..]);
        Place::File { file: file.clone(), line: before.matches('\n').count() + 1, column: in_line.chars().count() + 1 }
    };
    let (root, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(table(root.get_ref(), &locate));
    }
    Err(errors.iter().map(|error| (locate(error.span().unwrap_or_default()), error.message().to_owned())).collect())
}
