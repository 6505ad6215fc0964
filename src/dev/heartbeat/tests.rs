use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn is_accepted(heartbeat: &Value) -> bool {
    Heartbeat::parse(heartbeat.to_string().as_bytes()).is_ok()
}

fn why_refused(body: &str) -> String {
    Heartbeat::parse(body.as_bytes()).expect_err("refused").to_string()
}

fn complete() -> Value {
    json!({
        "id": "web-1",
        "version": "Telegraf 1.37.0-c3db479e (git: output_heartbeat@c3db479e)",
        "schema": 1,
        "last": 1_761_141_750,
        "hostname": "web-1.example.com",
        "configurations": ["/etc/telegraf/telegraf.conf"],
        "statistics": { "errors": 0, "warnings": 2, "metrics": 1234 },
        "logs": [{
            "time": "2025-10-22T16:02:30.12345+02:00",
            "level": "ERROR",
            "source": "inputs.http::myservice",
            "attributes": { "alias": "hbt", "category": "inputs", "depth": [1, null] },
            "message": "no answer"
        }],
        "status": "WARN"
    })
}

#[test]
fn complete_and_smallest_heartbeats_are_accepted() {
    let heartbeat = Heartbeat::parse(complete().to_string().as_bytes()).expect("accepted");
    assert_eq!(heartbeat.id, "web-1");
    assert_eq!(heartbeat.hostname.as_deref(), Some("web-1.example.com"));
    assert_eq!(heartbeat.status, Some(AgentStatus::Warn));
    assert!(is_accepted(&json!({ "id": "", "version": "Telegraf 1.37.0" })));
    assert!(is_accepted(&json!({ "id": "a", "version": "b", "schema": 1.0, "last": -1, "logs": [] })));
}

#[test]
fn the_reason_of_a_refusal_names_what_is_wrong() {
    let cases = [
        (r#"{"version":"b"}"#, "missing field `id`"),
        (r#"{"id":"a"}"#, "missing field `version`"),
        (r#"{"id":"a","version":"b","ip":"c"}"#, "unknown field `ip`"),
        (r#"{"id":"a","version":"b","status":"GOOD"}"#, "unknown variant `GOOD`, expected one of `OK`"),
        (r#"{"id":"a","version":"b","status":"ok"}"#, "unknown variant `ok`"),
        (r#"{"id":1,"version":"b"}"#, "invalid type: integer `1`, expected a string"),
        (r#"{"id":"a","version":"b","schema":1.5}"#, "expected an integer"),
        (r#"{"id":"a","version":"b","last":"1"}"#, "expected an integer"),
        (r#"{"id":"a","version":"b","hostname":null}"#, "invalid type: null, expected a string"),
        (r#"{"id":"a","version":"b","statistics":[1,2,3]}"#, "invalid type: sequence, expected an object"),
        (r#"{"id":"a","version":"b","statistics":{"errors":1,"warnings":1}}"#, "missing field `metrics`"),
        (r#"{"id":"a","version":"b","id":"c"}"#, "duplicate field `id`"),
        (r#"["a","b"]"#, "invalid type: sequence, expected an object"),
        (r#""a""#, "invalid type: string \"a\", expected an object"),
        (r#"{"id":"a","version":"b"} x"#, "trailing characters"),
        (r#"{"id":"a","version":"#, "EOF while parsing"),
        ("", "EOF while parsing"),
    ];
    for (body, expected) in cases {
        let reason = why_refused(body);
        assert!(reason.contains(expected), "{body}: {reason}");
    }
}

#[test]
fn each_part_of_a_log_entry_is_checked() {
    let entry = |change: fn(&mut Value)| {
        let mut heartbeat = complete();
        change(&mut heartbeat["logs"][0]);
        is_accepted(&heartbeat)
    };
    assert!(entry(|entry| entry["attributes"] = json!({})));
    assert!(!entry(|entry| entry["attributes"] = json!([])));
    assert!(!entry(|entry| entry["attributes"] = Value::Null));
    assert!(!entry(|entry| entry["level"] = json!("FATAL")));
    assert!(!entry(|entry| entry["time"] = json!("yesterday")));
    assert!(!entry(|entry| entry["other"] = json!(1)));
    assert!(!entry(|entry| *entry = json!(["2025-10-22T16:02:30Z", "INFO", "a", {}, "b"])));
}

#[test]
fn times_are_those_of_rfc_3339() {
    let valid = [
        "2025-10-22T16:02:30Z",
        "2025-10-22t16:02:30z",
        "2025-10-22T16:02:30.12345+02:00",
        "2025-10-22T16:02:30.123456789123-23:59",
        "2024-02-29T00:00:00-00:00",
        "1990-12-31T23:59:60Z",
    ];
    for time in valid {
        assert!(is_rfc3339(time), "{time}");
    }
    let invalid = [
        "",
        "2025-10-22",
        "2025-10-22T16:02:30",
        "2025-10-22 16:02:30Z",
        "20251022T160230Z",
        "2025-10-22T16:02:30.Z",
        "2025-10-22T16:02:30,5Z",
        "2025-10-22T16:02:30+0200",
        "2025-10-22T16:02:30+24:00",
        "2025-10-22T16:02:30+02:60",
        "2025-10-22T16:02:30Z[UTC]",
        "2025-10-22T24:00:00Z",
        "2025-02-29T00:00:00Z",
        "2025-13-01T00:00:00Z",
        "2025-10-22T16:02:3éZ",
    ];
    for time in invalid {
        assert!(!is_rfc3339(time), "{time}");
    }
}

proptest! {
    #[test]
    fn what_is_no_heartbeat_is_refused(body in any::<Vec<u8>>()) {
        prop_assert!(Heartbeat::parse(&body).is_err());
    }

    #[test]
    fn every_time_taken_has_a_date_a_clock_and_an_offset(time in "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-9:.Z+-]{8,20}|.*") {
        prop_assert!(!is_rfc3339(&time) || (time.len() >= 20 && time.is_ascii()));
    }
}

/// Telegraf's own (plugins/outputs/heartbeat/schema_v1.json, MIT licence).
fn schema() -> Value {
    serde_json::from_str(include_str!("schema_v1.json")).expect("the schema is JSON")
}

/// A value with every property that the schema allows.
fn example(schema: &Value, node: &Value) -> Value {
    if let Some(name) = node["$ref"].as_str().and_then(|name| name.strip_prefix("#/$defs/")) {
        return example(schema, &schema["$defs"][name]);
    }
    let first = |list: &Value| list.get(0).cloned();
    match node["type"].as_str().expect("every node has a type") {
        "object" => match node["properties"].as_object() {
            Some(properties) => properties.iter().map(|(name, node)| (name.clone(), example(schema, node))).collect(),
            None => first(&node["examples"]).unwrap_or(json!({})),
        },
        "array" => json!([example(schema, &node["items"])]),
        "integer" => json!(1),
        _ => first(&node["examples"]).or(first(&node["enum"])).unwrap_or(json!("text")),
    }
}

/// Puts `value` at `place` (a JSON pointer) in a complete heartbeat; `None` takes out what is there.
fn with(heartbeat: &Value, place: &str, value: Option<Value>) -> Value {
    let mut heartbeat = heartbeat.clone();
    let (parent, name) = place.rsplit_once('/').expect("a pointer");
    let parent = heartbeat.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object");
    match value {
        Some(value) => parent.insert(name.to_owned(), value),
        None => parent.remove(name),
    };
    heartbeat
}

/// Every object of the schema as it lies in a complete heartbeat: missing, unknown, mistyped, each value listed.
#[test]
fn the_check_agrees_with_telegrafs_schema() {
    let schema = schema();
    let heartbeat = example(&schema, &schema);
    assert!(is_accepted(&heartbeat), "{heartbeat}");
    let objects =
        [("", &schema), ("/statistics", &schema["$defs"]["statistics"]), ("/logs/0", &schema["$defs"]["logEntry"])];
    for (place, node) in objects {
        assert_eq!(node["additionalProperties"], json!(false));
        assert!(!is_accepted(&with(&heartbeat, &format!("{place}/not-in-the-schema"), Some(json!("x")))));
        for (name, property) in node["properties"].as_object().expect("an object's properties") {
            let place = format!("{place}/{name}");
            let required = node["required"].as_array().expect("a list").contains(&json!(name));
            assert_eq!(is_accepted(&with(&heartbeat, &place, None)), !required, "{place} missing");
            for wrong in [Value::Null, json!(true), json!(1.5)] {
                assert!(!is_accepted(&with(&heartbeat, &place, Some(wrong.clone()))), "{place} = {wrong}");
            }
            let listed = ["enum", "examples"].into_iter().filter_map(|key| property[key].as_array()).flatten();
            for value in listed {
                assert!(is_accepted(&with(&heartbeat, &place, Some(value.clone()))), "{place} = {value}");
            }
            if property["enum"].is_array() {
                assert!(!is_accepted(&with(&heartbeat, &place, Some(json!("not listed")))), "{place}");
            }
        }
    }
}
