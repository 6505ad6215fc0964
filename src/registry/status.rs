//! The store and its sidecars at one moment.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::receipt::revision_in;
use crate::store::report::with_distinct_names;
use crate::store::{ConfigCacheReport, Position, Replicas, Reported, SCHEMA, Store, StoreError, TokenFilter};

/// The store and its sidecars at one moment.
pub(crate) struct FleetStatus {
    pub store: String,
    /// The store's, where it is still that of the version before.
    pub earlier_schema: Option<u32>,
    pub position: Position,
    pub tokens: u64,
    pub recalled: u64,
    pub replicas: Option<Replicas>,
    /// Why the store refuses writes, if it does.
    pub writes_refused: Option<String>,
    /// Why the registry refuses changes, if it was frozen.
    pub frozen: Option<String>,
    pub sidecars: Vec<Reported>,
}

/// A [`FleetStatus`] as programs see it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Status)]
pub(crate) struct StatusView {
    /// The store, as a person would name it.
    store: String,
    /// Which life of the store it is.
    epoch: String,
    /// How many changes were committed.
    revision: u64,
    /// How many tokens there are.
    tokens: u64,
    /// The layout of the store, where it is that of the version before.
    #[serde(skip_serializing_if = "Option::is_none")]
    earlier_schema: Option<u32>,
    /// Tokens that sidecars saw revoked and whose revocation the store has lost.
    recalled: u64,
    /// The servers that could take over from the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<ReplicasView>,
    /// Why the store refuses writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    writes_refused: Option<String>,
    /// Why the registry refuses changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    frozen: Option<String>,
    /// Every sidecar that reports.
    sidecars: Vec<SidecarView>,
}

/// The servers that could take over from the store.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Replicas)]
pub(crate) struct ReplicasView {
    /// Those that follow the primary now.
    connected: usize,
    /// Those that could be promoted.
    promotable: usize,
    /// How many must confirm each commit.
    quorum: usize,
    /// Whether a primary that was cut off can keep no sidecar fresh.
    isolate_an_old_primary: bool,
    /// Whether a failover loses no acknowledged commit.
    keep_commits: bool,
}

/// One sidecar.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Sidecar)]
pub(crate) struct SidecarView {
    /// Its id: 16 hexadecimal digits.
    id: String,
    /// What people call it.
    name: String,
    /// The program's version.
    version: String,
    /// `None` while it reads the registry, and where it is that of another epoch.
    #[schema(required)]
    revision: Option<u64>,
    /// How long ago it was last known to be fresh.
    #[schema(required)]
    staleness_seconds: Option<f64>,
    /// Why it wants no requests, however fresh it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    draining: Option<String>,
    /// Open client connections.
    connections: u64,
    /// When it was started.
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    /// Users whom it holds disabled or narrowed although the store has lost that they were.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    held_users: Vec<String>,
    /// Where configurations are stored for when the Controller is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    config_cache: Option<ConfigCacheView>,
}

/// The configurations that a sidecar stores.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ConfigCache)]
pub(crate) struct ConfigCacheView {
    /// How many.
    entries: u64,
    /// How many were given to agents since it started.
    served: u64,
    /// For how long the Controller has been away; `None`: it answers.
    #[schema(required)]
    away_seconds: Option<f64>,
}

impl ConfigCacheView {
    fn of(sidecar: &Reported) -> Option<Self> {
        let ConfigCacheReport { entries, served, .. } = sidecar.report.config_cache?;
        Some(Self { entries, served, away_seconds: away_for(sidecar).map(|away| away.as_secs_f64()) })
    }
}

impl FleetStatus {
    /// Asks the store.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn read(store: &dyn Store) -> Result<Self, StoreError> {
        Ok(Self {
            store: store.describe(),
            earlier_schema: Some(store.schema().await?).filter(|schema| *schema != SCHEMA),
            // Before the reports, or what is committed in between would have sidecars look behind.
            position: store.position().await?,
            tokens: store.count_tokens(TokenFilter::default()).await?,
            recalled: store.recalled(None).await?.total,
            sidecars: with_distinct_names(store.sidecars().await?),
            replicas: store.replicas().await?,
            writes_refused: store.refuses_writes().await?,
            frozen: store.frozen().await?,
        })
    }

    /// As programs see it.
    pub(crate) fn view(&self) -> StatusView {
        let sidecars = self.sidecars.iter().map(|sidecar| SidecarView {
            id: sidecar.report.id.to_string(),
            name: sidecar.report.name.clone(),
            version: sidecar.report.version.clone(),
            revision: revision_in(self.position.epoch, sidecar).map(|revision| revision.0),
            staleness_seconds: staleness(sidecar).map(|staleness| staleness.as_secs_f64()),
            draining: sidecar.report.draining.clone(),
            connections: sidecar.report.connections,
            started_at: sidecar.report.started_at,
            held_users: sidecar.report.held_users.clone(),
            config_cache: ConfigCacheView::of(sidecar),
        });
        StatusView {
            store: self.store.clone(),
            earlier_schema: self.earlier_schema,
            epoch: self.position.epoch.to_string(),
            revision: self.position.revision.0,
            tokens: self.tokens,
            recalled: self.recalled,
            replicas: self.replicas.as_ref().map(ReplicasView::from),
            writes_refused: self.writes_refused.clone(),
            frozen: self.frozen.clone(),
            sidecars: sidecars.collect(),
        }
    }
}

impl From<&Replicas> for ReplicasView {
    fn from(replicas: &Replicas) -> Self {
        let Replicas { connected, promotable, quorum } = *replicas;
        Self {
            connected,
            promotable,
            quorum,
            isolate_an_old_primary: replicas.isolate_an_old_primary(),
            keep_commits: replicas.keep_commits(),
        }
    }
}

/// For how long the Controller has been away for a sidecar that stores configurations.
pub(crate) fn away_for(sidecar: &Reported) -> Option<Duration> {
    let away = sidecar.report.config_cache?.away_ms?;
    Some(Duration::from_millis(away).saturating_add(sidecar.age))
}

/// How long ago the sidecar was last known to be fresh: what it said, and how long ago it said so.
pub(crate) fn staleness(sidecar: &Reported) -> Option<Duration> {
    sidecar.report.staleness_ms.map(|staleness| Duration::from_millis(staleness).saturating_add(sidecar.age))
}
