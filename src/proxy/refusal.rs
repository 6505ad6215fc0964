//! The replies that Tollgate makes itself.
//!
//! Every one is `{"error": TEXT, "request_id": ID}`, is never cached, and never carries a `Last-Modified`: an agent that
//! watches its configuration compares that field without looking at the status, and would reload.

use super::path::AmbiguousPath;
use crate::http1::head::{BareLf, BrokenFraming};
use crate::token::Permission;
use crate::words::words;

/// Why a request is not served. What the client sees follows from it; so do the status and the log's reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The head is not HTTP/1.1 (RFC 9112).
    #[error("Malformed request: {0}")]
    Malformed(&'static str),
    /// A line of the head ends with LF alone.
    #[error("Malformed request: {0}")]
    BareLf(#[from] BareLf),
    /// The end of the body cannot be determined for sure.
    #[error("Malformed request: {0}")]
    Framing(#[from] BrokenFraming),
    /// The path could be read in two ways.
    #[error("Ambiguous path: {0}")]
    Path(#[from] AmbiguousPath),
    /// `Host` or `:authority` is missing, is there twice, or is not one authority (RFC 9112 section 3.2).
    #[error("Missing or invalid Host header")]
    Host,
    /// `Connection` names a field that must not be removed on a client's word.
    #[error("Connection header names a protected field")]
    ConnectionOption,
    /// A version of HTTP other than 1.0, 1.1 and 2.
    #[error("HTTP version not supported")]
    Version,
    /// `Expect` with anything but `100-continue` (RFC 9110 section 10.1.1).
    #[error("Expectation failed")]
    Expectation,
    /// More fields or bytes than the limits allow.
    #[error("Request head too large")]
    HeadTooLarge,
    /// A body over the limit.
    #[error("Request body too large")]
    BodyTooLarge,
    /// The body is not what its framing said.
    #[error("Malformed request body")]
    BrokenBody,
    /// The client took too long.
    #[error("Request timeout")]
    Timeout,
    /// No such path.
    #[error("Not found")]
    NoRoute,
    /// The path exists, with other methods.
    #[error("Method not allowed")]
    Method {
        /// The methods it has.
        allow: String,
    },
    /// No `Authorization` field, several, or one of another form.
    #[error("Missing or invalid Authorization header")]
    NoCredential,
    /// Not a token of Telegraf Controller.
    #[error("Invalid token format")]
    TokenFormat,
    /// Unknown, revoked, deleted, or its owner is disabled.
    #[error("Invalid token")]
    UnknownToken,
    /// Past its expiry.
    #[error("Token expired")]
    Expired,
    /// A good token without the permission.
    #[error("Insufficient permissions: {0} required")]
    Permission(Permission),
    /// The replica was not proven fresh within the bound, or a later change to this token or its owner is known, so neither
    /// yes nor no can be said.
    #[error("Token registry unavailable")]
    Stale,
    /// A balancer asked, and the sidecar wants no requests: why.
    #[error("Not ready: {0}")]
    NotReady(&'static str),
    /// The client has had too many refusals for want of a good token.
    #[error("Too many failed authentications")]
    TooManyFailures {
        /// Seconds until there may be another one.
        retry_after: String,
    },
    /// The upstream cannot be reached, or does not speak HTTP/1.1.
    #[error("Upstream unavailable")]
    Upstream,
    /// The upstream did not answer in time.
    #[error("Upstream timeout")]
    UpstreamTimeout,
    /// The upstream refused the credential that it got from Tollgate in the place of the client's, whose token is good.
    #[error("Upstream does not accept the sidecar's credential")]
    UpstreamCredential,
    /// As many requests are in flight to the upstream as may be, and none ended in time.
    #[error("Upstream overloaded")]
    Overloaded,
    /// The upstream failed, and for this client no reply is better.
    #[error("No reply")]
    Withheld,
    /// The client is gone, so there is nobody to reply to.
    #[error("Client gone")]
    Gone,
}

words! {
    /// Which [`Refusal`] it was, without what else is known of it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub enum Reason {
        /// The head is not HTTP/1.1.
        Malformed = "malformed",
        /// The end of the body cannot be determined for sure.
        Framing = "framing",
        /// The path could be read in two ways.
        AmbiguousPath = "ambiguous_path",
        /// No `Host`, several, or one that is no authority.
        Host = "host",
        /// `Connection` names a protected field.
        ConnectionOption = "connection_option",
        /// Another version of HTTP.
        Version = "version",
        /// `Expect` with anything but `100-continue`.
        Expectation = "expectation",
        /// More fields or bytes than the limits allow.
        HeadTooLarge = "head_too_large",
        /// A body over the limit.
        BodyTooLarge = "body_too_large",
        /// The body is not what its framing said.
        BrokenBody = "broken_body",
        /// The client took too long.
        Timeout = "timeout",
        /// No such path.
        NoRoute = "no_route",
        /// The path has other methods.
        Method = "method",
        /// No token, or not as it is sent.
        NoCredential = "no_credential",
        /// Not a token of Telegraf Controller.
        TokenFormat = "token_format",
        /// Unknown, revoked, deleted, or its owner is disabled.
        UnknownToken = "unknown_token",
        /// A token past its expiry.
        Expired = "expired",
        /// A good token without the permission.
        Permission = "permission",
        /// Over `limits.failed_auth`.
        TooManyFailures = "too_many_failures",
        /// The replica was not proven fresh within the bound.
        Stale = "stale",
        /// A balancer asked, and the sidecar is not ready.
        NotReady = "not_ready",
        /// The upstream cannot be reached, or does not speak HTTP/1.1.
        Upstream = "upstream",
        /// The upstream did not answer in time.
        UpstreamTimeout = "upstream_timeout",
        /// The upstream refused the sidecar's credential.
        UpstreamCredential = "upstream_credential",
        /// As many requests are in flight to the upstream as may be.
        Overloaded = "overloaded",
        /// The upstream failed, and for this client no reply is better.
        Withheld = "withheld",
        /// The client is gone.
        Gone = "gone",
    }
}

/// Seconds after which a client should try again. The store is asked every second.
const RETRY_AFTER: &str = "5";

impl Refusal {
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed(_)
            | Self::BareLf(_)
            | Self::Framing(BrokenFraming::ContentLength | BrokenFraming::Both | BrokenFraming::TransferEncoding)
            | Self::Path(_)
            | Self::Host
            | Self::ConnectionOption
            | Self::BrokenBody => 400,
            Self::NoCredential | Self::TokenFormat | Self::UnknownToken | Self::Expired => 401,
            Self::Permission(_) => 403,
            Self::NoRoute => 404,
            Self::Method { .. } => 405,
            Self::Timeout => 408,
            Self::BodyTooLarge => 413,
            Self::Expectation => 417,
            Self::TooManyFailures { .. } => 429,
            Self::HeadTooLarge => 431,
            Self::Framing(BrokenFraming::UnknownCoding) => 501,
            Self::Gone => 499, // in the log only, where nginx says it so
            Self::Upstream | Self::Withheld => 502,
            Self::UpstreamCredential => 502, // not 401: an agent's token is as good as it was
            Self::Stale => 503,              // not 401: that would blame a good token
            Self::Overloaded | Self::NotReady(_) => 503,
            Self::UpstreamTimeout => 504,
            Self::Version => 505,
        }
    }

    /// The reason phrase of the status.
    #[must_use]
    pub fn phrase(&self) -> &'static str {
        let status = http::StatusCode::from_u16(self.status()).ok();
        status.and_then(|status| status.canonical_reason()).unwrap_or("Error")
    }

    /// Which of the reasons it was, for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Malformed(_) | Self::BareLf(_) => Reason::Malformed,
            Self::Framing(_) => Reason::Framing,
            Self::Path(_) => Reason::AmbiguousPath,
            Self::Host => Reason::Host,
            Self::ConnectionOption => Reason::ConnectionOption,
            Self::Version => Reason::Version,
            Self::Expectation => Reason::Expectation,
            Self::HeadTooLarge => Reason::HeadTooLarge,
            Self::BodyTooLarge => Reason::BodyTooLarge,
            Self::BrokenBody => Reason::BrokenBody,
            Self::Timeout => Reason::Timeout,
            Self::NoRoute => Reason::NoRoute,
            Self::Method { .. } => Reason::Method,
            Self::NoCredential => Reason::NoCredential,
            Self::TokenFormat => Reason::TokenFormat,
            Self::UnknownToken => Reason::UnknownToken,
            Self::Expired => Reason::Expired,
            Self::Permission(_) => Reason::Permission,
            Self::TooManyFailures { .. } => Reason::TooManyFailures,
            Self::Stale => Reason::Stale,
            Self::NotReady(_) => Reason::NotReady,
            Self::Upstream => Reason::Upstream,
            Self::UpstreamTimeout => Reason::UpstreamTimeout,
            Self::UpstreamCredential => Reason::UpstreamCredential,
            Self::Overloaded => Reason::Overloaded,
            Self::Withheld => Reason::Withheld,
            Self::Gone => Reason::Gone,
        }
    }

    /// Whether the connection ends, or the stream is reset, without a reply.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Withheld | Self::Gone)
    }

    /// Whether what follows on the connection cannot be separated from this request any more.
    #[must_use]
    pub fn ends_connection(&self) -> bool {
        matches!(
            self,
            Self::Malformed(_)
                | Self::BareLf(_)
                | Self::Framing(_)
                | Self::Version
                | Self::HeadTooLarge
                | Self::BrokenBody
                | Self::Timeout
        )
    }

    /// The fields that go with it, without those of framing.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let own = match self {
            // RFC 6750 section 3: no error code when no credential was given.
            Self::NoCredential => Some(("WWW-Authenticate", "Bearer realm=\"tollgate\"")),
            Self::TokenFormat | Self::UnknownToken => {
                Some(("WWW-Authenticate", "Bearer realm=\"tollgate\", error=\"invalid_token\""))
            }
            Self::Expired => Some((
                "WWW-Authenticate",
                "Bearer realm=\"tollgate\", error=\"invalid_token\", error_description=\"The token expired\"",
            )),
            Self::Method { allow } => Some(("Allow", allow.as_str())),
            Self::TooManyFailures { retry_after } => Some(("Retry-After", retry_after.as_str())),
            Self::Stale | Self::Overloaded | Self::NotReady(_) => Some(("Retry-After", RETRY_AFTER)),
            _ => None,
        };
        [("Content-Type", "application/json"), ("Cache-Control", "no-store")].into_iter().chain(own)
    }

    /// Writes the body. None of the texts has a character that JSON would escape.
    pub fn write_body(&self, request_id: &[u8], out: &mut Vec<u8>) {
        use std::io::Write as _;
        // Writing to a Vec cannot fail.
        drop(write!(out, "{{\"error\":\"{self}\",\"request_id\":\"{}\"}}", request_id.escape_ascii()));
    }

    /// Appends the whole reply in HTTP/1.1.
    pub fn write_http1(&self, request_id: &[u8], date: &[u8], close: bool, to_head: bool, out: &mut Vec<u8>) {
        use std::io::Write as _;
        drop(write!(out, "HTTP/1.1 {} {}\r\n", self.status(), self.phrase()));
        for (name, value) in self.fields() {
            for part in [name.as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(date);
        let mut body = Vec::with_capacity(128);
        self.write_body(request_id, &mut body);
        let connection = if close { "Connection: close\r\n" } else { "" };
        drop(write!(out, "\r\n{connection}Content-Length: {}\r\n\r\n", body.len()));
        if !to_head {
            out.extend_from_slice(&body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table that agents' logs and scripts rely on.
    #[test]
    fn authentication_replies_have_the_controllers_texts() {
        let cases = [
            (Refusal::NoCredential, 401, "Missing or invalid Authorization header"),
            (Refusal::TokenFormat, 401, "Invalid token format"),
            (Refusal::UnknownToken, 401, "Invalid token"),
            (Refusal::Expired, 401, "Token expired"),
            (
                Refusal::Permission(crate::token::permission::HEARTBEAT_WRITE),
                403,
                "Insufficient permissions: heartbeat:write required",
            ),
            (Refusal::Stale, 503, "Token registry unavailable"),
        ];
        for (refusal, status, text) in cases {
            assert_eq!((refusal.status(), refusal.to_string().as_str()), (status, text));
        }
    }

    #[test]
    fn a_reply_is_json_with_its_framing_and_nothing_to_cache() {
        let mut out = Vec::new();
        Refusal::Stale.write_http1(b"id1", b"D", true, false, &mut out);
        let text = String::from_utf8(out).expect("text");
        let body = "{\"error\":\"Token registry unavailable\",\"request_id\":\"id1\"}";
        assert_eq!(
            text,
            format!(
                "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n\
                 Retry-After: 5\r\nDate: D\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
        );
    }
}
