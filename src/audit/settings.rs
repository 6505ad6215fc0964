//! What becomes of the audit trail.

use std::path::PathBuf;
use std::time::Duration;

/// `[audit]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long entries stay in the store, at least. They go when they are a tenth older, many at once.
    pub retention: Duration,
    /// Where lines are appended too.
    pub file: Option<PathBuf>,
    /// The socket of a syslog daemon, which gets them too.
    pub syslog: Option<PathBuf>,
    /// Nothing is changed while lines cannot be written there.
    pub required: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { retention: Duration::from_hours(365 * 24), file: None, syslog: None, required: false }
    }
}
