//! Signing in, by showing a token in a form, and out.

use std::sync::Arc;

use askama::Template;
use axum::extract::{RawQuery, Request, State};
use axum::response::Response;
use http::header::{COOKIE, SET_COOKIE};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};

use super::form::Form;
use super::html::{self, Shell};
use super::session;
use super::trouble::Trouble;
use super::visitor::{Arrival, Submitted, is_fetched, read};
use crate::audit::Action as Audited;
use crate::audit::Subject;
use crate::clock::Instant;
use crate::console::Console;
use crate::proxy::refusal::Refusal;
use crate::proxy::sanitize::CONSOLE_COOKIES;
use crate::registry::{ActingToken, Actor, holds_token};
use crate::replica::Holder;
use crate::token::{Action, Digest, RawToken, Resource};

/// Ties the form to the browser that it was sent to, before there is a session.
const FORM_COOKIE: &str = CONSOLE_COOKIES[2];

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage {
    shell: Shell,
    problem: Option<String>,
    next: String,
}

/// Shows the form.
pub(super) async fn show(State(console): State<Arc<Console>>, RawQuery(query): RawQuery, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let form = Form::parse(query.unwrap_or_default().as_bytes());
    let next = form.text("next").map_or_else(String::new, own_path);
    page(&console, &parts, StatusCode::OK, next, None)
}

/// What marks the form in this browser, by its cookies. Another page on the host may have set one of the same name.
fn nonces(parts: &Parts) -> impl Iterator<Item = &str> {
    let fields = parts.headers.get_all(COOKIE).iter().filter_map(|field| field.to_str().ok());
    let pairs = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(name, _)| *name == FORM_COOKIE).map(|(_, nonce)| nonce)
}

/// A path of ours, to go on to.
fn own_path(path: &str) -> String {
    let is_own = path.starts_with('/')
        && !path.starts_with("//")
        && !path.starts_with("/sign-")
        && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
        && !holds_token(path);
    if is_own { path.to_owned() } else { String::new() }
}

fn page(console: &Console, parts: &Parts, status: StatusCode, next: String, problem: Option<String>) -> Response {
    let base = console.path("");
    // One that is there stays: the form may be open in another tab too.
    let is_nonce = |nonce: &&str| nonce.len() == 32 && nonce.bytes().all(|byte| byte.is_ascii_hexdigit());
    let Ok(nonce) = nonces(parts).find(is_nonce).map_or_else(session::nonce, |nonce| Ok(nonce.to_owned())) else {
        return html::plain(StatusCode::SERVICE_UNAVAILABLE, "the operating system has no randomness to give");
    };
    let arrival = Arrival::of(parts, console);
    let secure = if arrival.is_secure { "; Secure" } else { "" };
    let cookie = format!("{FORM_COOKIE}={nonce}; Path={base}/sign-in; HttpOnly; SameSite=Strict{secure}");
    let keys = arrival.session_keys(&parts.headers);
    // Where a script asks, or only for the head, nobody sees them: who comes next does.
    let is_shown = parts.method != Method::HEAD && !is_fetched(parts);
    let notices = match is_shown {
        true => keys.iter().flat_map(|key| console.sessions.parting(key)).collect(),
        false => Vec::new(),
    };
    let shell = Shell { title: "Sign in".to_owned(), csrf: nonce, notices, ..Shell::bare(base) };
    with_cookie(html::render(status, &SignInPage { shell, problem, next }), &cookie)
}

fn with_cookie(mut reply: Response, cookie: &str) -> Response {
    reply.headers_mut().extend(HeaderValue::try_from(cookie).ok().map(|cookie| (SET_COOKIE, cookie)));
    reply
}

/// Takes the form.
pub(super) async fn submit(State(console): State<Arc<Console>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let arrival = Arrival::of(&parts, &console);
    let base = console.path("");
    let form = match arrival.check_origin(&parts.headers) {
        Ok(()) => read(&parts.headers, body).await,
        Err(trouble) => Err(trouble),
    };
    let form = match form {
        Ok(form) => form,
        Err(trouble) => return trouble.within(Shell::bare(base)),
    };
    let next = form.text("next").map_or_else(String::new, own_path);
    let is_ours = nonces(&parts).any(|nonce| form.text("csrf") == Some(nonce));
    if !is_ours {
        let problem = "This page had been open for long, or cookies are off. Please try again.".to_owned();
        return page(&console, &parts, StatusCode::FORBIDDEN, next, Some(problem));
    }
    let begun = match begin(&console, &parts, &form).await {
        Ok(digest) => console
            .sessions
            .begin(digest, Instant::now())
            .map_err(|_| Trouble::from(crate::registry::RegistryError::Busy(0))),
        Err(trouble) => Err(trouble),
    };
    match begun {
        Ok(key) => {
            let next = if next.is_empty() { "/tokens" } else { &next };
            with_cookie(html::see_other(&format!("{base}{next}")), &arrival.cookie(&base, &key))
        }
        Err(trouble) => page(&console, &parts, trouble.status, next, Some(trouble.detail)),
    }
}

/// The digest of the token that was shown, if it may manage tokens.
async fn begin(console: &Arc<Console>, parts: &Parts, form: &Form) -> Result<Digest, Trouble> {
    let token = form.text("token").unwrap_or_default();
    let shown = token.parse::<RawToken>().ok().map(|token| token.digest());
    let found = shown.ok_or(Refusal::TokenFormat).and_then(|digest| Ok((digest, console.authorize(digest, None)?)));
    let (digest, holder) = match found {
        Ok(found) => found,
        Err(refusal) => return Err(console.refuse(parts, shown, refusal).into()),
    };
    let registry = console.registry_for(parts, Some(holder.token));
    let user = holder.owner.name().to_owned();
    let actor = Actor::Token(ActingToken { id: holder.token, user, needed: None });
    match lacking(&holder) {
        None => {
            registry.note_done(&actor, Audited::SignIn).await;
            Ok(digest)
        }
        Some(reason) => {
            registry.note_denied(&actor, Audited::SignIn, Subject::default()).await;
            Err(Trouble::forbidden(reason))
        }
    }
}

/// Why this token is of no use here, if it is not.
fn lacking(holder: &Holder) -> Option<String> {
    let reads_tokens = crate::token::Permission::new(Resource::Tokens, Action::Read)?;
    if holder.permissions.contains(reads_tokens) {
        return None;
    }
    Some(match holder.role.manages_tokens() {
        true => "This token works, but it may not manage tokens: it lacks tokens:read.".to_owned(),
        false => format!("This token belongs to a {}, and that role has no part in managing tokens.", holder.role),
    })
}

/// Ends the session.
pub(super) async fn out(Submitted { visitor, .. }: Submitted) -> Response {
    visitor.console.sessions.end(&visitor.key);
    // The cookie leads nowhere from now on.
    visitor.go("/sign-in")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_goes_on_to_a_path_of_ours_only() {
        assert_eq!(own_path("/tokens?state=active"), "/tokens?state=active");
        for path in
            ["//evil.example", "https://evil.example", "/\\evil.example", "tokens", "/sign-in?next=/", "/a\nb", ""]
        {
            assert_eq!(own_path(path), "", "{path}");
        }
        let value = "tc%2Dapiv1_0123456789abcdef0123456789abcdef";
        assert_eq!(own_path(&format!("/tokens?text={value}")), "", "nothing that may be the value of a token");
    }
}
