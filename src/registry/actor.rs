//! Who acts, and what their role lets them do.
//!
//! A record that an actor may not see is *not found*, so nobody learns that it exists. Whole commands that a role does
//! not have are *forbidden*, before anything is looked up.
//!
//! A token that acts can do what it permits itself and its owner's role has, and never more: its record is read for every
//! command too, and the commit rests on it.

use jiff::Timestamp;

use super::RegistryError;
use crate::audit::{Origin, Who};
use crate::store::Versioned;
use crate::token::{Permission, PermissionSet, Reason, Role, TokenId, TokenRecord, UserId, UserRecord, UserStatus};
use crate::words::words;

/// Who gives a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// Somebody with access to the store itself, recorded under this name (`cli:<login name>`). Bound by every rule that
    /// protects the data, not by a role.
    Operator(String),
    /// A user. Only the id and the name are taken from this record: role and status are read again for every command.
    User(UserRecord),
    /// Whoever shows a token.
    Token(ActingToken),
}

/// A token that gives a command, in the name of whoever owns it when the command is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActingToken {
    /// Which.
    pub id: TokenId,
    /// Its owner's name.
    pub user: String,
    /// What the command needs, and the token must permit; `None`: nothing but that it works.
    pub needed: Option<Permission>,
}

impl Actor {
    /// The name in records and histories.
    pub fn name(&self) -> &str {
        match self {
            Self::Operator(name) => name,
            Self::User(user) => &user.name,
            Self::Token(token) => &token.user,
        }
    }
}

/// An actor as of now: either the operator, or a user who exists and is active.
#[derive(Debug)]
pub(super) struct Authority {
    name: String,
    who: Who,
    /// `None`: the operator.
    user: Option<Versioned<UserRecord>>,
    /// `None`: not by a token.
    token: Option<Versioned<TokenRecord>>,
    /// Why, for the histories.
    reason: Option<Reason>,
}

impl Authority {
    pub(super) fn operator(name: &str) -> Self {
        Self { name: name.to_owned(), who: Who::system(name, Origin::default()), user: None, token: None, reason: None }
    }

    /// A user, with the record just read.
    pub(super) fn of_user(name: &str, user: Option<Versioned<UserRecord>>) -> Result<Self, RegistryError> {
        match user {
            None => Err(RegistryError::ActorDeleted(name.to_owned())),
            Some(user) if user.record.status == UserStatus::Disabled => {
                Err(RegistryError::ActorDisabled(name.to_owned()))
            }
            Some(user) => {
                let who = Who::user(user.record.id, name, Origin::default());
                Ok(Self { name: name.to_owned(), who, user: Some(user), token: None, reason: None })
            }
        }
    }

    /// A token that can be used and permits what is needed, with the records just read.
    pub(super) fn of_token(
        acting: &ActingToken,
        token: Option<Versioned<TokenRecord>>,
        owner: Option<Versioned<UserRecord>>,
        now: Timestamp,
    ) -> Result<Self, RegistryError> {
        let is_usable = |token: &Versioned<TokenRecord>| token.record.is_active() && !token.record.is_expired(now);
        let token = token.filter(is_usable).ok_or(RegistryError::ActingTokenUnusable(acting.id))?;
        let name = owner.as_ref().map_or(&acting.user, |owner| &owner.record.name).clone();
        let authority = Self { token: Some(token), ..Self::of_user(&name, owner)? };
        match acting.needed.filter(|needed| !authority.permissions().contains(*needed)) {
            None => Ok(authority),
            Some(lacking) => Err(RegistryError::ActingTokenLacks([lacking].into_iter().collect())),
        }
    }

    /// The same, from there.
    pub(super) fn coming_from(mut self, origin: &Origin) -> Self {
        self.who = match (&self.user, &self.token) {
            (_, Some(token)) => Who::token(token.record.id, &self.name, origin.clone()),
            (Some(user), None) => Who::user(user.record.id, &self.name, origin.clone()),
            (None, None) => Who::system(&self.name, origin.clone()),
        };
        self
    }

    /// The same, for this reason.
    pub(super) fn because_of(self, reason: Option<&Reason>) -> Self {
        Self { reason: reason.cloned(), ..self }
    }

    /// Why, if anybody said so.
    pub(super) fn reason(&self) -> Option<&Reason> {
        self.reason.as_ref()
    }

    /// For what follows from a command that was committed: of what the actor may do nobody asks any more.
    pub(super) fn unbound(&self) -> Self {
        Self { name: self.name.clone(), who: self.who.clone(), user: None, token: None, reason: self.reason.clone() }
    }

    /// As the audit trail names the actor.
    pub(super) fn who(&self) -> &Who {
        &self.who
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The actor's own record; `None` for the operator.
    pub(super) fn user(&self) -> Option<&Versioned<UserRecord>> {
        self.user.as_ref()
    }

    /// The record of the token that acts, if one does.
    pub(super) fn token(&self) -> Option<&Versioned<TokenRecord>> {
        self.token.as_ref()
    }

    /// What can be given to others: everything but what the token that acts does not permit.
    fn permissions(&self) -> PermissionSet {
        let role = self.user.as_ref().map_or(PermissionSet::all(), |user| user.record.role.permissions());
        self.token.as_ref().map_or(PermissionSet::all(), |token| token.record.permissions.intersect(role))
    }

    /// Whether the token that acts permits all of this, and its owner's role does.
    pub(super) fn check_permits(&self, needed: PermissionSet) -> Result<(), RegistryError> {
        let lacking = needed.without(self.permissions());
        if lacking.is_empty() { Ok(()) } else { Err(RegistryError::ActingTokenLacks(lacking)) }
    }

    /// No token makes one that can do more than itself, or lives longer.
    pub(super) fn check_makes(
        &self,
        permissions: PermissionSet,
        expires_at: Option<Timestamp>,
    ) -> Result<(), RegistryError> {
        let Some(token) = &self.token else { return Ok(()) };
        self.check_permits(permissions)?;
        match token.record.expires_at {
            Some(end) if expires_at.is_none_or(|expires_at| expires_at > end) => Err(RegistryError::OutlivesMaker(end)),
            _ => Ok(()),
        }
    }

    fn has(&self, role: Role) -> bool {
        self.user.as_ref().is_none_or(|user| user.record.role >= role)
    }

    pub(super) fn is(&self, id: UserId) -> bool {
        self.user.as_ref().is_some_and(|user| user.record.id == id)
    }

    /// Everybody sees themselves.
    pub(super) fn sees_user(&self, id: UserId) -> bool {
        self.has(Role::Administrator) || self.is(id)
    }

    /// Viewers see none, not even one that was given to them.
    pub(super) fn sees_tokens_of(&self, owner: UserId) -> bool {
        self.has(Role::Administrator) || (self.has(Role::Manager) && self.is(owner))
    }

    pub(super) fn sees_all_tokens(&self) -> bool {
        self.has(Role::Administrator)
    }

    /// Why a value cannot be had, without what is hidden: whoever does not see all tokens does not learn what became of one by
    /// its value either.
    pub(super) fn not_telling(&self, error: RegistryError) -> RegistryError {
        match error {
            RegistryError::DigestTaken(digest) | RegistryError::DigestRetired(digest) if !self.sees_all_tokens() => {
                RegistryError::DigestHidden(digest)
            }
            error => error,
        }
    }

    pub(super) fn check(&self, right: Right) -> Result<(), RegistryError> {
        match self.has(right.weakest_role()) {
            true => Ok(()),
            false => Err(RegistryError::Forbidden { actor: self.name.clone(), right }),
        }
    }

    /// Before it is known whether a user of that name exists.
    pub(super) fn check_makes_tokens_for(&self, name: &str) -> Result<(), RegistryError> {
        self.check(Right::ManageTokens)?;
        if self.name == name { Ok(()) } else { self.check(Right::CreateTokensForOthers) }
    }

    /// Whether this user may come to own a token at the actor's command. A token acts with its owner's role, so whoever
    /// could put a token of their own into the Owner's hands would be the Owner.
    pub(super) fn check_gives_tokens_to(&self, user: &UserRecord) -> Result<(), RegistryError> {
        if user.role == Role::Owner { self.check(Right::GiveTokensToOwner) } else { Ok(()) }
    }

    /// Changing a user of that role, or making somebody one.
    pub(super) fn check_manages(&self, role: Role) -> Result<(), RegistryError> {
        self.check(Right::ManageUsers)?;
        if role >= Role::Administrator { self.check(Right::ManageAdministrators) } else { Ok(()) }
    }
}

words! {
    /// What not every role may do.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[expect(missing_docs, reason = "the names say it")]
    pub enum Right {
        ManageTokens = "manage tokens",
        CreateTokensForOthers = "create tokens for others",
        ReassignTokens = "reassign tokens",
        GiveTokensToOwner = "give tokens to the Owner",
        MoveTokens = "export tokens, or import them with their past",
        ManageUsers = "manage users",
        ManageAdministrators = "manage Administrators",
        TransferOwnership = "transfer the ownership",
        ReadAudit = "read the audit trail",
    }
}

impl Right {
    fn weakest_role(self) -> Role {
        match self {
            Self::ManageTokens => Role::Manager,
            Self::CreateTokensForOthers
            | Self::ReassignTokens
            | Self::MoveTokens
            | Self::ManageUsers
            | Self::ReadAudit => Role::Administrator,
            Self::GiveTokensToOwner | Self::ManageAdministrators | Self::TransferOwnership => Role::Owner,
        }
    }

    /// Who may, for people.
    pub(super) fn rule(self) -> &'static str {
        match self.weakest_role() {
            _ if self == Self::GiveTokensToOwner => "only the Owner may, since they act with the Owner's role",
            Role::Owner => "only the Owner may",
            Role::Administrator => "only the Owner and Administrators may",
            Role::Manager | Role::Viewer => "only the roles owner, administrator and manager may",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ErrorKind;
    use super::super::draft::samples::{self, authority_of, user};
    use super::*;

    /// For viewer, manager, administrator, owner, operator.
    fn who_may(check: impl Fn(&Authority) -> bool) -> [bool; 5] {
        let operator = samples::operator();
        let [viewer, manager, administrator, owner] = Role::ALL.map(|role| authority_of(&user("anna", role)));
        [viewer, manager, administrator, owner, operator].map(|authority| check(&authority))
    }

    #[test]
    fn the_roles_and_what_they_may() {
        let own = user("anna", Role::Viewer).record.id;
        let other = user("otto", Role::Owner);
        let id = other.record.id;
        let (no, yes) = (false, true);
        let table: [(&str, [bool; 5], [bool; 5]); 12] = [
            ("see oneself", who_may(|s| s.sees_user(own)), [yes, yes, yes, yes, yes]),
            ("see others", who_may(|s| s.sees_user(id)), [no, no, yes, yes, yes]),
            ("see own tokens", who_may(|s| s.sees_tokens_of(own)), [no, yes, yes, yes, yes]),
            ("see others' tokens", who_may(|s| s.sees_tokens_of(id)), [no, no, yes, yes, yes]),
            ("make own", who_may(|s| s.check_makes_tokens_for("anna").is_ok()), [no, yes, yes, yes, no]),
            ("make others'", who_may(|s| s.check_makes_tokens_for("otto").is_ok()), [no, no, yes, yes, yes]),
            ("reassign", who_may(|s| s.check(Right::ReassignTokens).is_ok()), [no, no, yes, yes, yes]),
            ("move tokens", who_may(|s| s.check(Right::MoveTokens).is_ok()), [no, no, yes, yes, yes]),
            ("to the Owner", who_may(|s| s.check_gives_tokens_to(&other.record).is_ok()), [no, no, no, yes, yes]),
            ("manage managers", who_may(|s| s.check_manages(Role::Manager).is_ok()), [no, no, yes, yes, yes]),
            ("administrators", who_may(|s| s.check_manages(Role::Administrator).is_ok()), [no, no, no, yes, yes]),
            ("transfer", who_may(|s| s.check(Right::TransferOwnership).is_ok()), [no, no, no, yes, yes]),
        ];
        for (what, mut actual, expected) in table {
            if what == "make own" {
                actual[4] = no; // the operator has no tokens of their own to make
            }
            assert_eq!(actual, expected, "{what}");
        }
    }

    #[test]
    fn a_disabled_or_deleted_user_acts_on_nothing() {
        let mut anna = user("anna", Role::Owner);
        anna.record.status = UserStatus::Disabled;
        for record in [Some(anna), None] {
            let error = Authority::of_user("anna", record).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Forbidden);
        }
    }
}
