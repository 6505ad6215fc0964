//! Users: exactly one Owner from `init` on, roles, disabling, deleting.

use jiff::Timestamp;

use super::actor::{Authority, Right};
use super::audit::of_user;
use super::draft::Draft;
use super::error::holds_token;
use super::steps::{CHUNK, Counts, Progress, UNREVOKED, UserChange};
use super::tokens::{Created, NewToken, Requested, decide_token, mint};
use super::{Actor, Attempts, Outcome, PAGE, Registry, RegistryError, Seen, now};
use crate::audit::{Action, Subject};
use crate::store::{Batch, Pin, TokenFilter, Versioned};
use crate::token::raw::PREFIX;
use crate::token::{Role, TokenEvent, TokenRecord, UserId, UserRecord, UserStatus};

/// What a change of role did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleChange {
    /// The role before. If it is the same, what an earlier change had left undone was finished.
    pub before: Role,
    /// The user, with the new role.
    pub user: UserRecord,
    /// How many of the user's tokens lost permissions.
    pub narrowed: usize,
    /// How many of the user's tokens were revoked.
    pub revoked: usize,
}

impl RoleChange {
    fn new(before: Role, user: UserRecord, progress: &Progress) -> Self {
        let Counts { narrowed, revoked, .. } = progress.tokens;
        Self { before, user, narrowed, revoked }
    }
}

/// What a transfer of ownership did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// The Owner before: an Administrator now.
    pub old: UserRecord,
    /// The Owner now.
    pub new: UserRecord,
    /// How many tokens of the old Owner lost permissions.
    pub narrowed: usize,
}

impl Registry {
    /// Sets the registry up: creates the Owner, and a token with everything that the Owner may do.
    ///
    /// # Errors
    /// [`RegistryError::AlreadyInitialised`] if there is any user; of two at once, one succeeds.
    pub async fn init(&self, actor: &Actor, owner_name: &str) -> Result<Created, RegistryError> {
        check_name(owner_name)?;
        let mut attempts = Attempts::default();
        loop {
            attempts.begin().await?;
            if !self.store.users(None, 1).await?.is_empty() {
                return Err(RegistryError::AlreadyInitialised);
            }
            let authority = self.authority(actor).await?;
            let (now, token) = (now(), mint()?);
            let owner = new_user(owner_name, Role::Owner, now);
            let new = NewToken {
                user: owner_name.to_owned(),
                description: "created by tollgate init".to_owned(),
                permissions: Requested::All,
                expires_at: self.bounded_expiry(None, now)?,
            };
            let record = decide_token(&authority, &owner, &new, token.digest(), token.hint(), now)?;
            let mut draft = Draft::new(&authority, now);
            draft.pin(Pin::NoUsers);
            draft.create_user(owner.clone());
            draft.create_token(record.clone(), TokenEvent::Created);
            let committed = self.commit(draft.into_batch()).await;
            if committed.map_err(|error| error.of_creating(record.id))? {
                return Ok(Created { record, owner, token });
            }
        }
    }

    /// Creates a user.
    ///
    /// # Errors
    /// For a name that is invalid or taken, for the role Owner, and when the actor may not.
    pub async fn add_user(&self, actor: &Actor, name: &str, role: Role) -> Result<UserRecord, RegistryError> {
        let added = self.try_add_user(actor, name, role).await;
        self.observed(actor, Action::UserCreate, Subject { role: Some(role), ..of_user(name) }, added).await
    }

    pub(super) async fn try_add_user(
        &self,
        actor: &Actor,
        name: &str,
        role: Role,
    ) -> Result<UserRecord, RegistryError> {
        let mut attempts = Attempts::default();
        loop {
            attempts.begin().await?;
            let authority = self.authority(actor).await?;
            // The first user is the Owner. It can never be deleted, so once there is one this holds for good.
            if self.store.users(None, 1).await?.is_empty() {
                return Err(RegistryError::NotInitialised);
            }
            let (batch, user) = decide_user(&authority, name, role, now())?;
            if self.commit(batch).await? {
                return Ok(user);
            }
        }
    }

    /// One user, by the exact name.
    ///
    /// # Errors
    /// [`RegistryError::NoSuchUser`], also if the actor may not see that user.
    pub async fn user(&self, actor: &Actor, name: &str) -> Result<Versioned<UserRecord>, RegistryError> {
        let authority = self.authority(actor).await?;
        self.find_user(&authority, name).await
    }

    /// Users, newest first, at most `limit` of those made before the user `before` (the last one of the page before).
    ///
    /// # Errors
    /// When the actor may not see users.
    pub async fn users(
        &self,
        actor: &Actor,
        before: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<UserRecord>, RegistryError> {
        self.authority(actor).await?.check(Right::ManageUsers)?;
        let users = self.store.users(before, limit).await?;
        Ok(users.into_iter().map(|user| user.record).collect())
    }

    /// Changes a user's role. Active tokens lose what the new role does not have; they are revoked if it may not have
    /// tokens at all. A stronger role gives nothing back. The role that the user has already changes nothing, except that
    /// it finishes an earlier change that was interrupted.
    ///
    /// With many tokens it takes several commits. A weaker role takes effect with the first of them; becoming a Viewer,
    /// token by token.
    ///
    /// # Errors
    /// For the role Owner and for the Owner's role, and when the actor may not. After [`RegistryError::Interrupted`] the
    /// same command goes on.
    pub async fn set_role<'a>(
        &self,
        actor: &Actor,
        user: impl Into<Seen<&'a str>> + Send,
        role: Role,
    ) -> Result<RoleChange, RegistryError> {
        let mut progress = Progress::default();
        let user = user.into();
        let changed = self.try_set_role(actor, user, role, &mut progress).await;
        let changed = changed.map_err(|error| progress.interrupted(error));
        self.observed(actor, Action::UserSetRole, Subject { role: Some(role), ..of_user(user.what) }, changed).await
    }

    async fn try_set_role(
        &self,
        actor: &Actor,
        seen: Seen<&str>,
        role: Role,
        progress: &mut Progress,
    ) -> Result<RoleChange, RegistryError> {
        let mut attempts = Attempts::default();
        loop {
            attempts.begin().await?;
            let authority = self.authority(actor).await?;
            authority.check(Right::ManageUsers)?;
            let user = seen.check(self.find_user(&authority, seen.what).await?)?;
            check_role_change(&authority, &user.record, role)?;
            let (before, after) = (user.record.role, UserRecord { role, ..user.record.clone() });
            // With the user's role, replicas narrow every grant at once: it need not wait for the records of the tokens.
            // Becoming a Viewer has to: see the module `steps`.
            let is_urgent = role < before && role.manages_tokens();
            if is_urgent && self.few_tokens_of(user.record.id, Some(UNREVOKED)).await?.is_none() {
                let Some(user) = self.change_user(&authority, user, after.clone()).await? else { continue };
                progress.change = Some(UserChange::Role { name: after.name.clone(), role });
                self.finish_narrowing(&authority, user, progress).await?;
                return Ok(RoleChange::new(before, after, progress));
            }
            let decide = |draft: &mut Draft<'_>, tokens, last| decide_role(draft, &user, tokens, role, last);
            if self.in_steps(&authority, &user, Some(UNREVOKED), progress, decide).await? != Outcome::Conflict {
                return Ok(RoleChange::new(before, after, progress));
            }
        }
    }

    /// Disables or enables a user. The tokens stay as they are; those of a disabled user do not authenticate.
    ///
    /// # Errors
    /// For the Owner, for the actor's own user, and when the actor may not.
    pub async fn set_status<'a>(
        &self,
        actor: &Actor,
        user: impl Into<Seen<&'a str>> + Send,
        status: UserStatus,
    ) -> Result<UserRecord, RegistryError> {
        let user = user.into();
        let set = self.try_set_status(actor, user, status).await;
        let action = match status {
            UserStatus::Active => Action::UserEnable,
            UserStatus::Disabled => Action::UserDisable,
        };
        self.observed(actor, action, of_user(user.what), set).await
    }

    async fn try_set_status(
        &self,
        actor: &Actor,
        seen: Seen<&str>,
        status: UserStatus,
    ) -> Result<UserRecord, RegistryError> {
        let mut attempts = Attempts::default();
        loop {
            attempts.begin().await?;
            let authority = self.authority(actor).await?;
            authority.check(Right::ManageUsers)?;
            let user = seen.check(self.find_user(&authority, seen.what).await?)?;
            let (batch, after) = decide_status(&authority, user, status, now())?;
            if self.commit(batch).await? {
                return Ok(after);
            }
        }
    }

    /// Deletes a user with all of its tokens, and says how many they were.
    ///
    /// With many tokens it takes several commits, of which the first disables the user: none of the tokens authenticates
    /// from then on. Whoever enables the user again after an interruption gets back those that are left.
    ///
    /// # Errors
    /// For the Owner, for the actor's own user, and when the actor may not. After [`RegistryError::Interrupted`] the same
    /// command goes on.
    pub async fn delete_user<'a>(
        &self,
        actor: &Actor,
        user: impl Into<Seen<&'a str>> + Send,
    ) -> Result<usize, RegistryError> {
        let mut progress = Progress::default();
        let user = user.into();
        let deleted = match self.try_delete_user(actor, user, &mut progress).await {
            Ok(()) => Ok(progress.tokens.deleted),
            Err(error) => Err(progress.interrupted(error)),
        };
        self.observed(actor, Action::UserDelete, of_user(user.what), deleted).await
    }

    async fn try_delete_user(
        &self,
        actor: &Actor,
        mut seen: Seen<&str>,
        progress: &mut Progress,
    ) -> Result<(), RegistryError> {
        let mut attempts = Attempts::default();
        loop {
            attempts.begin().await?;
            let authority = self.authority(actor).await?;
            authority.check(Right::ManageUsers)?;
            let user = seen.check(self.find_user(&authority, seen.what).await?)?;
            check_deletable(&authority, &user.record)?;
            let user = match self.few_tokens_of(user.record.id, None).await? {
                Some(_) => user,
                None => {
                    // A disabled user gets no more tokens.
                    let disabled = UserRecord { status: UserStatus::Disabled, ..user.record.clone() };
                    let changed = match user.record.status {
                        UserStatus::Active => self.change_user(&authority, user, disabled).await?,
                        UserStatus::Disabled => Some(user),
                    };
                    let Some(user) = changed else { continue };
                    progress.change = Some(UserChange::Disabled { name: user.record.name.clone() });
                    // From here on as this command has made it.
                    seen.version = seen.version.and(Some(user.version));
                    user
                }
            };
            let decide = |draft: &mut Draft<'_>, tokens: Vec<_>, last: Option<Pin>| {
                let deleted = tokens.len();
                tokens.into_iter().for_each(|token| draft.delete_token(token));
                if let Some(pin) = last {
                    draft.pin(pin);
                    draft.delete_user(user.clone());
                }
                Counts { deleted, ..Counts::default() }
            };
            if self.in_steps(&authority, &user, None, progress, decide).await? != Outcome::Conflict {
                return Ok(());
            }
        }
    }

    /// Makes an active Administrator the Owner, and the Owner an Administrator, at once. Tokens of the old Owner lose
    /// what an Administrator does not have; those of the new one gain nothing. With many tokens their records follow in
    /// later commits.
    ///
    /// # Errors
    /// When `to` is not an active Administrator, and when the actor may not. After [`RegistryError::Interrupted`] the
    /// ownership has moved if it says so; giving the old Owner the role Administrator once more does the rest.
    pub async fn transfer_ownership<'a>(
        &self,
        actor: &Actor,
        to: impl Into<Seen<&'a str>> + Send,
    ) -> Result<Transfer, RegistryError> {
        let mut progress = Progress::default();
        let to = to.into();
        let transferred = self.try_transfer_ownership(actor, to, &mut progress).await;
        let transferred = transferred.map_err(|error| progress.interrupted(error));
        self.observed(actor, Action::OwnershipTransfer, of_user(to.what), transferred).await
    }

    async fn try_transfer_ownership(
        &self,
        actor: &Actor,
        seen: Seen<&str>,
        progress: &mut Progress,
    ) -> Result<Transfer, RegistryError> {
        let mut attempts = Attempts::default();
        loop {
            attempts.begin().await?;
            let authority = self.authority(actor).await?;
            authority.check(Right::TransferOwnership)?;
            let to = seen.check(self.find_user(&authority, seen.what).await?)?;
            check_new_owner(&to.record)?;
            let old = self.find_owner().await?;
            // Before the tokens are read: what comes to the old Owner meanwhile is then noticed at the commit.
            let pin = self.pin_tokens_of(old.record.id).await?;
            let tokens = self.few_tokens_of(old.record.id, Some(UNREVOKED)).await?;
            let gained = self.few_tokens_of(to.record.id, Some(UNREVOKED)).await?;
            let few = tokens.zip(gained).filter(|(tokens, gained)| tokens.len() + gained.len() <= CHUNK);
            let few = few.map(|(tokens, _)| tokens);
            let after = UserRecord { role: Role::Administrator, ..old.record.clone() };
            let new = UserRecord { role: Role::Owner, ..to.record.clone() };
            let decide = |draft: &mut Draft<'_>, gained, last: Option<Pin>| {
                let counts = decide_role(draft, &to, gained, to.record.role, None);
                if last.is_some() {
                    decide_transfer(draft, &old, &to, few.clone().map(|tokens| (tokens, pin)));
                }
                counts
            };
            let swapped = self.in_steps(&authority, &to, Some(UNREVOKED), progress, decide).await?;
            let Outcome::Committed(committed) = swapped else { continue };
            let narrowed = match few {
                Some(tokens) => tokens.iter().filter(|token| exceeds(&token.record, after.role)).count(),
                None => {
                    progress.change = Some(UserChange::Owner { new: new.name.clone(), old: after.name.clone() });
                    let of_new_owner = progress.tokens.narrowed;
                    let old = Versioned { record: after.clone(), version: committed.id };
                    self.finish_narrowing(&authority, old, progress).await?;
                    progress.tokens.narrowed - of_new_owner
                }
            };
            return Ok(Transfer { old: after, new, narrowed });
        }
    }

    /// How many tokens a user has that the actor may see, in any state.
    ///
    /// # Errors
    /// [`RegistryError::NoSuchUser`], also if the actor may not see that user.
    pub async fn count_tokens_of(&self, actor: &Actor, name: &str) -> Result<u64, RegistryError> {
        let authority = self.authority(actor).await?;
        let user = self.find_user(&authority, name).await?.record.id;
        if !authority.sees_tokens_of(user) {
            return Ok(0);
        }
        Ok(self.store.count_tokens(TokenFilter { owner: Some(user), ..TokenFilter::default() }).await?)
    }

    /// The Owner: mostly the oldest user, so on the last page.
    pub(super) async fn find_owner(&self) -> Result<Versioned<UserRecord>, RegistryError> {
        let mut before = None;
        loop {
            let page = self.store.users(before, PAGE).await?;
            before = page.last().map(|user| user.record.id);
            if before.is_none() {
                return Err(RegistryError::NotInitialised);
            }
            if let Some(owner) = page.into_iter().find(|user| user.record.role == Role::Owner) {
                return Ok(owner);
            }
        }
    }
}

/// Whether there may be a user of this name. Names appear in headers, logs and shell commands as they are.
pub(super) fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._@+-".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with(PREFIX)
}

/// Whether a new user may be called so: as before, and neither something that may be a token, which somebody pasted into the
/// wrong place, nor what has a meaning of its own in a path, where no client could name it.
pub(super) fn check_name(name: &str) -> Result<(), RegistryError> {
    match is_name(name) && !matches!(name, "." | "..") && !holds_token(name) {
        true => Ok(()),
        false => Err(RegistryError::InvalidName(name.to_owned())),
    }
}

fn new_user(name: &str, role: Role, now: Timestamp) -> UserRecord {
    let (id, name) = (UserId::generate(now), name.to_owned());
    UserRecord { id, name, role, status: UserStatus::Active, created_at: now }
}

fn decide_user(
    authority: &Authority,
    name: &str,
    role: Role,
    now: Timestamp,
) -> Result<(Batch, UserRecord), RegistryError> {
    authority.check(Right::ManageUsers)?;
    check_name(name)?;
    if role == Role::Owner {
        return Err(RegistryError::OneOwnerOnly);
    }
    authority.check_manages(role)?;
    let user = new_user(name, role, now);
    let mut draft = Draft::new(authority, now);
    draft.create_user(user.clone());
    Ok((draft.into_batch(), user))
}

pub(super) fn check_role_change(authority: &Authority, user: &UserRecord, role: Role) -> Result<(), RegistryError> {
    authority.check(Right::ManageUsers)?;
    // Before the rights: for an Administrator too it is impossible, and not merely forbidden.
    if user.role == Role::Owner {
        return Err(RegistryError::OwnerRole(user.name.clone()));
    }
    if role == Role::Owner {
        return Err(RegistryError::OneOwnerOnly);
    }
    authority.check_manages(user.role)?;
    authority.check_manages(role)
}

/// What a new role does to some of a user's tokens and, with the last of them, to the user. Even a stronger one takes from
/// them what the old one did not have: an interrupted change may have left it there.
pub(super) fn decide_role(
    draft: &mut Draft<'_>,
    user: &Versioned<UserRecord>,
    tokens: Vec<Versioned<TokenRecord>>,
    role: Role,
    last: Option<Pin>,
) -> Counts {
    let UserRecord { role: before, ref name, .. } = user.record;
    let mut counts = Counts::default();
    for token in tokens.into_iter().filter(|token| token.record.is_active()) {
        if role.manages_tokens() || role == before {
            counts.narrowed += usize::from(draft.narrow(token, role.min(before)));
        } else {
            draft.revoke(token, Some(format!("role of {name} changed to {role}")));
            counts.revoked += 1;
        }
    }
    // A stronger role needs no pin: a token that comes meanwhile rests on the user's record, and so on the weaker one.
    if role < before {
        last.into_iter().for_each(|pin| draft.pin(pin));
    }
    if last.is_some() && role != before {
        draft.update_user(user.clone(), UserRecord { role, ..user.record.clone() });
    }
    counts
}

pub(super) fn decide_status(
    authority: &Authority,
    user: Versioned<UserRecord>,
    status: UserStatus,
    now: Timestamp,
) -> Result<(Batch, UserRecord), RegistryError> {
    if status == UserStatus::Disabled {
        if user.record.role == Role::Owner {
            return Err(RegistryError::OwnerNotDisabled(user.record.name));
        }
        if authority.is(user.record.id) {
            return Err(RegistryError::OwnUserNotDisabled(user.record.name));
        }
    }
    authority.check_manages(user.record.role)?;
    let after = UserRecord { status, ..user.record.clone() };
    let mut draft = Draft::new(authority, now);
    if after != user.record {
        draft.update_user(user, after.clone());
    }
    Ok((draft.into_batch(), after))
}

pub(super) fn check_deletable(authority: &Authority, user: &UserRecord) -> Result<(), RegistryError> {
    if user.role == Role::Owner {
        return Err(RegistryError::OwnerNotDeleted(user.name.clone()));
    }
    if authority.is(user.id) {
        return Err(RegistryError::OwnUserNotDeleted(user.name.clone()));
    }
    authority.check_manages(user.role)
}

pub(super) fn check_new_owner(to: &UserRecord) -> Result<(), RegistryError> {
    if to.role != Role::Administrator {
        return Err(RegistryError::NotAnAdministrator { name: to.name.clone(), role: to.role });
    }
    match to.status {
        UserStatus::Active => Ok(()),
        UserStatus::Disabled => Err(RegistryError::UserDisabled(to.name.clone())),
    }
}

/// Both users at once: there is never a moment with two Owners or none. Along with them go the old Owner's tokens, where
/// they are few, or they follow.
fn decide_transfer(
    draft: &mut Draft<'_>,
    old: &Versioned<UserRecord>,
    to: &Versioned<UserRecord>,
    tokens: Option<(Vec<Versioned<TokenRecord>>, Pin)>,
) {
    match tokens {
        Some((tokens, pin)) => _ = decide_role(draft, old, tokens, Role::Administrator, Some(pin)),
        None => draft.update_user(old.clone(), UserRecord { role: Role::Administrator, ..old.record.clone() }),
    }
    draft.update_user(to.clone(), UserRecord { role: Role::Owner, ..to.record.clone() });
}

pub(super) fn exceeds(token: &TokenRecord, role: Role) -> bool {
    !token.permissions.is_subset_of(role.permissions())
}

#[cfg(test)]
mod tests;
