//! A node of an upstream: one of the Controller's processes, where several serve the same. What is known of it holds for all
//! workers, and for as long as the sidecar runs: files that are read again change nothing of it.

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use http::HeaderValue;

use super::connect::Connector;
use super::{UpstreamConfig, UpstreamError, UpstreamUrl};

/// A node, as all workers share it. Of one that is the only one nothing is counted and nothing judged.
pub(crate) struct Node {
    /// Where it is.
    pub(crate) url: UpstreamUrl,
    /// Its authority, as the `Host` field says it.
    pub(crate) host: HeaderValue,
    /// What makes connections to it.
    pub(crate) connector: Connector,
    condition: AtomicU8,
    in_flight: AtomicUsize,
    connects_failed: AtomicU64,
}

/// What is known of a node. The lesser is chosen first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Condition {
    /// It can be connected to, and does not say that it is unavailable.
    Healthy,
    /// It was not looked at yet.
    Unchecked,
    /// It cannot be connected to, says that it is unavailable, or says nothing.
    Unhealthy,
}

impl Condition {
    fn from_byte(byte: u8) -> Self {
        let all = [Self::Healthy, Self::Unchecked];
        all.into_iter().find(|condition| *condition as u8 == byte).unwrap_or(Self::Unhealthy)
    }
}

impl Node {
    pub(super) fn new(url: UpstreamUrl, config: &UpstreamConfig) -> Result<Self, UpstreamError> {
        Ok(Self {
            host: HeaderValue::from_str(&url.authority).map_err(|_| UpstreamError::Authority)?,
            connector: Connector::new(&url, config)?,
            url,
            condition: AtomicU8::new(Condition::Unchecked as u8),
            in_flight: AtomicUsize::new(0),
            connects_failed: AtomicU64::new(0),
        })
    }

    /// What is known of it.
    pub(crate) fn condition(&self) -> Condition {
        Condition::from_byte(self.condition.load(Ordering::Relaxed))
    }

    /// Says what is known from now on, and returns what was before.
    pub(super) fn set_condition(&self, condition: Condition) -> Condition {
        Condition::from_byte(self.condition.swap(condition as u8, Ordering::Relaxed))
    }

    /// Requests that were sent there, or are about to be, and are not answered to the end.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Connections for requests that could not be made.
    pub(crate) fn connects_failed(&self) -> u64 {
        self.connects_failed.load(Ordering::Relaxed)
    }

    pub(super) fn count_connect_failed(&self) {
        self.connects_failed.fetch_add(1, Ordering::Relaxed);
    }
}
