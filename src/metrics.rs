//! Every metric: its name, its kind, its labels, what it means and where its values come from, in one list. Served at
//! `/metrics` of the admin listener.
//!
//! A label's values are the names of an enum, the nodes that the configuration names, a version, or the ids of a hundred tokens: never
//! what somebody sent.
//!
//! `docs/metrics.md` says of each what to look for; a test compares the two.

mod certificates;
mod process;
mod reloads;
mod requests;
mod upstreams;
mod values;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::clock::Instant;
use crate::health::{Configured, Health};
use crate::lines::Lines;
use crate::prove::Verdict;
use crate::proxy::CacheStatus;
use crate::proxy::tally::Total;
use crate::replica::{MaxStaleness, ReplicaStatus};
use crate::upstream::{Node, Upstream};
use crate::words::words;
use values::Values;

/// What the values are taken from, all at one moment.
struct Sample<'a> {
    health: &'a Health,
    configured: Arc<Configured>,
    status: ReplicaStatus,
    total: Total,
    now: Instant,
    /// `None`: configurations are not stored.
    cache: Option<CacheStatus>,
}

struct Metric {
    name: &'static str,
    kind: MetricKind,
    help: &'static str,
    /// Their names; a histogram has `le` besides.
    labels: &'static [&'static str],
    read: Read,
}

/// Where a metric's values come from.
enum Read {
    /// One without labels. `None`: it has no value now.
    One(fn(&Sample<'_>) -> Option<f64>),
    /// One for each upstream.
    Upstream(fn(&Upstream) -> f64),
    /// One for each node of an upstream that has several.
    Node(fn(&Node) -> f64),
    /// Any number.
    Many(fn(&Sample<'_>, &mut Values<'_>)),
}

words! {
    /// How Prometheus treats a metric.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum MetricKind {
        /// Goes up and down.
        Gauge = "gauge",
        /// Only ever grows while the process runs.
        Counter = "counter",
        /// Durations, by how many are not above each of some bounds.
        Histogram = "histogram",
    }
}

const fn gauge(name: &'static str, help: &'static str, read: fn(&Sample<'_>) -> Option<f64>) -> Metric {
    Metric { name, kind: MetricKind::Gauge, help, labels: &[], read: Read::One(read) }
}

const fn counter(name: &'static str, help: &'static str, read: fn(&Sample<'_>) -> Option<f64>) -> Metric {
    Metric { name, kind: MetricKind::Counter, help, labels: &[], read: Read::One(read) }
}

/// Those of the sidecar as a whole.
const METRICS: &[Metric] = &[
    Metric {
        name: "tollgate_build_info",
        kind: MetricKind::Gauge,
        help: "The version that runs; always 1.",
        labels: &["version"],
        read: Read::Many(|_, values| values.add(&[env!("CARGO_PKG_VERSION")], 1.0)),
    },
    gauge("tollgate_ready", "1 when the replica is fresh and the sidecar does not drain, else 0.", |sample| {
        Some(f64::from(u8::from(sample.health.readiness.problem().is_none())))
    }),
    gauge("tollgate_drained", "1 when an operator has drained the sidecar (tollgate drain), else 0.", |sample| {
        Some(f64::from(u8::from(sample.health.readiness.is_drained())))
    }),
    gauge(
        "tollgate_replica_staleness_seconds",
        "Seconds since the replica was last proven to be at the store's position.",
        |sample| {
            let staleness = sample.health.replica.staleness(sample.now);
            Some(staleness.map_or(f64::INFINITY, |staleness| staleness.as_secs_f64()))
        },
    ),
    gauge("tollgate_replica_max_staleness_seconds", "From which staleness on requests get 503.", |sample| {
        Some(match sample.health.readiness.max_staleness() {
            MaxStaleness::Within(bound) => bound.as_secs_f64(),
            MaxStaleness::Never => f64::INFINITY,
        })
    }),
    Metric {
        name: "tollgate_revocation_lag_seconds",
        kind: MetricKind::Histogram,
        help: "From the last proof without a revocation, or another change that takes away, to its effect here.",
        labels: &[],
        read: Read::Many(|sample, values| values.histogram(&[], &sample.health.replica.revocation_lag())),
    },
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
    Metric {
        name: "tollgate_proofs_total",
        kind: MetricKind::Counter,
        help: "Proofs that revoked tokens are refused, by what came of them.",
        labels: &["verdict"],
        read: Read::Many(|sample, values| {
            let Some(figures) = sample.health.proofs.figures() else { return };
            let totals = Verdict::ALL.into_iter().zip(figures.totals);
            totals.for_each(|(verdict, total)| values.add(&[verdict.name()], total as f64));
        }),
    },
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
    Metric {
        name: "tollgate_late_requests_total",
        kind: MetricKind::Counter,
        // Whoever has no token cannot add to them.
        help: "Requests with a token that had expired, of the hundred used last.",
        labels: &["token"],
        read: Read::Many(|sample, values| {
            for late in sample.health.late.latest() {
                values.add(&[&late.token.to_string()], late.count as f64);
            }
        }),
    },
    counter("tollgate_panics_total", "Tasks that panicked.", |sample| {
        Some(sample.health.panics.load(Ordering::Relaxed) as f64)
    }),
];

/// All of them, in the order in which they are written.
fn all() -> impl Iterator<Item = &'static Metric> {
    let own = [METRICS, requests::METRICS, upstreams::METRICS, certificates::METRICS, reloads::METRICS];
    let lists = own.into_iter().chain([process::METRICS]);
    lists.flatten()
}

/// All metrics as Prometheus reads them. Reads of the kernel, so it may block.
pub(crate) fn render(health: &Health) -> String {
    let (status, total) = (health.replica.status(), health.tallies.total());
    let cache = health.cache.as_ref().map(|cache| cache.status());
    let configured = health.configured();
    let sample = Sample { health, configured, status, total, now: Instant::now(), cache };
    let mut text = String::new();
    all().for_each(|metric| metric.write(&sample, &mut text));
    text
}

impl Metric {
    fn write(&self, sample: &Sample<'_>, text: &mut String) {
        let mut values = Values::new(text, self);
        let upstreams = || sample.configured.upstreams.iter();
        match &self.read {
            Read::One(read) => read(sample).into_iter().for_each(|value| values.add(&[], value)),
            Read::Many(read) => read(sample, &mut values),
            Read::Upstream(read) => {
                upstreams().for_each(|upstream| values.add(&[upstream.name.name()], read(upstream)));
            }
            Read::Node(read) => {
                for upstream in upstreams().filter(|upstream| upstream.has_several_nodes()) {
                    let named = upstream.nodes.iter().map(|node| (node.url.to_string(), node));
                    named.for_each(|(url, node)| values.add(&[upstream.name.name(), &url], read(node)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::proxy::FailedAuthLimit;
    use crate::replica::{MaxStaleness, Replica};

    #[test]
    fn before_the_first_snapshot_the_staleness_is_infinite_and_there_is_no_revision() {
        let health = Health::new(Arc::new(Replica::new()), MaxStaleness::Never, FailedAuthLimit::default(), None);
        let text = render(&health);
        assert!(text.contains("\ntollgate_ready 0\n"), "{text}");
        assert!(text.contains("\ntollgate_replica_staleness_seconds +Inf\n"), "{text}");
        assert!(text.contains("\ntollgate_replica_grants 0\n"), "{text}");
        assert!(!text.contains("\ntollgate_replica_revision "), "{text}");
    }

    #[test]
    fn names_are_unique_and_follow_the_rules() {
        let names: HashSet<_> = all().map(|metric| metric.name).collect();
        assert_eq!(names.len(), all().count());
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        for Metric { name, kind, help, labels, .. } in all() {
            let is_ours = name.starts_with("tollgate_") || name.starts_with("process_");
            assert!(is_ours && name.bytes().all(allowed), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == MetricKind::Counter, "{name}");
            assert!(*kind != MetricKind::Histogram || name.ends_with("_seconds"), "{name}");
            assert!(help.ends_with('.') && !help.contains('\n'), "{name}: {help}");
            assert!(labels.iter().all(|label| label.bytes().all(allowed) && *label != "le"), "{name}: {labels:?}");
        }
    }

    /// The tables of `docs/metrics.md` have each of them, and no others, with their kinds and labels.
    #[test]
    fn the_documentation_lists_every_metric() {
        let documented: Vec<_> = (include_str!("../docs/metrics.md").lines())
            .filter_map(|line| {
                let cells: Vec<_> = line.strip_prefix("| `")?.split('|').map(str::trim).collect();
                let [name, kind, labels, meaning, ""] = cells[..] else { panic!("not a row: {line}") };
                assert!(!meaning.is_empty(), "{line}");
                Some(format!("{} {kind} {}", name.trim_matches('`'), labels.replace('`', "")))
            })
            .collect();
        let served: Vec<_> =
            (all()).map(|Metric { name, kind, labels, .. }| format!("{name} {kind} {}", labels.join(", "))).collect();
        let missing: Vec<_> = served.iter().filter(|row| !documented.contains(row)).collect();
        assert!(missing.is_empty(), "in no row of docs/metrics.md: {missing:#?}");
        let gone: Vec<_> = documented.iter().filter(|row| !served.contains(row)).collect();
        assert!(gone.is_empty(), "in docs/metrics.md, and not served: {gone:#?}");
    }
}
