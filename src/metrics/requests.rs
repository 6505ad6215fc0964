//! What agents meet: connections, requests, how they end and how long they take.

use std::sync::atomic::Ordering;

use super::{Metric, MetricKind, Read, counter, gauge};
use crate::proxy::failed_auth::Failure;
use crate::proxy::route::Method;
use crate::tls::handshake::HandshakeFailure;
use crate::upstream::UpstreamName;

pub(super) const METRICS: &[Metric] = &[
    Metric {
        name: "tollgate_requests_total",
        kind: MetricKind::Counter,
        help: "Requests that are over, by what their route is about, and how they ended.",
        labels: &["group", "method", "status", "outcome"],
        read: Read::Many(|sample, values| {
            for (kind, count) in sample.total.requests() {
                let method = kind.method.map_or("other", Method::name);
                values.add(&[kind.group.name(), method, kind.status.name(), kind.ending.name()], count as f64);
            }
        }),
    },
    Metric {
        name: "tollgate_request_duration_seconds",
        kind: MetricKind::Histogram,
        help: "From the whole head of a request to the end of its reply.",
        labels: &["group"],
        read: Read::Many(|sample, values| {
            sample.total.durations().for_each(|(group, durations)| values.histogram(&[group.name()], durations));
        }),
    },
    Metric {
        name: "tollgate_request_own_seconds",
        kind: MetricKind::Histogram,
        help: "From the whole head of a request until it was handed to the upstream, or refused.",
        labels: &[],
        read: Read::Many(|sample, values| values.histogram(&[], &sample.total.own)),
    },
    Metric {
        name: "tollgate_upstream_response_seconds",
        kind: MetricKind::Histogram,
        help: "From handing a request to the upstream to the head of its reply.",
        labels: &["upstream"],
        read: Read::Many(|sample, values| {
            for upstream in UpstreamName::ALL {
                values.histogram(&[upstream.name()], sample.total.upstream(upstream));
            }
        }),
    },
    Metric {
        name: "tollgate_refusals_total",
        kind: MetricKind::Counter,
        help: "Requests that got a reply of the sidecar's own, or none, by reason.",
        labels: &["reason"],
        read: Read::Many(|sample, values| {
            sample.total.refusals().for_each(|(reason, count)| values.add(&[reason.name()], count as f64));
        }),
    },
    Metric {
        name: "tollgate_authentication_failures_total",
        kind: MetricKind::Counter,
        help: "Requests that were not authenticated, by reason.",
        labels: &["reason"],
        read: Read::Many(|sample, values| {
            let failed = &sample.health.failed_auth;
            Failure::ALL.into_iter().for_each(|failure| values.add(&[failure.name()], failed.total(failure) as f64));
        }),
    },
    counter(
        "tollgate_authentication_limited_total",
        "Failed authentications that were answered with 429, since their client had too many.",
        |sample| Some(sample.health.failed_auth.limited() as f64),
    ),
    gauge("tollgate_connections_open", "Open client connections.", |sample| {
        Some(sample.health.connections.load(Ordering::Relaxed) as f64)
    }),
    gauge("tollgate_connections_limit", "Client connections that may be open.", |sample| {
        Some(sample.configured.max_connections as f64)
    }),
    counter("tollgate_connections_accepted_total", "Connections that were accepted.", |sample| {
        Some(sample.total.accepted as f64)
    }),
    counter(
        "tollgate_connections_refused_total",
        "Connections that were closed because their address had too many.",
        |sample| Some(sample.health.refused.load(Ordering::Relaxed) as f64),
    ),
    counter(
        "tollgate_connections_without_proxy_header_total",
        "Connections that were closed because they did not begin with the PROXY header that their address must send.",
        |sample| Some(sample.health.without_proxy_header.load(Ordering::Relaxed) as f64),
    ),
    Metric {
        name: "tollgate_tls_handshakes_failed_total",
        kind: MetricKind::Counter,
        help: "TLS handshakes of clients that failed, by reason.",
        labels: &["reason"],
        read: Read::Many(|sample, values| {
            let failed = &sample.health.handshakes;
            HandshakeFailure::ALL
                .into_iter()
                .for_each(|reason| values.add(&[reason.name()], failed.total(reason) as f64));
        }),
    },
    counter("tollgate_tls_handshakes_total", "TLS handshakes of clients that were completed.", |sample| {
        Some(sample.total.handshakes as f64)
    }),
];
