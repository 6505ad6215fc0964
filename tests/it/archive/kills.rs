//! SIGKILL at random points of copy, backup and restore: what there is afterwards is whole, or not there. And of import: what
//! there is afterwards is whole, and the rest can follow.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tollgate::store::archive::Summary;
use tollgate_harness::random::{Random, fresh_seed};

use super::*;
use crate::conformance::archive::dumped;
use crate::harness::RedisServer;

/// What each is killed in.
#[derive(Debug, Clone, Copy)]
enum Work {
    CopyToRedis,
    CopyToFile,
    Backup,
    RestoreToRedis,
    RestoreToFile,
}

struct Site {
    folder: tempfile::TempDir,
    server: RedisServer,
    /// What every copy must be.
    expected: Summary,
    from_redis: RedisServer,
}

impl Site {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let source = filled_with_many(&sqlite(&folder.path().join("source.db"))).await;
        let site = Self {
            expected: dumped(&*source).await.0,
            folder,
            server: RedisServer::start(),
            from_redis: RedisServer::start(),
        };
        done(&run(&["store", "copy", &site.source(), &site.from_redis.url()], &[]));
        done(&tollgate(&site.source(), &["store", "backup", text(&site.path("whole.backup"))]));
        site
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn source(&self) -> String {
        sqlite(&self.path("source.db"))
    }

    fn target(&self, work: Work) -> String {
        match work {
            Work::CopyToRedis | Work::RestoreToRedis => self.server.url(),
            Work::CopyToFile | Work::RestoreToFile | Work::Backup => sqlite(&self.path("target.db")),
        }
    }

    fn command(&self, work: Work) -> Command {
        let (target, from_redis) = (self.target(work), self.from_redis.url());
        let [whole, new] = ["whole.backup", "new.backup"].map(|name| self.path(name));
        let source = self.source();
        let arguments = match work {
            Work::CopyToRedis => ["store", "copy", &source, &target].to_vec(),
            Work::CopyToFile => ["store", "copy", &from_redis, &target].to_vec(),
            Work::Backup => ["--store", &from_redis, "store", "backup", text(&new)].to_vec(),
            Work::RestoreToRedis | Work::RestoreToFile => {
                ["--store", &target, "store", "restore", text(&whole)].to_vec()
            }
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command.env_clear().env("HOME", "/nonexistent").args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// What there is now: nothing, or all of it.
    async fn is_whole(&self, work: Work) -> bool {
        for source in [&self.source(), &self.from_redis.url()] {
            assert_eq!(dumped(&*open(source, Absent::Refuse).await).await.0, self.expected, "the source");
        }
        if let Work::Backup = work {
            let new = self.path("new.backup");
            if !new.exists() {
                return false;
            }
            let whole = Backup::open(&self.path("whole.backup")).expect("is whole").whole();
            assert_eq!(Backup::open(&new).expect("is whole").whole().summary, whole.summary);
            return true;
        }
        let Ok(store) = tollgate::store::open(&settings(&self.target(work)), Absent::Refuse).await else {
            return false;
        };
        assert_eq!(dumped(&*store).await.0, self.expected, "the target");
        true
    }

    fn clear(&self) {
        assert_eq!(self.server.cli(&["flushall"]), "OK");
        for entry in fs::read_dir(self.folder.path()).expect("reads") {
            let path = entry.expect("reads").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if name.starts_with("target.db") || name.starts_with("new.backup") {
                fs::remove_file(path).expect("removes");
            }
        }
    }

    /// How long it takes when nobody kills it.
    async fn takes(&self, work: Work) -> Duration {
        let began = Instant::now();
        assert!(self.command(work).status().expect("runs").success(), "{work:?}");
        let took = began.elapsed();
        assert!(self.is_whole(work).await, "{work:?}");
        self.clear();
        took
    }
}

/// Kills each work that many times, and has it done afterwards where it was not.
async fn kill(times: u32) {
    let seed = fresh_seed();
    println!("seed {seed}");
    let (mut random, site) = (Random::new(seed), Site::new().await);
    let works = [Work::CopyToRedis, Work::CopyToFile, Work::Backup, Work::RestoreToRedis, Work::RestoreToFile];
    let (mut whole, mut none) = (0, 0);
    for work in works {
        let takes = site.takes(work).await;
        for _ in 0..times {
            let mut child = site.command(work).spawn().expect("runs");
            let micros = usize::try_from(takes.as_micros()).expect("not long");
            // Only a point in time can be any point of the work.
            std::thread::sleep(Duration::from_micros(random.below(micros + micros / 10) as u64));
            child.kill().expect("kills");
            child.wait().expect("ends");
            if site.is_whole(work).await {
                whole += 1;
            } else {
                none += 1;
                assert!(site.command(work).status().expect("runs").success(), "{work:?} after one that was killed");
                assert!(site.is_whole(work).await, "{work:?}");
            }
            site.clear();
        }
    }
    println!("{whole} were whole, {none} were not there");
}

/// Tokens of an import: several commits.
const IMPORTED: u64 = 3000;

/// A file of them, all of one owner.
fn tokens_to_import(path: &std::path::Path) {
    let line = |number: u64| {
        let digest = tollgate::token::Digest::of(&number.to_le_bytes()).to_string();
        format!(
            "{{\"digest\":\"{digest}\",\"user\":\"olga\",\"description\":\"an agent\",\"permissions\":[\"heartbeat:write\"]}}\n"
        )
    };
    fs::write(path, (0..IMPORTED).map(line).collect::<String>()).expect("writes");
}

/// Kills imports that many times in each kind of store. What is there then is whole tokens, as the registry's checksum says;
/// and once more with what is missing it is all of them.
async fn kill_imports(times: u32) {
    let seed = fresh_seed();
    println!("seed {seed}");
    let (mut random, folder, server) =
        (Random::new(seed), tempfile::tempdir().expect("a folder"), RedisServer::start());
    let file = folder.path().join("tokens.jsonl");
    tokens_to_import(&file);
    for round in 0..times {
        for url in [server.url(), sqlite(&folder.path().join(format!("{round}.db")))] {
            assert_eq!(server.cli(&["flushall"]), "OK");
            done(&tollgate(&url, &["init", "--owner", "olga"]));
            let arguments = ["--store", &url, "token", "import", text(&file), "--skip-existing"];
            let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
            command.env_clear().args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().expect("runs");
            let store = open(&url, Absent::Refuse).await;
            let tokens = async || dumped(&*store).await.0.tokens;
            // As soon as there are so many: at any point of a commit.
            let enough = random.below(usize::try_from(IMPORTED).expect("few")) as u64;
            while tokens().await <= enough && child.try_wait().expect("asks").is_none() {}
            child.kill().expect("kills");
            child.wait().expect("ends");
            let found = tokens().await - 1;
            assert!(found <= IMPORTED && found.is_multiple_of(500), "{found}: each commit is whole");
            done(&tollgate(&url, &arguments[2..]));
            assert_eq!(tokens().await - 1, IMPORTED);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_killed_is_whole_or_not_there() {
    kill(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_is_killed_goes_on() {
    kill_imports(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn an_import_that_is_killed_two_hundred_times_goes_on() {
    kill_imports(100).await;
}

/// The same two hundred times: `cargo test --test it -- --ignored two_hundred`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn whatever_is_killed_two_hundred_times_is_whole_or_not_there() {
    kill(40).await;
}
