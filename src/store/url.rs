//! Store URLs: which store, and where.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// Where the registry is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// `sqlite:PATH`: one file on this host.
    Sqlite(PathBuf),
}

/// A text that is not a store URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidStoreUrl {
    /// No scheme, or an unknown one.
    #[error("`{0}` is not a store URL: write sqlite:PATH")]
    Scheme(String),
    /// No path.
    #[error("sqlite: needs a path, such as sqlite:/var/lib/tollgate/tollgate.db")]
    NoPath,
    /// A memory database would be another one for every connection.
    #[error("sqlite::memory: cannot be shared between commands; name a file")]
    Memory,
    /// SQLite's own URI options are not supported.
    #[error("sqlite:PATH takes no options (remove everything from the `?` on)")]
    Options,
}

impl FromStr for StoreUrl {
    type Err = InvalidStoreUrl;

    fn from_str(text: &str) -> Result<Self, InvalidStoreUrl> {
        // The whole text is not shown when it may be a URL with a password in it.
        let scheme = text.split_once(':').map_or(text, |(scheme, _)| scheme);
        let path = match text.split_once(':') {
            Some(("sqlite", path)) => path,
            _ => return Err(InvalidStoreUrl::Scheme(scheme.to_owned())),
        };
        let path = path.strip_prefix("//").unwrap_or(path);
        match path {
            "" => Err(InvalidStoreUrl::NoPath),
            ":memory:" => Err(InvalidStoreUrl::Memory),
            _ if path.contains('?') => Err(InvalidStoreUrl::Options),
            _ => Ok(Self::Sqlite(PathBuf::from(path))),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
        }
    }
}

impl<'de> Deserialize<'de> for StoreUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_file() {
        let path = |text: &str| text.parse::<StoreUrl>().map(|StoreUrl::Sqlite(path)| path);
        assert_eq!(path("sqlite:tollgate.db"), Ok(PathBuf::from("tollgate.db")));
        assert_eq!(path("sqlite:/var/lib/a.db"), Ok(PathBuf::from("/var/lib/a.db")));
        assert_eq!(path("sqlite:///var/lib/a.db"), Ok(PathBuf::from("/var/lib/a.db")));
        assert_eq!(path("sqlite:"), Err(InvalidStoreUrl::NoPath));
        assert_eq!(path("sqlite::memory:"), Err(InvalidStoreUrl::Memory));
        assert_eq!(path("sqlite:a?mode=ro"), Err(InvalidStoreUrl::Options));
        assert_eq!(path("tollgate.db"), Err(InvalidStoreUrl::Scheme("tollgate.db".to_owned())));
        assert_eq!(path("redis://:secret@h"), Err(InvalidStoreUrl::Scheme("redis".to_owned())));
    }
}
