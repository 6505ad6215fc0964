//! Sends spans to a collector, by OTLP/HTTP in JSON.
//!
//! By hand, since it is one POST now and then: the OpenTelemetry SDK would bring some thirty crates, a second HTTP client, and
//! a shutdown and a log of its own, which would have to be held to the same bounds.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Span, Tracer, otlp};
use crate::chain::chain;
use crate::sampler::Sampler;
use crate::upstream::UpstreamUrl;

/// Spans that are sent together.
const BATCH: usize = 512;

/// How long spans are gathered.
const GATHER: Duration = Duration::from_secs(1);

/// How long a collector may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What takes spans to a collector.
#[derive(Debug, Clone)]
pub(crate) struct Exporter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    endpoint: UpstreamUrl,
    resource: Value,
    queue: Mutex<mpsc::Receiver<Span>>,
    tracer: Arc<Tracer>,
    log: Sampler,
}

/// Why spans were not taken.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("connecting")]
    Connect(#[source] io::Error),
    #[error("sending")]
    Send(#[source] hyper::Error),
    #[error("the collector answered {0}")]
    Refused(StatusCode),
    #[error("the collector did not answer within 10 s")]
    Late,
}

impl Exporter {
    pub(super) fn new(
        endpoint: UpstreamUrl,
        service: &str,
        instance: &str,
        queue: mpsc::Receiver<Span>,
        tracer: Arc<Tracer>,
    ) -> Self {
        let resource = otlp::resource(service, instance);
        Self(Arc::new(Inner { endpoint, resource, queue: Mutex::new(queue), tracer, log: Sampler::default() }))
    }

    /// Exports what ends. What the collector does not take is lost, and counted. Never ends.
    pub(crate) async fn run(self) {
        let Inner { queue, tracer, .. } = &*self.0;
        let mut queue = queue.lock().await;
        let mut is_failing = false;
        loop {
            let mut batch = Vec::new();
            let closes = tokio::select! {
                () = gather(&mut queue, &mut batch) => false,
                () = tracer.closing.notified() => true,
            };
            if closes {
                while batch.len() < BATCH
                    && let Ok(span) = queue.try_recv()
                {
                    batch.push(span);
                }
            }
            if !batch.is_empty() {
                let exported = timeout(TIMEOUT, self.export(&batch)).await.unwrap_or(Err(ExportError::Late));
                self.say(&exported, batch.len(), &mut is_failing);
            }
            if closes && queue.is_empty() {
                tracer.closed.notify_one();
            } else if closes {
                tracer.closing.notify_one();
            }
        }
    }

    /// Says what has changed.
    fn say(&self, exported: &Result<(), ExportError>, count: usize, is_failing: &mut bool) {
        let Inner { tracer, log, endpoint, .. } = &*self.0;
        tracer.answers.store(exported.is_ok(), Ordering::Relaxed);
        let was_failing = std::mem::replace(is_failing, exported.is_err());
        match exported {
            Ok(()) if was_failing && log.admit().is_some() => tracing::info!(%endpoint, "traces are exported again"),
            Ok(()) => {}
            Err(error) => {
                tracer.lost.fetch_add(count as u64, Ordering::Relaxed);
                if !was_failing && log.admit().is_some() {
                    let error = chain(error);
                    tracing::warn!(%endpoint, error, "traces are not exported: spans are lost until the collector takes them");
                }
            }
        }
    }

    async fn export(&self, spans: &[Span]) -> Result<(), ExportError> {
        let Inner { endpoint, resource, .. } = &*self.0;
        let body = otlp::request(resource, spans).to_string();
        match &endpoint.socket {
            Some(path) => self.post(UnixStream::connect(path).await.map_err(ExportError::Connect)?, body).await,
            None => {
                let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await;
                self.post(stream.map_err(ExportError::Connect)?, body).await
            }
        }
    }

    /// On a connection of its own: there is one a second at most.
    async fn post(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin, body: String) -> Result<(), ExportError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(ExportError::Send)?;
        let mut request = Request::post("/v1/traces").body(Full::new(Bytes::from(body))).unwrap_or_default();
        let fields = request.headers_mut();
        if let Ok(host) = self.0.endpoint.authority.parse() {
            fields.insert(header::HOST, host);
        }
        fields.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        fields.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        tokio::pin!(connection);
        let reply = tokio::select! {
            reply = sender.send_request(request) => reply.map_err(ExportError::Send)?,
            Err(error) = &mut connection => return Err(ExportError::Send(error)),
        };
        if reply.status().is_success() { Ok(()) } else { Err(ExportError::Refused(reply.status())) }
    }
}

/// Waits for a span, and for a while for others. What it has is kept when it is dropped.
async fn gather(queue: &mut mpsc::Receiver<Span>, batch: &mut Vec<Span>) {
    // The sender is never dropped before this.
    if queue.recv_many(batch, BATCH).await == 0 {
        std::future::pending::<()>().await;
    }
    let until = Instant::now() + GATHER;
    while batch.len() < BATCH {
        let more = BATCH - batch.len();
        if timeout_at(until, queue.recv_many(batch, more)).await.is_err() {
            return;
        }
    }
}
