//! `token import`: JSON lines or CSV in, all of them or none.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, IsTerminal as _};
use std::mem::{Discriminant, discriminant};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use super::args::{Format, PermissionArgs, ReasonArg};
use super::output::{Output, note};
use super::session::Session;
use super::table::printable;
use super::token::count;
use super::wait::WaitArgs;
use crate::registry::import::{Lines, read_lines};
use crate::registry::view::ImportView;
use crate::registry::{ImportError, ImportOptions, Imported, LineError, RefusedLine, RegistryError};
use crate::token::PermissionSet;

/// Shown below `token import --help`.
pub(super) const EXAMPLES: &str = "\
One JSON object a line, empty lines are skipped:
  {\"token\": \"tc-apiv1_...\", \"user\": \"anna\", \"description\": \"plant 7\",
   \"permissions\": [\"configs:read\", \"heartbeat:write\"], \"expires_at\": \"2027-01-31T00:00:00Z\"}

Or CSV, if the first line is a header with these names, in any order (\",\", \";\" or tabs between the fields):
  token,user,description,permissions,expires_at
  tc-apiv1_...,anna,plant 7,configs:read heartbeat:write,2027-01-31T00:00:00Z

\"digest\", the SHA-256 of the whole token as 64 hexadecimal digits, can replace \"token\".
A line without \"permissions\" is bad unless --preset or --permission gives those of all such lines.
If any line is bad, the exit code is 1, and nothing is imported unless --keep-going is given.

With --skip-existing, a token that exists is left as it is, and counted; also how many have another
user, description, expiry or other permissions than their line. A revoked one, or one deleted in the
last 7 days, is bad all the same: it will not work. Which digests had been deleted before is forgotten.

Lines of \"token export --full\" bring tokens as they were, with id and history: also revoked and expired
ones, and those of disabled users and Viewers. The owner has to exist; what the owner's role does not
permit here is taken from them; an id that another token has here, and a token that was deleted here,
are bad lines.

Examples:
  tollgate token import tokens.jsonl
  tollgate token import tokens.csv --preset telegraf-agent --skip-existing
  export-tokens | tollgate token import --keep-going --json";

/// What is read of a file at once.
const BUFFER: usize = 1024 * 1024;

/// Bad lines of a kind shown to a person one by one.
const MAX_SHOWN: usize = 10;

/// Arguments of `token import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The file to import; default, and `-`: standard input
    file: Option<PathBuf>,
    /// Skip bad lines and import the others
    #[arg(long)]
    keep_going: bool,
    /// Leave tokens that exist already as they are, so that the same import can be repeated
    #[arg(long)]
    skip_existing: bool,
    #[command(flatten)]
    permissions: PermissionArgs,
    #[command(flatten)]
    pub(super) reason: ReasonArg,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    format: Format,
}

/// Not every line was imported.
#[derive(Debug, thiserror::Error)]
struct BadLines {
    imported: usize,
    skipped: usize,
    bad: usize,
    lines: usize,
    keep_going: bool,
}

impl fmt::Display for BadLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.imported, self.skipped) {
            (0, 0) => f.write_str("nothing imported: ")?,
            (imported, 0) => write!(f, "imported {}, but ", count(imported))?,
            (imported, skipped) => write!(f, "imported {}, skipped {skipped} that existed, but ", count(imported))?,
        }
        write!(f, "{} of {} lines {} bad", self.bad, self.lines, if self.bad == 1 { "is" } else { "are" })?;
        if self.keep_going { Ok(()) } else { f.write_str("; pass --keep-going to import the others") }
    }
}

/// Imports the lines of a file or of standard input.
///
/// # Errors
/// When a line is bad, even if others were imported; when the input or the store fails.
pub(super) async fn run(session: &Session, args: ImportArgs) -> anyhow::Result<()> {
    let ImportArgs { file, keep_going, skip_existing, permissions, wait, format, reason: _ } = args;
    let Lines { good, bad } = read(file.as_deref().filter(|file| *file != Path::new("-")), permissions.requested())?;
    let lines = good.len() + bad.len();
    let (mut imported, interrupted) = if bad.is_empty() || keep_going {
        match session.registry.import(&session.actor, good, ImportOptions { keep_going, skip_existing }).await {
            Ok(imported) => (imported, None),
            Err(ImportError::Refused { refused, .. }) => (Imported { refused, ..Imported::default() }, None),
            Err(ImportError::Interrupted { imported, error }) => (*imported, Some(error)),
            Err(error) => return Err(error.into()),
        }
    } else {
        Default::default()
    };
    imported.refused.extend(bad);
    imported.refused.sort_by_key(|refused| refused.line);
    let output = Output::new(format);
    if let Some(error) = interrupted {
        // The ids of what is in are to be had only now; how many that are is said by the error.
        groups(&imported.refused).iter().for_each(note);
        if output.json {
            output.json(&ImportView::from(&imported))?;
        }
        return Err(error.into());
    }
    // What is not there needs no receipt. What was there already does: that it works everywhere is not known yet.
    let wait = if imported.tokens.is_empty() && imported.skipped == 0 { WaitArgs::default() } else { wait };
    report(session, &imported, lines, wait, output).await?;
    match imported.refused.len() {
        0 => Ok(()),
        bad => {
            let Imported { tokens, skipped, .. } = imported;
            Err(BadLines { imported: tokens.len(), skipped, bad, lines, keep_going }.into())
        }
    }
}

async fn report(
    session: &Session,
    imported: &Imported,
    lines: usize,
    wait: WaitArgs,
    output: Output,
) -> anyhow::Result<()> {
    let Imported { tokens, skipped, differing, refused } = imported;
    groups(refused).iter().for_each(note);
    let print = || {
        if refused.is_empty() {
            let nothing = if lines == 0 { " (the input is empty)" } else { "" };
            output.done(&format!("imported {}{nothing}{}\n", count(tokens.len()), Skipped(*skipped, *differing)))?;
        }
        Ok(())
    };
    wait.print_and_wait(session, output, &ImportView::from(imported), print).await
}

/// Reads a file, or standard input; `otherwise` are the permissions of lines that give none.
fn read(file: Option<&Path>, otherwise: Option<PermissionSet>) -> anyhow::Result<Lines> {
    match file {
        Some(path) => {
            let reading = || format!("reading {}", path.display());
            let file = File::open(path).with_context(reading)?;
            read_lines(&mut BufReader::with_capacity(BUFFER, file), otherwise, usize::MAX).with_context(reading)
        }
        None => {
            let stdin = io::stdin().lock();
            if stdin.is_terminal() {
                note("reading JSON lines or CSV from the terminal; Ctrl-D ends the input, Ctrl-C cancels");
            }
            let mut input = BufReader::with_capacity(BUFFER, stdin);
            read_lines(&mut input, otherwise, usize::MAX).context("reading standard input")
        }
    }
}

/// Lines that were skipped, and how many of their tokens are not as the line says.
struct Skipped(usize, usize);

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(skipped, differing) = *self;
        if skipped > 0 {
            write!(f, ", skipped {skipped} that existed")?;
        }
        if differing > 0 {
            write!(f, " ({differing} of them with another user, description, expiry or other permissions)")?;
        }
        Ok(())
    }
}

/// Bad lines for a person: the first ones of each kind, and how many more there are.
fn groups(refused: &[RefusedLine]) -> Vec<String> {
    let mut kinds: Vec<Vec<&RefusedLine>> = Vec::new();
    let mut places: HashMap<Kind, usize> = HashMap::new();
    for line in refused {
        let place = *places.entry(kind(&line.reason)).or_insert(kinds.len());
        match kinds.get_mut(place) {
            Some(lines) => lines.push(line),
            None => kinds.push(vec![line]),
        }
    }
    let mut texts = Vec::new();
    for lines in kinds {
        let (shown, more) = lines.split_at(lines.len().min(MAX_SHOWN));
        let text =
            |refused: &&RefusedLine| format!("line {}: {}", refused.line, printable(&refused.reason.to_string()));
        texts.extend(shown.iter().map(text));
        match more {
            [] => {}
            [one] => texts.push(format!("and 1 more of this kind: line {}", one.line)),
            [first, .., last] => {
                texts.push(format!("and {} more of this kind: lines {} to {}", more.len(), first.line, last.line));
            }
        }
    }
    texts
}

/// What kind of reason it is, whatever it says.
type Kind = (Discriminant<LineError>, Option<Discriminant<RegistryError>>);

fn kind(reason: &LineError) -> Kind {
    let by_rule = if let LineError::Refused(error) = reason { Some(discriminant(error)) } else { None };
    (discriminant(reason), by_rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_of_a_kind_are_shown_and_the_others_counted() {
        let user = |line: usize| RefusedLine { line, reason: RegistryError::NoSuchUser(format!("u{line}")).into() };
        let other = |line, reason| RefusedLine { line, reason };
        let mut refused = vec![other(1, LineError::NoToken), other(2, RegistryError::InvalidDescription.into())];
        refused.extend((3..=1_000).map(user));
        refused.push(other(1_001, LineError::NoToken));
        let texts = groups(&refused);
        assert_eq!(texts.len(), 2 + 1 + 10 + 1);
        let starts = ["line 1: give", "line 1001: give", "line 2: a description", "line 3: there is no user `u3`"];
        assert!(starts.iter().zip(&texts).all(|(start, text)| text.starts_with(start)), "{texts:?}");
        assert_eq!(texts.last().map(String::as_str), Some("and 988 more of this kind: lines 13 to 1000"));
        assert_eq!(groups(&refused[2..13]).last().map(String::as_str), Some("and 1 more of this kind: line 13"));
    }
}
