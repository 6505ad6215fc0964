//! The files of `deploy/redis` for Sentinel and Cluster, as they are but for addresses: the registry is there again after
//! restarts, orderly ones and crashes, and after a failover.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::deploy::installed;
use super::restart::{as_user, assert_closed_to_strangers, contents, end_orderly, fill};
use super::users::{REGISTRY, SIDECAR};
use super::*;
use crate::conformance::commit;
use crate::harness::cluster::bus_port;
use crate::harness::sentinel::Sentinel;

/// A server with files of its own, which Redis may rewrite.
struct Installed {
    server: RedisServer,
    _files: TempDir,
}

impl Installed {
    /// With this one of the shipped files, in which some lines are others, and `users` besides those that are shipped.
    fn start(file: &str, edits: &[(&str, &str)], users: &str, arguments: &[&str]) -> Self {
        let (files, path) = installed();
        edit(&path(file), |text| edits.iter().fold(text, |text, (from, to)| text.replace(from, to)));
        edit(&path("users.acl"), |text| text + users);
        Self { server: RedisServer::from_file(&path(file), arguments), _files: files }
    }
}

fn edit(file: &PathBuf, change: impl FnOnce(String) -> String) {
    let text = std::fs::read_to_string(file).expect("reads");
    std::fs::write(file, change(text)).expect("writes");
}

/// As [`crate::harness::eventually`], for what takes Redis its own time.
async fn at_last(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !holds().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What the store tells of itself, as soon as it can be opened.
async fn read(settings: &Settings) -> String {
    at_last("the registry is there", async || match open(settings, Absent::Refuse).await {
        Ok(store) => store.probe().await.is_ok(),
        Err(_) => false,
    })
    .await;
    contents(&*open(settings, Absent::Refuse).await.expect("opens")).await
}

/// Both end, in good order or not, and start again.
async fn restart(servers: &mut [Installed; 2], orderly: bool) {
    if orderly {
        // The replica first: a primary that ends waits for it.
        let (_, is_replica) =
            (0, |server: &Installed| as_user(&server.server, SIDECAR, &["role"]).starts_with("slave"));
        let first = usize::from(is_replica(&servers[1]));
        for index in [first, 1 - first] {
            end_orderly(&servers[index].server).await;
        }
    }
    servers.iter_mut().for_each(|server| server.server.kill());
    servers.iter_mut().for_each(|server| server.server.restart());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_and_its_replica_keep_the_registry_through_restarts_and_a_failover() {
    let primary = Installed::start("replica.conf", &[("replicaof 10.0.0.1 6379", "")], "", &[]);
    let port = primary.server.port().to_string();
    let follow = format!("replicaof 127.0.0.1 {port}");
    let replica = Installed::start("replica.conf", &[("replicaof 10.0.0.1 6379", &follow)], "", &[]);
    let mut servers = [primary, replica];
    at_last("the replica follows", async || as_user(&servers[1].server, SIDECAR, &["role"]).contains("connected"))
        .await;
    let sentinels = [0, 1, 2].map(|_| {
        Sentinel::configured(|own| {
            let text = std::fs::read_to_string(installed().1("sentinel.conf")).expect("reads");
            let text = text.replace("port 26379", &format!("port {own}")).replace("bind 0.0.0.0", "bind 127.0.0.1");
            text.replace("10.0.0.1 6379", &format!("127.0.0.1 {port}"))
        })
    });
    let ask = |sentinel: &Sentinel, question: &[&str]| {
        sentinel.cli(&[&["--no-auth-warning", "-a", "CHANGE-SENTINEL", "SENTINEL"], question].concat())
    };
    for sentinel in &sentinels {
        at_last("a Sentinel knows all", async || {
            let state = ask(sentinel, &["MASTER", "tollgate"]);
            state.contains("num-other-sentinels\n2") && state.contains("num-slaves\n1")
        })
        .await;
    }
    let password = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(password.path(), "CHANGE-SENTINEL").expect("writes");
    let addresses = sentinels.iter().map(|sentinel| sentinel.address().to_string()).collect::<Vec<_>>().join(",");
    let mut settings = settings(&format!("redis-sentinel://{REGISTRY}@{addresses}/tollgate"));
    (settings.sentinel_password_file, settings.quorum_replicas) = (Some(password.path().to_owned()), 1);

    let registry = open(&settings, Absent::Create).await.expect("opens");
    fill(&*registry).await;
    let before = contents(&*registry).await;
    for orderly in [true, false] {
        restart(&mut servers, orderly).await;
        assert_eq!(read(&settings).await, before, "orderly: {orderly}");
        servers.iter().for_each(|server| assert_closed_to_strangers(&server.server));
    }
    servers[0].server.kill();
    let new = servers[1].server.port().to_string();
    at_last("the replica is the primary", async || {
        let named = sentinels.iter().map(|sentinel| ask(sentinel, &["GET-MASTER-ADDR-BY-NAME", "tollgate"]));
        named.into_iter().all(|named| named.lines().nth(1) == Some(&new))
    })
    .await;
    servers[0].server.restart();
    at_last("the old primary follows", async || as_user(&servers[0].server, SIDECAR, &["role"]).contains("connected"))
        .await;
    assert_eq!(read(&settings).await, before);
    commit(&*open(&settings, Absent::Refuse).await.expect("opens"), user_batch("clara")).await;
    let before = read(&settings).await;
    restart(&mut servers, false).await;
    assert_eq!(read(&settings).await, before, "after the failover");
    for server in &servers {
        assert!(!server.server.log().contains("NOPERM"), "{}", server.server.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_a_cluster_keep_the_registry_through_restarts() {
    let administrator = "user administrator on >admin ~* &* +@all\n";
    let node = |_| Installed::start("cluster.conf", &[], administrator, &["--cluster-port", &bus_port()]);
    let mut nodes = [0, 1].map(node);
    let [owner, replica] = [0, 1].map(|index: usize| {
        let server = &nodes[index].server;
        move |command: &[&str]| as_user(server, "administrator:admin", command)
    });
    assert_eq!(owner(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]), "OK");
    let bus = owner(&["CONFIG", "GET", "cluster-port"]).lines().nth(1).expect("a port").to_owned();
    assert_eq!(replica(&["CLUSTER", "MEET", "127.0.0.1", &nodes[0].server.port().to_string(), &bus]), "OK");
    let id = owner(&["CLUSTER", "MYID"]);
    at_last("the replica knows its master", async || replica(&["CLUSTER", "REPLICATE", &id]) == "OK").await;
    at_last("the replica follows", async || replica(&["ROLE"]).contains("connected")).await;
    at_last("the cluster is whole", async || owner(&["CLUSTER", "INFO"]).contains("cluster_state:ok")).await;
    let mut settings = settings(&format!("redis-cluster://{REGISTRY}@{}", nodes[0].server.address()));
    settings.quorum_replicas = 1;

    let registry = open(&settings, Absent::Create).await.expect("opens");
    fill(&*registry).await;
    let before = contents(&*registry).await;
    for orderly in [true, false] {
        restart(&mut nodes, orderly).await;
        assert_eq!(read(&settings).await, before, "orderly: {orderly}");
        assert_closed_to_strangers(&nodes[0].server);
        for node in &nodes {
            assert!(!node.server.log().contains("NOPERM"), "{}", node.server.log());
        }
    }
}
