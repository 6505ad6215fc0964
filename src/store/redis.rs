//! The fleet's store: one Redis, with replicas or as a cluster, shared by all sidecars and registry commands.

mod check;
mod dial;
mod discovery;
mod fault;
mod layout;
mod link;
mod slot;
mod switches;
mod watch;

use std::time::Duration;

use async_trait::async_trait;

use super::{
    Absent, Batch, Changes, CommitError, Position, Probe, Report, Reported, Retention, Revision, Settings, SidecarId,
    SnapshotItem, Store, StoreError, TokenFilter, Versioned, Watch,
};
use crate::token::{Digest, HistoryEntry, TokenId, TokenRecord, UserId, UserRecord};

/// A store in Redis.
#[derive(Debug)]
pub struct RedisStore {}

#[expect(unused_variables, clippy::missing_errors_doc)]
impl RedisStore {
    /// Opens it.
    pub async fn open(settings: &Settings, absent: Absent, retention: Retention) -> Result<Self, StoreError> {
        unimplemented!()
    }
}

#[expect(unused_variables)]
#[async_trait]
impl Store for RedisStore {
    async fn commit(&self, batch: Batch) -> Result<Revision, CommitError> {
        unimplemented!()
    }
    async fn position(&self) -> Result<Position, StoreError> {
        unimplemented!()
    }
    async fn probe(&self) -> Result<Probe, StoreError> {
        unimplemented!()
    }
    async fn snapshot(&self, sink: &mut (dyn FnMut(SnapshotItem) + Send)) -> Result<Position, StoreError> {
        unimplemented!()
    }
    async fn changes(&self, after: Revision) -> Result<Changes, StoreError> {
        unimplemented!()
    }
    fn watch(&self) -> Box<dyn Watch> {
        unimplemented!()
    }
    async fn user(&self, id: UserId) -> Result<Option<Versioned<UserRecord>>, StoreError> {
        unimplemented!()
    }
    async fn user_by_name(&self, name: &str) -> Result<Option<Versioned<UserRecord>>, StoreError> {
        unimplemented!()
    }
    async fn users(&self, before: Option<UserId>, limit: usize) -> Result<Vec<Versioned<UserRecord>>, StoreError> {
        unimplemented!()
    }
    async fn tokens_by_id(&self, ids: &[TokenId]) -> Result<Vec<Option<Versioned<TokenRecord>>>, StoreError> {
        unimplemented!()
    }
    async fn tokens_by_digest(&self, digests: &[Digest]) -> Result<Vec<Option<Versioned<TokenRecord>>>, StoreError> {
        unimplemented!()
    }
    async fn tokens(
        &self,
        filter: TokenFilter,
        before: Option<TokenId>,
        limit: usize,
    ) -> Result<Vec<Versioned<TokenRecord>>, StoreError> {
        unimplemented!()
    }
    async fn count_tokens(&self, filter: TokenFilter) -> Result<u64, StoreError> {
        unimplemented!()
    }
    async fn retired(&self, digests: &[Digest]) -> Result<Vec<bool>, StoreError> {
        unimplemented!()
    }
    async fn recall(&self, digests: &[Digest]) -> Result<(), StoreError> {
        unimplemented!()
    }
    async fn recalled(&self) -> Result<Vec<Digest>, StoreError> {
        unimplemented!()
    }
    async fn settle_recalls(&self, digests: &[Digest]) -> Result<(), StoreError> {
        unimplemented!()
    }
    async fn report(&self, report: &Report, keep: Duration) -> Result<(), StoreError> {
        unimplemented!()
    }
    async fn withdraw(&self, sidecar: SidecarId) -> Result<(), StoreError> {
        unimplemented!()
    }
    async fn sidecars(&self) -> Result<Vec<Reported>, StoreError> {
        unimplemented!()
    }
    async fn history(&self, id: TokenId) -> Result<Vec<HistoryEntry>, StoreError> {
        unimplemented!()
    }
    fn describe(&self) -> String {
        unimplemented!()
    }
}
