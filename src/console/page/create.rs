//! Making a token: its value is on one page, once.

use askama::Template;
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::form::Form;
use super::grid::{self, Grid};
use super::html::{self, Section, Shell};
use super::once::{Done, Sent};
use super::session::Notice;
use super::tokens::Owners;
use super::trouble::Trouble;
use super::visitor::{Submitted, Visitor};
use super::when::When;
use super::{receipt, tokens};
use crate::audit::{Action as Event, Subject};
use crate::registry::{Created, NewToken, Registry, Requested, holds_token};
use crate::token::{Action, PermissionSet, RawToken, Resource, TokenId};

/// How long a token lives, as it can be chosen. Exact, from the moment on at which it is made.
const LIVES: [(&str, &str); 6] = [
    ("7d", "7 days"),
    ("30d", "30 days"),
    ("90d", "90 days"),
    ("365d", "365 days"),
    ("never", "Never expires"),
    ("date", "On a date"),
];

#[derive(Template)]
#[template(path = "create.html")]
struct CreatePage {
    shell: Shell,
    problem: Option<String>,
    description: String,
    user: String,
    /// Whom it can be made for; `None`: for oneself.
    owners: Option<Owners>,
    life: String,
    date: String,
    is_custom: bool,
    grid: Grid,
    /// When the session's own token ends: none that it makes lives longer.
    end: Option<When>,
}

impl CreatePage {
    fn lives(&self) -> [(&'static str, &'static str); 6] {
        LIVES
    }
}

/// The page with a value.
#[derive(Template)]
#[template(path = "created.html")]
pub(super) struct CreatedPage {
    pub(super) shell: Shell,
    pub(super) title: &'static str,
    pub(super) id: String,
    pub(super) description: String,
    pub(super) owner: String,
    pub(super) value: Shown,
    pub(super) permissions: String,
    /// What was asked for and the owner's role does not have.
    pub(super) left_out: Option<String>,
    pub(super) expires: Option<When>,
    /// When the token ends that it takes the place of.
    pub(super) before_ends: Option<When>,
    pub(super) notice: Notice,
}

impl CreatedPage {
    /// That this token is made.
    pub(super) fn done(&self, id: TokenId) -> Done {
        match self.render() {
            Ok(page) => Done::Made { id, page: page.into() },
            Err(error) => Done::Not(html::failed(&error)),
        }
    }
}

/// The value of a token, where it was made here; whoever brought one has it.
pub(super) struct Shown(pub(super) Option<RawToken>);

impl Shown {
    fn value(&self) -> Option<&str> {
        self.0.as_ref().map(RawToken::reveal)
    }
}

/// Shows the form.
pub(super) async fn show(visitor: Visitor) -> Response {
    let page = match visitor.acting(Resource::Tokens, Action::Write) {
        Ok(_) => form_page(&visitor, &Form::default(), StatusCode::OK, None).await,
        Err(trouble) => Err(trouble),
    };
    visitor.answer(Section::Tokens, page)
}

async fn form_page(
    visitor: &Visitor,
    asked: &Form,
    status: StatusCode,
    problem: Option<String>,
) -> Result<Response, Trouble> {
    let own = visitor.holder.owner.name();
    let end = visitor.holder.expires_at.and_then(|end| Timestamp::from_second(end).ok());
    let page = CreatePage {
        shell: visitor.shell("Create API Token", Section::Tokens),
        problem,
        // What may be a value is not repeated: it was pasted into the wrong field.
        description: asked.text("description").filter(|text| !holds_token(text)).unwrap_or_default().to_owned(),
        user: asked.text("user").filter(|text| !holds_token(text)).unwrap_or(own).to_owned(),
        owners: Owners::of(visitor).await,
        life: asked.text("expires").unwrap_or("30d").to_owned(),
        date: asked.text("date").unwrap_or_default().to_owned(),
        is_custom: asked.text("preset") == Some("custom"),
        grid: Grid::of(visitor, grid::custom(asked).unwrap_or(PermissionSet::EMPTY)),
        end: end.map(|end| When::new(end, Timestamp::now())),
    };
    Ok(html::render(status, &page))
}

/// Takes the form.
pub(super) async fn submit(Submitted { visitor, form }: Submitted) -> Response {
    let sent = Sent::of(&visitor, "create", &form);
    sent.once(async move {
        let done = match try_submit(&visitor, &form).await {
            // Whatever is wrong is said beside what was filled in, which is lost otherwise.
            Err(trouble) if trouble.status != StatusCode::UNAUTHORIZED => {
                form_page(&visitor, &form, trouble.status, Some(trouble.detail)).await.map(Done::Not)
            }
            done => done,
        };
        visitor.done(Section::Tokens, done)
    })
    .await
}

async fn try_submit(visitor: &Visitor, form: &Form) -> Result<Done, Trouble> {
    form.check(&["csrf", "once", "description", "user", "expires", "date", "preset", "permission", "every", "token"])?;
    let about = Subject::default();
    let actor = visitor.attempting(Resource::Tokens, Action::Write, Event::TokenCreate, about)?;
    let requested = grid::chosen(form)?;
    let new = NewToken {
        user: form.text("user").unwrap_or(visitor.holder.owner.name()).to_owned(),
        description: form.text("description").unwrap_or_default().to_owned(),
        permissions: Requested::Permissions(requested),
        expires_at: end(form, Timestamp::now())?,
    };
    let own = own_value(form)?;
    let is_own = own.is_some();
    let command = async move |registry: Registry| match own {
        Some(value) => registry.create_token_of(&actor, new, value).await,
        None => registry.create_token(&actor, new).await,
    };
    let done = visitor.console.change(visitor.registry.clone(), Some(receipt::WAIT), command).await?;
    let notice = receipt::notice("It is made.".to_owned(), "Known", &done);
    let Created { record, owner, token } = done.done;
    let left_out = requested.without(record.permissions);
    let page = CreatedPage {
        shell: visitor.shell("API Token created", Section::Tokens),
        title: "API Token created",
        id: record.id.to_string(),
        description: record.description,
        owner: owner.name,
        value: Shown((!is_own).then_some(token)),
        permissions: tokens::in_full(record.permissions),
        left_out: (!left_out.is_empty()).then(|| tokens::in_full(left_out)),
        expires: record.expires_at.map(|at| When::new(at, Timestamp::now())),
        before_ends: None,
        notice,
    };
    Ok(page.done(record.id))
}

/// A value that was brought.
///
/// # Errors
/// In what it differs from the form of one.
pub(super) fn own_value(form: &Form) -> Result<Option<RawToken>, Trouble> {
    let brought = |text| RawToken::brought(text).map_err(|error| Trouble::invalid(format!("Your own value: {error}.")));
    form.text("token").map(brought).transpose()
}

/// When it ends.
///
/// # Errors
/// For what is not to be chosen: no slip makes a token without end.
fn end(form: &Form, now: Timestamp) -> Result<Option<Timestamp>, Trouble> {
    let days = |days: u64| Some(now + std::time::Duration::from_hours(24 * days));
    let (choice, date) = (form.text("expires").unwrap_or_default(), form.text("date"));
    if let (Some(date), false) = (date, choice == "date") {
        return Err(Trouble::invalid(format!(
            "A date is filled in, “{}”, and another expiration is chosen: choose “On a date”, or take the date away.",
            date.chars().take(20).collect::<String>()
        )));
    }
    match choice {
        "7d" => Ok(days(7)),
        "30d" => Ok(days(30)),
        "90d" => Ok(days(90)),
        "365d" => Ok(days(365)),
        "never" => Ok(None),
        "date" => {
            let date = date.and_then(|date| date.parse::<Date>().ok());
            let date = date.ok_or_else(|| Trouble::invalid("Choose the date on which it expires."))?;
            // Its last second, in the zone that stands beside the field.
            let last = date.at(23, 59, 59, 0).to_zoned(TimeZone::UTC);
            let last =
                last.map_err(|_| Trouble::invalid("Choose an earlier date: no clock goes as far as that one."))?;
            Ok(Some(last.timestamp()))
        }
        _ => Err(Trouble::invalid("Choose when it expires.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_chosen_and_a_date_is_its_last_second() {
        let now = Timestamp::from_second(1_000_000_000).expect("a moment");
        let end = |form: &str| end(&Form::parse(form.as_bytes()), now).map_err(|trouble| trouble.detail);
        assert_eq!(end("expires=30d"), Ok(Some(now + std::time::Duration::from_hours(720))));
        assert_eq!(end("expires=never"), Ok(None));
        assert_eq!(end("expires=date&date=2027-02-28"), Ok(Some("2027-02-28T23:59:59Z".parse().expect("a moment"))));
        for form in ["", "expires=", "expires=30", "expires=date", "expires=date&date=28.2.2027", "date=2027-02-28"] {
            assert!(end(form).is_err(), "{form}");
        }
        // Two answers to one question are none.
        for form in ["expires=never&date=2027-02-28", "expires=30d&date=2027-02-28"] {
            assert!(end(form).expect_err(form).contains("“2027-02-28”"), "{form}");
        }
        assert!(end("expires=date&date=9999-12-31").expect_err("too far").contains("earlier date"));
    }
}
