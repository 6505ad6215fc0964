//! A node of an upstream: one of the Controller's processes, where several serve the same. What is known of it holds for all
//! workers, and for as long as the sidecar runs and reaches it in the same way: files that are read again change nothing of it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use http::HeaderValue;

use super::connect::Connector;
use super::refused::Verdict;
use super::{UpstreamConfig, UpstreamError, UpstreamUrl};
use crate::sampler::Sampler;

/// After so many requests in a row without a reply a node is unhealthy. One may be the request's own fault.
const MOST_UNANSWERED: usize = 3;

/// A node, as all workers share it. Of one that is the only one nothing is counted and nothing judged.
pub(crate) struct Node {
    /// Where it is.
    pub(crate) url: UpstreamUrl,
    /// Its authority, as the `Host` field says it.
    pub(crate) host: HeaderValue,
    /// What makes connections to it.
    pub(crate) connector: Connector,
    /// What it says of a credential that is not the client's.
    pub(super) verdict: Verdict,
    /// Lines on what is known of it.
    pub(super) changes: Sampler,
    condition: AtomicU8,
    in_flight: AtomicUsize,
    /// The latest requests that were sent there and got no reply, one after the other.
    unanswered: AtomicUsize,
    /// One request may find out whether that is over.
    trial: AtomicBool,
    connects_failed: AtomicU64,
    all_unanswered: AtomicU64,
}

/// What is known of a node. The lesser is chosen first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Condition {
    /// It can be connected to, and does not say that it is unavailable.
    Healthy,
    /// It was not looked at yet.
    Unchecked,
    /// It answers, and refuses what it is shown as a credential.
    Refusing,
    /// It cannot be connected to, says that it is unavailable, or says nothing.
    Unhealthy,
}

impl Condition {
    fn from_byte(byte: u8) -> Self {
        let all = [Self::Healthy, Self::Unchecked, Self::Refusing];
        all.into_iter().find(|condition| *condition as u8 == byte).unwrap_or(Self::Unhealthy)
    }
}

impl Node {
    pub(super) fn new(url: UpstreamUrl, config: &UpstreamConfig) -> Result<Self, UpstreamError> {
        Ok(Self {
            host: HeaderValue::from_str(&url.authority).map_err(|_| UpstreamError::Authority)?,
            connector: Connector::new(&url, config)?,
            url,
            verdict: Verdict::default(),
            changes: Sampler::default(),
            condition: AtomicU8::new(Condition::Unchecked as u8),
            in_flight: AtomicUsize::new(0),
            unanswered: AtomicUsize::new(0),
            trial: AtomicBool::new(false),
            connects_failed: AtomicU64::new(0),
            all_unanswered: AtomicU64::new(0),
        })
    }

    /// What is known of it.
    pub(crate) fn condition(&self) -> Condition {
        Condition::from_byte(self.condition.load(Ordering::Relaxed))
    }

    /// Whether it was found well last, and has an address.
    pub(crate) fn is_healthy(&self) -> bool {
        self.condition() == Condition::Healthy && self.connector.is_resolved()
    }

    /// As what it is chosen. One that connections can be made to, and that has no good answers all the same, gets one request
    /// after each check that it passes: nothing else tells when that is over.
    pub(super) fn standing(&self) -> Condition {
        let is_on_trial = || self.trial.load(Ordering::Relaxed) && self.in_flight() == 0;
        match self.condition() {
            _ if !self.connector.is_resolved() => Condition::Unhealthy,
            Condition::Unhealthy if self.is_failing() && is_on_trial() => Condition::Healthy,
            Condition::Unhealthy => Condition::Unhealthy,
            known if !self.verdict.is_refusal() || is_on_trial() => known,
            _ => Condition::Refusing,
        }
    }

    /// Says what is known from now on, and returns what was before.
    pub(super) fn set_condition(&self, condition: Condition) -> Condition {
        Condition::from_byte(self.condition.swap(condition as u8, Ordering::Relaxed))
    }

    /// Whether it fails requests though it can be connected to.
    pub(super) fn is_failing(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) >= MOST_UNANSWERED
    }

    /// It passed a check, or failed it: it may be tried if need be, or not.
    pub(super) fn set_trial(&self, passed: bool) {
        self.trial.store(passed && (self.is_failing() || self.verdict.is_refusal()), Ordering::Relaxed);
    }

    /// It was sent a request and gave no reply. Whether it fails requests.
    pub(super) fn count_unanswered(&self) -> bool {
        self.all_unanswered.fetch_add(1, Ordering::Relaxed);
        self.unanswered.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_UNANSWERED
    }

    /// It gave a reply. Whether it failed requests until now.
    pub(super) fn end_unanswered(&self) -> bool {
        // Hardly ever: every reply comes by here.
        self.unanswered.load(Ordering::Relaxed) > 0 && self.unanswered.swap(0, Ordering::Relaxed) >= MOST_UNANSWERED
    }

    /// Requests that were sent there, or are about to be, and are not answered to the end.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        if self.trial.load(Ordering::Relaxed) {
            self.trial.store(false, Ordering::Relaxed);
        }
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

    /// Requests that were sent there and got no reply.
    pub(crate) fn unanswered(&self) -> u64 {
        self.all_unanswered.load(Ordering::Relaxed)
    }
}
