//! `audit ...`: the audit trail, and whether it is whole.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::args::{Format, Moment, Page};
use super::list::{self, Listed};
use super::output::Output;
use super::serve::audit_settings;
use super::session::Session;
use super::table::{Cell, Tone};
use super::{Globals, time};
use crate::audit::{Finding, Head, Outcome, TrailText, Verdict, Verifier};
use crate::registry::{AuditFilter, AuditView};
use crate::store::Absent;

/// Shown below `audit verify --help`.
const VERIFY_EXAMPLES: &str = "\
Each entry has the hash of the one before, so that a missing or changed one shows. That the last ones
were cut off shows only by what knows them: the file of audit.file, or --file, or a line that syslog got
(--head).

Examples:
  tollgate audit verify
  tollgate audit verify --file /var/log/tollgate/audit.jsonl
  tollgate audit verify --head 1207:6f1c...";

/// The commands on the audit trail.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// List entries, the newest first; first those that are not chained yet
    List(ListArgs),
    /// Verify that no entry is missing and none was changed; exit code 1 if one is
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(VerifyArgs),
}

/// Arguments of `audit list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only what this user, token or operator did: an id, a name, or cli:LOGIN
    #[arg(long, value_name = "WHO")]
    actor: Option<String>,
    /// Only this action, or all that begin so, such as token.revoke or user
    #[arg(long)]
    action: Option<String>,
    /// Only what was done to this token or user: an id, or a user's name
    #[arg(long, value_name = "WHAT")]
    subject: Option<String>,
    /// Only with this outcome: success, failure or denied
    #[arg(long, value_parser = parse_outcome)]
    outcome: Option<Outcome>,
    /// Only from then on: how long ago, such as 30d, or a time
    #[arg(long, value_name = "WHEN")]
    since: Option<Moment>,
    /// Only before then
    #[arg(long, value_name = "WHEN")]
    until: Option<Moment>,
    #[command(flatten)]
    page: Page<u64>,
    #[command(flatten)]
    format: Format,
}

fn parse_outcome(text: &str) -> Result<Outcome, &'static str> {
    let outcome = Outcome::ALL.into_iter().find(|outcome| outcome.name().eq_ignore_ascii_case(text));
    outcome.ok_or("the outcomes are success, failure and denied")
}

/// Arguments of `audit verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// A file with lines of the trail, which the store must have too [default: audit.file]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A line's number and hash, which the store must have too: what syslog got last
    #[arg(long, value_name = "SEQ:HASH")]
    head: Vec<Head>,
    #[command(flatten)]
    format: Format,
}

/// Runs a command on the audit trail.
///
/// # Errors
/// When it cannot be read, and when it is not whole.
pub(super) async fn run(globals: &Globals, command: AuditCommand) -> anyhow::Result<()> {
    let session = Session::open(globals, Absent::Refuse).await?;
    match command {
        AuditCommand::List(args) => list(&session, args).await,
        AuditCommand::Verify(args) => {
            let file = match args.file {
                Some(file) => Some(file),
                // The one that is configured may not have been written yet.
                None => audit_settings(globals)?.file.filter(|file| file.exists()),
            };
            verify(&session, file.as_deref(), &args.head, Output::new(args.format)).await
        }
    }
}

async fn list(session: &Session, args: ListArgs) -> anyhow::Result<()> {
    let ListArgs { actor, action, subject, outcome, since, until, page, format } = args;
    let now = Timestamp::now();
    let (since, until) = (since.map(|since| since.resolve(now)), until.map(|until| until.resolve(now)));
    let filter = AuditFilter { actor, action, subject, outcome, since, until };
    let when_empty = match filter == AuditFilter::default() && page.after.is_none() {
        true => "no audit entries",
        false => "no matching audit entries",
    };
    let read = async |before, limit| session.registry.audit(&session.actor, &filter, before, limit).await;
    list::list(Output::new(format), page, when_empty, read).await
}

impl Listed<7> for AuditView {
    const HEADINGS: [&'static str; 7] = ["SEQ", "WHEN", "WHO", "FROM", "ACTION", "OUTCOME", "WHAT"];
    type Id = u64;
    type View = Self;

    /// What is not chained yet comes after everything else.
    fn id(&self) -> u64 {
        self.seq.unwrap_or(u64::MAX)
    }

    fn view(&self, _: Timestamp) -> Self {
        self.clone()
    }

    fn row(&self, now: Timestamp) -> [Cell; 7] {
        let seq = self.seq.map_or_else(|| Cell::toned("not chained yet", Tone::Warn), |seq| seq.to_string().into());
        let who = self.text("actorName").or_else(|| self.text("actorId")).unwrap_or("?");
        let outcome = self.text("outcome").unwrap_or("?");
        let tone = if outcome == Outcome::Success.name() { Tone::Plain } else { Tone::Warn };
        [
            seq,
            self.at().map_or_else(|| "?".to_owned(), |at| time::full(at, now)).into(),
            who.into(),
            self.text("ipAddress").unwrap_or("").into(),
            self.text("action").unwrap_or("damaged").into(),
            Cell::toned(&outcome.to_lowercase(), tone),
            what(self).into(),
        ]
    }
}

/// `max viewer`, `0czhq1t8w6mne and 499 more, to vera`, `may not manage users`.
fn what(entry: &AuditView) -> String {
    let mut tokens = entry.tokens();
    let first = tokens.next().map(|first| match tokens.count() {
        0 => first.to_owned(),
        more => format!("{first} and {more} more"),
    });
    let user = entry.text("userName").or_else(|| entry.text("userId"));
    let user = match (&first, user) {
        (Some(_), Some(user)) => Some(format!("of {user}")),
        (None, user) => user.map(str::to_owned),
        (Some(_), None) => None,
    };
    let successor = entry.text("successor").map(|successor| format!("to {successor}"));
    let role = entry.text("role").map(str::to_owned);
    let reason = entry.text("reason").map(|reason| format!("({reason})"));
    let number = |name: &str| entry.members.get(name).and_then(Value::as_u64);
    let more = number("more").map(|more| format!("and {more} more like this before"));
    let through = number("through").map(|through| format!("up to entry {through}, by retention"));
    let damaged = entry.text("damaged").map(|text| text.chars().take(80).collect());
    let parts = [first, user, successor, role, reason, more, through, damaged];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// What was found, as programs see it.
#[derive(Serialize)]
struct VerdictView<'a> {
    whole: bool,
    entries: u64,
    first: Option<u64>,
    head: Option<HeadView<'a>>,
    not_chained: u64,
    findings: &'a [Finding],
    /// What is said of other places: of a file, of a head.
    elsewhere: &'a [String],
}

#[derive(Serialize)]
struct HeadView<'a> {
    seq: u64,
    hash: &'a str,
}

/// The trail is not what was written.
#[derive(Debug, thiserror::Error)]
#[error("the audit trail is not whole: {0}")]
struct NotWhole(String);

async fn verify(session: &Session, file: Option<&Path>, heads: &[Head], output: Output) -> anyhow::Result<()> {
    let (verdict, not_chained) = session.registry.verify_audit(&session.actor).await?;
    let mut elsewhere = Vec::new();
    let mut heads = heads.to_vec();
    if let Some(file) = file {
        let found = verify_file(file).with_context(|| format!("reading {}", file.display()))?;
        elsewhere.extend(found.findings.iter().map(|finding| format!("{}: {finding}", file.display())));
        heads.extend(found.head);
    }
    for head in &heads {
        elsewhere.extend(session.registry.misses_head(head, &verdict).await?);
    }
    let whole = verdict.findings.is_empty() && elsewhere.is_empty();
    if output.json {
        let head = verdict.head.as_ref().map(|Head { seq, hash }| HeadView { seq: *seq, hash });
        let Verdict { entries, first, findings, .. } = &verdict;
        let (entries, first) = (*entries, *first);
        output.json(&VerdictView { whole, entries, first, head, not_chained, findings, elsewhere: &elsewhere })?;
    } else {
        output.text(&said(&verdict, not_chained, &elsewhere))?;
    }
    if whole {
        return Ok(());
    }
    let count = verdict.findings.len() as u64 + verdict.more + elsewhere.len() as u64;
    Err(NotWhole(if count == 1 { "1 finding".to_owned() } else { format!("{count} findings") }).into())
}

fn said(verdict: &Verdict, not_chained: u64, elsewhere: &[String]) -> String {
    let mut text = String::new();
    for finding in &verdict.findings {
        text.push_str(&format!("{finding}\n"));
    }
    if verdict.more > 0 {
        text.push_str(&format!("and {} more findings\n", verdict.more));
    }
    elsewhere.iter().for_each(|finding| text.push_str(&format!("{finding}\n")));
    text.push_str(&match (&verdict.head, verdict.first) {
        (Some(Head { seq, hash }), Some(first)) => {
            format!("{} entries, {first} to {seq}; the head is {seq}:{hash}\n", verdict.entries)
        }
        _ => "no entries\n".to_owned(),
    });
    if not_chained > 0 {
        text.push_str(&format!(
            "{not_chained} more are not chained yet: the next command that changes something does that\n"
        ));
    }
    text
}

/// Longest line that a file may have.
const LONGEST: u64 = 1 << 20;

/// What is in a file, line by line. It may begin anywhere in the trail.
fn verify_file(file: &Path) -> anyhow::Result<Verdict> {
    let mut reader = BufReader::new(File::open(file)?);
    let (mut verifier, mut number, mut line) = (Verifier::of_part(), 0_u64, Vec::new());
    loop {
        line.clear();
        number += 1;
        reader.by_ref().take(LONGEST).read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\n") {
            None if line.is_empty() => return Ok(verifier.verdict()),
            // A line that is being written has no end yet.
            None => return Ok(verifier.verdict()),
            Some(text) => {
                let line =
                    TrailText(text).line().with_context(|| format!("line {number} is none of an audit trail"))?;
                verifier.add(&line);
            }
        }
    }
}
