//! What commands say of the use of tokens, and what they choose by it.

use std::process::Output;

use serde_json::Value;

use super::heartbeat;
use crate::harness::{Client, HEARTBEAT, Program, Upstream, eventually, request};

/// A sidecar that records, with a user `max` who has these tokens.
struct Bench {
    program: Program,
    _upstreams: [Upstream; 2],
    tokens: Vec<(String, String)>,
}

impl Bench {
    async fn start(tokens: usize) -> Self {
        let upstreams = [Upstream::start().await, Upstream::start().await];
        let program = Program::start(&upstreams[0], &upstreams[1], &[]);
        let mut bench = Self { program, _upstreams: upstreams, tokens: Vec::new() };
        eventually("uses are recorded", || async {
            bench.json(&["token", "list", "--json"])[0]["usage"]["recorded_since"].is_string()
        })
        .await;
        bench.done(&["user", "add", "max", "--role", "manager"]);
        for _ in 0..tokens {
            let create =
                ["token", "create", "--user", "max", "--description", "x", "--preset", "telegraf-agent", "--json"];
            let made = bench.json(&create);
            let text = |key: &str| made[key].as_str().expect("text").to_owned();
            bench.tokens.push((text("id"), text("token")));
        }
        bench
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.program.run(arguments)
    }

    fn done(&self, arguments: &[&str]) -> Output {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_slice(&self.done(arguments).stdout).expect("JSON")
    }

    fn text(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.done(arguments).stdout).expect("text")
    }

    fn id(&self, token: usize) -> &str {
        &self.tokens[token].0
    }

    /// Agents beat with a token, and that is recorded.
    async fn used(&self, token: usize, agents: &[&str]) {
        let (id, raw) = &self.tokens[token];
        for agent in agents {
            let body = heartbeat(agent);
            eventually("the sidecar knows the token", || async {
                let fields = format!("Authorization: Bearer {raw}\r\nContent-Length: {}\r\n", body.len());
                let mut client = Client::connect(self.program.address()).await;
                client.send(request("POST", HEARTBEAT, &fields) + &body).await;
                client.reply().await.status() == 200
            })
            .await;
        }
        eventually("it is recorded", || async {
            self.json(&["token", "show", id, "--json"])["usage"]["agents_24h"] == agents.len()
        })
        .await;
    }

    fn ids(&self, arguments: &[&str]) -> Vec<String> {
        let list = self.json(arguments);
        list.as_array().expect("a list").iter().map(|token| token["id"].as_str().expect("an id").to_owned()).collect()
    }
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn lists_and_details_show_who_uses_a_token() {
    let bench = Bench::start(2).await;
    bench.used(0, &["web-1", "web-2"]).await;
    let shown = bench.text(&["token", "show", bench.id(0)]);
    for part in ["last used", "2 in the last 24 h, 2 in the last 30 d", "web-1", "web-2", "127.0.0.1", "1.39.0"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let shown = bench.text(&["token", "show", bench.id(0), "--agents", "1"]);
    assert!(shown.contains("web-1") != shown.contains("web-2") && shown.contains("and 1 more"), "{shown}");
    let unused = bench.text(&["token", "show", bench.id(1)]);
    assert!(unused.contains("last used    never"), "{unused}");
    let token = bench.json(&["token", "show", bench.id(0), "--json"]);
    assert!(token["last_used_at"].is_string() && token["usage"]["never_used"] == false, "{token}");
    let agent = &token["usage"]["agents"][0];
    assert_eq!((&agent["address"], &agent["version"]), (&"127.0.0.1".into(), &"1.39.0".into()));
    assert!(agent["id"].is_string() && agent["last_used_at"].is_string(), "{agent}");
    let list = bench.text(&["token", "list"]);
    let lines: Vec<_> = list.lines().collect();
    assert!(lines[0].contains("LAST USED") && lines[0].contains("AGENTS 24 H"), "{list}");
    assert!(lines[1].contains("never"), "the newest: {list}");
    assert!(lines[2].contains("s ago") || lines[2].contains("now"), "{list}");
    // The Owner's was made before a sidecar recorded anything.
    assert!(lines[3].contains("not known"), "{list}");
}

#[tokio::test]
async fn tokens_are_chosen_by_their_use() {
    let bench = Bench::start(3).await;
    bench.used(1, &["web-1"]).await;
    let [first, third] = [0, 2].map(|token| bench.id(token).to_owned());
    assert_eq!(bench.ids(&["token", "list", "--never-used", "--json"]), [third.clone(), first.clone()]);
    // The Owner's may have been used unseen.
    assert!(!bench.ids(&["token", "list", "--never-used", "--user", "owner", "--json"]).contains(&first));
    let old = bench.done(&["token", "list", "--unused-for", "90d", "--json"]);
    assert_eq!(String::from_utf8_lossy(&old.stdout).trim(), "[]");
    assert!(errors(&old).contains("recorded since"), "{}", errors(&old));
    let refused = bench.run(&["token", "revoke", "--never-used"]);
    assert!(!refused.status.success());
    let said = errors(&refused);
    assert!(said.contains("2 tokens; not used since") && said.contains("Revoke 2 tokens?"), "{said}");
    let revoked = bench.json(&["token", "revoke", "--never-used", "--user", "max", "--yes", "--json"]);
    assert_eq!(revoked.as_array().map(Vec::len), Some(2));
    assert_eq!(bench.ids(&["token", "list", "--never-used", "--state", "active", "--json"]), [""; 0]);
    let none = bench.done(&["token", "revoke", "--never-used", "--yes"]);
    assert!(errors(&none).contains("no matching tokens"), "revoked ones are not revoked again: {}", errors(&none));
    bench.done(&["token", "delete", "--never-used", "--yes"]);
    assert_eq!(bench.ids(&["token", "list", "--user", "max", "--json"]), [bench.id(1)]);
    assert!(bench.run(&["token", "delete"]).status.code() == Some(2), "nothing is everything");
    assert!(bench.run(&["token", "delete", bench.id(1), "--never-used"]).status.code() == Some(2));
}

#[tokio::test]
async fn what_depends_on_tokens_is_said_before_they_are_taken_away() {
    let bench = Bench::start(3).await;
    bench.used(0, &["web-1", "web-2"]).await;
    bench.used(1, &["web-2", "web-3"]).await;
    let [first, second] = [0, 1].map(|token| bench.id(token).to_owned());
    let used = "2 tokens; 3 agents used them in the last 24 h";
    for action in [
        &["token", "revoke", &first, &second][..],
        &["token", "delete", &first, &second],
        &["token", "reassign", &first, &second, "--to", "owner"],
    ] {
        let refused = bench.run(action);
        assert!(!refused.status.success(), "{action:?}");
        let said = errors(&refused);
        assert!(said.contains(used) && said.contains("web-3 (127.0.0.1 1.39.0)"), "{action:?}: {said}");
    }
    for (action, question) in [
        (&["user", "delete", "max"][..], "Delete max and 3 tokens?"),
        (&["user", "disable", "max"], "Disable max, and stop 3 tokens until"),
        (&["user", "set-role", "max", "viewer"], "Make max viewer, and revoke 3 tokens?"),
    ] {
        let said = errors(&bench.run(action));
        assert!(said.contains("3 tokens; 3 agents used them") && said.contains(question), "{action:?}: {said}");
    }
    // One that is named by its id: where nobody can be asked it goes through, with what depended on it.
    let revoked = bench.done(&["token", "delete", &first]);
    assert!(errors(&revoked).contains("1 token; 2 agents used it in the last 24 h"), "{}", errors(&revoked));
    let quiet = bench.done(&["token", "delete", &second, "--yes"]);
    assert!(!errors(&quiet).contains("agents"), "{}", errors(&quiet));
    // Nothing is left of who used them.
    let database = rusqlite::Connection::open(bench.program.database()).expect("opens");
    let left = database.query_row("SELECT count(*) FROM agents", [], |row| row.get::<_, i64>(0)).expect("counts");
    assert_eq!(left, 0);
}

#[tokio::test]
async fn use_moves_with_the_registry() {
    let bench = Bench::start(2).await;
    bench.used(0, &["web-1", "web-2"]).await;
    let before = bench.json(&["token", "show", bench.id(0), "--json"]);
    let redis = crate::harness::RedisServer::start();
    let file = bench.program.database().with_file_name("backup.jsonl");
    let restored = format!("sqlite:{}", bench.program.database().with_file_name("restored.db").display());
    let again = format!("sqlite:{}", bench.program.database().with_file_name("again.db").display());
    let program = |arguments: &[&str]| {
        let output = crate::harness::run(arguments, &[]);
        assert!(output.status.success(), "{arguments:?}: {}", errors(&output));
        output
    };
    let source = format!("sqlite:{}", bench.program.database().display());
    program(&["store", "copy", &source, &redis.url()]);
    program(&["store", "backup", file.to_str().expect("text"), "--store", &redis.url()]);
    program(&["store", "restore", file.to_str().expect("text"), "--store", &restored]);
    program(&["store", "copy", &restored, &again]);
    for store in [&redis.url(), &restored, &again] {
        let output = program(&["--store", store, "token", "show", bench.id(0), "--json"]);
        let after: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((&after["usage"], &after["last_used_at"]), (&before["usage"], &before["last_used_at"]), "{store}");
        let output = program(&["--store", store, "token", "list", "--never-used", "--json"]);
        let unused: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(unused[0]["id"], bench.id(1), "{store}");
    }
    // As lines: into a registry of its own, with its own Owner.
    let lines = bench.program.database().with_file_name("tokens.jsonl");
    std::fs::write(&lines, program(&["--store", &source, "token", "export", "--full"]).stdout).expect("writes");
    let moved = format!("sqlite:{}", bench.program.database().with_file_name("moved.db").display());
    program(&["--store", &moved, "init"]);
    program(&["--store", &moved, "user", "add", "max", "--role", "manager"]);
    program(&["--store", &moved, "token", "import", lines.to_str().expect("text")]);
    let output = program(&["--store", &moved, "token", "show", bench.id(0), "--json"]);
    let after: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let agents = |token: &Value| {
        let agents = token["usage"]["agents"].as_array().expect("agents").iter();
        agents.map(|agent| [&agent["id"], &agent["address"], &agent["version"]].map(Value::clone)).collect::<Vec<_>>()
    };
    assert_eq!(agents(&after), agents(&before));
    let at =
        |token: &Value| token["last_used_at"].as_str().expect("a time").parse::<jiff::Timestamp>().expect("a time");
    assert!(at(&after).duration_since(at(&before)).abs() < jiff::SignedDuration::from_secs(5), "{after}");
}
