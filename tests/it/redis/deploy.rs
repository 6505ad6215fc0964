//! The configurations in `deploy/redis` are ones that Redis takes, and that a fleet can use.

use std::path::{Path, PathBuf};

use super::{Absent, open, settings};
use crate::harness::RedisServer;

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/redis");

/// The files, in a folder where those that they name are.
pub(super) fn installed() -> (tempfile::TempDir, impl Fn(&str) -> PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_owned();
    for (name, installed) in [
        ("redis.conf", "tollgate.conf"),
        ("replica.conf", "replica.conf"),
        ("cluster.conf", "cluster.conf"),
        ("sentinel.conf", "sentinel.conf"),
        ("users.acl", "users.acl"),
    ] {
        let text = std::fs::read_to_string(Path::new(DEPLOY).join(name)).expect("reads");
        let text = text.replace("/etc/redis", path.to_str().expect("a plain path"));
        // Where it listens, and its data, are the test's own.
        let text = text.replace("dir /var/lib/redis", "").replace("port 6379\n", "");
        std::fs::write(path.join(installed), text).expect("writes");
    }
    (directory, move |name| path.join(name))
}

#[tokio::test]
async fn one_server_holds_a_registry_for_its_two_users() {
    let (_directory, file) = installed();
    let server = RedisServer::with(&["--include", file("tollgate.conf").to_str().expect("plain")]);
    let registry = server.url_as("tollgate-registry:CHANGE-REGISTRY");
    open(&settings(&registry), Absent::Create).await.expect("makes a registry");
    let sidecar =
        open(&settings(&server.url_as("tollgate-sidecar:CHANGE-SIDECAR")), Absent::Await).await.expect("opens");
    sidecar.probe().await.expect("proves");
}

#[tokio::test]
async fn a_replica_and_a_node_of_a_cluster_start() {
    let (_directory, file) = installed();
    for name in ["replica.conf", "cluster.conf"] {
        let server = RedisServer::with(&["--include", file(name).to_str().expect("plain")]);
        assert!(server.log().contains("Ready to accept connections"), "{name}: {}", server.log());
    }
}
