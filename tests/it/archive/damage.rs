//! Backups that are not whole.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use tollgate::store::{Batch, Edit, Versioned};
use tollgate::token::Digest;

use super::*;
use crate::conformance::{commit, created, token, tokens, user, users};

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
        (whole.replacen("{\"tollgate_backup\":1", "{\"tollgate_backup\":2", 1), "has the backup format 2"),
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

/// A file system without room, as a limit on files makes one.
#[tokio::test]
async fn a_full_disk_leaves_neither_a_backup_nor_a_registry() {
    let folder = tempfile::tempdir().expect("a folder");
    backup(folder.path()).await;
    let (url, whole) = (sqlite(&folder.path().join("registry.db")), folder.path().join("whole.backup"));
    let limited = |store: &str, arguments: &[&str]| {
        let script = r#"trap "" XFSZ; ulimit -f 8; exec "$@""#; // blocks of 512 or 1024 bytes
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_tollgate"), "--store", store]).args(arguments);
        command.env_clear().env("HOME", "/nonexistent").output().expect("runs")
    };
    let before = names(folder.path());
    failed(&limited(&url, &["store", "backup", text(&folder.path().join("second.backup"))]));
    let target = sqlite(&folder.path().join("target.db"));
    failed(&limited(&target, &["store", "restore", text(&whole)]));
    assert_eq!(names(folder.path()), before);
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).expect("reads").map(|entry| entry.expect("reads").file_name());
    let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.retain(|name| !name.ends_with("-wal") && !name.ends_with("-shm"));
    names.sort();
    names
}
