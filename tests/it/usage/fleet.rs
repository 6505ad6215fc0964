//! Several sidecars of one registry, as processes that end and are killed.

use std::time::Duration;

use serde_json::Value;

use super::heartbeat;
use crate::harness::{Client, HEARTBEAT, Program, RedisServer, Serving, Upstream, eventually, request, run};

/// A heartbeat with the Owner's token.
async fn beat(program: &Program, id: &str) {
    let body = heartbeat(id);
    let fields = format!("Authorization: Bearer {}\r\nContent-Length: {}\r\n", program.token, body.len());
    let mut client = Client::connect(program.address()).await;
    client.send(request("POST", HEARTBEAT, &fields) + &body).await;
    assert_eq!(client.reply().await.status(), 200);
}

/// What `token show` says of the only token.
fn shown(run: impl Fn(&[&str]) -> std::process::Output) -> Value {
    let read = |arguments: &[&str]| {
        let output = run(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let list = read(&["token", "list", "--json"]);
    read(&["token", "show", list[0]["id"].as_str().expect("an id"), "--json"])
}

fn names(token: &Value) -> Vec<String> {
    let agents = token["usage"]["agents"].as_array().expect("agents");
    let mut names: Vec<_> = agents.iter().map(|agent| agent["id"].as_str().expect("a name").to_owned()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_several_sidecars_let_through_is_added_up() {
    let (api, upstream) = (Upstream::start().await, Upstream::start().await);
    let one = Program::start(&api, &upstream, &[]);
    let two = one.beside(&api, &upstream, &[]);
    beat(&one, "only-one").await;
    beat(&two, "only-two").await;
    for program in [&one, &two] {
        beat(program, "both").await;
    }
    one.signal("TERM");
    assert!(one.ended().await.success());
    two.signal("TERM");
    // Its store outlives it.
    let three = two.beside(&api, &upstream, &[]);
    assert!(two.ended().await.success());
    let token = shown(|arguments| three.run(arguments));
    assert_eq!(
        (names(&token), token["usage"]["agents_24h"].as_u64()),
        (vec!["both".to_owned(), "only-one".to_owned(), "only-two".to_owned()], Some(3))
    );
}

#[tokio::test]
async fn a_sidecar_that_is_killed_leaves_what_it_had_recorded() {
    let (api, upstream) = (Upstream::start().await, Upstream::start().await);
    let program = Program::start(&api, &upstream, &[]);
    beat(&program, "web-1").await;
    eventually("it is recorded", || async { shown(|arguments| program.run(arguments))["usage"]["agents_24h"] == 1 })
        .await;
    let before = shown(|arguments| program.run(arguments))["last_used_at"].clone();
    program.signal("KILL");
    let again = program.beside(&api, &upstream, &[]);
    assert_eq!(shown(|arguments| again.run(arguments))["last_used_at"], before);
    beat(&again, "web-1").await;
    beat(&again, "web-2").await;
    again.signal("TERM");
    let last = again.beside(&api, &upstream, &[]);
    assert!(again.ended().await.success());
    let token = shown(|arguments| last.run(arguments));
    assert_eq!(
        (names(&token), token["usage"]["agents_24h"].as_u64()),
        (vec!["web-1".to_owned(), "web-2".to_owned()], Some(2))
    );
    assert!(token["last_used_at"].as_str() > before.as_str());
}

/// With the rules of the version before, it says once what to add, and goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_may_not_record_use_goes_on_without() {
    let users = include_str!("../../../deploy/redis/users.acl");
    let rule = "(%R~{tollgate}:tokens +hexists) (~{tollgate}:usage ~{tollgate}:usage:* +eval +evalsha +time +type +zadd +zmscore \
                +zcard +zcount +zrange +zrem +hmget +hset +hdel)";
    let before = users.replace(&format!("{rule} "), "");
    assert_ne!(before, users);
    let server = RedisServer::with_users(&before);
    let registry = server.url_as("tollgate-registry:CHANGE-REGISTRY");
    let command = |arguments: &[&str]| run(arguments, &[("TOLLGATE_STORE__URL", &registry)]);
    let token = String::from_utf8(command(&["init"]).stdout).expect("text").trim().to_owned();
    let mut sidecar = Serving::start(&server.url_as("tollgate-sidecar:CHANGE-SIDECAR"), &[]).await;
    let warning = sidecar
        .says(&format!(
            "Redis does not let this user record when tokens are used, and by which agents: what passes this sidecar is \
             missing from `tollgate token list`, and from what is asked before tokens are revoked. Add {rule} to its line in users.acl"
        ))
        .await;
    assert!(warning["refused"].as_str().expect("text").starts_with("HEXISTS {tollgate}:tokens, ZADD {tollgate}:usage"));
    eventually("it is ready", || async { sidecar.readiness().await == 200 }).await;
    assert_eq!(sidecar.fetch(&token).await, 502, "it lets through");
    let token = shown(command);
    assert_eq!((&token["last_used_at"], &token["usage"]["never_used"]), (&Value::Null, &Value::Bool(false)));
    let list = command(&["token", "list", "--never-used", "--json"]);
    assert_eq!(String::from_utf8_lossy(&list.stdout).trim(), "[]", "nobody is said to be unused whom nobody watches");
    let said = String::from_utf8_lossy(&list.stderr).into_owned();
    assert!(said.contains("no sidecar has recorded"), "{said}");
}

/// A clock that was ahead poisons nothing: what was written by it is put right by the next use.
#[tokio::test]
async fn a_clock_that_was_ahead_poisons_nothing() {
    let (api, upstream) = (Upstream::start().await, Upstream::start().await);
    let program = Program::start(&api, &upstream, &[]);
    beat(&program, "web-1").await;
    eventually("it is recorded", || async { shown(|arguments| program.run(arguments))["usage"]["agents_24h"] == 1 })
        .await;
    let database = rusqlite::Connection::open(program.database()).expect("opens");
    database.busy_timeout(Duration::from_secs(5)).expect("is set");
    let ahead = "UPDATE usage SET last_used = last_used + 86400000; UPDATE agents SET last_used = last_used + 86400000";
    database.execute_batch(ahead).expect("writes");
    let is_past = |token: &Value| {
        let used = token["last_used_at"].as_str().expect("used").parse::<jiff::Timestamp>().expect("a time");
        used <= jiff::Timestamp::now() + Duration::from_secs(1)
    };
    assert!(is_past(&shown(|arguments| program.run(arguments))), "no use is shown in the future");
    beat(&program, "web-1").await;
    program.signal("TERM");
    let last = program.beside(&api, &upstream, &[]);
    assert!(program.ended().await.success());
    let token = shown(|arguments| last.run(arguments));
    assert!(is_past(&token));
    let later =
        "SELECT (SELECT count(*) FROM usage WHERE last_used > ?1) + (SELECT count(*) FROM agents WHERE last_used > ?1)";
    let now = jiff::Timestamp::now().as_millisecond() + 60_000;
    assert_eq!(database.query_row(later, [now], |row| row.get::<_, i64>(0)).expect("counts"), 0);
}
