//! Bringing tokens from elsewhere. All lines are decided before any is imported; up to [`CHUNK`] of them are one batch,
//! more are committed chunk by chunk.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::actor::{Authority, Right};
use super::draft::Draft;
use super::steps::CHUNK;
use super::tokens::{NewToken, Requested, decide_token};
use super::{Actor, Attempts, ErrorKind, PAGE, PartlyDone, Registry, RegistryError, now};
use crate::store::Versioned;
use crate::token::permission::InvalidPermission;
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
    type Error = LineError;

    fn try_from(line: RawLine) -> Result<Self, LineError> {
        let RawLine { token, digest, user, description, permissions, expires_at } = line;
        let (digest, hint) = match (token, digest) {
            (Some(token), None) => token.map(|token| (token.digest(), token.hint()))?,
            (None, Some(digest)) => (digest, String::new()),
            (Some(_), Some(_)) => return Err(LineError::TokenAndDigest),
            (None, None) => return Err(LineError::NoToken),
        };
        let expires_at = expires_at.map(|text| text.parse()).transpose().map_err(|_| LineError::Expiry)?;
        let permissions = match permissions {
            None => Requested::All,
            Some(names) => Requested::Permissions(parse_permissions(&names)?),
        };
        Ok(Self { digest, hint, new: NewToken { user, description, permissions, expires_at } })
    }
}

fn parse_permissions(names: &[String]) -> Result<PermissionSet, LineError> {
    let permission = |(at, name): (usize, &String)| {
        name.parse::<Permission>().map_err(|error| match is_name(name) {
            true => LineError::Permission(error),
            false => LineError::PermissionForm(at + 1),
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

/// Why a line cannot be imported. Never with the token.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// Than so many bytes.
    #[error("longer than {0} bytes")]
    TooLong(usize),
    /// Bytes that are no text.
    #[error("not UTF-8")]
    NotUtf8,
    /// An array of the fields, say, which serde would take too.
    #[error("a line is a JSON object")]
    NotAnObject,
    /// Column, and what is wrong there in serde's words.
    #[error("not valid JSON, column {0}: {1}")]
    Syntax(usize, String),
    /// Column, and the field's name unless that could be a secret in the wrong place.
    #[error("{}, column {}: there are {FIELDS}", unknown_field(.1.as_deref()), .0)]
    UnknownField(usize, Option<String>),
    /// A field that is missing or there twice, or a digest that is none: in serde's words, which repeat nothing.
    #[error("{0}")]
    Field(String),
    /// Column, and of what type the value there should be.
    #[error("column {0}: expected {1}")]
    Value(usize, String),
    /// A token's raw form is wrong.
    #[error(transparent)]
    Token(#[from] InvalidToken),
    /// Both are given.
    #[error("give either `token` or `digest`, not both")]
    TokenAndDigest,
    /// Neither is given.
    #[error("give `token` or `digest`")]
    NoToken,
    /// Not a time.
    #[error("`expires_at` is a time such as 2030-01-31T00:00:00Z")]
    Expiry,
    /// A permission that does not exist.
    #[error(transparent)]
    Permission(InvalidPermission),
    /// The number, from 1, of a text that may not be repeated.
    #[error("permission {0} is not one: write resource:action, such as configs:read")]
    PermissionForm(usize),
    /// The number of the line before that has it.
    #[error("the same token as in line {0}")]
    Repeated(usize),
    /// By the rules for creating tokens.
    #[error(transparent)]
    Refused(#[from] RegistryError),
}

const FIELDS: &str = "token, digest, user, description, permissions, expires_at";

fn unknown_field(name: Option<&str>) -> String {
    name.map_or_else(|| "an unknown field".to_owned(), |name| format!("unknown field `{name}`"))
}

/// Reads one line.
///
/// # Errors
/// [`LineError`], of which [`LineError::Repeated`] and [`LineError::Refused`] come only from the import itself.
pub fn parse_line(text: &str) -> Result<ImportLine, LineError> {
    if !text.trim_start().starts_with('{') {
        return Err(LineError::NotAnObject);
    }
    let line: RawLine = serde_json::from_str(text)?;
    line.try_into()
}

impl From<serde_json::Error> for LineError {
    /// Without what the parser repeats of the line.
    fn from(error: serde_json::Error) -> Self {
        let (column, message) = (error.column(), error.to_string());
        // Every line is a document of its own, so its line number would only confuse.
        let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
        if !error.is_data() {
            return Self::Syntax(column, message.to_owned());
        }
        // The names of fields that there are, and of the digest's form, are ours; all else is from the line.
        if let Some(rest) = message.strip_prefix("unknown field `") {
            let name = rest.split_once("`, expected ").map_or(rest, |(name, _)| name);
            return Self::UnknownField(column, is_name(name).then(|| name.to_owned()));
        }
        if ["missing field `", "duplicate field `", "a digest is "].iter().any(|start| message.starts_with(start)) {
            return Self::Field(message.to_owned());
        }
        let expected = message.rsplit_once(", expected ").map_or("another value", |(_, expected)| expected);
        Self::Value(column, expected.to_owned())
    }
}

/// What an import did.
#[derive(Debug)]
pub struct Imported {
    /// How many tokens are new.
    pub count: usize,
    /// The lines that were left out, in order.
    pub refused: Vec<RefusedLine>,
}

/// A line that was left out.
#[derive(Debug, Serialize)]
pub struct RefusedLine {
    /// Its number, from 1.
    pub line: usize,
    /// Why.
    #[serde(serialize_with = "as_text")]
    pub reason: LineError,
}

fn as_text<S: Serializer>(reason: &LineError, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(reason)
}

/// Why not all was imported; nothing was, except after [`RegistryError::Interrupted`].
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Some lines cannot be imported, and all or none was asked for.
    #[error("{} of {lines} lines cannot be imported, so none was; fix them, or use --keep-going", refused.len())]
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
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused { .. } => ErrorKind::Invalid,
            Self::Registry(error) => error.kind(),
        }
    }
}

/// Why the lines of one batch were not imported.
struct ChunkError {
    /// The one that is wrong, if it is one of them.
    line: Option<usize>,
    error: RegistryError,
}

impl From<RegistryError> for ChunkError {
    fn from(error: RegistryError) -> Self {
        Self { line: None, error }
    }
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
        authority.check(Right::ManageTokens)?;
        let existing = self.read_existing(&authority, lines.iter()).await?;
        let (good, refused) = partition_lines(&authority, &lines, &existing, now());
        if !refused.is_empty() && !keep_going {
            return Err(ImportError::Refused { refused, lines: lines.len() });
        }
        drop(existing);
        let mut imported = Imported { count: 0, refused };
        for chunk in good.chunks(CHUNK) {
            match self.import_chunk(actor, chunk, keep_going).await {
                Ok(more) => {
                    imported.count += more.count;
                    imported.refused.extend(more.refused);
                }
                Err(ChunkError { line: Some(line), error }) if imported.count == 0 => {
                    let refused = vec![RefusedLine { line, reason: error.into() }];
                    return Err(ImportError::Refused { refused, lines: lines.len() });
                }
                Err(ChunkError { error, .. }) if imported.count == 0 => return Err(error.into()),
                Err(ChunkError { error, .. }) => {
                    let done = PartlyDone::Imported(imported.count, good.len());
                    return Err(RegistryError::interrupted(done, error).into());
                }
            }
        }
        imported.refused.sort_by_key(|refused| refused.line);
        Ok(imported)
    }

    /// Imports some lines in one batch. What changed since they were found good is noticed here.
    async fn import_chunk(
        &self,
        actor: &Actor,
        lines: &[&(usize, ImportLine)],
        keep_going: bool,
    ) -> Result<Imported, ChunkError> {
        let mut attempts = Attempts::default();
        loop {
            attempts.begin().await?;
            let authority = self.authority(actor).await?;
            authority.check(Right::ManageTokens)?;
            let existing = self.read_existing(&authority, lines.iter().copied()).await?;
            let now = now();
            let mut draft = Draft::new(&authority, now);
            let mut imported = Imported { count: 0, refused: Vec::new() };
            for (line, wanted) in lines {
                match decide_line(&authority, wanted, &existing, now) {
                    Ok(record) => {
                        draft.create_token(record, TokenEvent::Imported);
                        imported.count += 1;
                    }
                    Err(error) if keep_going => {
                        imported.refused.push(RefusedLine { line: *line, reason: error.into() });
                    }
                    Err(error) => return Err(ChunkError { line: Some(*line), error }),
                }
            }
            existing.users.values().flatten().for_each(|user| draft.require_user(user));
            match self.commit(draft.into_batch()).await {
                Ok(true) => return Ok(imported),
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
            Some(first) => Some(LineError::Repeated(*first)),
            None => decide_line(authority, line, existing, now).err().map(LineError::Refused),
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
