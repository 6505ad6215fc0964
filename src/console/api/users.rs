//! `/api/v1/users`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::header::LOCATION;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::input::{Json, NoBody, Nothing, Query, Segment, Wait};
use super::problem::{Problem, Problems};
use super::reply;
use super::tokens::{WaitQuery, limit, page};
use crate::console::Console;
use crate::console::caller::{Caller, UsersDelete, UsersRead, UsersWrite};
use crate::console::change::Done;
use crate::registry::view::UserView;
use crate::registry::{Ensured, Registry, RegistryError, RoleChange, Seen, Transfer};
use crate::token::{Role, UserId, UserStatus};

/// A page of the users.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Start after this id, the last one of the page before.
    #[param(inline)]
    after: Option<UserId>,
    /// Most users of the page: 50, unless said otherwise.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// Lists users, the newest first.
#[utoipa::path(
    get, path = "/api/v1/users", tag = "users", operation_id = "list_users", params(ListQuery),
    responses(
        (status = 200, description = "The page; `Link` with `rel=\"next\"` leads to the next one", body = [UserView]),
        Problems,
    ),
)]
pub(super) async fn list(
    caller: Caller<UsersRead>,
    State(console): State<Arc<Console>>,
    uri: http::Uri,
    Query(ListQuery { after, limit: most }): Query<ListQuery>,
) -> Result<Response, Problem> {
    let limit = limit(most)?;
    // One more, to know whether the list goes on.
    let mut found = caller.registry.users(&caller.actor(), after, limit + 1).await?;
    let is_whole = found.len() <= limit;
    found.truncate(limit);
    let views: Vec<_> = found.iter().map(UserView::from).collect();
    let next = views.last().filter(|_| !is_whole).map(|last| last.id.to_string());
    Ok(page(&console, &uri, &views, next))
}

/// Shows one user.
#[utoipa::path(
    get, path = "/api/v1/users/{name}", tag = "users", operation_id = "show_user", params(("name" = String, Path, description = "The user's name")),
    responses((status = 200, description = "The user; `ETag` is its version", body = UserDetails), Problems),
)]
pub(super) async fn show(
    caller: Caller<UsersRead>,
    Segment(name): Segment,
    _: Query<Nothing>,
) -> Result<Response, Problem> {
    let (registry, actor) = (&caller.registry, caller.actor());
    let user = registry.user(&actor, &name).await?;
    let tokens = registry.count_tokens_of(&actor, &name).await?;
    Ok(reply::record(&UserDetails { user: UserView::from(&user.record), tokens }, user.version))
}

/// One user.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UserDetails {
    #[serde(flatten)]
    user: UserView,
    /// How many tokens the user has, in whatever state.
    tokens: u64,
}

/// A user to add.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AddUser {
    /// 1 to 64 of `A-Z a-z 0-9 . _ @ + -`, with nothing in it that may be a token, and neither `.` nor `..`.
    #[schema(min_length = 1, max_length = 64, pattern = r"^(\.{0,2}[A-Za-z0-9_@+-][A-Za-z0-9._@+-]*|\.{3,64})$")]
    name: String,
    /// What the user may do.
    role: GivenRole,
}

/// A role that can be given: the Owner's goes to another user only as a whole.
#[derive(Debug, Clone, Copy)]
struct GivenRole(Role);

impl<'de> Deserialize<'de> for GivenRole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let role = Role::from_name(&text).filter(|role| *role != Role::Owner).map(Self);
        role.ok_or_else(|| serde::de::Error::custom("the roles to give are administrator, manager and viewer"))
    }
}

impl PartialSchema for GivenRole {
    fn schema() -> RefOr<Schema> {
        let given = Role::ALL.into_iter().filter(|role| *role != Role::Owner).map(Role::name);
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(given)).into()
    }
}

impl ToSchema for GivenRole {}

/// How a user is added.
#[derive(Debug, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AddQuery {
    /// Wait so many seconds, `60s` at most, until every sidecar has applied it: the reply says who has.
    #[param(value_type = Option<String>, example = "5s", pattern = "^([1-9]|[1-5][0-9]|60)s$")]
    wait: Option<Wait>,
    /// That the user is there already, with this role, is no conflict: the reply is that user.
    #[serde(default)]
    if_not_exists: bool,
}

/// Adds a user.
#[utoipa::path(
    post, path = "/api/v1/users", tag = "users", operation_id = "add_user", request_body = AddUser, params(AddQuery),
    responses(
        (status = 201, description = "It is added; `Location` is where", body = Done<UserView>),
        (status = 200, description = "It is there already", body = UserView),
        Problems,
    ),
)]
pub(super) async fn add(
    caller: Caller<UsersWrite>,
    State(console): State<Arc<Console>>,
    Query(AddQuery { wait, if_not_exists }): Query<AddQuery>,
    Json(AddUser { name, role: GivenRole(role) }): Json<AddUser>,
) -> Result<Response, Problem> {
    let actor = caller.actor();
    if if_not_exists {
        match caller.registry.user(&actor, &name).await {
            Ok(user) if user.record.role == role => {
                return Ok(reply::record(&UserView::from(&user.record), user.version));
            }
            // Another role, or nobody: what follows says so.
            Ok(_) | Err(RegistryError::NoSuchUser(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let command = async move |registry: Registry| match if_not_exists {
        true => match registry.ensure_user(&actor, &name, role).await? {
            Ensured::There(user) if user.record.role != role => Err(RegistryError::NameTaken(name)),
            ensured => Ok(ensured),
        },
        false => registry.add_user(&actor, &name, role).await.map(Ensured::Made),
    };
    let done = console.change(caller.registry, wait.map(|Wait(wait)| wait), command).await?;
    let done = match done.made() {
        Ok(done) => done,
        Err(user) => return Ok(reply::record(&UserView::from(&user.record), user.version)),
    };
    let path = console.path(&format!("/api/v1/users/{}", done.done.name));
    let mut reply = reply::json(StatusCode::CREATED, &done.map(|user| UserView::from(&user)));
    reply.headers_mut().extend(HeaderValue::try_from(path).ok().map(|path| (LOCATION, path)));
    Ok(reply)
}

/// A role to give.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SetRole {
    /// What the user may do.
    role: GivenRole,
}

/// A user with another role.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RoleChanged {
    #[serde(flatten)]
    user: UserView,
    /// How many of the user's tokens lost permissions.
    tokens_narrowed: usize,
    /// How many were revoked: a Viewer has none.
    tokens_revoked: usize,
}

/// Changes a user's role. Tokens lose what it does not have; a Viewer's are revoked.
#[utoipa::path(
    post, path = "/api/v1/users/{name}/role", tag = "users", operation_id = "set_user_role", request_body = SetRole,
    params(
        ("name" = String, Path, description = "The user's name"), WaitQuery,
        reply::IfMatch,
    ),
    responses((status = 200, description = "The role is changed", body = Done<RoleChanged>), Problems),
)]
pub(super) async fn set_role(
    caller: Caller<UsersWrite>,
    State(console): State<Arc<Console>>,
    Segment(name): Segment,
    Query(WaitQuery { wait }): Query<WaitQuery>,
    fields: HeaderMap,
    Json(SetRole { role: GivenRole(role) }): Json<SetRole>,
) -> Result<Response, Problem> {
    let (actor, version) = (caller.actor(), reply::expected(&fields)?);
    let command = async move |registry: Registry| registry.set_role(&actor, Seen::at(&*name, version), role).await;
    let done = console.change(caller.registry, wait.map(|Wait(wait)| wait), command).await?;
    let changed = |RoleChange { before: _, user, narrowed, revoked }: RoleChange| RoleChanged {
        user: UserView::from(&user),
        tokens_narrowed: narrowed,
        tokens_revoked: revoked,
    };
    Ok(reply::json(StatusCode::OK, &done.map(changed)))
}

/// Suspends all tokens of a user, until the user is enabled again.
#[utoipa::path(
    post, path = "/api/v1/users/{name}/disable", tag = "users", operation_id = "disable_user",
    params(
        ("name" = String, Path, description = "The user's name"), WaitQuery,
        reply::IfMatch,
    ),
    responses((status = 200, description = "The user is disabled", body = Done<UserView>), Problems),
)]
pub(super) async fn disable(
    caller: Caller<UsersWrite>,
    State(console): State<Arc<Console>>,
    Segment(name): Segment,
    Query(WaitQuery { wait }): Query<WaitQuery>,
    fields: HeaderMap,
    _: NoBody,
) -> Result<Response, Problem> {
    set_status(&console, caller, name, UserStatus::Disabled, wait, &fields).await
}

/// Enables a user, and the tokens with it.
#[utoipa::path(
    post, path = "/api/v1/users/{name}/enable", tag = "users", operation_id = "enable_user",
    params(
        ("name" = String, Path, description = "The user's name"), WaitQuery,
        reply::IfMatch,
    ),
    responses((status = 200, description = "The user is enabled", body = Done<UserView>), Problems),
)]
pub(super) async fn enable(
    caller: Caller<UsersWrite>,
    State(console): State<Arc<Console>>,
    Segment(name): Segment,
    Query(WaitQuery { wait }): Query<WaitQuery>,
    fields: HeaderMap,
    _: NoBody,
) -> Result<Response, Problem> {
    set_status(&console, caller, name, UserStatus::Active, wait, &fields).await
}

async fn set_status(
    console: &Arc<Console>,
    caller: Caller<UsersWrite>,
    name: String,
    status: UserStatus,
    wait: Option<Wait>,
    fields: &HeaderMap,
) -> Result<Response, Problem> {
    let (version, actor) = (reply::expected(fields)?, caller.actor());
    let command = async move |registry: Registry| registry.set_status(&actor, Seen::at(&*name, version), status).await;
    let done = console.change(caller.registry, wait.map(|Wait(wait)| wait), command).await?;
    Ok(reply::json(StatusCode::OK, &done.map(|user| UserView::from(&user))))
}

/// A user who is gone.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UserDeleted {
    /// The user's name.
    name: String,
    /// How many tokens went along.
    tokens_deleted: usize,
}

/// Deletes a user and all of the user's tokens, for good. Where there is none of this name (any more) it is 404, `not-found`.
#[utoipa::path(
    delete, path = "/api/v1/users/{name}", tag = "users", operation_id = "delete_user",
    params(
        ("name" = String, Path, description = "The user's name"), WaitQuery,
        reply::IfMatch,
    ),
    responses((status = 200, description = "The user is gone", body = Done<UserDeleted>), Problems),
)]
pub(super) async fn delete(
    caller: Caller<UsersDelete>,
    State(console): State<Arc<Console>>,
    Segment(name): Segment,
    Query(WaitQuery { wait }): Query<WaitQuery>,
    fields: HeaderMap,
    _: NoBody,
) -> Result<Response, Problem> {
    let (actor, version, named) = (caller.actor(), reply::expected(&fields)?, name.clone());
    let command = async move |registry: Registry| registry.delete_user(&actor, Seen::at(&*named, version)).await;
    let done = console.change(caller.registry, wait.map(|Wait(wait)| wait), command).await?;
    Ok(reply::json(StatusCode::OK, &done.map(|tokens_deleted| UserDeleted { name, tokens_deleted })))
}

/// A transfer of the ownership.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OwnershipTransferred {
    /// The Owner now.
    owner: UserView,
    /// The Owner before: an Administrator now.
    before: UserView,
    /// How many tokens of the Owner before lost permissions.
    tokens_narrowed: usize,
}

/// Makes an Administrator the Owner, and the Owner an Administrator.
#[utoipa::path(
    post, path = "/api/v1/users/{name}/transfer-ownership", tag = "users", operation_id = "transfer_ownership",
    params(
        ("name" = String, Path, description = "The Administrator who becomes the Owner"), WaitQuery,
        reply::IfMatch,
    ),
    responses((status = 200, description = "The ownership has moved", body = Done<OwnershipTransferred>), Problems),
)]
pub(super) async fn transfer_ownership(
    caller: Caller<UsersWrite>,
    State(console): State<Arc<Console>>,
    Segment(name): Segment,
    Query(WaitQuery { wait }): Query<WaitQuery>,
    fields: HeaderMap,
    _: NoBody,
) -> Result<Response, Problem> {
    let (actor, version) = (caller.actor(), reply::expected(&fields)?);
    let command = async move |registry: Registry| registry.transfer_ownership(&actor, Seen::at(&*name, version)).await;
    let done = console.change(caller.registry, wait.map(|Wait(wait)| wait), command).await?;
    let transferred = |Transfer { old, new, narrowed }: Transfer| OwnershipTransferred {
        owner: UserView::from(&new),
        before: UserView::from(&old),
        tokens_narrowed: narrowed,
    };
    Ok(reply::json(StatusCode::OK, &done.map(transferred)))
}
