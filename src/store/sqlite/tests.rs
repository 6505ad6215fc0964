//! What needs a look inside: a full disk, a lock that nobody gives up, what is left in the tables.

use std::error::Error as _;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::store::Edit;
use crate::token::{MAX_HISTORY, PermissionSet, TokenState};

async fn store(retention: Retention) -> (TempDir, SqliteStore) {
    let directory = tempfile::tempdir().expect("a directory");
    let store = SqliteStore::open(&directory.path().join("tollgate.db"), retention).await.expect("opens");
    (directory, store)
}

pub(super) fn token(name: &str) -> TokenRecord {
    TokenRecord {
        id: TokenId::generate(jiff::Timestamp::now()),
        digest: Digest::of(name.as_bytes()),
        owner: UserId::from_u64(1),
        description: name.to_owned(),
        permissions: PermissionSet::TELEGRAF_AGENT,
        state: TokenState::Active,
        hint: String::new(),
        created_at: jiff::Timestamp::now(),
        created_by: "anna".to_owned(),
        expires_at: None,
        predecessor: None,
        successor: None,
    }
}

fn create(names: impl IntoIterator<Item = String>) -> Batch {
    Batch { tokens: names.into_iter().map(|name| Edit::Create(token(&name))).collect(), ..Batch::default() }
}

fn many(prefix: &str) -> Batch {
    create((0..500).map(|n| format!("{prefix}{n}")))
}

/// The cause of a failed commit.
async fn failure(store: &SqliteStore, batch: Batch) -> String {
    match store.commit(batch).await {
        Err(CommitError::Failed(error)) => error.source().expect("a cause").to_string(),
        other => panic!("{other:?}"),
    }
}

fn count(store: &SqliteStore, sql: &str) -> i64 {
    with_writer(store, |writer| writer.query_row(sql, [], |row| row.get(0)).expect("counts"))
}

fn with_writer<T>(store: &SqliteStore, work: impl FnOnce(&mut Connection) -> T) -> T {
    let work = |database: &Database| -> Result<T, DatabaseFault> { Ok(work(&mut *database.writer()?)) };
    store.shared.with(work).expect("is open")
}

fn set(store: &SqliteStore, pragma: &str, value: impl rusqlite::ToSql) {
    with_writer(store, |writer| writer.pragma_update(None, pragma, value).expect("is one"));
}

#[tokio::test]
async fn a_full_disk_fails_the_commit_whole_and_the_next_one_succeeds() {
    let (_directory, store) = store(Retention::default()).await;
    store.commit(many("before")).await.expect("commits");
    let before = store.position().await.expect("a position");
    let pages = count(&store, "PRAGMA page_count");
    set(&store, "max_page_count", pages + 5);
    assert!(failure(&store, many("failed")).await.contains("the disk is full"));
    assert_eq!(store.position().await.expect("a position"), before);
    assert_eq!(store.count_tokens(TokenFilter::default()).await.expect("counts"), 500);
    set(&store, "max_page_count", 1_000_000);
    let committed = store.commit(many("failed")).await.expect("commits");
    assert_eq!(committed.position.revision, before.revision.next());
}

#[tokio::test]
async fn a_lock_that_is_not_given_up_fails_the_commit_and_no_read() {
    let (_directory, store) = store(Retention::default()).await;
    with_writer(&store, |writer| writer.busy_timeout(Duration::from_millis(20)).expect("a limit"));
    let other = Connection::open(&store.shared.path).expect("opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("locks");
    assert!(failure(&store, many("")).await.contains("the database is locked"));
    assert_eq!(store.position().await.expect("a position").revision, Revision(0));
    other.execute_batch("ROLLBACK").expect("unlocks");
    store.commit(many("")).await.expect("commits");
}

#[tokio::test]
async fn a_store_that_must_not_be_written_fails_the_commit_with_that_reason() {
    let (_directory, store) = store(Retention::default()).await;
    set(&store, "query_only", true);
    assert!(failure(&store, many("")).await.contains("may not write"));
}

#[tokio::test]
async fn every_commit_is_synced() {
    let (_directory, store) = store(Retention::default()).await;
    assert_eq!(count(&store, "PRAGMA synchronous"), 2); // FULL
}

#[tokio::test]
async fn what_is_counted_is_what_is_kept() {
    let retention = Retention { log_changes: 30, log_entries: 8, tombstones: 12, ..Retention::default() };
    let (_directory, store) = store(retention).await;
    for round in 0..40 {
        let names = (0..round % 7).map(|n| format!("{round} {n}"));
        store.commit(create(names)).await.expect("commits");
        let some = store.tokens(TokenFilter::default(), None, round % 4).await.expect("reads");
        let delete = Batch { tokens: some.into_iter().map(Edit::Delete).collect(), ..Batch::default() };
        store.commit(delete).await.expect("commits");
        let logged = count(&store, "SELECT sum(count) FROM log");
        let buried = count(&store, "SELECT count(*) FROM tombstones");
        assert_eq!(count(&store, "SELECT log_changes FROM meta"), logged);
        assert_eq!(count(&store, "SELECT tombstones FROM meta"), buried);
        assert!(logged <= 30 && buried <= 12, "{logged}, {buried}");
        assert!(count(&store, "SELECT count(*) FROM log") <= 8);
    }
    assert_eq!(count(&store, "SELECT tombstones FROM meta"), 12);
}

#[tokio::test]
async fn retired_digests_are_forgotten_when_they_are_old_enough() {
    let (_directory, store) = store(Retention::default()).await;
    let version = store.commit(create(["a".to_owned()])).await.expect("commits").id;
    let record = store.tokens(TokenFilter::default(), None, 1).await.expect("reads").remove(0).record;
    let delete = Batch { tokens: vec![Edit::Delete(Versioned { record, version })], ..Batch::default() };
    let retention = Retention { tombstone_age: Duration::from_secs(100), ..Retention::default() };
    let commit = |batch: &Batch, now| {
        with_writer(&store, |writer| commit::commit(writer, batch, &retention, now).map(drop).expect("commits"));
    };
    let buried = || count(&store, "SELECT count(*) FROM tombstones");
    // Between two commits of one run of the machine it is known how long it was, and nowhere else.
    let (one, other, nothing) = ([1; 16], [2; 16], Batch::default());
    let at = |boot, uptime| BootTime { boot, uptime };
    for now in [at(one, 1000), at(one, 1050), at(other, 90_000), at(one, 1_000_000), at(one, 10), at(one, 59)] {
        commit(if buried() == 0 { &delete } else { &nothing }, now);
        assert_eq!(buried(), 1, "{now:?}");
    }
    commit(&nothing, at(one, 60));
    assert_eq!(buried(), 0);
}

#[tokio::test]
async fn retired_digests_do_not_age_by_a_clock_that_can_be_set() {
    let (_directory, store) = store(Retention::default()).await;
    let version = store.commit(create(["a".to_owned()])).await.expect("commits").id;
    let record = store.tokens(TokenFilter::default(), None, 1).await.expect("reads").remove(0).record;
    let delete = Batch { tokens: vec![Edit::Delete(Versioned { record, version })], ..Batch::default() };
    store.commit(delete).await.expect("commits");
    let seconds = |sql| count(&store, sql);
    let (buried_at, age) = (seconds("SELECT at FROM tombstones"), seconds("SELECT age FROM meta"));
    assert!((0..=10).contains(&buried_at) && (buried_at..=10).contains(&age), "{buried_at}, {age}");
    // The last commit was half a minute ago, whatever the wall says.
    with_writer(&store, |writer| writer.execute("UPDATE meta SET uptime = uptime - 30", ())).expect("turns back");
    store.commit(Batch::default()).await.expect("commits");
    let passed = seconds("SELECT age FROM meta") - age;
    assert!((30..=40).contains(&passed), "{passed}");
}

#[tokio::test]
async fn a_deleted_token_leaves_only_its_digest() {
    let (_directory, store) = store(Retention::default()).await;
    let mut batch = create(["a".to_owned()]);
    let Some(Edit::Create(record)) = batch.tokens.first().cloned() else { panic!("one token") };
    let created = HistoryEntry {
        at: record.created_at,
        by: "anna".to_owned(),
        event: crate::token::TokenEvent::Created,
        operator_reason: None,
    };
    batch.history.push((record.id, created));
    let version = store.commit(batch).await.expect("commits").id;
    let delete = Batch { tokens: vec![Edit::Delete(Versioned { record, version })], ..Batch::default() };
    store.commit(delete).await.expect("commits");
    for (table, rows) in [("tokens", 0), ("grants", 0), ("history", 0), ("tombstones", 1)] {
        assert_eq!(count(&store, &format!("SELECT count(*) FROM {table}")), rows, "{table}");
    }
}

#[tokio::test]
async fn a_history_does_not_grow_for_ever() {
    let (_directory, store) = store(Retention::default()).await;
    let mut batch = create(["a".to_owned()]);
    let Some(Edit::Create(record)) = batch.tokens.first().cloned() else { panic!("one token") };
    let created = HistoryEntry {
        at: record.created_at,
        by: "anna".to_owned(),
        event: crate::token::TokenEvent::Created,
        operator_reason: None,
    };
    batch.history = vec![(record.id, created.clone()); 2 * MAX_HISTORY];
    store.commit(batch).await.expect("commits");
    let rows = i64::try_from(MAX_HISTORY).expect("fits");
    assert_eq!(count(&store, "SELECT count(*) FROM history"), rows);
    store.commit(Batch { history: vec![(record.id, created); 3], ..Batch::default() }).await.expect("commits");
    assert_eq!(count(&store, "SELECT count(*) FROM history WHERE revision = 1"), rows - 3);
    assert_eq!(count(&store, "SELECT count(*) FROM history"), rows);
}

#[tokio::test]
async fn lists_and_counts_use_their_indexes() {
    let (_directory, store) = store(Retention::default()).await;
    let plan = |sql: &str| -> String {
        with_writer(&store, |writer| {
            let mut statement = writer.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("prepares");
            let steps = statement.query_map([], |row| row.get::<_, String>(3)).expect("plans");
            steps.map(|step| step.expect("a step")).collect::<Vec<_>>().join("; ")
        })
    };
    let of_owner = plan("SELECT id, version, record FROM tokens WHERE true AND owner = 1 ORDER BY id DESC LIMIT 9");
    assert!(of_owner.contains("tokens_by_owner (owner=?)") && !of_owner.contains("TEMP B-TREE"), "{of_owner}");
    let revoked = plan("SELECT id, version, record FROM tokens WHERE true AND state = 1 ORDER BY id DESC LIMIT 9");
    assert!(revoked.contains("revoked_tokens") && !revoked.contains("TEMP B-TREE"), "{revoked}");
    let users = plan("SELECT id, version, record FROM users WHERE id < 9 ORDER BY id DESC LIMIT 9");
    assert!(users.contains("SEARCH users USING INTEGER PRIMARY KEY"), "{users}");
    let active = "SELECT count(*) FROM tokens WHERE true AND state = 0 AND (expires_at IS NULL OR expires_at > 1)";
    assert!(plan(active).contains("COVERING INDEX tokens_by_owner"), "{}", plan(active));
    let oldest = plan("DELETE FROM tombstones WHERE at <= 1");
    assert!(oldest.contains("tombstones_by_age"), "{oldest}");
}

#[test]
fn keys_order_as_the_ids_do_and_come_back() {
    let ids = [0, 1, (1 << 63) - 1, 1 << 63, u64::MAX];
    assert!(ids.is_sorted_by_key(|id| key(*id)));
    assert!(ids.iter().all(|id| from_key(key(*id)) == *id));
}

#[tokio::test]
async fn the_watching_task_ends_with_the_store() {
    let (_directory, store) = store(Retention::default()).await;
    let _watch = store.watch();
    let shared = Arc::downgrade(&store.shared);
    assert_eq!(shared.strong_count(), 2); // the store's and the task's
    drop(store);
    let ended = async {
        while shared.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), ended).await.expect("it ends");
}

fn report(id: u64) -> Report {
    Report {
        id: SidecarId(id),
        name: format!("sidecar {id}"),
        version: "1".to_owned(),
        address: String::new(),
        host: String::new(),
        started_at: jiff::Timestamp::UNIX_EPOCH,
        applied: None,
        head: None,
        schema: crate::store::SCHEMA,
        unwritten_ms: None,
        held_users: Vec::new(),
        staleness_ms: None,
        connections: 0,
        draining: None,
        late: Vec::new(),
        config_cache: None,
    }
}

#[tokio::test]
async fn a_report_from_before_the_machine_was_started_is_none() {
    let (_directory, store) = store(Retention::default()).await;
    let ttl = Duration::from_secs(70);
    store.report(&report(1), ttl).await.expect("reports");
    // By the clock of the wall, of the version before, or of a run of the machine that was longer.
    let later = uptime() + 60_000;
    with_writer(&store, |writer| writer.execute("UPDATE sidecars SET at = ?1, expires_at = ?1 + 70000", [later]))
        .expect("moves it");
    assert_eq!(store.sidecars().await.expect("reads"), []);
    assert_eq!(store.report_left(SidecarId(1)).await.expect("reads"), None);
    store.report(&report(2), ttl).await.expect("reports");
    let names: Vec<_> = store.sidecars().await.expect("reads").into_iter().map(|one| one.report.name).collect();
    assert_eq!(names, ["sidecar 2"]);
    assert_eq!(count(&store, "SELECT count(*) FROM sidecars"), 1, "and it is gone");
}

#[tokio::test]
async fn a_report_is_missed_by_nobody_who_looks_or_reports_at_the_moment_it_is_renewed() {
    let (_directory, store) = store(Retention::default()).await;
    let ttl = Duration::from_secs(70);
    store.report(&report(1), ttl).await.expect("reports");
    let path = store.shared.path.clone();
    // Whoever asks for the time is overtaken by a report.
    let overtaken = |id: u64| {
        let overtaking = schema::open_reporter(&path).expect("opens");
        overtaking.busy_timeout(Duration::ZERO).expect("is set");
        move || {
            let now = uptime();
            let mut overtaking = overtaking;
            fleet::report(&mut overtaking, &report(id), ttl, || now + 1).ok();
            now
        }
    };
    // So that what lay ahead no longer does.
    let pass = || {
        let then = uptime();
        while uptime() <= then + 1 {}
    };
    let read = |work: &dyn Fn(&Connection)| {
        let work = |database: &Database| {
            database.read(|connection| {
                work(connection);
                Ok(())
            })
        };
        store.shared.with::<_, DatabaseFault>(work).expect("is open");
    };
    read(&|connection| {
        let seen = fleet::sidecars(connection, overtaken(1), "here").expect("reads");
        assert_eq!(seen.iter().map(|one| one.report.id).collect::<Vec<_>>(), [SidecarId(1)]);
        pass();
        let left = fleet::left(connection, SidecarId(1), overtaken(1)).expect("reads");
        assert_eq!(left, Some(ttl));
    });
    pass();
    with_writer(&store, |writer| fleet::report(writer, &report(2), ttl, overtaken(1)).expect("reports"));
    assert_eq!(store.sidecars().await.expect("reads").len(), 2, "nothing lay ahead");
}
