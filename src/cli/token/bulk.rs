//! `token revoke`, `token delete` and `token reassign`: what is done to tokens, one or many.

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::super::args::{Format, ReasonArg};
use super::super::output::{Output, note};
use super::super::session::Session;
use super::super::table::printable;
use super::super::usage::{Asking, confirm_for};
use super::super::wait::WaitArgs;
use super::count;
use super::selection::{Selected, Selection};
use crate::registry::receipt::{Receipt, ReceiptView};
use crate::registry::view::TokenView;
use crate::registry::{BulkAction, Owners};
use crate::token::TokenRecord;

/// Arguments of `token revoke`.
#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    #[command(flatten)]
    revoked: RemoveArgs,
    #[command(flatten)]
    reason: ReasonArg,
}

/// Arguments of `token delete`, and some of `token revoke`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    #[command(flatten)]
    tokens: Selection,
    #[command(flatten)]
    bulk: BulkArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Arguments of `token reassign`.
#[derive(Debug, Args)]
pub(crate) struct ReassignArgs {
    #[command(flatten)]
    tokens: Selection,
    /// The new owner
    #[arg(long, value_name = "USER")]
    to: String,
    #[command(flatten)]
    bulk: BulkArgs,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    reason: ReasonArg,
}

/// How a command on several tokens goes about it.
#[derive(Debug, Clone, Copy, Args)]
struct BulkArgs {
    /// Skip the confirmation, of more than one token, of what was not named by its id, or of what agents use
    #[arg(long)]
    yes: bool,
    /// Proceed even if the owner loses the last usable token
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    format: Format,
}

impl RevokeArgs {
    pub(super) fn is_dry_run(&self) -> bool {
        self.revoked.is_dry_run()
    }

    /// For the history.
    pub(super) fn reason(&self) -> &ReasonArg {
        &self.reason
    }
}

impl RemoveArgs {
    pub(super) fn is_dry_run(&self) -> bool {
        self.tokens.dry_run
    }
}

impl ReassignArgs {
    pub(super) fn is_dry_run(&self) -> bool {
        self.tokens.dry_run
    }

    /// For the history.
    pub(super) fn reason(&self) -> &ReasonArg {
        &self.reason
    }
}

/// Revokes tokens.
///
/// # Errors
/// Why nothing, or not all, was done.
pub(super) async fn revoke(session: &Session, args: RevokeArgs) -> anyhow::Result<()> {
    let RemoveArgs { tokens, bulk, wait } = args.revoked;
    let question = |tokens| format!("Revoke {tokens}? They stop working at once and this cannot be undone.");
    let Some(selected) = bulk.begin(session, BulkAction::Revoke, &tokens, question).await? else { return Ok(()) };
    let revoked = session.registry.revoke(&session.actor, selected.seen(), bulk.force).await?;
    print_changed(session, "revoked", &revoked, wait, Output::new(bulk.format)).await
}

/// Deletes tokens.
///
/// # Errors
/// Why nothing, or not all, was done.
pub(super) async fn delete(session: &Session, RemoveArgs { tokens, bulk, wait }: RemoveArgs) -> anyhow::Result<()> {
    let question = |tokens| {
        format!("Delete {tokens}? They stop working at once, their records are removed, and this cannot be undone.")
    };
    let Some(selected) = bulk.begin(session, BulkAction::Delete, &tokens, question).await? else { return Ok(()) };
    let deleted = session.registry.delete(&session.actor, selected.seen(), bulk.force).await?;
    print_changed(session, "deleted", &deleted, wait, Output::new(bulk.format)).await
}

/// Gives tokens to another user.
///
/// # Errors
/// Why nothing, or not all, was done.
pub(super) async fn reassign(session: &Session, args: ReassignArgs) -> anyhow::Result<()> {
    let ReassignArgs { tokens, to, bulk, wait, reason: _ } = args;
    let question =
        |tokens| format!("Reassign {tokens} to {to}? Permissions that {to}'s role lacks are removed permanently.");
    let action = BulkAction::Reassign { to: &to };
    let Some(selected) = bulk.begin(session, action, &tokens, question).await? else { return Ok(()) };
    let reassigned = session.registry.reassign(&session.actor, selected.seen(), &to, bulk.force).await?;
    print_changed(session, "reassigned", &reassigned, wait, Output::new(bulk.format)).await
}

/// What a dry run says that it would do.
fn verb(action: BulkAction<'_>) -> &'static str {
    match action {
        BulkAction::Revoke => "would revoke",
        BulkAction::Delete => "would delete",
        BulkAction::Reassign { .. } => "would reassign",
    }
}

impl BulkArgs {
    /// The tokens that it is to be done to, once that was confirmed. `None`: none, or it was only asked which they are, and
    /// that was said.
    async fn begin(
        self,
        session: &Session,
        action: BulkAction<'_>,
        tokens: &Selection,
        question: impl FnOnce(String) -> String,
    ) -> anyhow::Result<Option<Selected>> {
        // What is revoked already can only be deleted.
        let selected = tokens.resolve(session, matches!(action, BulkAction::Delete)).await?;
        if tokens.dry_run || selected.ids.is_empty() {
            self.leave(session, action, &selected).await?;
            return Ok(None);
        }
        if !self.yes {
            self.confirm(session, action, &selected, question).await?;
        }
        Ok(Some(selected))
    }

    /// Says which tokens it would be done to, or that there are none.
    async fn leave(&self, session: &Session, action: BulkAction<'_>, selected: &Selected) -> anyhow::Result<()> {
        let tokens = match selected.ids.is_empty() {
            true => Vec::new(),
            false => session.registry.preview(&session.actor, action, selected.seen(), self.force).await?,
        };
        print_done(session, verb(action), &tokens, Output::new(self.format)).await?;
        note(match tokens.len() {
            0 => "no matching tokens".to_owned(),
            many => format!("{}; nothing was changed", count(many)),
        });
        Ok(())
    }

    /// Says what depends on the tokens and asks, when there is more than one, or one that is used or was not named. Nobody is
    /// asked about what a rule forbids.
    async fn confirm(
        &self,
        session: &Session,
        action: BulkAction<'_>,
        selected: &Selected,
        question: impl FnOnce(String) -> String,
    ) -> anyhow::Result<()> {
        session.registry.preview(&session.actor, action, selected.seen(), self.force).await?;
        let ids = &selected.ids;
        let asking = if ids.len() > 1 || selected.is_found { Asking::Always } else { Asking::IfUsed };
        confirm_for(session, ids, asking, question).await
    }
}

/// What was revoked or deleted, and how far the sidecars came with it.
#[derive(Serialize)]
struct ChangedView {
    tokens: Vec<TokenView>,
    wait: ReceiptView,
}

/// Prints what was done to these tokens, and waits for the sidecars if that was asked for. As JSON the tokens are a list,
/// or, with `--wait`, the list beside the receipt.
async fn print_changed(
    session: &Session,
    what: &str,
    tokens: &[TokenRecord],
    wait: WaitArgs,
    output: Output,
) -> anyhow::Result<()> {
    // At once: people see what was done while others still apply it.
    let print = async { if output.json { Ok(()) } else { print_done(session, what, tokens, output).await } };
    let (receipt, printed) = tokio::join!(wait.wait(session), print);
    let receipt: Option<Receipt> = receipt.with_context(|| format!("{}: {what}", count(tokens.len())))?;
    let printed = match &receipt {
        _ if !output.json => printed,
        None => print_done(session, what, tokens, output).await,
        Some(receipt) => owners(session, tokens)
            .await
            .and_then(|owners| output.json(&ChangedView { tokens: views(tokens, &owners), wait: receipt.view() })),
    };
    wait.linger(session).await;
    // A receipt that is none is reported whether or not somebody reads the rest.
    receipt.map_or(Ok(()), |receipt| receipt.print(output)).and(printed)
}

/// Prints what was done to these tokens.
async fn print_done(session: &Session, what: &str, tokens: &[TokenRecord], output: Output) -> anyhow::Result<()> {
    let owners = owners(session, tokens).await?;
    if output.json {
        return output.json(&views(tokens, &owners));
    }
    let line = |token: &TokenRecord| {
        let owner = &owners.get(&token.owner)?.record.name;
        Some(format!("{what} {}: {} ({owner})\n", token.id, printable(&token.description)))
    };
    Ok(output.done(&tokens.iter().filter_map(line).collect::<String>())?)
}

fn views(tokens: &[TokenRecord], owners: &Owners) -> Vec<TokenView> {
    let now = Timestamp::now();
    let view = |token: &TokenRecord| Some(TokenView::new(token, &owners.get(&token.owner)?.record, now));
    tokens.iter().filter_map(view).collect()
}

async fn owners(session: &Session, tokens: &[TokenRecord]) -> anyhow::Result<Owners> {
    Ok(session.registry.users_by_id(tokens.iter().map(|token| token.owner)).await?)
}
