//! In a fleet: by a Redis user of its own on a sidecar, or alone beside the Redis.

use tempfile::TempDir;
use tollgate::registry::Registry;
use tollgate::store::{Absent, RedisStore, Retention, Settings, StoreUrl};

use super::*;
use crate::harness::{RedisServer, Serving, eventually, operator, run};

const USERS: &str = include_str!("../../../deploy/redis/users.acl");

/// A Redis with the users of `deploy/redis`, and a registry in it.
struct Setup {
    server: RedisServer,
    owner: String,
    directory: TempDir,
}

impl Setup {
    async fn start() -> Self {
        let server = RedisServer::with_users(USERS);
        let settings: Settings =
            server.url_as("tollgate-registry:CHANGE-REGISTRY").parse::<StoreUrl>().expect("a URL").into();
        let store = RedisStore::open(&settings, Absent::Create, Retention::default()).await.expect("opens");
        let owner = Registry::new(std::sync::Arc::new(store)).init(&operator(), "olga").await.expect("initialises");
        let directory = tempfile::tempdir().expect("a directory");
        Self { server, owner: owner.token.reveal().to_owned(), directory }
    }

    fn sidecar(&self) -> String {
        self.server.url_as("tollgate-sidecar:CHANGE-SIDECAR")
    }

    /// A file with this password.
    fn password(&self, password: &str) -> String {
        let file = self.directory.path().join("password");
        std::fs::write(&file, password).expect("writes");
        file.to_str().expect("text").to_owned()
    }

    fn call(&self, method: &str, path: &str) -> Call {
        Call::new(method, path).by(&self.owner)
    }
}

/// A token is made and works, and is refused once it is revoked. (A registry that was just made gives no receipt yet.)
async fn manages(setup: &Setup, admin: SocketAddr, sidecar: &Serving) {
    let body = json!({ "description": "edge", "permissions": agent_permissions() });
    let made = setup.call("POST", "/api/v1/tokens?wait=1s").json(&body).send(admin).await.done();
    assert_eq!((&made["wait"]["applied"], &made["wait"]["missing"]), (&json!(1), &json!([])), "{made}");
    let raw = made["token"].as_str().expect("the value");
    // The upstream is not there, but the token is good.
    assert_eq!(sidecar.fetch(raw).await, 502);
    let path = format!("/api/v1/tokens/{}/revoke?wait=1s", made["id"].as_str().expect("an id"));
    let revoked = setup.call("POST", &path).send(admin).await.done();
    assert_eq!((&revoked["wait"]["applied"], &revoked["wait"]["missing"]), (&json!(1), &json!([])), "{revoked}");
    assert_eq!(sidecar.fetch(raw).await, 401);
}

#[tokio::test]
async fn a_sidecars_own_user_manages_nothing_and_says_so() {
    let setup = Setup::start().await;
    let mut sidecar = Serving::start(&setup.sidecar(), &[]).await;
    sidecar.says("ready").await;
    let answer = setup.call("GET", "/api/v1/tokens").send(sidecar.admin()).await;
    assert_eq!(answer.problem(), (501, "off"));
    assert!(answer.detail().contains("admin.store_username"), "{}", answer.detail());
}

#[tokio::test]
async fn a_sidecar_manages_by_a_user_of_the_consoles_own() {
    let setup = Setup::start().await;
    let password = setup.password("CHANGE-REGISTRY\n");
    let own = [
        ("TOLLGATE_ADMIN__STORE_USERNAME", "tollgate-registry"),
        ("TOLLGATE_ADMIN__STORE_PASSWORD_FILE", password.as_str()),
        ("TOLLGATE_UPSTREAM__API__URL", "http://127.0.0.1:1"),
    ];
    let mut sidecar = Serving::start(&setup.sidecar(), &own).await;
    sidecar.says("ready").await;
    manages(&setup, sidecar.admin(), &sidecar).await;
}

#[tokio::test]
async fn the_console_alone_manages_and_knows_nobody_once_it_is_stale() {
    let mut setup = Setup::start().await;
    let mut sidecar = Serving::start(&setup.sidecar(), &[("TOLLGATE_UPSTREAM__API__URL", "http://127.0.0.1:1")]).await;
    sidecar.says("ready").await;
    let url = setup.server.url_as("tollgate-registry:CHANGE-REGISTRY");
    let bounds = [
        ("TOLLGATE_STORE__URL", url.as_str()),
        ("TOLLGATE_FRESHNESS__PROBE_INTERVAL", "200ms"),
        ("TOLLGATE_FRESHNESS__MAX_STALENESS", "1s"),
    ];
    let mut console = Serving::console(&bounds).await;
    // It lives on, and says what it has read.
    let pid = rustix::process::Pid::from_raw(console.pid().cast_signed()).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("a signal");
    let read =
        "SIGHUP: the files of admin.tls were read again; every key of the console's configuration needs a restart";
    console.says(read).await;
    manages(&setup, console.admin(), &sidecar).await;
    // What is called here is used here, and nothing else tells of it.
    let own = setup.call("GET", "/api/v1/self").send(console.admin()).await.done();
    let own = format!("/api/v1/tokens/{}", own["token"].as_str().expect("an id"));
    soon("it is recorded", async || {
        setup.call("GET", &own).send(console.admin()).await.done()["last_used_at"].is_string()
    })
    .await;
    let status = setup.call("GET", "/api/v1/status").send(console.admin()).await.done();
    assert_eq!(status["sidecars"].as_array().map(Vec::len), Some(1), "the console is none: it lets nobody through");
    assert_eq!(console.readiness().await, 200);
    setup.server.kill();
    eventually("it is stale", async || setup.call("GET", "/api/v1/self").send(console.admin()).await.status == 503)
        .await;
    assert_eq!(console.readiness().await, 503);
}

#[tokio::test]
async fn the_console_alone_takes_no_tokens_in_the_clear() {
    let setup = Setup::start().await;
    let url = setup.server.url_as("tollgate-registry:CHANGE-REGISTRY");
    for address in ["0.0.0.0:0", "[::]:0"] {
        // On is what it is anyway: that is no word on whether the network may see the tokens.
        for console in [None, Some(("TOLLGATE_ADMIN__CONSOLE", "on"))] {
            let variables: Vec<_> = [("TOLLGATE_STORE__URL", url.as_str())].into_iter().chain(console).collect();
            let ended = run(&["console", "--admin-listen", address], &variables);
            let said = String::from_utf8(ended.stderr).expect("text");
            assert!(matches!(ended.status.code(), Some(1 | 2)), "{said}");
            assert!(said.contains("in the clear") && said.contains("admin.public_url"), "{said}");
        }
    }
    // Whoever says that a proxy is in front of it has thought of it.
    let variables = [
        ("TOLLGATE_STORE__URL", url.as_str()),
        ("TOLLGATE_ADMIN__ADDRESS", "0.0.0.0:0"),
        ("TOLLGATE_ADMIN__PUBLIC_URL", "https://ops.example"),
    ];
    drop(Serving::console_at(&variables).await);
}
