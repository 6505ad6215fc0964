//! What a worker counts of its requests: how they ended, and how long they took. Each worker has a tally of its own, so that
//! counting takes neither a lock nor memory; whoever reads adds them up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::refusal::Reason;
use super::route::{Method, RouteGroup};
use crate::histogram::{Durations, Histogram, add};
use crate::lock::Mutex;
use crate::upstream::UpstreamName;
use crate::words::words;

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With the upstream's whole reply.
    Served,
    /// With a stored reply, since the upstream is away.
    Stored,
    /// With the sidecar's own reply to a balancer.
    Health,
    /// It was refused.
    Refused(Reason),
    /// The reply began and broke off, here or at the upstream.
    Cut,
    /// The client left before there was a reply.
    Left,
}

impl Outcome {
    /// As logs have it: of a refusal, the reason.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Stored => "stored",
            Self::Health => "ready",
            Self::Refused(reason) => reason.name(),
            Self::Cut => "cut",
            Self::Left => "left",
        }
    }

    const fn ending(self) -> Ending {
        match self {
            Self::Served | Self::Health => Ending::Served,
            Self::Stored => Ending::Stored,
            Self::Refused(Reason::Gone) | Self::Left => Ending::Left,
            Self::Refused(_) => Ending::Refused,
            Self::Cut => Ending::Cut,
        }
    }
}

words! {
    /// An [`Outcome`], as it is counted. Why something was refused is counted beside it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Ending {
        /// A whole reply.
        Served = "served",
        /// A stored reply, since the upstream is away.
        Stored = "stored",
        /// A reply of the sidecar's own, or none: [`Reason`] says why.
        Refused = "refused",
        /// The reply broke off.
        Cut = "cut",
        /// The client left before there was a reply.
        Left = "left",
    }
}

words! {
    /// The first digit of a status.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum StatusClass {
        /// No reply was whole.
        None = "none",
        /// It worked.
        Success = "2xx",
        /// It is elsewhere, or unchanged.
        Redirection = "3xx",
        /// The request was at fault.
        ClientError = "4xx",
        /// The server was.
        ServerError = "5xx",
    }
}

impl StatusClass {
    const fn of(status: u16) -> Self {
        match status {
            200..=299 => Self::Success,
            300..=399 => Self::Redirection,
            400..=499 => Self::ClientError,
            500..=599 => Self::ServerError,
            _ => Self::None,
        }
    }
}

/// What requests are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub group: RouteGroup,
    /// `None`: one that no route can have.
    pub method: Option<Method>,
    pub status: StatusClass,
    pub ending: Ending,
}

/// Methods that routes can have, and one for all others.
const METHODS: usize = Method::ALL.len() + 1;
const KINDS: usize = RouteGroup::COUNT * METHODS * StatusClass::ALL.len() * Ending::ALL.len();

impl Kind {
    fn index(self) -> usize {
        let method = self.method.map_or(Method::ALL.len(), |method| method as usize);
        let of_group = self.group.index() * METHODS + method;
        (of_group * StatusClass::ALL.len() + self.status as usize) * Ending::ALL.len() + self.ending as usize
    }

    /// Every one, in the order of their indices.
    fn all() -> impl Iterator<Item = Self> {
        let methods = || Method::ALL.into_iter().map(Some).chain([None]);
        let of = move |group| {
            methods().flat_map(move |method| {
                let of_method = move |status| Ending::ALL.map(move |ending| Self { group, method, status, ending });
                StatusClass::ALL.into_iter().flat_map(of_method)
            })
        };
        RouteGroup::all().flat_map(of)
    }
}

/// Of one worker. Only that worker's thread counts here.
pub(crate) struct Tally {
    requests: Box<[AtomicU64]>,
    refusals: [AtomicU64; Reason::ALL.len()],
    durations: [Histogram; RouteGroup::COUNT],
    own: Histogram,
    upstream: [Histogram; UpstreamName::ALL.len()],
    accepted: AtomicU64,
    handshakes: AtomicU64,
}

impl Tally {
    fn new() -> Self {
        Self {
            requests: std::iter::repeat_with(AtomicU64::default).take(KINDS).collect(),
            refusals: std::array::from_fn(|_| AtomicU64::default()),
            durations: std::array::from_fn(|_| Histogram::default()),
            own: Histogram::default(),
            upstream: std::array::from_fn(|_| Histogram::default()),
            accepted: AtomicU64::default(),
            handshakes: AtomicU64::default(),
        }
    }

    /// A request is over, after so long. `status` is 0 where no reply was whole.
    pub(super) fn ended(
        &self,
        group: RouteGroup,
        method: Option<Method>,
        status: u16,
        outcome: Outcome,
        took: Duration,
    ) {
        let kind = Kind { group, method, status: StatusClass::of(status), ending: outcome.ending() };
        if let Some(count) = self.requests.get(kind.index()) {
            add(count, 1);
        }
        if let Outcome::Refused(reason) = outcome {
            add(&self.refusals[reason as usize], 1);
        }
        self.durations[group.index()].observe(took);
    }

    /// So long it took here until a request was handed to the upstream, or refused.
    pub(super) fn own(&self, took: Duration) {
        self.own.observe(took);
    }

    /// So long an upstream took from then until its reply began.
    pub(super) fn answered(&self, upstream: UpstreamName, took: Duration) {
        self.upstream[upstream as usize].observe(took);
    }

    /// A connection was accepted.
    pub(crate) fn accepted(&self) {
        add(&self.accepted, 1);
    }

    /// A TLS handshake was completed.
    pub(crate) fn shook_hands(&self) {
        add(&self.handshakes, 1);
    }
}

/// Those of all workers.
#[derive(Default)]
pub struct Tallies(Mutex<Vec<Arc<Tally>>>);

impl Tallies {
    /// One more, for a worker.
    pub(crate) fn worker(&self) -> Arc<Tally> {
        let tally = Arc::new(Tally::new());
        self.0.lock().push(Arc::clone(&tally));
        tally
    }

    /// All of them added up.
    pub(crate) fn total(&self) -> Total {
        let mut total = Total {
            requests: vec![0; KINDS],
            refusals: [0; Reason::ALL.len()],
            durations: [Durations::default(); RouteGroup::COUNT],
            own: Durations::default(),
            upstream: [Durations::default(); UpstreamName::ALL.len()],
            accepted: 0,
            handshakes: 0,
        };
        for tally in &*self.0.lock() {
            let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            total.requests.iter_mut().zip(&tally.requests).for_each(|(sum, count)| *sum += read(count));
            total.refusals.iter_mut().zip(&tally.refusals).for_each(|(sum, count)| *sum += read(count));
            total.durations.iter_mut().zip(&tally.durations).for_each(|(sum, histogram)| sum.add(histogram));
            total.own.add(&tally.own);
            total.upstream.iter_mut().zip(&tally.upstream).for_each(|(sum, histogram)| sum.add(histogram));
            total.accepted += read(&tally.accepted);
            total.handshakes += read(&tally.handshakes);
        }
        total
    }
}

impl std::fmt::Debug for Tallies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tallies").finish_non_exhaustive()
    }
}

/// What all workers have counted.
pub(crate) struct Total {
    requests: Vec<u64>,
    refusals: [u64; Reason::ALL.len()],
    durations: [Durations; RouteGroup::COUNT],
    /// Until requests were handed on, or refused.
    pub own: Durations,
    upstream: [Durations; UpstreamName::ALL.len()],
    /// Connections.
    pub accepted: u64,
    /// TLS handshakes.
    pub handshakes: u64,
}

impl Total {
    /// How many requests there were, of each kind that there was any of.
    pub(crate) fn requests(&self) -> impl Iterator<Item = (Kind, u64)> {
        Kind::all().zip(self.requests.iter().copied()).filter(|(_, count)| *count > 0)
    }

    /// How many were refused, by each reason.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().zip(self.refusals)
    }

    /// How long requests took, of each group that there was any of.
    pub(crate) fn durations(&self) -> impl Iterator<Item = (RouteGroup, &Durations)> {
        RouteGroup::all().zip(&self.durations).filter(|(_, durations)| durations.count() > 0)
    }

    /// How long an upstream took until its replies began.
    pub(crate) fn upstream(&self, upstream: UpstreamName) -> &Durations {
        &self.upstream[upstream as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Resource;

    #[test]
    fn every_kind_has_a_place_of_its_own() {
        assert!(Kind::all().map(Kind::index).eq(0..KINDS));
    }

    #[test]
    fn workers_are_added_up() {
        let tallies = Tallies::default();
        let group = RouteGroup::Resource(Resource::Heartbeat);
        let took = Duration::from_millis(3);
        for _ in 0..2 {
            let tally = tallies.worker();
            tally.ended(group, Some(Method::Post), 204, Outcome::Served, took);
            tally.ended(RouteGroup::Unrouted, None, 404, Outcome::Refused(Reason::NoRoute), took);
            tally.ended(group, Some(Method::Post), 499, Outcome::Refused(Reason::Gone), took);
            tally.answered(UpstreamName::Heartbeat, took);
        }
        let total = tallies.total();
        let kinds: Vec<_> = (total.requests())
            .map(|(kind, count)| {
                let method = kind.method.map_or("other", Method::name);
                (kind.group.name(), method, kind.status.name(), kind.ending.name(), count)
            })
            .collect();
        let expected = [
            ("heartbeat", "POST", "2xx", "served", 2),
            ("heartbeat", "POST", "4xx", "left", 2),
            ("unrouted", "other", "4xx", "refused", 2),
        ];
        assert_eq!(kinds, expected);
        let refusals: Vec<_> = total.refusals().filter(|(_, count)| *count > 0).collect();
        assert_eq!(refusals, [(Reason::NoRoute, 2), (Reason::Gone, 2)]);
        let durations: Vec<_> = total.durations().map(|(group, durations)| (group.name(), durations.count())).collect();
        assert_eq!(durations, [("heartbeat", 4), ("unrouted", 2)]);
        assert_eq!(
            (total.upstream(UpstreamName::Heartbeat).count(), total.upstream(UpstreamName::Api).count()),
            (2, 0)
        );
    }
}
