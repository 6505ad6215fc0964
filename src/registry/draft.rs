//! A batch while it is being decided: every history line gets the same actor and time.

use std::collections::HashSet;

use jiff::Timestamp;

use super::actor::Authority;
use crate::audit::{Event, events};
use crate::store::{Batch, Edit, Pin, Versioned};
use crate::token::{
    HistoryEntry, PermissionSet, Role, TokenEvent, TokenId, TokenRecord, TokenState, UserId, UserRecord,
};

/// What one actor is about to change at one moment.
pub(super) struct Draft<'a> {
    authority: &'a Authority,
    at: Timestamp,
    batch: Batch,
    /// The users in the batch: no record occurs twice.
    users: HashSet<UserId>,
    /// And the tokens.
    tokens: HashSet<TokenId>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(authority: &'a Authority, at: Timestamp) -> Self {
        Self { authority, at, batch: Batch::default(), users: HashSet::new(), tokens: HashSet::new() }
    }

    /// The batch, resting on the actor's own records too, with what the audit trail says of it.
    pub(super) fn into_batch(mut self) -> Batch {
        if let Some(actor) = self.authority.user() {
            self.require_user(actor);
        }
        if let Some(acting) = self.authority.token() {
            self.require_token(acting);
        }
        let events = events(&self.batch, self.authority.who(), self.at);
        self.batch.audit = events.iter().map(Event::to_bytes).collect();
        self.batch
    }

    /// For decisions that rest on what does not exist.
    pub(super) fn pin(&mut self, pin: Pin) {
        self.batch.pins.push(pin);
    }

    pub(super) fn create_user(&mut self, user: UserRecord) {
        self.users.insert(user.id);
        self.batch.users.push(Edit::Create(user));
    }

    pub(super) fn update_user(&mut self, before: Versioned<UserRecord>, after: UserRecord) {
        self.users.insert(after.id);
        self.batch.users.push(Edit::Update { before, after });
    }

    pub(super) fn delete_user(&mut self, user: Versioned<UserRecord>) {
        self.users.insert(user.record.id);
        self.batch.users.push(Edit::Delete(user));
    }

    /// Unless the batch rests on that record already. Comes after the edits of users.
    pub(super) fn require_user(&mut self, user: &Versioned<UserRecord>) {
        if self.users.insert(user.record.id) {
            self.batch.users.push(Edit::Require(user.clone()));
        }
    }

    pub(super) fn create_token(&mut self, token: TokenRecord, event: TokenEvent) {
        self.record_event(token.id, event);
        self.edit_token(Edit::Create(token));
    }

    /// Ends a token at a time, and lets this new one take its place. Both as they will be.
    pub(super) fn rotate(
        &mut self,
        before: Versioned<TokenRecord>,
        ends_at: Timestamp,
        mut successor: TokenRecord,
    ) -> (TokenRecord, TokenRecord) {
        let mut after = before.record.clone();
        (after.expires_at, after.successor) = (Some(ends_at), Some(successor.id));
        successor.predecessor = Some(after.id);
        self.record_event(after.id, TokenEvent::Rotated { to: successor.id });
        self.edit_token(Edit::Update { before, after: after.clone() });
        self.create_token(successor.clone(), TokenEvent::Created);
        (after, successor)
    }

    /// Brings a token from elsewhere along with its history; `lost` is what its owner's role does not permit here.
    pub(super) fn restore_token(&mut self, token: TokenRecord, history: &[HistoryEntry], lost: PermissionSet) {
        self.batch.history.extend(history.iter().map(|entry| (token.id, entry.clone())));
        let id = token.id;
        self.create_token(token, TokenEvent::Imported);
        if !lost.is_empty() {
            self.record_event(id, TokenEvent::Narrowed { lost });
        }
    }

    pub(super) fn delete_token(&mut self, token: Versioned<TokenRecord>) {
        self.edit_token(Edit::Delete(token));
    }

    /// Unless the batch rests on that record already. Comes after the edits of tokens.
    pub(super) fn require_token(&mut self, token: &Versioned<TokenRecord>) {
        if !self.tokens.contains(&token.record.id) {
            self.edit_token(Edit::Require(token.clone()));
        }
    }

    fn edit_token(&mut self, edit: Edit<TokenRecord>) {
        self.tokens.insert(edit.record().id);
        self.batch.tokens.push(edit);
    }

    pub(super) fn revoke(&mut self, before: Versioned<TokenRecord>, reason: Option<String>) -> TokenRecord {
        let mut after = before.record.clone();
        after.state = TokenState::Revoked { at: self.at, by: self.authority.name().to_owned() };
        self.record_event(after.id, TokenEvent::Revoked { reason });
        self.edit_token(Edit::Update { before, after: after.clone() });
        after
    }

    /// Gives an active token to somebody.
    pub(super) fn reassign(
        &mut self,
        before: Versioned<TokenRecord>,
        from: String,
        to: &Versioned<UserRecord>,
    ) -> TokenRecord {
        let mut after = before.record.clone();
        after.owner = to.record.id;
        self.record_event(after.id, TokenEvent::Reassigned { from, to: to.record.name.clone() });
        // Two events: that it was given away, and what it cost.
        if let Some(lost) = clamp_to_role(&mut after, to.record.role) {
            self.record_event(after.id, TokenEvent::Narrowed { lost });
        }
        self.edit_token(Edit::Update { before, after: after.clone() });
        after
    }

    /// Takes from an active token what the role does not have; `false` if that is nothing.
    pub(super) fn narrow(&mut self, before: Versioned<TokenRecord>, role: Role) -> bool {
        let mut after = before.record.clone();
        let Some(lost) = clamp_to_role(&mut after, role) else { return false };
        self.record_event(after.id, TokenEvent::Narrowed { lost });
        self.edit_token(Edit::Update { before, after });
        true
    }

    fn record_event(&mut self, id: TokenId, event: TokenEvent) {
        let (by, operator_reason) = (self.authority.name().to_owned(), self.authority.reason().cloned());
        self.batch.history.push((id, HistoryEntry { at: self.at, by, event, operator_reason }));
    }
}

/// Takes from a token what the role does not have, and says what it lost.
fn clamp_to_role(token: &mut TokenRecord, role: Role) -> Option<PermissionSet> {
    let permitted = token.permissions.intersect(role.permissions());
    let lost = token.permissions.without(permitted);
    token.permissions = permitted;
    (!lost.is_empty()).then_some(lost)
}

/// Records for the tests of decisions.
#[cfg(test)]
pub(super) mod samples {
    use super::*;
    use crate::store::CommitId;
    use crate::token::{Digest, UserStatus};

    pub(in crate::registry) fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    /// The same id for the same name.
    pub(in crate::registry) fn user(name: &str, role: Role) -> Versioned<UserRecord> {
        let id = name.bytes().fold(0, |id, byte| id << 8 | u64::from(byte));
        let (name, status) = (name.to_owned(), UserStatus::Active);
        let record = UserRecord { id: UserId::from_u64(id), name, role, status, created_at: at(0) };
        Versioned { record, version: CommitId(1) }
    }

    pub(in crate::registry) fn token(
        id: u64,
        owner: &Versioned<UserRecord>,
        permissions: PermissionSet,
    ) -> Versioned<TokenRecord> {
        let record = TokenRecord {
            id: TokenId::from_u64(id),
            digest: Digest::of(&id.to_le_bytes()),
            owner: owner.record.id,
            description: "sample".to_owned(),
            permissions,
            state: TokenState::Active,
            hint: String::new(),
            created_at: at(0),
            created_by: "cli:test".to_owned(),
            expires_at: None,
            predecessor: None,
            successor: None,
        };
        Versioned { record, version: CommitId(1) }
    }

    pub(in crate::registry) fn operator() -> Authority {
        Authority::operator("cli:test")
    }

    pub(in crate::registry) fn authority_of(user: &Versioned<UserRecord>) -> Authority {
        Authority::of_user(&user.record.name, Some(user.clone())).expect("active")
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{at, authority_of, token, user};
    use super::*;

    #[test]
    fn no_record_occurs_twice_in_a_batch() {
        let (anna, otto) = (user("anna", Role::Owner), user("otto", Role::Manager));
        let authority = authority_of(&anna);
        let mut draft = Draft::new(&authority, at(1));
        draft.update_user(anna.clone(), anna.record.clone());
        draft.require_user(&otto);
        draft.require_user(&otto);
        let batch = draft.into_batch();
        assert_eq!(batch.users.len(), 2);
        assert_eq!(batch.users[1], Edit::Require(otto));
    }

    #[test]
    fn reassigning_records_what_was_lost() {
        let (anna, vera) = (user("anna", Role::Owner), user("vera", Role::Viewer));
        let authority = authority_of(&anna);
        let mut draft = Draft::new(&authority, at(1));
        let after = draft.reassign(token(1, &anna, PermissionSet::TELEGRAF_AGENT), "anna".to_owned(), &vera);
        assert_eq!(after.owner, vera.record.id);
        assert_eq!(after.permissions, ["configs:read".parse().expect("valid")].into_iter().collect());
        let events: Vec<_> = draft.into_batch().history.into_iter().map(|(_, entry)| entry.event).collect();
        let lost = ["heartbeat:write".parse().expect("valid")].into_iter().collect();
        let given = TokenEvent::Reassigned { from: "anna".to_owned(), to: "vera".to_owned() };
        assert_eq!(events, [given, TokenEvent::Narrowed { lost }]);
    }
}
