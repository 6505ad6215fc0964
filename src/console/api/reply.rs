//! Replies: JSON, never stored.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, ETAG};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::IntoParams;

use super::problem::Problem;
use crate::store::CommitId;

/// A value as JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    // Of our own types, none of which has a key that is no text, or fails by itself.
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut reply = Response::new(Body::from(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// A record as JSON, with its version as the entity tag (RFC 9110 section 8.8.3).
pub(super) fn record(value: &impl Serialize, version: CommitId) -> Response {
    let mut reply = json(StatusCode::OK, value);
    reply.headers_mut().extend(HeaderValue::try_from(format!("\"{version}\"")).ok().map(|tag| (ETAG, tag)));
    reply
}

/// On what a change of one record may rest.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it is described by this, and read by `expected`")]
pub(super) struct IfMatch {
    /// The `ETag` of the record as you saw it: where it has changed since, nothing is done.
    #[param(rename = "If-Match", nullable = false, pattern = "^(\\*|\"[0-9a-f]{32}\")$")]
    if_match: Option<String>,
}

/// The version that `If-Match` asks for; `None`: any.
///
/// # Errors
/// For a list of several, a weak one, or what is no tag of ours.
pub(super) fn expected(fields: &HeaderMap) -> Result<Option<CommitId>, Problem> {
    let mut tags = fields.get_all(http::header::IF_MATCH).iter();
    let Some(tag) = tags.next() else { return Ok(None) };
    let tag = tag.as_bytes().trim_ascii();
    if tag == b"*" && tags.next().is_none() {
        return Ok(None);
    }
    let tag = tag.strip_prefix(b"\"").and_then(|tag| tag.strip_suffix(b"\""));
    let version = tag.and_then(|tag| std::str::from_utf8(tag).ok()).and_then(|tag| tag.parse().ok());
    match version.filter(|_| tags.next().is_none()) {
        Some(version) => Ok(Some(version)),
        None => Err(Problem::invalid("If-Match: give the ETag of the record as it was sent, or leave it out")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tag_of_ours_or_none_is_expected() {
        let of = |tags: &[&str]| {
            let fields = tags.iter().map(|tag| (http::header::IF_MATCH, HeaderValue::from_str(tag).expect("a value")));
            expected(&fields.collect()).map_err(|problem| format!("{problem:?}"))
        };
        let tag = format!("\"{}\"", CommitId(7));
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["*"]), Ok(None));
        assert_eq!(of(&[&tag]), Ok(Some(CommitId(7))));
        for tags in [&["x"][..], &[""], &["\"7\""], &[&format!("W/{tag}")], &[&format!("{tag}, {tag}")], &[&tag, &tag]]
        {
            assert!(of(tags).is_err(), "{tags:?}");
        }
    }
}
