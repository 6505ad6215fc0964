//! What can be wrong with a configuration, by what it is about. None of it shows a secret.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::raw::Place;
use crate::chain::chain;
use crate::listener::ListenAddress;
use crate::proxy::route::{Group, Method};
use crate::units::{format_duration, format_size};
use crate::upstream::MAX_NODES;

/// What is wrong, and what is accepted.
#[expect(missing_docs, reason = "the texts say what the variants are")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("reading {file}: {cause}")]
    Unreadable { file: Arc<str>, cause: Cause },
    #[error("it is empty: name the configuration file, or do not set it at all")]
    NamesNoFile,
    #[error("reading {file}: line {line} is not valid UTF-8")]
    NotText { file: Arc<str>, line: usize },
    #[error("it cannot be written to: {0}")]
    Unwritable(Cause),
    /// The configuration file is not TOML, as its parser says, without the text.
    #[error("{0}")]
    Syntax(String),
    /// The type of the value does not take it, or the file that it names is no good.
    #[error("{0}")]
    Invalid(Cause),

    // A key, or a variable, that does not exist, with what was probably meant.
    #[error("there is no such key; did you mean `{0}`?")]
    Misspelt(String),
    #[error("there is no such key here; did you mean `{0}`?")]
    Elsewhere(String),
    // In TOML everything after a table's header belongs to that table.
    #[error("there is no such key here; `{0}` must come before the first table")]
    Outermost(String),
    #[error("there is no such key; the nearest is `{nearest}`, and there are {}", .known.join(", "))]
    UnknownKey { nearest: String, known: Vec<String> },
    #[error("there is no such key; did you mean {0}? (two underscores separate the parts of a key)")]
    UnknownVariable(String),
    #[error("a list is set as a whole: {0}='[{{ ... }}]'")]
    ListItem(String),

    // What a key takes, where something else was written.
    #[error("it is not valid UTF-8")]
    NotUtf8,
    #[error("this is a table with keys of its own")]
    NotTable,
    #[error("there can be several: write [[{0}]]")]
    Several(String),
    #[error("this is a list of tables, set as a whole: [{{ key = \"value\" }}, ...]")]
    NotTables,
    #[error("this is a list: write [{0:?}]")]
    Unlisted(String),
    #[error("this is a list of strings: write [\"...\", \"...\"]")]
    NotList,
    #[error("name at least one, and each only once")]
    NotSet,
    #[error("there is a raw token in it, which others can read here: ask for a path that needs none")]
    RawToken,
    #[error("this is a single value: write a string in quotes")]
    NotSingle,
    #[error("write it in quotes")]
    Unquoted,
    #[error("write a whole number from {least} to {most}")]
    OutOfRange { least: u64, most: u64 },
    #[error("it must be from {} to {}", format_size(*.least), format_size(*.most))]
    SizeOutOfRange { least: u64, most: u64 },
    #[error("write true or false")]
    NotSwitch,
    #[error("it must be longer than zero")]
    Zero,
    #[error("name a file")]
    NoFile,
    #[error("a name has 1 to 64 letters, digits, `.`, `_` and `-`")]
    NotName,
    #[error("name a user, or remove the key for the default user")]
    NoUser,
    #[error("write an IP address and a port: 127.0.0.1:8080, 0.0.0.0:8080 (every interface) or [::1]:8080")]
    NotAddress,
    #[error("write the mode of the socket's file in octal digits, such as \"0660\" (its user and group may connect)")]
    NotMode,
    #[error("only a Unix socket (address = \"unix:PATH\") has a mode")]
    ModeOfNoSocket,
    #[error("write a host name or an IP address")]
    NotHost,
    #[error("write a path that begins with `/`, or \"off\"")]
    NotHealthPath,
    #[error("spans go to a collector by http: write http://HOST:4318, or unix:PATH")]
    NotCollector,
    #[error("the nodes of an upstream are all http or all https")]
    MixedSchemes,
    #[error("an upstream has at most {MAX_NODES} nodes")]
    TooManyNodes,
    #[error("write a level (error, warn, info, debug, trace or off), or one for each part: info,tollgate::proxy=debug")]
    NotFilter,
    #[error("there is no such group; there are {}, and * for all of them", Group::ALL.map(Group::name).join(", "))]
    NotGroup,
    #[error("the methods are {} (in capitals)", Method::ALL.map(Method::name).join(", "))]
    NotMethod,
    #[error(
        "write a path as requests have it, such as /healthz: it begins with /, and has no query, no % and no .. in it"
    )]
    NotOwnPath,
    #[error("write a permission as resource:action, such as configs:read")]
    NotPermission,
    #[error("it is \"none\" or \"token\"; otherwise name a permission")]
    NotAuth,

    // A key that is needed, and was not written.
    #[error("none of $STATE_DIRECTORY, $XDG_STATE_HOME and $HOME is set, so there is no default; {NAME_FILE}")]
    NoStateDirectory,
    #[error("the state directory's path has a `?` or is not valid UTF-8, which a store's URL cannot have; {NAME_FILE}")]
    UnusableStateDirectory,
    #[error("at least one is needed")]
    NoListener,
    #[error("name where the audit trail must be written: file or syslog")]
    NothingRequired,
    #[error("TLS needs a certificate and a key")]
    NoCertificate,
    #[error("every route needs methods and a path")]
    IncompleteRoute,
    #[error(
        "a route needs permission = \"resource:action\", or auth = \"token\" for any token, or auth = \"none\" to open it to everyone"
    )]
    NoPermission,
    #[error("mode = \"replace\" needs a file with the Controller's service token")]
    NoServiceToken,
    #[error("a user needs a password: name its file with `sentinel_password_file`")]
    NoSentinelPassword,

    // What a key is used with only, and is not there.
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

    // What cannot be together.
    #[error("another listener has {0} already")]
    ListenerTaken(ListenAddress),
    #[error("it points to the listener at {0}: requests would loop")]
    Loop(ListenAddress),
    #[error(
        "tokens would cross the network in the clear: give the admin listener a certificate (admin.tls.certificate and .key), or \
         admin.public_url, the URL of the proxy in front of it"
    )]
    ExposedConsole,
    #[error("the admin listener and a listener cannot share {0}")]
    AdminTaken(ListenAddress),
    #[error(
        "a route has this path: what it leads to would be out of reach; choose one that none has, such as /healthz"
    )]
    HealthTaken,
    #[error(
        "it would replace listeners that have more than an address, such as TLS; change their addresses where they are written"
    )]
    ReplacedListeners,
    #[error(
        "max_staleness must be longer than probe_interval ({}), or it is exceeded between probes",
        format_duration(*.probe_interval)
    )]
    ShortStaleness { probe_interval: Duration },
    #[error("it must be longer than probe_interval ({}), or it is exceeded between probes", format_duration(*.probe_interval))]
    ShortPermissionStaleness { probe_interval: Duration },
    #[error("a proof may take twice its timeout ({}): the interval must be as long at least", format_duration(*.timeout))]
    ShortProveInterval { timeout: Duration },
    #[error("a route has either a permission or auth, not both")]
    PermissionAndAuth,
    #[error("{method} on this path is shadowed by the route at {place}; remove one of the two")]
    RouteTaken { method: Method, place: Place },
    #[error("`store.url` has a password already: remove one of them")]
    TwoPasswords,
    #[error(
        "every user of this host can see the password among the arguments: give it by TOLLGATE_STORE__PASSWORD_FILE \
         (store.password_file), or the whole URL by TOLLGATE_STORE__URL"
    )]
    VisiblePassword,
}

impl Reason {
    pub(super) fn invalid(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Invalid(Cause::new(error))
    }

    /// With this instead of the value, and of what another part's error says of it.
    pub(super) fn redacted(self, shown: &str, redact: impl FnOnce(&str) -> String) -> Self {
        match self {
            Self::Invalid(Cause { error, text }) => Self::Invalid(Cause { error, text: redact(&text) }),
            Self::Unlisted(_) => Self::Unlisted(shown.to_owned()),
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

const NAME_FILE: &str = "name the file, such as sqlite:/var/lib/tollgate/tollgate.db";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_and_accepted_is_listed() {
        let says = |reason: Reason, expected: &str| assert_eq!(reason.to_string(), expected);
        let known = ["url".to_owned(), "ca".to_owned()].to_vec();
        says(
            Reason::UnknownKey { nearest: "ca".to_owned(), known },
            "there is no such key; the nearest is `ca`, and there are url, ca",
        );
        says(
            Reason::ListItem("TOLLGATE_LISTENER".to_owned()),
            "a list is set as a whole: TOLLGATE_LISTENER='[{ ... }]'",
        );
        says(Reason::NotTables, "this is a list of tables, set as a whole: [{ key = \"value\" }, ...]");
        says(Reason::Unlisted("a\nb".to_owned()), "this is a list: write [\"a\\nb\"]");
        says(Reason::SizeOutOfRange { least: 8 << 10, most: 1 << 20 }, "it must be from 8KiB to 1MiB");
        says(
            Reason::NotGroup,
            "there is no such group; there are agents, configs, labels, reporting-rules, heartbeat, and * for all of them",
        );
        says(Reason::NotMethod, "the methods are GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS (in capitals)");
        says(
            Reason::ShortPermissionStaleness { probe_interval: Duration::from_millis(1500) },
            "it must be longer than probe_interval (1s500ms), or it is exceeded between probes",
        );
    }
}
