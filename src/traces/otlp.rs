//! Spans as OTLP/HTTP has them in JSON (`opentelemetry-proto`, `ExportTraceServiceRequest`).

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::Span;

/// `SPAN_KIND_SERVER`.
const SERVER: u8 = 2;
/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;

/// Who exports: the attributes of the resource.
pub(super) fn resource(service: &str, instance: &str) -> Value {
    json!({ "attributes": [
        text("service.name", service),
        text("service.instance.id", instance),
        text("service.version", env!("CARGO_PKG_VERSION")),
    ] })
}

/// A request to export these.
pub(super) fn request(resource: &Value, spans: &[Span]) -> Value {
    let scope = json!({ "name": "tollgate", "version": env!("CARGO_PKG_VERSION") });
    let spans: Vec<_> = spans.iter().map(span).collect();
    json!({ "resourceSpans": [{ "resource": resource, "scopeSpans": [{ "scope": scope, "spans": spans }] }] })
}

fn span(span: &Span) -> Value {
    let Span { trace, began, took, method, path, route, status, outcome, client, token, user, request_id, upstream } =
        span;
    let method = method.unwrap_or("_OTHER");
    let optional = |name, value: &Option<String>| value.as_deref().map(|value| text(name, value));
    let attributes: Vec<_> = [
        Some(text("http.request.method", method)),
        optional("url.path", path),
        optional("http.route", route),
        (*status > 0)
            .then(|| json!({ "key": "http.response.status_code", "value": { "intValue": status.to_string() } })),
        Some(text("client.address", &client.to_string())),
        optional("user.name", user),
        token.map(|token| text("tollgate.token.id", &token.to_string())),
        Some(text("tollgate.request.id", request_id)),
        Some(text("tollgate.outcome", outcome)),
        upstream
            .map(|time| json!({ "key": "tollgate.upstream.seconds", "value": { "doubleValue": time.as_secs_f64() } })),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut value = json!({
        "traceId": trace.next.trace_id(),
        "spanId": trace.next.parent.to_string(),
        "name": route.as_ref().map_or_else(|| method.to_owned(), |route| format!("{method} {route}")),
        "kind": SERVER,
        "startTimeUnixNano": nanoseconds(*began),
        "endTimeUnixNano": nanoseconds(*began + *took),
        "attributes": attributes,
    });
    if let Some(parent) = trace.parent {
        value["parentSpanId"] = parent.to_string().into();
    }
    // What the client did wrong is no error of a server's span.
    if *status >= 500 || *status == 0 {
        value["status"] = json!({ "code": ERROR });
    }
    value
}

fn text(name: &str, value: &str) -> Value {
    json!({ "key": name, "value": { "stringValue": value } })
}

/// As text: JSON numbers are not as long.
fn nanoseconds(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}
