//! Where an upstream is.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;

use http::uri::Authority;
use rustls::pki_types::ServerName;

/// Where an upstream is: `http://host:port`, `https://host:port` or `unix:path`, and nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamUrl {
    /// Whether TLS is spoken.
    pub https: bool,
    /// Without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// As the `Host` field says it: without the scheme's own port.
    pub authority: String,
    /// The Unix socket, where it is one: the host is this one then.
    pub socket: Option<PathBuf>,
}

/// A text that is not the URL of an upstream. Names no part of it: it could be a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUpstreamUrl {
    /// No URL.
    #[error("write http://HOST:PORT, https://HOST:PORT or unix:PATH")]
    Form,
    /// Another scheme.
    #[error("only http, https and Unix sockets are supported: write http://HOST:PORT, https://HOST:PORT or unix:PATH")]
    Scheme,
    /// With a user.
    #[error("a user or password does not belong here; see credential.mode")]
    UserInfo,
    /// With more than an address.
    #[error("write it without a path or query: requests are forwarded with the path they came with")]
    Path,
    /// A path that no socket can have.
    #[error("the path of a Unix socket has at most {LONGEST_PATH} bytes, and no NUL")]
    Socket,
    #[error("the host is not a host name or an IP address")]
    Host,
    #[error("the port is a number from 1 to 65535")]
    Port,
}

/// `sun_path` of Linux, less the NUL at its end.
const LONGEST_PATH: usize = 107;

impl UpstreamUrl {
    /// `http` on this host.
    pub(crate) fn local(port: u16) -> Self {
        let host = Ipv4Addr::LOCALHOST.to_string();
        Self { https: false, authority: format!("{host}:{port}"), host, port, socket: None }
    }
}

impl FromStr for UpstreamUrl {
    type Err = InvalidUpstreamUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUpstreamUrl> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.starts_with("//")) {
            let host = "localhost".to_owned();
            let socket = match path.len() {
                0 => return Err(InvalidUpstreamUrl::Form),
                1..=LONGEST_PATH if !path.contains('\0') => Some(path.into()),
                _ => return Err(InvalidUpstreamUrl::Socket),
            };
            return Ok(Self { https: false, authority: host.clone(), host, port: 0, socket });
        }
        let (scheme, rest) = text.split_once("://").ok_or(InvalidUpstreamUrl::Form)?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(InvalidUpstreamUrl::Scheme),
        };
        if rest.contains('@') {
            return Err(InvalidUpstreamUrl::UserInfo);
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '\\']) {
            return Err(InvalidUpstreamUrl::Path);
        }
        let (written, port) = match rest.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => (host, Some(parse_port(port)?)),
            None => (rest, None),
        };
        let host = parse_host(written)?;
        if https && ServerName::try_from(host.as_str()).is_err() {
            return Err(InvalidUpstreamUrl::Host);
        }
        let own_port = if https { 443 } else { 80 };
        let written = written.to_ascii_lowercase();
        let authority = match port {
            Some(port) if port != own_port => format!("{written}:{port}"),
            _ => written,
        };
        // What no request could name is found fault with now.
        authority.parse::<Authority>().map_err(|_| InvalidUpstreamUrl::Host)?;
        Ok(Self { https, host, port: port.unwrap_or(own_port), authority, socket: None })
    }
}

impl fmt::Display for UpstreamUrl {
    /// With the port, also where it is the scheme's own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { https, host: _, port, authority, socket } = self;
        if let Some(path) = socket {
            return write!(f, "unix:{}", path.display());
        }
        let (scheme, own_port) = if *https { ("https", 443) } else { ("http", 80) };
        match *port == own_port {
            true => write!(f, "{scheme}://{authority}:{port}"),
            false => write!(f, "{scheme}://{authority}"),
        }
    }
}

fn parse_port(text: &str) -> Result<u16, InvalidUpstreamUrl> {
    let digits = Some(text).filter(|text| text.bytes().all(|digit| digit.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).filter(|port| *port != 0).ok_or(InvalidUpstreamUrl::Port)
}

/// A name, an IPv4 address, or an IPv6 address in brackets, which are removed.
fn parse_host(text: &str) -> Result<String, InvalidUpstreamUrl> {
    if let Some(address) = text.strip_prefix('[') {
        let address = address.strip_suffix(']').and_then(|address| address.parse::<IpAddr>().ok());
        return address.filter(IpAddr::is_ipv6).map(|address| address.to_string()).ok_or(InvalidUpstreamUrl::Host);
    }
    if text.parse::<Ipv4Addr>().is_ok() {
        return Ok(text.to_owned());
    }
    // A trailing dot makes a name absolute, which spares resolvers their search list.
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(allowed)
    };
    // `127.1` and `0x7f.1` are addresses to some resolvers; a name never ends in a number (RFC 1123 section 2.1).
    let numeric_end = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|digit| digit.is_ascii_digit()));
    if name.len() > 253 || numeric_end || !name.split('.').all(is_label) {
        return Err(InvalidUpstreamUrl::Host);
    }
    Ok(text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn urls_name_a_scheme_a_host_and_a_port() {
        let parts = |text: &str| {
            let url = text.parse::<UpstreamUrl>().expect(text);
            (url.https, url.host, url.port, url.authority)
        };
        let part = |https, host: &str, port, authority: &str| (https, host.to_owned(), port, authority.to_owned());
        assert_eq!(parts("http://127.0.0.1:8888"), part(false, "127.0.0.1", 8888, "127.0.0.1:8888"));
        assert_eq!(parts("http://Controller.example/"), part(false, "controller.example", 80, "controller.example"));
        assert_eq!(parts("HTTPS://a_b.svc.:443"), part(true, "a_b.svc.", 443, "a_b.svc."));
        assert_eq!(parts("https://h:80"), part(true, "h", 80, "h:80"));
        assert_eq!(parts("http://[::1]:8888"), part(false, "::1", 8888, "[::1]:8888"));
        assert_eq!(parts("https://[FD00::1]"), part(true, "fd00::1", 443, "[fd00::1]"));
        assert_eq!("http://127.0.0.1:8888".parse(), Ok(UpstreamUrl::local(8888)));
        let socket: UpstreamUrl = "unix:/run/controller.sock".parse().expect("a socket");
        assert_eq!(
            (socket.socket.as_deref(), socket.authority.as_str()),
            (Some("/run/controller.sock".as_ref()), "localhost")
        );
        assert_eq!(socket.to_string(), "unix:/run/controller.sock");
    }

    #[test]
    fn what_is_no_upstream_url_is_refused() {
        use InvalidUpstreamUrl::{Form, Host, Path, Port, Scheme, Socket, UserInfo};
        let cases = [
            ("", Form),
            ("127.0.0.1:8888", Form),
            ("controller", Form),
            ("ftp://h", Scheme),
            ("unix:///run/x", Scheme),
            ("unix:", Form),
            ("unix:/run/a\0b", Socket),
            ("http://user:s3cret@h", UserInfo),
            ("http://h/api", Path),
            ("http://h?x=1", Path),
            ("http://h#x", Path),
            ("http://h//", Path),
            ("http://", Host),
            ("http:///", Host),
            ("http://:80", Host),
            ("http://h:", Port),
            ("http://h:0", Port),
            ("http://h:65536", Port),
            ("http://h:+80", Port),
            ("http://h:x", Port),
            ("http://::1", Host),
            ("http://[::1", Host),
            ("http://[127.0.0.1]", Host),
            ("http://[fe80::1%25eth0]", Host),
            ("http://127.1", Host),
            ("http://256.0.0.1", Host),
            ("http://a..b", Host),
            ("http://h o", Host),
            ("http://é", Host),
            ("http://a,b", Host),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<UpstreamUrl>(), Err(expected), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(https?://)?[a-z0-9.:\\[\\]/@%_é-]{0,20}") {
            if let Ok(url) = text.parse::<UpstreamUrl>() {
                prop_assert_eq!(url.to_string().parse(), Ok(url));
            }
        }
    }
}
