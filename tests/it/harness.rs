//! A sidecar as its users meet it: the real [`Sidecar`] on a free port, the real registry on a store of its own, and
//! upstreams that follow a script. Every reply that a [`Client`] reads is checked for what must hold for all of them.
//!
//! Nothing here waits for a time to pass: it waits for a condition, and gives up after [`PATIENCE`], which only a failure
//! ever uses up.

pub(crate) mod browser;
mod client;
pub(crate) mod cluster;
mod faulty;
pub(crate) mod fleet;
mod haproxy;
mod http2;
mod nginx;
mod program;
mod reply;
pub(crate) mod sentinel;
mod serving;
mod sockets;
mod upstream;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tollgate::app::Sidecar;
use tollgate::config::{self, Config, Overrides, Source};
use tollgate::registry::{Created, NewToken, Registry, Requested};
use tollgate::store::{Batch, Edit, Retention, Revision, Settings, SqliteStore, Store, StoreUrl};
use tollgate::token::{PermissionSet, Role, TokenId};

pub(crate) use client::Client;
pub(crate) use cluster::RedisCluster;
pub(crate) use faulty::FaultyStore;
pub(crate) use fleet::Fleet;
pub(crate) use haproxy::HaProxy;
pub(crate) use http2::{Http2Client, http2_cut, http2_request, http2_with};
pub(crate) use nginx::Nginx;
pub(crate) use program::Program;
pub(crate) use reply::Reply;
pub(crate) use sentinel::SentinelSet;
pub(crate) use serving::{Serving, run};
pub(crate) use sockets::{established_to, leave, reset};
pub(crate) use tollgate_harness::oracle::operator;
pub(crate) use tollgate_harness::redis::RedisServer;
pub(crate) use tollgate_harness::relay::{Relay, Traffic};
pub(crate) use tollgate_harness::{PATIENCE, eventually, within};
pub(crate) use upstream::{Recorded, Script, Seen, Upstream, ok, refusing, scripted};

/// A path that needs `configs:read`.
pub(crate) const CONFIG: &str = "/api/configs/1/toml";

/// A path that needs `heartbeat:write`.
pub(crate) const HEARTBEAT: &str = "/agents/heartbeat";

/// The beginning of a long reply.
pub(crate) const DOWNLOAD: &str = "HTTP/1.1 200 OK\r\nServer: scripted\r\nContent-Length: 1000000\r\n\r\nbeginning";

/// A running sidecar with all that is around it. Everything ends when it is dropped.
pub(crate) struct Site {
    pub(crate) sidecar: Sidecar,
    pub(crate) registry: Registry,
    /// The sidecar's store; the registry uses the real one behind it.
    pub(crate) store: Arc<FaultyStore>,
    /// Behind `/api/...`.
    pub(crate) api: Upstream,
    /// Behind `POST /agents/heartbeat`.
    pub(crate) heartbeat: Upstream,
    /// The Owner's token: everything.
    pub(crate) owner: Token,
    /// A token with the preset of an agent: `configs:read`, `heartbeat:write`.
    pub(crate) agent: Token,
    config: Config,
    directory: TempDir,
}

/// A token that somebody holds.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) id: TokenId,
    pub(crate) raw: String,
}

impl From<Created> for Token {
    fn from(created: Created) -> Self {
        Self { id: created.record.id, raw: created.token.reveal().to_owned() }
    }
}

/// Changes a configuration, knowing the site's directory.
type Adjust = Box<dyn FnOnce(&mut Config, &Path)>;

/// What a [`Site`] is started with.
#[derive(Default)]
pub(crate) struct Builder {
    environment: Vec<(OsString, OsString)>,
    adjust: Vec<Adjust>,
    api_url: Option<String>,
    store_is_down: bool,
}

impl Builder {
    /// A key of the configuration by its variable, without `TOLLGATE_`: `("FRESHNESS__MAX_STALENESS", "1s")`.
    pub(crate) fn setting(mut self, key: &str, value: &str) -> Self {
        self.environment.push((format!("TOLLGATE_{key}").into(), value.into()));
        self
    }

    /// The API server is somewhere else than at [`Site::api`].
    pub(crate) fn api_at(mut self, url: impl Into<String>) -> Self {
        self.api_url = Some(url.into());
        self
    }

    /// Changes the configuration after it was read: also to what the file would not accept.
    pub(crate) fn config(self, adjust: impl FnOnce(&mut Config) + 'static) -> Self {
        self.config_in(|config, _| adjust(config))
    }

    /// As [`Builder::config`], with the site's own directory for files.
    pub(crate) fn config_in(mut self, adjust: impl FnOnce(&mut Config, &Path) + 'static) -> Self {
        self.adjust.push(Box::new(adjust));
        self
    }

    /// The sidecar finds its store broken, and does not become ready.
    pub(crate) fn store_is_down(mut self) -> Self {
        self.store_is_down = true;
        self
    }

    /// Starts it all and, unless the store is down, waits until it is ready.
    pub(crate) async fn start(self) -> Site {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("tollgate.db");
        let real: Arc<dyn Store> = Arc::new(SqliteStore::open(&path, Retention::default()).await.expect("opens"));
        let registry = Registry::new(Arc::clone(&real));
        let owner = registry.init(&operator(), "olga").await.expect("initialises").into();
        let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
        let overrides = Overrides {
            listen: vec!["127.0.0.1:0".to_owned()],
            api_upstream: Some(self.api_url.unwrap_or_else(|| format!("http://{}", api.address()))),
            heartbeat_upstream: Some(format!("http://{}", heartbeat.address())),
            store: Some(format!("sqlite:{}", path.display())),
            admin_listen: Some("127.0.0.1:0".to_owned()),
        };
        let source = Source { file: None, environment: self.environment };
        let mut config = config::load(&source, &overrides).expect("a good configuration");
        // One worker, so that the next request finds the upstream connection of the one before.
        config.workers = std::num::NonZeroUsize::MIN;
        config.timeouts.drain = Duration::from_secs(1);
        self.adjust.into_iter().for_each(|adjust| adjust(&mut config, directory.path()));
        let store = Arc::new(FaultyStore::new(real));
        store.set_broken(self.store_is_down);
        let shared: Arc<dyn Store> = Arc::clone(&store) as Arc<dyn Store>;
        let sidecar = Sidecar::start(config.clone(), shared).await.expect("starts");
        let agent = create(&registry, "olga", PermissionSet::TELEGRAF_AGENT).await;
        let site = Site { sidecar, registry, store, api, heartbeat, owner, agent, config, directory };
        if !self.store_is_down {
            site.replica_is_current().await;
        }
        site
    }
}

impl Site {
    /// With the default configuration, ready.
    pub(crate) async fn start() -> Self {
        Self::builder().start().await
    }

    pub(crate) fn builder() -> Builder {
        Builder::default()
    }

    /// Stops the sidecar and starts another one with the same configuration, on other ports. Does not wait until it is
    /// ready.
    pub(crate) async fn restart(self) -> Self {
        self.restart_after(|| ()).await
    }

    /// As [`Site::restart`], with something done between the two.
    pub(crate) async fn restart_after(self, meanwhile: impl FnOnce()) -> Self {
        within("the stop", self.sidecar.stop()).await;
        meanwhile();
        let store: Arc<dyn Store> = Arc::clone(&self.store) as Arc<dyn Store>;
        let sidecar = Sidecar::start(self.config.clone(), store).await.expect("starts");
        Self { sidecar, ..self }
    }

    /// What the sidecar was started with.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Where agents connect.
    pub(crate) fn address(&self) -> SocketAddr {
        address_of(&self.sidecar)
    }

    /// The site's own files.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A new connection.
    pub(crate) async fn connect(&self) -> Client {
        Client::connect(self.address()).await
    }

    /// One request on a connection of its own, and its reply.
    pub(crate) async fn send(&self, request: impl AsRef<[u8]>) -> Reply {
        let mut client = self.connect().await;
        let to_head = request.as_ref().starts_with(b"HEAD ");
        client.send(request).await;
        if to_head { client.reply_to_head().await } else { client.reply().await }
    }

    /// `GET` with a token, on a connection of its own.
    pub(crate) async fn get(&self, path: &str, token: &Token) -> Reply {
        self.send(get(path, token)).await
    }

    /// A heartbeat with a token, on a connection of its own.
    pub(crate) async fn beat(&self, token: &Token) -> Reply {
        self.send(post(HEARTBEAT, token, b"{}")).await
    }

    /// Sends the API server a request that is answered when and what the test says, and waits until it is there.
    pub(crate) async fn occupy(&self) -> (Client, mpsc::Sender<Vec<u8>>) {
        let before = self.api.requests().len();
        let pieces = self.api.next_in_pieces();
        let mut client = self.connect().await;
        client.send(get(CONFIG, &self.agent)).await;
        self.api.until("the request", |seen| seen.requests.len() == before + 1).await;
        (client, pieces)
    }

    /// Begins a download that the upstream does not end by itself.
    pub(crate) async fn download(&self, request: impl AsRef<[u8]>) -> (Client, mpsc::Sender<Vec<u8>>) {
        let pieces = self.api.next_in_pieces();
        pieces.send(DOWNLOAD.into()).await.expect("takes it");
        let mut client = self.connect().await;
        client.send(request).await;
        assert_eq!(client.head().await.expect("a head").status, 200);
        assert_eq!(client.bytes(9).await, b"beginning");
        (client, pieces)
    }

    /// A token of this user with these permissions, known to the sidecar.
    pub(crate) async fn token(&self, user: &str, permissions: &[&str]) -> Token {
        let permissions = permissions.iter().map(|name| name.parse().expect("a permission")).collect();
        let token = create(&self.registry, user, permissions).await;
        self.replica_is_current().await;
        token
    }

    /// A new user.
    pub(crate) async fn user(&self, name: &str, role: Role) {
        self.registry.add_user(&operator(), name, role).await.expect("adds");
    }

    /// Makes a token expire.
    pub(crate) async fn expire(&self, token: &Token) {
        self.expire_ago(token, Duration::from_secs(1)).await;
    }

    /// Makes a token one that expired so long ago, which the registry would not: it refuses what is past already.
    pub(crate) async fn expire_ago(&self, token: &Token, ago: Duration) {
        let store = self.registry.store();
        let before = store.tokens_by_id(&[token.id]).await.expect("reads").remove(0).expect("exists");
        let mut after = before.record.clone();
        after.expires_at = Some(Timestamp::now() - ago);
        let batch = Batch { tokens: vec![Edit::Update { before, after }], ..Batch::default() };
        let revision = store.commit(batch).await.expect("commits").position.revision;
        self.replica_reaches(revision).await;
    }

    /// Revokes a token and returns the revision that says so.
    pub(crate) async fn revoke(&self, token: &Token) -> Revision {
        self.registry.revoke(&operator(), &[token.id], true).await.expect("revokes");
        self.revision().await
    }

    /// The store's revision.
    pub(crate) async fn revision(&self) -> Revision {
        self.registry.store().position().await.expect("reads").revision
    }

    /// Waits until requests are decided by at least this revision.
    pub(crate) async fn replica_reaches(&self, revision: Revision) {
        let replica = self.sidecar.replica();
        eventually(&format!("the replica at revision {revision}"), || async {
            replica.status().position.is_some_and(|position| position.revision >= revision)
        })
        .await;
    }

    /// Waits until requests are decided by what the store holds now.
    pub(crate) async fn replica_is_current(&self) {
        within("the sidecar is ready", self.sidecar.ready()).await;
        self.replica_reaches(self.revision().await).await;
    }

    /// What the sidecar says at `/metrics`.
    pub(crate) async fn metrics(&self) -> String {
        let mut client = Client::connect(self.sidecar.admin()).await;
        client.send("GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").await;
        let said = String::from_utf8(client.rest().await).expect("text");
        assert!(said.starts_with("HTTP/1.1 200") && said.contains("content-type: text/plain; version=0.0.4"), "{said}");
        said
    }

    /// The value of a metric, which is named with its labels.
    pub(crate) async fn metric(&self, name: &str) -> String {
        let said = self.metrics().await;
        let value = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{name} is in {said}")).to_owned()
    }

    /// Requests that reached either upstream.
    pub(crate) fn forwarded(&self) -> usize {
        self.api.requests().len() + self.heartbeat.requests().len()
    }
}

async fn create(registry: &Registry, user: &str, permissions: PermissionSet) -> Token {
    let new = NewToken {
        user: user.to_owned(),
        description: "edge".to_owned(),
        permissions: Requested::Permissions(permissions),
        expires_at: None,
    };
    registry.create_token(&operator(), new).await.expect("creates").into()
}

/// Where a sidecar's first listener is.
pub(crate) fn address_of(sidecar: &Sidecar) -> SocketAddr {
    sidecar.listeners()[0].tcp().expect("an address of IP")
}

/// The store at this URL, as it is without further keys.
pub(crate) fn settings(url: &str) -> Settings {
    url.parse::<StoreUrl>().expect("a URL").into()
}

/// An error with its causes, as the operator sees it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// A `GET` without a body.
pub(crate) fn get(path: &str, token: &Token) -> String {
    request("GET", path, &format!("Authorization: Bearer {}\r\n", token.raw))
}

/// A request head without a body. `fields` are whole lines.
pub(crate) fn request(method: &str, path: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: tollgate\r\n{fields}\r\n")
}

/// A `POST` whose body has a known length.
pub(crate) fn post(path: &str, token: &Token, body: &[u8]) -> Vec<u8> {
    let fields = format!("Authorization: Bearer {}\r\nContent-Length: {}\r\n", token.raw, body.len());
    [request("POST", path, &fields).as_bytes(), body].concat()
}
