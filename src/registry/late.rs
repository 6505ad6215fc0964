//! Tokens that are used after their end, as the sidecars report it: by agents that were forgotten when it was rotated.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Registry, now};
use crate::store::report::with_distinct_names;
use crate::store::{Reported, StoreError};
use crate::token::{TokenId, TokenRecord};

/// Requests with a token that had expired, since the sidecars that refused them started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LateUse {
    /// How many.
    pub requests: u64,
    /// When the last one came.
    #[schema(value_type = String, format = DateTime)]
    pub last_at: Timestamp,
    /// The names of the sidecars.
    pub sidecars: Vec<String>,
}

impl Registry {
    /// What came with a token after its end, and with the one that it succeeds.
    pub(super) async fn late_uses(
        &self,
        token: &TokenRecord,
    ) -> Result<(Option<LateUse>, Option<LateUse>), StoreError> {
        if !token.is_expired(now()) && token.predecessor.is_none() {
            return Ok((None, None));
        }
        let sidecars = with_distinct_names(self.store.sidecars().await?);
        let predecessor = token.predecessor.and_then(|predecessor| late_use(&sidecars, predecessor));
        Ok((late_use(&sidecars, token.id), predecessor))
    }
}

fn late_use(sidecars: &[Reported], token: TokenId) -> Option<LateUse> {
    let late = sidecars.iter().filter_map(|Reported { report, .. }| {
        let late = report.late.iter().find(|late| late.token == token)?;
        Some(LateUse { requests: late.count, last_at: late.last_at, sidecars: vec![report.name.clone()] })
    });
    late.reduce(|mut all, more| {
        all.requests = all.requests.saturating_add(more.requests);
        all.last_at = all.last_at.max(more.last_at);
        all.sidecars.extend(more.sidecars);
        all
    })
}
