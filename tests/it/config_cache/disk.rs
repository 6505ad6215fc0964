//! What is stored survives a restart, and is believed only as far as it is whole.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::{MODIFIED, PATH, assert_stored, cached, configuration, fetched, is_away, with};
use crate::harness::{Builder, Client, Program, Script, Site, Upstream, eventually, refusing, request, scripted};

/// A site with the cache on disk.
fn on_disk() -> Builder {
    cached().config_in(|config, directory| config.config_cache.directory = Some(directory.join("configs")))
}

/// The files of stored configurations.
fn files(site: &Site) -> Vec<PathBuf> {
    let entries = fs::read_dir(site.directory().join("configs")).expect("a directory");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "config"));
    files.sort();
    files
}

async fn restarted(site: Site) -> Site {
    let site = site.restart().await;
    site.replica_is_current().await;
    site
}

#[tokio::test]
async fn agents_boot_after_a_restart_during_the_outage() {
    let site = on_disk().start().await;
    fetched(&site, PATH, "interval = 1").await;
    is_away(&site);
    let site = restarted(site).await;
    assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
    let reply = site.send(with(&site.agent, "HEAD", PATH, "")).await;
    assert_eq!(reply.field("Last-Modified"), Some(MODIFIED));
    let mode = |path: &std::path::Path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
    assert_eq!(files(&site).iter().map(|file| mode(file)).collect::<Vec<_>>(), [0o600]);
    assert_eq!(mode(&site.directory().join("configs")), 0o700);
}

#[tokio::test]
async fn a_watcher_is_the_first_to_ask_after_a_restart() {
    let site = on_disk().start().await;
    fetched(&site, PATH, "interval = 1").await;
    is_away(&site);
    let site = restarted(site).await;
    let reply = site.send(with(&site.agent, "HEAD", PATH, "")).await;
    assert_eq!((reply.status(), reply.field("Last-Modified")), (200, Some(MODIFIED)));
}

#[tokio::test]
async fn a_revoked_token_gets_nothing_from_disk() {
    let site = on_disk().start().await;
    fetched(&site, PATH, "interval = 1").await;
    is_away(&site);
    site.revoke(&site.agent).await;
    let site = restarted(site).await;
    assert_eq!(site.get(PATH, &site.agent).await.status(), 401);
}

#[tokio::test]
async fn damaged_files_are_dropped_and_said() {
    /// What becomes of the files.
    type Damage = fn(&[PathBuf]);
    let damages: [(&str, Damage); 5] = [
        ("cut", |files| {
            let bytes = fs::read(&files[0]).expect("reads");
            fs::write(&files[0], &bytes[..bytes.len() - 1]).expect("writes");
        }),
        ("empty", |files| fs::write(&files[0], b"").expect("writes")),
        ("a bit", |files| {
            let mut bytes = fs::read(&files[0]).expect("reads");
            *bytes.last_mut().expect("bytes") ^= 1;
            fs::write(&files[0], bytes).expect("writes");
        }),
        ("another's", |files| {
            fs::copy(&files[1], &files[0]).expect("copies");
        }),
        ("open to others", |files| {
            fs::set_permissions(&files[0], fs::Permissions::from_mode(0o666)).expect("sets");
        }),
    ];
    for (what, damage) in damages {
        let site = on_disk().start().await;
        fetched(&site, PATH, "interval = 1").await;
        fetched(&site, "/c/other", "interval = 2").await;
        is_away(&site);
        let directory = site.directory().to_owned();
        let site = site.restart_after(|| {
            let mut files: Vec<_> = fs::read_dir(directory.join("configs"))
                .expect("a directory")
                .map(|entry| entry.expect("an entry").path())
                .filter(|path| path.extension().is_some_and(|extension| extension == "config"))
                .collect();
            files.sort();
            assert_eq!(files.len(), 2);
            damage(&files);
        });
        let site = site.await;
        site.replica_is_current().await;
        // Nothing is read before it is asked for.
        assert_eq!(site.metric("tollgate_config_cache_damaged_total").await, "0", "{what}");
        assert_eq!(
            (site.metric("tollgate_config_cache_entries").await.as_str(), files(&site).len()),
            ("2", 2),
            "{what}"
        );
        let mut statuses = Vec::new();
        for path in [PATH, "/c/other"] {
            statuses.push(site.get(path, &site.agent).await.status());
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 503], "{what}");
        assert_eq!(site.metric("tollgate_config_cache_damaged_total").await, "1", "{what}");
        assert_eq!(files(&site).len(), 1, "{what}");
    }
}

/// That of another Controller is not given, whoever left it there.
#[tokio::test]
async fn another_controllers_answers_are_dropped() {
    let site = on_disk().start().await;
    fetched(&site, PATH, "interval = 1").await;
    is_away(&site);
    let (_socket, nobody) = refusing();
    let builder = cached().api_at(format!("http://{nobody}"));
    let from = site.directory().join("configs");
    within_files(&site, 1).await;
    let other = builder.config_in(move |config, directory| {
        let to = directory.join("configs");
        fs::create_dir(&to).expect("makes");
        for file in fs::read_dir(&from).expect("a directory") {
            let file = file.expect("an entry");
            fs::copy(file.path(), to.join(file.file_name())).expect("copies");
        }
        config.config_cache.directory = Some(to);
        config.upstreams.api.credential = tollgate::upstream::CredentialMode::Strip;
    });
    let other = other.start().await;
    assert_eq!(other.get(PATH, &other.agent).await.status(), 502);
}

async fn within_files(site: &Site, count: usize) {
    eventually("the files", || async { files(site).len() == count }).await;
}

#[tokio::test]
async fn what_is_forgotten_is_gone_from_disk() {
    let site = on_disk().start().await;
    fetched(&site, PATH, "interval = 1").await;
    within_files(&site, 1).await;
    let site = restarted(site).await;
    // Not read yet.
    site.api.next(Script::reply(scripted("404 Not Found", "", "gone")));
    assert_eq!(site.get("/api/configs/1/toml", &site.agent).await.status(), 404);
    within_files(&site, 0).await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_said_and_done_without() {
    let site = cached().config_in(|config, directory| {
        fs::write(directory.join("configs"), b"a file").expect("writes");
        config.config_cache.directory = Some(directory.join("configs"));
    });
    let site = site.start().await;
    fetched(&site, PATH, "interval = 1").await;
    is_away(&site);
    assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
    let mut client = Client::connect(site.sidecar.admin()).await;
    client.send("GET /readyz HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").await;
    let ready = String::from_utf8(client.rest().await).expect("text");
    assert!(ready.contains("config_cache.directory") && ready.contains("cannot be used"), "{ready}");
}

pub(super) async fn ready(program: &Program) -> String {
    let mut admin = Client::connect(program.admin()).await;
    admin.send("GET /readyz HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").await;
    String::from_utf8(admin.rest().await).expect("text")
}

/// No descriptor is left: nothing is given, and nothing is lost.
#[tokio::test]
async fn what_cannot_be_read_is_missed_and_not_damaged() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let directory = tempfile::tempdir().expect("a directory");
    let variables = [
        ("WORKERS", "1"),
        ("UPSTREAM__API__POOL__MAX_IDLE", "0"),
        ("CONFIG_CACHE__ENABLED", "true"),
        ("CONFIG_CACHE__DIRECTORY", directory.path().to_str().expect("a plain path")),
    ];
    let first = Program::start(&api, &heartbeat, &variables);
    let fetch = request("GET", PATH, &format!("Authorization: Bearer {}\r\n", first.token));
    let mut client = Client::connect(first.address()).await;
    api.next(Script::reply(configuration("interval = 1")));
    client.send(&fetch).await;
    assert_eq!(client.reply().await.text(), "interval = 1");
    let written = || {
        let files = fs::read_dir(directory.path()).expect("a directory").map(|entry| entry.expect("an entry").path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "config")).count()
    };
    eventually("the file", || async { written() == 1 }).await;

    // It has the file, and has not read it.
    let (second, token) = (first.beside(&api, &heartbeat, &variables), first.token.clone());
    drop(first);
    eventually("the directory is its own", || async { !ready(&second).await.contains("another process") }).await;
    let mut client = Client::connect(second.address()).await;
    client.send(request("GET", "/api/configs/other/toml", &format!("Authorization: Bearer {token}\r\n"))).await;
    assert_eq!(client.reply().await.text(), "ok", "all of it has started");
    eventually("nothing is to be written any more", || async { written() == 2 }).await;
    drop(api.kill().await);
    let pid = i32::try_from(second.pid()).ok().and_then(Pid::from_raw);
    let maximum = getrlimit(Resource::Nofile).maximum; // inherited
    let before = prlimit(pid, Resource::Nofile, Rlimit { current: Some(3), maximum }).expect("takes them away");
    client.send(&fetch).await;
    assert_eq!(client.reply().await.status(), 502);
    prlimit(pid, Resource::Nofile, before).expect("gives back");
    client.send(&fetch).await;
    assert_stored(&client.reply().await, "interval = 1");
    let mut admin = Client::connect(second.admin()).await;
    admin.send("GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").await;
    let metrics = String::from_utf8(admin.rest().await).expect("text");
    for (name, value) in [("damaged_total", "0"), ("disk_failures_total", "1")] {
        assert!(metrics.contains(&format!("\ntollgate_config_cache_{name} {value}\n")), "{name}: {metrics}");
    }
}

/// A host that was switched off while a file was written.
#[tokio::test]
async fn what_was_not_written_to_its_end_is_removed() {
    let site = on_disk().start().await;
    fetched(&site, PATH, "interval = 1").await;
    is_away(&site);
    let configs = site.directory().join("configs");
    let (unfinished, foreign) = (configs.join("0123456789abcdef.new"), configs.join("notes.new"));
    let site = site.restart_after(|| {
        [&unfinished, &foreign].into_iter().for_each(|file| fs::write(file, b"TGCACHE1").expect("writes"));
    });
    let site = site.await;
    site.replica_is_current().await;
    assert!(foreign.exists(), "it is somebody else's");
    assert!(!site.directory().join("configs").join("0123456789abcdef.new").exists());
    assert_stored(&site.get(PATH, &site.agent).await, "interval = 1");
}

#[tokio::test]
async fn an_operator_forgets_what_is_on_disk_too() {
    let site = on_disk().start().await;
    fetched(&site, PATH, "interval = 1").await;
    let site = restarted(site).await;
    let output = super::operators::tollgate(&site, &["cache", "purge", "--all"]).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1 forgotten\n");
    assert_eq!(files(&site).len(), 0, "when it says so");
}

/// Two stored configurations and their files, that of the first one first in order.
async fn two_in_order(site: &Site) -> [(&'static str, PathBuf); 2] {
    let mut stored = Vec::new();
    for path in ["/c/one", "/c/two"] {
        fetched(site, path, "interval = 1").await;
        within_files(site, stored.len() + 1).await;
        let known = |file: &PathBuf| stored.iter().any(|(_, other)| other == file);
        let file = files(site).into_iter().find(|file| !known(file)).expect("another file");
        stored.push((path, file));
    }
    stored.sort_by(|(_, a), (_, b)| a.cmp(b));
    stored.try_into().expect("two")
}

/// Where a directory is, no file can be written or removed.
fn block(file: &std::path::Path) {
    fs::remove_file(file).expect("removes");
    fs::create_dir(file).expect("makes");
}

#[tokio::test]
async fn a_file_that_cannot_be_written_keeps_no_other_from_being_removed() {
    let site = on_disk().start().await;
    let [(one, file), (two, other)] = two_in_order(&site).await;
    block(&file);
    site.api.next(Script::reply(super::modified(super::LATER, "interval = 2")));
    assert_eq!(site.get(one, &site.agent).await.text(), "interval = 2");
    let has_failed = || async { site.metric("tollgate_config_cache_disk_failures_total").await != "0" };
    eventually("it cannot be written", has_failed).await;
    site.api.next(Script::reply(scripted("404 Not Found", "", "gone")));
    assert_eq!(site.get(two, &site.agent).await.status(), 404);
    eventually("the other one is gone", || async { !other.exists() }).await;
    fetched(&site, "/c/three", "interval = 3").await;
    within_files(&site, 2).await;
}

#[tokio::test]
async fn a_purge_that_leaves_files_says_so() {
    let site = on_disk().start().await;
    let [(one, file), (two, other)] = two_in_order(&site).await;
    block(&file);
    let refused = super::operators::tollgate(&site, &["cache", "purge", "--all"]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("1 of the files in") && said.contains("could not be removed"), "{said}");
    assert!(!other.exists());
    is_away(&site);
    for path in [one, two] {
        assert_eq!(site.get(path, &site.agent).await.status(), 503, "it is forgotten");
    }
    fs::remove_dir(&file).expect("removes");
    let purged = super::operators::tollgate(&site, &["cache", "purge", one]).await;
    assert_eq!(String::from_utf8_lossy(&purged.stdout), "1 forgotten\n", "what is left can be tried again");
}

/// A pipe that nobody writes to is read for as long as a file of a disk that hangs.
#[tokio::test]
async fn a_file_whose_reading_hangs_is_read_once() {
    let site = on_disk().start().await;
    fetched(&site, PATH, "interval = 1").await;
    within_files(&site, 1).await;
    is_away(&site);
    let file = files(&site).remove(0);
    let pipe = file.clone();
    let site = site.restart_after(move || {
        fs::remove_file(&pipe).expect("removes");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("makes");
    });
    let site = site.await;
    site.replica_is_current().await;
    for _ in 0..3 {
        assert_eq!(site.get(PATH, &site.agent).await.status(), 503);
    }
    // All that read it are let go, and find that it is none of its files.
    let writer = tokio::task::spawn_blocking(move || fs::OpenOptions::new().write(true).open(file));
    let _writer = writer.await.expect("runs").expect("opens");
    let damaged = || async { site.metric("tollgate_config_cache_damaged_total").await };
    eventually("they are let go", || async { damaged().await != "0" }).await;
    assert_eq!(damaged().await, "1");
}
