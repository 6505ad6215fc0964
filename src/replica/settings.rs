//! How long the replica is believed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::token::Permission;
use crate::units::{InvalidDuration, format_duration, parse_duration};

/// How long the replica is believed after it was last proven to be the store's.
#[derive(Debug, Clone)]
pub struct FreshnessConfig {
    /// How often the store is asked for its position.
    pub probe_interval: Duration,
    /// The bound for every permission without one of its own.
    pub max_staleness: MaxStaleness,
    /// Bounds of their own.
    pub per_permission: Vec<(Permission, MaxStaleness)>,
}

impl Default for FreshnessConfig {
    fn default() -> Self {
        Self {
            probe_interval: Duration::from_secs(1),
            max_staleness: MaxStaleness::Within(Duration::from_mins(1)),
            per_permission: Vec::new(),
        }
    }
}

impl FreshnessConfig {
    /// How stale the replica may be for requests that need this permission; `None`: a token, whatever it permits.
    pub fn bound(&self, needed: Option<Permission>) -> MaxStaleness {
        let own = self.per_permission.iter().find(|(other, _)| Some(*other) == needed);
        own.map_or(self.max_staleness, |(_, bound)| *bound)
    }

    /// All bounds: the general one, and those of single permissions.
    pub(crate) fn bounds(&self) -> impl Iterator<Item = MaxStaleness> {
        self.per_permission.iter().map(|(_, bound)| *bound).chain([self.max_staleness])
    }
}

/// A bound on staleness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxStaleness {
    /// This long.
    Within(Duration),
    /// No bound: a stated choice of the operator's.
    Never,
}

impl MaxStaleness {
    /// Whether a replica that is so stale is still believed.
    pub fn allows(self, staleness: Duration) -> bool {
        match self {
            Self::Within(bound) => staleness <= bound,
            Self::Never => true,
        }
    }
}

/// A text that is not a bound on staleness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidStaleness {
    /// It would refuse everything.
    #[error("it must be longer than zero")]
    Zero,
    /// Neither a duration nor `never`.
    #[error("{0}; or \"never\" for no bound")]
    Duration(InvalidDuration),
}

impl FromStr for MaxStaleness {
    type Err = InvalidStaleness;

    fn from_str(text: &str) -> Result<Self, InvalidStaleness> {
        match parse_duration(text) {
            _ if text == "never" => Ok(Self::Never),
            Ok(Duration::ZERO) => Err(InvalidStaleness::Zero),
            Ok(bound) => Ok(Self::Within(bound)),
            Err(error) => Err(InvalidStaleness::Duration(error)),
        }
    }
}

impl fmt::Display for MaxStaleness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Within(bound) => f.pad(&format_duration(*bound)),
            Self::Never => f.pad("never"),
        }
    }
}
