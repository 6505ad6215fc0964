//! One line of an import, read from JSON. What is wrong with it is said without repeating it.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::super::tokens::{NewToken, Requested, is_plain};
use super::super::{ErrorKind, RegistryError};
use super::past::{Past, PastUsage, Told};
use crate::token::moment;
use crate::token::permission::InvalidPermission;
use crate::token::raw::{HINT_LENGTH, InvalidToken};
use crate::token::{Digest, HistoryEntry, Permission, PermissionSet, RawToken, TokenEvent, TokenId, TokenState};
use crate::words::words;

/// One line of an import: `{"token" or "digest", "hint", "user", "description", "permissions", "expires_at"}`, and what
/// [`Past`] says. A raw token is turned into its digest while it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportLine {
    /// SHA-256 of the raw token.
    pub digest: Digest,
    /// The last characters of the raw token; empty where only the digest was given.
    pub hint: Box<str>,
    /// The name of its owner. Lines of one owner may share it.
    pub user: Arc<str>,
    /// What people call it.
    pub description: Box<str>,
    /// What it shall permit, as far as its owner's role permits it.
    pub permissions: PermissionSet,
    /// When it stops working, in whole seconds. `None`: never.
    pub expires_at: Option<Timestamp>,
    /// What it was elsewhere; `None`: it begins here.
    pub past: Option<Box<Past>>,
}

/// The line as written.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLine {
    /// What is wrong with it is said by [`InvalidToken`], not by the parser, which might repeat it.
    #[serde(default, deserialize_with = "token_or_reason")]
    pub(super) token: Option<Result<RawToken, InvalidToken>>,
    pub(super) digest: Option<Digest>,
    pub(super) user: String,
    pub(super) description: String,
    /// Judged after the parser, whose errors would repeat them.
    pub(super) permissions: Option<Vec<String>>,
    pub(super) expires_at: Option<String>,
    hint: Option<String>,
    id: Option<TokenId>,
    state: Option<RawState>,
    created_at: Option<String>,
    created_by: Option<String>,
    revoked_at: Option<String>,
    revoked_by: Option<String>,
    predecessor: Option<TokenId>,
    successor: Option<TokenId>,
    history: Option<Vec<HistoryEntry>>,
    usage: Option<Box<PastUsage>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawState {
    Active,
    Revoked,
}

impl ImportLine {
    /// The token that begins here.
    pub(super) fn new_token(&self) -> NewToken {
        NewToken {
            user: self.user.to_string(),
            description: self.description.to_string(),
            permissions: Requested::Permissions(self.permissions),
            expires_at: self.expires_at,
        }
    }

    /// Whether it is a token that was revoked elsewhere.
    pub(super) fn is_revoked(&self) -> bool {
        self.past.as_ref().is_some_and(|past| past.is_revoked())
    }
}

impl RawLine {
    /// The past that it tells of.
    fn past(&mut self) -> Result<Option<Box<Past>>, LineError> {
        let revoked = match (time(self.revoked_at.take(), "revoked_at")?, self.revoked_by.take()) {
            (Some(at), Some(by)) => Some((at, by)),
            (None, None) => None,
            _ => return Err(LineError::Past),
        };
        let (history, usage) = (self.history.take(), self.usage.take());
        let state = match (self.state.take(), revoked) {
            (Some(RawState::Active), None) => Some(TokenState::Active),
            (Some(RawState::Revoked), Some((at, by))) => Some(TokenState::Revoked { at, by }),
            (None, None) => None,
            _ => return Err(LineError::Past),
        };
        let created_at = time(self.created_at.take(), "created_at")?;
        let (id, told) = match (self.id, state, created_at, self.created_by.take()) {
            (Some(id), Some(state), Some(created_at), Some(created_by)) => {
                let (predecessor, successor) = (self.predecessor, self.successor);
                let history = history.unwrap_or_default();
                (id, Told { state, created_at, created_by, predecessor, successor, history, usage })
            }
            (None, None, None, None)
                if history.is_none() && usage.is_none() && self.predecessor.or(self.successor).is_none() =>
            {
                return Ok(None);
            }
            _ => return Err(LineError::Past),
        };
        check(&told)?;
        Ok(Some(Box::new(Past::new(id, told))))
    }

    /// What it means; `otherwise` are the permissions where it gives none.
    pub(super) fn read(mut self, otherwise: Option<PermissionSet>) -> Result<Box<ImportLine>, LineError> {
        let past = self.past();
        let Self { token, digest, user, description, permissions, expires_at, hint: given, .. } = self;
        let (digest, hint) = match (token, digest) {
            (Some(token), None) => token.map(|token| (token.digest(), token.hint()))?,
            (None, Some(digest)) => (digest, given.unwrap_or_default()),
            (Some(_), Some(_)) => return Err(LineError::TokenAndDigest),
            (None, None) => return Err(LineError::NoToken),
        };
        if hint.chars().count() > HINT_LENGTH || !is_hint(&hint) {
            return Err(LineError::Hint);
        }
        let (expires_at, past) = (time(expires_at, "expires_at")?, past?);
        let permissions = match permissions {
            None => otherwise.ok_or(LineError::NoPermissions)?,
            Some(names) => parse_permissions(&names)?,
        };
        let (hint, user, description) = (hint.into(), user.into(), description.into());
        Ok(Box::new(ImportLine { digest, hint, user, description, permissions, expires_at, past }))
    }
}

/// What would be a secret, or control a terminal, gets into no record.
fn check(told: &Told) -> Result<(), LineError> {
    let state = if let TokenState::Revoked { by, .. } = &told.state { Some(by) } else { None };
    let events = told.history.iter().flat_map(|HistoryEntry { by, event, .. }| {
        let (one, other) = match event {
            TokenEvent::Reassigned { from, to } => (Some(from), Some(to)),
            TokenEvent::Revoked { reason } => (reason.as_ref(), None),
            TokenEvent::Created | TokenEvent::Imported | TokenEvent::Rotated { .. } | TokenEvent::Narrowed { .. } => {
                (None, None)
            }
        };
        [Some(by), one, other]
    });
    let mut texts = [Some(&told.created_by), state].into_iter().chain(events).flatten();
    let is_plain_use = told.usage.as_ref().is_none_or(|usage| usage.is_plain());
    if is_plain_use && texts.all(|text| is_plain(text)) { Ok(()) } else { Err(LineError::PastText) }
}

fn time(text: Option<String>, field: &'static str) -> Result<Option<Timestamp>, LineError> {
    text.map(|text| moment::parse(&text)).transpose().map_err(|_| LineError::Time(field))
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

fn is_hint(text: &str) -> bool {
    text.chars().all(|symbol| symbol.is_ascii_graphic())
}

/// Whether a text looks like the name of a field or a permission. Any other may be a secret in the wrong place.
pub(super) fn is_name(text: &str) -> bool {
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
    /// The field that is not a time.
    #[error("`{0}` is a time such as 2030-01-31T00:00:00Z")]
    Time(&'static str),
    /// More than the last characters of a token, or something else.
    #[error("`hint` is at most the last {HINT_LENGTH} characters of the token")]
    Hint,
    /// Part of a past.
    #[error(
        "what `token export --full` writes is all or none: `id`, `state`, `created_at` and `created_by`, and `revoked_at` \
         and `revoked_by` if the state is revoked, and only then; `predecessor` and `successor` come with them only"
    )]
    Past,
    /// A name or a reason in a past that no registry has written.
    #[error("a name or reason in the token's past is too long, or has control characters or a token in it")]
    PastText,
    /// A permission that does not exist.
    #[error(transparent)]
    Permission(InvalidPermission),
    /// The number, from 1, of a text that may not be repeated.
    #[error("permission {0} is not one: write resource:action, such as configs:read")]
    PermissionForm(usize),
    /// Neither the line nor whoever imports it says what the token may do.
    #[error("give `permissions`, or --preset or --permission for all lines without them")]
    NoPermissions,
    /// What the header has and what the line has, where these are not as many.
    #[error("{1} fields, and the header has {0}")]
    Cells(usize, usize),
    /// No field holds a line break, so it ends with its line.
    #[error("a quotation mark is not closed on the same line")]
    OpenQuote,
    /// A column's number from 1, and its name unless that could be a secret in the wrong place.
    #[error("{}, column {}: there are {FIELDS}", unknown_field(.1.as_deref()), .0)]
    UnknownColumn(usize, Option<String>),
    /// A column that is in the header more than once, or not at all.
    #[error("the header needs {0}, once")]
    Columns(&'static str),
    /// The number of the line before that has it.
    #[error("the same token as in line {0}")]
    Repeated(usize),
    /// The number of the line before that has its id.
    #[error("the same id as in line {0}")]
    RepeatedId(usize),
    /// By the rules for creating tokens.
    #[error(transparent)]
    Refused(#[from] RegistryError),
}

words! {
    /// What kind of reason it is, for programs.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum LineKind {
        /// It cannot be read.
        Malformed = "malformed",
        /// Another line before it has the same token, or the same id.
        Repeated = "repeated",
        /// The token is there already, or, where whoever imports may not know, was.
        Exists = "exists",
        /// The token was revoked: here, or where it comes from.
        Revoked = "revoked",
        /// The token was deleted here.
        Deleted = "deleted",
        /// There is no such user, or none that whoever imports may see.
        NotFound = "not-found",
        /// Whoever imports may not.
        Forbidden = "forbidden",
        /// It does not fit the rules, or what is there.
        Conflict = "conflict",
        /// The store failed.
        Unavailable = "unavailable",
    }
}

impl Serialize for LineKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl LineError {
    /// What kind of reason it is.
    pub fn kind(&self) -> LineKind {
        match self {
            Self::Repeated(_) | Self::RepeatedId(_) => LineKind::Repeated,
            Self::Refused(RegistryError::DigestTaken(_) | RegistryError::DigestHidden(_)) => LineKind::Exists,
            Self::Refused(RegistryError::DigestRevoked { .. } | RegistryError::RevokedElsewhere { .. }) => {
                LineKind::Revoked
            }
            Self::Refused(RegistryError::DigestRetired(_)) => LineKind::Deleted,
            Self::Refused(error) => match error.kind() {
                ErrorKind::NotFound => LineKind::NotFound,
                ErrorKind::Forbidden => LineKind::Forbidden,
                ErrorKind::Invalid | ErrorKind::Conflict => LineKind::Conflict,
                ErrorKind::Unavailable | ErrorKind::Unknown => LineKind::Unavailable,
            },
            _ => LineKind::Malformed,
        }
    }
}

const FIELDS: &str = "token, digest, user, description, permissions, expires_at, hint";

fn unknown_field(name: Option<&str>) -> String {
    name.map_or_else(|| "an unknown field".to_owned(), |name| format!("unknown field `{name}`"))
}

/// Reads one line of JSON; `otherwise` are the permissions of a line that gives none.
///
/// # Errors
/// [`LineError`], of which [`LineError::Repeated`] and [`LineError::Refused`] come only from the import itself.
pub fn parse_line(text: &str, otherwise: Option<PermissionSet>) -> Result<Box<ImportLine>, LineError> {
    if !text.trim_start().starts_with('{') {
        return Err(LineError::NotAnObject);
    }
    let line: RawLine = serde_json::from_str(text)?;
    line.read(otherwise)
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
        if ["missing field `", "duplicate field `", "a digest is ", "an id is "]
            .iter()
            .any(|start| message.starts_with(start))
        {
            return Self::Field(message.to_owned());
        }
        // What a type says of itself, such as a time, may repeat any text; only the parser's own words end like this.
        let is_own = message.starts_with("invalid ") || message.starts_with("unknown variant ");
        let expected = message.rsplit_once(", expected ").filter(|_| is_own);
        Self::Value(column, expected.map_or("another value", |(_, expected)| expected).to_owned())
    }
}
