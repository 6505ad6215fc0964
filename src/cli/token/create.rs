//! `token create`.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::super::args::{Expiry, Format, PermissionArgs, ReasonArg};
use super::super::output::{Output, OutputError, is_discarded, note};
use super::super::session::Session;
use super::super::table::printable;
use super::super::time;
use super::super::wait::WaitArgs;
use super::{enumerate, value};
use crate::registry::view::TokenView;
use crate::registry::{Created, Ensured, NewToken, Requested, TokenDetails};
use crate::token::{PermissionSet, TokenId};

/// Shown below `token create --help`.
pub(super) const EXAMPLES: &str = "\
The token alone is printed to standard output, once: only its SHA-256 is stored. Permissions that
the user's role lacks are left out, with a note on standard error.

With --token-file you bring the value yourself, and it is not printed. With --json, `controller` is the
body of the request (POST /api/tokens) by which Telegraf Controller 1.2 takes a token of the same value.

Examples:
  tollgate token create --user anna --description 'plant 7' --preset telegraf-agent
  tollgate token create --user anna --description ci --permission configs:read --expires 30d
  TOKEN=$(tollgate token create --user anna --description laptop --expires 2027-01-31)";

/// Arguments of `token create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The token's owner
    #[arg(long, value_name = "USER")]
    user: String,
    /// What the token is for
    #[arg(long)]
    description: String,
    #[command(flatten)]
    permissions: PermissionArgs,
    /// When the token expires: a duration such as 30d, a date, of which it is the end in UTC, or a time
    #[arg(long, value_name = "WHEN")]
    expires: Option<Expiry>,
    /// Take the token's value from this file, - for standard input: tc-apiv1_ and 64 lowercase hexadecimal digits
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// With --token-file: that this user has a token of that value already, and it works, is no failure, and changes nothing
    #[arg(long, requires = "token_file")]
    if_not_exists: bool,
    #[command(flatten)]
    pub(super) reason: ReasonArg,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    format: Format,
}

/// Creates a token and prints it.
///
/// # Errors
/// When nothing was created, when it could not be printed, and when not every sidecar has applied it.
pub(super) async fn run(session: &Session, args: CreateArgs) -> anyhow::Result<()> {
    let CreateArgs { user, description, permissions, expires, token_file, if_not_exists, wait, format, reason: _ } =
        args;
    let (value, output) = (token_file.as_deref().map(value::read).transpose()?, Output::new(format));
    if let Some(value) = value.as_ref().filter(|_| if_not_exists)
        && let Some(existing) = session.registry.token_made_before(&session.actor, &user, &value.digest()).await?
    {
        return print_existing(&existing, output);
    }
    let expires_at = expires.map(|expiry| expiry.resolve(Timestamp::now()));
    let requested = permissions.requested();
    let permissions = requested.map_or(Requested::All, Requested::Permissions);
    let new = NewToken { user, description, permissions, expires_at };
    let is_brought = value.is_some();
    let created = match value {
        Some(value) if if_not_exists => match session.registry.ensure_token(&session.actor, new, value).await? {
            Ensured::Made(created) => created,
            Ensured::There(existing) => return print_existing(&existing, output),
        },
        Some(value) => session.registry.create_token_of(&session.actor, new, value).await?,
        None => session.registry.create_token(&session.actor, new).await?,
    };
    let granted = created.record.permissions;
    let lacking: PermissionSet =
        requested.iter().flat_map(|set| set.iter()).filter(|permission| !granted.contains(*permission)).collect();
    if !lacking.is_empty() {
        let role = created.owner.role;
        note(format_args!("left out, because the role {role} does not permit it: {}", enumerate(lacking)));
    }
    let now = Timestamp::now();
    if requested.is_none() {
        note(given(&created, now));
    } else if let Some(at) = created.record.expires_at.filter(|_| expires.is_none()) {
        note(format_args!("it expires: {}, as registry.max_token_lifetime has it", time::full(at, now)));
    }
    if output.json {
        let view = TokenView::of_created(&created, Timestamp::now());
        let printed = wait.print_and_wait(session, output, &view, || Ok(())).await;
        let not_printed = |error| not_printed(error, created.record.id);
        return printed.map_err(not_printed);
    }
    if is_brought {
        // Whoever brought the value has it.
        let Created { record, owner, .. } = &created;
        output.done(&format!("created {}: {} ({})\n", record.id, printable(&record.description), owner.name))?;
    } else {
        print_created(&created, output)?;
    }
    // The token is alone on standard output.
    wait.wait(session).await?.map_or(Ok(()), |receipt| receipt.print_aside())
}

/// What a token got that nobody named, and for how long.
fn given(Created { record, owner, .. }: &Created, now: Timestamp) -> String {
    let permissions = match record.permissions.iter().count() {
        1 => "1 permission".to_owned(),
        many => format!("{many} permissions"),
    };
    let until = record.expires_at.map_or_else(|| "never".to_owned(), |at| time::full(at, now));
    format!(
        "no permissions were named, so it has all that the role {} permits ({permissions}); it expires: {until}. \
         --preset telegraf-agent or --permission give less, --expires 30d for a while",
        owner.role
    )
}

fn print_existing(token: &TokenDetails, output: Output) -> anyhow::Result<()> {
    if output.json {
        return output.json(&TokenView::of_details(token, Timestamp::now()));
    }
    let TokenDetails { record, owner, .. } = token;
    Ok(output.text(&format!("exists {}: {} ({})\n", record.id, printable(&record.description), owner.name))?)
}

/// An error of a command that made a token and had to show it.
pub(super) fn not_printed(error: anyhow::Error, id: TokenId) -> anyhow::Error {
    match error.downcast::<OutputError>() {
        Ok(source) => TokenNotPrinted { id, source }.into(),
        Err(error) => error,
    }
}

/// The token is in the store, but its only sight was lost.
#[derive(Debug, thiserror::Error)]
#[error(
    "the token {id} was created, but could not be printed, and cannot be printed again: create another one, and revoke this \
     one (`tollgate token revoke {id}`)"
)]
struct TokenNotPrinted {
    id: TokenId,
    #[source]
    source: OutputError,
}

/// Prints a new token: the raw token alone, or its record with it.
///
/// # Errors
/// That it could not be printed, and which token is lost by that; also when the reader is gone.
pub(in super::super) fn print_created(created: &Created, output: Output) -> anyhow::Result<()> {
    let text = if output.json {
        serde_json::to_string_pretty(&TokenView::of_created(created, Timestamp::now()))?
    } else {
        created.token.reveal().to_owned()
    };
    let (text, id) = (Zeroizing::new(text + "\n"), created.record.id);
    output.text(&text).map_err(|source| TokenNotPrinted { id, source })?;
    if is_discarded() {
        note(format_args!(
            "standard output is /dev/null, so nobody has seen the token {id}, and it cannot be printed again: create another \
             one, and revoke this one (`tollgate token revoke {id}`)"
        ));
    }
    Ok(())
}
