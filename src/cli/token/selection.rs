//! Which tokens a command is about: named by their ids, or chosen by what they are.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use super::super::output::note;
use super::super::session::Session;
use super::super::usage::UnusedArgs;
use crate::registry::{ListState, Seen, TokenQuery};
use crate::token::TokenId;

/// Ids, or what the tokens are.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Selection {
    /// The tokens' ids; one that is named twice counts once
    #[arg(value_name = "ID", required_unless_present_any = ["ids_from", "user", "state", "unused_for", "never_used"],
          conflicts_with_all = ["user", "state", "unused_for", "never_used"])]
    ids: Vec<TokenId>,
    /// Ids from this file, - for standard input: the first word of each line; empty lines, and what begins with #, are left out
    #[arg(long, value_name = "FILE", conflicts_with_all = ["user", "state", "unused_for", "never_used"])]
    ids_from: Option<PathBuf>,
    /// Leave out ids of tokens that do not exist, or no longer
    #[arg(long, conflicts_with_all = ["user", "state", "unused_for", "never_used"])]
    if_exists: bool,
    /// All tokens of this user
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// All tokens in this state: active, revoked or expired
    #[arg(long)]
    state: Option<ListState>,
    #[command(flatten)]
    unused: UnusedArgs,
    /// Show which tokens these are, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// The ids of some tokens.
pub(super) struct Selected {
    pub ids: Vec<TokenId>,
    /// Nobody named each of them: a filter found them, or a file has them, or they were only asked for if they exist.
    pub is_found: bool,
    /// Those that are gone are left out.
    if_exists: bool,
}

impl Selected {
    /// As the registry takes them. Somebody else may delete some before it comes to that.
    pub(super) fn seen(&self) -> Seen<&[TokenId]> {
        Seen::at(self.ids.as_slice(), None).if_exists(self.if_exists)
    }
}

impl Selection {
    /// The ids, each once. Of tokens that a filter finds, revoked ones are left out where these are of no use to the command.
    ///
    /// # Errors
    /// When the file cannot be read, or has something else in it; when there is no such user.
    pub(super) async fn resolve(&self, session: &Session, with_revoked: bool) -> anyhow::Result<Selected> {
        let named = !self.ids.is_empty() || self.ids_from.is_some();
        let mut ids = if named { self.named()? } else { self.found(session, with_revoked).await? };
        let mut seen = HashSet::new();
        ids.retain(|id| seen.insert(*id));
        if self.if_exists {
            let found = session.registry.store().tokens_by_id(&ids).await?;
            ids = ids.into_iter().zip(found).filter_map(|(id, token)| token.map(|_| id)).collect();
        }
        let if_exists = self.if_exists;
        Ok(Selected { ids, is_found: !named || self.ids_from.is_some() || if_exists, if_exists })
    }

    fn named(&self) -> anyhow::Result<Vec<TokenId>> {
        let mut ids = self.ids.clone();
        if let Some(file) = &self.ids_from {
            ids.extend(read(file)?);
        }
        Ok(ids)
    }

    async fn found(&self, session: &Session, with_revoked: bool) -> anyhow::Result<Vec<TokenId>> {
        let unused = self.unused.resolve(session).await?;
        let states = match (self.state, with_revoked) {
            (Some(state), _) => vec![Some(state)],
            (None, true) => vec![None],
            (None, false) => vec![Some(ListState::Active), Some(ListState::Expired)],
        };
        let mut ids = Vec::new();
        for state in states {
            let query = TokenQuery { user: self.user.clone(), state, unused, ..TokenQuery::default() };
            ids.extend(session.registry.select(&session.actor, &query).await?);
        }
        Ok(ids)
    }
}

fn read(file: &Path) -> anyhow::Result<Vec<TokenId>> {
    if file == Path::new("-") {
        let stdin = io::stdin().lock();
        if stdin.is_terminal() {
            note("reading ids from the terminal; Ctrl-D ends the input, Ctrl-C cancels");
        }
        return parse(stdin).context("reading ids from standard input");
    }
    let reading = || format!("reading ids from {}", file.display());
    parse(BufReader::new(File::open(file).with_context(reading)?)).with_context(reading)
}

/// Longest line that is read, in bytes.
const MAX_LINE: u64 = 64 * 1024;

fn parse(mut input: impl BufRead) -> anyhow::Result<Vec<TokenId>> {
    let mut ids = Vec::new();
    for number in 1.. {
        let mut line = Vec::new();
        if io::Read::take(&mut input, MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let word = line.trim_ascii().split(u8::is_ascii_whitespace).next().unwrap_or_default();
        // As `token list` prints it, with its headings.
        let is_heading = number == 1 && word == b"ID";
        if word.is_empty() || word.starts_with(b"#") || is_heading {
            continue;
        }
        // What it is instead may be a secret.
        let id = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok());
        ids.push(id.ok_or_else(|| anyhow!("line {number} does not begin with the id of a token"))?);
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_first_words_of_lines() {
        let ids = |text: &str| parse(text.as_bytes()).map(|ids| ids.iter().map(|id| id.to_u64()).collect::<Vec<_>>());
        let (one, two) = (TokenId::from_u64(1), TokenId::from_u64(2));
        let text = format!("ID  USER\n{one}  max  plant 7\r\n\n# {two}\n  {two}\n{one}");
        assert_eq!(ids(&text).expect("ids"), [1, 2, 1]);
        assert_eq!(ids("").expect("none"), [0; 0]);
        for text in ["tc-apiv1_secret", "x", "1", &format!("{one},{two}")] {
            let error = format!("{:#}", ids(&format!("{one}\n{text}\n")).expect_err(text));
            assert!(error.contains("line 2") && !error.contains("secret"), "{error}");
        }
    }
}
