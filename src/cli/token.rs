//! `token ...`, except `token import`, `token export` and `token purge`.

mod create;
mod find;
mod rotate;
mod selection;
mod show;
mod value;

use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;

use super::args::{Format, Page, ReasonArg};
use super::export::{self, ExportArgs};
use super::import::{self, ImportArgs};
use super::list::{self, Listed};
use super::output::{Output, note};
use super::purge::{self, PurgeArgs};
use super::session::Session;
use super::table::{Cell, Tone, printable};
use super::usage::{self, Asking, UnusedArgs, confirm_for};
use super::wait::WaitArgs;
use super::{Globals, time};
use crate::registry::receipt::{Receipt, ReceiptView};
use crate::registry::view::TokenView;
use crate::registry::{ListState, Owners, RegistryError, TokenQuery, TokenUses};
use crate::store::Absent;
use crate::token::{DigestPrefix, PermissionSet, Reason, TokenId, TokenRecord, TokenState, UserRecord, UserStatus};
pub(super) use create::print_created;
use selection::{Selected, Selection};

/// The commands on tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Create a token and print it once
    #[command(after_help = create::EXAMPLES)]
    Create(create::CreateArgs),
    /// List tokens, the newest first
    List(ListArgs),
    /// Show one token and its history
    Show {
        /// The token's id
        id: TokenId,
        /// Most agents to print, the latest first
        #[arg(long, value_name = "N", default_value_t = 20)]
        agents: usize,
        /// Text or JSON.
        #[command(flatten)]
        format: Format,
    },
    /// Find a token by the first digits of its digest, or by its value on standard input, and show it
    #[command(after_help = find::EXAMPLES)]
    Find(find::FindArgs),
    /// Revoke tokens, at once and permanently; their records stay
    Revoke(RevokeArgs),
    /// Delete tokens and their records, at once and permanently
    Delete(RemoveArgs),
    /// Reassign tokens to another user; they lose permissions that the user's role lacks
    Reassign {
        /// Which tokens.
        #[command(flatten)]
        tokens: Selection,
        /// The new owner
        #[arg(long, value_name = "USER")]
        to: String,
        /// How.
        #[command(flatten)]
        bulk: BulkArgs,
        /// Whether to wait for the sidecars.
        #[command(flatten)]
        wait: WaitArgs,
        /// For the history.
        #[command(flatten)]
        reason: ReasonArg,
    },
    /// Replace a token by a successor, which is printed once; the old one still works for a while
    #[command(after_help = rotate::EXAMPLES)]
    Rotate(rotate::RotateArgs),
    /// Delete tokens that expired or were revoked long ago
    #[command(after_help = purge::EXAMPLES)]
    Purge(PurgeArgs),
    /// Import existing tokens from JSON lines or CSV
    #[command(after_help = import::EXAMPLES)]
    Import(ImportArgs),
    /// Export tokens as JSON lines for `token import`
    #[command(after_help = export::EXAMPLES)]
    Export(ExportArgs),
}

/// Arguments of `token list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only tokens of this user
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Only tokens in this state: active, revoked or expired
    #[arg(long)]
    state: Option<ListState>,
    #[command(flatten)]
    unused: UnusedArgs,
    #[command(flatten)]
    page: Page<TokenId>,
    #[command(flatten)]
    format: Format,
}

/// Arguments of `token revoke`.
#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    #[command(flatten)]
    revoked: RemoveArgs,
    #[command(flatten)]
    reason: ReasonArg,
}

/// Arguments of `token revoke` and `token delete`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    #[command(flatten)]
    tokens: Selection,
    #[command(flatten)]
    bulk: BulkArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

/// How a command on several tokens goes about it.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct BulkArgs {
    /// Skip the confirmation, of more than one token, of what was not named by its id, or of what agents use
    #[arg(long)]
    yes: bool,
    /// Proceed even if the owner loses the last usable token
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    format: Format,
}

/// Runs a command on tokens.
///
/// # Errors
/// Why nothing, or not all, was done.
pub(super) async fn run(globals: &Globals, command: TokenCommand) -> anyhow::Result<()> {
    let session = Session::open(globals, Absent::Refuse).await?.because_of(command.reason());
    let only_reads = match &command {
        TokenCommand::List(_) | TokenCommand::Show { .. } | TokenCommand::Find(_) | TokenCommand::Export(_) => true,
        TokenCommand::Revoke(RevokeArgs { revoked: args, .. }) | TokenCommand::Delete(args) => args.tokens.dry_run,
        TokenCommand::Reassign { tokens, .. } => tokens.dry_run,
        TokenCommand::Purge(args) => args.dry_run,
        _ => false,
    };
    let outcome = execute(&session, command).await;
    if only_reads {
        return outcome;
    }
    session.finish(outcome).await
}

impl TokenCommand {
    /// Why, if anybody said so.
    fn reason(&self) -> Option<&Reason> {
        let ReasonArg { reason } = match self {
            Self::Create(args) => &args.reason,
            Self::Revoke(RevokeArgs { reason, .. }) | Self::Reassign { reason, .. } => reason,
            Self::Rotate(args) => &args.reason,
            Self::Import(args) => &args.reason,
            // What is deleted has no history any more.
            Self::Delete(_) | Self::Purge(_) => return None,
            Self::List(_) | Self::Show { .. } | Self::Find(_) | Self::Export(_) => return None,
        };
        reason.as_ref()
    }
}

async fn execute(session: &Session, command: TokenCommand) -> anyhow::Result<()> {
    let Session { registry, actor } = session;
    match command {
        TokenCommand::Create(args) => create::run(session, args).await,
        TokenCommand::List(args) => list(session, args).await,
        TokenCommand::Show { id, agents, format } => show::one(session, id, agents, Output::new(format)).await,
        TokenCommand::Find(args) => find::run(session, args).await,
        TokenCommand::Revoke(RevokeArgs { revoked: RemoveArgs { tokens, bulk, wait }, reason: _ }) => {
            let selected = tokens.resolve(session, false).await?;
            if tokens.dry_run || selected.ids.is_empty() {
                return bulk.leave(session, "would revoke", &selected).await;
            }
            bulk.confirm(session, &selected, |tokens| {
                format!("Revoke {tokens}? They stop working at once and this cannot be undone.")
            })
            .await?;
            let revoked = registry.revoke(actor, &selected.ids, bulk.force).await?;
            print_changed(session, "revoked", &revoked, wait, Output::new(bulk.format)).await
        }
        TokenCommand::Delete(RemoveArgs { tokens, bulk, wait }) => {
            let selected = tokens.resolve(session, true).await?;
            if tokens.dry_run || selected.ids.is_empty() {
                return bulk.leave(session, "would delete", &selected).await;
            }
            bulk.confirm(session, &selected, |tokens| {
                format!(
                    "Delete {tokens}? They stop working at once, their records are removed, and this cannot be undone."
                )
            })
            .await?;
            let deleted = registry.delete(actor, &selected.ids, bulk.force).await?;
            print_changed(session, "deleted", &deleted, wait, Output::new(bulk.format)).await
        }
        TokenCommand::Reassign { tokens, to, bulk, wait, reason: _ } => {
            let selected = tokens.resolve(session, false).await?;
            if tokens.dry_run || selected.ids.is_empty() {
                return bulk.leave(session, "would reassign", &selected).await;
            }
            bulk.confirm(session, &selected, |tokens| {
                format!("Reassign {tokens} to {to}? Permissions that {to}'s role lacks are removed permanently.")
            })
            .await?;
            let reassigned = registry.reassign(actor, &selected.ids, &to, bulk.force).await?;
            print_changed(session, "reassigned", &reassigned, wait, Output::new(bulk.format)).await
        }
        TokenCommand::Rotate(args) => rotate::run(session, args).await,
        TokenCommand::Purge(args) => purge::run(session, args).await,
        TokenCommand::Import(args) => import::run(session, args).await,
        TokenCommand::Export(args) => export::run(session, args).await,
    }
}

impl BulkArgs {
    /// Says which tokens it would be done to, or that there are none.
    async fn leave(&self, session: &Session, what: &str, Selected { ids, .. }: &Selected) -> anyhow::Result<()> {
        let found = session.registry.store().tokens_by_id(ids).await?;
        let missing: Vec<_> = ids.iter().zip(&found).filter(|(_, token)| token.is_none()).map(|(id, _)| *id).collect();
        if !missing.is_empty() {
            return Err(RegistryError::NoSuchTokens(missing).into());
        }
        let tokens: Vec<_> = found.into_iter().flatten().map(|token| token.record).collect();
        print_done(session, what, &tokens, Output::new(self.format)).await?;
        note(match tokens.len() {
            0 => "no matching tokens".to_owned(),
            many => format!("{}; nothing was changed", count(many)),
        });
        Ok(())
    }

    /// Says what depends on the tokens and asks, when there is more than one, or one that is used or was not named.
    async fn confirm(
        &self,
        session: &Session,
        Selected { ids, is_found }: &Selected,
        question: impl FnOnce(String) -> String,
    ) -> anyhow::Result<()> {
        if self.yes {
            return Ok(());
        }
        let asking = if ids.len() > 1 || *is_found { Asking::Always } else { Asking::IfUsed };
        confirm_for(session, ids, asking, question).await
    }
}

/// `1 token`, `3 tokens`.
pub(super) fn count(tokens: usize) -> String {
    if tokens == 1 { "1 token".to_owned() } else { format!("{tokens} tokens") }
}

async fn list(session: &Session, args: ListArgs) -> anyhow::Result<()> {
    let ListArgs { user, state, unused, page, format } = args;
    let is_narrowed = user.is_some() || state.is_some() || unused.is_given() || page.after.is_some();
    let when_empty = match is_narrowed {
        true => "no matching tokens",
        false => "no tokens; `tollgate token create --user NAME --description TEXT` creates one",
    };
    let Session { registry, actor } = session;
    let query = TokenQuery { user, state, unused: unused.resolve(session).await?, ..TokenQuery::default() };
    let read = async |before, limit| {
        let tokens = registry.tokens(actor, &query, before, limit).await?;
        let ids: Vec<_> = tokens.iter().map(|(token, _)| token.id).collect();
        let uses = Arc::new(registry.usage(actor, &ids).await?);
        let listed = |(token, owner)| ListedToken { token, owner, uses: Arc::clone(&uses) };
        Ok(tokens.into_iter().map(listed).collect())
    };
    list::list(Output::new(format), page, when_empty, read).await
}

/// A token of a list.
struct ListedToken {
    token: TokenRecord,
    owner: UserRecord,
    /// Of all tokens of its page.
    uses: Arc<TokenUses>,
}

impl Listed<10> for ListedToken {
    const HEADINGS: [&'static str; 10] = [
        "ID",
        "USER",
        "DESCRIPTION",
        "PERMISSIONS",
        "STATE",
        "LAST USED",
        "AGENTS 24 H",
        "EXPIRES",
        "CREATED",
        "DIGEST",
    ];
    type Id = TokenId;
    type View = TokenView;

    fn id(&self) -> TokenId {
        self.token.id
    }

    fn view(&self, now: Timestamp) -> TokenView {
        TokenView::new(&self.token, &self.owner, now).with_usage(&self.uses)
    }

    fn row(&self, now: Timestamp) -> [Cell; 10] {
        let Self { token, owner, uses } = self;
        let expires = token.expires_at.map_or_else(|| "never".to_owned(), |at| time::short(at, now));
        [
            token.id.to_string().into(),
            owner.name.as_str().into(),
            token.description.as_str().into(),
            summary(token.permissions, owner).into(),
            state(token, owner, now),
            usage::last_use_short(uses, token.id).into(),
            usage::agents_short(uses, token.id).into(),
            expires.into(),
            time::short(token.created_at, now).into(),
            DigestPrefix::of(&token.digest).to_string().into(),
        ]
    }
}

/// What a token permits, in a few words.
fn summary(permissions: PermissionSet, owner: &UserRecord) -> String {
    match permissions.iter().count() {
        _ if permissions == PermissionSet::TELEGRAF_AGENT => "telegraf-agent".to_owned(),
        0 => "none".to_owned(),
        _ if permissions == owner.role.permissions() => format!("all of {}", owner.role),
        1 | 2 => enumerate(permissions),
        count => format!("{count} permissions"),
    }
}

fn enumerate(permissions: PermissionSet) -> String {
    permissions.iter().map(|permission| permission.to_string()).collect::<Vec<_>>().join(", ")
}

/// Whether it works, and if not, why. More than the record's state: what its owner's being disabled does to it counts.
fn state(token: &TokenRecord, owner: &UserRecord, now: Timestamp) -> Cell {
    let (text, tone) = match token.state {
        TokenState::Revoked { .. } => ("revoked", Tone::Bad),
        TokenState::Active if token.is_expired(now) => ("expired", Tone::Warn),
        TokenState::Active if owner.status == UserStatus::Disabled => ("user disabled", Tone::Warn),
        TokenState::Active => ("active", Tone::Good),
    };
    Cell::toned(text, tone)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Role, UserId};

    #[test]
    fn permissions_are_summarised() {
        let manager = UserRecord {
            id: UserId::from_u64(1),
            name: "max".to_owned(),
            role: Role::Manager,
            status: UserStatus::Active,
            created_at: Timestamp::UNIX_EPOCH,
        };
        let printed = |names: &str| {
            let permissions = names.split_whitespace().map(|name| name.parse().expect("a permission"));
            summary(permissions.collect(), &manager)
        };
        assert_eq!(printed("heartbeat:write configs:read"), "telegraf-agent");
        assert_eq!(printed(""), "none");
        assert_eq!(printed("labels:read"), "labels:read");
        assert_eq!(printed("labels:read agents:read"), "agents:read, labels:read");
        assert_eq!(printed("labels:read agents:read configs:read"), "3 permissions");
        assert_eq!(summary(Role::Manager.permissions(), &manager), "all of manager");
    }
}
