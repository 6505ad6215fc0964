//! How listeners are asked.

use std::time::Duration;

use crate::tls::UpstreamTlsConfig;
use crate::upstream::UpstreamUrl;

/// Which listeners are asked, and how.
#[derive(Debug, Clone)]
pub(crate) struct ProveSettings {
    /// Where they are; none: as far as the sidecars' reports say.
    pub via: Vec<UpstreamUrl>,
    /// How those that speak TLS are verified, and what they are shown.
    pub tls: UpstreamTlsConfig,
    /// How long they may take to let the canary in, and then to refuse it.
    pub timeout: Duration,
}

impl Default for ProveSettings {
    fn default() -> Self {
        Self { via: Vec::new(), tls: UpstreamTlsConfig::default(), timeout: Self::TIMEOUT }
    }
}

impl ProveSettings {
    /// Thousands of times what a revocation takes, and well below the default `max_staleness`.
    pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
}

/// Proofs that a process makes by itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProveAtInterval {
    /// How often; `None`: never.
    pub(crate) interval: Option<Duration>,
    /// How.
    pub(crate) settings: ProveSettings,
}
