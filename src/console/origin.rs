//! Where the console is reached, and which requests are meant for it.
//!
//! A page of a stranger's can have a browser send requests to this host under the stranger's own name (DNS rebinding). So a
//! request is answered only under a name that is known to be ours: the configured one, an address, or `localhost`. An
//! address cannot be rebound.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::HOST;
use http::uri::{Authority, Scheme, Uri};

use super::Console;
use super::api::problem::Problem;

/// `https://HOST[:PORT][/PREFIX]`: where people and programs reach the console, through a proxy for example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    is_https: bool,
    host: String,
    port: u16,
    /// Empty, or beginning with a slash and ending with none.
    prefix: String,
}

/// A text that is not a [`PublicUrl`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "write it as https://HOST[:PORT], with a path if there is one before the console's own, such as https://ops.example/tollgate"
)]
pub struct InvalidPublicUrl;

impl PublicUrl {
    /// The path before the console's own: empty, or such as `/tollgate`.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether browsers come over TLS, whatever this process sees of that.
    pub(super) fn is_https(&self) -> bool {
        self.is_https
    }

    /// Scheme, host and port, as browsers write the origin of a page (RFC 6454 section 6.2).
    pub(super) fn origin(&self) -> String {
        Self { prefix: String::new(), ..self.clone() }.to_string()
    }

    fn is_of(&self, authority: &Authority) -> bool {
        let port = authority.port_u16().unwrap_or(if self.is_https { 443 } else { 80 });
        authority.host().eq_ignore_ascii_case(&self.host) && port == self.port
    }
}

impl FromStr for PublicUrl {
    type Err = InvalidPublicUrl;

    fn from_str(text: &str) -> Result<Self, InvalidPublicUrl> {
        let uri: Uri = text.parse().map_err(|_| InvalidPublicUrl)?;
        let is_https = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(InvalidPublicUrl),
        };
        let authority =
            uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or(InvalidPublicUrl)?;
        let prefix = uri.path().trim_end_matches('/');
        let is_plain = |segment: &str| {
            let is_in_segments = |byte: u8| byte.is_ascii_alphanumeric() || b"._-~".contains(&byte);
            !segment.is_empty() && !matches!(segment, "." | "..") && segment.bytes().all(is_in_segments)
        };
        let is_sound = uri.query().is_none()
            && !text.contains('#')
            && !authority.host().is_empty()
            && (authority.as_str() == authority.host() || authority.port_u16().is_some())
            && prefix.split('/').skip(1).all(is_plain);
        match is_sound {
            true => Ok(Self {
                is_https,
                host: authority.host().to_ascii_lowercase(),
                port: authority.port_u16().unwrap_or(if is_https { 443 } else { 80 }),
                prefix: prefix.to_owned(),
            }),
            false => Err(InvalidPublicUrl),
        }
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { is_https, host, port, prefix } = self;
        let (scheme, usual) = if *is_https { ("https", 443) } else { ("http", 80) };
        write!(f, "{scheme}://{host}")?;
        if *port != usual {
            write!(f, ":{port}")?;
        }
        f.write_str(prefix)
    }
}

/// Lets through what is sent to a name that is ours.
pub(super) async fn check(State(console): State<Arc<Console>>, request: Request, next: Next) -> Response {
    let mut fields = request.headers().get_all(HOST).iter();
    let field = fields.next().filter(|_| fields.next().is_none());
    let authority = field.and_then(|field| Authority::try_from(field.as_bytes()).ok());
    let target = request.uri().authority();
    let is_ours = |authority: &Authority| {
        is_unmistakable(authority) || console.public_url.as_ref().is_some_and(|url| url.is_of(authority))
    };
    // The target may name a host too, and is believed no more.
    match authority.is_some_and(|authority| is_ours(&authority)) && target.is_none_or(is_ours) {
        true => next.run(request).await,
        false => Problem::misdirected().into_response(),
    }
}

/// An address, or this very machine: no name that somebody else could have lead here.
fn is_unmistakable(authority: &Authority) -> bool {
    let host = authority.host();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    !authority.as_str().contains('@') && (host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_comes_back_from_its_text() {
        for text in
            ["https://ops.example", "http://ops.example:9900", "https://ops.example/tollgate/a", "https://[::1]:1"]
        {
            assert_eq!(text.parse::<PublicUrl>().expect(text).to_string(), text);
        }
        let url: PublicUrl = "https://Ops.Example:443/tollgate/".parse().expect("valid");
        assert_eq!((url.to_string().as_str(), url.prefix()), ("https://ops.example/tollgate", "/tollgate"));
    }

    #[test]
    fn what_is_no_public_url_is_refused() {
        for text in [
            "",
            "ops.example",
            "ftp://ops.example",
            "https://",
            "https://user@ops.example",
            "https://ops.example/?a",
            "https://ops.example/#a",
            "https://ops.example//a",
            "https://ops.example/../a",
            "https://ops.example/{a}",
            "https://ops.example:99999",
        ] {
            assert_eq!(text.parse::<PublicUrl>(), Err(InvalidPublicUrl), "{text}");
        }
    }

    #[test]
    fn only_names_that_are_known_are_ours() {
        let authority = |text: &str| text.parse::<Authority>().expect("an authority");
        for text in ["127.0.0.1:9900", "localhost", "LOCALHOST:1", "[::1]:9900", "10.0.0.7"] {
            assert!(is_unmistakable(&authority(text)), "{text}");
        }
        for text in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "a@127.0.0.1"] {
            assert!(!is_unmistakable(&authority(text)), "{text}");
        }
        let url: PublicUrl = "https://ops.example/tollgate".parse().expect("valid");
        assert!(url.is_of(&authority("OPS.example")) && url.is_of(&authority("ops.example:443")));
        assert!(!url.is_of(&authority("ops.example:80")) && !url.is_of(&authority("evil.example")));
    }
}
