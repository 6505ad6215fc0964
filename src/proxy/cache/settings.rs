//! The settings of the configuration cache.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

/// Whether configurations are stored, and how many.
#[derive(Debug, Clone)]
pub struct CacheConfig {
    /// Off by default: configurations can hold secrets.
    pub enabled: bool,
    /// Most bytes of memory that they take.
    pub max_bytes: NonZeroUsize,
    /// Most of them.
    pub max_entries: NonZeroUsize,
    /// Where they are stored besides, for after a restart.
    pub directory: Option<PathBuf>,
    /// For how long one is given after it was fetched last.
    pub max_age: Duration,
}

impl Default for CacheConfig {
    fn default() -> Self {
        let number = |number| NonZeroUsize::new(number).expect("none of these is zero");
        Self {
            enabled: false,
            max_bytes: number(64 << 20),
            max_entries: number(10_000),
            directory: None,
            max_age: Duration::from_hours(7 * 24),
        }
    }
}
