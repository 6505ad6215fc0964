//! What can be wrong with a configuration, by what it is about. None of it shows a secret.

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::raw::Place;
use crate::chain::chain;
use crate::proxy::route::{Group, Method};
use crate::units::{format_duration, format_size};

/// What is wrong, and what is accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The configuration file cannot be read.
    #[error("reading {file}: {cause}")]
    Unreadable {
        /// As it was named.
        file: Arc<str>,
        /// Why.
        cause: Cause,
    },
    /// The configuration file is not text.
    #[error("reading {file}: line {line} is not valid UTF-8")]
    NotText {
        /// As it was named.
        file: Arc<str>,
        /// The first line that is not, from 1.
        line: usize,
    },
    /// The configuration file is not TOML, as its parser says, without the text.
    #[error("{0}")]
    Syntax(String),
    /// There is no such key.
    #[error(transparent)]
    Unknown(#[from] Unknown),
    /// What was written is nothing that the key takes.
    #[error(transparent)]
    Expected(#[from] Expected),
    /// The type of the value does not take it, or the file that it names is no good.
    #[error("{0}")]
    Invalid(Cause),
    /// A key is missing.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The key means nothing beside what else is written.
    #[error(transparent)]
    Inapplicable(#[from] Inapplicable),
    /// The value is good by itself, and not with another one.
    #[error(transparent)]
    Conflict(#[from] Conflict),
}

impl Reason {
    pub(super) fn invalid(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Invalid(Cause::new(error))
    }

    /// With this instead of the value, and of what another part's error says of it.
    pub(super) fn redacted(self, shown: &str, redact: impl FnOnce(&str) -> String) -> Self {
        match self {
            Self::Invalid(Cause { error, text }) => Self::Invalid(Cause { error, text: redact(&text) }),
            Self::Expected(Expected::ListOf(_)) => Expected::ListOf(shown.to_owned()).into(),
            other => other,
        }
    }
}

/// An error of another part. Prints its text, with its causes, and nothing of a value that may be a secret.
#[derive(Clone)]
pub struct Cause {
    error: Arc<dyn Error + Send + Sync>,
    text: String,
}

impl Cause {
    pub(super) fn new(error: impl Error + Send + Sync + 'static) -> Self {
        Self { text: chain(&error), error: Arc::new(error) }
    }

    /// The error itself, if it is of that type. What it prints may have the value in it.
    #[must_use]
    pub fn downcast_ref<E: Error + 'static>(&self) -> Option<&E> {
        self.error.downcast_ref()
    }
}

impl PartialEq for Cause {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Cause {}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A key, or a variable, that does not exist, with what was probably meant.
#[expect(missing_docs, reason = "the texts say what the variants are")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    #[error("there is no such key; did you mean `{0}`?")]
    Near(String),
    #[error("there is no such key here; did you mean `{0}`?")]
    Elsewhere(String),
    // In TOML everything after a table's header belongs to that table.
    #[error("there is no such key here; `{0}` must come before the first table")]
    Outermost(String),
    #[error("there is no such key; the nearest is `{nearest}`, and there are {}", .known.join(", "))]
    Far { nearest: String, known: Vec<String> },
    #[error("there is no such key; did you mean {0}? (two underscores separate the parts of a key)")]
    Variable(String),
    #[error("a list is set as a whole: {0}='[{{ ... }}]'")]
    ListItem(String),
}

/// What a key takes, where something else was written.
#[expect(missing_docs, reason = "the texts say what the variants are")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Expected {
    #[error("it is not valid UTF-8")]
    Utf8,
    #[error("this is a table with keys of its own")]
    Table,
    #[error("there can be several: write [[{0}]]")]
    Several(String),
    #[error("this is a list of tables, set as a whole: [{{ key = \"value\" }}, ...]")]
    Tables,
    #[error("this is a list: write [{0:?}]")]
    ListOf(String),
    #[error("this is a list of strings: write [\"...\", \"...\"]")]
    List,
    #[error("name at least one, and each only once")]
    Set,
    #[error("this is a single value: write a string in quotes")]
    Single,
    #[error("write it in quotes")]
    Quotes,
    #[error("write a whole number from {least} to {most}")]
    Number { least: u64, most: u64 },
    #[error("it must be from {} to {}", format_size(*.least), format_size(*.most))]
    Size { least: u64, most: u64 },
    #[error("it must be longer than zero")]
    LongerThanZero,
    #[error("name a file")]
    File,
    #[error("a name has 1 to 64 letters, digits, `.`, `_` and `-`")]
    Name,
    #[error("name a user, or remove the key for the default user")]
    User,
    #[error("write an IP address and a port: 127.0.0.1:8080, 0.0.0.0:8080 (every interface) or [::1]:8080")]
    Address,
    #[error("write a host name or an IP address")]
    Host,
    #[error("write a level (error, warn, info, debug, trace or off), or one for each part: info,tollgate::proxy=debug")]
    Filter,
    #[error("there is no such group; there are {}, and * for all of them", Group::ALL.map(Group::name).join(", "))]
    Group,
    #[error("the methods are {} (in capitals)", Method::ALL.map(Method::name).join(", "))]
    Method,
    #[error("write a permission as resource:action, such as configs:read")]
    Permission,
    #[error("it can only be \"none\"; otherwise name a permission")]
    NoAuth,
}

/// A key that is needed, and was not written.
#[expect(missing_docs, reason = "the texts say what the variants are")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    #[error("none of $STATE_DIRECTORY, $XDG_STATE_HOME and $HOME is set, so there is no default; {NAME_FILE}")]
    StateDirectory,
    #[error("the state directory's path has a `?` or is not valid UTF-8, which a store's URL cannot have; {NAME_FILE}")]
    UsableStateDirectory,
    #[error("at least one is needed")]
    Listener,
    #[error("TLS needs a certificate and a key")]
    Certificate,
    #[error("every route needs methods and a path")]
    Route,
    #[error("a route needs permission = \"resource:action\", or auth = \"none\" to open it to everyone")]
    Permission,
    #[error("mode = \"replace\" needs a file with the Controller's service token")]
    ServiceToken,
    #[error("a user needs a password: name its file with `sentinel_password_file`")]
    SentinelPassword,
}

const NAME_FILE: &str = "name the file, such as sqlite:/var/lib/tollgate/tollgate.db";

/// What a key is used with only, and is not there.
#[expect(missing_docs, reason = "the texts say what the variants are")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Inapplicable {
    #[error("it is used together with `{0}` only")]
    Without(&'static str),
    #[error("it is used with mode = \"replace\" only")]
    NotReplaced,
    #[error("the url is not https: with http nothing is verified")]
    NotHttps,
    #[error("it applies to Redis only, and `store.url` names a SQLite file")]
    NotRedis,
    #[error("it applies to TLS only, and `store.url` has none: write rediss instead of redis")]
    NotTls,
    #[error("it applies to Sentinels only, and `store.url` names none (redis-sentinel://)")]
    NotSentinel,
}

/// What cannot be together.
#[expect(missing_docs, reason = "the texts say what the variants are")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    #[error("another listener has {0} already")]
    Listener(SocketAddr),
    #[error("it points to the listener at {0}: requests would loop")]
    Loop(SocketAddr),
    #[error("the admin listener and a listener cannot share {0}")]
    Admin(SocketAddr),
    #[error(
        "it would replace listeners that have more than an address, such as TLS; change their addresses where they are written"
    )]
    ReplacedListeners,
    #[error(
        "max_staleness must be longer than probe_interval ({}), or it is exceeded between probes",
        format_duration(*.probe_interval)
    )]
    MaxStaleness { probe_interval: Duration },
    #[error("it must be longer than probe_interval ({}), or it is exceeded between probes", format_duration(*.probe_interval))]
    PermissionStaleness { probe_interval: Duration },
    #[error("a route has either a permission or auth = \"none\", not both")]
    Auth,
    #[error("{method} on this path is shadowed by the route at {place}; remove one of the two")]
    Route { method: Method, place: Place },
    #[error("`store.url` has a password already: remove one of them")]
    Password,
    #[error(
        "every user of this host can see the password among the arguments: give it by TOLLGATE_STORE__PASSWORD_FILE \
         (store.password_file), or the whole URL by TOLLGATE_STORE__URL"
    )]
    VisiblePassword,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_and_accepted_is_listed() {
        let says = |reason: Reason, expected: &str| assert_eq!(reason.to_string(), expected);
        let known = ["url".to_owned(), "ca".to_owned()].to_vec();
        says(
            Unknown::Far { nearest: "ca".to_owned(), known }.into(),
            "there is no such key; the nearest is `ca`, and there are url, ca",
        );
        says(
            Unknown::ListItem("TOLLGATE_LISTENER".to_owned()).into(),
            "a list is set as a whole: TOLLGATE_LISTENER='[{ ... }]'",
        );
        says(Expected::Tables.into(), "this is a list of tables, set as a whole: [{ key = \"value\" }, ...]");
        says(Expected::ListOf("a\nb".to_owned()).into(), "this is a list: write [\"a\\nb\"]");
        says(Expected::Size { least: 8 << 10, most: 1 << 20 }.into(), "it must be from 8KiB to 1MiB");
        says(
            Expected::Group.into(),
            "there is no such group; there are agents, configs, labels, reporting-rules, heartbeat, and * for all of them",
        );
        says(Expected::Method.into(), "the methods are GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS (in capitals)");
        says(
            Conflict::PermissionStaleness { probe_interval: Duration::from_millis(1500) }.into(),
            "it must be longer than probe_interval (1s500ms), or it is exceeded between probes",
        );
    }
}
