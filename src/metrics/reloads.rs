//! How reloads of the configuration went.

use super::{Metric, MetricKind, Read, gauge};
use crate::health::ReloadOutcome;

pub(super) const METRICS: &[Metric] = &[
    Metric {
        name: "tollgate_config_reloads_total",
        kind: MetricKind::Counter,
        help: "Reloads of the configuration, by what became of them.",
        labels: &["outcome"],
        read: Read::Many(|sample, values| {
            let totals = sample.health.reloads.state().totals;
            for outcome in ReloadOutcome::ALL {
                values.add(&[outcome.name()], totals[outcome as usize] as f64);
            }
        }),
    },
    gauge(
        "tollgate_config_last_reload_successful",
        "1 when the latest reload was applied, or there was none, else 0.",
        |sample| Some(f64::from(u8::from(sample.health.reloads.state().outcome == ReloadOutcome::Applied))),
    ),
    gauge(
        "tollgate_config_last_reload_success_timestamp_seconds",
        "When the configuration that is in effect was read, in seconds since 1970.",
        |sample| Some(sample.health.reloads.state().applied_at.as_second() as f64),
    ),
    gauge(
        "tollgate_config_restart_needed_keys",
        "Keys that were changed and need a restart to take effect.",
        |sample| Some(sample.health.reloads.state().waiting as f64),
    ),
];
