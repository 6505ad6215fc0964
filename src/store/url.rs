//! Store URLs: which store, and where.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

/// Where the registry is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// `sqlite:PATH`: one file on this host.
    Sqlite(PathBuf),
    /// `redis://`, `redis-sentinel://` or `redis-cluster://`, each also with `rediss` for TLS: shared by a fleet.
    Redis(RedisUrl),
}

/// `SCHEME://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]...][/...]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// Where, and how the primary is found.
    pub topology: Topology,
    /// Connect with TLS, also to Sentinels.
    pub tls: bool,
    /// The ACL user; `None`: the default one.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<Password>,
    /// The database's number; always 0 on a cluster.
    pub database: u32,
}

/// How the primary is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// `redis://HOST[:PORT][/DATABASE]`: it is this one.
    Single(Server),
    /// `redis-sentinel://HOST[:PORT],.../NAME[/DATABASE]`: Sentinels say which one it is.
    Sentinel {
        /// The Sentinels, in the order to ask them.
        sentinels: Vec<Server>,
        /// What they call the primary.
        name: String,
    },
    /// `redis-cluster://HOST[:PORT],...`: the nodes say who has the namespace's slot.
    Cluster(Vec<Server>),
}

/// A server's address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Server {
    /// A name or an address; an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
}

/// A password. It zeroes itself, and is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Takes the text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text: for the server, and nobody else.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// A text that is not a store URL. Never shows what may be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidStoreUrl {
    /// No scheme, or an unknown one.
    #[error(
        "this is not a store URL: write sqlite:PATH, redis://HOST, redis-sentinel://HOST,HOST/NAME or redis-cluster://HOST,HOST (rediss for TLS)"
    )]
    Scheme,
    #[error("sqlite: needs a path, such as sqlite:/var/lib/tollgate/tollgate.db")]
    NoPath,
    /// A memory database would be another one for every connection.
    #[error("sqlite::memory: cannot be shared between commands; name a file")]
    Memory,
    /// SQLite's own URI options are not supported.
    #[error("sqlite:PATH takes no options (remove everything from the `?` on)")]
    Options,
    /// A Redis URL with `?` or `#`.
    #[error("a Redis URL takes no options (remove everything from the `{0}` on); the keys below [store] have them")]
    RedisOptions(char),
    /// One of the addresses, counted from 1. What is written there is not shown.
    #[error("address {0} of the URL is not a host name or an address (an IPv6 address looks like [::1]:6379)")]
    Host(usize),
    #[error("address {0} of the URL has no valid port (1 to 65535; an IPv6 address needs brackets)")]
    Port(usize),
    /// Several addresses of one server.
    #[error("redis:// names one server; several are redis-sentinel:// or redis-cluster://")]
    SeveralServers,
    /// Sentinels, without what they call the primary.
    #[error("name the primary after the Sentinels: redis-sentinel://HOST,HOST/NAME")]
    NoPrimaryName,
    /// A database, or anything else, after the nodes of a cluster.
    #[error("a cluster has one database only: remove what follows the hosts")]
    ClusterPath,
    /// Something else than a number after the hosts.
    #[error("the database is a number, such as /0")]
    Database,
    /// The part before the `@`.
    #[error("the user or password is not valid: write special characters as %XX")]
    Credentials,
    /// A user with a colon: as a rule it is the password that follows it, and a user is shown.
    #[error("the user has a `:` in it, written as %3A: write the `:` between user and password as it is")]
    Username,
}

impl FromStr for StoreUrl {
    type Err = InvalidStoreUrl;

    fn from_str(text: &str) -> Result<Self, InvalidStoreUrl> {
        // Nothing of the text is repeated: any part of it may be a password, or a part of one.
        let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
        let (tls, kind) = match scheme {
            "sqlite" => return sqlite(rest),
            "redis" | "redis-sentinel" | "redis-cluster" => (false, scheme),
            "rediss" => (true, "redis"),
            "rediss-sentinel" => (true, "redis-sentinel"),
            "rediss-cluster" => (true, "redis-cluster"),
            _ => return Err(InvalidStoreUrl::Scheme),
        };
        let rest = rest.strip_prefix("//").ok_or(InvalidStoreUrl::Scheme)?;
        redis(kind, tls, rest).map(Self::Redis)
    }
}

fn sqlite(path: &str) -> Result<StoreUrl, InvalidStoreUrl> {
    let path = path.strip_prefix("//").unwrap_or(path);
    match path {
        "" => Err(InvalidStoreUrl::NoPath),
        ":memory:" => Err(InvalidStoreUrl::Memory),
        _ if path.contains('?') => Err(InvalidStoreUrl::Options),
        _ => Ok(StoreUrl::Sqlite(PathBuf::from(path))),
    }
}

fn redis(kind: &str, tls: bool, rest: &str) -> Result<RedisUrl, InvalidStoreUrl> {
    // A password may hold any character but these three, which it has as %XX.
    let (credentials, rest) = match rest.rsplit_once('@') {
        Some((credentials, rest)) => (Some(credentials), rest),
        None => (None, rest),
    };
    if let Some(symbol) = rest.chars().find(|symbol| matches!(symbol, '?' | '#')) {
        return Err(InvalidStoreUrl::RedisOptions(symbol));
    }
    let (username, password) = credentials.map_or(Ok((None, None)), parse_credentials)?;
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let default_port = if kind == "redis-sentinel" { 26379 } else { 6379 };
    let servers = hosts.split(',').zip(1..).map(|(text, place)| parse_server(text, place, default_port));
    let mut servers = servers.collect::<Result<Vec<_>, _>>()?;
    let (topology, database) = match kind {
        "redis" if servers.len() > 1 => return Err(InvalidStoreUrl::SeveralServers),
        "redis" => (Topology::Single(servers.remove(0)), path),
        "redis-sentinel" => {
            let (name, database) = path.split_once('/').unwrap_or((path, ""));
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            if name.is_empty() || !name.bytes().all(allowed) {
                return Err(InvalidStoreUrl::NoPrimaryName);
            }
            (Topology::Sentinel { sentinels: servers, name: name.to_owned() }, database)
        }
        _ if path.is_empty() => (Topology::Cluster(servers), ""),
        _ => return Err(InvalidStoreUrl::ClusterPath),
    };
    let database = match database {
        "" => 0,
        number => number.parse().map_err(|_| InvalidStoreUrl::Database)?,
    };
    Ok(RedisUrl { topology, tls, username, password, database })
}

fn parse_credentials(text: &str) -> Result<(Option<String>, Option<Password>), InvalidStoreUrl> {
    let (username, password) = match text.split_once(':') {
        Some((username, password)) => (username, Some(password)),
        None => (text, None),
    };
    let username = decode_percent(username).ok_or(InvalidStoreUrl::Credentials)?;
    if username.contains(':') {
        return Err(InvalidStoreUrl::Username);
    }
    let password = match password {
        Some(password) => Some(Password::new(decode_percent(password).ok_or(InvalidStoreUrl::Credentials)?)),
        None => None,
    };
    Ok(((!username.is_empty()).then_some(username), password))
}

/// RFC 3986 section 2.1.
fn decode_percent(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

/// Everything but what is never encoded (RFC 3986 section 2.3).
fn encode_percent(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encode = |byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(encode).collect()
}

fn parse_server(text: &str, place: usize, default_port: u16) -> Result<Server, InvalidStoreUrl> {
    let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((host, rest))) if host.parse::<Ipv6Addr>().is_ok() => (host, rest),
        Some(_) => return Err(InvalidStoreUrl::Host(place)),
        // At the first colon: an IPv6 address without brackets ends up with a port that is none.
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
    if host.is_empty() || !host.bytes().all(is_name) {
        return Err(InvalidStoreUrl::Host(place));
    }
    let port = match port {
        "" | ":" => default_port,
        port => port
            .strip_prefix(':')
            .and_then(|port| port.parse().ok())
            .filter(|port| *port != 0)
            .ok_or(InvalidStoreUrl::Port(place))?,
    };
    Ok(Server { host: host.to_owned(), port })
}

impl fmt::Display for StoreUrl {
    /// As it is parsed again, but without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The first two of these slashes would be taken for those of a URL.
            Self::Sqlite(path) if path.to_string_lossy().starts_with("//") => write!(f, "sqlite://{}", path.display()),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Redis(url) => url.fmt(f),
        }
    }
}

impl fmt::Display for RedisUrl {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topology, tls, username, password: _, database } = self;
        let scheme = if *tls { "rediss" } else { "redis" };
        let (kind, servers) = match topology {
            Topology::Single(server) => ("", std::slice::from_ref(server)),
            Topology::Sentinel { sentinels, .. } => ("-sentinel", sentinels.as_slice()),
            Topology::Cluster(nodes) => ("-cluster", nodes.as_slice()),
        };
        write!(f, "{scheme}{kind}://")?;
        if let Some(username) = username {
            write!(f, "{}@", encode_percent(username))?;
        }
        for (at, server) in servers.iter().enumerate() {
            write!(f, "{}{server}", if at == 0 { "" } else { "," })?;
        }
        if let Topology::Sentinel { name, .. } = topology {
            write!(f, "/{name}")?;
        }
        match database {
            0 => Ok(()),
            number => write!(f, "/{number}"),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl<'de> Deserialize<'de> for StoreUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_file() {
        let parse = |text: &str| text.parse::<StoreUrl>();
        let path = |path: &str| Ok(StoreUrl::Sqlite(PathBuf::from(path)));
        assert_eq!(parse("sqlite:tollgate.db"), path("tollgate.db"));
        assert_eq!(parse("sqlite:/var/lib/a.db"), path("/var/lib/a.db"));
        assert_eq!(parse("sqlite:///var/lib/a.db"), path("/var/lib/a.db"));
        assert_eq!(parse("sqlite:"), Err(InvalidStoreUrl::NoPath));
        assert_eq!(parse("sqlite::memory:"), Err(InvalidStoreUrl::Memory));
        assert_eq!(parse("sqlite:a?mode=ro"), Err(InvalidStoreUrl::Options));
        assert_eq!(parse("tollgate.db"), Err(InvalidStoreUrl::Scheme));
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_is_read_as_the_same(path in "[/a-z:% é]{1,9}", user in "[^:\\PC]{0,9}", database in 0..9_u32) {
            if let Ok(url) = format!("sqlite:{path}").parse::<StoreUrl>() {
                proptest::prop_assert_eq!(url.to_string().parse(), Ok(url));
            }
            let url = RedisUrl { username: (!user.is_empty()).then_some(user), database, ..redis("redis://h") };
            proptest::prop_assert_eq!(url.to_string().parse(), Ok(StoreUrl::Redis(url)));
        }
    }

    fn redis(text: &str) -> RedisUrl {
        match text.parse() {
            Ok(StoreUrl::Redis(url)) => url,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn urls_name_servers() {
        let server = |host: &str, port| Server { host: host.to_owned(), port };
        let plain = redis("redis://cache");
        assert_eq!(plain.topology, Topology::Single(server("cache", 6379)));
        assert_eq!((plain.tls, plain.username, plain.password, plain.database), (false, None, None, 0));
        let full = redis("rediss://sidecar:p%40ss@[::1]:7000/3");
        assert_eq!(full.topology, Topology::Single(server("::1", 7000)));
        assert_eq!((full.tls, full.username.as_deref(), full.database), (true, Some("sidecar"), 3));
        assert_eq!(full.password, Some(Password::new("p@ss".to_owned())));
        let sentinels = vec![server("a", 26379), server("b", 1)];
        let sentinel = redis("redis-sentinel://:pw@a,b:1/main/2");
        assert_eq!(sentinel.topology, Topology::Sentinel { sentinels, name: "main".to_owned() });
        assert_eq!((sentinel.username, sentinel.database), (None, 2));
        let cluster = redis("rediss-cluster://a,b:1/");
        assert_eq!((cluster.topology, cluster.tls), (Topology::Cluster(vec![server("a", 6379), server("b", 1)]), true));
    }

    #[test]
    fn urls_are_shown_without_their_passwords() {
        for (text, shown) in [
            ("redis://h", "redis://h:6379"),
            ("redis://u:secret@h:1/2", "redis://u@h:1/2"),
            ("rediss-sentinel://:secret@a,[::1]:9/m/1", "rediss-sentinel://a:26379,[::1]:9/m/1"),
            ("redis-cluster://u@a,b", "redis-cluster://u@a:6379,b:6379"),
            ("redis://a%2541%20%c3%a9%40@h", "redis://a%2541%20%C3%A9%40@h:6379"),
        ] {
            let url = redis(text);
            assert_eq!(url.to_string(), shown);
            assert_eq!(RedisUrl { password: None, ..url.clone() }, redis(shown));
            assert!(!format!("{url:?}").contains("secret"), "{url:?}");
        }
    }

    #[test]
    fn what_is_no_redis_url_is_refused_without_showing_the_password() {
        use InvalidStoreUrl::*;
        for (text, problem) in [
            ("redis:h", Scheme),
            ("redis+unix://:secret@/run/redis.sock", Scheme),
            ("redis://:secret@", Host(1)),
            ("redis://:secret", Host(1)),
            ("redis://user:secret", Port(1)),
            ("redis://a,user:secret", Port(2)),
            ("secret", Scheme),
            ("secret:x", Scheme),
            ("redis://:secret@a,b", SeveralServers),
            ("redis://:secret@a:0", Port(1)),
            ("redis://:secret@a:x", Port(1)),
            ("redis://:secret@::1:6379", Host(1)),
            ("redis://:secret@[::1]x", Port(1)),
            ("redis://:secret@[::1", Host(1)),
            ("redis://:secret%zz@a", Credentials),
            ("redis://u%3Asecret@a", Username),
            ("redis://%3asecret:x@a", Username),
            ("redis://:secret@a/x", Database),
            ("redis://:secret@a?ssl=true", RedisOptions('?')),
            ("redis://a#insecure", RedisOptions('#')),
            ("redis-sentinel://:secret@a", NoPrimaryName),
            ("redis-cluster://:secret@a/1", ClusterPath),
        ] {
            let refused = text.parse::<StoreUrl>().expect_err(text);
            assert!(!refused.to_string().contains("secret"), "{text}: {refused}");
            assert_eq!(refused, problem, "{text}");
        }
        let host = Host(2).to_string();
        assert_eq!(
            host,
            "address 2 of the URL is not a host name or an address (an IPv6 address looks like [::1]:6379)"
        );
    }
}
