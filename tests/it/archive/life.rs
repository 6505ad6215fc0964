//! A restored registry is another life of it: what was revoked since the backup stays refused where that was seen, and is
//! revoked in the registry again.

use super::*;
use crate::harness::{RedisServer, Serving, Upstream, eventually};

/// `settled` has the store give receipts; `restore` has the restored registry take the place of the one before.
async fn revoked_since_the_backup(url: &str, settled: impl FnOnce(), restore: impl AsyncFnOnce(&Path)) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("registry.backup");
    done(&tollgate(url, &["init"]));
    let ((kept, _), (revoked, id), (deleted, deleted_id)) = (agent_token(url), agent_token(url), agent_token(url));
    let api = Upstream::start().await;
    let api = format!("http://{}", api.address());
    let mut sidecar = Serving::start(url, &[("TOLLGATE_UPSTREAM__API__URL", api.as_str())]).await;
    sidecar.says("ready").await;
    assert_eq!((sidecar.fetch(&kept).await, sidecar.fetch(&revoked).await), (200, 200));
    done(&tollgate(url, &["store", "backup", text(&file)]));
    settled();
    done(&tollgate(url, &["token", "revoke", &id, "--wait", "--timeout", "30s"]));
    done(&tollgate(url, &["token", "delete", &deleted_id, "--wait", "--timeout", "30s"]));
    assert_eq!((sidecar.fetch(&revoked).await, sidecar.fetch(&deleted).await), (401, 401));

    restore(&file).await;
    let store = open(url, Absent::Refuse).await;
    eventually("both are recalled", async || store.recalled(None).await.is_ok_and(|recalled| recalled.total == 2))
        .await;
    let answers = [sidecar.fetch(&kept).await, sidecar.fetch(&revoked).await, sidecar.fetch(&deleted).await];
    assert_eq!(answers, [200, 401, 401]);
    // A sidecar that did not see it.
    let mut new = Serving::start(url, &[("TOLLGATE_UPSTREAM__API__URL", api.as_str())]).await;
    new.says("ready").await;
    assert_eq!([new.fetch(&kept).await, new.fetch(&revoked).await, new.fetch(&deleted).await], [200, 401, 401]);
    // The next command writes them back.
    done(&tollgate(url, &["user", "add", "anna", "--role", "manager"]));
    assert_eq!(store.recalled(None).await.expect("reads").total, 0);
    for id in [&id, &deleted_id] {
        assert!(done(&tollgate(url, &["token", "show", id])).contains("revoked"));
    }
    let answers = [sidecar.fetch(&kept).await, sidecar.fetch(&revoked).await, new.fetch(&deleted).await];
    assert_eq!(answers, [200, 401, 401]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_restored_database_what_was_revoked_since_stays_refused_and_is_written_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tollgate.db");
    revoked_since_the_backup(
        &sqlite(&path),
        || {},
        async |file: &Path| {
            // With its log, which would be read into the new one.
            for name in ["tollgate.db", "tollgate.db-wal", "tollgate.db-shm"] {
                std::fs::rename(folder.path().join(name), folder.path().join(format!("old-{name}"))).expect("renames");
            }
            done(&tollgate(&sqlite(&path), &["store", "restore", text(file)]));
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_restored_namespace_what_was_revoked_since_stays_refused_and_is_written_back() {
    let server = RedisServer::start();
    let url = server.url();
    revoked_since_the_backup(
        &url,
        || server.has_all_reports(),
        async |file: &Path| {
            assert_eq!(server.cli(&["flushall"]), "OK");
            done(&tollgate(&url, &["store", "restore", text(file)]));
        },
    )
    .await;
}

/// What is known of a registry is not taken for knowledge of another one, which is what another place is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_what_is_restored_elsewhere_no_sidecar_knows_what_was_revoked() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let [one, two] = ["one.db", "two.db"].map(|name| sqlite(&path(name)));
    done(&tollgate(&one, &["init"]));
    let (revoked, id) = agent_token(&one);
    let api = Upstream::start().await;
    let (api, snapshot) = (format!("http://{}", api.address()), path("snapshot"));
    let variables = [("TOLLGATE_UPSTREAM__API__URL", api.as_str()), ("TOLLGATE_STORE__SNAPSHOT_FILE", text(&snapshot))];
    let mut sidecar = Serving::start(&one, &variables).await;
    sidecar.says("ready").await;
    done(&tollgate(&one, &["store", "backup", text(&path("backup"))]));
    done(&tollgate(&one, &["token", "revoke", &id, "--wait", "--timeout", "30s"]));
    drop(sidecar);
    done(&tollgate(&two, &["store", "restore", text(&path("backup"))]));
    // As docs/backup.md says: before a sidecar follows it.
    let shown = done(&tollgate(&one, &["token", "list", "--state", "revoked", "--json"]));
    assert!(shown.contains(&id), "{shown}");
    done(&tollgate(&two, &["token", "revoke", &id]));
    let mut sidecar = Serving::start(&two, &variables).await;
    sidecar.says("ready").await;
    assert_eq!(sidecar.fetch(&revoked).await, 401);
}

/// A user has no tombstone: who was disabled since is held to that where it was seen, and nowhere else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_again_what_the_backup_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, file) = (folder.path().join("tollgate.db"), folder.path().join("backup"));
    let url = sqlite(&path);
    done(&tollgate(&url, &["init"]));
    done(&tollgate(&url, &["user", "add", "max", "--role", "manager"]));
    let create = ["token", "create", "--user", "max", "--description", "x", "--preset", "telegraf-agent"];
    let token = done(&tollgate(&url, &create)).trim().to_owned();
    let api = Upstream::start().await;
    let api = format!("http://{}", api.address());
    let variables = [("TOLLGATE_UPSTREAM__API__URL", api.as_str())];
    let mut saw = Serving::start(&url, &variables).await;
    saw.says("ready").await;
    done(&tollgate(&url, &["store", "backup", text(&file)]));
    done(&tollgate(&url, &["user", "disable", "max", "--yes", "--wait", "--timeout", "30s"]));
    assert_eq!(saw.fetch(&token).await, 401);
    for name in ["tollgate.db", "tollgate.db-wal", "tollgate.db-shm"] {
        std::fs::rename(folder.path().join(name), folder.path().join(format!("old-{name}"))).expect("renames");
    }
    done(&tollgate(&url, &["store", "restore", text(&file)]));
    let mut new = Serving::start(&url, &variables).await;
    new.says("ready").await;
    let (made, _) = agent_token(&url);
    eventually("it follows the new one", async || saw.fetch(&made).await == 200).await;
    assert_eq!([saw.fetch(&token).await, new.fetch(&token).await], [401, 200]);
    done(&tollgate(&url, &["user", "disable", "max", "--yes"]));
    eventually("it is said again", async || new.fetch(&token).await == 401).await;
    assert_eq!(saw.fetch(&token).await, 401);
}
