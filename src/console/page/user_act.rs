//! What is done to a user: asked first, with what depends on the user's tokens.

use askama::Template;
use axum::extract::{Path, RawQuery};
use axum::response::Response;
use http::StatusCode;

use super::blast::Blast;
use super::form::Form;
use super::html::{self, Section, Shell};
use super::once::{Done, Sent};
use super::receipt;
use super::trouble::Trouble;
use super::users::{May, given_roles};
use super::visitor::{Submitted, Visitor};
use super::when::counted;
use crate::audit::Action as Event;
use crate::registry::{Actor, Fingerprint, Registry, RegistryError, Seen, TokenQuery, audit};
use crate::store::{CommitId, Versioned};
use crate::token::{Action, Resource, Role, UserRecord, UserStatus};
use crate::words::words;

words! {
    /// What is done to a user.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Verb {
        SetRole = "set-role",
        Disable = "disable",
        Enable = "enable",
        Delete = "delete",
        TransferOwnership = "transfer-ownership",
    }
}

impl Verb {
    fn title(self) -> &'static str {
        match self {
            Self::SetRole => "Change role",
            Self::Disable => "Disable user",
            Self::Enable => "Enable user",
            Self::Delete => "Delete user",
            Self::TransferOwnership => "Transfer ownership",
        }
    }

    fn button(self) -> &'static str {
        match self {
            Self::SetRole => "Change role",
            Self::Disable => "Disable",
            Self::Enable => "Enable",
            Self::Delete => "Delete",
            Self::TransferOwnership => "Transfer",
        }
    }

    fn warning(self) -> &'static str {
        match self {
            Self::SetRole => {
                "Tokens lose what the new role does not have, for good; a stronger role later gives nothing back. The \
                 tokens of somebody who becomes a Viewer are revoked."
            }
            Self::Disable => "None of this user's tokens works until the user is enabled again.",
            Self::Enable => "This user's tokens that are neither revoked nor expired work again.",
            Self::Delete => {
                "This is for good. All tokens of this user are deleted with their histories, and whoever uses them loses \
                 access at once."
            }
            Self::TransferOwnership => {
                "This user becomes the Owner, and you an Administrator. Only the new Owner can undo it."
            }
        }
    }

    fn event(self) -> Event {
        match self {
            Self::SetRole => Event::UserSetRole,
            Self::Disable => Event::UserDisable,
            Self::Enable => Event::UserEnable,
            Self::Delete => Event::UserDelete,
            Self::TransferOwnership => Event::OwnershipTransfer,
        }
    }

    /// Whether this may be done to a user.
    ///
    /// # Errors
    /// Why not: a form for it would come back.
    fn check(self, visitor: &Visitor, user: &UserRecord, role: Option<Role>) -> Result<(), Trouble> {
        let May { change, delete, transfer, reason } = May::of(visitor, user);
        let (is_open, otherwise) = match self {
            Self::SetRole => (
                change && role.is_none_or(|role| given_roles(visitor).contains(&role)),
                "Only the Owner makes somebody an Administrator.",
            ),
            Self::Disable | Self::Enable => (change, "The token that you are signed in with lacks users:write."),
            Self::Delete => (delete, "The token that you are signed in with lacks users:delete."),
            Self::TransferOwnership => {
                (transfer, "Only the Owner passes the ownership on, and to an Administrator only.")
            }
        };
        if is_open { Ok(()) } else { Err(Trouble::forbidden(reason.unwrap_or(otherwise))) }
    }

    fn action(self) -> Action {
        if self == Self::Delete { Action::Delete } else { Action::Write }
    }
}

#[derive(Template)]
#[template(path = "confirm_user.html")]
struct ConfirmPage {
    shell: Shell,
    verb: Verb,
    name: String,
    /// The role to give.
    role: Option<Role>,
    tokens: String,
    /// Which tokens these are, and the version of the user's record: what is confirmed is what was shown.
    fingerprint: String,
    version: CommitId,
    blast: Blast,
    problem: Option<String>,
}

impl ConfirmPage {
    /// The gravest is confirmed by the name.
    fn is_typed(&self) -> bool {
        self.verb == Verb::TransferOwnership
    }
}

/// Asks.
pub(super) async fn confirm(
    visitor: Visitor,
    Path((name, verb)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    let asked = Form::parse(query.unwrap_or_default().as_bytes());
    let page = async {
        asked.check(&["role"])?;
        let verb = Verb::from_name(&verb).ok_or_else(Trouble::not_found)?;
        let actor = visitor.acting(Resource::Users, verb.action())?;
        ask(&visitor, &actor, verb, &name, role(verb, &asked)?, StatusCode::OK, None).await
    };
    let page = page.await;
    visitor.answer(Section::Users, page)
}

fn role(verb: Verb, form: &Form) -> Result<Option<Role>, Trouble> {
    if verb != Verb::SetRole {
        return Ok(None);
    }
    let role = form.text("role").and_then(Role::from_name).filter(|role| *role != Role::Owner);
    role.map(Some).ok_or_else(|| Trouble::invalid("Choose a role."))
}

async fn ask(
    visitor: &Visitor,
    actor: &Actor,
    verb: Verb,
    name: &str,
    role: Option<Role>,
    status: StatusCode,
    problem: Option<String>,
) -> Result<Response, Trouble> {
    let registry = &visitor.registry;
    let Versioned { record: user, version } = registry.user(actor, name).await?;
    verb.check(visitor, &user, role)?;
    let tokens = registry.select(actor, &tokens_of(&user.name)).await?;
    let (count, fingerprint) = (counted(tokens.len() as u64, "token"), Fingerprint::of(&tokens).to_string());
    // Who may change users and sees no tokens is told how many there are, and not what they are.
    let tokens = if visitor.may(Resource::Tokens, Action::Read) { tokens } else { Vec::new() };
    let page = ConfirmPage {
        shell: visitor.shell(verb.title(), Section::Users),
        verb,
        tokens: count,
        fingerprint,
        version,
        blast: Blast::of(&registry.dependents(actor, &tokens, 5).await?),
        name: user.name,
        role,
        problem,
    };
    Ok(html::render(status, &page))
}

/// All tokens of a user, in whatever state.
fn tokens_of(name: &str) -> TokenQuery {
    TokenQuery { user: Some(name.to_owned()), ..TokenQuery::default() }
}

/// Does it.
pub(super) async fn submit(
    Path((name, verb)): Path<(String, String)>,
    Submitted { visitor, form }: Submitted,
) -> Response {
    let sent = Sent::of(&visitor, &format!("{verb} {name}"), &form);
    sent.once(async move {
        let done = try_submit(&visitor, &name, &verb, &form).await;
        visitor.done(Section::Users, done)
    })
    .await
}

async fn try_submit(visitor: &Visitor, name: &str, verb: &str, form: &Form) -> Result<Done, Trouble> {
    form.check(&["csrf", "once", "role", "typed", "fingerprint", "version"])?;
    let verb = Verb::from_name(verb).ok_or_else(Trouble::not_found)?;
    let actor = visitor.attempting(Resource::Users, verb.action(), verb.event(), audit::of_user(name))?;
    let role = role(verb, form)?;
    let again = async |problem: String| {
        ask(visitor, &actor, verb, name, role, StatusCode::CONFLICT, Some(problem)).await.map(Done::Not)
    };
    if verb == Verb::TransferOwnership && form.text("typed") != Some(name) {
        return again(format!("Type {name} to confirm.")).await;
    }
    let seen = form.text("fingerprint").and_then(|text| text.parse::<Fingerprint>().ok());
    let Some(version) = form.text("version").and_then(|text| text.parse::<CommitId>().ok()) else {
        return again(CHANGED.to_owned()).await;
    };
    if seen != Some(Fingerprint::of(&visitor.registry.select(&actor, &tokens_of(name)).await?)) {
        return again("Nothing was done: this user has other tokens by now than those you have seen.".to_owned()).await;
    }
    let (acting, whom) = (actor.clone(), name.to_owned());
    let command =
        async move |registry: Registry| run(&registry, &acting, verb, Seen::at(&*whom, Some(version)), role).await;
    let done = match visitor.console.change(visitor.registry.clone(), Some(receipt::WAIT), command).await {
        Err(RegistryError::Changed) => return again(CHANGED.to_owned()).await,
        done => done?,
    };
    let notice = receipt::notice(done.done.clone(), "Applied", &done);
    let path = match verb {
        Verb::Delete => "/users".to_owned(),
        _ => format!("/users/{name}"),
    };
    Ok(Done::Led { notice, path })
}

const CHANGED: &str = "Nothing was done: this user was changed since you have looked.";

/// The command, and what it did.
async fn run(
    registry: &Registry,
    actor: &Actor,
    verb: Verb,
    user: Seen<&str>,
    role: Option<Role>,
) -> Result<String, RegistryError> {
    let name = user.what();
    let text = match (verb, role) {
        (Verb::SetRole, Some(role)) => {
            let change = registry.set_role(actor, user, role).await?;
            let mut text = format!("{name} is {} now.", change.user.role);
            if change.narrowed > 0 {
                text.push_str(&format!(" {} lost permissions.", counted(change.narrowed as u64, "token")));
            }
            if change.revoked > 0 {
                text.push_str(&format!(" Revoked {}.", counted(change.revoked as u64, "token")));
            }
            text
        }
        (Verb::Disable, _) => {
            registry.set_status(actor, user, UserStatus::Disabled).await?;
            format!("Disabled {name}.")
        }
        (Verb::Enable, _) => {
            registry.set_status(actor, user, UserStatus::Active).await?;
            format!("Enabled {name}.")
        }
        (Verb::Delete, _) => {
            let deleted = registry.delete_user(actor, user).await?;
            format!("Deleted {name} and {}.", counted(deleted as u64, "token"))
        }
        (Verb::TransferOwnership, _) => {
            let transfer = registry.transfer_ownership(actor, user).await?;
            format!("{} is the Owner now, and {} an Administrator.", transfer.new.name, transfer.old.name)
        }
        (Verb::SetRole, None) => String::new(),
    };
    Ok(text)
}
