//! Bringing tokens from elsewhere: many lines, one batch.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use serde::Deserialize;

use super::actor::Standing;
use super::draft::Draft;
use super::error::without_tokens;
use super::tokens::{NewToken, Requested, decide_token};
use super::{Actor, Kind, PAGE, Registry, RegistryError, Tries, now};
use crate::store::{StoreError, Versioned};
use crate::token::{Digest, Event, PermissionSet, RawToken, TokenRecord, UserRecord};

/// One line of an import: `{"token" or "digest", "user", "description", "permissions", "expires_at"}`. A raw token is
/// turned into its digest while it is read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawLine")]
pub struct ImportLine {
    /// SHA-256 of the raw token.
    pub digest: Digest,
    /// The last characters of the raw token; empty where only the digest was given.
    pub hint: String,
    /// Whose it shall be, of what kind, for how long.
    pub new: NewToken,
}

/// The line as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLine {
    token: Option<RawToken>,
    digest: Option<Digest>,
    user: String,
    description: String,
    permissions: Option<PermissionSet>,
    expires_at: Option<Timestamp>,
}

impl TryFrom<RawLine> for ImportLine {
    type Error = &'static str;

    fn try_from(line: RawLine) -> Result<Self, &'static str> {
        let RawLine { token, digest, user, description, permissions, expires_at } = line;
        let (digest, hint) = match (token, digest) {
            (Some(token), None) => (token.digest(), token.hint()),
            (None, Some(digest)) => (digest, String::new()),
            (Some(_), Some(_)) => return Err("give either `token` or `digest`, not both"),
            (None, None) => return Err("give `token` or `digest`"),
        };
        let permissions = permissions.map_or(Requested::All, Requested::Permissions);
        Ok(Self { digest, hint, new: NewToken { user, description, permissions, expires_at } })
    }
}

/// Reads one line.
///
/// # Errors
/// The reason, without the token.
pub fn parse_line(text: &str) -> Result<ImportLine, String> {
    serde_json::from_str(text).map_err(|error| {
        // Every line is a document of its own, so its line number would only confuse.
        let reason = error.to_string();
        let reason = reason.rsplit_once(" at line ").map_or(reason.as_str(), |(reason, _)| reason);
        without_tokens(reason)
    })
}

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// How many tokens are new.
    pub count: usize,
    /// The lines that were left out, in order.
    pub refused: Vec<RefusedLine>,
}

/// A line that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedLine {
    /// Its number, from 1.
    pub line: usize,
    /// Why; never with the token.
    pub reason: String,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Some lines cannot be imported, and all or none was asked for.
    #[error("{} of {lines} lines cannot be imported, so none was; mend them, or use --keep-going", refused.len())]
    Refused {
        /// Which ones, in order.
        refused: Vec<RefusedLine>,
        /// How many lines there were.
        lines: usize,
    },
    /// The import as a whole was refused or failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl ImportError {
    /// What a caller does about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Refused { .. } => Kind::Invalid,
            Self::Registry(error) => error.kind(),
        }
    }
}

impl From<StoreError> for ImportError {
    fn from(error: StoreError) -> Self {
        Self::Registry(error.into())
    }
}

impl Registry {
    /// Imports tokens, by the rules for making them, in one batch. Lines that cannot be imported are left out with
    /// `keep_going`; otherwise one of them is enough for nothing to be imported.
    ///
    /// # Errors
    /// [`ImportError::Refused`] names every line that cannot be imported.
    pub async fn import(
        &self,
        actor: &Actor,
        lines: Vec<(usize, ImportLine)>,
        keep_going: bool,
    ) -> Result<Imported, ImportError> {
        // Digests that the store refused at a commit, with its reason: it alone knows those of deleted tokens.
        let mut refused_by_store: HashMap<Digest, String> = HashMap::new();
        let mut tries = Tries::new("importing the tokens");
        loop {
            tries.begin().await?;
            let standing = self.standing(actor).await?;
            standing.check_manages_tokens()?;
            let known = self.known(&standing, &lines).await?;
            let (now, mut refused) = (now(), Vec::new());
            let mut draft = Draft::new(&standing, now);
            let mut count = 0;
            for (line, decision) in decide_lines(&standing, &lines, &known, &refused_by_store, now) {
                match decision {
                    Ok(record) => {
                        draft.create_token(record, Event::Imported);
                        count += 1;
                    }
                    Err(reason) => refused.push(RefusedLine { line, reason }),
                }
            }
            if !refused.is_empty() && !keep_going {
                return Err(ImportError::Refused { refused, lines: lines.len() });
            }
            known.users.values().flatten().for_each(|user| draft.require_user(user));
            match self.commit(draft.into_batch()).await {
                Ok(true) => return Ok(Imported { count, refused }),
                Ok(false) => {}
                Err(error @ (RegistryError::DigestTaken(digest) | RegistryError::DigestRetired(digest))) => {
                    refused_by_store.insert(digest, error.to_string());
                    tries = Tries::new("importing the tokens"); // this one got further
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads what the lines are about: each user once, digests by the page.
    async fn known(&self, standing: &Standing, lines: &[(usize, ImportLine)]) -> Result<Known, RegistryError> {
        let mut known = Known { users: HashMap::new(), digests: HashSet::new() };
        for (_, line) in lines {
            let name = &line.new.user;
            if known.users.contains_key(name) || standing.check_makes_tokens_for(name).is_err() {
                continue;
            }
            let user = match self.find_user(standing, name).await {
                Ok(user) => Some(user),
                Err(RegistryError::NoSuchUser(_)) => None,
                Err(error) => return Err(error),
            };
            known.users.insert(name.clone(), user);
        }
        for lines in lines.chunks(PAGE) {
            let digests: Vec<_> = lines.iter().map(|(_, line)| line.digest).collect();
            let found = self.store.tokens_by_digest(&digests).await?;
            known.digests.extend(digests.iter().zip(found).filter_map(|(digest, token)| token.map(|_| *digest)));
        }
        Ok(known)
    }
}

/// What the store holds of what an import is about.
struct Known {
    /// Users by name; `None`: there is no such user.
    users: HashMap<String, Option<Versioned<UserRecord>>>,
    /// Digests that are taken.
    digests: HashSet<Digest>,
}

/// Decides every line: the new record, or why not.
fn decide_lines<'a>(
    standing: &'a Standing,
    lines: &'a [(usize, ImportLine)],
    known: &'a Known,
    refused_by_store: &'a HashMap<Digest, String>,
    now: Timestamp,
) -> impl Iterator<Item = (usize, Result<TokenRecord, String>)> + 'a {
    let mut seen: HashMap<Digest, usize> = HashMap::with_capacity(lines.len());
    lines.iter().map(move |(number, line)| {
        let decision = if let Some(first) = seen.get(&line.digest) {
            Err(format!("the same token as in line {first}"))
        } else if let Some(reason) = refused_by_store.get(&line.digest) {
            Err(reason.clone())
        } else {
            decide_line(standing, line, known, now).map_err(|error| error.to_string())
        };
        seen.entry(line.digest).or_insert(*number);
        (*number, decision)
    })
}

fn decide_line(
    standing: &Standing,
    line: &ImportLine,
    known: &Known,
    now: Timestamp,
) -> Result<TokenRecord, RegistryError> {
    let name = &line.new.user;
    standing.check_makes_tokens_for(name)?;
    let Some(Some(owner)) = known.users.get(name) else { return Err(RegistryError::NoSuchUser(name.clone())) };
    if known.digests.contains(&line.digest) {
        return Err(RegistryError::DigestTaken(line.digest));
    }
    decide_token(standing, &owner.record, &line.new, line.digest, line.hint.clone(), now)
}

#[cfg(test)]
mod tests;
