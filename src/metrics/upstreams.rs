//! The Controller's servers, as the sidecar meets them.

use super::{Metric, MetricKind, Read, Sample, Values};
use crate::upstream::{Node, Step, Upstream};

/// One value for each upstream.
const fn each(name: &'static str, kind: MetricKind, help: &'static str, read: fn(&Upstream) -> f64) -> Metric {
    Metric { name, kind, help, labels: &["upstream"], read: Read::Upstream(read) }
}

/// One value for each node of an upstream that has several.
const fn each_node(name: &'static str, kind: MetricKind, help: &'static str, read: fn(&Node) -> f64) -> Metric {
    Metric { name, kind, help, labels: &["upstream", "node"], read: Read::Node(read) }
}

pub(super) const METRICS: &[Metric] = &[
    Metric {
        name: "tollgate_upstream_failures_total",
        kind: MetricKind::Counter,
        help: "Requests that got no whole reply, by the step that failed.",
        labels: &["upstream", "step"],
        read: Read::Many(failures),
    },
    each(
        "tollgate_upstream_credential_refused_total",
        MetricKind::Counter,
        "Requests whose credential, which was not the client's, the upstream refused.",
        |upstream| upstream.credential_refusals.total() as f64,
    ),
    each("tollgate_upstream_in_flight", MetricKind::Gauge, "Requests that are in flight.", |upstream| {
        upstream.requests_in_flight() as f64
    }),
    each("tollgate_upstream_in_flight_limit", MetricKind::Gauge, "Requests that may be in flight.", |upstream| {
        upstream.config.max_in_flight.get() as f64
    }),
    each(
        "tollgate_upstream_connections_open",
        MetricKind::Gauge,
        "Connections, those included that are being made.",
        |upstream| upstream.connections_open() as f64,
    ),
    each("tollgate_upstream_waiting", MetricKind::Gauge, "Requests that wait until fewer are in flight.", |upstream| {
        upstream.in_flight.depth() as f64
    }),
    each(
        "tollgate_upstream_waits_total",
        MetricKind::Counter,
        "Requests that had to wait until fewer were in flight.",
        |upstream| upstream.in_flight.waits() as f64,
    ),
    each(
        "tollgate_upstream_wait_seconds_total",
        MetricKind::Counter,
        "How long requests waited until fewer were in flight, in total.",
        |upstream| upstream.in_flight.waited().as_secs_f64(),
    ),
    each(
        "tollgate_upstream_refused_total",
        MetricKind::Counter,
        "Requests that waited and were not sent.",
        |upstream| upstream.in_flight.refused() as f64,
    ),
    each_node(
        "tollgate_upstream_node_healthy",
        MetricKind::Gauge,
        "1 when the node was found well last, and has an address, else 0.",
        |node| f64::from(u8::from(node.is_healthy())),
    ),
    each_node(
        "tollgate_upstream_node_in_flight",
        MetricKind::Gauge,
        "Requests that are in flight to the node.",
        |node| node.in_flight() as f64,
    ),
    each_node(
        "tollgate_upstream_node_connects_failed_total",
        MetricKind::Counter,
        "Connections to the node that a request needed and that could not be made.",
        |node| node.connects_failed() as f64,
    ),
    each_node(
        "tollgate_upstream_node_unanswered_total",
        MetricKind::Counter,
        "Requests that were sent to the node and got no reply.",
        |node| node.unanswered() as f64,
    ),
    each_node(
        "tollgate_upstream_node_lookups_failed_total",
        MetricKind::Counter,
        "Lookups of the node's name that gave nothing.",
        |node| node.connector.lookups_failed() as f64,
    ),
];

fn failures(sample: &Sample<'_>, values: &mut Values<'_>) {
    for upstream in &sample.configured.upstreams {
        for step in Step::ALL {
            values.add(&[upstream.name.name(), step.name()], upstream.outages.total(step) as f64);
        }
    }
}
