//! `token ...`, except `token import`, `token export` and `token purge`.

mod rotate;
mod value;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;
use zeroize::Zeroizing;

use super::args::{Expiry, Format, Page, PermissionArgs};
use super::export::{self, ExportArgs};
use super::import::{self, ImportArgs};
use super::list::{self, Listed};
use super::output::{Output, OutputError, note};
use super::purge::{self, PurgeArgs};
use super::session::Session;
use super::table::{Cell, TextTable, Tone, details, printable};
use super::usage::{self, Asking, Selected, Selection, UnusedArgs, confirm_for};
use super::wait::WaitArgs;
use super::{Globals, time};
use crate::registry::receipt::{Receipt, ReceiptView};
use crate::registry::view::TokenView;
use crate::registry::{Created, LateUse, ListState, NewToken, Owners, Requested, TokenDetails, TokenQuery, TokenUses};
use crate::store::{Absent, Agent};
use crate::token::raw::PREFIX;
use crate::token::{PermissionSet, TokenEvent, TokenId, TokenRecord, TokenState, UserRecord, UserStatus};

/// Shown below `token create --help`.
const CREATE_EXAMPLES: &str = "\
The token alone is printed to standard output, once: only its SHA-256 is stored. Permissions that
the user's role lacks are left out, with a note on standard error.

With --token-file you bring the value yourself, and it is not printed. With --json, `controller` is the
body of the request (POST /api/tokens) by which Telegraf Controller 1.2 takes a token of the same value.

Examples:
  tollgate token create --user anna --description 'plant 7' --preset telegraf-agent
  tollgate token create --user anna --description ci --permission configs:read --expires 30d
  TOKEN=$(tollgate token create --user anna --description laptop --expires 2027-01-31T00:00:00Z)";

/// The commands on tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Create a token and print it once
    #[command(after_help = CREATE_EXAMPLES)]
    Create(CreateArgs),
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
    /// Revoke tokens, at once and permanently; their records stay
    Revoke(RemoveArgs),
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
    /// When the token expires: a duration such as 30d, or a time such as 2027-01-31T00:00:00Z
    #[arg(long, value_name = "WHEN")]
    expires: Option<Expiry>,
    /// Take the token's value from this file, - for standard input: tc-apiv1_ and 64 lowercase hexadecimal digits
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    format: Format,
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
    /// Skip the confirmation, of more than one token or of one that agents use
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
    let session = Session::open(globals, Absent::Refuse).await?;
    let only_reads = match &command {
        TokenCommand::List(_) | TokenCommand::Show { .. } | TokenCommand::Export(_) => true,
        TokenCommand::Purge(args) => args.dry_run,
        _ => false,
    };
    let outcome = execute(&session, command).await;
    if only_reads {
        return outcome;
    }
    session.finish(outcome).await
}

async fn execute(session: &Session, command: TokenCommand) -> anyhow::Result<()> {
    let Session { registry, actor } = session;
    match command {
        TokenCommand::Create(args) => create(session, args).await,
        TokenCommand::List(args) => list(session, args).await,
        TokenCommand::Show { id, agents, format } => {
            let token = registry.token(actor, id).await?;
            let uses = registry.usage(actor, &[id]).await?;
            let agents = registry.agents(actor, id, agents).await?;
            let linked = [token.record.predecessor, token.record.successor];
            let linked = linked_states(session, linked).await?;
            show(&token, &linked, &uses, &agents, Output::new(format))
        }
        TokenCommand::Revoke(RemoveArgs { tokens, bulk, wait }) => {
            let Some(ids) = bulk.selected(tokens.resolve(session, false).await?)? else { return Ok(()) };
            bulk.confirm(session, &ids, |tokens| {
                format!("Revoke {tokens}? They stop working at once and this cannot be undone.")
            })
            .await?;
            let revoked = registry.revoke(actor, &ids, bulk.force).await?;
            print_changed(session, "revoked", &revoked, wait, Output::new(bulk.format)).await
        }
        TokenCommand::Delete(RemoveArgs { tokens, bulk, wait }) => {
            let Some(ids) = bulk.selected(tokens.resolve(session, true).await?)? else { return Ok(()) };
            bulk.confirm(session, &ids, |tokens| {
                format!(
                    "Delete {tokens}? They stop working at once, their records are removed, and this cannot be undone."
                )
            })
            .await?;
            let deleted = registry.delete(actor, &ids, bulk.force).await?;
            print_changed(session, "deleted", &deleted, wait, Output::new(bulk.format)).await
        }
        TokenCommand::Reassign { tokens, to, bulk, wait } => {
            let Some(ids) = bulk.selected(tokens.resolve(session, false).await?)? else { return Ok(()) };
            bulk.confirm(session, &ids, |tokens| {
                format!("Reassign {tokens} to {to}? Permissions that {to}'s role lacks are removed permanently.")
            })
            .await?;
            let reassigned = registry.reassign(actor, &ids, &to, bulk.force).await?;
            print_changed(session, "reassigned", &reassigned, wait, Output::new(bulk.format)).await
        }
        TokenCommand::Rotate(args) => rotate::run(session, args).await,
        TokenCommand::Purge(args) => purge::run(session, args).await,
        TokenCommand::Import(args) => import::run(session, args).await,
        TokenCommand::Export(args) => export::run(session, args).await,
    }
}

impl BulkArgs {
    /// The tokens; `None`: a filter found none, which is said.
    fn selected(&self, Selected { ids, is_filtered }: Selected) -> anyhow::Result<Option<Vec<TokenId>>> {
        if !ids.is_empty() || !is_filtered {
            return Ok(Some(ids));
        }
        note("no matching tokens");
        if self.format.json {
            Output::new(self.format).json(&[(); 0])?;
        }
        Ok(None)
    }

    /// Says what depends on the tokens and asks, when there is more than one, or one that is used.
    async fn confirm(
        &self,
        session: &Session,
        tokens: &[TokenId],
        question: impl FnOnce(String) -> String,
    ) -> anyhow::Result<()> {
        if self.yes {
            return Ok(());
        }
        let asking = if tokens.len() > 1 { Asking::Always } else { Asking::IfUsed };
        confirm_for(session, tokens, asking, question).await
    }
}

/// `1 token`, `3 tokens`.
pub(super) fn count(tokens: usize) -> String {
    if tokens == 1 { "1 token".to_owned() } else { format!("{tokens} tokens") }
}

async fn create(session: &Session, args: CreateArgs) -> anyhow::Result<()> {
    let CreateArgs { user, description, permissions, expires, token_file, wait, format } = args;
    let expires_at = expires.map(|expiry| expiry.resolve(Timestamp::now()));
    let requested = permissions.requested();
    let permissions = requested.map_or(Requested::All, Requested::Permissions);
    let new = NewToken { user, description, permissions, expires_at };
    let created = match &token_file {
        Some(file) => session.registry.create_token_of(&session.actor, new, value::read(file)?).await?,
        None => session.registry.create_token(&session.actor, new).await?,
    };
    let granted = created.record.permissions;
    let lacking: PermissionSet =
        requested.iter().flat_map(|set| set.iter()).filter(|permission| !granted.contains(*permission)).collect();
    if !lacking.is_empty() {
        let role = created.owner.role;
        note(format_args!("left out, because the role {role} does not permit it: {}", enumerate(lacking)));
    }
    let output = Output::new(format);
    if output.json {
        let view = TokenView::of_created(&created, Timestamp::now());
        let printed = wait.print_and_wait(session, output, &view, || Ok(())).await;
        let not_printed = |error| not_printed(error, created.record.id);
        return printed.map_err(not_printed);
    }
    match token_file {
        // Whoever brought the value has it.
        Some(_) => {
            let Created { record, owner, .. } = &created;
            output.done(&format!("created {}: {} ({})\n", record.id, printable(&record.description), owner.name))?;
        }
        None => print_created(&created, output)?,
    }
    // The token is alone on standard output.
    wait.wait(session).await?.map_or(Ok(()), |receipt| receipt.print_aside())
}

/// An error of a command that made a token and had to show it.
fn not_printed(error: anyhow::Error, id: TokenId) -> anyhow::Error {
    match error.downcast::<OutputError>() {
        Ok(source) => TokenNotPrinted { id, source }.into(),
        Err(error) => error,
    }
}

/// The token is in the store, but its only sight was lost.
#[derive(Debug, thiserror::Error)]
#[error(
    "the token {id} was created, but could not be printed, and cannot be printed again; revoke it and create another"
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
pub(super) fn print_created(created: &Created, output: Output) -> anyhow::Result<()> {
    let text = if output.json {
        serde_json::to_string_pretty(&TokenView::of_created(created, Timestamp::now()))?
    } else {
        created.token.reveal().to_owned()
    };
    let text = Zeroizing::new(text + "\n");
    Ok(output.text(&text).map_err(|source| TokenNotPrinted { id: created.record.id, source })?)
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

impl Listed<9> for ListedToken {
    const HEADINGS: [&'static str; 9] =
        ["ID", "USER", "DESCRIPTION", "PERMISSIONS", "STATE", "LAST USED", "AGENTS 24 H", "EXPIRES", "CREATED"];
    type Id = TokenId;
    type View = TokenView;

    fn id(&self) -> TokenId {
        self.token.id
    }

    fn view(&self, now: Timestamp) -> TokenView {
        TokenView::new(&self.token, &self.owner, now).with_usage(&self.uses)
    }

    fn row(&self, now: Timestamp) -> [Cell; 9] {
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

/// What became of the predecessor and of the successor, with their ids; empty where there is none.
async fn linked_states(session: &Session, linked: [Option<TokenId>; 2]) -> anyhow::Result<[String; 2]> {
    let ids: Vec<TokenId> = linked.iter().flatten().copied().collect();
    let found = session.registry.store().tokens_by_id(&ids).await?;
    let now = Timestamp::now();
    let mut texts = ids.iter().zip(found).map(|(id, token)| match token.map(|token| token.record) {
        None => format!("{id} (deleted)"),
        Some(token) if !token.is_active() => format!("{id} (revoked)"),
        Some(token) if token.is_expired(now) => format!("{id} (expired)"),
        Some(_) => format!("{id} (active)"),
    });
    Ok(linked.map(|id| id.and_then(|_| texts.next()).unwrap_or_default()))
}

/// `12 requests, the last one 3 min ago (...), on edge-1`.
fn late(late: &LateUse, now: Timestamp) -> Cell {
    let requests = if late.requests == 1 { "1 request".to_owned() } else { format!("{} requests", late.requests) };
    let text = format!("{requests}, the last one {}, on {}", time::full(late.last_at, now), late.sidecars.join(", "));
    Cell::toned(&text, Tone::Warn)
}

fn show(
    token: &TokenDetails,
    [predecessor, successor]: &[String; 2],
    uses: &TokenUses,
    agents: &[Agent],
    output: Output,
) -> anyhow::Result<()> {
    let TokenDetails { record, owner, history, .. } = token;
    let now = Timestamp::now();
    if output.json {
        return output.json(&TokenView::of_details(token, now).with_usage(uses).with_agents(agents));
    }
    let hint = match record.hint.as_str() {
        "" => "unknown: imported by its digest".to_owned(),
        hint => format!("{PREFIX}...{hint}"),
    };
    let mut pairs: Vec<(&str, Cell)> = vec![
        ("id", record.id.to_string().into()),
        ("token", hint.into()),
        ("description", record.description.as_str().into()),
        ("user", format!("{} ({}, {})", owner.name, owner.role, owner.status).into()),
        ("permissions", enumerate(record.permissions).into()),
        ("state", state(record, owner, now)),
        ("created", format!("{} by {}", time::full(record.created_at, now), record.created_by).into()),
        ("expires", record.expires_at.map_or_else(|| "never".to_owned(), |at| time::full(at, now)).into()),
        ("last used", usage::last_use(uses, record.id).into()),
        ("agents", usage::agent_counts(uses, record.id).into()),
    ];
    if let TokenState::Revoked { at, by } = &record.state {
        pairs.push(("revoked", format!("{} by {by}", time::full(*at, now)).into()));
    }
    for (name, linked) in [("predecessor", predecessor), ("successor", successor)] {
        if !linked.is_empty() {
            pairs.push((name, linked.as_str().into()));
        }
    }
    if let Some(requests) = &token.late {
        pairs.push(("used late", late(requests, now)));
    }
    if let Some(requests) = &token.predecessor_late {
        pairs.push(("predecessor used late", late(requests, now)));
    }
    let mut text = details(&pairs, output.colour);
    if !agents.is_empty() {
        text.push('\n');
        let rows = agents.iter().map(|agent| {
            let [name, address, version] = usage::cells(agent);
            [name.into(), address.into(), version.into(), time::full(agent.last_used, uses.now).into()]
        });
        let rows = rows.collect();
        text.push_str(&TextTable::new(["AGENT", "ADDRESS", "VERSION", "LAST USE"], output.colour).page(rows));
        let [_, month] = uses.agents(record.id);
        let others = month.agents.saturating_sub(agents.len() as u64);
        if others > 0 {
            text.push_str(&format!("and {others} more; --agents N shows more of them\n"));
        }
    }
    if !history.is_empty() {
        text.push('\n');
        let rows = history
            .iter()
            .map(|entry| [time::full(entry.at, now).into(), entry.by.as_str().into(), describe(&entry.event).into()]);
        text.push_str(&TextTable::new(["WHEN", "WHO", "WHAT"], output.colour).page(rows.collect()));
    }
    Ok(output.text(&text)?)
}

fn describe(event: &TokenEvent) -> String {
    match event {
        TokenEvent::Created => "created".to_owned(),
        TokenEvent::Imported => "imported".to_owned(),
        TokenEvent::Reassigned { from, to } => format!("reassigned from {from} to {to}"),
        TokenEvent::Rotated { to } => format!("rotated to {to}"),
        TokenEvent::Narrowed { lost } => format!("lost {}", enumerate(*lost)),
        TokenEvent::Revoked { reason: None } => "revoked".to_owned(),
        TokenEvent::Revoked { reason: Some(reason) } => format!("revoked: {reason}"),
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

    #[test]
    fn history_says_what_happened() {
        let (from, to) = ("max".to_owned(), "vera".to_owned());
        assert_eq!(describe(&TokenEvent::Reassigned { from, to }), "reassigned from max to vera");
        assert_eq!(
            describe(&TokenEvent::Narrowed { lost: PermissionSet::TELEGRAF_AGENT }),
            "lost configs:read, heartbeat:write"
        );
        assert_eq!(describe(&TokenEvent::Revoked { reason: Some("a role".to_owned()) }), "revoked: a role");
    }
}
