//! What a stored answer is an answer to.

use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName, Request};
use hyper::body::Body as _;
use sha2::{Digest as _, Sha256};

use super::super::Permit;
use super::super::body::Upload;
use super::super::exchange::may_hold_token;
use super::super::path::normalise;
use crate::token::Digest;
use crate::upstream::{CredentialMode, UpstreamName};

/// What is asked for: two requests with one key may be given the same answer, if its `Vary` agrees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// Path and query as they were written. The query is exact: the Controller fills its parameters in.
    pub(super) target: String,
    pub(super) accept: Vec<u8>,
    /// The codings that are accepted, see [`codings`].
    pub(super) codings: String,
    /// Whose token the Controller sees; `None`: nobody's, or always its own.
    pub(super) credential: Option<Digest>,
    /// Where an answer is found that varies by nothing besides.
    pub(super) place: Place,
}

/// Where an answer is found: by its path, then by the query and the credential, then by the form that was asked for. So what is stored
/// of one path is together, and so is what differs in form only.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) path: Part,
    pub(super) subject: Part,
    pub(super) form: Part,
}

/// The beginning of a SHA-256.
pub(super) type Part = [u8; 16];

impl Key {
    /// Of a request for a configuration. `None`: its answer is nobody else's, since it has a body, or an identity that nobody
    /// checked, as on open routes; or it may have a token where none belongs, which must be stored nowhere.
    pub(super) fn of(request: &Request<Upload>, permit: &Permit, credential: &CredentialMode) -> Option<Self> {
        let headers = request.headers();
        let is_forwarded = *credential == CredentialMode::Forward;
        let is_unchecked = permit.admission().is_none()
            && (headers.contains_key(COOKIE) || is_forwarded && headers.contains_key(AUTHORIZATION));
        if permit.upstream() != UpstreamName::Api || !request.body().is_end_stream() || is_unchecked {
            return None;
        }
        let credential = permit.admission().filter(|_| is_forwarded).map(|admission| admission.terms.digest);
        let target = request.uri().path_and_query()?.as_str().to_owned();
        let accept = values(headers, &ACCEPT).unwrap_or_default();
        let codings = codings(headers);
        if [target.as_bytes(), &accept, codings.as_bytes()].into_iter().any(may_hold_token) {
            return None;
        }
        Some(Self::new(target, accept, codings, credential))
    }

    /// Of its parts.
    pub(super) fn new(target: String, accept: Vec<u8>, codings: String, credential: Option<Digest>) -> Self {
        // As every server reads it.
        let path = normalise(target.split('?').next().unwrap_or_default()).unwrap_or_default();
        let place = Place {
            path: path_part(&path),
            subject: part(&[target.as_bytes(), credential.as_ref().map_or(&[], |digest| digest.as_bytes())]),
            form: form(&accept, &codings, b""),
        };
        Self { target, accept, codings, credential, place }
    }

    /// Where an answer is found that varies by `vary` besides.
    pub(super) fn place(&self, vary: &[u8]) -> Place {
        match vary {
            [] => self.place,
            vary => Place { form: form(&self.accept, &self.codings, vary), ..self.place },
        }
    }
}

fn form(accept: &[u8], codings: &str, vary: &[u8]) -> Part {
    part(&[accept, codings.as_bytes(), vary])
}

/// Under what all of a path is found, as [`normalise`] has it.
pub(super) fn path_part(path: &str) -> Part {
    part(&[path.as_bytes()])
}

fn part(parts: &[&[u8]]) -> Part {
    let mut hash = Sha256::new();
    for part in parts {
        // With their lengths, so that no two lists are alike.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut beginning = Part::default();
    beginning.copy_from_slice(&hash.finalize()[..size_of::<Part>()]);
    beginning
}

/// All values of a field, in order.
pub(super) fn values(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let values: Vec<&[u8]> = headers.get_all(name).iter().map(|value| value.as_bytes().trim_ascii()).collect();
    (!values.is_empty()).then(|| values.join(b", ".as_slice()))
}

/// What `Accept-Encoding` accepts, in one spelling: order, case and weights aside, whoever accepts the same codings may be given
/// the same answer. What is refused stays so.
fn codings(headers: &HeaderMap) -> String {
    let said = values(headers, &ACCEPT_ENCODING).unwrap_or_default();
    let said = String::from_utf8_lossy(&said).to_ascii_lowercase();
    let mut codings: Vec<String> = said.split(',').filter_map(coding).collect();
    codings.sort_unstable();
    codings.dedup();
    codings.join(",")
}

fn coding(item: &str) -> Option<String> {
    let mut parts = item.split(';').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let weight = parts.find_map(|part| part.strip_prefix("q=")).and_then(|weight| weight.trim().parse::<f32>().ok());
    Some(if weight == Some(0.0) { format!("{name};q=0") } else { name.to_owned() })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn codings_are_the_same_in_every_spelling() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ACCEPT_ENCODING, HeaderValue::from_static(value));
            }
            codings(&headers)
        };
        for same in [["gzip, br", ""], ["br;q=0.5", "GZIP"], ["gzip;q=1.0,br , gzip", ""]] {
            assert_eq!(of(&same), "br,gzip", "{same:?}");
        }
        assert_eq!(of(&[]), "");
        assert_eq!(of(&["gzip;q=0, identity; q=0.000"]), "gzip;q=0,identity;q=0");
    }

    #[test]
    fn lists_that_look_alike_differ() {
        assert_ne!(part(&[b"a", b"bc"]), part(&[b"ab", b"c"]));
        let key = |target: &str| Key::new(target.to_owned(), Vec::new(), String::new(), None);
        let (plain, encoded, other) = (key("/c/a?x=1"), key("/%63/a?x=1"), key("/c/a?x=2"));
        assert_eq!(plain.place.path, encoded.place.path, "one path is forgotten in every spelling");
        assert_eq!(plain.place.path, other.place.path);
        assert_ne!(plain.place.subject, other.place.subject);
    }
}
