//! Rotating a token: a successor takes its place, and it goes on for a while.

use std::time::Duration;

use askama::Template;
use axum::extract::Path;
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;

use super::blast::Blast;
use super::create::{CreatedPage, Shown, own_value};
use super::form::Form;
use super::html::{self, Section, Shell};
use super::once::{Done, Sent};
use super::trouble::Trouble;
use super::visitor::{Submitted, Visitor};
use super::when::When;
use super::{receipt, tokens};
use crate::audit::Action as Event;
use crate::registry::{Created, Registry, Rotated, Rotation, audit, check_rotates};
use crate::token::{Action, Resource, TokenId};

/// How long the old token goes on, as it can be chosen.
const OVERLAPS: [(&str, &str, u64); 5] = [
    ("1h", "1 hour", 1),
    ("24h", "24 hours", 24),
    ("7d", "7 days", 7 * 24),
    ("30d", "30 days", 30 * 24),
    ("0", "Not at all: it ends at once", 0),
];

#[derive(Template)]
#[template(path = "rotate.html")]
struct RotatePage {
    shell: Shell,
    problem: Option<String>,
    id: String,
    description: String,
    overlap: String,
    expires: Option<When>,
    blast: Blast,
    /// The session ends with it.
    is_own: bool,
}

impl RotatePage {
    fn overlaps(&self) -> [(&'static str, &'static str, u64); 5] {
        OVERLAPS
    }
}

/// Shows the form.
pub(super) async fn show(visitor: Visitor, Path(id): Path<String>) -> Response {
    let page = form_page(&visitor, &id, &Form::default(), StatusCode::OK, None).await;
    visitor.answer(Section::Tokens, page)
}

async fn form_page(
    visitor: &Visitor,
    id: &str,
    asked: &Form,
    status: StatusCode,
    problem: Option<String>,
) -> Result<Response, Trouble> {
    let id = id.parse::<TokenId>().map_err(|_| Trouble::not_found())?;
    let actor = visitor.acting(Resource::Tokens, Action::Write)?;
    let registry = &visitor.registry;
    let record = registry.token(&actor, id).await?.record;
    check_rotates(&record, Timestamp::now())?;
    let page = RotatePage {
        shell: visitor.shell("Rotate API token", Section::Tokens),
        problem,
        id: id.to_string(),
        description: record.description,
        overlap: asked.text("overlap").unwrap_or("24h").to_owned(),
        expires: record.expires_at.map(|at| When::new(at, Timestamp::now())),
        blast: Blast::of(&registry.dependents(&actor, &[id], 5).await?),
        is_own: id == visitor.holder.token,
    };
    Ok(html::render(status, &page))
}

/// Takes the form.
pub(super) async fn submit(Path(id): Path<String>, Submitted { visitor, form }: Submitted) -> Response {
    let sent = Sent::of(&visitor, &format!("rotate {id}"), &form);
    sent.once(async move {
        let done = match try_submit(&visitor, &id, &form).await {
            // What is wrong is said beside the form, where the token is one to see.
            Err(trouble) if matches!(trouble.status, StatusCode::BAD_REQUEST | StatusCode::CONFLICT) => {
                form_page(&visitor, &id, &form, trouble.status, Some(trouble.detail)).await.map(Done::Not)
            }
            done => done,
        };
        visitor.done(Section::Tokens, done)
    })
    .await
}

async fn try_submit(visitor: &Visitor, id: &str, form: &Form) -> Result<Done, Trouble> {
    form.check(&["csrf", "once", "overlap", "token"])?;
    let token = id.parse::<TokenId>().map_err(|_| Trouble::not_found())?;
    let about = audit::of_tokens(&[token]);
    let actor = visitor.attempting(Resource::Tokens, Action::Write, Event::TokenRotate, about)?;
    let chosen = OVERLAPS.iter().find(|(value, ..)| form.text("overlap") == Some(*value));
    let (.., hours) = chosen.ok_or_else(|| Trouble::invalid("Choose how long the old token goes on."))?;
    let rotation = Rotation { token, overlap: Duration::from_hours(*hours), expires_at: None };
    let own = own_value(form)?;
    let is_own = own.is_some();
    let command = async move |registry: Registry| match own {
        Some(value) => registry.rotate_to_value(&actor, rotation, value).await,
        None => registry.rotate(&actor, rotation).await,
    };
    let done = visitor.console.change(visitor.registry.clone(), Some(receipt::WAIT), command).await?;
    let notice = receipt::notice("A new token takes its place.".to_owned(), "Known", &done);
    let now = Timestamp::now();
    let Rotated { old, successor: Created { record, owner, token } } = done.done;
    let page = CreatedPage {
        shell: visitor.shell("API Token rotated", Section::Tokens),
        title: "API Token rotated",
        id: record.id.to_string(),
        description: record.description,
        owner: owner.name,
        value: Shown((!is_own).then_some(token)),
        permissions: tokens::in_full(record.permissions),
        left_out: None,
        expires: record.expires_at.map(|at| When::new(at, now)),
        before_ends: old.expires_at.map(|at| When::new(at, now)),
        notice,
    };
    Ok(page.done(record.id))
}
