//! What a command on a user takes away, for whoever asks before it is given: the command's own rules, and no commit.

use super::actor::Right;
use super::steps::UNREVOKED;
use super::users::{check_deletable, check_new_owner, check_role_change, decide_status, exceeds};
use super::{Actor, PAGE, Registry, RegistryError, now};
use crate::store::{StateFilter, TokenFilter};
use crate::token::{Role, TokenId, UserStatus};

/// A command on a user that may take something from tokens.
#[derive(Debug, Clone, Copy)]
pub enum Taking<'a> {
    /// [`Registry::set_role`].
    Role {
        /// Whose.
        of: &'a str,
        /// The new one.
        role: Role,
    },
    /// [`Registry::set_status`] with the status disabled.
    Disable(&'a str),
    /// [`Registry::delete_user`].
    Delete(&'a str),
    /// [`Registry::transfer_ownership`] to this user.
    Ownership(&'a str),
}

impl Registry {
    /// The tokens that would lose permissions, be revoked, stop working or be deleted.
    ///
    /// # Errors
    /// Those of the command itself, less what only a commit can meet.
    pub async fn taken_by(&self, actor: &Actor, taking: Taking<'_>) -> Result<Vec<TokenId>, RegistryError> {
        let authority = self.authority(actor).await?;
        // Whose, in which state, and, where only these are meant, with more than this role permits.
        let (owner, state, role) = match taking {
            Taking::Role { of, role } => {
                authority.check(Right::ManageUsers)?;
                let user = self.find_user(&authority, of).await?.record;
                check_role_change(&authority, &user, role)?;
                if role >= user.role {
                    return Ok(Vec::new());
                }
                (user.id, Some(UNREVOKED), role.manages_tokens().then_some(role))
            }
            Taking::Disable(name) => {
                authority.check(Right::ManageUsers)?;
                let user = self.find_user(&authority, name).await?;
                let (id, status, now) = (user.record.id, user.record.status, now());
                decide_status(&authority, user, UserStatus::Disabled, now)?;
                if status == UserStatus::Disabled {
                    return Ok(Vec::new());
                }
                (id, Some(StateFilter::Active { now: now.as_second() }), None)
            }
            Taking::Delete(name) => {
                authority.check(Right::ManageUsers)?;
                let user = self.find_user(&authority, name).await?.record;
                check_deletable(&authority, &user)?;
                (user.id, None, None)
            }
            Taking::Ownership(to) => {
                authority.check(Right::TransferOwnership)?;
                check_new_owner(&self.find_user(&authority, to).await?.record)?;
                (self.find_owner().await?.record.id, Some(UNREVOKED), Some(Role::Administrator))
            }
        };
        let filter = TokenFilter { owner: Some(owner), state, ..TokenFilter::default() };
        let (mut taken, mut before) = (Vec::new(), None);
        loop {
            let page = self.store.tokens(filter, before, PAGE).await?;
            before = page.last().map(|token| token.record.id);
            if before.is_none() {
                return Ok(taken);
            }
            let lost = page.into_iter().map(|token| token.record);
            let lost = lost.filter(|token| role.is_none_or(|role| exceeds(token, role)));
            taken.extend(lost.map(|token| token.id));
        }
    }
}
