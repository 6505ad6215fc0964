//! What is wrong with a configuration: every problem of a run, none of them showing a secret.

use std::fmt;

use super::raw::{Node, Place, Value};
use crate::token::raw::PREFIX;

/// Everything that is wrong, in the order of the file, then variables, then flags. Displays one problem a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written; `None` for what was written nowhere.
    pub place: Option<Place>,
    /// The key's path, such as `upstream.api.url`; empty where it is not about a key.
    pub key: String,
    /// The value, without secrets; `None` where there is none to show.
    pub value: Option<String>,
    /// What is wrong and what is accepted.
    pub message: String,
}

impl Problems {
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        // Stable: what has the same place stays in the order in which it was found.
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        problems.dedup();
        Self(problems)
    }

    /// Each of them; at least one.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [_] => f.write_str("the configuration has a problem:")?,
            problems => write!(f, "the configuration has {} problems:", problems.len())?,
        }
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl Problem {
    /// About a value.
    pub(super) fn of_value(node: &Node, key: &str, message: String) -> Self {
        let (value, message) = match &node.value {
            Value::Text(text) => {
                let shown = redact(text);
                // A message may quote what it is about.
                let message = if shown == *text { message } else { message.replace(text.as_str(), &shown) };
                (Some(format!("{shown:?}")), message)
            }
            Value::Integer(number) => (Some(number.to_string()), message),
            Value::Other(text) => (Some(text.clone()), message),
            Value::List(_) | Value::Table(_) => (None, message),
        };
        Self { place: Some(node.place.clone()), key: key.to_owned(), value, message }
    }

    /// About something written whose value does not matter, or must not be shown.
    pub(super) fn at(place: Option<&Place>, key: &str, message: impl Into<String>) -> Self {
        Self { place: place.cloned(), key: key.to_owned(), value: None, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, key, value, message } = self;
        if let Some(place) = place {
            write!(f, "{place}: ")?;
        }
        match value {
            Some(value) => write!(f, "{key} = {value}: ")?,
            None if !key.is_empty() => write!(f, "{key}: ")?,
            None => {}
        }
        f.write_str(message)
    }
}

/// A text without what could be a secret: a raw token, what precedes the `@` of a URL, the query of a URL. Rather too
/// much is cut than too little, and long ones are cut short.
pub(super) fn redact(text: &str) -> String {
    const LONGEST: usize = 120;
    let mut shown = text.to_owned();
    if let Some((_, rest)) = shown.rsplit_once('@') {
        let start = text.find("://").filter(|end| *end < text.len() - rest.len()).map_or(0, |end| end + 3);
        shown = format!("{}...@{rest}", &text[..start]);
    }
    if let Some((before, _)) = shown.split_once('?').filter(|_| text.contains("://")) {
        shown = format!("{before}?...");
    }
    if let Some(at) = shown.to_ascii_lowercase().find(PREFIX) {
        shown = format!("{}...", &shown[..at + PREFIX.len()]);
    }
    match shown.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &shown[..end]),
        None => shown,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(redact("http://controller:8888"), "http://controller:8888");
        assert_eq!(redact("https://user:s3cret@host/path"), "https://...@host/path");
        assert_eq!(redact("https://user:s3/cr@et@host"), "https://...@host");
        assert_eq!(redact("user:s3cret@host"), "...@host");
        assert_eq!(redact("redis://h/0?password=s3cret"), "redis://h/0?...");
        assert_eq!(redact("tc-apiv1_s3cret"), "tc-apiv1_...");
        assert_eq!(redact("Bearer TC-APIV1_s3cret"), "Bearer TC-APIV1_...");
        assert_eq!(redact("a@b://c"), "...@b://c");
        assert_eq!(redact(&"x".repeat(500)).len(), 123);
    }

    proptest! {
        #[test]
        fn whatever_precedes_an_at_sign_is_cut(user in "[a-z:/?#@é]{0,12}", secret in "[0-9]{6}", host in "[a-z]{1,9}") {
            let shown = redact(&format!("https://{user}{secret}@{host}"));
            prop_assert!(!shown.contains(&secret), "{}", shown);
        }
    }
}
