//! `token import`: JSON lines in, all of them or none.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use zeroize::Zeroizing;

use super::args::Format;
use super::output::{Output, note};
use super::session::Session;
use super::table::printable;
use super::token::count;
use super::wait::WaitArgs;
use crate::registry::import::parse_line;
use crate::registry::{ImportError, ImportLine, LineError, RefusedLine};

/// Shown below `token import --help`.
pub(super) const EXAMPLES: &str = "\
One JSON object a line, empty lines are skipped:
  {\"token\": \"tc-apiv1_...\", \"user\": \"anna\", \"description\": \"plant 7\",
   \"permissions\": [\"configs:read\", \"heartbeat:write\"], \"expires_at\": \"2027-01-31T00:00:00Z\"}

\"digest\", the SHA-256 of the whole token as 64 hexadecimal digits, can replace \"token\".
If any line is bad, the exit code is 1, and nothing is imported unless --keep-going is given.

Examples:
  tollgate token import tokens.jsonl
  export-tokens | tollgate token import --keep-going --json";

/// Longest line, in bytes. A record is well under 2 KiB.
const MAX_LINE: usize = 64 * 1024;

/// Bad lines shown to a person one by one.
const MAX_SHOWN: usize = 1_000;

/// Arguments of `token import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The file to import; default, and `-`: standard input
    file: Option<PathBuf>,
    /// Skip bad lines and import the others
    #[arg(long)]
    keep_going: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    format: Format,
}

/// The lines of an import, before the registry has seen them.
#[derive(Default)]
struct Lines {
    /// Those that can be read, by number from 1.
    good: Vec<(usize, ImportLine)>,
    /// Those that cannot.
    bad: Vec<RefusedLine>,
}

#[derive(Serialize)]
struct ImportView<'a> {
    imported: usize,
    refused: &'a [RefusedLine],
}

/// Not every line was imported.
#[derive(Debug, thiserror::Error)]
struct BadLines {
    imported: usize,
    bad: usize,
    lines: usize,
    keep_going: bool,
}

impl fmt::Display for BadLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.imported {
            0 => f.write_str("nothing imported: ")?,
            imported => write!(f, "imported {}, but ", count(imported))?,
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
    let ImportArgs { file, keep_going, wait, format } = args;
    let Lines { good, bad } = read(file.as_deref().filter(|file| *file != Path::new("-")))?;
    let lines = good.len() + bad.len();
    let (imported, mut refused) = if bad.is_empty() || keep_going {
        match session.registry.import(&session.actor, good, keep_going).await {
            Ok(outcome) => (outcome.count, outcome.refused),
            Err(ImportError::Refused { refused, .. }) => (0, refused),
            Err(error) => return Err(error.into()),
        }
    } else {
        (0, Vec::new())
    };
    refused.extend(bad);
    refused.sort_by_key(|refused| refused.line);
    // What was not imported needs no receipt.
    let wait = if imported > 0 { wait } else { WaitArgs::default() };
    report(session, imported, &refused, lines, wait, Output::new(format)).await?;
    match refused.len() {
        0 => Ok(()),
        bad => Err(BadLines { imported, bad, lines, keep_going }.into()),
    }
}

async fn report(
    session: &Session,
    imported: usize,
    refused: &[RefusedLine],
    lines: usize,
    wait: WaitArgs,
    output: Output,
) -> anyhow::Result<()> {
    for refused in refused.iter().take(MAX_SHOWN) {
        note(format_args!("line {}: {}", refused.line, printable(&refused.reason.to_string())));
    }
    if refused.len() > MAX_SHOWN {
        note(format_args!("and {} more bad lines", refused.len() - MAX_SHOWN));
    }
    let print = || {
        if refused.is_empty() {
            let nothing = if lines == 0 { " (the input is empty)" } else { "" };
            output.done(&format!("imported {}{nothing}\n", count(imported)))?;
        }
        Ok(())
    };
    wait.print_and_wait(session, output, &ImportView { imported, refused }, print).await
}

fn read(file: Option<&Path>) -> anyhow::Result<Lines> {
    match file {
        Some(path) => {
            let reading = || format!("reading {}", path.display());
            let file = File::open(path).with_context(reading)?;
            read_lines(&mut BufReader::with_capacity(MAX_LINE, file)).with_context(reading)
        }
        None => {
            let stdin = io::stdin().lock();
            if stdin.is_terminal() {
                note("reading JSON lines from the terminal; Ctrl-D ends the input, Ctrl-C cancels");
            }
            read_lines(&mut BufReader::with_capacity(MAX_LINE, stdin)).context("reading standard input")
        }
    }
}

fn read_lines(input: &mut impl BufRead) -> io::Result<Lines> {
    let mut lines = Lines::default();
    // Long enough from the start: growing would leave copies of raw tokens behind.
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_LINE + 2));
    for number in 1.. {
        line.clear();
        // One byte more than allowed, and the line feed.
        let read = input.take(MAX_LINE as u64 + 2).read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        if text.len() > MAX_LINE {
            if text.len() == line.len() {
                skip_line(input)?;
            }
            lines.bad.push(RefusedLine { line: number, reason: LineError::TooLong(MAX_LINE) });
            continue;
        }
        // Some editors on Windows begin a file with a byte order mark.
        let text = if number == 1 { text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text) } else { text };
        match std::str::from_utf8(text).map(str::trim) {
            Ok("") => {}
            Ok(text) => match parse_line(text) {
                Ok(good) => lines.good.push((number, good)),
                Err(reason) => lines.bad.push(RefusedLine { line: number, reason }),
            },
            Err(_) => lines.bad.push(RefusedLine { line: number, reason: LineError::NotUtf8 }),
        }
    }
    Ok(lines)
}

/// Reads to the end of the line, discarding it.
fn skip_line(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffered = input.fill_buf()?;
        let (length, end) = match buffered.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffered.len(), buffered.is_empty()),
        };
        input.consume(length);
        if end {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(input: &[u8]) -> (Vec<usize>, Vec<(usize, LineError)>) {
        let lines = read_lines(&mut BufReader::with_capacity(7, input)).expect("reads");
        let bad = lines.bad.into_iter().map(|refused| (refused.line, refused.reason)).collect();
        (lines.good.into_iter().map(|(number, _)| number).collect(), bad)
    }

    fn good_line() -> String {
        format!(r#"{{"digest":"{}","user":"anna","description":"x","permissions":["configs:read"]}}"#, "0".repeat(64))
    }

    #[test]
    fn lines_are_numbered_as_in_the_file() {
        let line = good_line();
        let input = format!("\u{feff}{line}\n\n  \r\n{line}\r\nnonsense\n{line}");
        let (good, bad) = numbers(input.as_bytes());
        assert_eq!(good, [1, 4, 6]);
        assert_eq!(bad.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [5]);
        assert!(matches!(numbers(b""), (good, bad) if good.is_empty() && bad.is_empty()));
    }

    #[test]
    fn a_line_too_long_or_not_utf8_is_bad_and_the_next_is_read() {
        let line = good_line();
        for long in [MAX_LINE + 1, MAX_LINE + 2, 3 * MAX_LINE] {
            let mut input = vec![b'x'; long];
            input.extend_from_slice(format!("\n{line}\n\u{e9}").as_bytes());
            input.pop(); // cuts the last character in half
            let (good, bad) = numbers(&input);
            assert_eq!(good, [2], "{long}");
            assert!(matches!(bad[..], [(1, LineError::TooLong(MAX_LINE)), (3, LineError::NotUtf8)]), "{bad:?}");
        }
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_read() {
        let line = good_line() + &" ".repeat(MAX_LINE - good_line().len());
        assert_eq!(numbers(format!("{line}\n{line}").as_bytes()).0, [1, 2]);
    }
}
