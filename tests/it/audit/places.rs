//! The trail outside of the store: in a file and in syslog, and what follows where it cannot be written.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tollgate::registry::RegistryError;

use super::*;

fn to_file(path: &Path) -> Settings {
    Settings { file: Some(path.to_owned()), ..Settings::default() }
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).expect("reads").lines().map(str::to_owned).collect()
}

async fn stored(registry: &Registry) -> Vec<String> {
    let lines = registry.store().trail_after(0, 10_000).await.expect("reads");
    lines.into_iter().map(|line| String::from_utf8(line.text).expect("text")).collect()
}

#[tokio::test]
async fn a_file_gets_every_line_once_whoever_writes_it() {
    for place in Place::both() {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("audit.jsonl");
        let registry = place.made().await.with_audit(to_file(&path));
        let tended = registry.tend_audit().await.expect("writes");
        assert_eq!((tended.forwarded.written, tended.forwarded.waiting), (4, 0));
        assert_eq!(fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o600);
        // Another process, and one that has no such setting.
        let (other, without) = (place.open().await.with_audit(to_file(&path)), place.open().await);
        create(&without, "max").await;
        without.tend_audit().await.expect("chains");
        create(&other, "max").await;
        other.tend_audit().await.expect("writes");
        registry.tend_audit().await.expect("writes nothing");
        assert_eq!(lines(&path), stored(&registry).await);
        assert_eq!(lines(&path).len(), 6);

        // A line that was cut off in the midst of writing is written again.
        let whole = fs::read(&path).expect("reads");
        fs::write(&path, &whole[..whole.len() - 20]).expect("cuts it off");
        registry.tend_audit().await.expect("writes");
        assert_eq!(fs::read(&path).expect("reads"), whole);

        // One that was moved away goes on in the next one.
        fs::rename(&path, directory.path().join("audit.1")).expect("moves it");
        create(&registry, "max").await;
        registry.tend_audit().await.expect("writes");
        assert_eq!(lines(&path), stored(&registry).await[6..]);
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_written_loses_nothing_and_is_said() {
    for place in Place::both() {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("nowhere").join("audit.jsonl");
        let registry = place.made().await.with_audit(to_file(&path));
        let forwarded = registry.tend_audit().await.expect("chains").forwarded;
        assert_eq!((forwarded.written, forwarded.waiting, forwarded.problems.len()), (0, 4, 1));
        assert!(forwarded.problems[0].starts_with(&format!("opening {}", path.display())), "{forwarded:?}");
        fs::create_dir(directory.path().join("nowhere")).expect("makes it");
        assert_eq!(registry.tend_audit().await.expect("writes").forwarded.written, 4);
        assert_eq!(lines(&path), stored(&registry).await);
        // What is no trail is left as it is.
        let other = directory.path().join("notes.txt");
        for text in ["shopping list", "shopping list\n", "{\"seq\":1}\nx\n"] {
            fs::write(&other, text).expect("writes");
            let forwarded =
                place.open().await.with_audit(to_file(&other)).tend_audit().await.expect("chains").forwarded;
            assert!(forwarded.problems.iter().any(|problem| problem.contains("is no audit trail")), "{forwarded:?}");
            assert_eq!(fs::read_to_string(&other).expect("reads"), text);
        }
    }
}

#[tokio::test]
async fn a_file_shows_that_the_stores_trail_was_cut() {
    for place in Place::both() {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("audit.jsonl");
        let registry = place.made().await.with_audit(to_file(&path));
        create(&registry, "max").await;
        registry.tend_audit().await.expect("writes");
        let before = fs::read(&path).expect("reads");
        place.cut_after(3);
        create(&registry, "max").await;
        let forwarded = registry.tend_audit().await.expect("chains").forwarded;
        let problem = forwarded.problems.first().expect("it is said");
        assert!(problem.contains("ends with entry 5, and the store has no such entry"), "{problem}");
        assert_eq!(fs::read(&path).expect("reads"), before, "what is known is not written over");
        // Also when the store has as many again.
        create(&registry, "max").await;
        assert_eq!(registry.tend_audit().await.expect("chains").forwarded.problems.len(), 1);
    }
}

impl Place {
    /// Takes out every line after this one.
    fn cut_after(&self, seq: u64) {
        match self {
            Self::Sqlite(directory) => {
                let database = rusqlite::Connection::open(directory.path().join("tollgate.db")).expect("opens");
                database.execute("DELETE FROM audit WHERE seq > ?", [seq.cast_signed()]).expect("removes them");
            }
            Self::Redis(server) => {
                for seq in seq + 1..=seq + 10 {
                    server.cli(&["xdel", "{tollgate}:audit", &format!("{seq}-0")]);
                }
            }
        }
    }
}

#[tokio::test]
async fn where_it_is_required_nothing_is_changed_that_cannot_be_written() {
    for place in Place::both() {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("nowhere").join("audit.jsonl");
        let settings = Settings { required: true, ..to_file(&path) };
        let registry = place.made().await.with_audit(settings);
        let position = registry.store().position().await.expect("reads");
        let refused =
            registry.create_token(&operator(), new_token("max", "edge")).await.map(drop).expect_err("refused");
        assert!(matches!(refused, RegistryError::AuditNotWritten(_)), "{refused:?}");
        assert!(refused.to_string().contains("nowhere") && refused.to_string().contains("audit.required"), "{refused}");
        assert_eq!(registry.store().position().await.expect("reads"), position);
        fs::create_dir(directory.path().join("nowhere")).expect("makes it");
        create(&registry, "max").await;
        registry.tend_audit().await.expect("writes");
        assert_eq!(lines(&path), stored(&registry).await);
    }
}

#[tokio::test]
async fn syslog_gets_every_line_and_what_it_did_not_take_afterwards() {
    for place in Place::both() {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("log");
        let settings = Settings { syslog: Some(path.clone()), ..Settings::default() };
        let registry = place.made().await.with_audit(settings);
        let forwarded = registry.tend_audit().await.expect("chains").forwarded;
        assert_eq!((forwarded.waiting, forwarded.problems.len()), (4, 1), "nobody listens");
        let daemon = UnixDatagram::bind(&path).expect("binds");
        assert_eq!(registry.tend_audit().await.expect("writes").forwarded.written, 4);
        create(&registry, "max").await;
        assert_eq!(registry.tend_audit().await.expect("writes").forwarded.written, 1);
        let mut buffer = vec![0; 64 << 10];
        for line in stored(&registry).await {
            let length = daemon.recv(&mut buffer).expect("receives");
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            assert!(text.starts_with("<110>") && text.ends_with(&line), "{text}");
            assert!(text.contains(&format!(" tollgate-audit[{}]: {{", std::process::id())), "{text}");
        }
    }
}
