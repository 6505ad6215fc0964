//! One line of an import, read from JSON. What is wrong with it is said without repeating it.

use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use super::super::RegistryError;
use super::super::tokens::{NewToken, Requested};
use crate::token::permission::InvalidPermission;
use crate::token::raw::InvalidToken;
use crate::token::{Digest, Permission, PermissionSet, RawToken};

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
}

impl RawLine {
    /// What it means; `otherwise` are the permissions where it gives none.
    pub(super) fn read(self, otherwise: Option<PermissionSet>) -> Result<ImportLine, LineError> {
        let Self { token, digest, user, description, permissions, expires_at } = self;
        let (digest, hint) = match (token, digest) {
            (Some(token), None) => token.map(|token| (token.digest(), token.hint()))?,
            (None, Some(digest)) => (digest, String::new()),
            (Some(_), Some(_)) => return Err(LineError::TokenAndDigest),
            (None, None) => return Err(LineError::NoToken),
        };
        let expires_at = expires_at.map(|text| text.parse()).transpose().map_err(|_| LineError::Expiry)?;
        let permissions = match permissions {
            None => otherwise.ok_or(LineError::NoPermissions)?,
            Some(names) => parse_permissions(&names)?,
        };
        let permissions = Requested::Permissions(permissions);
        Ok(ImportLine { digest, hint, new: NewToken { user, description, permissions, expires_at } })
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
    /// Not a time.
    #[error("`expires_at` is a time such as 2030-01-31T00:00:00Z")]
    Expiry,
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
    /// By the rules for creating tokens.
    #[error(transparent)]
    Refused(#[from] RegistryError),
}

const FIELDS: &str = "token, digest, user, description, permissions, expires_at";

fn unknown_field(name: Option<&str>) -> String {
    name.map_or_else(|| "an unknown field".to_owned(), |name| format!("unknown field `{name}`"))
}

/// Reads one line of JSON; `otherwise` are the permissions of a line that gives none.
///
/// # Errors
/// [`LineError`], of which [`LineError::Repeated`] and [`LineError::Refused`] come only from the import itself.
pub fn parse_line(text: &str, otherwise: Option<PermissionSet>) -> Result<ImportLine, LineError> {
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
        if ["missing field `", "duplicate field `", "a digest is "].iter().any(|start| message.starts_with(start)) {
            return Self::Field(message.to_owned());
        }
        let expected = message.rsplit_once(", expected ").map_or("another value", |(_, expected)| expected);
        Self::Value(column, expected.to_owned())
    }
}
