//! Opening the store that settings name.

use std::sync::Arc;

use super::{RedisStore, Retention, Settings, SqliteStore, Store, StoreError, StoreUrl};

/// What to do where there is no store yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// Create it.
    Create,
    /// For a sidecar, which may be started before its store: a registry that is not there yet, and a Redis that cannot be
    /// reached, are waited for. Nothing is created: a volume that was not mounted would look like a registry without tokens.
    Await,
    /// Say so: creating one for a URL with a typing error in it would look like a registry without tokens.
    Refuse,
}

/// Opens the store that the settings name.
///
/// # Errors
/// [`StoreError::Unavailable`] when it cannot be reached and is not waited for; [`StoreError::Unusable`] when it is not
/// ours, or of a version that this program does not know; [`StoreError::NoRegistry`] when nothing is there and it is
/// neither to be created nor waited for.
pub async fn open(settings: &Settings, absent: Absent) -> Result<Arc<dyn Store>, StoreError> {
    match &settings.url {
        StoreUrl::Sqlite(path) => {
            let store = SqliteStore::new(path, Retention::default());
            store.check(absent).await?;
            Ok(Arc::new(store))
        }
        StoreUrl::Redis(_) => Ok(Arc::new(RedisStore::open(settings, absent, Retention::default()).await?)),
    }
}
