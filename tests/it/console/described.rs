//! The description of the API: what is committed is what is served, and what it says is there.

use super::*;

/// A file of `docs`.
fn docs(name: &str) -> String {
    std::fs::read_to_string(format!("{}/docs/{name}", env!("CARGO_MANIFEST_DIR"))).expect("reads")
}

#[tokio::test]
async fn everything_that_is_described_is_there() {
    let site = Site::start().await;
    let admin = site.sidecar.admin();
    let served = Call::new("GET", "/api/v1/openapi.json").send(admin).await.done();
    let committed: Value = serde_json::from_str(&docs("openapi.json")).expect("JSON");
    assert!(served == committed, "docs/openapi.json is another: UPDATE_OPENAPI=1 cargo test --lib openapi");
    for (path, calls) in served["paths"].as_object().expect("paths") {
        let path = path.replace("{id}", "0000000000000").replace("{name}", "nobody");
        for method in calls.as_object().expect("calls").keys() {
            let stranger = Call::new(&method.to_uppercase(), &path).send(admin).await;
            assert_eq!(stranger.problem(), (401, "unauthenticated"), "{method} {path}");
        }
        let others = ["GET", "POST", "DELETE", "PUT", "PATCH"].map(str::to_lowercase);
        for other in others.into_iter().filter(|other| calls.get(other).is_none()) {
            let answer = Call::new(&other.to_uppercase(), &path).send(admin).await;
            assert_eq!(answer.status, 405, "{other} {path} is not described");
        }
    }
}

#[test]
fn the_page_lists_every_call() {
    let page = docs("api.md");
    let described: Value = serde_json::from_str(&docs("openapi.json")).expect("JSON");
    for (path, calls) in described["paths"].as_object().expect("paths") {
        for method in calls.as_object().expect("calls").keys() {
            let call = format!("`{} {}`", method.to_uppercase(), path.strip_prefix("/api/v1").expect("the prefix"));
            assert!(page.contains(&call), "{call} is not on the page");
        }
    }
}

#[test]
fn its_texts_have_no_runs_of_blanks() {
    fn look(value: &Value) {
        match value {
            Value::String(text) => assert!(!text.contains("  "), "{text:?}"),
            Value::Array(all) => all.iter().for_each(look),
            Value::Object(all) => all.values().for_each(look),
            _ => {}
        }
    }
    look(&serde_json::from_str(&docs("openapi.json")).expect("JSON"));
}
