//! Who asks for a page, and what they send: the session behind a cookie, a form that one of our own pages sent.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::Response;
use http::header::{CONTENT_TYPE, COOKIE, HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};

use super::form::Form;
use super::html::{self, Section, Shell};
use super::session::{self, Found, Notice, SessionKey};
use super::trouble::Trouble;
use crate::audit::{Action as Event, Subject};
use crate::clock::Instant;
use crate::console::api::input;
use crate::console::{Console, OverTls, PublicUrl};
use crate::proxy::sanitize::CONSOLE_COOKIES;
use crate::registry::{ActingToken, Actor, Registry, holds_token};
use crate::replica::Holder;
use crate::token::{Action, Permission, Resource};

/// The cookie of a session, over TLS and without. `__Host-`: no other host and no other path can have set it.
const COOKIES: [&str; 2] = [CONSOLE_COOKIES[0], CONSOLE_COOKIES[1]];

/// What a page has in requests that it makes by itself.
const POLL: &str = "x-tollgate-poll";

/// What a request is for, by the browser's word (Fetch Metadata): `document` for a page, `empty` for a script.
const FETCHED: &str = "sec-fetch-dest";

/// Cookies of that name that are looked at.
const MOST_COOKIES: usize = 8;

/// How a request came.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    /// Whether the browser came over TLS, as far as is known.
    pub(super) is_secure: bool,
    /// Where our pages are, as browsers write it.
    pub(super) own_origin: String,
}

impl Arrival {
    pub(super) fn of(parts: &Parts, console: &Console) -> Self {
        let is_tls = parts.extensions.get::<OverTls>().is_some_and(|OverTls(is_tls)| *is_tls);
        let own_origin = match &console.public_url {
            Some(url) => url.origin(),
            None => {
                let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
                format!("{}://{host}", if is_tls { "https" } else { "http" })
            }
        };
        Self { is_secure: console.public_url.as_ref().map_or(is_tls, PublicUrl::is_https), own_origin }
    }

    /// A form is taken from our own pages only. Browsers say which page sent it; a page elsewhere cannot have them lie.
    pub(super) fn check_origin(&self, headers: &HeaderMap) -> Result<(), Trouble> {
        let mut said = headers.get_all(ORIGIN).iter();
        let origin = said.next().and_then(|origin| origin.to_str().ok()).filter(|_| said.next().is_none());
        match origin {
            Some(origin) if origin.eq_ignore_ascii_case(&self.own_origin) => Ok(()),
            _ => Err(Trouble::foreign(format!(
                "It was not sent by a page of this console. Open the console at {} and try again; where it is reached by \
                 another address, set admin.public_url to that one.",
                self.own_origin
            ))),
        }
    }

    /// The cookie of a session.
    pub(super) fn cookie(&self, base: &str, key: &SessionKey) -> String {
        match self.is_secure {
            true => format!("{}={}; Path=/; Secure; HttpOnly; SameSite=Strict", COOKIES[0], key.reveal()),
            false => format!("{}={}; Path={base}/; HttpOnly; SameSite=Strict", COOKIES[1], key.reveal()),
        }
    }

    /// The sessions that a browser says it has: another port of the host may have set a cookie of the same name.
    pub(super) fn session_keys(&self, headers: &HeaderMap) -> Vec<SessionKey> {
        let name = if self.is_secure { COOKIES[0] } else { COOKIES[1] };
        let fields = headers.get_all(COOKIE).iter().filter_map(|field| field.to_str().ok());
        let values = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let named = values.filter(|(other, _)| *other == name);
        named.filter_map(|(_, value)| SessionKey::of_cookie(value)).take(MOST_COOKIES).collect()
    }
}

/// Somebody who is signed in.
pub(super) struct Visitor {
    pub(super) console: Arc<Console>,
    /// The token and its owner, as the replica has them.
    pub(super) holder: Holder,
    pub(super) key: SessionKey,
    pub(super) csrf: String,
    /// By which it is asked.
    method: Method,
    /// Whether the reply is a page that somebody then sees, and not one that a script asks for and takes a part of.
    is_shown: bool,
    /// For the one command that is given, which comes from there.
    pub(super) registry: Registry,
}

/// Whether a script asks, for what becomes a dialog for example: browsers say so.
pub(super) fn is_fetched(parts: &Parts) -> bool {
    parts.headers.get(FETCHED).is_some_and(|kind| kind == "empty")
}

impl Visitor {
    /// As the registry knows them, for something that needs this.
    pub(super) fn actor(&self, needed: Option<Permission>) -> Actor {
        let user = self.holder.owner.name().to_owned();
        Actor::Token(ActingToken { id: self.holder.token, user, needed })
    }

    /// Whether their token and its owner's role permit it.
    pub(super) fn may(&self, resource: Resource, action: Action) -> bool {
        Permission::new(resource, action).is_some_and(|permission| self.holder.permissions.contains(permission))
    }

    /// The actor for something that needs this permission.
    ///
    /// # Errors
    /// When they do not have it.
    pub(super) fn acting(&self, resource: Resource, action: Action) -> Result<Actor, Trouble> {
        match Permission::new(resource, action) {
            Some(needed) if self.holder.permissions.contains(needed) => Ok(self.actor(Some(needed))),
            _ => Err(Trouble::forbidden(format!(
                "The token that you are signed in with, or its owner's role, lacks {resource}:{action}."
            ))),
        }
    }

    /// The same for what changes something, or reads the audit trail: that it was refused has an entry there.
    ///
    /// # Errors
    /// As [`Visitor::acting`].
    pub(super) fn attempting(
        &self,
        resource: Resource,
        action: Action,
        event: Event,
        about: Subject,
    ) -> Result<Actor, Trouble> {
        self.acting(resource, action).inspect_err(|_| {
            let (registry, actor) = (self.registry.clone(), self.actor(None));
            let about = Subject { reason: Some("the token does not permit it".to_owned()), ..about };
            // Nobody waits for that.
            tokio::spawn(async move { registry.note_denied(&actor, event, about).await });
        })
    }

    /// A path of the console, as it is from outside.
    pub(super) fn path(&self, path: &str) -> String {
        self.console.path(path)
    }

    /// What every page has around it, with what is to be told: where nobody would see that, it waits.
    pub(super) fn shell(&self, title: impl Into<String>, here: Section) -> Shell {
        Shell {
            base: self.path(""),
            title: title.into(),
            here,
            who: Some(html::Who::of(self)),
            csrf: self.csrf.clone(),
            // Without one a form is taken all the same.
            once: session::nonce().unwrap_or_default(),
            notices: if self.is_shown { self.console.sessions.told(&self.key) } else { Vec::new() },
        }
    }

    /// Has something told at the next page.
    pub(super) fn tell(&self, notice: Notice) {
        self.console.sessions.tell(&self.key, notice);
    }

    /// Goes on at another page.
    pub(super) fn go(&self, path: &str) -> Response {
        html::see_other(&self.path(path))
    }

    /// The page, or what is said instead of it.
    pub(super) fn answer(&self, here: Section, page: Result<Response, Trouble>) -> Response {
        page.unwrap_or_else(|trouble| match trouble.status {
            // The token has ended meanwhile.
            StatusCode::UNAUTHORIZED => {
                self.console.sessions.end_with_token(&self.key);
                self.go("/sign-in")
            }
            _ => {
                let shell = self.shell(trouble.title, here);
                trouble.asked_by(&self.method).within(shell)
            }
        })
    }
}

impl FromRequestParts<Arc<Console>> for Visitor {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, console: &Arc<Console>) -> Result<Self, Response> {
        let arrival = Arrival::of(parts, console);
        let is_poll = parts.headers.contains_key(POLL);
        let now = Instant::now();
        let stranger = || match (is_poll, &parts.method) {
            // Whoever asks by a script is told, and is no reader of a form.
            (true, _) => html::plain(StatusCode::UNAUTHORIZED, "the session has ended"),
            (false, &Method::GET) => {
                let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
                let path = path.strip_prefix(console.path("").as_str()).unwrap_or(path);
                // What may be the value of a token goes into no address of ours.
                let path = if holds_token(path) { "/" } else { path };
                let next = form_urlencoded::byte_serialize(path.as_bytes()).collect::<String>();
                html::see_other(&console.path(&format!("/sign-in?next={next}")))
            }
            (false, _) => html::see_other(&console.path("/sign-in")),
        };
        let found = arrival.session_keys(&parts.headers).into_iter();
        let found = found.filter_map(|key| Some((console.sessions.find(&key, now, !is_poll)?, key))).next();
        let (Found { token, csrf }, key) = found.ok_or_else(stranger)?;
        let holder = console.authorize(token, None).map_err(|refusal| match refusal.status() {
            401 => {
                console.sessions.end_with_token(&key);
                stranger()
            }
            _ => Trouble::from(refusal).asked_by(&parts.method).within(Shell::bare(console.path(""))),
        })?;
        if let Err(wait) = console.calls.take(holder.token, now) {
            let seconds = wait.as_secs() + 1;
            let trouble = Trouble::too_often(seconds).asked_by(&parts.method);
            let mut reply = trouble.within(Shell::bare(console.path("")));
            reply.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
            return Err(reply);
        }
        // A page that asks by itself is no more use than it is activity; and a form may yet be refused.
        if !is_poll && parts.method == Method::GET {
            console.note_use(parts, holder.token);
        }
        let registry = console.registry_for(parts, Some(holder.token));
        let is_fetched = is_fetched(parts);
        let (console, method, is_shown) = (Arc::clone(console), parts.method.clone(), !is_poll && !is_fetched);
        Ok(Self { console, holder, key, csrf, method, is_shown, registry })
    }
}

/// A form that somebody who is signed in sent from a page of ours.
pub(super) struct Submitted {
    pub(super) visitor: Visitor,
    pub(super) form: Form,
}

impl FromRequest<Arc<Console>> for Submitted {
    type Rejection = Response;

    async fn from_request(request: Request, console: &Arc<Console>) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let visitor = Visitor::from_request_parts(&mut parts, console).await?;
        let refused = |trouble: Trouble| visitor.answer(Section::Elsewhere, Err(trouble));
        Arrival::of(&parts, console).check_origin(&parts.headers).map_err(refused)?;
        let form = read(&parts.headers, body).await.map_err(refused)?;
        // Of a length that is known, and no secret that guessing would find: which bytes differ tells nothing in time.
        match form.text("csrf") == Some(visitor.csrf.as_str()) {
            true => {
                console.note_use(&parts, visitor.holder.token);
                Ok(Self { visitor, form })
            }
            false => Err(refused(Trouble::foreign(
                "It is of another session. Go back, load the page again, and send it from there.",
            ))),
        }
    }
}

/// The form in a body.
pub(super) async fn read(headers: &HeaderMap, body: Body) -> Result<Form, Trouble> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(Trouble::invalid("this is no form"));
    }
    Ok(Form::parse(&input::read(body).await?))
}
