//! What an entry says. The fields are the Controller's, and after them what it was done to.
//!
//! Of a token it has the id and nothing else: not its description, not the end of its value, not its digest. So of a token
//! that is deleted nothing is left here but a random number.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::store::{Batch, Edit};
use crate::token::raw::PREFIX;
use crate::token::{Role, TokenEvent, TokenId, TokenRecord, UserId, UserRecord, UserStatus};
use crate::words::{is_plain, words};

words! {
    /// What was done, or tried.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[expect(missing_docs, reason = "the names say it")]
    pub enum Action ("actions") {
        TokenCreate = "token.create",
        TokenImport = "token.import",
        TokenExport = "token.export",
        TokenRotate = "token.rotate",
        TokenReassign = "token.reassign",
        TokenNarrow = "token.narrow",
        TokenRevoke = "token.revoke",
        TokenDelete = "token.delete",
        UserCreate = "user.create",
        UserSetRole = "user.set-role",
        UserDisable = "user.disable",
        UserEnable = "user.enable",
        UserDelete = "user.delete",
        OwnershipTransfer = "user.transfer-ownership",
        AuditRead = "audit.read",
        AuditTrim = "audit.trim",
        SignIn = "sign-in",
    }
}

impl Serialize for Action {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Who did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ActorType {
    /// Somebody who is signed in.
    User,
    /// Whoever has an API token.
    Token,
    /// Somebody with access to the store itself, or Tollgate.
    System,
}

words! {
    /// What came of it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
    pub enum Outcome {
        /// It was done.
        Success = "Success",
        /// It could not be done.
        Failure = "Failure",
        /// Whoever asked may not do it.
        Denied = "Denied",
    }
}

/// Where a command came from. Nothing of it for those at the store itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The token that it came with.
    pub token: Option<TokenId>,
    /// The client's address.
    pub ip_address: Option<IpAddr>,
    user_agent: Option<String>,
}

/// Most characters that are recorded of what a client calls itself.
const MAX_USER_AGENT: usize = 200;

impl Origin {
    /// A client's, with what it calls itself: cut, and without what a terminal would obey and what may be a token.
    #[must_use]
    pub fn new(token: Option<TokenId>, ip_address: Option<IpAddr>, user_agent: Option<&[u8]>) -> Self {
        let clean = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            let text = text.split(PREFIX).next().unwrap_or_default();
            text.chars().filter(|symbol| is_plain(*symbol)).take(MAX_USER_AGENT).collect::<String>()
        };
        Self { token, ip_address, user_agent: user_agent.map(clean).filter(|text| !text.is_empty()) }
    }

    /// The same without a token.
    #[must_use]
    pub fn without_token(&self) -> Self {
        Self { token: None, ..self.clone() }
    }

    /// What the client calls itself, cleaned.
    #[must_use]
    pub fn user_agent(&self) -> Option<&str> {
        self.user_agent.as_deref()
    }
}

/// Who is recorded for an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    id: String,
    kind: ActorType,
    name: Option<String>,
    origin: Origin,
}

impl Who {
    /// Somebody at the store itself, or Tollgate.
    #[must_use]
    pub fn system(name: &str, origin: Origin) -> Self {
        Self { id: name.to_owned(), kind: ActorType::System, name: None, origin }
    }

    /// A user, with a token or without.
    #[must_use]
    pub fn user(id: UserId, name: &str, origin: Origin) -> Self {
        match origin.token {
            Some(token) => Self::token(token, name, origin),
            None => Self { id: id.to_string(), kind: ActorType::User, name: Some(name.to_owned()), origin },
        }
    }

    /// A token of the user of that name.
    #[must_use]
    pub fn token(id: TokenId, name: &str, origin: Origin) -> Self {
        Self { id: id.to_string(), kind: ActorType::Token, name: Some(name.to_owned()), origin }
    }
}

/// One entry, before it is chained.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    timestamp: Timestamp,
    action: Action,
    actor_id: String,
    actor_type: ActorType,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor_name: Option<String>,
    ip_address: Option<IpAddr>,
    user_agent: Option<String>,
    outcome: Outcome,
    #[serde(flatten)]
    subject: Subject,
}

/// What it was done to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// Ids of tokens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<TokenId>,
    /// The user, or whose the tokens are afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// That user's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
    /// The user's role afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// What the token was rotated to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub successor: Option<TokenId>,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many more were refused, of which there is no entry.
    #[serde(skip_serializing_if = "is_zero")]
    pub more: u64,
    /// Entries up to this one were removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub through: Option<u64>,
    /// The hash of that one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub through_hash: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Event {
    /// Of something that this actor did, or tried, at this moment.
    #[must_use]
    pub fn new(who: &Who, action: Action, outcome: Outcome, subject: Subject, timestamp: Timestamp) -> Self {
        let Who { id, kind, name, origin } = who.clone();
        Self {
            timestamp,
            action,
            actor_id: id,
            actor_type: kind,
            actor_name: name,
            ip_address: origin.ip_address,
            user_agent: origin.user_agent,
            outcome,
            subject,
        }
    }

    /// As a store has it.
    ///
    /// # Panics
    /// Never: ids, words, texts and times are all written as JSON.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("ids, words, texts and times")
    }
}

/// An entry for each thing that a batch does: what is done alike to several tokens is one, with all of their ids.
#[must_use]
pub fn events(batch: &Batch, who: &Who, at: Timestamp) -> Vec<Event> {
    let success = |(action, subject)| Event::new(who, action, Outcome::Success, subject, at);
    let users = batch.users.iter().flat_map(of_user);
    users.chain(of_tokens(batch)).map(success).collect()
}

/// What an edit of a user is.
fn of_user(edit: &Edit<UserRecord>) -> Vec<(Action, Subject)> {
    let user = edit.record();
    let subject =
        |role| Subject { user_id: Some(user.id), user_name: Some(user.name.clone()), role, ..Subject::default() };
    match edit {
        Edit::Create(user) => vec![(Action::UserCreate, subject(Some(user.role)))],
        Edit::Delete(_) => vec![(Action::UserDelete, subject(None))],
        Edit::Require(_) => Vec::new(),
        Edit::Update { before, after } => {
            let before = &before.record;
            let role = (after.role != before.role).then(|| match after.role {
                Role::Owner => (Action::OwnershipTransfer, subject(Some(after.role))),
                _ => (Action::UserSetRole, subject(Some(after.role))),
            });
            let status = (after.status != before.status).then(|| match after.status {
                UserStatus::Active => (Action::UserEnable, subject(None)),
                UserStatus::Disabled => (Action::UserDisable, subject(None)),
            });
            role.into_iter().chain(status).collect()
        }
    }
}

/// What the edits of tokens are.
fn of_tokens(batch: &Batch) -> Vec<(Action, Subject)> {
    let names: HashMap<UserId, &str> =
        batch.users.iter().map(|edit| (edit.record().id, edit.record().name.as_str())).collect();
    let imported = batch.history.iter().filter(|(_, entry)| entry.event == TokenEvent::Imported);
    let imported: HashSet<TokenId> = imported.map(|(id, _)| *id).collect();
    let mut groups: BTreeMap<(Action, Option<UserId>), Vec<TokenId>> = BTreeMap::new();
    let mut rotated = Vec::new();
    for edit in &batch.tokens {
        let id = edit.record().id;
        for (action, owner) in of_token(edit, imported.contains(&id)) {
            match edit.after().and_then(|token| token.successor).filter(|_| action == Action::TokenRotate) {
                Some(successor) => rotated.push((id, successor)),
                None => groups.entry((action, owner)).or_default().push(id),
            }
        }
    }
    let named = |owner: Option<UserId>, subject| Subject {
        user_id: owner,
        user_name: owner.and_then(|owner| Some((*names.get(&owner)?).to_owned())),
        ..subject
    };
    let groups = groups
        .into_iter()
        .map(|((action, owner), tokens)| (action, named(owner, Subject { tokens, ..Subject::default() })));
    let rotated = rotated.into_iter().map(|(token, successor)| {
        let subject = Subject { tokens: vec![token], successor: Some(successor), ..Subject::default() };
        (Action::TokenRotate, subject)
    });
    groups.chain(rotated).collect()
}

/// What an edit of a token is, and whose it is afterwards where that is the point.
fn of_token(edit: &Edit<TokenRecord>, is_imported: bool) -> Vec<(Action, Option<UserId>)> {
    let (before, after) = match edit {
        // Of a rotation, both tokens are in one entry.
        Edit::Create(token) if token.predecessor.is_some() && !is_imported => return Vec::new(),
        Edit::Create(token) if is_imported => return vec![(Action::TokenImport, Some(token.owner))],
        Edit::Create(token) => return vec![(Action::TokenCreate, Some(token.owner))],
        Edit::Delete(_) => return vec![(Action::TokenDelete, None)],
        Edit::Require(_) => return Vec::new(),
        Edit::Update { before, after } => (&before.record, after),
    };
    let mut actions = Vec::new();
    if before.successor != after.successor {
        actions.push((Action::TokenRotate, None));
    }
    if before.owner != after.owner {
        actions.push((Action::TokenReassign, Some(after.owner)));
    }
    if before.permissions != after.permissions {
        actions.push((Action::TokenNarrow, None));
    }
    if before.is_active() && !after.is_active() {
        actions.push((Action::TokenRevoke, None));
    }
    actions
}

#[cfg(test)]
mod tests;
