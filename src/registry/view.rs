//! Records as JSON, the same for the CLI and the admin API: times in RFC 3339 UTC, `null` for what there is not.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::import::LineKind;
use super::{Created, Imported, LastUse, LateUse, NewId, RefusedLine, TokenDetails, TokenUses};
use crate::store::{Agent, AgentName};
use crate::token::{
    DigestPrefix, HistoryEntry, PermissionSet, RawToken, Role, TokenId, TokenRecord, TokenState, UserId, UserRecord,
    UserStatus,
};

/// A token as people and programs see it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Token)]
pub(crate) struct TokenView {
    /// Its id.
    pub id: TokenId,
    /// The name of its owner.
    pub user: String,
    /// What people call it.
    pub description: String,
    /// What it permits.
    pub permissions: PermissionSet,
    /// Whether it was revoked. One that has expired is still active in this sense.
    pub state: StateView,
    /// Whether it is past its expiry.
    pub expired: bool,
    /// The last characters of the raw token; empty if they were never known.
    pub hint: String,
    /// The first digits of its digest, as the log has them.
    #[schema(value_type = String)]
    pub digest_prefix: DigestPrefix,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: String,
    /// When it stops working by itself.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
    /// Who revoked it.
    #[schema(required)]
    pub revoked_by: Option<String>,
    /// The token that was rotated to it.
    #[schema(required)]
    pub predecessor: Option<TokenId>,
    /// The token that it was rotated to.
    #[schema(required)]
    pub successor: Option<TokenId>,
    /// When it was last used, if that is known.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Timestamp>,
    /// What else is known of its use, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageView>,
    /// The raw token: only in the reply that creates it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub token: Option<Revealed>,
    /// What makes the same token at the Controller: only there too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<ControllerToken>,
    /// What came with it after its end: only where one token is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late: Option<LateUse>,
    /// What came after its end with the token that it succeeds: only there too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predecessor_late: Option<LateUse>,
    /// What happened to it, oldest first: only where one token is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<Vec<HistoryEntry>>,
}

/// Where a token is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = TokenState)]
pub(crate) enum StateView {
    /// It was not revoked.
    Active,
    /// It was, for good.
    Revoked,
}

impl TokenView {
    /// A token as of `now`.
    pub(crate) fn new(record: &TokenRecord, owner: &UserRecord, now: Timestamp) -> Self {
        let (state, revoked_at, revoked_by) = match &record.state {
            TokenState::Active => (StateView::Active, None, None),
            TokenState::Revoked { at, by } => (StateView::Revoked, Some(*at), Some(by.clone())),
        };
        Self {
            id: record.id,
            user: owner.name.clone(),
            description: record.description.clone(),
            permissions: record.permissions,
            state,
            expired: record.is_expired(now),
            hint: record.hint.clone(),
            digest_prefix: DigestPrefix::of(&record.digest),
            created_at: record.created_at,
            created_by: record.created_by.clone(),
            expires_at: record.expires_at,
            revoked_at,
            revoked_by,
            predecessor: record.predecessor,
            successor: record.successor,
            last_used_at: None,
            usage: None,
            token: None,
            controller: None,
            late: None,
            predecessor_late: None,
            history: None,
        }
    }

    /// A token just made, with the raw token.
    pub(crate) fn of_created(created: &Created, now: Timestamp) -> Self {
        let Created { record, owner, token } = created;
        let controller = ControllerToken {
            name: record.description.clone(),
            permissions: record.permissions,
            raw_token: Revealed(token.clone()),
        };
        Self { token: Some(Revealed(token.clone())), controller: Some(controller), ..Self::new(record, owner, now) }
    }

    /// A token with its history.
    pub(crate) fn of_details(details: &TokenDetails, now: Timestamp) -> Self {
        let TokenDetails { record, version: _, owner, history, late, predecessor_late } = details.clone();
        Self { late, predecessor_late, history: Some(history), ..Self::new(&record, &owner, now) }
    }
}

impl TokenView {
    /// With what is known of its use.
    pub(crate) fn with_usage(mut self, uses: &TokenUses) -> Self {
        let last_use = uses.last_use(self.id);
        let [day, month] = uses.agents(self.id);
        self.last_used_at = last_use.at();
        self.usage = Some(UsageView {
            never_used: last_use == LastUse::Never,
            recorded_since: uses.since,
            agents_24h: day.agents,
            agents_30d: month.agents,
            estimated: month.is_estimate,
            agents: None,
        });
        self
    }

    /// With agents by name, after [`TokenView::with_usage`].
    pub(crate) fn with_agents(mut self, agents: &[Agent]) -> Self {
        if let Some(usage) = &mut self.usage {
            usage.agents = Some(agents.iter().map(AgentView::from).collect());
        }
        self
    }
}

/// How a token was used.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Usage)]
pub(crate) struct UsageView {
    /// Not once: what was made before uses were recorded may have been used unrecorded, and is none of these.
    pub never_used: bool,
    /// Since when uses are recorded.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub recorded_since: Option<Timestamp>,
    /// How many agents used it within 24 hours.
    pub agents_24h: u64,
    /// Within 30 days.
    pub agents_30d: u64,
    /// The numbers are within two percent.
    pub estimated: bool,
    /// Which agents, the latest first: only where one token is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agents: Option<Vec<AgentView>>,
}

/// An agent that used a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Agent)]
pub(crate) struct AgentView {
    /// What it calls itself; `null`: it gave no name.
    #[schema(required)]
    pub id: Option<String>,
    /// Where it was last.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Its version, if it said so.
    #[schema(required)]
    pub version: Option<String>,
    /// When that was.
    #[schema(value_type = String, format = DateTime)]
    pub last_used_at: Timestamp,
}

impl From<&Agent> for AgentView {
    fn from(agent: &Agent) -> Self {
        let Agent { name, address, version, last_used } = agent.clone();
        let id = match name {
            AgentName::Id(id) => Some(id),
            AgentName::Address(_) => None,
        };
        Self { id, address, version, last_used_at: last_used }
    }
}

/// The body of the request by which the Controller takes a token of this value: `POST /api/tokens`, since its version 1.2.
/// It has no expiry.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ControllerToken {
    /// What people call it. Unique there.
    pub name: String,
    /// What it permits.
    pub permissions: PermissionSet,
    /// Its value.
    #[schema(value_type = String)]
    pub raw_token: Revealed,
}

/// A raw token for the one who just made it: the one place where it is written out.
#[derive(Debug, Clone)]
pub(crate) struct Revealed(RawToken);

impl Serialize for Revealed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.reveal())
    }
}

/// What an import did, and what it left out.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Import)]
pub(crate) struct ImportView {
    /// How many tokens are new.
    pub imported: usize,
    /// How many lines are of tokens that existed, and were left as they are.
    pub skipped: usize,
    /// How many of these have another user, description, expiry or other permissions than their line.
    pub differing: usize,
    /// The new tokens, each with its line.
    pub tokens: Vec<NewId>,
    /// The lines that were left out.
    pub refused: Vec<RefusedView>,
}

/// A line that was left out of an import.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = RefusedLine)]
pub(crate) struct RefusedView {
    /// Its number, from 1.
    pub line: usize,
    /// What kind of reason it is.
    pub kind: LineKind,
    /// Why. Nothing of the token is in it.
    pub reason: String,
}

impl From<&RefusedLine> for RefusedView {
    fn from(RefusedLine { line, reason }: &RefusedLine) -> Self {
        Self { line: *line, kind: reason.kind(), reason: reason.to_string() }
    }
}

impl From<&Imported> for ImportView {
    fn from(Imported { tokens, skipped, differing, refused }: &Imported) -> Self {
        let (imported, refused) = (tokens.len(), refused.iter().map(RefusedView::from).collect());
        Self { imported, skipped: *skipped, differing: *differing, tokens: tokens.clone(), refused }
    }
}

/// A user as people and programs see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = User)]
pub(crate) struct UserView {
    /// Its id.
    pub id: UserId,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// `active` or `disabled`.
    pub status: UserStatus,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

impl From<&UserRecord> for UserView {
    fn from(record: &UserRecord) -> Self {
        let UserRecord { id, name, role, status, created_at } = record.clone();
        Self { id, name, role, status, created_at }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::draft::samples::{at, token, user};
    use super::*;
    use crate::store::CommitId;
    use crate::token::TokenEvent;

    #[test]
    fn an_active_token_has_every_field_and_no_secret() {
        let anna = user("anna", Role::Owner);
        let mut record = token(7, &anna, PermissionSet::TELEGRAF_AGENT).record;
        record.expires_at = Some(at(100));
        let view = serde_json::to_value(TokenView::new(&record, &anna.record, at(100))).expect("serializes");
        let expected = json!({
            "id": "0000000000007", "user": "anna", "description": "sample",
            "permissions": ["configs:read", "heartbeat:write"], "state": "active", "expired": true, "hint": "",
            "digest_prefix": "aae89fc0f03e",
            "created_at": "1970-01-01T00:00:00Z", "created_by": "cli:test",
            "expires_at": "1970-01-01T00:01:40Z", "revoked_at": null, "revoked_by": null, "predecessor": null,
            "successor": null, "last_used_at": null,
        });
        assert_eq!(view, expected);
    }

    #[test]
    fn a_revoked_token_says_when_and_by_whom_and_its_history() {
        let anna = user("anna", Role::Owner);
        let mut record = token(7, &anna, PermissionSet::EMPTY).record;
        record.state = TokenState::Revoked { at: at(5), by: "cli:root".to_owned() };
        let entry = HistoryEntry {
            at: at(5),
            by: "cli:root".to_owned(),
            event: TokenEvent::Revoked { reason: None },
            operator_reason: None,
        };
        let version = CommitId::default();
        let (owner, history) = (anna.record, vec![entry]);
        let details = TokenDetails { record, version, owner, history, late: None, predecessor_late: None };
        let view = serde_json::to_value(TokenView::of_details(&details, at(6))).expect("serializes");
        assert_eq!(view["state"], "revoked");
        assert_eq!(view["revoked_at"], "1970-01-01T00:00:05Z");
        assert_eq!(view["revoked_by"], "cli:root");
        assert_eq!(view["history"], json!([{ "at": "1970-01-01T00:00:05Z", "by": "cli:root", "event": "revoked" }]));
    }

    #[test]
    fn only_the_reply_that_creates_a_token_has_it() {
        let anna = user("anna", Role::Owner);
        let raw: RawToken = "tc-apiv1_0123456789012345678901abc123".parse().expect("valid");
        let record = token(7, &anna, PermissionSet::EMPTY).record;
        let view = TokenView::of_created(&Created { record, owner: anna.record, token: raw.clone() }, at(0));
        assert!(!format!("{view:?}").contains("0123456789"));
        let view = serde_json::to_value(view).expect("serializes");
        assert_eq!(view["token"], raw.reveal());
        let body = json!({ "name": "sample", "permissions": [], "rawToken": raw.reveal() });
        assert_eq!(view["controller"], body, "what POST /api/tokens of the Controller takes");
    }

    #[test]
    fn a_user_has_five_fields() {
        let view = serde_json::to_value(UserView::from(&user("a", Role::Administrator).record)).expect("serializes");
        let expected = json!({
            "id": "0000000000031", "name": "a", "role": "administrator", "status": "active",
            "created_at": "1970-01-01T00:00:00Z",
        });
        assert_eq!(view, expected);
    }
}
