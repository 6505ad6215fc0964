//! What is noted of a request while it is under way, for its line in the access log and its span. Only made where there is one
//! of the two.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Request, Uri};

use super::exchange::shown;
use super::path::normalise;
use super::request::Origin;
use super::route::Method;
use super::{Gate, sanitize};
use crate::access_log::{AccessLog, Line};
use crate::replica::Known;
use crate::token::Digest;
use crate::traces::{Span, Trace, TraceParent, Tracer, is_trace_state};

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Who wants to know of requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observers {
    /// The access log, if there is one.
    pub access_log: Option<Arc<AccessLog>>,
    /// What traces, if something does.
    pub tracer: Option<Arc<Tracer>>,
}

/// One request.
pub(super) struct Record {
    observers: Observers,
    at: SystemTime,
    began: Instant,
    origin: Origin,
    client: Cell<std::net::IpAddr>,
    method: Cell<Option<&'static str>>,
    uri: RefCell<Option<Uri>>,
    known: RefCell<Known>,
    /// When it was handed to the upstream, last.
    handed: Cell<Option<Instant>>,
    answered: Cell<Option<Instant>>,
    trace: Cell<Option<Trace>>,
}

/// How a request ended.
pub(super) struct Ending<'a> {
    pub status: u16,
    pub outcome: &'static str,
    pub request_id: &'a str,
    pub bytes: usize,
}

impl Record {
    /// Of one that begins.
    pub(super) fn begin(gate: &Gate, origin: &Origin) -> Option<Box<Self>> {
        let observers = &gate.observers;
        if observers.access_log.is_none() && observers.tracer.is_none() {
            return None;
        }
        Some(Box::new(Self {
            observers: observers.clone(),
            at: SystemTime::now(),
            began: Instant::now(),
            origin: origin.clone(),
            client: Cell::new(origin.address),
            method: Cell::new(None),
            uri: RefCell::new(None),
            known: RefCell::new(Known::Nothing),
            handed: Cell::new(None),
            answered: Cell::new(None),
            trace: Cell::new(None),
        }))
    }

    /// Its head was read.
    pub(super) fn asked<B>(&self, request: &Request<B>, gate: &Gate) {
        let Origin { address, trusted, .. } = self.origin;
        self.client.set(sanitize::client(request.headers(), address, trusted, |hop| gate.trusts(hop)));
        self.method.set(Method::from_name(request.method().as_str()).map(Method::name));
        self.uri.replace(Some(request.uri().clone()));
        if let Some(tracer) = &self.observers.tracer {
            let mut came = request.headers().get_all(&TRACEPARENT).iter();
            let parent = came.next().filter(|_| came.next().is_none());
            let parent = parent.and_then(|value| TraceParent::parse(value.as_bytes()));
            self.trace.set(Some(tracer.begin(parent, trusted)));
        }
    }

    /// It came with this token.
    pub(super) fn authenticated(&self, digest: &Digest, gate: &Gate) {
        self.known.replace(gate.authorizer.replica.known(digest));
    }

    /// It goes on to the upstream: says where it is in its trace. What does not belong to a trace that began elsewhere goes.
    pub(super) fn hand_on(&self, headers: &mut HeaderMap) {
        let Some(trace) = self.trace.get() else { return };
        // All of it is digits and hyphens.
        let value = HeaderValue::from_maybe_shared(Bytes::from(trace.next.to_string()));
        headers.insert(&TRACEPARENT, value.unwrap_or(HeaderValue::from_static("")));
        let states = || headers.get_all(&TRACESTATE).iter().map(HeaderValue::as_bytes);
        if states().next().is_some() && !(trace.is_continued && is_trace_state(states())) {
            headers.remove(&TRACESTATE);
        }
    }

    /// The upstream gets it now.
    pub(super) fn handed(&self) {
        self.handed.set(Some(Instant::now()));
    }

    /// The upstream's reply has begun.
    pub(super) fn answered(&self) {
        self.answered.set(Some(Instant::now()));
    }

    /// It is over.
    pub(super) fn end(&self, gate: &Gate, ending: &Ending<'_>) {
        let Ending { status, outcome, request_id, bytes } = *ending;
        let log = self.observers.access_log.as_ref().filter(|log| log.takes(!matches!(status, 200..=399)));
        let trace = self.trace.get();
        let exporting = self.observers.tracer.as_ref().zip(trace.filter(|trace| trace.is_exported));
        if log.is_none() && exporting.is_none() {
            return;
        }
        let now = Instant::now();
        let total = now.duration_since(self.began);
        let handed = self.handed.get();
        let upstream = handed.map(|handed| self.answered.get().unwrap_or(now).saturating_duration_since(handed));
        let uri = self.uri.borrow();
        let path = uri.as_ref().map(|uri| shown(uri.path()));
        let route = self.method.get().zip(uri.as_ref()).and_then(|(method, uri)| {
            let path = normalise(uri.path()).ok()?;
            gate.routes.pattern(method, &path)
        });
        let known = self.known.borrow();
        let (token, user) = match &*known {
            Known::Usable { token, owner } | Known::OwnerDisabled { token, owner } => {
                (Some(*token), Some(owner.name()))
            }
            Known::Nothing => (None, None),
        };
        if let Some(log) = log {
            log.write(&Line {
                time: self.at,
                client: self.client.get(),
                method: self.method.get(),
                path: path.as_deref(),
                route: route.as_deref(),
                status,
                outcome,
                token,
                user,
                bytes: bytes as u64,
                own: handed.map_or(total, |handed| handed.duration_since(self.began)),
                upstream,
                total,
                request_id,
                subject: self.origin.subject.as_deref(),
                trace_id: trace.map(|trace| trace.next.trace_id()).as_deref(),
            });
        }
        if let Some((tracer, trace)) = exporting {
            tracer.end(Span {
                trace,
                began: self.at,
                took: total,
                method: self.method.get(),
                path: path.map(|path| path.into_owned()),
                route,
                status,
                outcome,
                client: self.client.get(),
                token,
                user: user.map(str::to_owned),
                request_id: request_id.to_owned(),
                upstream,
            });
        }
    }
}
