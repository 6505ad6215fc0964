//! The list of tokens: what narrows it is its address.

use askama::Template;
use axum::extract::RawQuery;
use axum::response::Response;
use jiff::Timestamp;

use super::filter;
use super::form::Form;
use super::html::{self, Section, Shell};
use super::trouble::Trouble;
use super::view::{Place, ROWS, View};
use super::visitor::{Submitted, Visitor};
use super::when::{When, counted, grouped};
use crate::registry::{LastUse, TokenUses, check_rotates};
use crate::token::{Action, PermissionSet, RawToken, Resource, Role, TokenId, TokenRecord, TokenState, UserRecord};

/// A token that ends so soon is one to look at.
const SOON: std::time::Duration = std::time::Duration::from_hours(7 * 24);

/// Where a token is in its life, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status {
    /// For the stylesheet.
    pub(super) kind: &'static str,
    pub(super) name: &'static str,
}

/// A token as the list shows it.
pub(super) struct Row {
    pub(super) id: String,
    pub(super) description: String,
    pub(super) owner: String,
    /// Whether the owner was disabled: the token does not work meanwhile.
    pub(super) is_suspended: bool,
    pub(super) hint: String,
    pub(super) permissions: String,
    /// All of them, for those who want to know.
    pub(super) permissions_in_full: String,
    pub(super) status: Status,
    pub(super) is_active: bool,
    pub(super) can_rotate: bool,
    pub(super) is_own: bool,
    pub(super) created: When,
    pub(super) expires: Option<When>,
    pub(super) revoked: Option<When>,
    pub(super) used: Used,
}

/// When a token was last used, for people.
pub(super) struct Used {
    pub(super) at: Option<When>,
    /// Where there is no moment.
    pub(super) otherwise: &'static str,
    /// Within 24 hours.
    pub(super) agents: Option<String>,
}

impl Used {
    pub(super) fn of(id: TokenId, uses: &TokenUses) -> Self {
        let (at, otherwise) = match uses.last_use(id) {
            LastUse::At(at) => (Some(When::new(at, uses.now)), ""),
            LastUse::Never => (None, "Never"),
            LastUse::Unknown => (None, "Not known"),
        };
        let [day, _] = uses.agents(id);
        let about = if day.is_estimate { "about " } else { "" };
        let agents = (day.agents > 0).then(|| format!("{about}{} in 24 h", counted(day.agents, "agent")));
        Self { at, otherwise, agents }
    }
}

impl Row {
    pub(super) fn new(token: &TokenRecord, owner: &UserRecord, uses: &TokenUses, own: TokenId, now: Timestamp) -> Self {
        let revoked = match &token.state {
            TokenState::Active => None,
            TokenState::Revoked { at, .. } => Some(When::new(*at, now)),
        };
        Self {
            id: token.id.to_string(),
            description: token.description.clone(),
            owner: owner.name.clone(),
            is_suspended: owner.status == crate::token::UserStatus::Disabled,
            hint: token.hint.clone(),
            permissions: in_short(token.permissions),
            permissions_in_full: in_full(token.permissions),
            status: status(token, now),
            is_active: token.is_active(),
            can_rotate: check_rotates(token, now).is_ok(),
            is_own: token.id == own,
            created: When::new(token.created_at, now),
            expires: token.expires_at.map(|at| When::new(at, now)),
            revoked,
            used: Used::of(token.id, uses),
        }
    }
}

fn status(token: &TokenRecord, now: Timestamp) -> Status {
    let (kind, name) = match token.expires_at {
        _ if !token.is_active() => ("revoked", "Revoked"),
        Some(_) if token.is_expired(now) => ("expired", "Expired"),
        Some(end) if end.duration_since(now).unsigned_abs() < SOON => ("soon", "Expires soon"),
        _ => ("active", "Active"),
    };
    Status { kind, name }
}

/// What a token permits, in few words.
pub(super) fn in_short(permissions: PermissionSet) -> String {
    match permissions.iter().count() {
        _ if permissions == PermissionSet::TELEGRAF_AGENT => "Telegraf Agent".to_owned(),
        _ if permissions == PermissionSet::all() => "Everything".to_owned(),
        0 => "Nothing".to_owned(),
        1..=2 => in_full(permissions),
        count => counted(count as u64, "permission"),
    }
}

/// What a token permits.
pub(super) fn in_full(permissions: PermissionSet) -> String {
    permissions.iter().map(|permission| permission.to_string()).collect::<Vec<_>>().join(", ")
}

/// What a visitor may do to tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct May {
    pub(super) write: bool,
    pub(super) delete: bool,
    /// Only the Owner and Administrators.
    pub(super) reassign: bool,
}

impl May {
    pub(super) fn of(visitor: &Visitor) -> Self {
        let write = visitor.may(Resource::Tokens, Action::Write);
        let is_over_others = visitor.holder.role >= Role::Administrator;
        Self { write, delete: visitor.may(Resource::Tokens, Action::Delete), reassign: write && is_over_others }
    }

    pub(super) fn any(&self) -> bool {
        self.write || self.delete
    }
}

#[derive(Template)]
#[template(path = "tokens.html")]
struct TokensPage {
    shell: Shell,
    view: View,
    rows: Vec<Row>,
    may: May,
    owners: Option<Owners>,
    permissions: Vec<String>,
    /// How many match.
    total: usize,
    place: Place,
}

impl TokensPage {
    /// How many match, easy to read.
    fn count(&self) -> String {
        grouped(self.total as u64)
    }

    fn states(&self) -> [(&'static str, &'static str); 4] {
        [("", "Any status"), ("active", "Active"), ("expired", "Expired"), ("revoked", "Revoked")]
    }

    fn uses(&self) -> [(&'static str, &'static str); 5] {
        [
            ("", "Used or not"),
            ("ever", "Never used"),
            ("7d", "Unused for 7 days"),
            ("30d", "Unused for 30 days"),
            ("90d", "Unused for 90 days"),
        ]
    }

    fn ends(&self) -> [(&'static str, &'static str); 4] {
        [
            ("", "Any expiry"),
            ("7d", "Expires within 7 days"),
            ("30d", "Expires within 30 days"),
            ("90d", "Expires within 90 days"),
        ]
    }
}

/// Shows the list.
pub(super) async fn list(visitor: Visitor, RawQuery(query): RawQuery) -> Response {
    let page = try_list(&visitor, &Form::parse(query.unwrap_or_default().as_bytes())).await;
    visitor.answer(Section::Tokens, page)
}

async fn try_list(visitor: &Visitor, asked: &Form) -> Result<Response, Trouble> {
    asked.check(&View::names())?;
    let actor = visitor.acting(Resource::Tokens, Action::Read)?;
    let (view, now, registry) = (View::of(asked)?, Timestamp::now(), &visitor.registry);
    let query = view.filter.query(now)?;
    let found = registry.listed(&actor, &query, view.sort, &view.part, ROWS).await?;
    let ids: Vec<_> = found.tokens.iter().map(|(token, _)| token.id).collect();
    let uses = registry.usage(&actor, &ids).await?;
    let own = visitor.holder.token;
    let page = TokensPage {
        shell: visitor.shell("API Tokens", Section::Tokens),
        rows: found.tokens.iter().map(|(token, owner)| Row::new(token, owner, &uses, own, now)).collect(),
        may: May::of(visitor),
        owners: Owners::of(visitor).await,
        permissions: filter::permissions(),
        total: found.total,
        place: view.place(&found),
        view,
    };
    Ok(html::page(&page))
}

/// Users to choose a token's owner from.
pub(super) struct Owners {
    /// In their order.
    pub(super) names: Vec<String>,
    /// There are no others. Otherwise a name is written, and these are proposed: a browser chooses the first of a list that
    /// does not have the one that is meant.
    pub(super) is_whole: bool,
}

impl Owners {
    /// `None`: this visitor has to do with the own tokens only. Where the names are not for them, or cannot be read now, they
    /// can be written all the same.
    pub(super) async fn of(visitor: &Visitor) -> Option<Self> {
        /// More than these nobody chooses from a list.
        const MOST: usize = 500;
        if visitor.holder.role < Role::Administrator {
            return None;
        }
        let found = match visitor.acting(Resource::Users, Action::Read) {
            Ok(actor) => visitor.registry.users(&actor, None, MOST + 1).await.ok(),
            Err(_) => None,
        };
        let is_whole = found.as_ref().is_some_and(|found| found.len() <= MOST);
        let found = found.unwrap_or_default().into_iter().map(|user| user.name).take(MOST);
        let mut names: Vec<_> = found.chain([visitor.holder.owner.name().to_owned()]).collect();
        names.sort_unstable();
        names.dedup();
        Some(Self { names, is_whole })
    }
}

/// Takes the fields above the list, and leads to what they say. By way of a body: somebody may paste a token.
pub(super) async fn search(Submitted { visitor, form }: Submitted) -> Response {
    let text = form.text("text").unwrap_or_default();
    if let Ok(token) = text.parse::<RawToken>() {
        visitor.tell(super::session::Notice {
            is_good: true,
            text: "That was the value of a token: here is what ends like it.".to_owned(),
            detail: Some("It was put in no address. Whoever else has seen it can use it: revoke it if so.".to_owned()),
        });
        let hint = form_urlencoded::Serializer::new(String::new()).append_pair("text", &token.hint()).finish();
        return visitor.go(&format!("/tokens?{hint}"));
    }
    let view = View::of(&form).and_then(|view| view.filter.query(Timestamp::now()).map(|_| view));
    match view {
        Ok(view) => visitor.go(&format!("/tokens{}", view.query_string())),
        Err(trouble) => visitor.answer(Section::Tokens, Err(trouble)),
    }
}
