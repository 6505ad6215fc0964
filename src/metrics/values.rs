//! The text format of Prometheus (0.0.4).

use std::fmt::Write as _;

use super::Metric;
use crate::histogram::Durations;

/// Takes the values of one metric.
pub(super) struct Values<'a> {
    text: &'a mut String,
    metric: &'a Metric,
}

impl<'a> Values<'a> {
    /// Begins a metric. Its name is said also when it has no value now: whoever looks for it finds that it exists.
    pub(super) fn new(text: &'a mut String, metric: &'a Metric) -> Self {
        let Metric { name, kind, help, .. } = metric;
        // Writing to a String does not fail, here and below.
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}").unwrap_or_default();
        Self { text, metric }
    }

    /// A value, with what the metric's labels are for it.
    pub(super) fn add(&mut self, labels: &[&str], value: f64) {
        self.sample("", labels, None, value);
    }

    /// The buckets, the sum and the count.
    pub(super) fn histogram(&mut self, labels: &[&str], durations: &Durations) {
        for (bound, count) in durations.cumulative() {
            self.sample("_bucket", labels, Some(bound), count as f64);
        }
        let count = durations.count() as f64;
        self.sample("_bucket", labels, Some(f64::INFINITY), count);
        self.sample("_sum", labels, None, durations.seconds());
        self.sample("_count", labels, None, count);
    }

    fn sample(&mut self, suffix: &str, labels: &[&str], bound: Option<f64>, value: f64) {
        let Metric { name, labels: names, .. } = self.metric;
        debug_assert_eq!(names.len(), labels.len(), "{name}");
        write!(self.text, "{name}{suffix}").unwrap_or_default();
        let bound = bound.map(number);
        let labels = names.iter().copied().zip(labels.iter().copied()).chain(bound.as_deref().map(|le| ("le", le)));
        let mut separator = '{';
        for (name, value) in labels {
            // What of a value the format would read as its end.
            let value = value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            write!(self.text, "{separator}{name}=\"{value}\"").unwrap_or_default();
            separator = ',';
        }
        let end = if separator == ',' { "}" } else { "" };
        writeln!(self.text, "{end} {}", number(value)).unwrap_or_default();
    }
}

fn number(value: f64) -> String {
    if value == f64::INFINITY { "+Inf".to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::super::{MetricKind, Read};
    use super::*;

    #[test]
    fn labels_are_escaped_and_only_there_where_there_are_any() {
        let metric = |labels| Metric {
            name: "tollgate_x_total",
            kind: MetricKind::Counter,
            help: "Xs.",
            labels,
            read: Read::One(|_| None),
        };
        let mut text = String::new();
        Values::new(&mut text, &metric(&[])).add(&[], 1.5);
        Values::new(&mut text, &metric(&["a", "b"])).add(&["q\"\\\n", ""], f64::INFINITY);
        let head = "# HELP tollgate_x_total Xs.\n# TYPE tollgate_x_total counter\n";
        let expected =
            format!("{head}tollgate_x_total 1.5\n{head}tollgate_x_total{{a=\"q\\\"\\\\\\n\",b=\"\"}} +Inf\n");
        assert_eq!(text, expected);
    }
}
