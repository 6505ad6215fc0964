//! `token purge`: deletes what has been of no use for long.

use clap::{ArgGroup, Args};
use jiff::Timestamp;
use serde::Serialize;

use super::args::{Age, Format};
use super::confirm::confirm;
use super::output::Output;
use super::session::Session;
use super::token::count;
use super::wait::WaitArgs;
use crate::registry::{PurgeFilter, Purged};

/// Shown below `token purge --help`.
pub(super) const EXAMPLES: &str = "\
What is deleted is gone with its history, as with `tollgate token delete`: nothing is left of it but its
digest, for a while. A token that was revoked counts as such, whether it expired or not. Interrupted, it
goes on when it is run again.

Examples:
  tollgate token purge --expired-for 90d --dry-run
  tollgate token purge --expired-for 90d --revoked-for 1y --yes";

/// Arguments of `token purge`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("age").args(["expired_for", "revoked_for"]).multiple(true).required(true))]
pub(crate) struct PurgeArgs {
    /// Delete tokens that expired this long ago or longer, such as 90d, 6mo or 1y
    #[arg(long, value_name = "DURATION")]
    expired_for: Option<Age>,
    /// Delete tokens that were revoked this long ago or longer
    #[arg(long, value_name = "DURATION")]
    revoked_for: Option<Age>,
    /// Print how many there are, and change nothing
    #[arg(long, conflicts_with_all = ["yes", "wait"])]
    pub(super) dry_run: bool,
    /// Skip the confirmation
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct PurgeView {
    expired: usize,
    revoked: usize,
    dry_run: bool,
}

/// Deletes them, or counts them.
///
/// # Errors
/// Why nothing, or not all, was deleted.
pub(super) async fn run(session: &Session, args: PurgeArgs) -> anyhow::Result<()> {
    let PurgeArgs { expired_for, revoked_for, dry_run, yes, wait, format } = args;
    let Session { registry, actor } = session;
    let (now, output) = (Timestamp::now(), Output::new(format));
    let by = |age: Option<Age>| age.map(|age| age.before(now));
    let filter = PurgeFilter { expired_by: by(expired_for), revoked_by: by(revoked_for) };
    let view = |Purged { expired, revoked }| PurgeView { expired, revoked, dry_run };
    if dry_run {
        let found = registry.count_purgeable(actor, &filter).await?;
        return match output.json {
            true => output.json(&view(found)),
            false => Ok(output.text(&format!("{} to delete{}\n", count(found.tokens()), kinds(found)))?),
        };
    }
    if !yes {
        let found = registry.count_purgeable(actor, &filter).await?;
        if found.tokens() > 0 {
            let tokens = count(found.tokens());
            confirm(&format!(
                "Delete {tokens}{}? Their records are removed, and this cannot be undone.",
                kinds(found)
            ))?;
        }
    }
    let purged = registry.purge(actor, &filter).await?;
    // What was not deleted needs no receipt.
    let wait = if purged.tokens() == 0 { WaitArgs::default() } else { wait };
    let print = || Ok(output.done(&format!("deleted {}{}\n", count(purged.tokens()), kinds(purged)))?);
    wait.print_and_wait(session, output, &view(purged), print).await
}

/// ` (2 expired, 1 revoked)`, if there are any.
fn kinds(Purged { expired, revoked }: Purged) -> String {
    match (expired, revoked) {
        (0, 0) => String::new(),
        (expired, 0) => format!(" ({expired} expired)"),
        (0, revoked) => format!(" ({revoked} revoked)"),
        (expired, revoked) => format!(" ({expired} expired, {revoked} revoked)"),
    }
}
