//! `token export`: the lines that `token import` reads.

use anyhow::Context as _;
use clap::Args;

use super::args::Format;
use super::output::{Output, note};
use super::session::Session;
use super::token::count;
use crate::registry::export::LeftOut;
use crate::store::Position;

/// Shown below `token export --help`.
pub(super) const EXAMPLES: &str = "\
One JSON object a line, the newest token first, as `tollgate token import` reads them; tokens by their
digests, since nothing else is stored. Users are not in it: they have to exist where it is imported.

Without --full: the tokens that work now. With it: every token, with its id, state and history, and an
import makes the same of it.

Each line is its token as it was when it was read. Standard error says whether anything was changed
meanwhile: a token that was made since is not in it, and one that was revoked since may be in it as
active, and would work where it is imported. Export again then, with --full, and revoke there what the
import with --skip-existing names.

Examples:
  tollgate token export --full > tokens.jsonl
  set -o pipefail; tollgate token export | tollgate --store redis://10.0.0.1 token import";

/// Arguments of `token export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Export every token, also those that do not work, with its id, state and history
    #[arg(long)]
    full: bool,
}

/// Writes the lines to standard output as they are read.
///
/// # Errors
/// When the store or standard output fails.
pub(super) async fn run(session: &Session, args: ExportArgs) -> anyhow::Result<()> {
    let Session { registry, actor } = session;
    let output = Output::new(Format { json: true });
    let began = registry.store().position().await?;
    let mut export = registry.export(actor, args.full).await?;
    let mut written = 0;
    while let Some(lines) = export.next_page().await? {
        let mut text = String::new();
        for line in &lines {
            text.push_str(&serde_json::to_string(line).context("writing JSON")?);
            text.push('\n');
        }
        output.text(&text)?;
        written += lines.len();
    }
    let ended = registry.store().position().await?;
    note(format_args!("exported {}; {}", count(written), moved(began, ended)));
    tell_left_out(export.left_out);
    Ok(())
}

/// Whether the lines are those of one moment.
fn moved(began: Position, ended: Position) -> String {
    if (began.epoch, began.revision, began.head) == (ended.epoch, ended.revision, ended.head) {
        return format!("nothing was changed meanwhile (revision {})", began.revision);
    }
    format!(
        "the registry was changed meanwhile (revision {} to {}): tokens made since are not in it, and one that was revoked or \
         deleted since may be in it as it was before; export again if that matters",
        began.revision, ended.revision
    )
}

fn tell_left_out(left_out: LeftOut) {
    let LeftOut { tokens, permissions } = left_out;
    if tokens > 0 {
        note(format_args!(
            "left out: {tokens} that do not work (revoked, expired, of a disabled user, or without permissions); --full \
             exports them too"
        ));
    }
    if permissions > 0 {
        note(format_args!(
            "left out: permissions of {permissions} tokens that only a newer version knows; export with that"
        ));
    }
}
