//! Making what is not there yet. The same call may have been sent twice, and both come at once: then one of them makes it, and
//! the other finds it.

use super::audit::of_user;
use super::{Actor, Created, NewToken, Registry, RegistryError, TokenDetails};
use crate::audit::{Action, Subject};
use crate::store::Versioned;
use crate::token::{RawToken, Role, UserRecord};

/// What there is in the end.
#[derive(Debug)]
pub enum Ensured<Made, There> {
    /// It was made.
    Made(Made),
    /// Another call has made it meanwhile.
    There(There),
}

impl Registry {
    /// [`Registry::add_user`]; if there is one of that name by then, that one, whatever its role.
    ///
    /// # Errors
    /// As for [`Registry::add_user`].
    pub async fn ensure_user(
        &self,
        actor: &Actor,
        name: &str,
        role: Role,
    ) -> Result<Ensured<UserRecord, Versioned<UserRecord>>, RegistryError> {
        let added = match self.try_add_user(actor, name, role).await {
            Err(RegistryError::NameTaken(_)) => self.user(actor, name).await.map(Ensured::There),
            added => added.map(Ensured::Made),
        };
        self.observed(actor, Action::UserCreate, Subject { role: Some(role), ..of_user(name) }, added).await
    }

    /// [`Registry::create_token_of`]; if this user has a token of that value by then, and it works, that one.
    ///
    /// # Errors
    /// As for [`Registry::create_token_of`] and [`Registry::token_made_before`].
    pub async fn ensure_token(
        &self,
        actor: &Actor,
        new: NewToken,
        value: RawToken,
    ) -> Result<Ensured<Created, Box<TokenDetails>>, RegistryError> {
        let (subject, user, digest) = (of_user(&new.user), new.user.clone(), value.digest());
        let created = match self.create(actor, new, Some(value)).await {
            Err(error @ (RegistryError::DigestTaken(_) | RegistryError::DigestHidden(_))) => {
                let found = self.token_made_before(actor, &user, &digest).await;
                found.and_then(|found| found.map(|found| Ensured::There(Box::new(found))).ok_or(error))
            }
            created => created.map(Ensured::Made),
        };
        self.observed(actor, Action::TokenCreate, subject, created).await
    }
}
