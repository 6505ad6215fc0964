//! What is wrong with a configuration: every problem of a run, none of them showing a secret.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::Path;

use super::raw::{Node, Place, Value};
use super::reason::Reason;
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
    pub reason: Reason,
}

impl Problems {
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        // Stable: what has the same place stays in the order in which it was found.
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        let mut each: Vec<Problem> = Vec::with_capacity(problems.len());
        for problem in problems {
            if !each.contains(&problem) {
                each.push(problem);
            }
        }
        Self(each)
    }

    /// With this name for what a flag says: an argument has taken its place.
    pub fn of_argument(mut self, argument: &'static str) -> Self {
        for place in self.0.iter_mut().filter_map(|problem| problem.place.as_mut()) {
            if let Place::Flag(name) = place {
                *name = argument;
            }
        }
        self
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
    pub(super) fn of_value(node: &Node, key: &str, reason: Reason) -> Self {
        let (value, reason) = match &node.value {
            Value::Text(text) => {
                let shown = shown(key, text);
                let reason = match shown == *text || is_url(key) {
                    true => reason,
                    false => reason.redacted(&shown, |says| without_quotes(says, text, &shown)),
                };
                (Some(format!("{shown:?}")), reason)
            }
            Value::Integer(number) => (Some(number.to_string()), reason),
            Value::Other(text) => (Some(text.clone()), reason),
            Value::List(_) | Value::Table(_) => (None, reason),
        };
        Self { place: Some(node.place.clone()), key: key.to_owned(), value, reason }
    }

    /// About something written whose value does not matter, or must not be shown.
    pub(super) fn at(place: Option<&Place>, key: &str, reason: Reason) -> Self {
        Self { place: place.cloned(), key: key.to_owned(), value: None, reason }
    }

    /// Why the value is shown in part only, if it is.
    fn omission(&self) -> &'static str {
        let Some(shown) = self.value.as_deref().and_then(|value| value.strip_suffix("...\"")) else { return "" };
        match (shown, names_secret(&self.key)) {
            ("\"", true) => "; the value is not shown, as it could be a secret: write the file's full path",
            ("\"", false) => "; the value is not shown, as it could be a secret",
            (_, true) => "; what is in no directory that there is is not shown, as it could be a secret",
            (_, false) => "",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, key, value, reason } = self;
        if let Some(place) = place {
            write!(f, "{place}: ")?;
        }
        match value {
            Some(value) => write!(f, "{key} = {value}: ")?,
            None if !key.is_empty() => write!(f, "{key}: ")?,
            None => {}
        }
        write!(f, "{reason}{}", self.omission())
    }
}

/// The value as a message may show it. Keys that name a file of a secret may have the secret itself in them by mistake: they
/// are shown as far as there are such directories. URLs are shown as far as they are read as such.
fn shown(key: &str, text: &str) -> String {
    match key {
        _ if text.is_empty() => String::new(),
        _ if is_url(key) => redact_url(text),
        _ if names_secret(key) => cut(text, unknown_place(text)),
        _ => redact(text),
    }
}

/// Where a path leaves the directories that there are. One password in 64 begins with a slash in base64, so a name
/// directly in `/`, `.` or `..` is taken for none.
fn unknown_place(path: &str) -> Option<usize> {
    if Path::new(path).exists() {
        return None;
    }
    let within = path.match_indices('/').map(|(at, _)| &path[..at]).take_while(|inner| {
        let is_start = ["", ".", ".."].contains(inner);
        is_start || Path::new(inner).is_dir()
    });
    match within.last() {
        None => Some(0),
        Some(start @ ("" | "." | "..")) => Some(start.len() + 1),
        // The name of a file that is missing there.
        Some(directory) if !path[directory.len() + 1..].contains('/') => None,
        Some(directory) => Some(directory.len() + 1),
    }
}

/// Whether the key is a URL's. What is wrong with one is said without quoting it.
fn is_url(key: &str) -> bool {
    key.rsplit('.').next() == Some("url")
}

/// Whether the key names a file, of a secret as a rule.
fn names_secret(key: &str) -> bool {
    key.ends_with("_file") || key.rsplit('.').next() == Some("key")
}

/// Printed instead of what is not shown.
const CUT: &str = "...";

/// A message about a value that is shown in part only, without what it quotes of the rest: the whole value as a word by
/// itself, or any part of it between backticks. Its own words stay, even those that the value has too.
fn without_quotes(message: &str, text: &str, shown: &str) -> String {
    let message = replace_words(&replace_words(message, text, shown), &text.escape_debug().to_string(), shown);
    let is_quote = |part: &str| !part.is_empty() && text.contains(part) && !shown.contains(part);
    let parts = message.split('`').enumerate();
    let parts = parts.map(|(at, part)| if at % 2 == 1 && is_quote(part) { CUT } else { part });
    parts.collect::<Vec<_>>().join("`")
}

/// Replaces the text where no letter or digit is next to it.
fn replace_words(message: &str, text: &str, with: &str) -> String {
    let mut replaced = String::new();
    let mut rest = 0;
    for (at, _) in message.match_indices(text) {
        let end = at + text.len();
        let is_part =
            message[..at].ends_with(char::is_alphanumeric) || message[end..].starts_with(char::is_alphanumeric);
        if !is_part {
            replaced.extend([&message[rest..at], with]);
            rest = end;
        }
    }
    replaced + &message[rest..]
}

/// A text without what could be a secret. Rather too much is cut than too little, and long ones are cut short.
pub(super) fn redact(text: &str) -> String {
    const LONGEST: usize = 120;
    let mut shown = without_secrets(text);
    if shown.contains("://") {
        shown = redact_url(&shown);
    } else if let Some((_, rest)) = shown.rsplit_once('@') {
        shown = format!("{CUT}@{rest}");
    }
    match shown.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}{CUT}", &shown[..end]),
        None => shown,
    }
}

/// The text up to the first raw token, PEM section or line break, or what could be a password or a key in base64.
fn without_secrets(text: &str) -> String {
    cut(text, blob(text))
}

/// The text up to there, or up to what is a secret in any case.
fn cut(text: &str, end: Option<usize>) -> String {
    let starts = [
        text.to_ascii_lowercase().find(PREFIX).map(|at| at + PREFIX.len()),
        text.find("-----BEGIN"),
        text.find(['\n', '\r']),
        end,
    ];
    match starts.into_iter().flatten().min() {
        Some(end) => format!("{}{CUT}", &text[..end]),
        None => text.to_owned(),
    }
}

/// Where a run of base64, or of a password as programs make them, begins: no name has capitals, small letters and digits
/// for so long without a break.
fn blob(text: &str) -> Option<usize> {
    const SHORTEST: usize = 12;
    let runs = text.split(|symbol: char| !(symbol.is_ascii_alphanumeric() || "+=".contains(symbol)));
    let is_mixed = |run: &str| {
        let has = |is: fn(&u8) -> bool| run.as_bytes().iter().any(&is);
        has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_digit)
    };
    let found = runs.into_iter().find(|run| run.len() >= SHORTEST && is_mixed(run))?;
    text.find(found)
}

/// A URL's scheme and addresses. What precedes an `@`, a path, a query, and what is no address, is cut: a password without
/// the address after it looks like a port, and one that is not encoded may have any of these symbols in it.
fn redact_url(text: &str) -> String {
    if let Some(path) = text.strip_prefix("sqlite:") {
        let (path, options) = path.split_once('?').map_or((path, ""), |(path, _)| (path, CUT));
        let path = path.rsplit_once('@').map_or(path.to_owned(), |(_, rest)| format!("{CUT}@{rest}"));
        return format!("sqlite:{}{options}", without_secrets(&path));
    }
    let Some((scheme, rest)) = text.split_once("://") else { return CUT.to_owned() };
    let is_scheme = scheme.len() <= 20 && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || b"+-".contains(&byte));
    let (user, rest) = rest.rsplit_once('@').map_or(("", rest), |(_, rest)| ("...@", rest));
    let (addresses, path) = rest.find(['/', '?', '#']).map_or((rest, ""), |at| rest.split_at(at));
    let scheme = if is_scheme { scheme } else { CUT };
    let addresses = if addresses.split(',').all(is_address) { addresses } else { CUT };
    let path = if path.len() > 1 { format!("{}{CUT}", &path[..1]) } else { path.to_owned() };
    format!("{scheme}://{user}{addresses}{path}")
}

/// `host`, `host:port`, `[::1]:port`.
fn is_address(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
        Some((host, port)) => (host, port),
        None => (text, "0"),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = inner.map_or(!host.is_empty() && host.bytes().all(is_name), |host| host.parse::<Ipv6Addr>().is_ok());
    is_host && (1..=5).contains(&port.len()) && port.bytes().all(|digit| digit.is_ascii_digit()) && blob(host).is_none()
}

/// A key's name, or a permission's, if it looks like one. What is no name may be a secret that lost its quotes.
pub(super) fn shown_name(name: &str) -> &str {
    let is_name = name.len() <= 40 && name.bytes().all(|byte| byte.is_ascii_lowercase() || b"_-:*".contains(&byte));
    if is_name { name } else { CUT }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(redact("http://controller:8888"), "http://controller:8888");
        assert_eq!(redact("https://user:s3cret@host/path"), "https://...@host/...");
        assert_eq!(redact("https://user:s3/cr@et@host"), "https://...@host");
        assert_eq!(redact("redis://:s3cret"), "redis://...");
        assert_eq!(redact("redis://user:s3cret/0"), "redis://.../...");
        assert_eq!(redact("redis://h:1,[::1]:2#s3cret"), "redis://h:1,[::1]:2#...");
        assert_eq!(redact("user:s3cret@host"), "...@host");
        assert_eq!(redact("redis://h/0?password=s3cret"), "redis://h/...");
        assert_eq!(redact("tc-apiv1_s3cret"), "tc-apiv1_...");
        assert_eq!(redact("Bearer TC-APIV1_s3cret"), "Bearer TC-APIV1_...");
        assert_eq!(redact("a@b://c"), "...://c");
        assert_eq!(redact("-----BEGIN PRIVATE KEY-----\nMIG"), "...");
        assert_eq!(redact("MIGHAgEAMBMGByqGSM49AgEGCCqG"), "...");
        assert_eq!(shown("store.url", "s3cret"), "...");
        assert_eq!(shown("store.url", "sqlite:a.db?key=s3cret"), "sqlite:a.db...");
        assert_eq!(shown("store.password_file", "s3cret"), "...");
        assert_eq!(shown("store.password_file", "/etc/missing"), "/etc/missing");
        assert_eq!(shown("store.password_file", "/etc/none/s3cret"), "/etc/...");
        for (start, secret) in [("/", "s3cret"), ("/", "s3/cret"), ("./", "s3cret"), ("../", "s3cret"), ("", "etc/s3")]
        {
            assert_eq!(shown("store.password_file", &format!("{start}{secret}")), format!("{start}..."));
        }
        let problem = Problem::of_value(&node("/s3cret"), "listener[0].tls.key", says("reading /s3cret: none"));
        assert!(!format!("{problem:?}").contains("s3cret"), "{problem:?}");
        assert_eq!(
            problem.to_string(),
            "T: listener[0].tls.key = \"/...\": reading /...: none; what is in no directory that there is is not shown, as \
             it could be a secret"
        );
        assert_eq!(redact(&"x".repeat(500)).len(), 123);
    }

    #[test]
    fn of_a_message_only_quotes_are_cut() {
        let cut = |message: &str, text: &str| without_quotes(message, text, CUT);
        assert_eq!(cut("reading s3cret: No such file", "s3cret"), "reading ...: No such file");
        assert_eq!(cut("write [\"a\\nb\"]", "a\nb"), "write [\"...\"]");
        assert_eq!(
            cut("`x:y`: there is no `x`; did you mean `agents`?", "x:y"),
            "`...`: there is no `...`; did you mean `agents`?"
        );
        assert_eq!(cut("name a file", "a"), "name ... file", "it cannot be distinguished from a quote");
        assert_eq!(cut("name the file", "e"), "name the file");
        assert_eq!(cut("write redis://HOST, see `store.url`", "redis:h store"), "write redis://HOST, see `store.url`");
        assert_eq!(
            Problem::of_value(&node(""), "store.password_file", says("name a file")).to_string(),
            "T: store.password_file = \"\": name a file"
        );
        let redis = Problem::of_value(&node("redis"), "store.url", says("write redis://HOST")).to_string();
        assert!(redis.starts_with("T: store.url = \"...\": write redis://HOST; "), "{redis}");
    }

    fn says(text: &str) -> Reason {
        Reason::invalid(std::io::Error::other(text))
    }

    fn node(text: &str) -> Node {
        Node::outside(text, Place::Variable("T".to_owned()))
    }

    proptest! {
        #[test]
        fn whatever_precedes_an_at_sign_is_cut(user in "[a-z:/?#@é]{0,12}", secret in "[0-9]{6}", host in "[a-z]{1,9}") {
            let shown = redact(&format!("https://{user}{secret}@{host}"));
            prop_assert!(!shown.contains(&secret), "{}", shown);
        }
    }
}
