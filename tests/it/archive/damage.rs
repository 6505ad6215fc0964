//! Backups that are not whole.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use tollgate::store::Versioned;
use tollgate::token::Digest;

use super::*;
use crate::conformance::{user, users};
use crate::harness::RedisServer;

/// A whole backup of a registry with one of everything.
async fn backup(folder: &Path) -> Vec<u8> {
    let store = filled(&sqlite(&folder.join("registry.db"))).await;
    written(&*store, folder).await
}

/// The same of one so small that the file can be damaged in every way.
async fn small_backup(folder: &Path) -> Vec<u8> {
    let store = open(&sqlite(&folder.join("registry.db")), Absent::Create).await;
    let anna = user("anna");
    commit(&*store, users([Edit::Create(anna.clone())])).await;
    let made = ["a", "b"].map(|name| token(anna.id, name));
    let history = vec![(made[0].id, created())];
    let version = commit(&*store, Batch { history, ..tokens(made.clone().map(Edit::Create)) }).await.id;
    let [_, deleted] = made.map(|record| Versioned { record, version });
    commit(&*store, tokens([Edit::Delete(deleted)])).await;
    store.recall(&[Digest::of(b"recalled")]).await.expect("recalls");
    written(&*store, folder).await
}

async fn written(store: &dyn Store, folder: &Path) -> Vec<u8> {
    let file = folder.join("whole.backup");
    archive::write_backup(store, &file).await.expect("writes");
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    fs::read(&file).expect("reads")
}

#[tokio::test]
async fn a_backup_that_was_cut_off_anywhere_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = small_backup(folder.path()).await;
    let file = folder.path().join("cut.backup");
    fs::write(&file, &whole).expect("writes");
    assert!(Backup::open(&file).is_ok());
    // From the end: each length is a truncation of the same file.
    let cut = fs::OpenOptions::new().write(true).open(&file).expect("opens");
    for length in (0..whole.len()).rev() {
        cut.set_len(length as u64).expect("cuts");
        assert!(Backup::open(&file).is_err(), "{length} of {} bytes", whole.len());
    }
}

#[tokio::test]
async fn a_backup_with_a_changed_byte_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = small_backup(folder.path()).await;
    let file = folder.path().join("changed.backup");
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&file, &bytes).expect("writes");
        assert!(
            Backup::open(&file).is_err(),
            "byte {at}: {}",
            String::from_utf8_lossy(&bytes[at.saturating_sub(30)..])
        );
    }
    let more = [&whole[..], b"{}\n"].concat();
    fs::write(&file, more).expect("writes");
    assert!(Backup::open(&file).expect_err("refused").to_string().contains("after its last line"));
}

#[tokio::test]
async fn what_is_no_backup_of_this_version_is_refused_and_nothing_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = String::from_utf8(backup(folder.path()).await).expect("text");
    let (file, target) = (folder.path().join("other"), folder.path().join("target.db"));
    let twice = whole.lines().nth(1).expect("an item");
    for (content, message) in [
        ("dear diary\n".to_owned(), "is not a backup of a Tollgate registry"),
        (String::new(), "is not a backup of a Tollgate registry"),
        (whole.replacen("{\"tollgate_backup\":2", "{\"tollgate_backup\":3", 1), "has the backup format 3"),
        (whole.replacen(twice, &format!("{twice}\n{twice}"), 1), "its checksum is not that of the lines before"),
        (whole.replacen(&format!("{twice}\n"), "", 1), "its checksum is not that of the lines before"),
    ] {
        fs::write(&file, content).expect("writes");
        let said = failed(&tollgate(&sqlite(&target), &["store", "restore", text(&file)]));
        assert!(said.contains(message) && said.contains(text(&file)), "{said}");
        assert!(!target.exists() && !folder.path().join("target.db.unfinished").exists());
    }
    let said = failed(&tollgate(&sqlite(&target), &["store", "restore", "/nonexistent/file"]));
    assert!(said.contains("opening /nonexistent/file"), "{said}");
}

#[tokio::test]
async fn a_backup_from_before_there_was_an_audit_trail_is_restored() {
    use sha2::Digest as _;
    let folder = tempfile::tempdir().expect("a folder");
    let (url, file) = (sqlite(&folder.path().join("tollgate.db")), folder.path().join("whole.backup"));
    let store = open(&url, Absent::Create).await;
    commit(&*store, tokens([])).await;
    done(&tollgate(&url, &["store", "backup", text(&file)]));
    let whole = fs::read_to_string(&file).expect("reads");
    let (lines, _) = whole.trim_end().rsplit_once('\n').expect("lines");
    assert!(lines.contains("\"tollgate_backup\":2") && lines.contains(",\"audit\":0"), "{lines}");
    let lines =
        lines.replacen("\"tollgate_backup\":2", "\"tollgate_backup\":1", 1).replacen(",\"audit\":0", "", 1) + "\n";
    let sum: String = sha2::Sha256::digest(&lines).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(&file, format!("{lines}{{\"sha256\":\"{sum}\"}}\n")).expect("writes");
    let target = sqlite(&folder.path().join("target.db"));
    done(&tollgate(&target, &["store", "restore", text(&file)]));
    assert_eq!(contents(&*open(&target, Absent::Refuse).await).await, contents(&*store).await);
}

#[tokio::test]
async fn a_backup_takes_nothings_place() {
    let folder = tempfile::tempdir().expect("a folder");
    backup(folder.path()).await;
    let (url, file) = (sqlite(&folder.path().join("registry.db")), folder.path().join("whole.backup"));
    let before = fs::read(&file).expect("reads");
    let said = failed(&tollgate(&url, &["store", "backup", text(&file)]));
    assert!(said.contains("exists already"), "{said}");
    assert_eq!(fs::read(&file).expect("reads"), before);
    let said = failed(&tollgate(&url, &["store", "restore", text(&file)]));
    assert!(said.contains("is not empty, and nothing is written over"), "{said}");
    let json = done(&tollgate(&url, &["store", "backup", text(&folder.path().join("second")), "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["users"], &json["tokens"], &json["revision"]), (&2.into(), &38.into(), &5.into()));
}

/// A file system without room, as a limit on files makes one: at once, and after much was written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_leaves_neither_a_backup_nor_a_registry() {
    let (server, folder) = (RedisServer::start(), tempfile::tempdir().expect("a folder"));
    let [source, target] = ["source.db", "target.db"].map(|name| sqlite(&folder.path().join(name)));
    let [whole, new] = ["whole.backup", "new.backup"].map(|name| folder.path().join(name));
    let store = filled_with_many(&source).await;
    archive::write_backup(&*store, &whole).await.expect("writes");
    done(&run(&["store", "copy", &source, &server.url()], &[]));
    let size = fs::metadata(&whole)
        .expect("there")
        .len()
        .min(fs::metadata(folder.path().join("source.db")).expect("there").len());
    let (before, redis) = (names(folder.path()), server.url());
    for kib in [4, size / 1024 / 2] {
        for (arguments, message) in [
            (["--store", &source, "store", "backup", text(&new)].to_vec(), "File too large"),
            (["--store", &redis, "store", "backup", text(&new)].to_vec(), "File too large"),
            (["--store", &target, "store", "restore", text(&whole)].to_vec(), "disk I/O error"),
            (["store", "copy", &redis, &target, "--freeze"].to_vec(), "disk I/O error"),
        ] {
            // In bash, whose blocks are KiB.
            let script = format!(r#"trap "" XFSZ; ulimit -f {kib}; exec "$@""#);
            let mut command = std::process::Command::new("bash");
            command.args(["-c", &script, "bash", env!("CARGO_BIN_EXE_tollgate")]).args(&arguments);
            let said = failed(&command.env_clear().env("HOME", "/nonexistent").output().expect("runs"));
            assert!(said.contains(message), "{kib} KiB, {arguments:?}: {said}");
            assert_eq!(names(folder.path()), before, "{kib} KiB, {arguments:?}");
        }
    }
    for url in [&source, &redis] {
        assert_eq!(open(url, Absent::Refuse).await.frozen().await.expect("reads"), None, "{url}");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).expect("reads").map(|entry| entry.expect("reads").file_name());
    let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.retain(|name| !name.ends_with("-wal") && !name.ends_with("-shm"));
    names.sort();
    names
}

/// Nobody's file is written to, whatever it is called: not that of another process of the same id, as there is one in each
/// container, nor what a link leads to.
#[tokio::test]
async fn a_backup_is_written_into_a_file_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let (url, other) = (sqlite(&folder.path().join("registry.db")), folder.path().join("other"));
    filled(&url).await;
    fs::write(&other, "another's").expect("writes");
    let script = "ln -s other \"backup.$$.part\" && exec \"$0\" --store \"$1\" store backup backup";
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_tollgate"), &url]).current_dir(folder.path());
    done(&shell.output().expect("runs"));
    assert_eq!(fs::read_to_string(&other).expect("reads"), "another's");
    let made = fs::symlink_metadata(folder.path().join("backup")).expect("is there");
    assert_eq!((made.is_file(), made.permissions().mode() & 0o7777), (true, 0o600));
}

#[tokio::test]
async fn a_link_that_leads_nowhere_is_no_place_for_a_database() {
    let folder = tempfile::tempdir().expect("a folder");
    let [source, place] = ["source.db", "place.db"].map(|name| folder.path().join(name));
    filled(&sqlite(&source)).await;
    std::os::unix::fs::symlink(folder.path().join("nowhere"), &place).expect("links");
    let said = failed(&run(&["store", "copy", &sqlite(&source), &sqlite(&place)], &[]));
    assert!(said.contains("is a symbolic link to a file that is not there"), "{said}");
    assert!(!folder.path().join("place.db.unfinished").exists(), "nothing was begun");
}
