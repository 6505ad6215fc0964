//! What happens to a server or a line in the middle of a copy: the source is as it was, and the target is the registry or none.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tollgate::store::archive::{Item, Items, Unfinished};
use tollgate::store::{StoreError, Unconfirmed};
use tollgate_harness::pair::Pair;

use super::*;
use crate::harness::{RedisServer, Relay, SentinelSet, Traffic};

type Event = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A target to which something happens.
struct Interrupted {
    target: Box<dyn Unfinished>,
    when: When,
    event: Option<Event>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// So many pieces come before.
    After(usize),
    /// It is to become a registry.
    AtTheEnd,
    /// It has become one.
    Afterwards,
}

impl Interrupted {
    fn around(
        target: Box<dyn Unfinished>,
        when: When,
        event: impl Future<Output = ()> + Send + 'static,
    ) -> Box<dyn Unfinished> {
        Box::new(Self { target, when, event: Some(Box::pin(event)) })
    }
}

#[async_trait]
impl Unfinished for Interrupted {
    async fn write(&mut self, items: Vec<Item>) -> Result<(), StoreError> {
        match &mut self.when {
            When::After(pieces @ 1..) => *pieces -= 1,
            When::After(0) => {
                if let Some(event) = self.event.take() {
                    event.await;
                }
            }
            When::AtTheEnd | When::Afterwards => {}
        }
        self.target.write(items).await
    }

    async fn read(&mut self, items: Items) -> Result<(), StoreError> {
        assert!(!matches!(self.when, When::After(_)) || self.event.is_none(), "there were too few pieces");
        self.target.read(items).await
    }

    async fn finish(self: Box<Self>, after: Position) -> Result<(Position, Option<Unconfirmed>), CopyError> {
        let Self { target, when, mut event } = *self;
        if let Some(event) = event.take_if(|_| when == When::AtTheEnd) {
            event.await;
        }
        let finished = target.finish(after).await;
        if let Some(event) = event {
            event.await;
        }
        finished
    }
}

struct Source {
    folder: tempfile::TempDir,
    store: Arc<dyn Store>,
    before: String,
}

impl Source {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = filled_with_many(&sqlite(&folder.path().join("source.db"))).await;
        let before = contents(&*store).await;
        Self { folder, store, before }
    }

    /// Copies it, while this happens after three pieces.
    async fn copy(&self, to: &Settings, event: impl Future<Output = ()> + Send + 'static) -> Result<(), CopyError> {
        let target = archive::begin(to).await.expect("is empty");
        self.copy_into(Interrupted::around(target, When::After(3), event), to).await
    }

    async fn copy_into(&self, target: Box<dyn Unfinished>, to: &Settings) -> Result<(), CopyError> {
        let outcome = ends(archive::copy(&*self.store, None, target, to)).await.map(drop);
        assert_eq!(contents(&*self.store).await, self.before, "the source");
        outcome
    }

    async fn is_at(&self, url: &str) {
        assert_eq!(contents(&*open(url, Absent::Refuse).await).await, self.before, "{url}");
    }

    /// There is none; and a copy that nothing happens to makes one.
    async fn is_not_at(&self, url: &str) {
        let opened =
            tollgate::store::open(&settings(url), Absent::Refuse).await.err().expect("no registry").to_string();
        assert!(opened.contains("is being filled"), "{opened}");
        self.copy(&settings(url), async {}).await.expect("copies");
        self.is_at(url).await;
    }
}

/// A copy of so many tokens may take its time on a busy machine, and never for ever.
async fn ends<T>(copy: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), copy).await.expect("the copy ends")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_is_lost_leaves_no_registry() {
    let (server, source) = (RedisServer::start(), Source::new().await);
    let relay = Arc::new(Relay::start(server.address()).await);
    let url = format!("redis://{}", relay.address());
    let cut = Arc::clone(&relay);
    let outcome = source.copy(&settings(&url), async move { cut.set(Traffic::Cut).await }).await;
    let error = outcome.expect_err("the line is lost");
    assert!(matches!(error, CopyError::Store(StoreError::Unavailable { .. })), "{error:?}");
    source.is_not_at(&server.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_is_there_again_at_once_ends_no_copy() {
    let (server, source) = (RedisServer::start(), Source::new().await);
    let relay = Arc::new(Relay::start(server.address()).await);
    let url = format!("redis://{}", relay.address());
    let reset = Arc::clone(&relay);
    source.copy(&settings(&url), async move { reset.reset().await }).await.expect("copies");
    source.is_at(&url).await;
    // And where it leads to the source.
    let (back, reset) = (sqlite(&source.folder.path().join("back.db")), Arc::clone(&relay));
    let target = archive::begin(&settings(&back)).await.expect("is empty");
    let target = Interrupted::around(target, When::After(3), async move { reset.reset().await });
    archive::copy(&*open(&url, Absent::Refuse).await, None, target, &settings(&back)).await.expect("copies");
    source.is_at(&back).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_to_the_source_that_is_lost_leaves_nothing() {
    let (server, source) = (RedisServer::start(), Source::new().await);
    source.copy(&settings(&server.url()), async {}).await.expect("copies");
    let relay = Arc::new(Relay::start(server.address()).await);
    let from = open(&format!("redis://{}", relay.address()), Absent::Refuse).await;
    let path = source.folder.path().join("back.db");
    let to = settings(&sqlite(&path));
    let target = archive::begin(&to).await.expect("is empty");
    let target = Interrupted::around(target, When::After(3), async move { relay.set(Traffic::Cut).await });
    let error = ends(archive::copy(&*from, None, target, &to)).await.expect_err("the line is lost");
    assert!(matches!(error, CopyError::Store(StoreError::Unavailable { .. })), "{error:?}");
    assert!(!path.exists() && !source.folder.path().join("back.db.unfinished").exists());
    source.is_at(&server.url()).await;
}

/// What the primary is given from one moment on does not reach the replica that takes over at another.
async fn failed_over_between(parts_when: When, promotes_when: When) -> String {
    let (pair, source) = (Arc::new(Mutex::new(Pair::start().await)), Source::new().await);
    let relay = Arc::new(Relay::start(pair.lock().await.primary.address()).await);
    let to = settings(&format!("redis://{}", relay.address()));
    let (parted, promoted, led) = (Arc::clone(&pair), Arc::clone(&pair), Arc::clone(&relay));
    let parts = async move {
        let pair = parted.lock().await;
        pair.is_in_step().await;
        pair.part().await;
    };
    let promotes = async move {
        let mut pair = promoted.lock().await;
        pair.promote().await;
        led.lead_to(pair.primary.address());
        led.reset().await;
    };
    let target = archive::begin(&to).await.expect("is empty");
    let target = Interrupted::around(Interrupted::around(target, parts_when, parts), promotes_when, promotes);
    let said = chain(&source.copy_into(target, &to).await.expect_err("what was written is lost"));
    let url = pair.lock().await.primary.url();
    source.is_not_at(&url).await;
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_loses_pieces_leaves_no_registry() {
    let said = failed_over_between(When::After(2), When::After(4)).await;
    assert!(said.contains("has lost what was written to it, by a failover or a restart: begin again"), "{said}");
}

/// It was complete on the server that is the primary no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_loses_the_end_is_no_success() {
    let said = failed_over_between(When::AtTheEnd, When::Afterwards).await;
    assert!(said.contains("Wait for it or run it again, which begins anew"), "{said}");
}

/// The old primary goes on for seconds, and takes pieces that are lost; what is read back comes from the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_leaves_the_registry_or_none() {
    let (set, source) = (Arc::new(SentinelSet::start(1).await), Source::new().await);
    let (url, failing_over) = (set.url(), Arc::clone(&set));
    let fails_over = async move {
        failing_over.fail_over().await;
    };
    match source.copy(&settings(&url), fails_over).await {
        Ok(()) => source.is_at(&url).await,
        Err(_) => source.is_not_at(&url).await,
    }
}

/// Nothing is lost, and the order in which the new primary is scanned is another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_fails_over_while_it_is_scanned_is_read_whole() {
    let (pair, source) = (Pair::start().await, Source::new().await);
    let relay = Arc::new(Relay::start(pair.primary.address()).await);
    let url = format!("redis://{}", relay.address());
    source.copy(&settings(&url), async {}).await.expect("copies");
    pair.is_in_step().await;
    let pair = Arc::new(Mutex::new(pair));
    let (failing_over, led) = (Arc::clone(&pair), Arc::clone(&relay));
    let fails_over = async move {
        let mut pair = failing_over.lock().await;
        pair.is_in_step().await;
        pair.promote().await;
        led.lead_to(pair.primary.address());
        led.reset().await;
    };
    let back = sqlite(&source.folder.path().join("back.db"));
    let target = archive::begin(&settings(&back)).await.expect("is empty");
    let target = Interrupted::around(target, When::After(3), fails_over);
    let from = open(&url, Absent::Refuse).await;
    ends(archive::copy(&*from, None, target, &settings(&back))).await.expect("copies");
    source.is_at(&back).await;
    drop(pair); // both ran on until now
}

/// Whoever lifts the freeze has the source take changes that the copy would lack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_whose_freeze_was_lifted_or_taken_over_is_none() {
    let (server, source) = (RedisServer::start(), Source::new().await);
    for other in [None, Some("maintenance")] {
        source.store.freeze(Some("copied, 1"), None).await.expect("freezes");
        let (to, lifted) = (settings(&server.url()), Arc::clone(&source.store));
        let lifts = async move {
            lifted.freeze(other, None).await.expect("is another's");
        };
        let target = Interrupted::around(archive::begin(&to).await.expect("is empty"), When::After(3), lifts);
        let copied = ends(archive::copy(&*source.store, Some("copied, 1"), target, &to)).await;
        assert!(matches!(copied, Err(CopyError::Thawed(_))), "{copied:?}");
        // Its failure lifts nobody else's.
        assert!(!source.store.freeze(None, Some("copied, 1")).await.expect("asks"));
        assert_eq!(source.store.frozen().await.expect("reads").as_deref(), other);
    }
    source.store.freeze(None, None).await.expect("lifts it");
    source.is_not_at(&server.url()).await;
}
