//! What every kind of store must do. A kind is added with an implementation of [`Database`] and one line of
//! `conforms!`.

pub(crate) mod archive;
mod commit;
mod fleet;
pub(crate) mod log;
mod read;
mod trail;
mod usage;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use tempfile::TempDir;
use tollgate::store::{
    Absent, Batch, Change, Committed, ConfigCacheReport, Edit, Epoch, Head, LateRequests, Position, RedisStore, Report,
    Retention, Revision, SCHEMA, SidecarId, SnapshotItem, SqliteStore, Store, StoreUrl, Versioned,
};
use tollgate::token::{
    Digest, Grant, HistoryEntry, Owner, PermissionSet, Role, TokenEvent, TokenId, TokenRecord, TokenState, UserId,
    UserRecord, UserStatus,
};

use crate::harness::RedisServer;

macro_rules! conforms {
    ($module:ident: $database:ty) => {
        mod $module {
            conforms! { @ $database:
                commit::an_empty_store_is_at_revision_zero
                commit::a_commit_adds_one_to_the_revision_and_is_the_version_of_what_it_wrote
                commit::a_record_that_changed_meanwhile_is_a_conflict
                commit::a_record_that_exists_cannot_be_created
                commit::a_record_that_is_gone_is_a_conflict
                commit::a_required_record_must_not_have_changed
                commit::pins_hold_what_no_record_shows
                commit::a_digest_belongs_to_one_token
                commit::a_digest_never_comes_back
                commit::old_retired_digests_are_forgotten_when_there_are_too_many
                commit::a_name_belongs_to_one_user
                commit::a_name_can_be_given_up_and_taken_in_one_batch
                commit::a_batch_that_fails_at_its_end_changes_nothing
                commit::a_batch_that_contradicts_itself_is_refused
                commit::history_for_a_token_that_is_gone_is_a_conflict
                commit::two_handles_never_lose_an_update
                commit::a_commit_whose_caller_went_away_happens_whole_or_not_at_all
                log::the_newest_revision_has_nothing_after_it
                log::entries_follow_each_other_without_a_gap
                log::a_revision_that_the_store_has_not_reached_is_told_as_such
                log::the_log_shows_where_two_histories_part
                log::the_log_is_trimmed_by_changes
                log::the_log_is_trimmed_by_entries
                log::the_newest_entry_stays_however_large
                log::checksum_snapshot_and_log_tell_the_same
                log::the_position_of_a_snapshot_is_read_before_its_items
                read::users_are_found_by_id_and_by_name
                read::users_are_listed_newest_first
                read::tokens_come_in_the_order_asked_for
                read::tokens_are_listed_newest_first
                read::lists_and_counts_follow_the_filter
                read::ids_of_any_size_keep_their_order
                read::history_grows_and_goes_with_its_token
                read::the_latest_entries_of_a_history_stay
                read::records_come_back_as_they_were_written
                read::a_large_snapshot_is_complete
                read::items_are_those_of_a_snapshot
                watch::own_commits_are_told
                watch::commits_of_other_handles_are_told
                watch::nothing_is_missed_after_watching_began
                watch::every_watcher_is_told
                fleet::a_probe_tells_the_position
                fleet::digests_of_deleted_tokens_are_retired
                fleet::digests_of_revoked_and_deleted_tokens_are_removed
                fleet::recalls_are_told_page_by_page_until_they_are_settled
                fleet::what_is_recalled_meanwhile_hides_nothing
                fleet::no_more_is_recalled_than_sidecars_take
                fleet::reports_are_told_in_the_order_of_their_names
                fleet::a_report_takes_the_place_of_the_one_before
                fleet::a_report_grows_old_and_is_forgotten
                fleet::a_report_that_comes_back_while_others_look_is_found_from_then_on
                fleet::a_report_can_be_withdrawn
                usage::uses_are_told_as_they_were_left
                usage::the_latest_use_wins
                usage::an_agent_that_is_named_is_not_counted_by_its_address_too
                usage::use_goes_with_its_token
                usage::what_is_long_ago_is_forgotten_once_others_use_the_token
                usage::lists_follow_use
                usage::many_agents_are_counted_within_two_percent
                trail::entries_of_a_commit_are_loose_until_a_step_is_taken
                trail::a_commit_that_fails_leaves_no_entry
                trail::a_step_is_taken_only_where_all_is_as_it_was_read
                trail::of_steps_at_once_one_is_taken
                trail::lines_are_read_from_both_ends_and_go_from_the_first
                trail::how_far_it_was_written_is_remembered_by_place
                archive::a_backup_makes_the_same_registry_in_either_kind_of_store
                archive::a_copy_is_the_same_registry_in_either_kind_of_store
                archive::what_is_read_beside_commits_is_the_registry_at_one_position
                archive::a_frozen_registry_refuses_changes_and_nothing_else
            }
        }
    };
    (@ $database:ty: $($part:ident::$case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                Box::pin(super::$part::$case::<$database>()).await;
            }
        )*
    };
}

conforms!(sqlite: super::SqliteFile);
conforms!(redis: super::RedisDatabase);

/// One database of one kind, empty at first and gone at the end.
#[async_trait]
pub(crate) trait Database: Send + Sync {
    /// Makes one.
    async fn create(retention: Retention) -> Self;

    /// Another handle to it, as another process would have it.
    async fn handle(&self) -> Arc<dyn Store>;
}

/// A SQLite file in a directory of its own.
pub(crate) struct SqliteFile {
    directory: TempDir,
    retention: Retention,
}

impl SqliteFile {
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("tollgate.db")
    }
}

#[async_trait]
impl Database for SqliteFile {
    async fn create(retention: Retention) -> Self {
        Self { directory: tempfile::tempdir().expect("a directory"), retention }
    }

    async fn handle(&self) -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(&self.path(), self.retention).await.expect("opens"))
    }
}

/// A Redis server of its own.
pub(crate) struct RedisDatabase {
    server: RedisServer,
    retention: Retention,
}

#[async_trait]
impl Database for RedisDatabase {
    async fn create(retention: Retention) -> Self {
        Self { server: RedisServer::start(), retention }
    }

    async fn handle(&self) -> Arc<dyn Store> {
        let url: StoreUrl = self.server.url().parse().expect("a URL");
        Arc::new(RedisStore::open(&url.into(), Absent::Create, self.retention).await.expect("opens"))
    }
}

/// One handle to a new database, and the database, which lives as long as it is held.
async fn store<D: Database>() -> (D, Arc<dyn Store>) {
    let database = D::create(Retention::default()).await;
    let store = database.handle().await;
    (database, store)
}

pub(crate) fn user(name: &str) -> UserRecord {
    UserRecord {
        id: UserId::generate(Timestamp::now()),
        name: name.to_owned(),
        role: Role::Manager,
        status: UserStatus::Active,
        created_at: "2026-01-02T03:04:05.678Z".parse().expect("a time"),
    }
}

/// A token; each name has another digest.
pub(crate) fn token(owner: UserId, name: &str) -> TokenRecord {
    TokenRecord {
        id: TokenId::generate(Timestamp::now()),
        digest: Digest::of(name.as_bytes()),
        owner,
        description: format!("{name}, \"quoted\" — 日本"),
        permissions: PermissionSet::TELEGRAF_AGENT,
        state: TokenState::Active,
        hint: "abc123".to_owned(),
        created_at: "2026-01-02T03:04:05.678Z".parse().expect("a time"),
        created_by: "cli:root".to_owned(),
        expires_at: None,
        predecessor: None,
        successor: None,
    }
}

pub(crate) fn revoked(mut token: TokenRecord) -> TokenRecord {
    token.state = TokenState::Revoked { at: Timestamp::UNIX_EPOCH, by: "anna".to_owned() };
    token
}

pub(crate) fn created() -> HistoryEntry {
    HistoryEntry {
        at: Timestamp::UNIX_EPOCH,
        by: "cli:root".to_owned(),
        event: TokenEvent::Created,
        operator_reason: None,
    }
}

/// A batch of users only.
/// A sidecar's report, with something in every part of it.
pub(crate) fn report(id: u64, name: &str) -> Report {
    Report {
        id: SidecarId(id),
        name: name.to_owned(),
        version: "1.2.3".to_owned(),
        address: "[::1]:8080".to_owned(),
        host: String::new(),
        started_at: "2026-01-02T03:04:05.678Z".parse().expect("a time"),
        applied: Some((Epoch(u64::MAX), Revision(id))),
        head: Some(Head(id.into())),
        schema: SCHEMA,
        unwritten_ms: Some(3),
        held_users: vec!["vera".to_owned()],
        draining: Some("draining".to_owned()),
        staleness_ms: Some(id),
        connections: 7,
        late: vec![LateRequests { token: TokenId::from_u64(id), count: 3, last_at: Timestamp::UNIX_EPOCH }],
        config_cache: Some(ConfigCacheReport { entries: 2, served: 5, away_ms: Some(4) }),
    }
}

pub(crate) fn users(edits: impl IntoIterator<Item = Edit<UserRecord>>) -> Batch {
    Batch { users: edits.into_iter().collect(), ..Batch::default() }
}

/// A batch of tokens only.
pub(crate) fn tokens(edits: impl IntoIterator<Item = Edit<TokenRecord>>) -> Batch {
    Batch { tokens: edits.into_iter().collect(), ..Batch::default() }
}

/// Commits what must succeed.
pub(crate) async fn commit(store: &dyn Store, batch: Batch) -> Committed {
    store.commit(batch).await.expect("commits")
}

/// A token as the store holds it now.
async fn stored(store: &dyn Store, id: TokenId) -> Option<Versioned<TokenRecord>> {
    store.tokens_by_id(&[id]).await.expect("reads").pop().expect("one answer for one id")
}

/// What a replica would hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) owners: BTreeMap<UserId, Owner>,
    pub(crate) grants: HashMap<Digest, Grant>,
}

impl Held {
    pub(crate) async fn snapshot(store: &dyn Store) -> (Position, Self) {
        let mut held = Self::default();
        let position = store.snapshot(&mut None, &mut |item| held.add(item)).await.expect("a snapshot");
        (position, held)
    }

    pub(crate) fn add(&mut self, item: SnapshotItem) {
        // An item may come more than once, and is the same each time while nobody commits.
        let is_right = match item {
            SnapshotItem::Begin(_) => {
                *self = Self::default();
                true
            }
            SnapshotItem::Owner(id, owner, _) => self.owners.insert(id, owner.clone()).is_none_or(|same| same == owner),
            SnapshotItem::Grant(digest, grant) => self.grants.insert(digest, grant).is_none_or(|same| same == grant),
            SnapshotItem::Damaged { key } => panic!("damaged: {key}"),
        };
        assert!(is_right, "an item came twice and differs");
    }

    pub(crate) fn apply(&mut self, changes: &[Change]) {
        for change in changes.iter().cloned() {
            match change {
                Change::PutGrant(digest, grant) => drop(self.grants.insert(digest, grant)),
                Change::RemoveGrant(digest) => drop(self.grants.remove(&digest)),
                Change::PutOwner(id, owner) => drop(self.owners.insert(id, owner)),
                Change::RemoveOwner(id) => drop(self.owners.remove(&id)),
            }
        }
    }

    /// The checksum, from its definition.
    pub(crate) fn checksum(&self) -> u64 {
        let owners = self.owners.iter().fold(0, |sum, (id, owner)| sum ^ owner.fingerprint(*id));
        self.grants.iter().fold(owners, |sum, (digest, grant)| sum ^ grant.fingerprint(digest))
    }
}
