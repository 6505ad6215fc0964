//! The pages that operators follow: every command on them as it stands there, in that order, with sidecars that serve all
//! the while.

use std::path::PathBuf;

use super::*;
use crate::harness::{RedisServer, Serving, Upstream, eventually};

const BACKUP: &str = include_str!("../../../docs/backup.md");
const MOVING: &str = include_str!("../../../docs/moving-to-redis.md");
const USERS: &str = include_str!("../../../deploy/redis/users.acl");

/// The host on which they are typed.
struct Host {
    folder: tempfile::TempDir,
    server: RedisServer,
    api: Upstream,
    /// Where commands find the registry that name no other, if anywhere.
    store: &'static str,
}

/// Commands of a page: its indented lines, those of a file that is written by one (`<<END`) with it.
fn commands(page: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut lines = page.lines().filter_map(|line| line.strip_prefix("    "));
    while let Some(line) = lines.next() {
        let mut command = line.to_owned();
        if line.ends_with("<<END") {
            for line in lines.by_ref() {
                command = format!("{command}\n{line}");
                if line == "END" {
                    break;
                }
            }
        }
        commands.push(command);
    }
    commands
}

/// The file in a page.
fn configuration(page: &str) -> &str {
    let (_, rest) = page.split_once("```toml\n").expect("a file");
    rest.split_once("```").expect("its end").0
}

impl Host {
    async fn new(server: RedisServer, store: &'static str) -> Self {
        let host = Self { folder: tempfile::tempdir().expect("a folder"), server, api: Upstream::start().await, store };
        for name in ["etc", "lib", "bin"] {
            std::fs::create_dir(host.path(name)).expect("makes");
        }
        // As a service manager: who it is to restart is written down.
        for (name, script) in [("sudo", "exec \"$@\""), ("systemctl", "echo \"$@\" >> restarted")] {
            let path = host.path("bin").join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("writes");
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("sets");
        }
        done(&tollgate(&host.embedded(), &["init"]));
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn embedded(&self) -> String {
        sqlite(&self.path("lib/tollgate.db"))
    }

    /// What a page says, with what is here in the place of what is elsewhere.
    fn here(&self, written: &str) -> String {
        written
            .replace("/etc/tollgate", text(&self.path("etc")))
            .replace("/var/lib/tollgate", text(&self.path("lib")))
            .replace("redis.example", &self.server.address().to_string())
    }

    /// Runs a command as it is pasted into a shell: what it printed.
    fn run(&self, command: &str) -> String {
        let program = Path::new(env!("CARGO_BIN_EXE_tollgate")).parent().expect("a directory");
        let path = format!("{}:{}:/usr/bin:/bin", self.path("bin").display(), program.display());
        let mut shell = std::process::Command::new("sh");
        shell.args(["-euc", &self.here(command)]).current_dir(self.folder.path()).env_clear();
        shell.env("PATH", path).env("LOGNAME", "tester").env("HOME", self.folder.path());
        if !self.store.is_empty() {
            shell.env("TOLLGATE_STORE__URL", self.here(self.store));
        }
        let output = shell.output().expect("runs");
        assert_eq!(output.status.code(), Some(0), "{command}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    async fn sidecar(&self, variables: &[(&str, &str)]) -> Serving {
        let api = format!("http://{}", self.api.address());
        let api = [("TOLLGATE_UPSTREAM__API__URL", api.as_str())];
        let mut sidecar = Serving::with(&[variables, &api].concat()).await;
        sidecar.says("ready").await;
        sidecar
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_are_made_and_restored_as_their_page_says() {
    let host = Host::new(RedisServer::start(), "sqlite:/var/lib/tollgate/tollgate.db").await;
    let (embedded, redis) = (host.embedded(), host.server.url());
    let ((kept, _), (revoked, id)) = (agent_token(&embedded), agent_token(&embedded));
    let mut sidecar = host.sidecar(&[("TOLLGATE_STORE__URL", &embedded)]).await;
    let commands = commands(BACKUP);
    let of_redis = commands.iter().position(|command| command.starts_with("redis-cli")).expect("of Redis");
    for (number, command) in commands.iter().enumerate() {
        if number == of_redis {
            // What was restored into the file goes on in Redis.
            let store = open(&embedded, Absent::Refuse).await;
            let recalled = async || store.recalled(None).await.is_ok_and(|recalled| recalled.total == 1);
            eventually("the token is recalled", recalled).await;
            done(&run(&["store", "copy", &embedded, &redis], &[]));
            sidecar = host.sidecar(&[("TOLLGATE_STORE__URL", &redis)]).await;
        }
        host.run(command);
        if number == 0 {
            done(&tollgate(&embedded, &["token", "revoke", &id, "--wait", "--timeout", "30s"]));
        }
        assert_eq!((sidecar.fetch(&kept).await, sidecar.fetch(&revoked).await), (200, 401), "{command}");
    }
    for url in [&sqlite(&host.path("trial.db")), &redis] {
        assert_eq!(open(url, Absent::Refuse).await.position().await.expect("reads").revision.0, 4, "{url}");
    }
    assert_eq!(std::fs::read_dir(host.path("backups")).expect("reads").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_moves_to_redis_and_back_as_its_page_says() {
    let host = Host::new(RedisServer::with_users(USERS), "").await;
    let embedded = host.embedded();
    let ((kept, _), (revoked, id), (late, late_id)) =
        (agent_token(&embedded), agent_token(&embedded), agent_token(&embedded));
    done(&tollgate(&embedded, &["token", "revoke", &id]));
    for (name, password) in [("registry-password", "CHANGE-REGISTRY"), ("redis-password", "CHANGE-SIDECAR")] {
        std::fs::write(host.path("etc").join(name), password).expect("writes");
    }
    let configured = host.path("etc/tollgate.toml");
    std::fs::write(&configured, format!("[store]\nurl = \"{embedded}\"\n")).expect("writes");
    let configuration_file = ("TOLLGATE_CONFIG", text(&configured));
    let mut sidecars = [host.sidecar(&[configuration_file]).await, host.sidecar(&[configuration_file]).await];
    // Two on one host have a file each.
    let second = host.path("lib/second.snapshot");
    let variables =
        [&[configuration_file][..], &[configuration_file, ("TOLLGATE_STORE__SNAPSHOT_FILE", text(&second))]];
    let mut is_late_revoked = false;
    for command in commands(MOVING) {
        if command.contains("systemctl") {
            std::fs::write(&configured, host.here(configuration(MOVING))).expect("writes");
        }
        let printed = host.run(&command.replace(" ID", &format!(" {late_id}")));
        if command.contains("systemctl") {
            assert_eq!(std::fs::read_to_string(host.path("restarted")).expect("reads"), "restart tollgate\n");
            for (number, variables) in variables.iter().enumerate() {
                sidecars[number] = host.sidecar(variables).await;
                for sidecar in &sidecars {
                    assert_eq!((sidecar.fetch(&kept).await, sidecar.fetch(&revoked).await), (200, 401));
                }
            }
        }
        if command.ends_with("status") {
            let (_, sidecars) = printed.split_once("\n\n").expect("a table");
            assert_eq!(sidecars.lines().count(), 3, "a header and two: {printed}");
        }
        is_late_revoked |= command.contains("registry.toml token revoke");
        for sidecar in &sidecars {
            let answers =
                async || [sidecar.fetch(&kept).await, sidecar.fetch(&revoked).await, sidecar.fetch(&late).await];
            let expected = [200, 401, if is_late_revoked { 401 } else { 200 }];
            eventually(&command, async || answers().await == expected).await;
        }
    }
    // The old one is frozen and the new one too, since both were left so on the page.
    let back = open(&sqlite(&host.path("lib/back.db")), Absent::Refuse).await;
    let old = open(&embedded, Absent::Refuse).await;
    assert!(
        old.frozen().await.expect("reads").is_some_and(|reason| reason.starts_with("moved to Redis, by cli:tester"))
    );
    assert_eq!(back.frozen().await.expect("reads"), None);
    for id in [&id, &late_id] {
        for store in [&old, &back] {
            let found = store.tokens_by_id(&[id.parse().expect("an id")]).await.expect("reads");
            assert!(found[0].as_ref().is_some_and(|token| !token.record.is_active()), "{id}");
        }
    }
}
