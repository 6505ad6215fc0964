//! Revoking, deleting and reassigning, one token or many: asked first, with what depends on them, then done to the very set
//! that was shown.

use askama::Template;
use axum::extract::Path;
use axum::response::Response;
use http::StatusCode;

use super::blast::Blast;
use super::chosen::{Choice, Chosen};
use super::form::Form;
use super::html::{self, Section, Shell};
use super::once::{Done, Sent};
use super::receipt;
use super::tokens::Owners;
use super::trouble::Trouble;
use super::view::View;
use super::visitor::{Submitted, Visitor};
use super::when::{counted, grouped};
use crate::audit::Action as Event;
use crate::registry::{Actor, Registry, RegistryError, audit, holds_token};
use crate::token::{Action, Resource, TokenId};
use crate::words::words;

/// Of more tokens than these, the number has to be typed.
const MOST_UNTYPED: usize = 10;

/// Agents that are named.
const NAMED: usize = 5;

words! {
    /// What is done to tokens.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum Verb {
        Revoke = "revoke",
        Delete = "delete",
        Reassign = "reassign",
    }
}

impl Verb {
    /// On a button.
    fn label(self) -> &'static str {
        match self {
            Self::Revoke => "Revoke",
            Self::Delete => "Delete",
            Self::Reassign => "Reassign",
        }
    }

    /// What was done, before whom it was done to.
    fn past(self) -> &'static str {
        match self {
            Self::Revoke => "Revoked",
            Self::Delete => "Deleted",
            Self::Reassign => "Reassigned",
        }
    }

    /// What a sidecar then does with it.
    fn applied(self) -> &'static str {
        match self {
            Self::Revoke | Self::Delete => "Refused",
            Self::Reassign => "Applied",
        }
    }

    fn warning(self) -> &'static str {
        match self {
            Self::Revoke => {
                "This cannot be undone. Whoever uses it loses access at once. The record stays in the list, as revoked."
            }
            Self::Delete => {
                "This is for good. Whoever uses it loses access at once, and neither the record nor its history stays."
            }
            Self::Reassign => {
                "It works on, but loses what the new owner's role does not have, for good. A token that is given to a Viewer can only read."
            }
        }
    }

    /// What it does to a session of that very token.
    fn of_own(self) -> &'static str {
        match self {
            Self::Revoke | Self::Delete => "You are signed in with it: your session ends too.",
            Self::Reassign => "You are signed in with it: from then on you can do what its new owner may, if anything.",
        }
    }

    fn event(self) -> Event {
        match self {
            Self::Revoke => Event::TokenRevoke,
            Self::Delete => Event::TokenDelete,
            Self::Reassign => Event::TokenReassign,
        }
    }

    fn action(self) -> Action {
        match self {
            Self::Delete => Action::Delete,
            Self::Revoke | Self::Reassign => Action::Write,
        }
    }
}

#[derive(Template)]
#[template(path = "confirm.html")]
struct ConfirmPage {
    shell: Shell,
    verb: Verb,
    /// The one, by its description.
    name: Option<String>,
    count: usize,
    fingerprint: String,
    fields: Vec<(&'static str, String)>,
    blast: Blast,
    /// Whom it can be given to.
    owners: Option<Owners>,
    /// Whom it was to be given to.
    to: String,
    /// What happens to the session, if it is one of that token.
    own: Option<&'static str>,
    /// Why it was not done yet; empty: nobody confirmed anything.
    problem: String,
    /// That it was not done since the Owner would be left without a usable token.
    offers_force: bool,
    back: String,
}

/// Why something was not done yet that was confirmed.
struct Again {
    status: StatusCode,
    problem: String,
    offers_force: bool,
    to: String,
}

impl ConfirmPage {
    fn title(&self) -> String {
        match self.count {
            1 => format!("{} API token", self.verb.label()),
            count => format!("{} {}", self.verb.label(), counted(count as u64, "API token")),
        }
    }

    fn is_typed(&self) -> bool {
        self.count > MOST_UNTYPED
    }

    /// `Delete 3 tokens`
    fn button(&self) -> String {
        match self.count {
            1 => self.verb.label().to_owned(),
            count => format!("{} {}", self.verb.label(), counted(count as u64, "token")),
        }
    }
}

/// Asks about one token.
pub(super) async fn confirm_one(visitor: Visitor, Path((id, verb)): Path<(String, String)>) -> Response {
    let page = async {
        let verb = Verb::from_name(&verb).ok_or_else(Trouble::not_found)?;
        let id = id.parse::<TokenId>().map_err(|_| Trouble::not_found())?;
        let actor = visitor.acting(Resource::Tokens, verb.action())?;
        let chosen = Choice::These(vec![id]).look(&visitor, &actor, None).await?;
        ask(&visitor, &actor, verb, &chosen, None).await
    };
    let page = page.await;
    visitor.answer(Section::Tokens, page)
}

/// Asks about those that were ticked, or all that match. Does nothing yet.
pub(super) async fn confirm_many(Submitted { visitor, form }: Submitted) -> Response {
    let page = async {
        form.check(&[&View::names()[..], &["csrf", "verb", "id", "all"]].concat())?;
        let verb = form.text("verb").and_then(Verb::from_name).ok_or_else(Trouble::not_found)?;
        let actor = visitor.acting(Resource::Tokens, verb.action())?;
        let chosen = Choice::of(&form)?.look(&visitor, &actor, Choice::view(&form)?).await?;
        ask(&visitor, &actor, verb, &chosen, None).await
    };
    let page = page.await;
    visitor.answer(Section::Tokens, page)
}

async fn ask(
    visitor: &Visitor,
    actor: &Actor,
    verb: Verb,
    chosen: &Chosen,
    again: Option<Again>,
) -> Result<Response, Trouble> {
    let registry = &visitor.registry;
    let owners = match verb {
        Verb::Reassign => Some(
            Owners::of(visitor)
                .await
                .ok_or_else(|| Trouble::forbidden("Only the Owner and Administrators give tokens to other users."))?,
        ),
        Verb::Revoke | Verb::Delete => None,
    };
    let mut name = None;
    if let [id] = chosen.ids[..] {
        name = Some(registry.token(actor, id).await?.record.description);
    }
    let is_own = chosen.ids.contains(&visitor.holder.token);
    let first = || Again { status: StatusCode::OK, problem: String::new(), offers_force: false, to: String::new() };
    let Again { status, problem, offers_force, to } = again.unwrap_or_else(first);
    let page = ConfirmPage {
        shell: visitor.shell(format!("{} API tokens", verb.label()), Section::Tokens),
        verb,
        count: chosen.ids.len(),
        fingerprint: chosen.fingerprint(),
        fields: chosen.fields(),
        blast: Blast::of(&registry.dependents(actor, &chosen.ids, NAMED).await?),
        owners,
        to,
        own: is_own.then(|| verb.of_own()),
        problem,
        offers_force,
        back: chosen.alone().map_or_else(|| chosen.list(), |id| format!("/tokens/{id}")),
        name,
    };
    Ok(html::render(status, &page))
}

/// Does it.
pub(super) async fn submit(Path(verb): Path<String>, Submitted { visitor, form }: Submitted) -> Response {
    let sent = Sent::of(&visitor, &verb, &form);
    sent.once(async move {
        let done = try_submit(&visitor, &verb, &form).await;
        visitor.done(Section::Tokens, done)
    })
    .await
}

async fn try_submit(visitor: &Visitor, verb: &str, form: &Form) -> Result<Done, Trouble> {
    let known = ["csrf", "once", "id", "all", "rest", "fingerprint", "typed", "to", "force"];
    form.check(&[&View::names()[..], &known].concat())?;
    let verb = Verb::from_name(verb).ok_or_else(Trouble::not_found)?;
    let choice = Choice::of(form)?;
    let about = audit::of_tokens(choice.named());
    let actor = visitor.attempting(Resource::Tokens, verb.action(), verb.event(), about)?;
    let chosen = choice.look(visitor, &actor, Choice::view(form)?).await?;
    chosen.check_seen(form)?;
    let count = chosen.ids.len();
    let to = form.text("to").filter(|text| !holds_token(text)).unwrap_or_default().to_owned();
    let again = async |problem: String, offers_force: bool| {
        let again = Again { status: StatusCode::CONFLICT, problem, offers_force, to: to.clone() };
        ask(visitor, &actor, verb, &chosen, Some(again)).await.map(Done::Not)
    };
    let typed = form.text("typed").map(|typed| typed.replace([',', ' '], ""));
    if count > MOST_UNTYPED && typed.as_deref() != Some(count.to_string().as_str()) {
        return again(format!("Type the number of tokens, {}, to confirm.", grouped(count as u64)), false).await;
    }
    if verb == Verb::Reassign && to.is_empty() {
        return again("Choose whom to give it to.".to_owned(), false).await;
    }
    let before = match chosen.ids[..] {
        [id] => Some(visitor.registry.token(&actor, id).await?.record.description),
        _ => None,
    };
    let (asking, ids, whom, force) = (actor.clone(), chosen.ids.clone(), to.clone(), form.has("force"));
    let command = async move |registry: Registry| run(&registry, &asking, verb, &ids, &whom, force).await;
    match visitor.console.change(visitor.registry.clone(), Some(receipt::WAIT), command).await {
        Ok(done) => {
            let what = before.map_or_else(|| counted(count as u64, "token"), |name| format!("“{name}”"));
            let notice = receipt::notice(format!("{} {what}.", verb.past()), verb.applied(), &done);
            let stays = chosen.alone().filter(|_| verb != Verb::Delete);
            Ok(Done::Led { notice, path: stays.map_or_else(|| chosen.list(), |id| format!("/tokens/{id}")) })
        }
        Err(error @ RegistryError::LastOwnerToken { .. }) => again(format!("{}.", sentence(&error)), true).await,
        Err(error @ RegistryError::NoSuchUser(_)) => again(format!("{}.", Trouble::from(error).detail), false).await,
        Err(error) => match error.done() {
            Some(done) => rest(visitor, &actor, verb, (&chosen, to), done, error).await.map(Done::Not),
            None => Err(error.into()),
        },
    }
}

fn sentence(error: &RegistryError) -> String {
    let text = error.to_string();
    text.split("; ").next().unwrap_or_default().to_owned()
}

async fn run(
    registry: &Registry,
    actor: &Actor,
    verb: Verb,
    ids: &[TokenId],
    to: &str,
    force: bool,
) -> Result<(), RegistryError> {
    match verb {
        Verb::Revoke => registry.revoke(actor, ids, force).await,
        Verb::Delete => registry.delete(actor, ids, force).await,
        Verb::Reassign => registry.reassign(actor, ids, to, force).await,
    }
    .map(drop)
}

/// Of several commits some went through: says so, and asks about the others.
async fn rest(
    visitor: &Visitor,
    actor: &Actor,
    verb: Verb,
    (chosen, to): (&Chosen, String),
    done: usize,
    error: RegistryError,
) -> Result<Response, Trouble> {
    let rest = chosen.ids.get(done..).unwrap_or_default().to_vec();
    let problem = format!(
        "It broke off: {} {} of {} tokens. Here are the others. {}",
        verb.past(),
        grouped(done as u64),
        grouped(chosen.ids.len() as u64),
        Trouble::from(error).detail
    );
    let rest = Choice::rest(visitor, rest).look(visitor, actor, chosen.view.clone()).await?;
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    ask(visitor, actor, verb, &rest, Some(Again { status, problem, offers_force: false, to })).await
}
