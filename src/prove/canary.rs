//! The canary: a token that is made to be revoked.

use std::time::Duration;

use jiff::Timestamp;

use crate::registry::{Actor, NewToken, Registry, RegistryError, Requested, TokenQuery};
use crate::token::{Action, Permission, PermissionSet, RawToken, Resource, Role, TokenId};

/// Whose it is. Made when there is none, and kept: so a glance at the tokens of this user shows what was left.
pub(crate) const USER: &str = "tollgate-canary";

/// The least that can be asked for: whoever finds the canary in its minutes reads which features the licence has.
const PERMITS: Option<Permission> = Permission::new(Resource::Entitlements, Action::Read);

/// How much longer it lives than it is needed, for a store that takes its time, and clocks that differ.
const MARGIN: Duration = Duration::from_mins(2);

/// What killed runs have left, looked at in one run.
const LEFTOVERS: usize = 100;

/// A canary in the registry.
pub(super) struct Canary {
    pub(super) id: TokenId,
    /// Wiped with it; nobody is told.
    pub(super) token: RawToken,
}

impl Canary {
    /// Makes one that works for so long, and then expires by itself. Deletes those that did.
    pub(super) async fn create(registry: &Registry, actor: &Actor, lifetime: Duration) -> Result<Self, RegistryError> {
        match registry.user(actor, USER).await {
            Ok(_) => delete_leftovers(registry, actor).await,
            // The weakest role that has tokens.
            Err(RegistryError::NoSuchUser(_)) => match registry.add_user(actor, USER, Role::Manager).await {
                // Somebody else proves for the first time too.
                Ok(_) | Err(RegistryError::NameTaken(_)) => {}
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        }
        let now = Timestamp::now();
        let permissions: PermissionSet = PERMITS.into_iter().collect();
        let new = NewToken {
            user: USER.to_owned(),
            description: "canary of tollgate prove".to_owned(),
            permissions: Requested::Permissions(permissions),
            expires_at: Some(now.checked_add(lifetime + MARGIN).unwrap_or(Timestamp::MAX)),
        };
        let created = registry.create_token(actor, new).await?;
        Ok(Self { id: created.record.id, token: created.token })
    }

    pub(super) async fn revoke(&self, registry: &Registry, actor: &Actor) -> Result<(), RegistryError> {
        registry.revoke(actor, &[self.id], false).await.map(drop)
    }

    pub(super) async fn delete(&self, registry: &Registry, actor: &Actor) -> Result<(), RegistryError> {
        registry.delete(actor, &[self.id], false).await.map(drop)
    }
}

/// Deletes canaries that expired: those of runs that were killed. What still works may be another run's.
async fn delete_leftovers(registry: &Registry, actor: &Actor) {
    let deleted = async {
        let query = TokenQuery { user: Some(USER.to_owned()), ..TokenQuery::default() };
        let now = Timestamp::now();
        let canaries = registry.tokens(actor, &query, None, LEFTOVERS).await?.into_iter().map(|(token, _)| token);
        let expired: Vec<_> = canaries.filter(|token| token.is_expired(now)).map(|token| token.id).collect();
        if expired.is_empty() { Ok(Vec::new()) } else { registry.delete(actor, &expired, false).await }
    };
    match deleted.await {
        Ok(deleted) if deleted.is_empty() => {}
        Ok(deleted) => tracing::info!(count = deleted.len(), "deleted canaries that expired"),
        // Another run may have been faster. They are good for nothing any more, and the next run tries again.
        Err(error) => tracing::debug!(%error, "cannot delete canaries that expired"),
    }
}
