//! Stores that a later version has made its own: this one refuses them, says so, and leaves them as they are.

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use tempfile::TempDir;
use tollgate::registry::Registry;
use tollgate::store::{Absent, Batch, CommitError, SCHEMA, Store, StoreError, StoreUrl};

use crate::earlier::{Follower, tollgate};
use crate::harness::{RedisServer, eventually, operator};

/// A store whose schema can be set.
enum Place {
    Sqlite(TempDir),
    Redis(RedisServer),
}

impl Place {
    fn empty() -> [Self; 2] {
        [Self::Sqlite(TempDir::new().expect("a directory")), Self::Redis(RedisServer::start())]
    }

    /// One with a registry.
    async fn all() -> [Self; 2] {
        let places = Self::empty();
        for place in &places {
            let store = place.open(Absent::Create).await.expect("opens");
            Registry::new(store).init(&operator(), "olga").await.expect("initialises");
        }
        places
    }

    fn url(&self) -> String {
        match self {
            Self::Sqlite(directory) => format!("sqlite:{}", database(directory.path()).display()),
            Self::Redis(server) => server.url(),
        }
    }

    async fn open(&self, absent: Absent) -> Result<Arc<dyn Store>, StoreError> {
        tollgate::store::open(&self.url().parse::<StoreUrl>().expect("a URL").into(), absent).await
    }

    fn set_schema(&self, schema: u32) {
        match self {
            Self::Sqlite(directory) => {
                let connection = Connection::open(database(directory.path())).expect("opens");
                connection.pragma_update(None, "user_version", schema).expect("is set");
            }
            Self::Redis(server) => drop(server.cli(&["hset", "{tollgate}:meta", "schema", &schema.to_string()])),
        }
    }
}

fn database(directory: &Path) -> std::path::PathBuf {
    directory.join("tollgate.db")
}

#[track_caller]
fn says_what_to_do(error: &StoreError) {
    assert!(matches!(error, StoreError::Unusable { .. }), "{error:?}");
    let text = error.to_string();
    let parts = ["has schema 4, and this program (tollgate ", " and 3: a later version made it so", "docs/upgrade.md"];
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}

#[tokio::test]
async fn a_later_schema_is_refused_by_whoever_opens_it_or_had_it_open() {
    for place in Place::all().await {
        let store = place.open(Absent::Refuse).await.expect("opens");
        assert_eq!(store.schema().await.expect("reads"), SCHEMA);
        let position = store.position().await.expect("reads");
        place.set_schema(SCHEMA + 1);
        for absent in [Absent::Refuse, Absent::Create] {
            let opened = match place.open(absent).await {
                // Redis is asked by the first question.
                Ok(store) => store.position().await.map(drop),
                Err(error) => Err(error),
            };
            says_what_to_do(&opened.expect_err("refused"));
        }
        let failed = store.commit(Batch::default()).await;
        let Err(CommitError::Failed(error)) = failed else { panic!("{failed:?}") };
        says_what_to_do(&error);
        says_what_to_do(&store.schema().await.expect_err("refused"));
        place.set_schema(SCHEMA);
        assert_eq!(store.position().await.expect("reads"), position, "nothing was done to it");
    }
}

/// As when the store is away: it knows what was true.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_whose_store_has_a_later_schema_grows_stale_until_it_has_not() {
    for place in Place::all().await {
        let follower = Follower::start(&place.url()).await;
        place.set_schema(SCHEMA + 1);
        let status = || follower.replica.status();
        let is_refused = async |times| {
            let more = status().reads_failed + times;
            eventually("its probes are refused", || async { status().reads_failed >= more }).await;
        };
        is_refused(1).await;
        let proven = follower.replica.proven();
        is_refused(3).await;
        assert_eq!(follower.replica.proven(), proven, "no proof comes from there");
        assert_eq!(status().grants, 1, "the Owner's token is let in as long as the last one is fresh enough");
        place.set_schema(SCHEMA);
        let is_fresh = || async { follower.replica.proven() > proven };
        eventually("it is proven again", is_fresh).await;
        assert_eq!((status().resyncs, status().divergences), (0, 0));
    }
}

/// As the page on upgrades says: a backup by the program that is replaced, and back to it.
#[tokio::test]
async fn from_a_later_version_the_way_back_is_a_backup() {
    let page = include_str!("../../docs/upgrade.md");
    let line = |command: &str| {
        let found = page.lines().map(str::trim).find(|line| line.starts_with(command)).expect("it is on the page");
        found.to_owned()
    };
    let (backup, restore) = (line("tollgate store backup"), line("tollgate store restore"));
    for (place, empty) in Place::all().await.into_iter().zip(Place::empty()) {
        let folder = TempDir::new().expect("a directory");
        let here = |command: &str| format!("cd {} && {command}", folder.path().display());
        tollgate(&here(&backup), &place.url());
        let listed = tollgate("tollgate token list --json", &place.url());
        place.set_schema(SCHEMA + 1);
        tollgate(&here(&restore), &empty.url());
        assert_eq!(tollgate("tollgate token list --json", &empty.url()), listed);
        tollgate("tollgate status && tollgate user add anna --role viewer", &empty.url());
    }
}
