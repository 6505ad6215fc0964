//! What the fleet is watched with: the metrics as Prometheus reads them, the alerts in `deploy/prometheus`, the dashboard in
//! `deploy/grafana`, and the documentation that both lead to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{CONFIG, Site, request};

fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(file(path)).expect("is there")
}

/// Runs Prometheus' own checks, which have to find nothing.
fn promtool(arguments: &[&str], input: &str) {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool, of Debian's package prometheus, runs");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("takes it");
    let output = child.wait_with_output().expect("ends");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

/// Every metric that a sidecar serves, as queries name them, with all values.
async fn served() -> (BTreeSet<String>, String) {
    // Whether there is a value or not, its name and kind are said.
    let site = Site::start().await;
    site.beat(&site.agent).await;
    site.send(request("GET", CONFIG, "")).await;
    let said = site.metrics().await;
    let (_, body) = said.split_once("\r\n\r\n").expect("a body");
    let mut names = BTreeSet::from(["up".to_owned()]);
    for line in body.lines() {
        let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) else { continue };
        match kind {
            "histogram" => names.extend(["bucket", "sum", "count"].map(|part| format!("{name}_{part}"))),
            _ => drop(names.insert(name.to_owned())),
        }
    }
    (names, body.to_owned())
}

/// The metrics that a query names: what is neither a function, nor a label, nor a word of the language.
fn metrics_of(query: &str) -> BTreeSet<String> {
    let is_word = |symbol: char| symbol.is_ascii_alphanumeric() || symbol == '_';
    let is_metric = |word: &&str| *word == "up" || word.starts_with("tollgate_") || word.starts_with("process_");
    // What is in quotes is the value of a label.
    let outside: String = query.split('"').step_by(2).collect::<Vec<_>>().join(" ");
    outside.split(|symbol| !is_word(symbol)).filter(is_metric).map(str::to_owned).collect()
}

fn check_served<'a>(served: &BTreeSet<String>, queries: impl Iterator<Item = &'a str>) {
    for query in queries {
        let used = metrics_of(query);
        assert!(!used.is_empty(), "no metric in {query}");
        let unknown: Vec<_> = used.difference(served).collect();
        assert!(unknown.is_empty(), "{unknown:?} of {query} are not served");
    }
}

/// An alert, as the file of rules has it.
#[derive(Debug, Default)]
struct Alert {
    query: String,
    runbook: String,
    severity: String,
}

/// As much of YAML as the file of rules uses.
fn alerts() -> BTreeMap<String, Alert> {
    let mut alerts: BTreeMap<String, Alert> = BTreeMap::new();
    let (mut name, mut in_query) = (String::new(), false);
    for line in text("deploy/prometheus/rules.yaml").lines() {
        let line = line.trim();
        if let Some(next) = line.strip_prefix("- alert: ") {
            name = next.to_owned();
            alerts.insert(name.clone(), Alert::default());
            continue;
        }
        let Some(alert) = alerts.get_mut(&name) else { continue };
        let ends_query = ["for:", "labels:", "annotations:", "#"].iter().any(|key| line.starts_with(key));
        match line.split_once(": ") {
            _ if line.starts_with("expr:") => {
                in_query = true;
                alert.query = line.trim_start_matches("expr:").trim_start_matches(" |").to_owned();
            }
            _ if in_query && !ends_query => alert.query += &format!(" {line}"),
            Some(("runbook", place)) => place.clone_into(&mut alert.runbook),
            Some(("severity", word)) => word.clone_into(&mut alert.severity),
            _ => in_query = false,
        }
    }
    alerts
}

/// The queries of a dashboard, wherever they are.
fn queries<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("expr").and_then(Value::as_str));
            fields.values().for_each(|value| queries(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| queries(value, found)),
        _ => {}
    }
}

fn panels(dashboard: &Value) -> Vec<&Value> {
    dashboard["panels"].as_array().expect("panels").iter().collect()
}

#[tokio::test]
async fn prometheus_finds_nothing_wrong_with_the_metrics() {
    let (names, said) = served().await;
    promtool(&["check", "metrics"], &said);
    assert!(names.contains("tollgate_request_duration_seconds_bucket"), "{names:?}");
}

#[tokio::test]
async fn the_documentation_names_what_is_served() {
    let (names, _) = served().await;
    for page in ["docs/metrics.md", "docs/alerts.md", "README.md"] {
        let text = text(page);
        let code = text.split('`').skip(1).step_by(2).filter(|code| !code.contains('\n'));
        for name in code.flat_map(metrics_of).filter(|name| !name.ends_with('_') && name != "up") {
            let is_served = names.contains(&name) || names.contains(&format!("{name}_count"));
            assert!(is_served, "{name} of {page} is not served");
        }
    }
}

#[test]
fn the_rules_are_sound_and_each_alert_fires_when_it_should() {
    promtool(&["check", "rules", file("deploy/prometheus/rules.yaml").to_str().expect("text")], "");
    promtool(&["test", "rules", file("tests/prometheus/rules.yaml").to_str().expect("text")], "");
    let tests = text("tests/prometheus/rules.yaml");
    for name in alerts().keys() {
        assert!(tests.contains(&format!("  - name: {name}\n")), "no test lets {name} fire");
        let is_quiet = format!("{{eval_time: 50m, alertname: {name}}}");
        assert!(tests.contains(&is_quiet), "no test says that {name} does not fire for a fleet that is well");
    }
}

#[tokio::test]
async fn alerts_use_what_is_served_and_lead_to_what_to_do() {
    let (names, _) = served().await;
    let alerts = alerts();
    assert!(alerts.len() > 20, "{alerts:?}");
    check_served(&names, alerts.values().map(|alert| alert.query.as_str()));
    let mut said = BTreeSet::new();
    for (name, Alert { runbook, severity, .. }) in &alerts {
        assert!(["critical", "warning"].contains(&severity.as_str()), "{name}: {severity}");
        // The anchor of a heading is the heading in small letters.
        assert_eq!(runbook, &format!("docs/alerts.md#{}", name.to_lowercase()), "{name}");
        said.insert(format!("## {name}"));
    }
    let page = text("docs/alerts.md");
    let headings: BTreeSet<_> = page.lines().filter(|line| line.starts_with("## ")).map(str::to_owned).collect();
    assert_eq!(headings, said, "the sections of docs/alerts.md, and the alerts");
    for anchor in page.split("](#").skip(1).filter_map(|rest| rest.split(')').next()) {
        assert!(alerts.keys().any(|name| name.to_lowercase() == anchor), "docs/alerts.md leads to #{anchor}");
    }
}

#[tokio::test]
async fn the_dashboard_asks_for_what_is_served() {
    let (names, _) = served().await;
    let dashboard: Value = serde_json::from_str(&text("deploy/grafana/tollgate.json")).expect("JSON");
    let mut found = Vec::new();
    queries(&dashboard, &mut found);
    assert!(found.len() > 30, "{found:?}");
    check_served(&names, found.iter().copied());
    // As rules, so that Prometheus reads them, with what Grafana puts in the place of its variables.
    let mut rules = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (number, query) in found.iter().enumerate() {
        let query = query.replace("$__rate_interval", "1m").replace("$job", "tollgate").replace("$instance", ".*");
        assert!(!query.contains('$'), "{query}");
        rules += &format!("      - record: query_{number}\n        expr: {}\n", Value::from(query));
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("rules.yaml");
    fs::write(&path, rules).expect("writes");
    promtool(&["check", "rules", path.to_str().expect("text")], "");
}

#[test]
fn the_dashboards_panels_have_titles_units_and_room() {
    let dashboard: Value = serde_json::from_str(&text("deploy/grafana/tollgate.json")).expect("JSON");
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    let mut rows = 0;
    for panel in panels(&dashboard) {
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "twice: {}", panel["id"]);
        assert!(panel["title"].as_str().is_some_and(|title| !title.is_empty()), "{panel}");
        let at = |key: &str| panel["gridPos"][key].as_u64().expect("a place");
        for (x, y) in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
            assert!(x < 24 && taken.insert((x, y)), "{} lies over another panel", panel["title"]);
        }
        match panel["type"].as_str() {
            Some("row") => rows += 1,
            _ => {
                let unit = panel["fieldConfig"]["defaults"]["unit"].as_str();
                assert!(unit.is_some_and(|unit| !unit.is_empty()), "{} has no unit", panel["title"]);
                assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{}", panel["title"]);
            }
        }
    }
    assert!(rows >= 6, "a row for each subject");
}

#[test]
fn metrics_are_found_in_queries() {
    let query = r#"sum by (job) (rate(tollgate_a_total{group="tollgate_b"}[5m])) / process_x > on (job) up"#;
    assert_eq!(metrics_of(query).into_iter().collect::<Vec<_>>(), ["process_x", "tollgate_a_total", "up"]);
}
