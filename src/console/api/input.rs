//! What calls say: a body of JSON, a query. What is not known is refused with the nearest name that is: a member that was
//! mistyped and left aside would make a token without end, say.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query as Parsed, Request};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use jiff::Timestamp;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use sha2::{Digest as _, Sha256};

use super::problem::Problem;
use crate::console::{Busy, Console};
use crate::token::moment;

/// Most bytes of a body: some ten thousand ids.
const MAX_BODY: usize = 256 * 1024;

/// Longest wait for a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A body of JSON, with nothing in it that is not known.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Console>> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, console: &Arc<Console>) -> Result<Self, Problem> {
        Hashed::from_request(request, console).await.map(|Hashed { value, .. }| Self(value))
    }
}

/// The same, with what the bytes of the body come to.
#[derive(Debug)]
pub(super) struct Hashed<T> {
    pub(super) value: T,
    pub(super) hash: BodyHash,
}

/// SHA-256 of a body.
pub(crate) type BodyHash = [u8; 32];

impl<T: DeserializeOwned> FromRequest<Arc<Console>> for Hashed<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Arc<Console>) -> Result<Self, Problem> {
        if !is_of(request.headers(), &["application/json"]) {
            return Err(Problem::not_json());
        }
        let body = read(request.into_body()).await?;
        let mut json = serde_json::Deserializer::from_slice(&body);
        let Object(value) =
            serde_path_to_error::deserialize(&mut json).map_err(|error| Problem::invalid(explain_json(&error)))?;
        json.end().map_err(|error| Problem::invalid(error.to_string()))?;
        Ok(Self { value, hash: Sha256::digest(&body).into() })
    }
}

/// An object, and no array of its members by their position, which serde would take too.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Self)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

/// No body, or an object with nothing in it: what somebody put there would be left aside.
#[derive(Debug)]
pub(super) struct NoBody;

/// Nothing at all. What is there all the same has a name that is not known.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

impl FromRequest<Arc<Console>> for NoBody {
    type Rejection = Problem;

    async fn from_request(request: Request, console: &Arc<Console>) -> Result<Self, Problem> {
        if request.body().is_end_stream() {
            return Ok(Self);
        }
        let (parts, body) = request.into_parts();
        let body = read(body).await?;
        if body.is_empty() {
            return Ok(Self);
        }
        let request = Request::from_parts(parts, Body::from(body));
        Json::from_request(request, console).await.map(|Json(Nothing {})| Self)
    }
}

/// Whether a body says that it is of one of these media types, and as it is.
pub(super) fn is_of(fields: &HeaderMap, types: &[&str]) -> bool {
    if fields.get_all(CONTENT_ENCODING).iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return false;
    }
    let kind = fields.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    types.iter().any(|is| kind.eq_ignore_ascii_case(is))
}

/// A whole body.
///
/// # Errors
/// When it is too large, takes too long or breaks off.
pub(in crate::console) async fn read(body: Body) -> Result<bytes::Bytes, Problem> {
    read_within(body, MAX_BODY, BODY_TIMEOUT).await
}

/// A whole body of at most so many bytes, within that time.
///
/// # Errors
/// As [`read`].
pub(super) async fn read_within(body: Body, most: usize, timeout: Duration) -> Result<bytes::Bytes, Problem> {
    let body = tokio::time::timeout(timeout, Limited::new(body, most).collect()).await;
    match body.map_err(|_| Problem::timeout())? {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Problem::too_large(most)),
        Err(error) if is_busy(&*error) => Err(Problem::busy()),
        Err(_) => Err(Problem::invalid("the body broke off")),
    }
}

fn is_busy(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| error.is::<Busy>())
}

/// A query, with nothing in it that is not known.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Console>> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Console>) -> Result<Self, Problem> {
        match Parsed::try_from_uri(&parts.uri) {
            Ok(Parsed(query)) => Ok(Self(query)),
            Err(error) => Err(Problem::invalid(explain_query(&error))),
        }
    }
}

/// The one part of the path that varies.
#[derive(Debug)]
pub(super) struct Segment(pub(super) String);

impl FromRequestParts<Arc<Console>> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, console: &Arc<Console>) -> Result<Self, Problem> {
        let segment = Path::from_request_parts(parts, console).await;
        segment.map(|Path(segment)| Self(segment)).map_err(|_| Problem::no_route())
    }
}

/// What is wrong with a body, and where in it.
fn explain_json(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let (said, path) = (error.inner().to_string(), error.path().to_string());
    if let Some(unknown) = unknown(&said) {
        return unknown.to_string();
    }
    match said.rsplit_once(" at line ") {
        Some((said, _)) if error.inner().is_data() && path != "." => format!("{path}: {said}"),
        _ => said,
    }
}

/// What is wrong with a query, and where in it.
fn explain_query(error: &QueryRejection) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    let said = causes.last().map(ToString::to_string).unwrap_or_default();
    unknown(&said).map_or_else(|| said.clone(), |unknown| unknown.to_string())
}

/// A name that is not known, and those that are.
struct Unknown<'a> {
    name: &'a str,
    known: Vec<&'a str>,
}

/// As serde says it: "unknown field `a`, expected one of `b`, `c`", and "`b` or `c`", and "`b`".
fn unknown(said: &str) -> Option<Unknown<'_>> {
    let (_, rest) = said.split_once("unknown field `")?;
    // The name is a stranger's and may have anything in it; what is known comes last.
    let (name, known) = rest.rsplit_once("`, expected ").or_else(|| rest.rsplit_once("`, there are no fields"))?;
    Some(Unknown { name, known: known.split('`').skip(1).step_by(2).collect() })
}

impl fmt::Display for Unknown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, known } = self;
        let name: String = name.chars().take(64).flat_map(char::escape_debug).collect();
        write!(f, "there is no `{name}` here")?;
        // One that was cut short, or written out, comes before one that merely has as many letters in common.
        let is_short_for = |known: &str| known.starts_with(&name) || name.starts_with(known);
        let nearest = known.iter().min_by_key(|known| (!is_short_for(known), strsim::osa_distance(known, &name)));
        match nearest {
            Some(nearest) => write!(f, "; did you mean `{nearest}`? There is {}", known.join(", ")),
            None => f.write_str("; it takes nothing"),
        }
    }
}

/// The largest whole number that JSON is sure to carry (RFC 8259 section 6).
pub(super) const MAX_WHOLE: u64 = (1 << 53) - 1;

/// A whole number, also one that is written as `5.0`: JSON has but one kind of numbers.
///
/// # Errors
/// For what is none, and for one beyond [`MAX_WHOLE`].
pub(super) fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    let whole = |number: f64| format!("{number:.0}").parse().ok().filter(|_| number.fract() == 0.0);
    let number = number.as_u64().or_else(|| number.as_f64().and_then(whole));
    let number = number.filter(|number| *number <= MAX_WHOLE);
    number.ok_or_else(|| serde::de::Error::custom("write a whole number from 0 to 9007199254740991"))
}

/// A moment, if there is one: `null` is none.
///
/// # Errors
/// For what is no moment, without repeating it.
pub(super) fn moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| moment::parse(&text)).transpose().map_err(serde::de::Error::custom)
}

/// The same where it must be one: `null` would be a condition that is none.
///
/// # Errors
/// For what is no moment, without repeating it.
pub(super) fn present_moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text = String::deserialize(deserializer)?;
    moment::parse(&text).map(Some).map_err(serde::de::Error::custom)
}

/// How long to wait for the sidecars, as `wait=5s`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wait(pub(super) Duration);

impl<'de> Deserialize<'de> for Wait {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let digits = text.strip_suffix('s').filter(|digits| !digits.starts_with(['0', '+']));
        match digits.and_then(|digits| digits.parse().ok()).filter(|seconds| (1..=60).contains(seconds)) {
            Some(seconds) => Ok(Self(Duration::from_secs(seconds))),
            None => Err(serde::de::Error::custom("write so many seconds, from 1s to 60s")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the names count")]
    struct Three {
        expires_at: Option<u8>,
        description: Option<u8>,
        inner: Option<One>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the names count")]
    struct One {
        user: Option<u8>,
    }

    fn said(json: &str) -> String {
        let mut json = serde_json::Deserializer::from_str(json);
        explain_json(&serde_path_to_error::deserialize::<_, Three>(&mut json).expect_err("refused"))
    }

    #[test]
    fn a_whole_number_is_one_however_it_is_written() {
        let of = |text: &str| whole(&mut serde_json::Deserializer::from_str(text)).ok();
        assert_eq!([of("0"), of("7"), of("7.0"), of("7e2")], [Some(0), Some(7), Some(7), Some(700)]);
        assert_eq!(of("9007199254740991"), Some(MAX_WHOLE));
        for text in ["-1", "-0.5", "7.5", "9007199254740992", "1e300", "\"7\"", "null", "true"] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused_with_what_was_probably_meant() {
        assert!(said(r#"{"expires":1}"#).starts_with("there is no `expires` here; did you mean `expires_at`?"));
        assert!(said(r#"{"descripton":1}"#).contains("did you mean `description`?"));
        assert!(said(r#"{"inner":{"users":1}}"#).contains("did you mean `user`? There is user"));
        assert!(said(r#"{"a`, expected `b`":1}"#).contains("expires_at, description, inner"));
        assert!(said(r#"{"expires_at":1,"expires_at":2}"#).contains("duplicate field"));
        assert!(said(r#"{"inner":{"user":"x"}}"#).starts_with("inner.user: invalid type: string"));
        assert!(said("{").contains("line 1 column 1"));
        let uri = "/a?expires=1".parse().expect("a URI");
        let error = Parsed::<Three>::try_from_uri(&uri).expect_err("refused");
        assert!(explain_query(&error).contains("did you mean `expires_at`?"), "{error:?}");
    }
}
