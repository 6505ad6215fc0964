//! One request for as long as it is under way: where it came from, what interrupts it, what is said of it in the log.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::Proxy;
use super::path::normalise;
use super::record::{Ending, Record};
use super::request::Origin;
use super::route::{Method, RouteGroup};
use super::tally::Outcome;
use crate::clock::Instant;
use crate::token::TokenId;
use crate::token::raw::PREFIX;
use crate::upstream::UpstreamName;
use crate::worker::RequestId;
use crate::worker::alarm::Alarm;

/// One request and its reply.
pub(crate) struct Exchange {
    /// What serves it, to its end.
    pub proxy: Rc<Proxy>,
    /// Where it came from.
    pub origin: Origin,
    /// Interrupts it. Until it has a reply, its deadlines are those of the steps towards one; then those of the reply.
    pub alarm: Alarm,
    /// When its head was there.
    pub began: Instant,
    /// When it was handed to the upstream for the first time.
    handed: Cell<Option<Instant>>,
    /// When its reply began, while that is all that there is of it: a small one costs no further look at the clock.
    whole: Cell<Option<Instant>>,
    method: Cell<Option<Method>>,
    group: Cell<RouteGroup>,
    id: Cell<RequestId>,
    token: Cell<Option<TokenId>>,
    /// Method and path; made only when someone reads it.
    line: RefCell<Option<String>>,
    ended: Cell<bool>,
    /// For those who want to know of it; of a part nobody does.
    record: Option<Box<Record>>,
    /// It is a part of another one, which is what is spoken of.
    is_part: bool,
    settled: Cell<bool>,
    /// Bytes of its reply's body that came from the upstream.
    pub(crate) received: Cell<usize>,
    /// Its reply has begun, and the upstream is waited for.
    pub(crate) waiting: Cell<bool>,
}

impl Exchange {
    /// One that begins.
    pub(crate) fn new(proxy: &Rc<Proxy>, origin: Origin) -> Rc<Self> {
        Self::begin(proxy, origin, proxy.worker.request_id(), false)
    }

    /// One for a fetch that this one needs, and maybe others do: with its id, and nothing to say of its own.
    pub(super) fn part(&self) -> Rc<Self> {
        Self::begin(&self.proxy, self.origin.clone(), self.id(), true)
    }

    fn begin(proxy: &Rc<Proxy>, origin: Origin, id: RequestId, is_part: bool) -> Rc<Self> {
        let origin = Origin { trusted: proxy.gate.trusts(origin.address), ..origin };
        Rc::new(Self {
            record: if is_part { None } else { Record::begin(&proxy.gate, &origin) },
            proxy: Rc::clone(proxy),
            origin,
            alarm: Alarm::new(&proxy.worker),
            began: Instant::now(),
            handed: Cell::new(None),
            whole: Cell::new(None),
            method: Cell::new(None),
            group: Cell::new(RouteGroup::Unrouted),
            id: Cell::new(id),
            token: Cell::new(None),
            line: RefCell::new(None),
            ended: Cell::new(false),
            is_part,
            settled: Cell::new(false),
            received: Cell::new(0),
            waiting: Cell::new(false),
        })
    }

    /// Names it in replies, logs and the upstream's `X-Request-Id`.
    pub(crate) fn id(&self) -> RequestId {
        self.id.get()
    }

    pub(super) fn set_id(&self, id: RequestId) {
        self.id.set(id);
    }

    pub(super) fn set_token(&self, token: TokenId) {
        self.token.set(Some(token));
    }

    pub(super) fn set_group(&self, group: RouteGroup) {
        self.group.set(group);
    }

    /// The query is left out: it may hold anything. So is what may be a token in the wrong place.
    pub(super) fn set_line(&self, method: &http::Method, path: &str) {
        let method = Method::from_name(method.as_str());
        self.method.set(method);
        if tracing::enabled!(tracing::Level::DEBUG) {
            self.line.replace(Some(format!("{} {}", method.map_or("?", Method::name), shown(path))));
        }
    }

    pub(super) fn record(&self) -> Option<&Record> {
        self.record.as_deref()
    }

    /// Nothing is owed to it any more: it was refused, or its reply was received whole.
    pub(crate) fn settle(&self) {
        self.settled.set(true);
    }

    /// What was received is given to nobody: it gets another reply.
    pub(super) fn unsettle(&self) {
        self.settled.set(false);
        self.received.set(0);
    }

    /// It waits for what somebody else asks the upstream: that is no time of Tollgate's own.
    pub(super) fn waits_for_another(&self) {
        self.hand_on();
        self.record().inspect(|record| record.handed());
    }

    /// Whether ending it now takes nothing back.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled.get()
    }

    /// It is handed to the upstream now.
    pub(super) fn hand_on(&self) -> Instant {
        let now = Instant::now();
        if self.handed.replace(Some(now)).is_none() && !self.is_part {
            self.proxy.tally.own(now - self.began);
        }
        now
    }

    /// Its reply has begun, to what was handed to the upstream at this time.
    pub(super) fn answered(&self, upstream: UpstreamName, handed: Instant) {
        let now = Instant::now();
        self.whole.set(Some(now));
        self.proxy.tally.answered(upstream, now - handed);
    }

    /// There is more of the reply.
    pub(super) fn goes_on(&self) {
        self.whole.set(None);
    }

    /// Counts how it ended, once, and says so; not of a part. `status` is 0 where no reply was whole.
    pub(crate) fn end(&self, status: u16, outcome: Outcome) {
        if self.ended.replace(true) || self.is_part {
            return;
        }
        let took = self.whole.get().unwrap_or_else(Instant::now) - self.began;
        if self.handed.get().is_none() {
            self.proxy.tally.own(took);
        }
        self.proxy.tally.ended(self.group.get(), self.method.get(), status, outcome, took);
        if let Some(record) = &self.record {
            let (id, outcome) = (self.id(), outcome.word());
            let ending = Ending { status, outcome, request_id: id.as_str(), bytes: self.received.get() };
            record.end(&self.proxy.gate, &ending);
        }
        if tracing::enabled!(tracing::Level::DEBUG) {
            // A text of its own, which the line below borrows.
            let id = self.id();
            let token = self.token.get().map(tracing::field::display);
            let line = self.line.borrow();
            let outcome = outcome.word();
            tracing::debug!(request_id = id.as_str(), line = line.as_deref(), token, status, outcome, "request");
        }
    }
}

/// A path up to where a token may begin, however it is encoded; of one that cannot be read in one way, nothing.
pub(super) fn shown(path: &str) -> Cow<'_, str> {
    let Ok(decoded) = normalise(path) else { return "(ambiguous path)".into() };
    match decoded.to_ascii_lowercase().find(PREFIX) {
        Some(at) => format!("{}{PREFIX}...", decoded.get(..at).unwrap_or_default()).into(),
        None => path.into(),
    }
}

/// Whether a token may begin in this, however it is spelled and however often percent-encoded.
pub(super) fn may_hold_token(text: &[u8]) -> bool {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut decoded = Vec::with_capacity(text.len());
    for byte in text {
        decoded.push(byte.to_ascii_lowercase());
        // What was decoded may end another one.
        while let [.., b'%', high, low] = *decoded.as_slice()
            && let Some(byte) = digit(high).zip(digit(low)).and_then(|(high, low)| u8::try_from(high << 4 | low).ok())
        {
            decoded.truncate(decoded.len() - 3);
            decoded.push(byte.to_ascii_lowercase());
        }
    }
    memchr::memmem::find(&decoded, PREFIX.as_bytes()).is_some()
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(request_id = self.id().as_str(), "this request panicked");
        }
        self.end(0, Outcome::Left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_noticed_in_every_spelling() {
        for text in [
            "/c/a?token=tc-apiv1_abc",
            "/c/tc-apiv1_abc",
            "?a=b&t=TC-APIV1%5fabc",
            "?t=%74%63-apiv1_abc",
            "?t=tc-apiv1%255Fabc",
            "?t=tc-apiv1%2525%35Fabc",
            "?t=%%37%34c-apiv1_abc",
        ] {
            assert!(may_hold_token(text.as_bytes()), "{text}");
        }
        for text in ["/c/a?host=b", "/api/configs/tc-apiv2_abc/toml", "?a=%", "?a=%5", "?a=%zz%"] {
            assert!(!may_hold_token(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_token_in_a_path_is_not_shown() {
        assert_eq!(shown("/api/configs/1/toml"), "/api/configs/1/toml");
        for path in ["/tc-apiv1_abc", "/a/TC-APIV1_abc/b", "/tc-apiv1%5Fabc", "/t%63-apiv1_abc"] {
            assert!(!shown(path).contains("abc"), "{path}: {}", shown(path));
        }
        assert_eq!(shown("/a/../tc-apiv1_abc"), "(ambiguous path)");
    }
}
