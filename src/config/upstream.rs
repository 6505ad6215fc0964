//! Reading `[upstream.api]` and `[upstream.heartbeat]`.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use http::uri::Authority;
use rustls::pki_types::ServerName;
use zeroize::Zeroizing;

use super::convert::{chain, nonzero, tls_culprit};
use super::read::Section;
use crate::tls::{self, Identity, UpstreamTlsConfig};
use crate::token::RawToken;
use crate::upstream::{CredentialMode, UpstreamConfig};

pub(super) fn upstream(section: &Section<'_>, default_port: u16) -> Option<UpstreamConfig> {
    let url = section.or("url", section.text("url", str::parse), UpstreamUrl::local(default_port));
    let tls = section.section("tls");
    let written_tls = WrittenTls {
        ca: tls.file("ca"),
        server_name: tls.text("server_name", parse_server_name),
        certificate: tls.file("certificate"),
        key: tls.file("key"),
    };
    let credential = credential(&section.section("credential"));
    let timeouts = section.section("timeouts");
    let timeout = |key, default| timeouts.duration(key).unwrap_or(Duration::from_secs(default));
    let (connect_timeout, first_byte_timeout, idle_timeout) =
        (timeout("connect", 2), timeout("first_byte", 30), timeout("idle", 30));
    let pool = section.section("pool");
    let pool_idle_timeout = pool.duration("idle_timeout").unwrap_or(Duration::from_secs(4));
    let pool_max_idle = pool.number("max_idle", 0..=65_536).and_then(|idle| usize::try_from(idle).ok()).unwrap_or(512);
    let max_in_flight = nonzero(section.number("max_in_flight", 1..=100_000), NonZeroUsize::new(512));
    let url = url?;
    Some(UpstreamConfig {
        tls: upstream_tls(section, &tls, &url, written_tls),
        host: url.host,
        port: url.port,
        authority: url.authority,
        credential: credential?,
        connect_timeout,
        first_byte_timeout,
        idle_timeout,
        pool_idle_timeout,
        pool_max_idle,
        max_in_flight,
    })
}

/// What was written of an upstream's TLS.
struct WrittenTls {
    ca: Option<PathBuf>,
    server_name: Option<ServerName<'static>>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

fn upstream_tls(
    upstream: &Section<'_>,
    section: &Section<'_>,
    url: &UpstreamUrl,
    written: WrittenTls,
) -> Option<UpstreamTlsConfig> {
    if !url.https {
        for key in ["ca", "server_name", "certificate", "key"].into_iter().filter(|key| section.node(key).is_some()) {
            section.problem(key, "the url is not https: with http nothing is verified");
        }
        return None;
    }
    for (key, other) in [("certificate", "key"), ("key", "certificate")] {
        if section.node(key).is_some() && section.node(other).is_none() {
            section.problem(key, format!("it is used together with `{other}` only"));
        }
    }
    let WrittenTls { ca, server_name, certificate, key } = written;
    let identity = certificate.zip(key).map(|(certificate, key)| Identity { certificate, key });
    let tls = UpstreamTlsConfig { ca, server_name, identity };
    if let Err(error) = tls::client_config(&tls) {
        let key = tls.identity.as_ref().map(|identity| identity.key.as_path());
        match tls_culprit(&error, tls.ca.as_deref(), key) {
            Some(culprit) => section.problem(culprit, chain(&error)),
            None => upstream.problem("url", chain(&error)),
        }
    }
    Some(tls)
}

fn parse_server_name(text: &str) -> Result<ServerName<'static>, &'static str> {
    ServerName::try_from(text.to_owned()).map_err(|_| "write a name or an address that a certificate can have")
}

fn credential(section: &Section<'_>) -> Option<CredentialMode> {
    let mode = section.text("mode", |mode| match mode {
        "forward" => Ok(Some(CredentialMode::Forward)),
        "strip" => Ok(Some(CredentialMode::Strip)),
        "replace" => Ok(None),
        _ => Err("the modes are \"forward\", \"strip\" and \"replace\""),
    });
    let token_file = section.file("token_file");
    match section.or("mode", mode, Some(CredentialMode::Forward))? {
        Some(mode) => {
            if token_file.is_some() {
                section.problem("token_file", "it is used with mode = \"replace\" only");
            }
            Some(mode)
        }
        None => {
            if section.node("token_file").is_none() {
                section.problem("token_file", "mode = \"replace\" needs a file with the Controller's service token");
            }
            let token_file = token_file?;
            if let Err(message) = read_token(&token_file) {
                section.problem("token_file", message);
            }
            Some(CredentialMode::Replace { token_file })
        }
    }
}

/// Reads a service token.
pub(super) fn read_token(file: &Path) -> Result<RawToken, String> {
    let text =
        std::fs::read(file).map(Zeroizing::new).map_err(|error| format!("reading {}: {error}", file.display()))?;
    let text = std::str::from_utf8(&text).map_err(|_| format!("{} is not text", file.display()))?;
    text.trim().parse().map_err(|error| format!("{} does not hold a token and nothing else: {error}", file.display()))
}

/// Where an upstream is: `http://host:port` or `https://host:port`, and nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
struct UpstreamUrl {
    https: bool,
    /// Without brackets.
    host: String,
    port: u16,
    /// As the `Host` field says it: without the scheme's own port.
    authority: String,
}

/// A text that is not the URL of an upstream. Names no part of it: it could be a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum InvalidUpstreamUrl {
    #[error("write http://HOST:PORT or https://HOST:PORT")]
    Form,
    #[error("only http and https upstreams are supported: write http://HOST:PORT or https://HOST:PORT")]
    Scheme,
    #[error("a user or password does not belong here; see credential.mode")]
    UserInfo,
    #[error("write it without a path or query: requests are forwarded with the path they came with")]
    Path,
    #[error("the host is neither a name nor an IP address")]
    Host,
    #[error("the port is a number from 1 to 65535")]
    Port,
}

impl UpstreamUrl {
    fn local(port: u16) -> Self {
        let host = Ipv4Addr::LOCALHOST.to_string();
        Self { https: false, authority: format!("{host}:{port}"), host, port }
    }
}

impl FromStr for UpstreamUrl {
    type Err = InvalidUpstreamUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUpstreamUrl> {
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
        authority.parse::<Authority>().map_err(|_| InvalidUpstreamUrl::Host)?;
        Ok(Self { https, host, port: port.unwrap_or(own_port), authority })
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
    }

    #[test]
    fn what_is_no_upstream_url_is_refused() {
        use InvalidUpstreamUrl::{Form, Host, Path, Port, Scheme, UserInfo};
        let cases = [
            ("", Form),
            ("127.0.0.1:8888", Form),
            ("controller", Form),
            ("ftp://h", Scheme),
            ("unix:///run/x", Scheme),
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
                let scheme = if url.https { "https" } else { "http" };
                prop_assert_eq!(format!("{scheme}://{}", url.authority).parse(), Ok(url));
            }
        }
    }
}
