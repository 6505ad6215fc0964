//! What a store is opened with.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use zeroize::Zeroizing;

use super::StoreUrl;
use super::url::Password;
use crate::reading;
use crate::words::words;

/// Which store, and how to get at it. Everything but the URL is for Redis only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Which store, and where.
    pub url: StoreUrl,
    /// What all keys and channels begin with, so that several registries can share one Redis.
    pub namespace: Namespace,
    /// How many replicas must confirm each commit and each probe; 0 for none. What that protects from:
    /// [`Replicas`](super::Replicas).
    pub quorum_replicas: u32,
    /// From which servers much is read.
    pub read_from: ReadFrom,
    /// Holds the password, nothing else; instead of one in the URL.
    pub password_file: Option<PathBuf>,
    /// The user that Sentinels know us as; `None`: the default one.
    pub sentinel_username: Option<String>,
    /// Holds the password for the Sentinels.
    pub sentinel_password_file: Option<PathBuf>,
    /// Authorities (PEM) to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// Our certificate chain (PEM), where the server asks for one.
    pub certificate: Option<PathBuf>,
    /// Its private key (PEM).
    pub key: Option<PathBuf>,
}

impl From<StoreUrl> for Settings {
    /// This store, and defaults for everything else.
    fn from(url: StoreUrl) -> Self {
        Self {
            url,
            namespace: Namespace::default(),
            quorum_replicas: 0,
            read_from: ReadFrom::Primary,
            password_file: None,
            sentinel_username: None,
            sentinel_password_file: None,
            ca: None,
            certificate: None,
            key: None,
        }
    }
}

impl Settings {
    /// The store as a person would name it, without secrets: a Redis can hold several registries.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.url {
            StoreUrl::Redis(url) if self.namespace != Namespace::default() => {
                format!("{url} (namespace `{}`)", self.namespace)
            }
            url => url.to_string(),
        }
    }
}

words! {
    /// From which servers snapshots and long parts of the change log are read. Everything else is asked of the primary.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum ReadFrom ("servers") {
        /// The primary.
        Primary = "primary",
        /// A replica of it, as far as the primary shows the same past; and itself where none does.
        Replica = "replica",
    }
}

/// Why a file gives no password.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// It is missing, or may not be read.
    #[error("reading {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing is in it.
    #[error("{} is empty", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// Redis passwords can be any bytes, but nobody types such.
    #[error("{} is not text", file.display())]
    NotText {
        /// The file.
        file: PathBuf,
    },
}

/// Reads a file that holds a password and nothing else; the line's end after it does not belong to it.
///
/// # Errors
/// [`PasswordError`] names the file, and never shows what is in it.
pub fn read_password(file: &Path) -> Result<Password, PasswordError> {
    let bytes = reading::read(file).map(Zeroizing::new);
    let bytes = bytes.map_err(|source| PasswordError::Read { file: file.to_owned(), source })?;
    let text = std::str::from_utf8(&bytes).map_err(|_| PasswordError::NotText { file: file.to_owned() })?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    match text.strip_suffix('\r').unwrap_or(text) {
        "" => Err(PasswordError::Empty { file: file.to_owned() }),
        text => Ok(Password::new(text.to_owned())),
    }
}

/// The first part of all keys: `{tollgate}:meta`. The braces make it a hash tag, so that all keys share one slot of a
/// cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Namespace(String);

impl Namespace {
    /// A key, or a channel.
    #[must_use]
    pub fn key(&self, name: impl fmt::Display) -> String {
        format!("{{{}}}:{name}", self.0)
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self("tollgate".to_owned())
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is not a [`Namespace`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a namespace has 1 to 64 letters, digits, `.`, `_` and `-`")]
pub struct InvalidNamespace;

impl FromStr for Namespace {
    type Err = InvalidNamespace;

    /// Characters that mean something to Redis (hash tags, patterns of ACLs) are refused.
    fn from_str(text: &str) -> Result<Self, InvalidNamespace> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        match (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
            true => Ok(Self(text.to_owned())),
            false => Err(InvalidNamespace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_share_a_hash_tag() {
        assert_eq!(Namespace::default().key("meta"), "{tollgate}:meta");
        assert_eq!("plant-7".parse::<Namespace>().expect("valid").key("log"), "{plant-7}:log");
    }

    #[test]
    fn one_of_several_registries_in_a_redis_is_named() {
        let mut settings: Settings = "redis://h".parse::<StoreUrl>().expect("a URL").into();
        let url = settings.url.to_string();
        assert_eq!(settings.describe(), url);
        settings.namespace = "plant-7".parse().expect("valid");
        assert_eq!(settings.describe(), format!("{url} (namespace `plant-7`)"));
        settings.url = "sqlite:/t.db".parse().expect("a URL");
        assert_eq!(settings.describe(), "sqlite:/t.db");
    }

    #[test]
    fn what_means_something_to_redis_is_no_namespace() {
        for text in ["", "a b", "a{b}", "a*", "a:b", "[a]", "a\\", "ä", &"a".repeat(65)] {
            assert_eq!(text.parse::<Namespace>(), Err(InvalidNamespace), "{text}");
        }
    }
}
