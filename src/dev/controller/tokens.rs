//! Tokens with values of one's own, as the Controller takes them since its version 1.2.

use std::collections::BTreeMap;

use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::token::{Digest, RawToken};

/// Most tokens.
const MAX_TOKENS: usize = 1_000;

/// By description, which is unique. It only remembers them: this stand-in asks nobody for a token.
#[derive(Debug, Default)]
pub(super) struct Tokens(BTreeMap<String, Digest>);

/// The body of `POST /api/tokens`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewToken {
    name: String,
    permissions: Vec<String>,
    raw_token: Option<String>,
}

/// A token that was made. The value is in it only if it was made here.
#[derive(Debug, Serialize)]
pub(super) struct Created {
    pub name: String,
    pub permissions: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl Tokens {
    /// Makes one.
    ///
    /// # Errors
    /// A status and what the Controller says with it.
    pub(super) fn create(&mut self, new: NewToken) -> Result<Created, (StatusCode, String)> {
        let NewToken { name, permissions, raw_token } = new;
        let value = match &raw_token {
            Some(text) => RawToken::brought(text).map_err(|reason| (StatusCode::BAD_REQUEST, reason.to_string()))?,
            None => RawToken::generate().map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?,
        };
        let digest = value.digest();
        if self.0.values().any(|other| *other == digest) {
            return Err((StatusCode::CONFLICT, "token_value_conflict".to_owned()));
        }
        if self.0.contains_key(&name) {
            return Err((StatusCode::CONFLICT, "token_name_conflict".to_owned()));
        }
        if self.0.len() >= MAX_TOKENS {
            return Err((StatusCode::INSUFFICIENT_STORAGE, format!("this stand-in has {MAX_TOKENS} tokens at most")));
        }
        self.0.insert(name.clone(), digest);
        let token = raw_token.is_none().then(|| value.reveal().to_owned());
        Ok(Created { name, permissions, token })
    }
}
