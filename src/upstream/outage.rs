//! What goes wrong with an upstream: counted by step, and logged now and then. An outage under load is not as many lines.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sampler::Sampler;

/// What is done for a request at its upstream, in this order: how far it came that got no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Looking the host's name up.
    Resolve,
    /// Connecting.
    Connect,
    /// The TLS handshake.
    Tls,
    /// Writing the request.
    Request,
    /// Waiting for the head of the reply.
    FirstByte,
    /// Within the reply.
    Reply,
}

impl Step {
    /// Every one.
    pub const ALL: [Self; 6] = [Self::Resolve, Self::Connect, Self::Tls, Self::Request, Self::FirstByte, Self::Reply];

    /// As logs and metrics name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Request => "request",
            Self::FirstByte => "first_byte",
            Self::Reply => "reply",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The failures of one upstream.
#[derive(Debug, Default)]
pub struct Outages {
    counts: [AtomicU64; Step::ALL.len()],
    /// One for each step: many of one kind must not hide another.
    samplers: [Sampler; Step::ALL.len()],
}

impl Outages {
    /// Counts a failure. `Some`: it is to be logged, and how many before it were not.
    pub fn count(&self, step: Step) -> Option<u64> {
        self.counts[step as usize].fetch_add(1, Ordering::Relaxed);
        self.samplers[step as usize].admit()
    }

    /// How often a step failed.
    #[must_use]
    pub fn total(&self, step: Step) -> u64 {
        self.counts[step as usize].load(Ordering::Relaxed)
    }
}
