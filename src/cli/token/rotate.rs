//! `token rotate`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use super::super::args::{Expiry, Format, ReasonArg};
use super::super::output::{Output, note};
use super::super::session::Session;
use super::super::table::printable;
use super::super::time;
use super::super::wait::WaitArgs;
use super::create::{not_printed, print_created};
use super::value;
use crate::registry::view::TokenView;
use crate::registry::{Rotated, Rotation};
use crate::token::{RawToken, TokenId};
use crate::units::parse_duration;

/// Shown below `token rotate --help`.
pub(super) const EXAMPLES: &str = "\
The successor has the same owner, permissions and description, and expires as long from now as the old
token was made for, unless --expires says otherwise. It alone is printed to standard output, once. The
old token expires after the overlap, or earlier if it would have anyway. A token is rotated once.

Where the Controller has the same tokens (credential.mode is \"forward\", the default), it must have the
new value before any agent uses it: choose a value, install it at the Controller, and rotate with
--token-file. Without, install what is printed there first, and give it to agents afterwards; with
--json, `controller` is the body of that request (POST /api/tokens).

`token show` of either token names the other one, and says whether the old one is used after its end.

Examples:
  tollgate token rotate 0czhq1t8w6mne --overlap 24h
  tollgate token rotate 0czhq1t8w6mne --overlap 7d --expires 90d --token-file new-token";

/// Arguments of `token rotate`.
#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    /// The token's id
    id: TokenId,
    /// For how long the old token still works, such as 24h; 0s ends it at once
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    overlap: Duration,
    /// When the successor expires: a duration such as 30d, a date, of which it is the end in UTC, or a time
    #[arg(long, value_name = "WHEN")]
    expires: Option<Expiry>,
    /// Take the successor's value from this file, - for standard input: tc-apiv1_ and 64 lowercase hexadecimal digits
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) reason: ReasonArg,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    format: Format,
}

/// Rotates a token, and prints its successor.
///
/// # Errors
/// Why it was not done, or that the only sight of the new token was lost.
pub(super) async fn run(session: &Session, args: RotateArgs) -> anyhow::Result<()> {
    let RotateArgs { id, overlap, expires, token_file, wait, format, reason: _ } = args;
    let expires_at = expires.map(|expiry| expiry.resolve(Timestamp::now()));
    let rotation = Rotation { token: id, overlap, expires_at };
    let brought: Option<RawToken> = token_file.as_deref().map(value::read).transpose()?;
    let is_brought = brought.is_some();
    let Session { registry, actor } = session;
    let rotated = match brought {
        Some(value) => registry.rotate_to_value(actor, rotation, value).await?,
        None => registry.rotate(actor, rotation).await?,
    };
    let Rotated { old, successor } = &rotated;
    let (now, new) = (Timestamp::now(), successor.record.id);
    if let Some(ends_at) = old.expires_at {
        note(format_args!("{new} is the successor of {id}, which ends {}", time::full(ends_at, now)));
    }
    if !is_brought {
        note("where the Controller has the same tokens, install the new value there before any agent uses it");
    }
    let output = Output::new(format);
    if output.json {
        let view = TokenView::of_created(successor, now);
        let printed = wait.print_and_wait(session, output, &view, || Ok(())).await;
        return printed.map_err(|error| not_printed(error, new));
    }
    if is_brought {
        // Whoever brought the value has it.
        let (description, owner) = (printable(&old.description), &successor.owner.name);
        output.done(&format!("rotated {id} to {new}: {description} ({owner})\n"))?;
    } else {
        print_created(successor, output)?;
    }
    // The token is alone on standard output.
    wait.wait(session).await?.map_or(Ok(()), |receipt| receipt.print_aside())
}
