//! Stores as the version before wrote them, `earlier/schema-2.sql` (SQLite) and `earlier/schema-1.redis`, and the way of a
//! fleet from that version to this one: the sidecars first, then the commands.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tollgate::registry::Registry;
use tollgate::replica::{Replica, driver};
use tollgate::store::{Absent, Batch, CommitError, CommitId, Edit, Head, Position, Revision, SCHEMA, Store, Versioned};
use tollgate::token::{Digest, PermissionSet, Role, TokenRecord, UserStatus};

use crate::conformance::log::entries as entries_after;
use crate::conformance::{Held, revoked, tokens};
use crate::harness::{RedisServer, eventually, operator, settings};

/// The tokens of both, by what follows `tc-apiv1_fixture-` in them.
fn digest(name: &str) -> Digest {
    Digest::of(format!("tc-apiv1_fixture-{name}").as_bytes())
}

async fn open(url: &str) -> Arc<dyn Store> {
    tollgate::store::open(&settings(url), Absent::Refuse).await.expect("opens")
}

fn sqlite() -> (TempDir, String) {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("tollgate.db");
    let connection = Connection::open(&path).expect("opens");
    connection.execute_batch(include_str!("earlier/schema-2.sql")).expect("runs");
    connection.pragma_update(None, "journal_mode", "wal").expect("switches");
    (directory, format!("sqlite:{}", path.display()))
}

fn redis() -> RedisServer {
    let server = RedisServer::start();
    let port = server.port().to_string();
    let mut command = Command::new("redis-cli");
    let mut child =
        command.args(["-p", &port]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("redis-cli is there");
    child.stdin.take().expect("piped").write_all(include_bytes!("earlier/schema-1.redis")).expect("writes");
    assert!(child.wait().expect("ends").success());
    server
}

async fn token(store: &dyn Store, name: &str) -> Option<Versioned<TokenRecord>> {
    store.tokens_by_digest(&[digest(name)]).await.expect("reads").remove(0)
}

/// What both stores hold, and that it can be worked with.
async fn holds_everything(store: Arc<dyn Store>) {
    let (position, held) = Held::snapshot(&*store).await;
    assert_eq!((position.revision, position.checksum), (Revision(10), held.checksum()));
    assert_eq!(
        position.head,
        Head::unchained(position.revision, position.checksum),
        "nothing more is known of its past"
    );
    let entries = entries_after(&*store, 7).await;
    assert_eq!(entries.last().map(|last| last.head), Some(position.head));
    assert!(entries.iter().all(|entry| entry.id == CommitId::default()));

    let role = async |name| store.user_by_name(name).await.expect("reads").map(|user| user.record.role);
    assert_eq!((role("olga").await, role("max").await), (Some(Role::Owner), Some(Role::Viewer)));
    let vera = store.user_by_name("vera").await.expect("reads").expect("is there").record;
    assert_eq!(vera.status, UserStatus::Disabled);
    let active = token(&*store, "anna").await.expect("is there");
    assert_eq!(active.record.permissions, PermissionSet::TELEGRAF_AGENT);
    assert!(!token(&*store, "revoked").await.expect("is there").record.is_active());
    assert!(token(&*store, "deleted").await.is_none());
    assert_eq!(store.retired(&[digest("deleted"), digest("anna")]).await.expect("reads"), [true, false]);
    let probe = store.probe().await.expect("answers");
    assert_eq!((probe.position, probe.recalls), (position, 1));
    assert_eq!(store.recalled(None).await.expect("reads").digests, [digest("recalled")]);

    let stale = Versioned { record: active.record.clone(), version: CommitId(active.version.0 + 1) };
    let revoke = |before: Versioned<TokenRecord>| {
        let after = revoked(before.record.clone());
        tokens([Edit::Update { before, after }])
    };
    assert!(matches!(store.commit(revoke(stale)).await, Err(CommitError::Conflict)));
    let committed = store.commit(revoke(active)).await.expect("commits");
    assert_eq!(committed.position.head, position.head.then(committed.id), "its history goes on");
    assert_eq!(token(&*store, "anna").await.map(|token| token.version), Some(committed.id));
    let (after, held) = Held::snapshot(&*store).await;
    assert_eq!((after, after.checksum), (committed.position, held.checksum()));
    let entries = entries_after(&*store, 9).await;
    assert_eq!(entries[1].committed(after.epoch), committed);

    let registry = Registry::new(Arc::clone(&store));
    let narrowed = token(&*store, "narrowed").await.expect("is there").record.id;
    let before = store.history(narrowed).await.expect("reads");
    registry.revoke(&operator(), &[narrowed], false).await.expect("revokes");
    let after = store.history(narrowed).await.expect("reads");
    assert_eq!((&after[..before.len()], after.len()), (&before[..], before.len() + 1), "its history goes on");
    assert!(!before.is_empty());

    registry.set_status(&operator(), "vera", UserStatus::Active).await.expect("enables");
    registry.set_role(&operator(), "max", Role::Manager).await.expect("changes the role");
    assert_eq!(registry.delete_user(&operator(), "anna").await.expect("deletes"), 3);
    store.settle_recalls(&[digest("recalled")]).await.expect("settles");
    assert_eq!(store.probe().await.expect("answers").recalls, 1);
    assert_eq!(store.recalled(None).await.expect("reads").total, 0);
    let (last, held) = Held::snapshot(&*store).await;
    assert_eq!(last.checksum, held.checksum());
}

#[tokio::test]
async fn a_database_of_the_version_before_is_migrated() {
    let (directory, url) = sqlite();
    holds_everything(open(&url).await).await;
    drop(open(&url).await);
    // By the clock of the wall it was, which counts no longer.
    let connection = Connection::open(directory.path().join("tollgate.db")).expect("opens");
    let buried_at = connection.query_row("SELECT max(at) FROM tombstones", [], |row| row.get::<_, i64>(0));
    assert_eq!(buried_at, Ok(0), "it ages from the migration on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_is_migrated_once_by_whoever_comes_first() {
    let (_directory, url) = sqlite();
    let opened = (0..4).map(|_| {
        let url = url.clone();
        tokio::spawn(async move { open(&url).await.position().await.expect("reads") })
    });
    let opened: Vec<_> = opened.collect();
    for position in opened {
        assert_eq!(position.await.expect("no panic").revision, Revision(10));
    }
}

/// As the version before reports: it says nothing of a schema.
fn report(applied: Position) -> String {
    let Position { epoch, revision, .. } = applied;
    serde_json::json!({
        "id": 7, "name": "edge-7", "version": "0.0.9", "address": "127.0.0.1:8080", "started_at": "2026-01-01T00:00:00Z",
        "applied": [epoch, revision], "staleness_ms": 5, "connections": 0,
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_a_sidecar_of_the_version_before_uses_is_left_as_it_is() {
    let (directory, url) = sqlite();
    let path = directory.path().join("tollgate.db");
    let beat = move |path: &std::path::Path| {
        let now = jiff::Timestamp::now().as_millisecond();
        let position =
            Position { epoch: tollgate::store::Epoch(1), revision: Revision(10), head: Head(0), checksum: 0 };
        let connection = Connection::open(path).expect("opens");
        connection.busy_timeout(Duration::from_secs(5)).expect("is set");
        let row = (report(position), now, now + 70_000);
        connection.execute("INSERT OR REPLACE INTO sidecars VALUES (7, ?, ?, ?)", row).expect("reports");
    };
    beat(&path);
    let beating = tokio::task::spawn_blocking({
        let path = path.clone();
        move || {
            std::thread::sleep(Duration::from_millis(500));
            beat(&path);
        }
    });
    let refused =
        tollgate::store::open(&settings(&url), Absent::Refuse).await.map(drop).expect_err("in use").to_string();
    let said = ["has schema 2", "makes it schema 3", "the sidecar edge-7 (0.0.9)", "stop it, or restart it"];
    assert!(said.iter().all(|part| refused.contains(part)), "{refused}");
    beating.await.expect("no panic");
    let version = Connection::open(&path).expect("opens").query_row("PRAGMA user_version", [], |row| row.get(0));
    assert_eq!(version, Ok(2), "it goes on");

    // One that was killed reports no more.
    let old = "UPDATE sidecars SET at = at - 11000";
    Connection::open(&path).expect("opens").execute(old, []).expect("runs");
    assert_eq!(open(&url).await.position().await.expect("reads").revision, Revision(10));
}

#[tokio::test]
async fn a_registry_in_redis_of_the_version_before_is_migrated_by_the_first_commit() {
    let server = redis();
    let store = open(&server.url()).await;
    let before = store.position().await.expect("reads");
    assert_eq!(server.cli(&["hget", "{tollgate}:meta", "schema"]), "1", "reading changes nothing");
    holds_everything(Arc::clone(&store)).await;
    assert_eq!(server.cli(&["hget", "{tollgate}:meta", "schema"]), SCHEMA.to_string());
    assert_eq!(store.position().await.expect("reads").epoch, before.epoch);
}

/// What a section of the page on upgrades tells to type, run in that order. Returns what it printed.
fn typed(section: &str, url: &str) -> String {
    let page = include_str!("../../docs/upgrade.md");
    let (_, section) = page.split_once(&format!("\n## {section}\n")).expect("the section");
    let section = section.split("\n## ").next().expect("one at least");
    let lines: Vec<_> = section.lines().map(str::trim).filter(|line| line.starts_with("tollgate ")).collect();
    // With a backup of their own, see `later`.
    let lines: Vec<_> = lines.into_iter().take_while(|line| !line.contains("store restore")).collect();
    assert!(!lines.is_empty());
    tollgate(&lines.join("\n"), url)
}

/// Runs some lines of a shell with this program.
pub(crate) fn tollgate(lines: &str, url: &str) -> String {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_tollgate"));
    let path = format!("{}:/usr/bin:/bin", program.parent().expect("a directory").display());
    let mut command = Command::new("sh");
    command.args(["-euc", lines]).env_clear().env("PATH", path).env("HOME", "/nonexistent");
    let output = command.env("TOLLGATE_STORE__URL", url).output().expect("runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn the_page_on_upgrades_says_what_to_type_and_how_far_it_is() {
    let (_directory, url) = sqlite();
    let printed = typed("One host, with a SQLite file", &url);
    assert!(printed.starts_with(concat!("tollgate ", env!("CARGO_PKG_VERSION"))), "{printed}");
    assert!(printed.contains("revision  10") && !printed.contains("schema"), "{printed}");

    let server = redis();
    let (fleet, back) = ("A fleet, with Redis", "Going back");
    let earlier = "schema    1: the next command that changes the registry makes it 3";
    for section in [fleet, back] {
        let printed = typed(section, &server.url());
        assert!(printed.contains(earlier), "{printed}");
    }
    tollgate("tollgate user enable vera", &server.url());
    for section in [fleet, back] {
        let printed = typed(section, &server.url());
        assert!(printed.contains("revision  11") && !printed.contains("schema"), "{printed}");
    }
}

/// A sidecar's replica, and what keeps it.
pub(crate) struct Follower {
    pub(crate) replica: Arc<Replica>,
    task: JoinHandle<()>,
}

impl Follower {
    pub(crate) async fn start(url: &str) -> Self {
        let (replica, store) = (Arc::new(Replica::new()), open(url).await);
        let run = driver::run(Arc::clone(&replica), store, Duration::from_millis(200), std::future::pending());
        let task = tokio::spawn(run);
        replica.ready().await;
        Self { replica, task }
    }

    async fn reaches(&self, revision: Revision) {
        let reached = || async { self.replica.status().position.is_some_and(|position| position.revision >= revision) };
        eventually("the replica is level", reached).await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a command of the version before does to revoke a token: the essence of its script, with the checksum and the digest.
const REVOKE: &str = "
    redis.call('HDEL', '{tollgate}:grants', ARGV[2])
    local meta = redis.call('HMGET', '{tollgate}:meta', 'epoch', 'revision')
    local revision, changes = string.format('%.0f', meta[2] + 1), string.char(2) .. ARGV[2]
    redis.call('XADD', '{tollgate}:log', revision .. '-0', 'c', ARGV[1], 'd', changes, 'n', 1, 'i', 'x')
    redis.call('HSET', '{tollgate}:meta', 'revision', revision, 'checksum', ARGV[1])
    redis.call('PUBLISH', '{tollgate}:changes', meta[1] .. ARGV[1] .. revision .. ' ' .. changes)";

async fn revoke_as_before(server: &RedisServer, store: &dyn Store, name: &str) {
    let position = store.position().await.expect("reads");
    let grant = token(store, name).await.and_then(|token| token.record.grant()).expect("active");
    let checksum = format!("{:016x}", position.checksum ^ grant.fingerprint(&digest(name)));
    // The digest is no text: it comes last, from the standard input.
    let mut command = Command::new("redis-cli");
    command.args(["-p", &server.port().to_string(), "-x", "EVAL", REVOKE, "0", &checksum]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("redis-cli is there");
    child.stdin.take().expect("piped").write_all(digest(name).as_bytes()).expect("writes");
    assert!(child.wait().expect("ends").success());
}

/// The order of an upgrade: sidecars of this version come up one by one on a store that commands of the version before
/// go on changing; then come this version's commands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_is_upgraded_sidecars_first() {
    let server = redis();
    let store = open(&server.url()).await;
    let follower = Follower::start(&server.url()).await;
    let knows = |name: &str| follower.replica.lookup(&digest(name)).is_some();
    assert!(knows("anna") && !knows("revoked") && !knows("recalled"));

    // A revocation by a command of the version before, told over its channel.
    let subscribed = || async { server.cli(&["PUBSUB", "NUMSUB", "{tollgate}:changes"]).ends_with('1') };
    eventually("the sidecar hears the version before", subscribed).await;
    revoke_as_before(&server, &*store, "anna").await;
    follower.reaches(Revision(11)).await;
    assert!(!knows("anna") && knows("narrowed"));

    // A sidecar of the version before still runs: no commit, and nothing has changed for it.
    let position = store.position().await.expect("reads");
    server.cli(&["sadd", "{tollgate}:sidecars", "0000000000000007"]);
    let key = "{tollgate}:sidecar:0000000000000007";
    server.cli(&["set", key, &format!("70000 {}", report(position)), "PX", "70000"]);
    let narrowed = token(&*store, "narrowed").await.expect("is there");
    let registry = Registry::new(Arc::clone(&store));
    let refused = registry.revoke(&operator(), &[narrowed.record.id], false).await.expect_err("refused");
    let chain: Vec<_> =
        std::iter::successors(Some(&refused as &dyn std::error::Error), |error| error.source()).collect();
    let said = chain.iter().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    let parts = ["has schema 1", "writes schema 3", "edge-7 (0.0.9)", "upgrade them first", "`tollgate status`"];
    assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    assert_eq!(server.cli(&["hget", "{tollgate}:meta", "schema"]), "1");
    assert_eq!(store.position().await.expect("reads"), position);

    // It is upgraded too, and the next command goes through: every sidecar follows without reading anything again.
    server.cli(&["del", key]);
    let began = Instant::now();
    registry.revoke(&operator(), &[narrowed.record.id], false).await.expect("revokes");
    let (_, reached) = registry.committed().await.expect("something was done");
    assert_eq!(reached.revision, Revision(12));
    follower.reaches(reached.revision).await;
    let status = follower.replica.status();
    assert_eq!((status.position, status.resyncs, status.divergences), (Some(reached), 0, 0));
    assert!(!knows("narrowed"));
    let fresh = || async { follower.replica.staleness(tollgate::clock::Instant::now()) < Some(began.elapsed()) };
    eventually("it is proven at the new schema", fresh).await;
    assert!(
        matches!(store.commit(Batch::default()).await, Ok(committed) if committed.position.revision == Revision(13))
    );
}
