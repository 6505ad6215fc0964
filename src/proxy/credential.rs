//! The credential of a request: exactly one `Authorization` field with one token.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::refusal::Refusal;
use crate::token::Digest;
use crate::token::raw::PREFIX;

/// The digest of the token that a request shows.
///
/// # Errors
/// [`Refusal::NoCredential`] where there is none or more than one, and as [`digest`].
pub(crate) fn of(fields: &HeaderMap) -> Result<Digest, Refusal> {
    // Of several none is chosen: the upstream might choose another.
    let mut credentials = fields.get_all(AUTHORIZATION).iter();
    let credential = credentials.next().filter(|_| credentials.next().is_none());
    digest(credential.ok_or(Refusal::NoCredential)?.as_bytes())
}

/// Takes the token out of an `Authorization` value and digests it. The raw token is not copied.
///
/// The form is `Bearer <token>` or `Token <token>`, the scheme in any case (RFC 9110 section 11.1), one or more spaces
/// between them (RFC 9110 section 11.4), nothing after.
///
/// # Errors
/// [`Refusal::NoCredential`] for another form, [`Refusal::TokenFormat`] for what is not a token of Telegraf Controller.
pub fn digest(authorization: &[u8]) -> Result<Digest, Refusal> {
    let (scheme, rest) = authorization.split_at_checked(6).ok_or(Refusal::NoCredential)?;
    let token = match (scheme, rest) {
        (scheme, [b' ', rest @ ..]) if scheme.eq_ignore_ascii_case(b"bearer") => rest,
        (scheme, rest) if scheme.eq_ignore_ascii_case(b"token ") => rest,
        _ => return Err(Refusal::NoCredential),
    };
    let token = token.trim_ascii();
    // Without an early exit, so that the compiler looks at many bytes at once.
    let is_one = token.iter().fold(true, |is_one, byte| is_one & byte.is_ascii_graphic() & (*byte != b','));
    if token.is_empty() || !is_one {
        return Err(Refusal::NoCredential);
    }
    match token.strip_prefix(PREFIX.as_bytes()) {
        None | Some([]) => Err(Refusal::TokenFormat),
        Some(_) => Ok(Digest::of(token)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_token_after_bearer_or_token_is_a_credential() {
        let expected = Digest::of(b"tc-apiv1_abc");
        for value in ["Bearer tc-apiv1_abc", "bearer tc-apiv1_abc", "TOKEN tc-apiv1_abc", "Token   tc-apiv1_abc "] {
            assert_eq!(digest(value.as_bytes()), Ok(expected), "{value}");
        }
    }

    #[test]
    fn other_forms_are_no_credential() {
        let cases = [
            "",
            "Bearer",
            "Bearer ",
            "Token",
            "Token ",
            "Basic dXNlcjpwYXNz",
            "tc-apiv1_abc",
            "Bearertc-apiv1_abc",
            "Tokentc-apiv1_abc",
            "Bearer tc-apiv1_abc tc-apiv1_def",
            "Bearer tc-apiv1_abc, Bearer tc-apiv1_def",
            "Bearer tc-apiv1_abc,",
            "Bearer tc-apiv1_\u{e9}",
            "Bearer\ttc-apiv1_abc",
            "Bearer: tc-apiv1_abc",
        ];
        for value in cases {
            assert_eq!(digest(value.as_bytes()), Err(Refusal::NoCredential), "{value}");
        }
    }

    #[test]
    fn other_tokens_have_the_wrong_format() {
        for value in ["Bearer abc", "Bearer tc-apiv1_", "Bearer TC-APIV1_abc", "Token tc-apiv2_abc"] {
            assert_eq!(digest(value.as_bytes()), Err(Refusal::TokenFormat), "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_only_whole_tokens_pass(value in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(found) = digest(&value) {
                let at = value.windows(PREFIX.len()).position(|part| part == PREFIX.as_bytes()).expect("the prefix");
                prop_assert_eq!(found, Digest::of(value[at..].trim_ascii_end()));
            }
        }
    }
}
