//! The console's pages: what the API does, for people.
//!
//! ```text
//!   origin: is it for us? ──► visitor: session, by its cookie ──► its token, by the replica ──► page ──► registry
//!                             submitted: Origin, CSRF token, form ─┘
//! ```
//!
//! Rendered here, with links and forms that work without scripts. One script makes confirmations dialogs, copies, and has
//! what changes by itself asked for again. Nothing is loaded from elsewhere, and the policy lets nothing be.

mod act;
mod assets;
mod audit;
mod blast;
mod chosen;
mod create;
mod filter;
mod fleet;
mod form;
mod grid;
mod html;
mod once;
mod receipt;
mod rotate;
mod session;
mod sign_in;
mod token;
mod tokens;
mod trouble;
mod user_act;
mod users;
mod view;
mod visitor;
mod when;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderValue, Uri};

use super::{Console, origin};
use html::{Section, Shell};
use trouble::Trouble;
use visitor::Visitor;

pub(super) use session::Sessions;

/// Everything that is for people.
pub(super) fn router(console: Arc<Console>) -> Router {
    Router::new()
        .route("/", get(async |visitor: Visitor| visitor.go("/tokens")))
        .route("/sign-in", get(sign_in::show).post(sign_in::submit))
        .route("/sign-out", post(sign_in::out))
        .route("/tokens", get(tokens::list))
        .route("/tokens/search", post(tokens::search))
        .route("/tokens/new", get(create::show).post(create::submit))
        .route("/tokens/confirm", post(act::confirm_many))
        .route("/tokens/do/{verb}", post(act::submit))
        .route("/tokens/{id}", get(token::overview))
        .route("/tokens/{id}/history", get(token::history))
        .route("/tokens/{id}/manage", get(token::manage))
        .route("/tokens/{id}/rotate", get(rotate::show).post(rotate::submit))
        .route("/tokens/{id}/{verb}", get(act::confirm_one))
        .route("/users", get(users::list))
        .route("/add-user", get(users::add_form).post(users::add))
        .route("/users/{name}", get(users::show))
        .route("/users/{name}/{verb}", get(user_act::confirm).post(user_act::submit))
        .route("/fleet", get(fleet::show))
        .route("/audit", get(audit::list))
        .route("/audit/search", post(audit::search))
        .route("/audit/verify", post(audit::verify))
        .method_not_allowed_fallback(no_page)
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(Arc::clone(&console), origin::check))
        .route("/assets/{name}", get(assets::serve))
        .layer(middleware::from_fn(guarded))
        .with_state(console)
}

/// What is answered where there is no console, and why.
pub(super) fn off(reason: &'static str) -> Router {
    let explain = async move || Trouble::off(reason).within(Shell::bare(""));
    Router::new()
        .route("/", get(explain))
        .route("/assets/{name}", get(assets::serve))
        .fallback(async || Trouble::not_found().within(Shell::bare("")))
        .layer(middleware::from_fn(guarded))
}

/// Nothing is at the path.
async fn not_found(State(console): State<Arc<Console>>) -> Response {
    Trouble::not_found().within(Shell::bare(console.path("")))
}

/// A form goes to the path, and somebody looks there: by its address, or after signing in again.
async fn no_page(visitor: Result<Visitor, Response>, State(console): State<Arc<Console>>, uri: Uri) -> Response {
    let trouble = Trouble::form_only();
    let path = uri.path().strip_prefix(console.path("").as_str()).unwrap_or(uri.path());
    match visitor {
        Ok(visitor) => {
            let shell = visitor.shell(trouble.title, Section::of(path));
            trouble.within(shell)
        }
        Err(_) => trouble.within(Shell::bare(console.path(""))),
    }
}

/// What a page may load and where it may send forms: from here, to here, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Has browsers keep pages to themselves.
async fn guarded(request: Request, next: Next) -> Response {
    let mut reply = next.run(request).await;
    let fields = reply.headers_mut();
    fields.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        // `no-referrer` would have our own forms sent from an origin called `null`.
        (REFERRER_POLICY, "same-origin"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        fields.insert(name, HeaderValue::from_static(value));
    }
    reply
}
