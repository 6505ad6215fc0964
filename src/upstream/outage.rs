//! What goes wrong with an upstream: counted by step, and logged now and then. An outage under load is not as many lines.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::sampler::Sampler;
use crate::words::words;

words! {
    /// What is done for a request at its upstream, in this order: how far it came that got no reply.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub(crate) enum Step {
        /// Looking the host's name up.
        Resolve = "resolve",
        /// Connecting.
        Connect = "connect",
        /// The TLS handshake.
        Tls = "tls",
        /// Writing the request.
        Request = "request",
        /// Waiting for the head of the reply.
        FirstByte = "first_byte",
        /// Within the reply.
        Reply = "reply",
    }
}

/// The failures of one upstream.
#[derive(Debug, Default)]
pub(crate) struct Outages {
    counts: [AtomicU64; Step::ALL.len()],
    /// One for each step: many of one kind must not hide another.
    samplers: [Sampler; Step::ALL.len()],
}

impl Outages {
    /// Counts a failure. `Some`: it is to be logged, and how many before it were not.
    pub(crate) fn count(&self, step: Step) -> Option<u64> {
        self.counts[step as usize].fetch_add(1, Ordering::Relaxed);
        self.samplers[step as usize].admit()
    }

    /// How often a step failed.
    pub(crate) fn total(&self, step: Step) -> u64 {
        self.counts[step as usize].load(Ordering::Relaxed)
    }
}
