//! What only a file can do: belong to another program, be damaged or replaced, lose its process half-way.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tempfile::TempDir;
use tollgate::store::{
    self, Absent, Batch, Changes, Edit, Feed, NoRegistry, Notice, Records, Retention, Revision, SnapshotItem,
    SqliteStore, StoreError, StoreUrl,
};
use tollgate::token::UserId;

use crate::conformance::{Held, commit, token, tokens, user, users};
use crate::harness::{Serving, eventually};

#[tokio::test]
async fn a_new_file_is_for_its_user_only() {
    let directory = directory();
    let path = directory.path().join("state/deeper/tollgate.db");
    let store = store::open(&StoreUrl::Sqlite(path.clone()).into(), Absent::Create).await.expect("opens");
    commit(&*store, Batch::default()).await;
    assert_eq!(store.describe(), format!("sqlite:{}", path.display()));
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&log_of(&path)), 0o600);
    assert_eq!(mode(&path.with_extension("db-shm")), 0o600);
    assert_eq!(mode(&directory.path().join("state/deeper")), 0o700);
    assert_eq!(mode(&directory.path().join("state")), 0o700);
}

#[tokio::test]
async fn an_empty_file_becomes_a_store() {
    let directory = directory();
    let path = directory.path().join("tollgate.db");
    fs::write(&path, b"").expect("written");
    let store = open(&path).await.expect("opens");
    assert_eq!(commit(&store, Batch::default()).await.position.revision, Revision(1));
}

#[tokio::test]
async fn what_was_committed_is_there_after_a_restart() {
    let directory = directory();
    let path = directory.path().join("tollgate.db");
    let store = open(&path).await.expect("opens");
    let anna = user("anna");
    commit(&store, users([Edit::Create(anna.clone())])).await;
    let before = store.position().await.expect("a position");
    drop(store);
    let store = open(&path).await.expect("opens");
    assert_eq!(store.position().await.expect("a position"), before);
    assert_eq!(store.user(anna.id).await.expect("reads").expect("there").record, anna);
}

#[tokio::test]
async fn files_that_are_no_databases_are_refused_untouched() {
    refused_untouched(|path| fs::write(path, "dear diary,\n".repeat(1000)), "is not an SQLite database").await;
    refused_untouched(|path| fs::write(path, b"xy"), "is not an SQLite database").await;
    refused_untouched(|path| fs::write(path, [0; 8192]), "is not an SQLite database").await;
}

#[tokio::test]
async fn databases_of_other_programs_are_refused_untouched() {
    let table = "CREATE TABLE t (x); INSERT INTO t VALUES (1);";
    let theirs = "is the database of another program";
    refused_untouched(|path| run(path, table), theirs).await;
    refused_untouched(|path| run(path, &format!("PRAGMA application_id = 7; {table}")), theirs).await;
    refused_untouched(|path| run(path, "PRAGMA application_id = 7"), theirs).await;
    refused_untouched(|path| run(path, &format!("PRAGMA journal_mode = WAL; {table}")), theirs).await;
}

#[tokio::test]
async fn a_store_of_a_newer_version_is_refused_untouched() {
    let newer = make_store().await;
    run(&newer.path().join("tollgate.db"), "PRAGMA user_version = 4").expect("runs");
    let bytes = fs::read(newer.path().join("tollgate.db")).expect("reads");
    refused_untouched(|path| fs::write(path, &bytes), "reads 2 and 3: a later version made it so").await;
}

#[tokio::test]
async fn the_unfinished_work_of_others_is_left_to_them() {
    let table = "PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1);";
    refused_untouched(|path| run_unfinished(path, table), "is the database of another program").await;
    let newer = make_store().await;
    let newer = newer.path().join("tollgate.db");
    let as_newer = |path: &Path| {
        fs::copy(&newer, path)?;
        run_unfinished(path, "PRAGMA user_version = 4")
    };
    refused_untouched(as_newer, "has schema 4").await;
}

#[tokio::test]
async fn a_damaged_store_is_refused_untouched() {
    let whole = make_store().await;
    let bytes = fs::read(whole.path().join("tollgate.db")).expect("reads");
    assert!(bytes.len() > 8192);
    refused_untouched(|path| fs::write(path, &bytes[..bytes.len() / 2]), "is damaged").await;
    refused_untouched(|path| fs::write(path, &bytes[..4096]), "is damaged").await;
    refused_untouched(|path| fs::write(path, &bytes[..90]), "is damaged").await;
    let mut garbage = bytes.clone();
    garbage[100..].fill(0xa5);
    refused_untouched(|path| fs::write(path, &garbage), "is damaged").await;
    let emptied = |path: &Path| {
        fs::write(path, &bytes)?;
        run(path, "DELETE FROM meta")
    };
    refused_untouched(emptied, "is damaged").await;
    let without_table = |path: &Path| {
        fs::write(path, &bytes)?;
        run(path, "DROP TABLE meta")
    };
    refused_untouched(without_table, "is damaged").await;
}

#[tokio::test]
async fn a_path_that_cannot_be_a_file_is_an_error_that_names_it() {
    let directory = directory();
    let error = open(directory.path()).await.expect_err("refused");
    assert!(matches!(&error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains(&directory.path().display().to_string()), "{error}");
    fs::write(directory.path().join("file"), "").expect("written");
    open(&directory.path().join("file/tollgate.db")).await.expect_err("refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_create_a_store_at_once_all_get_it() {
    for _ in 0..10 {
        let directory = directory();
        let path = directory.path().join("new/tollgate.db");
        let opening: Vec<_> = (0..8)
            .map(|_| {
                let path = path.clone();
                tokio::spawn(async move { open(&path).await.expect("opens") })
            })
            .collect();
        let mut epochs = Vec::new();
        for (n, store) in opening.into_iter().enumerate() {
            let store = store.await.expect("no panic");
            commit(&store, users([Edit::Create(user(&n.to_string()))])).await;
            epochs.push(store.position().await.expect("a position").epoch);
        }
        assert!(epochs.iter().all(|epoch| *epoch == epochs[0]), "{epochs:?}");
    }
}

#[tokio::test]
async fn damaged_records_are_named_and_leave_the_others_readable() {
    let directory = make_store().await;
    let path = directory.path().join("tollgate.db");
    let store = open(&path).await.expect("opens");
    let (_, before) = Held::snapshot(&store).await;
    let listed = store.tokens(Default::default(), None, 10).await.expect("reads");
    let (damaged, whole) = (&listed[0].record, &listed[1].record);
    let digest = damaged.digest.to_string();
    let broken = "UPDATE users SET record = '{'; UPDATE history SET entry = 'x';";
    run(&path, &format!("UPDATE grants SET grant_ = x'00' WHERE digest = x'{digest}'; {broken}")).expect("runs");
    run(&path, &format!("UPDATE tokens SET record = 'null' WHERE digest = x'{digest}'")).expect("runs");

    let (mut grants, mut keys) = (Vec::new(), Vec::new());
    let mut sink = |item| match item {
        SnapshotItem::Begin(_) => {}
        SnapshotItem::Grant(digest, grant) => grants.push((digest, grant)),
        SnapshotItem::Damaged { key } => keys.push(key),
        SnapshotItem::Owner(..) => panic!("the only user is damaged"),
    };
    store.snapshot(&mut None, &mut sink).await.expect("a snapshot");
    assert_eq!(keys, [format!("users/{}", damaged.owner), format!("grants/{digest}")]);
    assert_eq!(grants, [(whole.digest, before.grants[&whole.digest])]);

    let key = |error: StoreError| match error {
        StoreError::DamagedRecord { key, .. } => key,
        other => panic!("{other:?}"),
    };
    let id = damaged.id;
    assert_eq!(key(store.tokens_by_id(&[id]).await.expect_err("damaged")), format!("tokens/{id}"));
    assert_eq!(key(store.history(id).await.expect_err("damaged")), format!("history/{id}"));
    assert_eq!(key(store.user_by_name("anna").await.expect_err("damaged")), format!("users/{}", damaged.owner));
    assert!(store.tokens_by_id(&[whole.id]).await.expect("reads")[0].is_some());
}

#[tokio::test]
async fn a_log_with_a_gap_or_damage_is_truncated() {
    let directory = make_store().await;
    let path = directory.path().join("tollgate.db");
    let store = open(&path).await.expect("opens");
    for n in 0..5 {
        commit(&store, users([Edit::Create(user(&n.to_string()))])).await;
    }
    let newest = store.position().await.expect("a position").revision.0;
    let after = async |revision| store.changes(Revision(revision)).await.expect("reads");
    run(&path, &format!("UPDATE log SET changes = x'ff' WHERE revision = {}", newest - 1)).expect("runs");
    assert_eq!(after(newest - 2).await, Changes::Truncated);
    assert!(matches!(after(newest - 1).await, Changes::Entries(entries) if entries.len() == 1));
    run(&path, &format!("DELETE FROM log WHERE revision = {newest}")).expect("runs");
    assert_eq!(after(newest - 1).await, Changes::Truncated);
    assert_eq!(after(newest).await, Changes::Entries(vec![]));
}

#[tokio::test]
async fn a_removed_or_empty_file_is_no_registry_until_there_is_one_again() {
    for empty in [false, true] {
        let directory = make_store().await;
        let path = directory.path().join("tollgate.db");
        let store = open(&path).await.expect("opens");
        commit(&store, users([Edit::Create(user("berta"))])).await; // it is in the write-ahead log only
        let before = store.position().await.expect("a position");
        fs::rename(&path, directory.path().join("away")).expect("renamed");
        if empty {
            fs::write(&path, b"").expect("written");
        }
        let errors = [
            store.position().await.map(drop).expect_err("noticed"),
            store.probe().await.map(drop).expect_err("noticed"),
            store.snapshot(&mut None, &mut drop).await.map(drop).expect_err("noticed"),
            match store.commit(Batch::default()).await.expect_err("noticed") {
                store::CommitError::Failed(error) => error,
                other => panic!("{other:?}"),
            },
        ];
        for error in errors {
            let expected = if empty { NoRegistry::EmptyFile } else { NoRegistry::NoFile };
            assert!(matches!(&error, StoreError::NoRegistry { found, .. } if *found == expected), "{error:?}");
        }
        assert_eq!(path.exists(), empty, "nothing is made");
        fs::rename(directory.path().join("away"), &path).expect("renamed");
        assert_eq!(store.position().await.expect("it is there again"), before);
    }
}

/// The write-ahead log of the file before has commits that are not in the file, and stays where SQLite looks for that of
/// the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_file_is_opened_in_the_place_of_the_one_before() {
    let (directory, other) = (make_store().await, make_store().await);
    let (path, new) = (directory.path().join("tollgate.db"), other.path().join("tollgate.db"));
    let store = open(&path).await.expect("opens");
    let mut watch = store.watch();
    for n in 0..20 {
        commit(&store, users([Edit::Create(user(&n.to_string()))])).await;
    }
    let restored = open(&new).await.expect("opens");
    let (position, held) = Held::snapshot(&restored).await;
    drop(restored);
    while !matches!(watch.next().await, Notice::Committed { entry, .. } if entry.revision == Revision(21)) {}
    fs::rename(&new, &path).expect("renamed");
    // Nothing is asked of the store meanwhile: it looks by itself.
    let notice = tokio::time::timeout(Duration::from_secs(5), watch.next()).await.expect("a notice");
    assert_eq!(notice, Notice::Lost);
    assert_eq!(Held::snapshot(&store).await, (position, held));
    commit(&store, users([Edit::Create(user("berta"))])).await;
    drop(store);
    let check = Connection::open(&path).expect("opens");
    let sound: String = check.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("runs");
    assert_eq!(sound, "ok");
    let users: i64 = check.query_row("SELECT count(*) FROM users", [], |row| row.get(0)).expect("runs");
    assert_eq!(users, 2);
}

#[tokio::test]
async fn a_database_restored_in_place_is_noticed() {
    let (directory, other) = (make_store().await, make_store().await);
    let path = directory.path().join("tollgate.db");
    let store = open(&path).await.expect("opens");
    let mut watch = store.watch();
    let before = store.position().await.expect("a position");
    let restored = open(&other.path().join("tollgate.db")).await.expect("opens");
    let expected = restored.position().await.expect("a position");
    drop(restored);
    // As `sqlite3 tollgate.db '.restore backup.db'` does it, table by table.
    let attach = format!("ATTACH '{}' AS backup; BEGIN;", other.path().join("tollgate.db").display());
    let copy = ["meta", "users", "tokens", "grants", "history", "log", "tombstones"]
        .map(|table| format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM backup.{table};"));
    run(&path, &format!("{attach} {} COMMIT", copy.join(" "))).expect("runs");
    let notice = tokio::time::timeout(Duration::from_secs(5), watch.next()).await.expect("a notice");
    assert_eq!(notice, Notice::Lost);
    let position = store.position().await.expect("a position");
    assert_eq!(position, expected);
    assert_ne!(position.epoch, before.epoch);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_another_process_is_noticed_within_50_ms() {
    let directory = make_store().await;
    let path = directory.path().join("tollgate.db");
    let (store, other) = (open(&path).await.expect("opens"), open(&path).await.expect("opens"));
    let mut watch = store.watch();
    let mut fastest = Duration::MAX;
    for _ in 0..10 {
        commit(&other, Batch::default()).await;
        let committed = Instant::now();
        let notice = tokio::time::timeout(Duration::from_secs(5), watch.next()).await.expect("a notice");
        assert_eq!(notice, Notice::Moved);
        fastest = fastest.min(committed.elapsed());
    }
    // The fastest, since a busy machine can make any single one late.
    assert!(fastest < Duration::from_millis(50), "{fastest:?}");
}

/// Each time that a thread is woken is one switch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_rest_the_database_is_looked_at_rarely() {
    let directory = make_store().await;
    let sidecar = Serving::start(&format!("sqlite:{}", directory.path().join("tollgate.db").display()), &[]).await;
    eventually("it is ready", || async { sidecar.readiness().await == 200 }).await;
    let switches = || -> u64 {
        let threads = fs::read_dir(format!("/proc/{}/task", sidecar.pid())).expect("runs");
        let statuses = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("status")).ok());
        let control = statuses.filter(|status| !status.starts_with("Name:\tworker-"));
        let counts = control.filter_map(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:\t"))?;
            line.parse::<u64>().ok()
        });
        counts.sum()
    };
    let before = switches();
    tokio::time::sleep(Duration::from_secs(4)).await; // what is counted is what happens in it
    let each_second = (switches() - before) / 4;
    println!("{each_second} switches a second beside the workers");
    assert!(each_second < 60, "{each_second}");
}

/// Where [`commits_until_killed`] finds the store.
const STORE: &str = "TOLLGATE_TEST_STORE";

/// Not a test of its own, but the process that the next one starts and kills: without a store named it does nothing.
#[tokio::test]
async fn commits_until_killed() {
    let Some(path) = std::env::var_os(STORE) else { return };
    let store = open(Path::new(&path)).await.expect("opens");
    let owner = UserId::from_u64(1);
    for round in 0u64.. {
        let create = (0..20).map(|n| Edit::Create(token(owner, &format!("{} {round} {n}", std::process::id()))));
        println!("acknowledged {}", commit(&store, tokens(create)).await.position.revision);
    }
}

#[tokio::test]
async fn a_process_killed_while_committing_loses_nothing_that_was_acknowledged() {
    let directory = directory();
    let path = directory.path().join("tollgate.db");
    for round in 1..=5 {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "sqlite::commits_until_killed", "--nocapture"])
            .env(STORE, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let mut acknowledged = lines.filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<u64>().ok());
        acknowledged.nth(round * 7).expect("it commits");
        child.kill().expect("killed");
        child.wait().expect("reaped");
        let acknowledged = acknowledged.last(); // what it still said, up to its end

        let store = open(&path).await.expect("opens");
        let (position, held) = Held::snapshot(&store).await;
        assert!(acknowledged.is_none_or(|revision| position.revision.0 >= revision), "{acknowledged:?}, {position:?}");
        assert_eq!(position.checksum, held.checksum());
        assert_eq!(held.grants.len() as u64, position.revision.0 * 20, "whole batches only");
        let Changes::Entries(entries) = store.changes(Revision(0)).await.expect("reads") else { panic!("truncated") };
        let mut replayed = Held::default();
        entries.iter().for_each(|entry| replayed.apply(&entry.changes));
        assert_eq!(replayed, held);
        let count = store.count_tokens(Default::default()).await.expect("counts");
        assert_eq!(count, held.grants.len() as u64);
    }
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

async fn open(path: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(path, Retention::default()).await
}

/// A directory with a closed store of one user and two tokens.
async fn make_store() -> TempDir {
    let directory = directory();
    let store = Arc::new(open(&directory.path().join("tollgate.db")).await.expect("opens"));
    let anna = user("anna");
    let made = ["a", "b"].map(|name| token(anna.id, name));
    let history = made.iter().map(|token| (token.id, crate::conformance::created())).collect();
    let batch = Batch { users: vec![Edit::Create(anna)], history, ..tokens(made.map(Edit::Create)) };
    commit(&*store, batch).await;
    directory
}

/// Runs SQL as another program would, and closes the file.
fn run(path: &Path, sql: &str) -> std::io::Result<()> {
    let connection = Connection::open(path).expect("opens");
    connection.execute_batch(sql).expect("runs");
    connection.close().map_err(|(_, error)| std::io::Error::other(error))
}

/// Runs SQL as a program that then dies: what it wrote is still in the write-ahead log.
fn run_unfinished(path: &Path, sql: &str) -> std::io::Result<()> {
    let connection = Connection::open(path).expect("opens");
    connection.execute_batch(sql).expect("runs");
    let as_it_is = (fs::read(path)?, fs::read(log_of(path))?);
    assert!(!as_it_is.1.is_empty());
    connection.close().map_err(|(_, error)| std::io::Error::other(error))?;
    fs::write(path, as_it_is.0)?;
    fs::write(log_of(path), as_it_is.1)
}

/// The write-ahead log of a database.
fn log_of(path: &Path) -> PathBuf {
    path.with_extension("db-wal")
}

/// Makes a file, and checks that it is refused with the problem, and is then what it was.
async fn refused_untouched(make: impl FnOnce(&Path) -> std::io::Result<()>, problem: &str) {
    let directory = directory();
    let path = directory.path().join("tollgate.db");
    make(&path).expect("made");
    let log = fs::read(log_of(&path)).unwrap_or_default();
    let before = (fs::read(&path).expect("reads"), fs::metadata(&path).expect("there").permissions());
    let error = open(&path).await.expect_err("refused");
    assert!(matches!(&error, StoreError::Unusable { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()) && text.contains(problem), "{text}");
    let after = (fs::read(&path).expect("reads"), fs::metadata(&path).expect("there").permissions());
    assert!(before == after, "the file was changed: {problem}");
    assert!(log == fs::read(log_of(&path)).unwrap_or_default(), "the write-ahead log was changed: {problem}");
}
