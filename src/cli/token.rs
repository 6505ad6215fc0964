//! `token ...`, except `token import`, `token export` and `token purge`.

mod bulk;
mod create;
mod find;
mod rotate;
mod selection;
mod show;
mod value;

use std::sync::Arc;

use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::args::{Format, Page, ReasonArg};
use super::export::{self, ExportArgs};
use super::import::{self, ImportArgs};
use super::list::{self, Listed};
use super::output::Output;
use super::purge::{self, PurgeArgs};
use super::session::Session;
use super::table::{Cell, Tone};
use super::usage::{self, UnusedArgs};
use super::{Globals, time};
use crate::registry::view::TokenView;
use crate::registry::{ListState, TokenQuery, TokenUses};
use crate::store::Absent;
use crate::token::{DigestPrefix, PermissionSet, Reason, TokenId, TokenRecord, TokenState, UserRecord, UserStatus};
pub(super) use create::print_created;

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
    Revoke(bulk::RevokeArgs),
    /// Delete tokens and their records, at once and permanently
    Delete(bulk::RemoveArgs),
    /// Reassign tokens to another user; they lose permissions that the user's role lacks
    Reassign(bulk::ReassignArgs),
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

/// Runs a command on tokens.
///
/// # Errors
/// Why nothing, or not all, was done.
pub(super) async fn run(globals: &Globals, command: TokenCommand) -> anyhow::Result<()> {
    let session = Session::open(globals, Absent::Refuse).await?.because_of(command.reason());
    let only_reads = match &command {
        TokenCommand::List(_) | TokenCommand::Show { .. } | TokenCommand::Find(_) | TokenCommand::Export(_) => true,
        TokenCommand::Revoke(args) => args.is_dry_run(),
        TokenCommand::Delete(args) => args.is_dry_run(),
        TokenCommand::Reassign(args) => args.is_dry_run(),
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
            Self::Revoke(args) => args.reason(),
            Self::Reassign(args) => args.reason(),
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
    match command {
        TokenCommand::Create(args) => create::run(session, args).await,
        TokenCommand::List(args) => list(session, args).await,
        TokenCommand::Show { id, agents, format } => show::one(session, id, agents, Output::new(format)).await,
        TokenCommand::Find(args) => find::run(session, args).await,
        TokenCommand::Revoke(args) => bulk::revoke(session, args).await,
        TokenCommand::Delete(args) => bulk::delete(session, args).await,
        TokenCommand::Reassign(args) => bulk::reassign(session, args).await,
        TokenCommand::Rotate(args) => rotate::run(session, args).await,
        TokenCommand::Purge(args) => purge::run(session, args).await,
        TokenCommand::Import(args) => import::run(session, args).await,
        TokenCommand::Export(args) => export::run(session, args).await,
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
