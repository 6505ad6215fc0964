//! The admin listener: `/livez`, `/readyz` and `/metrics`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::health::Health;
use crate::metrics;
use crate::sampler::Sampler;
use crate::worker::panic::Guard;

/// Longest wait for a request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections at once: descriptors are reserved for so many.
const MAX_CONNECTIONS: usize = 32;

/// Pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the admin listener. Never ends.
pub(crate) async fn serve(listener: Arc<TcpListener>, health: Arc<Health>) {
    let failures = Sampler::default();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if let Some(left_out) = failures.admit() {
                    tracing::error!(%error, left_out, "cannot accept admin connections");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Whoever gets none sees the end of the connection; a silent one loses its place after the head's time.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let health = Arc::clone(&health);
        tokio::spawn(async move {
            let _place = place;
            let _guard = Guard::new(&health.panics);
            let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(answer(&request, &health))));
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "admin connection");
            }
        });
    }
}

fn answer(request: &Request<Incoming>, health: &Health) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut reply = json(StatusCode::METHOD_NOT_ALLOWED, &serde_json::json!({ "error": "Method not allowed" }));
        reply.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return reply;
    }
    match request.uri().path() {
        "/livez" => json(StatusCode::OK, &serde_json::json!({ "live": true })),
        "/readyz" => readiness(health),
        "/metrics" => reply(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics::render(health)),
        _ => json(StatusCode::NOT_FOUND, &serde_json::json!({ "error": "Not found" })),
    }
}

fn readiness(health: &Health) -> Response<Full<Bytes>> {
    let (status, mut body) = match health.readiness.problem() {
        None => (StatusCode::OK, serde_json::json!({ "ready": true })),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, serde_json::json!({ "ready": false, "reason": reason })),
    };
    let warnings = health.warnings();
    if !warnings.is_empty() {
        body["warnings"] = warnings.into();
    }
    json(status, &body)
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    reply(status, "application/json", body.to_string())
}

fn reply(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::from(body));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    reply
}
