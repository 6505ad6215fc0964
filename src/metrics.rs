//! Every metric: its name, its kind, what it means and where its value comes from, in one list. Served at `/metrics` of
//! the admin listener in the text format of Prometheus (0.0.4).
//!
//! | metric | what to look for |
//! | --- | --- |
//! | `tollgate_build_info` | which version runs where |
//! | `tollgate_ready` | 0: it answers 503, or drains |
//! | `tollgate_replica_staleness_seconds` | above a few probe intervals: the store does not prove the replica fresh; at `max_staleness` requests get 503; `+Inf` before the first proof |
//! | `tollgate_replica_revision` | behind that of other sidecars for long: it does not catch up; absent while the replica is being rebuilt |
//! | `tollgate_replica_grants`, `_owners` | unlike other sidecars': they use different stores |
//! | `tollgate_replica_tombstones` | grows with revocations and deletions, shrinks by age |
//! | `tollgate_replica_recalled` | above 0: sidecars left revocations with the store that it had lost; more than 500,000: no sidecar is fresh until a command has settled them |
//! | `tollgate_replica_suppressed` | above 0 for long: the store lost revocations, and the next command that changes something revokes the tokens again |
//! | `tollgate_replica_users_held` | above 0: the store lost that users were disabled or given a weaker role; `tollgate status` names them, and a command that changes them says which it is |
//! | `tollgate_replica_damaged` | above 0: entries of the store cannot be read, and these tokens are refused |
//! | `tollgate_replica_forks_total` | grows: the store lost writes, by a failover or a restart |
//! | `tollgate_replica_resyncs_total` | grows: the store was restored, lost more than sidecars remember, or its log is too short |
//! | `tollgate_replica_divergences_total` | above 0: the replica was not what it should have been, and was read anew |
//! | `tollgate_store_reads_failed_total` | grows: the store is away, or refuses this sidecar |
//! | `tollgate_store_notices_lost_total` | grows: the subscription is cut, or overflows, again and again |
//! | `tollgate_store_reports_failed_total` | grows while reads do not fail: Redis refuses writes, or this sidecar's; its proofs stop to count 10 s after the last report |
//! | `tollgate_usage_unwritten_seconds` | above 10 or so: what was used since then is not in the store yet, and `token list` does not show it; `+Inf`: nothing is |
//! | `tollgate_usage_flushes_failed_total` | grows: the store does not record the use of tokens; the log says why |
//! | `tollgate_usage_agents_left_out_total` | grows: more than 131,072 agents since the store was written last; which they are is not recorded |
//! | `tollgate_proofs_total` | by verdict, where `admin.prove` makes some: grows with `not_proven`: a sidecar lets a revoked token in, or a good one not; the log names it |
//! | `tollgate_proof_last_success_timestamp_seconds` | longer ago than a few intervals: it is not known any more that revocations work |
//! | `tollgate_proof_refused_after_seconds` | above a second: revocations are slow on their way |
//! | `tollgate_proof_listeners_asked`, `tollgate_proof_listeners_refused` | unlike each other: the log names those that did not do what they should, or could not be asked |
//! | `tollgate_connections_open` | near `limits.max_connections`: new ones wait |
//! | `tollgate_connections_refused_total` | grows: a client has more than `limits.max_connections_per_client` |
//! | `tollgate_connections_without_proxy_header_total` | grows: a balancer in `proxy_protocol` of a listener sends none (HAProxy: `send-proxy-v2` at its server), or not in time |
//! | `tollgate_authentication_failures_total` | by reason (no_credential, token_format, unknown_token, expired, owner_disabled): what 401 and 429 came from; the log says which clients and tokens |
//! | `tollgate_authentication_limited_total` | grows: a client is over `limits.failed_auth`, and gets 429 |
//! | `tollgate_tls_handshakes_failed_total` | by reason (plain_http, no_certificate, unknown_ca, certificate_expired, certificate_revoked, refused_by_client, ...): clients that could not connect to a TLS listener, the admin listener's too; the log says which and why |
//! | `tollgate_upstream_failures_total` | by upstream and step (resolve, connect, tls, request, first_byte, reply): what each 502, 504 and cut reply came from |
//! | `tollgate_upstream_credential_refused_total` | grows: the Controller refuses the service token, or the lack of one with `strip`; `/readyz` and the log say which |
//! | `tollgate_upstream_waiting` | above 0 for long: `max_in_flight` requests are in flight, and the Controller is too slow for the load |
//! | `tollgate_upstream_waits_total`, `tollgate_upstream_wait_seconds_total` | requests that had to wait, and how long in total |
//! | `tollgate_upstream_refused_total` | requests that waited and were not sent: refused after 2 s, or their client was gone before |
//! | `tollgate_upstream_node_healthy` | where an upstream has several nodes, of each; 0 for long: look at that node and at the log, which says why |
//! | `tollgate_upstream_node_in_flight` | unlike other nodes': it is slow, or hangs |
//! | `tollgate_upstream_node_connects_failed_total` | grows: connections to the node that requests could not get, and tried another one |
//! | `tollgate_upstream_node_unanswered_total` | grows: the node takes requests and closes, breaks or says nothing; after three in a row it is unhealthy |
//! | `tollgate_upstream_node_lookups_failed_total` | grows: the resolver does not answer, or there is no such name; `/readyz` says of which node |
//! | `tollgate_late_requests_total` | by token, that of the 100 used last: grows: an agent uses a token that has expired; `tollgate token show` names its successor |
//! | `tollgate_log_lines_lost_total` | grows: who reads standard error is too slow, or does not read; `docs/logs.md` |
//! | `tollgate_access_log_lines_lost_total` | grows: what the access log goes to is too slow, or cannot be written, which the log says; `docs/logs.md` |
//! | `tollgate_trace_spans_lost_total` | grows: the collector at `traces.endpoint` is too slow, or away, which the log says |
//! | `tollgate_config_cache_entries`, `tollgate_config_cache_bytes` | near `config_cache.max_entries`, `max_bytes`: what was used longest ago makes room |
//! | `tollgate_config_cache_oldest_seconds` | near `config_cache.max_age`: that one is not given for much longer |
//! | `tollgate_config_cache_served_total` | grows: agents boot, reload and watch from what is stored |
//! | `tollgate_config_cache_shared_total` | fetches that the Controller was spared, since another one's answer would do |
//! | `tollgate_config_cache_open` | 1: the Controller is away, and one fetch at a time finds out whether it still is |
//! | `tollgate_config_cache_outages_total` | grows: it goes away again and again |
//! | `tollgate_config_cache_damaged_total`, `tollgate_config_cache_disk_failures_total` | grows: look at the disk of `config_cache.directory`; the log names the file |
//! | `tollgate_panics_total` | above 0: a bug, see the log; the request was cut off or the task restarted |

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use crate::clock::Instant;
use crate::health::Health;
use crate::lines::Lines;
use crate::prove::Verdict;
use crate::proxy::CacheStatus;
use crate::proxy::failed_auth::Failure;
use crate::replica::ReplicaStatus;
use crate::tls::handshake::HandshakeFailure;
use crate::upstream::{Node, Step, Upstream};
use crate::words::words;

/// What the values are taken from, all at one moment.
struct Sample<'a> {
    health: &'a Health,
    status: ReplicaStatus,
    /// `None`: configurations are not stored.
    cache: Option<CacheStatus>,
    now: Instant,
}

struct Metric {
    name: &'static str,
    kind: MetricKind,
    help: &'static str,
    /// With braces, or empty.
    labels: &'static str,
    /// `None`: it has no value now.
    read: fn(&Sample<'_>) -> Option<f64>,
}

words! {
    /// How Prometheus treats a metric.
    #[derive(Clone, Copy, Debug)]
    enum MetricKind {
        /// Goes up and down.
        Gauge = "gauge",
        /// Only ever grows while the process runs.
        Counter = "counter",
    }
}

const BUILD: &str = concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}");

const fn gauge(name: &'static str, help: &'static str, read: fn(&Sample<'_>) -> Option<f64>) -> Metric {
    Metric { name, kind: MetricKind::Gauge, help, labels: "", read }
}

const fn counter(name: &'static str, help: &'static str, read: fn(&Sample<'_>) -> Option<f64>) -> Metric {
    Metric { name, kind: MetricKind::Counter, help, labels: "", read }
}

/// All of them, in the order in which they are written.
const METRICS: &[Metric] = &[
    Metric { labels: BUILD, ..gauge("tollgate_build_info", "The version that runs; always 1.", |_| Some(1.0)) },
    gauge("tollgate_ready", "1 when the replica is fresh and the sidecar does not drain, else 0.", |sample| {
        Some(f64::from(u8::from(sample.health.readiness.problem().is_none())))
    }),
    gauge(
        "tollgate_replica_staleness_seconds",
        "Seconds since the replica was last proven to be at the store's position.",
        |sample| {
            let staleness = sample.health.replica.staleness(sample.now);
            Some(staleness.map_or(f64::INFINITY, |staleness| staleness.as_secs_f64()))
        },
    ),
    gauge("tollgate_replica_revision", "The store's revision that requests are decided by.", |sample| {
        sample.status.position.map(|position| position.revision.0 as f64)
    }),
    gauge("tollgate_replica_grants", "Usable tokens.", |sample| Some(sample.status.grants as f64)),
    gauge("tollgate_replica_owners", "Known users.", |sample| Some(sample.status.owners as f64)),
    gauge("tollgate_replica_tombstones", "Digests that can never authenticate again.", |sample| {
        Some(sample.status.tombstones as f64)
    }),
    gauge("tollgate_replica_recalled", "Tokens that sidecars recalled and no command has revoked yet.", |sample| {
        Some(sample.status.recalled as f64)
    }),
    gauge("tollgate_replica_suppressed", "Tokens that the store holds although they were seen revoked.", |sample| {
        Some(sample.status.suppressed as f64)
    }),
    gauge("tollgate_replica_users_held", "Users held to a status or role that the store has lost.", |sample| {
        Some(sample.status.held as f64)
    }),
    gauge("tollgate_replica_damaged", "Entries of the latest snapshot that could not be read.", |sample| {
        Some(sample.status.damaged as f64)
    }),
    counter("tollgate_replica_forks_total", "Times that the store was found to have lost writes.", |sample| {
        Some(sample.status.forks as f64)
    }),
    counter("tollgate_replica_resyncs_total", "Snapshots that were needed after the first one.", |sample| {
        Some(sample.status.resyncs as f64)
    }),
    counter(
        "tollgate_replica_divergences_total",
        "Times that the replica held something else than the store at the same revision.",
        |sample| Some(sample.status.divergences as f64),
    ),
    counter("tollgate_store_reads_failed_total", "Reads of the store that failed.", |sample| {
        Some(sample.status.reads_failed as f64)
    }),
    counter("tollgate_store_notices_lost_total", "Times that notices of commits may have been lost.", |sample| {
        Some(sample.status.notices_lost as f64)
    }),
    counter("tollgate_store_reports_failed_total", "Reports of this sidecar that the store did not take.", |sample| {
        Some(sample.health.reports_failed.load(Ordering::Relaxed) as f64)
    }),
    gauge(
        "tollgate_usage_unwritten_seconds",
        "Seconds since all use of tokens until then was recorded in the store.",
        |sample| Some(sample.health.uses.unwritten_for(sample.now).map_or(f64::INFINITY, |age| age.as_secs_f64())),
    ),
    counter("tollgate_usage_flushes_failed_total", "Times that the use of tokens could not be recorded.", |sample| {
        Some(sample.health.flushes_failed.load(Ordering::Relaxed) as f64)
    }),
    counter("tollgate_usage_agents_left_out_total", "Agents whose use could not be remembered.", |sample| {
        Some(sample.health.uses.left_out() as f64)
    }),
    gauge(
        "tollgate_proof_last_success_timestamp_seconds",
        "When a proof ended last in which every listener refused a revoked token.",
        |sample| Some(sample.health.proofs.figures()?.last_success?.as_second() as f64),
    ),
    gauge("tollgate_proof_refused_after_seconds", "How long the slowest listener took then to refuse it.", |sample| {
        Some(sample.health.proofs.figures()?.refused_after?.as_secs_f64())
    }),
    gauge("tollgate_proof_listeners_asked", "Listeners that the last proof asked.", |sample| {
        Some(sample.health.proofs.figures()?.listeners?.1 as f64)
    }),
    gauge("tollgate_proof_listeners_refused", "Of these, those that refused a revoked token.", |sample| {
        Some(sample.health.proofs.figures()?.listeners?.0 as f64)
    }),
    gauge("tollgate_connections_open", "Open client connections.", |sample| {
        Some(sample.health.connections.load(Ordering::Relaxed) as f64)
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
    counter(
        "tollgate_authentication_limited_total",
        "Failed authentications that were answered with 429, since their client had too many.",
        |sample| Some(sample.health.failed_auth.limited() as f64),
    ),
    counter("tollgate_log_lines_lost_total", "Lines of the log on standard error that were lost.", |_| {
        Some(Lines::lost_of_log().load(Ordering::Relaxed) as f64)
    }),
    counter("tollgate_access_log_lines_lost_total", "Lines of the access log that were lost.", |sample| {
        Some(sample.health.access_log_lost.load(Ordering::Relaxed) as f64)
    }),
    counter("tollgate_trace_spans_lost_total", "Spans that were not exported.", |sample| {
        Some(sample.health.spans_lost.load(Ordering::Relaxed) as f64)
    }),
    gauge("tollgate_config_cache_entries", "Stored configurations.", |sample| {
        sample.cache.as_ref().map(|cache| cache.entries as f64)
    }),
    gauge("tollgate_config_cache_bytes", "Bytes of memory that stored configurations take.", |sample| {
        sample.cache.as_ref().map(|cache| cache.bytes as f64)
    }),
    gauge("tollgate_config_cache_oldest_seconds", "Seconds since the oldest of them was fetched.", |sample| {
        Some(sample.cache.as_ref()?.oldest?.as_secs_f64())
    }),
    counter("tollgate_config_cache_served_total", "Requests that were given a stored configuration.", |sample| {
        sample.cache.as_ref().map(|cache| cache.served as f64)
    }),
    counter("tollgate_config_cache_shared_total", "Requests that shared another one's fetch.", |sample| {
        sample.cache.as_ref().map(|cache| cache.shared as f64)
    }),
    gauge("tollgate_config_cache_open", "1 while the Controller is away for fetches, else 0.", |sample| {
        sample.cache.as_ref().map(|cache| f64::from(u8::from(cache.away_for.is_some())))
    }),
    counter("tollgate_config_cache_outages_total", "Times that the Controller was found to be away.", |sample| {
        sample.cache.as_ref().map(|cache| cache.outages as f64)
    }),
    counter("tollgate_config_cache_damaged_total", "Files of stored configurations that were dropped.", |sample| {
        sample.cache.as_ref().map(|cache| cache.damaged as f64)
    }),
    counter(
        "tollgate_config_cache_disk_failures_total",
        "Times that files of stored configurations could not be read or written.",
        |sample| sample.cache.as_ref().map(|cache| cache.disk_failures as f64),
    ),
    counter("tollgate_panics_total", "Tasks that panicked.", |sample| {
        Some(sample.health.panics.load(Ordering::Relaxed) as f64)
    }),
];

/// One value for each reason.
const FAILURES: (&str, &str) =
    ("tollgate_authentication_failures_total", "Requests that were not authenticated, by reason.");

/// One value for each verdict, where proofs are made.
const PROOFS: (&str, &str) = ("tollgate_proofs_total", "Proofs that revoked tokens are refused, by what came of them.");
/// The same.
const HANDSHAKES: (&str, &str) =
    ("tollgate_tls_handshakes_failed_total", "TLS handshakes of clients that failed, by reason.");

struct UpstreamMetric {
    name: &'static str,
    kind: MetricKind,
    help: &'static str,
    read: fn(&Upstream) -> Vec<Value>,
}

/// A value, with the label that says what it is of, where there is one for each step or node.
type Value = (Option<(&'static str, String)>, f64);

/// One for each node of an upstream that has several.
fn of_nodes(upstream: &Upstream, read: fn(&Node) -> f64) -> Vec<Value> {
    let nodes = upstream.nodes.iter().filter(|_| upstream.has_several_nodes());
    nodes.map(|node| (Some(("node", node.url.to_string())), read(node))).collect()
}

const UPSTREAM_METRICS: &[UpstreamMetric] = &[
    UpstreamMetric {
        name: "tollgate_upstream_failures_total",
        kind: MetricKind::Counter,
        help: "Requests that got no whole reply, by the step that failed.",
        read: |upstream| {
            let total = |step| (Some(("step", Step::name(step).to_owned())), upstream.outages.total(step) as f64);
            Step::ALL.map(total).to_vec()
        },
    },
    UpstreamMetric {
        name: "tollgate_upstream_credential_refused_total",
        kind: MetricKind::Counter,
        help: "Requests whose credential, which was not the client's, the upstream refused.",
        read: |upstream| vec![(None, upstream.credential_refusals.total() as f64)],
    },
    UpstreamMetric {
        name: "tollgate_upstream_waiting",
        kind: MetricKind::Gauge,
        help: "Requests that wait until fewer are in flight.",
        read: |upstream| vec![(None, upstream.in_flight.depth() as f64)],
    },
    UpstreamMetric {
        name: "tollgate_upstream_waits_total",
        kind: MetricKind::Counter,
        help: "Requests that had to wait until fewer were in flight.",
        read: |upstream| vec![(None, upstream.in_flight.waits() as f64)],
    },
    UpstreamMetric {
        name: "tollgate_upstream_wait_seconds_total",
        kind: MetricKind::Counter,
        help: "How long requests waited until fewer were in flight, in total.",
        read: |upstream| vec![(None, upstream.in_flight.waited().as_secs_f64())],
    },
    UpstreamMetric {
        name: "tollgate_upstream_refused_total",
        kind: MetricKind::Counter,
        help: "Requests that waited and were not sent.",
        read: |upstream| vec![(None, upstream.in_flight.refused() as f64)],
    },
    UpstreamMetric {
        name: "tollgate_upstream_node_healthy",
        kind: MetricKind::Gauge,
        help: "1 when the node was found well last, and has an address, else 0.",
        read: |upstream| of_nodes(upstream, |node| f64::from(u8::from(node.is_healthy()))),
    },
    UpstreamMetric {
        name: "tollgate_upstream_node_in_flight",
        kind: MetricKind::Gauge,
        help: "Requests that are in flight to the node.",
        read: |upstream| of_nodes(upstream, |node| node.in_flight() as f64),
    },
    UpstreamMetric {
        name: "tollgate_upstream_node_connects_failed_total",
        kind: MetricKind::Counter,
        help: "Connections to the node that a request needed and that could not be made.",
        read: |upstream| of_nodes(upstream, |node| node.connects_failed() as f64),
    },
    UpstreamMetric {
        name: "tollgate_upstream_node_unanswered_total",
        kind: MetricKind::Counter,
        help: "Requests that were sent to the node and got no reply.",
        read: |upstream| of_nodes(upstream, |node| node.unanswered() as f64),
    },
    UpstreamMetric {
        name: "tollgate_upstream_node_lookups_failed_total",
        kind: MetricKind::Counter,
        help: "Lookups of the node's name that gave nothing.",
        read: |upstream| of_nodes(upstream, |node| node.connector.lookups_failed() as f64),
    },
];

/// The only one by token: ids of tokens that expired, which whoever has none cannot add to.
const LATE: (&str, MetricKind, &str) =
    ("tollgate_late_requests_total", MetricKind::Counter, "Requests with a token that had expired.");

/// All metrics as Prometheus reads them.
pub(crate) fn render(health: &Health) -> String {
    let sample = Sample {
        health,
        status: health.replica.status(),
        now: Instant::now(),
        cache: health.cache.as_ref().map(|cache| cache.status()),
    };
    let mut text = String::new();
    for Metric { name, kind, help, labels, read } in METRICS {
        let Some(value) = read(&sample) else { continue };
        let value = if value == f64::INFINITY { "+Inf".to_owned() } else { value.to_string() };
        // Writing to a String does not fail.
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{labels} {value}").unwrap_or_default();
    }
    let (name, help) = FAILURES;
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter").unwrap_or_default();
    for failure in Failure::ALL {
        let total = health.failed_auth.total(failure);
        writeln!(text, "{name}{{reason=\"{failure}\"}} {total}").unwrap_or_default();
    }
    if let Some(figures) = health.proofs.figures() {
        let (name, help) = PROOFS;
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter").unwrap_or_default();
        for (verdict, total) in Verdict::ALL.into_iter().zip(figures.totals) {
            writeln!(text, "{name}{{verdict=\"{verdict}\"}} {total}").unwrap_or_default();
        }
    }
    let (name, help) = HANDSHAKES;
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter").unwrap_or_default();
    for failure in HandshakeFailure::ALL {
        let total = health.handshakes.total(failure);
        writeln!(text, "{name}{{reason=\"{failure}\"}} {total}").unwrap_or_default();
    }
    for UpstreamMetric { name, kind, help, read } in UPSTREAM_METRICS {
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}").unwrap_or_default();
        for upstream in &health.upstreams {
            for (label, value) in read(upstream) {
                let label = label.map(|(label, of)| format!(",{label}=\"{of}\"")).unwrap_or_default();
                let upstream = upstream.name.name();
                writeln!(text, "{name}{{upstream=\"{upstream}\"{label}}} {value}").unwrap_or_default();
            }
        }
    }
    let (name, kind, help) = LATE;
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}").unwrap_or_default();
    for late in health.late.latest() {
        writeln!(text, "{name}{{token=\"{}\"}} {}", late.token, late.count).unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use super::*;
    use crate::proxy::FailedAuthLimit;
    use crate::replica::{MaxStaleness, Replica};

    #[test]
    fn before_the_first_snapshot_the_staleness_is_infinite_and_there_is_no_revision() {
        let health =
            Health::new(Arc::new(Replica::new()), MaxStaleness::Never, Vec::new(), FailedAuthLimit::default(), None);
        let text = render(&health);
        assert!(text.contains("\ntollgate_ready 0\n"), "{text}");
        assert!(text.contains("\ntollgate_replica_staleness_seconds +Inf\n"), "{text}");
        assert!(text.contains("\ntollgate_replica_grants 0\n"), "{text}");
        assert!(!text.contains("tollgate_replica_revision"), "{text}");
    }

    #[test]
    fn names_are_unique_and_follow_the_rules() {
        let all: Vec<_> = (METRICS.iter().map(|metric| (metric.name, metric.kind, metric.help)))
            .chain(UPSTREAM_METRICS.iter().map(|metric| (metric.name, metric.kind, metric.help)))
            .chain([FAILURES, PROOFS, HANDSHAKES].map(|(name, help)| (name, MetricKind::Counter, help)))
            .chain([LATE])
            .collect();
        let names: HashSet<_> = all.iter().map(|(name, ..)| name).collect();
        assert_eq!(names.len(), all.len());
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        for (name, kind, help) in all {
            assert!(name.starts_with("tollgate_") && name.bytes().all(allowed), "{name}");
            assert_eq!(name.ends_with("_total"), matches!(kind, MetricKind::Counter), "{name}");
            assert!(help.ends_with('.') && !help.contains('\n'), "{name}: {help}");
        }
    }

    #[test]
    fn every_metric_is_documented() {
        let docs = include_str!("metrics.rs").split("\nuse ").next().expect("a beginning");
        let names = METRICS.iter().map(|metric| metric.name);
        let others = [FAILURES.0, PROOFS.0, HANDSHAKES.0, LATE.0];
        for name in names.chain(UPSTREAM_METRICS.iter().map(|metric| metric.name)).chain(others) {
            let short = name.strip_prefix("tollgate_replica").unwrap_or(name);
            assert!(docs.contains(&format!("`{name}`")) || docs.contains(&format!("`{short}`")), "{name}");
        }
    }
}
