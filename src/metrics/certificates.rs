//! When certificates end.

use super::{Metric, MetricKind, Read, Sample, Values};
use crate::tls::Ends;
use crate::words::words;

words! {
    /// What a certificate, or a list of revoked ones, is for.
    #[derive(Debug, Clone, Copy)]
    enum Use {
        /// A listener's own.
        Listener = "listener",
        /// An authority of clients.
        ClientCa = "client_ca",
        /// What such an authority has revoked.
        ClientCrl = "client_crl",
        /// An authority of an upstream, where it is not the system's.
        UpstreamCa = "upstream_ca",
        /// What an upstream is shown.
        Upstream = "upstream",
    }
}

pub(super) const METRICS: &[Metric] = &[Metric {
    name: "tollgate_certificate_expiry_timestamp_seconds",
    kind: MetricKind::Gauge,
    help: "When a certificate ends, in seconds since 1970; of several with the same use, the one that ends first.",
    labels: &["use"],
    read: Read::Many(expiries),
}];

fn expiries(sample: &Sample<'_>, values: &mut Values<'_>) {
    let of_listeners = sample.configured.listener_tls.iter().flat_map(|tls| {
        let Ends { certificate, client_ca, client_crl } = tls.ends();
        [(Use::Listener, certificate), (Use::ClientCa, client_ca), (Use::ClientCrl, client_crl)]
    });
    let connectors =
        sample.configured.upstreams.iter().flat_map(|upstream| &upstream.nodes).map(|node| &node.connector);
    let of_upstreams = connectors
        .filter_map(|connector| connector.tls_ends())
        .flat_map(|[authority, certificate]| [(Use::UpstreamCa, authority), (Use::Upstream, certificate)]);
    let mut first = [None; Use::ALL.len()];
    for (purpose, end) in of_listeners.chain(of_upstreams) {
        let Some(end) = end else { continue };
        let first = &mut first[purpose as usize];
        *first = Some(first.map_or(end, |other: jiff::Timestamp| other.min(end)));
    }
    for (purpose, end) in Use::ALL.into_iter().zip(first) {
        if let Some(end) = end {
            values.add(&[purpose.name()], end.as_second() as f64);
        }
    }
}
