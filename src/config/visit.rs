//! The walk over the keys of the configuration: which there are, and how the value of each is written.
//!
//! A section's function names each of its keys once, with its form and the place of its value; the value that is there is
//! the default. Three visitors take that walk: one reads what was written ([`read`](super::read)), one prints the values
//! ([`show`](super::show)), one lists the keys ([`keys`](super::keys)).

use std::error::Error;
use std::fmt::Display;
use std::num::{NonZeroU64, NonZeroUsize};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::raw::{Node, Value};
use super::read::{Section, Written};
use super::reason::Reason;
use crate::units::{format_duration, format_size, parse_duration, parse_size};

/// Who walks over the keys.
pub(super) trait Visitor: Sized {
    /// A key, the form of its value, and the value.
    fn value<T>(&mut self, key: &'static str, form: &impl Form<T>, value: &mut T);

    fn section(&mut self, key: &'static str, walk: impl FnOnce(&mut Self));

    /// A list of tables. It is set as a whole; what an item does not say is as in the default one.
    fn sections<T: Default>(&mut self, key: &'static str, items: &mut Vec<T>, walk: impl Fn(&mut T, &mut Self));

    /// A table whose keys are values too.
    fn map<K, V>(&mut self, key: &'static str, forms: (&Text<K>, &impl Form<V>), entries: &mut Vec<(K, V)>);

    /// What must hold between the values of this section that are in effect, once they are read.
    fn check(&mut self, _judge: impl FnOnce(&Section<'_>)) {}

    /// What must hold within a list of tables, which comes whole from one place: also where another one has taken its place.
    fn check_list(&mut self, _judge: impl FnOnce(&Section<'_>)) {}
}

/// How a value is written.
pub(super) trait Form<T> {
    /// The value, or nothing and a problem noted.
    fn read(&self, written: &Written<'_>) -> Option<T>;

    /// As TOML. `None`: that the key is not there says it.
    fn print(&self, value: &T) -> Option<String>;
}

/// A text, by how it is read and how it is printed.
pub(super) struct Text<T> {
    pub(super) parse: fn(&str) -> Result<T, Reason>,
    pub(super) print: fn(&T) -> String,
}

/// The text that the type itself knows.
pub(super) fn text<T: FromStr<Err: Error + Send + Sync + 'static> + Display>() -> Text<T> {
    Text { parse: |text| text.parse().map_err(Reason::invalid), print: T::to_string }
}

/// The path of a file.
pub(super) const FILE: Text<PathBuf> = Text {
    parse: |text| if text.is_empty() { Err(Reason::NoFile) } else { Ok(text.into()) },
    print: |path| path.display().to_string(),
};

/// A duration, not zero.
pub(super) const DURATION: Text<Duration> = Text {
    parse: |text| match parse_duration(text) {
        Ok(Duration::ZERO) => Err(Reason::Zero),
        Ok(duration) => Ok(duration),
        Err(error) => Err(Reason::invalid(error)),
    },
    print: |duration| format_duration(*duration),
};

/// A duration that may be zero.
pub(super) const DURATION_OR_ZERO: Text<Duration> =
    Text { parse: |text| parse_duration(text).map_err(Reason::invalid), print: DURATION.print };

impl<T> Form<T> for Text<T> {
    fn read(&self, written: &Written<'_>) -> Option<T> {
        // What is no text is read as it would be written, for the message to say what is accepted.
        let (text, quoted) = match &written.node.value {
            Value::Text(text) => (text.clone(), true),
            Value::Integer(number) => (number.to_string(), false),
            Value::Other(text) => (text.clone(), false),
            Value::List(_) | Value::Table(_) => {
                return written.refuse(Reason::NotSingle);
            }
        };
        match (self.parse)(&text) {
            Ok(value) if quoted => Some(value),
            Ok(_) => written.refuse(Reason::Unquoted),
            Err(reason) => written.refuse(reason),
        }
    }

    fn print(&self, value: &T) -> Option<String> {
        Some(quote((self.print)(value)))
    }
}

pub(super) fn quote(text: impl Into<String>) -> String {
    toml::Value::String(text.into()).to_string()
}

/// A value that need not be there.
pub(super) struct Maybe<F>(pub(super) F);

impl<T, F: Form<T>> Form<Option<T>> for Maybe<F> {
    fn read(&self, written: &Written<'_>) -> Option<Option<T>> {
        self.0.read(written).map(Some)
    }

    fn print(&self, value: &Option<T>) -> Option<String> {
        self.0.print(value.as_ref()?)
    }
}

/// What is written as a number.
pub(super) trait Count: Sized {
    fn from_number(number: u64) -> Option<Self>;
    fn number(&self) -> u64;
}

macro_rules! count {
    ($($type:ty: $from:expr, $to:expr;)+) => {$(
        impl Count for $type {
            fn from_number(number: u64) -> Option<Self> {
                $from(number)
            }

            fn number(&self) -> u64 {
                $to(*self)
            }
        }
    )+};
}

count! {
    u32: |number| u32::try_from(number).ok(), u64::from;
    usize: |number| usize::try_from(number).ok(), |number| number as u64;
    NonZeroU64: NonZeroU64::new, NonZeroU64::get;
    NonZeroUsize: |number| NonZeroUsize::new(usize::try_from(number).ok()?), |number: Self| number.get() as u64;
    // 0 for none.
    Option<NonZeroUsize>: |number| Some(NonZeroUsize::new(usize::try_from(number).ok()?)),
        |number: Self| number.map_or(0, |number| number.get() as u64);
}

/// A whole number within bounds.
pub(super) struct Number(pub(super) RangeInclusive<u64>);

impl<T: Count> Form<T> for Number {
    fn read(&self, written: &Written<'_>) -> Option<T> {
        let Self(range) = self;
        let number = match &written.node.value {
            Value::Integer(number) => Some(*number),
            Value::Text(text) if written.node.is_outside() => text.parse().ok(),
            _ => None,
        };
        let value = number.filter(|number| range.contains(number)).and_then(T::from_number);
        value.or_else(|| written.refuse(Reason::OutOfRange { least: *range.start(), most: *range.end() }))
    }

    fn print(&self, value: &T) -> Option<String> {
        Some(value.number().to_string())
    }
}

/// A size in bytes within bounds.
pub(super) struct Size(pub(super) RangeInclusive<u64>);

impl<T: Count> Form<T> for Size {
    fn read(&self, written: &Written<'_>) -> Option<T> {
        let Self(range) = self;
        const SIZE: Text<u64> =
            Text { parse: |text| parse_size(text).map_err(Reason::invalid), print: |size| format_size(*size) };
        let size = match &written.node.value {
            Value::Integer(bytes) => *bytes,
            _ => SIZE.read(written)?,
        };
        let value = Some(size).filter(|size| range.contains(size)).and_then(T::from_number);
        value.or_else(|| written.refuse(Reason::SizeOutOfRange { least: *range.start(), most: *range.end() }))
    }

    fn print(&self, value: &T) -> Option<String> {
        Some(quote(format_size(value.number())))
    }
}

/// `true` or `false`.
pub(super) struct Switch;

impl Form<bool> for Switch {
    fn read(&self, written: &Written<'_>) -> Option<bool> {
        let text = match &written.node.value {
            Value::Other(text) => text,
            Value::Text(text) if written.node.is_outside() => text,
            _ => return written.refuse(Reason::NotSwitch),
        };
        text.parse().ok().or_else(|| written.refuse(Reason::NotSwitch))
    }

    fn print(&self, value: &bool) -> Option<String> {
        Some(value.to_string())
    }
}

/// A list. In the environment commas separate its items, and an empty text is an empty list.
pub(super) struct List<F>(pub(super) F);

impl<T, F: Form<T>> Form<Vec<T>> for List<F> {
    fn read(&self, written: &Written<'_>) -> Option<Vec<T>> {
        let node = written.node;
        let separated: Vec<Node>;
        let items = match &node.value {
            Value::List(items) => items,
            Value::Text(text) if node.is_outside() => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                separated = items.map(|item| Node { value: Value::Text(item.to_owned()), ..node.clone() }).collect();
                &separated
            }
            Value::Text(text) => return written.refuse(Reason::Unlisted(text.clone())),
            _ => return written.refuse(Reason::NotList),
        };
        // All are read before the first that is no good ends it: each has its own problem.
        let read = |(at, item)| self.0.read(&written.item(at, item));
        items.iter().enumerate().map(read).collect::<Vec<_>>().into_iter().collect()
    }

    fn print(&self, value: &Vec<T>) -> Option<String> {
        let items: Option<Vec<String>> = value.iter().map(|item| self.0.print(item)).collect();
        Some(format!("[{}]", items?.join(", ")))
    }
}

/// A list of which each item is there once, and one at least.
pub(super) struct Set<F>(pub(super) List<F>);

impl<T: PartialEq, F: Form<T>> Form<Vec<T>> for Set<F> {
    fn read(&self, written: &Written<'_>) -> Option<Vec<T>> {
        let items = self.0.read(written)?;
        let repeated = items.iter().enumerate().position(|(at, item)| items[..at].contains(item));
        match (repeated, &written.node.value) {
            (Some(at), Value::List(nodes)) if nodes.len() == items.len() => {
                written.item(at, nodes.get(at)?).refuse(Reason::NotSet)
            }
            (Some(_), _) => written.refuse(Reason::NotSet),
            (None, _) if items.is_empty() => written.refuse(Reason::NotSet),
            (None, _) => Some(items),
        }
    }

    fn print(&self, value: &Vec<T>) -> Option<String> {
        self.0.print(value)
    }
}
