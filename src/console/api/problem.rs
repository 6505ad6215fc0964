//! What is answered instead: problem details (RFC 9457).

use std::collections::BTreeMap;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::openapi::response::{Response as OpenApiResponse, ResponseBuilder};
use utoipa::openapi::{Content, Ref, RefOr};
use utoipa::{IntoResponses, ToSchema};

use super::reply;
use crate::chain::chain;
use crate::proxy::refusal::Refusal;
use crate::registry::view::ImportView;
use crate::registry::{ErrorKind, RegistryError};
use crate::store::StoreError;
use crate::token::TokenId;
use crate::token::raw::PREFIX;

/// Why a call was refused or failed (RFC 9457). Nothing was changed, unless `type` is `outcome-unknown` or there is `done`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody {
    /// What kind of problem it is: `urn:tollgate:problem:` and a word, for programs.
    #[serde(rename = "type")]
    kind: String,
    /// The kind in words.
    title: &'static str,
    /// The status of the reply.
    status: u16,
    /// What was wrong with this call, and what to do.
    detail: String,
    /// Of a command on several tokens that broke off: to how many of them it was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<usize>,
    /// And to which it was not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remaining: Vec<TokenId>,
    /// Of an import: what it did, and which lines it left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    import: Option<ImportView>,
}

/// A call that was refused or failed.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    body: Box<ProblemBody>,
    fields: Vec<(HeaderName, HeaderValue)>,
}

/// A kind of problem: its word, what it is, and its status.
struct Kind(&'static str, &'static str, StatusCode);

const INVALID: Kind = Kind("invalid", "The call is wrong", StatusCode::BAD_REQUEST);
const UNAUTHENTICATED: Kind = Kind("unauthenticated", "No valid token", StatusCode::UNAUTHORIZED);
const FORBIDDEN: Kind = Kind("forbidden", "The token or its owner may not do this", StatusCode::FORBIDDEN);
const NOT_FOUND: Kind = Kind("not-found", "There is no such thing", StatusCode::NOT_FOUND);
const METHOD: Kind = Kind("method", "There is no such method here", StatusCode::METHOD_NOT_ALLOWED);
const TIMEOUT: Kind = Kind("timeout", "The body did not arrive in time", StatusCode::REQUEST_TIMEOUT);
const CONFLICT: Kind = Kind("conflict", "It does not fit what is there", StatusCode::CONFLICT);
const VALUE: Kind = Kind("token_value_conflict", "A token has or had this value", StatusCode::CONFLICT);
const CHANGED: Kind = Kind("changed", "It has changed since it was read", StatusCode::PRECONDITION_FAILED);
const TOO_LARGE: Kind = Kind("too-large", "The body is too large", StatusCode::PAYLOAD_TOO_LARGE);
const NOT_JSON: Kind = Kind("not-json", "The body must be JSON", StatusCode::UNSUPPORTED_MEDIA_TYPE);
const NOT_LINES: Kind = Kind("not-lines", "The body must be lines", StatusCode::UNSUPPORTED_MEDIA_TYPE);
const LINES: Kind = Kind("lines", "Some lines cannot be imported", StatusCode::UNPROCESSABLE_ENTITY);
const MISDIRECTED: Kind = Kind("misdirected", "This is not the host that was meant", StatusCode::MISDIRECTED_REQUEST);
const KEY_REUSED: Kind = Kind("key-reused", "Another call had this key", StatusCode::CONFLICT);
const TOO_MANY: Kind = Kind("too-many", "Too many calls", StatusCode::TOO_MANY_REQUESTS);
const UNKNOWN: Kind = Kind("outcome-unknown", "It may or may not be done", StatusCode::INTERNAL_SERVER_ERROR);
const OFF: Kind = Kind("off", "The admin API is off here", StatusCode::NOT_IMPLEMENTED);
const BUSY: Kind = Kind("busy", "Too many calls at once", StatusCode::SERVICE_UNAVAILABLE);
const UNAVAILABLE: Kind = Kind("unavailable", "The registry is unavailable", StatusCode::SERVICE_UNAVAILABLE);

/// Seconds after which to try again where the store is away.
const PAUSE: u64 = 5;

impl Problem {
    fn new(Kind(word, title, status): Kind, detail: impl Into<String>) -> Self {
        let kind = format!("urn:tollgate:problem:{word}");
        let detail = detail.into();
        let (status_code, remaining) = (status.as_u16(), Vec::new());
        let body = ProblemBody { kind, title, status: status_code, detail, done: None, remaining, import: None };
        Self { status, body: Box::new(body), fields: Vec::new() }
    }

    fn with(mut self, name: HeaderName, value: &str) -> Self {
        self.fields.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
        self
    }

    fn retry_after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.with(RETRY_AFTER, &seconds.to_string())
    }

    /// The call is wrong, whatever the registry holds. What is repeated of it has no value of a token.
    pub(crate) fn invalid(detail: impl AsRef<str>) -> Self {
        Self::new(INVALID, without_values(detail.as_ref()))
    }

    /// For people: its status, what kind it is, and what was wrong.
    pub(crate) fn told(self) -> (StatusCode, &'static str, String) {
        (self.status, self.body.title, self.body.detail)
    }

    /// Nothing at this path.
    pub(super) fn no_route() -> Self {
        Self::new(NOT_FOUND, "there is nothing at this path; /api/v1/openapi.json lists what there is")
    }

    /// Nothing by this method.
    pub(super) fn no_method() -> Self {
        Self::new(METHOD, "this path has other methods; /api/v1/openapi.json lists them")
    }

    /// The body took too long.
    pub(super) fn timeout() -> Self {
        Self::new(TIMEOUT, "the body did not arrive in time")
    }

    /// The body has too many bytes.
    pub(super) fn too_large(most: usize) -> Self {
        Self::new(TOO_LARGE, format!("a body has at most {most} bytes"))
    }

    /// The body says that it is something else.
    pub(super) fn not_json() -> Self {
        let detail = "send JSON as it is, without Content-Encoding, and say so: Content-Type: application/json";
        Self::new(NOT_JSON, detail).with(ACCEPT_ENCODING, "identity")
    }

    /// The same, of an import.
    pub(super) fn not_lines() -> Self {
        let detail = "send JSON lines or CSV as they are, without Content-Encoding, and say so: Content-Type: \
                      application/x-ndjson, or text/csv";
        Self::new(NOT_LINES, detail).with(ACCEPT_ENCODING, "identity")
    }

    /// The body has more lines than are taken at once.
    pub(super) fn too_many_lines(detail: String) -> Self {
        Self::new(TOO_LARGE, detail)
    }

    /// Lines that cannot be imported, so that none was.
    pub(super) fn lines(lines: usize, import: ImportView) -> Self {
        let bad = import.refused.len();
        let detail = format!(
            "{bad} of {lines} lines cannot be imported, so none was; `import.refused` says why. Mend them, or say keep_going"
        );
        Self::new(LINES, detail).of_import(import)
    }

    /// The same of an import that did this.
    pub(super) fn of_import(mut self, import: ImportView) -> Self {
        self.body.import = Some(import);
        self
    }

    /// It does not fit what the registry holds now.
    pub(super) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(CONFLICT, detail)
    }

    /// No token, or none that the caller may see.
    pub(super) fn no_token() -> Self {
        Self::new(NOT_FOUND, "there is no such token, or none that you may see")
    }

    /// A call with this key has not ended.
    pub(crate) fn under_way() -> Self {
        Self::new(CONFLICT, "the same call is still under way; send it again in a moment")
    }

    /// The key was used for something else.
    pub(crate) fn key_reused() -> Self {
        Self::new(KEY_REUSED, "this Idempotency-Key was used for another body; take a new one")
    }

    /// Not a name of ours.
    pub(crate) fn misdirected() -> Self {
        let detail =
            "the Host of this call is no name of this console: call it by its address, or set admin.public_url";
        Self::new(MISDIRECTED, detail)
    }

    /// Calls come too often.
    pub(crate) fn too_many(wait: Duration, detail: &'static str) -> Self {
        Self::new(TOO_MANY, detail).retry_after(wait)
    }

    /// As many calls as can be are answered already.
    pub(crate) fn busy() -> Self {
        let detail = "other calls are under way, of this client or of all; try again in a moment";
        Self::new(BUSY, detail).retry_after(Duration::from_secs(1)).with(CACHE_CONTROL, "no-store")
    }

    /// There is no console here, and why.
    pub(super) fn off(reason: &'static str) -> Self {
        Self::new(OFF, reason)
    }

    /// The same of a command that was done to some: not to these.
    pub(super) fn after(mut self, done: usize, remaining: Vec<TokenId>) -> Self {
        self.body.done = Some(done);
        self.body.remaining = remaining;
        self
    }
}

/// How every call may end.
pub(super) struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<OpenApiResponse>> {
        let schema = Ref::from_schema_name(ProblemBody::name());
        let response = ResponseBuilder::new()
            .description("A problem (RFC 9457)")
            .content("application/problem+json", Content::new(Some(schema)))
            .build();
        [("default".to_owned(), response.into())].into()
    }
}

impl From<Refusal> for Problem {
    /// Of a credential, with the texts that agents get.
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal.status() {
            401 => UNAUTHENTICATED,
            403 => FORBIDDEN,
            429 => TOO_MANY,
            503 => UNAVAILABLE,
            _ => INVALID,
        };
        let problem = Self::new(kind, refusal.to_string());
        let own = refusal.fields().filter(|(name, _)| matches!(*name, "WWW-Authenticate" | "Retry-After"));
        own.fold(problem, |problem, (name, value)| match HeaderName::try_from(name) {
            Ok(name) => problem.with(name, value),
            Err(_) => problem,
        })
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        let kind = match &error {
            RegistryError::ActingTokenUnusable(_) => return Refusal::UnknownToken.into(),
            RegistryError::Changed => CHANGED,
            RegistryError::DigestTaken(_)
            | RegistryError::DigestHidden(_)
            | RegistryError::DigestUseless { .. }
            | RegistryError::DigestRetired(_) => VALUE,
            // Well-formed: it is the time, or the owner's role, that it does not fit.
            RegistryError::AlreadyExpired(_) | RegistryError::NothingPermitted { .. } => CONFLICT,
            _ => match error.kind() {
                ErrorKind::NotFound => NOT_FOUND,
                ErrorKind::Forbidden => FORBIDDEN,
                ErrorKind::Invalid => INVALID,
                ErrorKind::Conflict => CONFLICT,
                ErrorKind::Unavailable => UNAVAILABLE,
                ErrorKind::Unknown => UNKNOWN,
            },
        };
        let is_unavailable = kind.2 == StatusCode::SERVICE_UNAVAILABLE;
        let problem = Self::new(kind, for_programs(&chain(&error)));
        if is_unavailable { problem.retry_after(Duration::from_secs(PAUSE)) } else { problem }
    }
}

/// The text without what may be the values of tokens.
fn without_values(text: &str) -> String {
    let is_of_value = |symbol: char| symbol.is_ascii_graphic() && !matches!(symbol, '"' | '\'' | '`');
    let mut parts = text.split(PREFIX);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |shown, part| match part.trim_start_matches(is_of_value) {
        rest if rest.len() < part.len() => format!("{shown}{PREFIX}...{rest}"),
        _ => format!("{shown}{PREFIX}{part}"),
    })
}

/// What is said at a terminal, without what is to be typed there.
pub(super) fn for_programs(text: &str) -> String {
    let text = text.split("; `tollgate ").next().unwrap_or(text);
    // In brackets it is said besides.
    let mut parts = text.split(" (`tollgate ");
    let first = parts.next().unwrap_or_default().to_owned();
    let text = parts.fold(first, |text, part| text + part.split_once(')').map_or("", |(_, rest)| rest));
    let said = [
        ("use --force", "say force"),
        (
            "or --preset or --permission for all lines without them",
            "or `permissions` in the query for all lines without them",
        ),
        ("with --skip-existing", "with skip_existing"),
        ("`token export --full`", "an export with full=true"),
        ("use `tollgate user transfer-ownership` to make", "transfer the ownership to make"),
        ("check with `tollgate token show ID` or `tollgate user show NAME`", "look at the token or the user"),
        (
            "`tollgate user set-role` with the role administrator for the old owner finishes it",
            "giving the old owner the role administrator finishes it",
        ),
        ("run the command again", "send the call again"),
        ("run the same import", "send the same import"),
    ];
    let text = said.iter().fold(text, |text, (option, here)| text.replace(option, here));
    // With the id of a token that may not be there.
    match text
        .split_once("check with `tollgate token show ")
        .and_then(|(before, rest)| Some((before, rest.split_once('`')?.1)))
    {
        Some((before, after)) => format!("{before}look whether it is there{after}"),
        None => text,
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        RegistryError::from(error).into()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut reply = reply::json(self.status, &self.body);
        let fields = reply.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        fields.extend(self.fields);
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_of_a_token_is_repeated() {
        assert_eq!(without_values("it is `tc-apiv1_` and digits"), "it is `tc-apiv1_` and digits");
        assert_eq!(
            without_values(r#"got "tc-apiv1_a-b.c" and tc-apiv1_d e"#),
            r#"got "tc-apiv1_..." and tc-apiv1_... e"#
        );
    }

    #[test]
    fn programs_are_told_no_commands() {
        let error = RegistryError::NoSuchUser("max".to_owned());
        assert_eq!(for_programs(&error.to_string()), "there is no user `max`");
        let error = RegistryError::LastOwnerToken { owner: "olga".to_owned(), tokens: Vec::new() };
        assert!(for_programs(&error.to_string()).ends_with("create another one first, or say force"));
        let (id, name) = (TokenId::from_u64(1), "max".to_owned());
        let source = || StoreError::Frozen { store: String::new(), reason: String::new() };
        for (error, said) in [
            (RegistryError::UserDisabled(name.clone()), "max is disabled; enable them first"),
            (RegistryError::OwnerRole(name), "transfer the ownership first"),
            (RegistryError::RotatesRevoked(id), "create a new token instead"),
            (RegistryError::RotatedAlready { token: id, successor: id }, "0000000000001: rotate that one"),
            (RegistryError::RevokedElsewhere { token: id }, "(its id is 0000000000001); revoke it here too"),
            (RegistryError::OneOwnerOnly, "transfer the ownership to make an Administrator the Owner"),
            (
                RegistryError::OutcomeUnknown(source()),
                "look at the token or the user, and send the call again if it was not",
            ),
            (RegistryError::CreationUnknown { id, source: source() }, "and revoke this one if it exists"),
        ] {
            let told = for_programs(&error.to_string());
            assert!(told.ends_with(said) && !told.contains('`') && !told.contains("--"), "{told}");
        }
    }
}
