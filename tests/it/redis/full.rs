//! A Redis whose memory is full takes what takes away.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_takes_away_goes_through_while_redis_is_out_of_memory() {
    let server = RedisServer::start();
    let url = server.url();
    let run = async |arguments: &[&str]| tollgate(&url, 0, arguments).await;
    stdout(&run(&["init"]).await);
    for name in ["anna", "berta", "carla"] {
        stdout(&run(&["user", "add", name, "--role", "manager"]).await);
    }
    let mut ids = Vec::new();
    for name in ["anna", "anna", "berta", "berta", "carla"] {
        let create = ["token", "create", "--user", name, "--description", "x", "--json"];
        ids.push(id_of(&stdout(&run(&create).await)));
    }
    assert_eq!(server.cli(&["config", "set", "maxmemory", "1mb"]), "OK");
    let create = run(&["token", "create", "--user", "anna", "--description", "x"]).await;
    let said = String::from_utf8_lossy(&create.stderr).into_owned();
    assert!(create.status.code() == Some(1) && said.contains("OOM") && said.contains("nothing was changed"), "{said}");
    for command in [
        &["token", "revoke", &ids[0]][..],
        &["token", "delete", &ids[1], &ids[0], "--yes"],
        &["user", "disable", "anna"],
        &["user", "set-role", "berta", "viewer", "--yes"],
        &["user", "delete", "carla", "--yes"],
    ] {
        println!("{}", stdout(&run(command).await));
    }
    assert!(stdout(&run(&["token", "show", &ids[2]]).await).contains("revoked"));
    let enable = run(&["user", "enable", "anna"]).await;
    assert_eq!(enable.status.code(), Some(1), "that gives: {enable:?}");
}

/// Sidecars cannot report then, and are stale before long: whoever looks for the reason finds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_writes_are_refused_is_shown_by_status() {
    let server = RedisServer::start();
    let url = server.url();
    let run = async |arguments: &[&str]| stdout(&tollgate(&url, 0, arguments).await);
    run(&["init"]).await;
    assert!(!run(&["status"]).await.contains("writes"));
    let size = server.cli(&["dbsize"]);
    for (key, value, part) in [
        ("min-replicas-to-write", "1", "bring one back, or lower min-replicas-to-write (NOREPLICAS"),
        ("maxmemory", "1", "give it more memory (OOM"),
    ] {
        assert_eq!(server.cli(&["config", "set", key, value]), "OK");
        let status = run(&["status"]).await;
        let line = status.lines().find(|line| line.starts_with("writes ")).expect("is shown");
        assert!(line.contains("refused: ") && line.contains(part), "{line}");
        assert!(run(&["status", "--json"]).await.contains("\"writes_refused\":"), "{key}");
        assert_eq!(server.cli(&["config", "set", key, "0"]), "OK");
    }
    assert_eq!(server.cli(&["dbsize"]), size, "nothing was written to find out");
}
