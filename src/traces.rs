//! Traces (W3C Trace Context): which trace a request belongs to, and the spans that are exported, by OTLP over HTTP. Off
//! without an endpoint: then the fields of a request are those of others, and pass.
//!
//! Which requests are exported is decided here, by chance, and by the proxies that are trusted: what anybody else says of it is
//! passed on to nobody.

mod context;
mod export;
mod otlp;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc};

use crate::random;
use crate::token::TokenId;
use crate::upstream::UpstreamUrl;

pub(crate) use context::{Parent, TraceParent, is_trace_state};

/// Spans that wait to be exported.
const CAPACITY: usize = 2048;

/// How long the end waits for a collector that has answered before.
const FLUSH_TIME: Duration = Duration::from_millis(500);

/// What is exported of requests, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracesConfig {
    /// Where a collector is; `None`: nothing is traced.
    pub endpoint: Option<UpstreamUrl>,
    /// Of so many requests, one; 0: none but those that trusted proxies sampled.
    pub one_in: u32,
    /// What the sidecars are called.
    pub service_name: String,
}

impl Default for TracesConfig {
    fn default() -> Self {
        Self { endpoint: None, one_in: 1, service_name: "tollgate".to_owned() }
    }
}

/// Where one request is in its trace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trace {
    /// What goes on to the upstream.
    pub next: TraceParent,
    /// Whose span this one is below.
    pub parent: Option<Parent>,
    /// It began elsewhere.
    pub is_continued: bool,
    /// Its span is exported.
    pub is_exported: bool,
}

/// What is exported of a request.
#[derive(Debug)]
pub(crate) struct Span {
    pub trace: Trace,
    pub began: SystemTime,
    pub took: Duration,
    pub method: Option<&'static str>,
    pub path: Option<String>,
    pub route: Option<String>,
    pub status: u16,
    pub outcome: &'static str,
    pub client: IpAddr,
    pub token: Option<TokenId>,
    pub user: Option<String>,
    pub request_id: String,
    pub upstream: Option<Duration>,
}

/// What decides over traces and takes the spans, for all workers.
#[derive(Debug)]
pub(crate) struct Tracer {
    one_in: u32,
    spans: mpsc::Sender<Span>,
    lost: Arc<AtomicU64>,
    /// The collector took what it got last.
    answers: AtomicBool,
    closing: Notify,
    closed: Notify,
}

impl Tracer {
    /// One for this endpoint, and what exports its spans; `None`: there is no endpoint. `instance` is what people call this sidecar.
    pub(crate) fn new(
        config: &TracesConfig,
        instance: &str,
        lost: &Arc<AtomicU64>,
    ) -> Option<(Arc<Self>, export::Exporter)> {
        let endpoint = config.endpoint.clone()?;
        let (spans, queue) = mpsc::channel(CAPACITY);
        let tracer = Arc::new(Self {
            one_in: config.one_in,
            spans,
            lost: Arc::clone(lost),
            answers: AtomicBool::new(false),
            closing: Notify::new(),
            closed: Notify::new(),
        });
        let exporter = export::Exporter::new(endpoint, &config.service_name, instance, queue, Arc::clone(&tracer));
        Some((tracer, exporter))
    }

    /// Where a request is that came with this `traceparent`, if it is one. Of proxies that are `trusted` the sampled flag is
    /// followed; of others it is ignored, and goes no further.
    pub(crate) fn begin(&self, came: Option<TraceParent>, trusted: bool) -> Trace {
        let own = Parent(random::number().to_be_bytes());
        let by_chance = || self.one_in > 0 && u64::from_be_bytes(own.0).is_multiple_of(u64::from(self.one_in));
        let is_exported = match &came {
            Some(came) if trusted => came.sampled,
            _ => by_chance(),
        };
        let parent = came.as_ref().map(|came| came.parent);
        let next = match came {
            // Whoever has no span of its own in a trace is not to be seen in it.
            Some(came) if !is_exported => TraceParent { sampled: false, ..came },
            Some(came) => TraceParent { parent: own, sampled: true, ..came },
            None => TraceParent::random(own, is_exported),
        };
        Trace { next, parent, is_continued: parent.is_some(), is_exported }
    }

    /// Has a span exported, or loses it.
    pub(crate) fn end(&self, span: Span) {
        if self.spans.try_send(span).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Has what is left exported, for a bounded time, if the collector is one that answers.
    pub(crate) async fn finish(&self) {
        if self.answers.load(Ordering::Relaxed) {
            self.closing.notify_one();
            // What is not taken by then is lost with the process.
            drop(tokio::time::timeout(FLUSH_TIME, self.closed.notified()).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracer(one_in: u32) -> Arc<Tracer> {
        let endpoint = Some("http://127.0.0.1:4318".parse().expect("a URL"));
        let config = TracesConfig { endpoint, one_in, ..TracesConfig::default() };
        Tracer::new(&config, "edge", &Arc::default()).expect("an endpoint").0
    }

    fn came(flags: &str) -> Option<TraceParent> {
        TraceParent::parse(format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}").as_bytes())
    }

    #[test]
    fn what_strangers_say_of_sampling_counts_for_nothing() {
        let (none, all) = (tracer(0), tracer(1));
        let trace = none.begin(came("01"), false);
        assert!(!trace.is_exported);
        assert_eq!(trace.next.to_string(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
        let trace = all.begin(came("00"), false);
        assert!(trace.is_exported && trace.next.to_string().ends_with("-01"));
    }

    #[test]
    fn what_trusted_proxies_say_of_it_is_followed() {
        let (none, all) = (tracer(0), tracer(1));
        let trace = none.begin(came("01"), true);
        assert!(trace.is_exported && trace.next.trace_id() == "0af7651916cd43dd8448eb211c80319c");
        assert_ne!(trace.parent, Some(trace.next.parent));
        assert!(!all.begin(came("00"), true).is_exported);
        // Who says nothing decides nothing.
        assert!(all.begin(None, true).is_exported && !none.begin(None, true).is_exported);
    }

    #[test]
    fn about_one_of_so_many_is_exported() {
        let tracer = tracer(10);
        let exported = (0..10_000).filter(|_| tracer.begin(None, false).is_exported).count();
        assert!((700..1300).contains(&exported), "{exported}");
    }
}
