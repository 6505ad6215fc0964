//! Bringing tokens from elsewhere. All lines are decided before any is imported; up to [`CHUNK`] of them are one batch,
//! more are committed chunk by chunk.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use super::actor::Authority;
use super::draft::Draft;
use super::steps::CHUNK;
use super::tokens::{NewToken, Requested, decide_token};
use super::{Actor, Attempts, ErrorKind, PAGE, Registry, RegistryError, now};
use crate::store::{StoreError, Versioned};
use crate::token::raw::InvalidToken;
use crate::token::{Digest, Permission, PermissionSet, RawToken, TokenEvent, TokenRecord, UserRecord};

/// One line of an import: `{"token" or "digest", "user", "description", "permissions", "expires_at"}`. A raw token is
/// turned into its digest while it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// What is wrong with it is said by [`InvalidToken`], not by the parser, which might repeat it.
    #[serde(default, deserialize_with = "token_or_reason")]
    token: Option<Result<RawToken, InvalidToken>>,
    digest: Option<Digest>,
    user: String,
    description: String,
    /// Judged after the parser, whose errors would repeat them.
    permissions: Option<Vec<String>>,
    expires_at: Option<String>,
}

impl TryFrom<RawLine> for ImportLine {
    type Error = String;

    fn try_from(line: RawLine) -> Result<Self, String> {
        let RawLine { token, digest, user, description, permissions, expires_at } = line;
        let (digest, hint) = match (token, digest) {
            (Some(token), None) => {
                token.map(|token| (token.digest(), token.hint())).map_err(|reason| reason.to_string())?
            }
            (None, Some(digest)) => (digest, String::new()),
            (Some(_), Some(_)) => return Err("give either `token` or `digest`, not both".to_owned()),
            (None, None) => return Err("give `token` or `digest`".to_owned()),
        };
        let expires_at = expires_at.map(|text| text.parse()).transpose();
        let expires_at = expires_at.map_err(|_| "`expires_at` is a time such as 2030-01-31T00:00:00Z".to_owned())?;
        let permissions = match permissions {
            None => Requested::All,
            Some(names) => Requested::Permissions(parse_permissions(&names)?),
        };
        Ok(Self { digest, hint, new: NewToken { user, description, permissions, expires_at } })
    }
}

fn parse_permissions(names: &[String]) -> Result<PermissionSet, String> {
    let permission = |(at, name): (usize, &String)| {
        name.parse::<Permission>().map_err(|error| match is_name(name) {
            true => error.to_string(),
            false => format!("permission {} is none: write resource:action, such as configs:read", at + 1),
        })
    };
    names.iter().enumerate().map(permission).collect()
}

/// Whether a text looks like the name of a field or a permission. Any other may be a secret in the wrong place.
fn is_name(text: &str) -> bool {
    text.len() <= 40 && text.bytes().all(|byte| byte.is_ascii_lowercase() || b"_:".contains(&byte))
}

fn token_or_reason<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Result<RawToken, InvalidToken>>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.map(Zeroizing::new);
    Ok(text.map(|text| text.parse()))
}

/// Reads one line.
///
/// # Errors
/// The reason, without the token.
pub fn parse_line(text: &str) -> Result<ImportLine, String> {
    if !text.trim_start().starts_with('{') {
        return Err("a line is a JSON object".to_owned()); // an array of the fields would be taken too
    }
    let line: RawLine = serde_json::from_str(text).map_err(|error| reason(&error))?;
    line.try_into()
}

/// What is wrong with a line, without what the parser repeats of it.
fn reason(error: &serde_json::Error) -> String {
    let said = error.to_string();
    // Every line is a document of its own, so its line number would only confuse.
    let said = said.rsplit_once(" at line ").map_or(said.as_str(), |(said, _)| said);
    let column = error.column();
    if !error.is_data() {
        return format!("not valid JSON, column {column}: {said}"); // in the parser's own words
    }
    // The names of fields that there are, and of the digest's form, are ours; all else is from the line.
    let unknown =
        said.strip_prefix("unknown field `").and_then(|rest| rest.split_once("`, expected ").or(Some((rest, ""))));
    if let Some((name, _)) = unknown {
        let name = if is_name(name) { format!("unknown field `{name}`") } else { "an unknown field".to_owned() };
        return format!("{name}, column {column}: there are token, digest, user, description, permissions, expires_at");
    }
    let is_ours = ["missing field `", "duplicate field `", "a digest is "].iter().any(|start| said.starts_with(start));
    match said.rsplit_once(", expected ") {
        _ if is_ours => said.to_owned(),
        Some((_, expected)) => format!("column {column}: expected {expected}"),
        None => format!("column {column}: the value is not valid"),
    }
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

/// Why not all was imported; nothing was, except after [`RegistryError::Interrupted`].
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
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused { .. } => ErrorKind::Invalid,
            Self::Registry(error) => error.kind(),
        }
    }
}

impl From<StoreError> for ImportError {
    fn from(error: StoreError) -> Self {
        Self::Registry(error.into())
    }
}

/// How far an import got.
#[derive(Default)]
struct ImportProgress {
    lines: usize,
    count: usize,
    refused: Vec<RefusedLine>,
}

impl Registry {
    /// Imports tokens, by the rules for making them. Lines that cannot be imported are left out with `keep_going`;
    /// otherwise one of them is enough for nothing to be imported.
    ///
    /// # Errors
    /// [`ImportError::Refused`] names every line that cannot be imported. [`RegistryError::Interrupted`] says how many of
    /// more than a chunk of lines are imported: with `keep_going`, the same import brings the others.
    pub async fn import(
        &self,
        actor: &Actor,
        lines: Vec<(usize, ImportLine)>,
        keep_going: bool,
    ) -> Result<Imported, ImportError> {
        let authority = self.authority(actor).await?;
        authority.check_manages_tokens()?;
        let existing = self.read_existing(&authority, lines.iter()).await?;
        let (good, refused) = partition_lines(&authority, &lines, &existing, now());
        if !refused.is_empty() && !keep_going {
            return Err(ImportError::Refused { refused, lines: lines.len() });
        }
        drop(existing);
        let mut progress = ImportProgress { lines: lines.len(), count: 0, refused };
        for chunk in good.chunks(CHUNK) {
            let before = progress.count;
            match self.import_chunk(actor, chunk, keep_going, &mut progress).await {
                Ok(()) => {}
                Err(ImportError::Registry(error)) if before > 0 => {
                    let done = format!("broke off after {before} of {} lines were imported; --keep-going", good.len());
                    return Err(RegistryError::interrupted(format!("{done} imports the others"), error).into());
                }
                Err(error) => return Err(error),
            }
        }
        let ImportProgress { count, mut refused, .. } = progress;
        refused.sort_by_key(|refused| refused.line);
        Ok(Imported { count, refused })
    }

    /// Imports some lines in one batch. What changed since they were found good is noticed here.
    async fn import_chunk(
        &self,
        actor: &Actor,
        lines: &[&(usize, ImportLine)],
        keep_going: bool,
        progress: &mut ImportProgress,
    ) -> Result<(), ImportError> {
        let mut attempts = Attempts::new("importing the tokens");
        loop {
            attempts.begin().await?;
            let authority = self.authority(actor).await?;
            authority.check_manages_tokens()?;
            let existing = self.read_existing(&authority, lines.iter().copied()).await?;
            let now = now();
            let mut draft = Draft::new(&authority, now);
            let (mut count, mut refused) = (0, Vec::new());
            for (line, decision) in
                lines.iter().map(|(line, wanted)| (line, decide_line(&authority, wanted, &existing, now)))
            {
                match decision {
                    Ok(record) => {
                        draft.create_token(record, TokenEvent::Imported);
                        count += 1;
                    }
                    Err(error) if keep_going => {
                        refused.push(RefusedLine { line: *line, reason: error.to_string() });
                    }
                    Err(error) if progress.count > 0 => return Err(error.into()),
                    Err(error) => {
                        let refused = vec![RefusedLine { line: *line, reason: error.to_string() }];
                        return Err(ImportError::Refused { refused, lines: progress.lines });
                    }
                }
            }
            existing.users.values().flatten().for_each(|user| draft.require_user(user));
            match self.commit(draft.into_batch()).await {
                Ok(true) => {
                    progress.count += count;
                    progress.refused.append(&mut refused);
                    return Ok(());
                }
                // The latter: somebody else's token by now, or no more. Reading again shows which.
                Ok(false) | Err(RegistryError::DigestTaken(_) | RegistryError::DigestRetired(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads what the lines are about: each user once, digests by the page.
    async fn read_existing<'a>(
        &self,
        authority: &Authority,
        lines: impl Iterator<Item = &'a (usize, ImportLine)> + Clone + Send,
    ) -> Result<Existing, RegistryError> {
        let mut existing = Existing::default();
        for (_, line) in lines.clone() {
            let name = &line.new.user;
            if existing.users.contains_key(name) || authority.check_makes_tokens_for(name).is_err() {
                continue;
            }
            let user = match self.find_user(authority, name).await {
                Ok(user) => Some(user),
                Err(RegistryError::NoSuchUser(_)) => None,
                Err(error) => return Err(error),
            };
            existing.users.insert(name.clone(), user);
        }
        let mut digests = lines.map(|(_, line)| line.digest).peekable();
        while digests.peek().is_some() {
            let page: Vec<_> = digests.by_ref().take(PAGE).collect();
            let found = self.store.tokens_by_digest(&page).await?;
            existing.taken.extend(page.iter().zip(found).filter_map(|(digest, token)| token.map(|_| *digest)));
            let retired = self.store.retired(&page).await?;
            existing
                .retired
                .extend(page.iter().zip(retired).filter_map(|(digest, retired)| retired.then_some(*digest)));
        }
        Ok(existing)
    }
}

/// What the store holds of what an import is about.
#[derive(Default)]
struct Existing {
    /// Users by name; `None`: there is no such user.
    users: HashMap<String, Option<Versioned<UserRecord>>>,
    /// Digests of tokens.
    taken: HashSet<Digest>,
    /// Digests of deleted tokens.
    retired: HashSet<Digest>,
}

/// Separates the lines that can be imported from those that cannot. The records are made later, chunk by chunk: those of a
/// million lines would be half a gigabyte.
fn partition_lines<'a>(
    authority: &Authority,
    lines: &'a [(usize, ImportLine)],
    existing: &Existing,
    now: Timestamp,
) -> (Vec<&'a (usize, ImportLine)>, Vec<RefusedLine>) {
    let mut seen: HashMap<Digest, usize> = HashMap::with_capacity(lines.len());
    let (mut good, mut refused) = (Vec::with_capacity(lines.len()), Vec::new());
    for entry @ (number, line) in lines {
        let problem = match seen.get(&line.digest) {
            Some(first) => Some(format!("the same token as in line {first}")),
            None => decide_line(authority, line, existing, now).err().map(|error| error.to_string()),
        };
        seen.entry(line.digest).or_insert(*number);
        match problem {
            None => good.push(entry),
            Some(reason) => refused.push(RefusedLine { line: *number, reason }),
        }
    }
    (good, refused)
}

fn decide_line(
    authority: &Authority,
    line: &ImportLine,
    existing: &Existing,
    now: Timestamp,
) -> Result<TokenRecord, RegistryError> {
    let name = &line.new.user;
    authority.check_makes_tokens_for(name)?;
    let Some(Some(owner)) = existing.users.get(name) else { return Err(RegistryError::NoSuchUser(name.clone())) };
    if existing.taken.contains(&line.digest) {
        return Err(RegistryError::DigestTaken(line.digest));
    }
    if existing.retired.contains(&line.digest) {
        return Err(RegistryError::DigestRetired(line.digest));
    }
    decide_token(authority, &owner.record, &line.new, line.digest, line.hint.clone(), now)
}

#[cfg(test)]
mod tests;
