//! What was taken away has taken effect on this host when the command ends.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::{CONFIG, Client, Program, Upstream, eventually, request};

async fn status(program: &Program, token: &str) -> u16 {
    let mut client = Client::connect(program.address()).await;
    client.send(request("GET", CONFIG, &format!("Authorization: Bearer {token}\r\n"))).await;
    client.reply().await.status()
}

fn create(program: &Program) -> (String, String) {
    let create = ["token", "create", "--user", "owner", "--description", "x", "--preset", "telegraf-agent", "--json"];
    let created: Value = serde_json::from_slice(&program.run(&create).stdout).expect("JSON");
    let field = |name: &str| created[name].as_str().expect("text").to_owned();
    (field("id"), field("token"))
}

#[tokio::test]
async fn a_token_is_refused_as_soon_as_the_command_that_revokes_it_has_ended() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let program = Program::start(&api, &heartbeat, &[]);
    for command in ["revoke", "delete", "revoke", "delete", "revoke", "delete"] {
        let (id, token) = create(&program);
        eventually("it works", || async { status(&program, &token).await == 200 }).await;
        let done = program.run(&["token", command, &id, "--yes"]);
        assert!(done.status.success() && done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(status(&program, &token).await, 401, "after {command}");
    }
    let (_, token) = create(&program);
    eventually("it works", || async { status(&program, &token).await == 200 }).await;
    assert!(program.run(&["user", "add", "anna", "--role", "administrator"]).status.success());
    assert!(program.run(&["user", "transfer-ownership", "anna", "--yes"]).status.success());
    assert!(program.run(&["user", "disable", "owner", "--yes"]).status.success());
    assert_eq!(status(&program, &token).await, 401, "its owner is disabled");
}

#[tokio::test]
async fn a_sidecar_that_has_not_applied_it_is_named_by_a_name_of_its_own() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let program = Program::start(&api, &heartbeat, &[]);
    let other = program.beside(&api, &heartbeat, &[]);
    let names = || -> BTreeSet<String> {
        let shown: Value = serde_json::from_slice(&program.run(&["status", "--json"]).stdout).expect("JSON");
        let sidecars = shown["sidecars"].as_array().expect("a list");
        sidecars.iter().map(|sidecar| sidecar["name"].as_str().expect("a name").to_owned()).collect()
    };
    eventually("both are listed, by two names", || async { names().len() == 2 }).await;
    let (id, _) = create(&program);
    other.signal("STOP");
    let revoked = program.run(&["token", "revoke", &id]);
    other.signal("CONT");
    let said = String::from_utf8_lossy(&revoked.stderr).into_owned();
    assert!(revoked.status.success() && said.contains("not applied yet by"), "it is committed: {said}");
    let port = other.address().port().to_string();
    assert!(names().iter().any(|name| name.ends_with(&format!(":{port}")) && said.contains(name)), "{said}");
    assert!(said.contains("--wait"), "{said}");
}
