//! Users, as far as tokens need them: a role limits what tokens permit, and a user who is disabled has none that works.

use askama::Template;
use axum::extract::{Path, RawQuery};
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;

use super::form::Form;
use super::html::{self, Section, Shell};
use super::once::{Done, Sent};
use super::receipt;
use super::trouble::Trouble;
use super::visitor::{Submitted, Visitor};
use super::when::{When, counted};
use crate::audit::Action as Event;
use crate::registry::{Registry, audit, holds_token};
use crate::token::{Action, Resource, Role, UserId, UserRecord, UserStatus};

/// Rows of a page.
const ROWS: usize = 50;

/// A user, for people.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) is_disabled: bool,
    pub(super) created: When,
    /// The name, for a query.
    pub(super) query: String,
    pub(super) tokens: String,
}

impl Row {
    fn new(user: &UserRecord, tokens: u64, now: Timestamp) -> Self {
        Self {
            name: user.name.clone(),
            role: user.role,
            is_disabled: user.status == UserStatus::Disabled,
            created: When::new(user.created_at, now),
            query: form_urlencoded::byte_serialize(user.name.as_bytes()).collect(),
            tokens: counted(tokens, "token"),
        }
    }
}

/// What a visitor may do to one user.
#[derive(Debug)]
pub(super) struct May {
    pub(super) change: bool,
    pub(super) delete: bool,
    pub(super) transfer: bool,
    /// Why nothing, if so.
    pub(super) reason: Option<&'static str>,
}

impl May {
    pub(super) fn of(visitor: &Visitor, user: &UserRecord) -> Self {
        let (write, delete) =
            (visitor.may(Resource::Users, Action::Write), visitor.may(Resource::Users, Action::Delete));
        let is_owner = visitor.holder.role == Role::Owner;
        let reason = match user.role {
            _ if user.name == visitor.holder.owner.name() => Some("This is you: nobody changes themselves."),
            Role::Owner => Some("This is the Owner, who passes the ownership on, and cannot be changed otherwise."),
            Role::Administrator if !is_owner => Some("Only the Owner manages Administrators."),
            _ if !write && !delete => Some("The token that you are signed in with may only read users."),
            _ => None,
        };
        let is_open = reason.is_none();
        let transfer = is_open && write && is_owner && user.role == Role::Administrator;
        Self { change: is_open && write, delete: is_open && delete, transfer, reason }
    }
}

#[derive(Template)]
#[template(path = "users.html")]
struct UsersPage {
    shell: Shell,
    rows: Vec<Row>,
    may_add: bool,
    is_first: bool,
    next: Option<String>,
}

#[derive(Template)]
#[template(path = "user.html")]
struct UserPage {
    shell: Shell,
    row: Row,
    may: May,
    roles: Vec<Role>,
}

#[derive(Template)]
#[template(path = "add_user.html")]
struct AddPage {
    shell: Shell,
    problem: Option<String>,
    name: String,
    role: String,
    roles: Vec<Role>,
}

/// Roles that this visitor can give.
pub(super) fn given_roles(visitor: &Visitor) -> Vec<Role> {
    let is_owner = visitor.holder.role == Role::Owner;
    let given = |role: &Role| *role < Role::Administrator || (is_owner && *role == Role::Administrator);
    Role::ALL.into_iter().filter(given).collect()
}

/// Shows all of them.
pub(super) async fn list(visitor: Visitor, RawQuery(query): RawQuery) -> Response {
    let page = try_list(&visitor, &Form::parse(query.unwrap_or_default().as_bytes())).await;
    visitor.answer(Section::Users, page)
}

async fn try_list(visitor: &Visitor, asked: &Form) -> Result<Response, Trouble> {
    asked.check(&["after"])?;
    let actor = visitor.acting(Resource::Users, Action::Read)?;
    let after = match asked.text("after") {
        Some(after) => Some(after.parse::<UserId>().map_err(|_| Trouble::invalid("there is no such page"))?),
        None => None,
    };
    let registry = &visitor.registry;
    let mut found = registry.users(&actor, after, ROWS + 1).await?;
    let is_whole = found.len() <= ROWS;
    found.truncate(ROWS);
    let now = Timestamp::now();
    let mut rows = Vec::with_capacity(found.len());
    for user in &found {
        rows.push(Row::new(user, registry.count_tokens_of(&actor, &user.name).await?, now));
    }
    let page = UsersPage {
        shell: visitor.shell("Users", Section::Users),
        rows,
        may_add: visitor.may(Resource::Users, Action::Write),
        is_first: after.is_none(),
        next: found.last().filter(|_| !is_whole).map(|last| last.id.to_string()),
    };
    Ok(html::page(&page))
}

/// Shows one.
pub(super) async fn show(visitor: Visitor, Path(name): Path<String>) -> Response {
    let page = async {
        let actor = visitor.acting(Resource::Users, Action::Read)?;
        let registry = &visitor.registry;
        let user = registry.user(&actor, &name).await?.record;
        let tokens = registry.count_tokens_of(&actor, &user.name).await?;
        let page = UserPage {
            shell: visitor.shell(user.name.clone(), Section::Users),
            may: May::of(&visitor, &user),
            roles: given_roles(&visitor).into_iter().filter(|role| *role != user.role).collect(),
            row: Row::new(&user, tokens, Timestamp::now()),
        };
        Ok(html::page(&page))
    };
    let page = page.await;
    visitor.answer(Section::Users, page)
}

/// Shows the form to add one.
pub(super) async fn add_form(visitor: Visitor) -> Response {
    let page = visitor
        .acting(Resource::Users, Action::Write)
        .map(|_| add_page(&visitor, &Form::default(), StatusCode::OK, None));
    visitor.answer(Section::Users, page)
}

fn add_page(visitor: &Visitor, asked: &Form, status: StatusCode, problem: Option<String>) -> Response {
    let page = AddPage {
        shell: visitor.shell("Add user", Section::Users),
        problem,
        name: asked.text("name").filter(|name| !holds_token(name)).unwrap_or_default().to_owned(),
        role: asked.text("role").unwrap_or("manager").to_owned(),
        roles: given_roles(visitor),
    };
    html::render(status, &page)
}

/// Takes it.
pub(super) async fn add(Submitted { visitor, form }: Submitted) -> Response {
    let sent = Sent::of(&visitor, "add user", &form);
    sent.once(async move {
        let done = match try_add(&visitor, &form).await {
            // Whatever is wrong is said beside what was filled in, which is lost otherwise.
            Err(trouble) if !matches!(trouble.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Ok(Done::Not(add_page(&visitor, &form, trouble.status, Some(trouble.detail))))
            }
            done => done,
        };
        visitor.done(Section::Users, done)
    })
    .await
}

async fn try_add(visitor: &Visitor, form: &Form) -> Result<Done, Trouble> {
    form.check(&["csrf", "once", "name", "role"])?;
    let about = audit::of_user(form.text("name").unwrap_or_default());
    let actor = visitor.attempting(Resource::Users, Action::Write, Event::UserCreate, about)?;
    let role = form.text("role").and_then(Role::from_name).filter(|role| *role != Role::Owner);
    let role = role.ok_or_else(|| Trouble::invalid("Choose a role."))?;
    let name = form.text("name").unwrap_or_default().to_owned();
    let command = async move |registry: Registry| registry.add_user(&actor, &name, role).await;
    let done = visitor.console.change(visitor.registry.clone(), Some(receipt::WAIT), command).await?;
    let notice = receipt::notice(format!("Added {}.", done.done.name), "Known", &done);
    Ok(Done::Led { notice, path: format!("/users/{}", done.done.name) })
}
