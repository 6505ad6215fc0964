use std::error::Error;
use std::fmt::Debug;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::config::{LogFormat, effective};
use crate::proxy::Network;
use crate::proxy::route::{Access, Pattern, Route};
use crate::replica::{FreshnessConfig, MaxStaleness};
use crate::store::settings::{Namespace, PasswordError, ReadFrom};
use crate::tls::{Alpn, Identity, TlsError};
use crate::token::Permission;
use crate::units::InvalidDuration;
use crate::upstream::{CredentialMode, MAX_NODES, UpstreamName, UpstreamUrl};

const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/tollgate.toml");

/// A configuration being written: a file, an environment, flags.
struct Given {
    directory: TempDir,
    source: Source,
    flags: Overrides,
}

fn given(toml: &str) -> Given {
    let directory = TempDir::new().expect("directory");
    let file = directory.path().join("t.toml");
    fs::write(&file, toml).expect("written");
    let environment = vec![("HOME".into(), "/home/tollgate".into())];
    Given { directory, source: Source { file: Some(file), environment }, flags: Overrides::default() }
}

impl Given {
    fn variable(mut self, name: &str, value: &str) -> Self {
        self.source.environment.push((name.into(), value.into()));
        self
    }

    fn flags(mut self, change: impl FnOnce(&mut Overrides)) -> Self {
        change(&mut self.flags);
        self
    }

    fn load(&self) -> Result<Config, Problems> {
        load(&self.source, &self.flags)
    }

    #[track_caller]
    fn accepted(self) -> Config {
        self.load().unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// Its problems, one a line, with the directory cut from places.
    #[track_caller]
    fn problems(self) -> Vec<String> {
        let problems = self.load().expect_err("refused");
        let directory = format!("{}/", self.directory.path().display());
        problems.iter().map(|problem| problem.to_string().replace(&directory, "")).collect()
    }

    /// The key of its only problem, and what is wrong with it.
    #[track_caller]
    fn refused(self) -> (String, Reason) {
        let problems = self.load().expect_err("refused");
        let mut problems: Vec<&Problem> = problems.iter().collect();
        let Some(Problem { key, reason, .. }) = problems.pop().filter(|_| problems.is_empty()) else {
            panic!("{problems:#?} and another")
        };
        (key.clone(), reason.clone())
    }

    #[track_caller]
    fn problem(self) -> String {
        let problems = self.problems();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        problems.concat()
    }
}

/// What is expected to be wrong with a key.
fn wrong(key: &str, reason: Reason) -> (String, Reason) {
    (key.to_owned(), reason)
}

/// What is wrong with a text that is none of these.
fn invalid<T: FromStr<Err: Error + Send + Sync + 'static> + Debug>(text: &str) -> Reason {
    Reason::invalid(text.parse::<T>().expect_err("it is none"))
}

/// What is wrong with a key that is not the certificate's.
fn mismatch(certificate: &str, key: &str) -> Reason {
    Reason::invalid(TlsError::Mismatch { certificate: certificate.into(), key: key.into() })
}

/// What the system says of a file that is not there.
fn not_found() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::NOENT.raw_os_error())
}

/// What is wrong with a TLS file that is not there.
fn unreadable(file: &str) -> Reason {
    Reason::invalid(TlsError::Read { file: file.into(), source: not_found() })
}

/// Writes a file there, and returns its path.
fn written(directory: &TempDir, name: &str, text: &str) -> String {
    let path = directory.path().join(name);
    fs::write(&path, text).expect("written");
    path.display().to_string()
}

#[track_caller]
fn assert_same(one: &Config, other: &Config) {
    let listed = |config: &Config| {
        let mut routes: Vec<String> = config.routes.list().into_iter().map(|route| format!("{route:?}")).collect();
        routes.sort();
        let rest = Config { routes: Default::default(), ..config.clone() };
        format!("{rest:#?}\n{}", routes.join("\n"))
    };
    assert_eq!(listed(one), listed(other));
}

fn route(config: &Config, method: &str, path: &str) -> String {
    match config.routes.find(method, path) {
        Ok(Route { access: Access::Open, upstream, .. }) => format!("open {}", upstream.name()),
        Ok(Route { access: Access::Token { needed, .. }, upstream, .. }) => {
            let needed = needed.map_or_else(|| "token".to_owned(), |permission| permission.to_string());
            format!("{needed} {}", upstream.name())
        }
        Err(error) => format!("{error:?}"),
    }
}

#[test]
fn everything_has_a_default() {
    let config = given("").accepted();
    let addresses: Vec<SocketAddr> = config.listeners.iter().filter_map(|listener| listener.address.tcp()).collect();
    assert_eq!(addresses, ["127.0.0.1:8080".parse().expect("address")]);
    assert_eq!(config.upstreams.api.nodes[0].authority, "127.0.0.1:8888");
    assert_eq!(config.upstreams.heartbeat.nodes[0].authority, "127.0.0.1:8000");
    assert_eq!(config.admin.address.to_string(), "127.0.0.1:9900");
    assert_eq!(config.store.url.to_string(), "sqlite:/home/tollgate/.local/state/tollgate/tollgate.db");
    assert_eq!(config.freshness.max_staleness, MaxStaleness::Within(Duration::from_secs(60)));
    assert_eq!(config.expired_retention, Duration::from_hours(30 * 24));
    assert_eq!(config.timeouts.keep_alive, Duration::from_secs(300));
    assert_eq!(config.limits.max_body_bytes.get(), 10 << 20);
    assert_eq!(config.limits.max_connections_per_client, None);
    assert_eq!(config.upstreams.heartbeat.max_in_flight.get(), 512);
    assert_eq!(route(&config, "POST", "/agents/heartbeat"), "heartbeat:write heartbeat");
}

#[test]
fn the_reference_says_the_defaults() {
    let reference = fs::read_to_string(REFERENCE).expect("the reference");
    assert_same(&given(&reference).accepted(), &given("").accepted());
}

#[test]
fn the_reference_has_every_key_and_no_other() {
    let reference = fs::read_to_string(REFERENCE).expect("the reference");
    // Lines that start with `#` and no space are keys without a default.
    let lines =
        reference.lines().map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line));
    let everything = lines.collect::<Vec<_>>().join("\n");
    let problems = given(&everything).problems();
    assert!(!problems.iter().any(|problem| problem.contains("no such key")), "{problems:#?}");

    let root = raw::parse(&everything, &"reference".into()).expect("TOML");
    let mut unwritten: Vec<String> = all_keys().into_keys().collect();
    unwritten.retain(|path| {
        let mut nodes: Vec<&TomlTable> = vec![&root];
        let mut found = false;
        for part in path.split('.') {
            let inner: Vec<&Node> = nodes.iter().filter_map(|table| table.get(part)).collect();
            found = !inner.is_empty();
            nodes = inner
                .into_iter()
                .flat_map(|node| match &node.value {
                    Value::Table(table) => vec![table],
                    Value::List(items) => items
                        .iter()
                        .filter_map(|item| if let Value::Table(table) = &item.value { Some(table) } else { None })
                        .collect(),
                    _ => Vec::new(),
                })
                .collect();
        }
        !found
    });
    assert_eq!(unwritten, Vec::<String>::new(), "keys that the reference does not document");
}

#[test]
fn the_file_yields_to_variables_and_these_to_flags() {
    let toml = "[store]\nurl = 'sqlite:/file.db'\n[admin]\naddress = '127.0.0.1:1'\n[limits]\nmax_headers = 7";
    let config = given(toml)
        .variable("TOLLGATE_STORE__URL", "sqlite:/variable.db")
        .variable("TOLLGATE_ADMIN__ADDRESS", "[::1]:2")
        .variable("TOLLGATE_LIMITS__MAX_STREAMS", "9")
        .variable("TOLLGATE_LIMITS__MAX_HEAD_BYTES", "65536")
        .variable("TOLLGATE_TRUSTED_PROXIES", "10.0.0.0/8, ::1")
        .variable("TOLLGATE_DISABLED_AUTH_GROUPS", "[\"labels\"]")
        .variable("TOLLGATE_FRESHNESS__PER_PERMISSION", "{ \"heartbeat:write\" = \"15m\" }")
        .variable("TOLLGATE_FRESHNESS__MAX_STALENESS", "never")
        .flags(|flags| flags.store = Some("sqlite:/flag.db".to_owned()))
        .flags(|flags| flags.api_upstream = Some("http://controller:1234".to_owned()))
        .accepted();
    assert_eq!(config.store.url.to_string(), "sqlite:/flag.db");
    assert_eq!(config.admin.address.to_string(), "[::1]:2");
    assert_eq!((config.limits.max_headers.get(), config.limits.max_streams.get()), (7, 9));
    assert_eq!(config.limits.max_head_bytes.get(), 65_536);
    assert_eq!(config.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "::1/128"]);
    assert_eq!(route(&config, "GET", "/api/labels"), "open api");
    assert_eq!(config.freshness.max_staleness, MaxStaleness::Never);
    assert_eq!(config.freshness.per_permission.len(), 1);
    assert_eq!(config.upstreams.api.nodes[0].authority, "controller:1234");
}

#[test]
fn lists_of_tables_come_whole_from_the_environment() {
    let config = given("[[listener]]\naddress = '127.0.0.1:1'")
        .variable("TOLLGATE_LISTENER", "[{ address = \"127.0.0.1:2\" }, { address = \"127.0.0.1:3\" }]")
        .accepted();
    assert_eq!(config.listeners.len(), 2);
    let text = given("").variable("TOLLGATE_LISTENER", "127.0.0.1:2").refused();
    assert_eq!(text, wrong("listener", Reason::NotTables));
    let item = given("").variable("TOLLGATE_LISTENER__0__ADDRESS", "127.0.0.1:2").refused();
    assert_eq!(item, wrong("", Reason::ListItem("TOLLGATE_LISTENER".to_owned())));
}

#[test]
fn the_file_can_be_named_by_a_variable_and_must_exist() {
    let mut written = given("[admin]\naddress = '127.0.0.1:1'");
    let file = written.source.file.take().expect("set");
    written = written.variable("TOLLGATE_CONFIG", file.to_str().expect("text"));
    assert_eq!(written.accepted().admin.address.port(), 1, "and the file is gone with its directory");

    let mut empty = given("").variable("TOLLGATE_CONFIG", "");
    empty.source.file = None;
    assert_eq!(empty.refused(), wrong("", Reason::NamesNoFile));

    let mut missing = given("");
    let file = "/nonexistent/tollgate.toml";
    missing.source.file = Some(file.into());
    assert_eq!(missing.refused(), wrong("", Reason::Unreadable { file: file.into(), cause: Cause::new(not_found()) }));
}

#[test]
fn the_store_is_in_the_state_directory() {
    let store = |variables: &[(&str, &str)]| {
        let environment = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
        store_settings(&Source { file: None, environment }, &Overrides::default()).map(|store| store.url.to_string())
    };
    let home = ("HOME", "/home/t");
    assert_eq!(store(&[home]).as_deref(), Ok("sqlite:/home/t/.local/state/tollgate/tollgate.db"));
    let xdg = ("XDG_STATE_HOME", "/state");
    assert_eq!(store(&[home, xdg]).as_deref(), Ok("sqlite:/state/tollgate/tollgate.db"));
    let systemd = ("STATE_DIRECTORY", "/var/lib/tollgate:/var/lib/other");
    assert_eq!(store(&[home, xdg, systemd]).as_deref(), Ok("sqlite:/var/lib/tollgate/tollgate.db"));
    assert_eq!(
        store(&[home, ("XDG_STATE_HOME", "state")]).as_deref(),
        Ok("sqlite:/home/t/.local/state/tollgate/tollgate.db")
    );
    let problems = store(&[]).expect_err("nowhere");
    assert!(problems.iter().all(|problem| problem.reason == Reason::NoStateDirectory), "{problems}");
    assert_eq!(store(&[("TOLLGATE_STORE__URL", "sqlite:/a.db")]).as_deref(), Ok("sqlite:/a.db"));
}

#[test]
fn the_store_that_is_shown_is_the_store_in_effect() {
    let store = |variables: &[(&str, &str)]| {
        let environment = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
        load(&Source { file: None, environment }, &Overrides::default())
    };
    for variable in [
        ("STATE_DIRECTORY", "//var/lib/tollgate"),
        ("HOME", "//root"),
        ("TOLLGATE_STORE__URL", "sqlite:////var/lib/a.db"),
        ("TOLLGATE_STORE__URL", "redis://a%2541@h"),
        ("TOLLGATE_STORE__URL", "redis://100%25@h"),
    ] {
        let config = store(&[variable]).expect("accepted");
        assert_same(&given(&effective(&config)).accepted(), &config);
    }
    for variable in [("STATE_DIRECTORY", "/var/lib/what?"), ("HOME", "/home/what?")] {
        let problems = store(&[variable]).expect_err("it cannot be written");
        assert!(problems.iter().all(|problem| problem.reason == Reason::UnusableStateDirectory), "{problems}");
        assert!(store(&[variable, ("TOLLGATE_STORE__URL", "sqlite:a.db")]).is_ok());
    }
    let message = store(&[("TOLLGATE_STORE__URL", "redis://user%3As3cret@h")]).expect_err("refused").to_string();
    assert!(message.contains("redis://...@h") && !message.contains("s3cret"), "{message}");
}

#[test]
fn a_store_named_by_a_flag_needs_no_usual_file_and_no_other_variables() {
    let environment = [
        ("TOLLGATE_CONFIG", "/nonexistent/tollgate.toml"),
        ("TOLLGATE_WORKERS", "none"),
        ("TOLLGATE_STORE__URL", "no URL at all"),
        ("TOLLGATE_STORE__NAMESPACE", "plant-7"),
    ];
    let environment = environment.map(|(name, value)| (name.into(), value.into())).to_vec();
    let source = Source { file: None, environment }.only_store();
    let flags = Overrides { store: Some("redis://h".to_owned()), ..Overrides::default() };
    let store = store_settings(&source, &flags).expect("a store");
    assert_eq!((store.url.to_string().as_str(), store.namespace.to_string().as_str()), ("redis://h:6379", "plant-7"));
}

#[test]
fn a_store_named_by_a_flag_has_every_other_key_of_its_variables() {
    let store = |name: &str, value: &str| {
        let environment = vec![(name.into(), value.into())];
        let flags = Overrides { store: Some("redis://h".to_owned()), ..Overrides::default() };
        store_settings(&Source { file: None, environment }.only_store(), &flags)
    };
    let plant = store("TOLLGATE_STORE", "{ url = 'sqlite:a.db', namespace = 'plant', quorum_replicas = 2 }");
    let plant = plant.expect("accepted");
    assert_eq!((plant.namespace.to_string().as_str(), plant.quorum_replicas), ("plant", 2));
    assert_eq!(plant.url.to_string(), "redis://h:6379");
    let refused = store("TOLLGATE_STORE", "{ namespace = 'a b', quorum_replicas = -1, bogus = 1 }");
    assert_eq!(refused.expect_err("refused").iter().count(), 3);
    assert!(store("TOLLGATE_STORE", "plant").is_err());
    for misspelt in ["TOLLGATE_STORE_NAMESPACE", "TOLLGATE_store__namespace"] {
        assert!(store(misspelt, "plant").is_err(), "{misspelt}: or it would be the registry of another namespace");
    }
    assert!(store("TOLLGATE_STORE_SERVICE_HOST", "10.0.0.1").is_ok(), "that is Kubernetes'");
}

#[test]
fn keys_for_redis_are_read_and_judged() {
    let directory = TempDir::new().expect("directory");
    let file = |name: &str, text: &str| written(&directory, name, text);
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["h".to_owned()]).expect("names").self_signed(&key);
    let certificate = file("c.pem", &certificate.expect("a certificate").pem());
    let key = file("k.pem", &key.serialize_pem());
    let other_key = file("other.pem", &rcgen::KeyPair::generate().expect("a key").serialize_pem());
    let (password, empty) = (file("p", "s3cret\r\n"), file("empty", "\n"));

    let good = format!(
        "url = 'rediss-sentinel://u@h/m'\nnamespace = 'a'\nquorum_replicas = 1\nread_from = 'replica'\npassword_file = '{password}'\n\
         sentinel_username = 's'\nsentinel_password_file = '{password}'\nca = '{certificate}'\n\
         certificate = '{certificate}'\nkey = '{key}'"
    );
    let store = given(&format!("[store]\n{good}")).accepted().store;
    assert_eq!(store.read_from, ReadFrom::Replica);
    assert_eq!((store.password_file, store.key), (Some(password.clone().into()), Some(key.clone().into())));
    // What was written for another URL does not get in the way of the one that a flag names.
    let elsewhere = given(&format!("[store]\n{good}"));
    let elsewhere = elsewhere.flags(|flags| flags.store = Some("sqlite:/a.db".to_owned())).accepted().store;
    assert_eq!(elsewhere, Settings::from("sqlite:/a.db".parse::<StoreUrl>().expect("a URL")));

    let single = "url = 'redis://h'";
    let tls = "url = 'rediss://h'";
    let missing = || PasswordError::Read { file: "/etc/nonexistent".into(), source: not_found() };
    for (toml, place, expected) in [
        (format!("password_file = '{password}'"), "password_file", Reason::NotRedis),
        ("read_from = 'replica'".to_owned(), "read_from", Reason::NotRedis),
        ("quorum_replicas = 2".to_owned(), "quorum_replicas", Reason::NotRedis),
        ("namespace = 'plant'".to_owned(), "namespace", Reason::NotRedis),
        (format!("{single}\nread_from = 'nearest'"), "read_from", invalid::<ReadFrom>("nearest")),
        (format!("{single}\npassword_file = '/etc/nonexistent'"), "password_file", Reason::invalid(missing())),
        (
            format!("{single}\npassword_file = '{empty}'"),
            "password_file",
            Reason::invalid(PasswordError::Empty { file: empty.clone().into() }),
        ),
        (format!("url = 'redis://:s3cret@h'\npassword_file = '{password}'"), "password_file", Reason::TwoPasswords),
        (format!("{single}\nca = '{certificate}'"), "ca", Reason::NotTls),
        (format!("{single}\nsentinel_password_file = '{password}'"), "sentinel_password_file", Reason::NotSentinel),
        (
            "url = 'redis-sentinel://h/m'\nsentinel_username = 'u'".to_owned(),
            "sentinel_username",
            Reason::NoSentinelPassword,
        ),
        (format!("{tls}\ncertificate = '{certificate}'"), "certificate", Reason::Without("key")),
        (format!("{tls}\nkey = '{key}'"), "key", Reason::Without("certificate")),
        (format!("{tls}\nca = '{key}'"), "ca", Reason::invalid(TlsError::NoCertificate(key.clone().into()))),
        (format!("{tls}\ncertificate = '/nope'\nkey = '{key}'"), "certificate", unreadable("/nope")),
        (
            format!("{tls}\ncertificate = '{certificate}'\nkey = '{other_key}'"),
            "key",
            mismatch(&certificate, &other_key),
        ),
        ("url = 'redis://h'\nnamespace = 'a b'".to_owned(), "namespace", invalid::<Namespace>("a b")),
    ] {
        let refused = given(&format!("[store]\n{toml}")).refused();
        assert_eq!(refused, wrong(&format!("store.{place}"), expected), "{toml}");
    }
}

#[test]
fn the_store_can_be_read_without_judging_the_rest() {
    let toml = "[store]\nurl = 'sqlite:/a.db'\n[[listener]]\ntls = { certificate = '/nope', key = '/nope' }";
    let written = given(toml);
    assert_eq!(store_settings(&written.source, &written.flags).expect("readable").url.to_string(), "sqlite:/a.db");
    assert!(written.load().is_err());
    let misspelt = given(toml).variable("TOLLGATE_STORE_URL", "sqlite:/b.db");
    assert!(store_settings(&misspelt.source, &misspelt.flags).is_err(), "or it would use another store than was meant");
}

#[test]
fn all_problems_are_reported_together_with_their_places() {
    let toml = r#"worker = 4
[limits]
max_headers = "many"
max_head_bytes = "16XB"
max_body_bytes = 0
[timeouts]
drain = 30
  keep_alive = "0s"
[upstream.api]
url = "https://admin:s3cret@controller/"
[listener]
address = "x"
"#;
    let problems = given(toml)
        .variable("TOLLGATE_LIMITS__MAX_STREAMS", "0")
        .variable("TOLLGATE_STORE_URL", "redis://:s3cret@h")
        .flags(|flags| flags.admin_listen = Some("9900".to_owned()))
        .problems();
    let expected = [
        "t.toml:1:1: worker: there is no such key; did you mean `workers`?",
        "t.toml:3:15: limits.max_headers = \"many\": write a whole number from 1 to 128",
        "t.toml:4:18: limits.max_head_bytes = \"16XB\": a size is a number of bytes",
        "t.toml:5:18: limits.max_body_bytes = 0: it must be from 1B to",
        "t.toml:7:9: timeouts.drain = 30: a duration is numbers with units",
        "t.toml:8:16: timeouts.keep_alive = \"0s\": it must be longer than zero",
        "t.toml:10:7: upstream.api.url = \"https://...@controller/\": a user or password does not belong here",
        "t.toml:11:1: listener: there can be several: write [[listener]]",
        "TOLLGATE_LIMITS__MAX_STREAMS: limits.max_streams = \"0\": write a whole number from 1 to 10000",
        "TOLLGATE_STORE_URL: there is no such key; did you mean TOLLGATE_STORE__URL?",
        "--admin-listen: admin.address = \"9900\": write an IP address and a port",
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.starts_with(expected), "{problem}\nis not\n{expected}");
        assert!(!problem.contains("s3cret"), "{problem}");
    }
}

/// Or the file would no longer be good on the day when what is over it is gone.
#[test]
fn what_something_else_is_put_over_is_judged_all_the_same() {
    let toml = "workers = 'abc'\nstore = 5\n[admin]\naddress = 'x'\n[[listener]]\nadress = 'x'\n[[route]]\nbogus = 1\n";
    let alone = given(toml).problems();
    let over = given(toml)
        .variable("TOLLGATE_WORKERS", "2")
        .variable("TOLLGATE_ADMIN__ADDRESS", "127.0.0.1:9")
        .variable("TOLLGATE_LISTENER", "[{}]")
        .variable("TOLLGATE_ROUTE", "[]")
        .variable("TOLLGATE_STORE", "{ url = 'sqlite:x' }")
        .problems();
    assert_eq!((over.len(), over), (8, alone));

    let one = |toml: &str, change: fn(Given) -> Given| change(given(toml)).problem();
    let flag = one("[store]\nurl = 'x'", |given| given.flags(|flags| flags.store = Some("sqlite:a.db".to_owned())));
    assert!(flag.starts_with("t.toml:2:7: store.url = "), "{flag}");
    let moved =
        one("[[listener]]\naddress = 'x'", |given| given.flags(|flags| flags.listen = vec!["[::1]:1".to_owned()]));
    assert!(moved.starts_with("t.toml:2:11: listener[0].address = \"x\""), "{moved}");
    let table = one("", |given| {
        let given = given.variable("TOLLGATE_LIMITS", "{ max_headers = 0, max_streams = 4 }");
        given.variable("TOLLGATE_LIMITS__MAX_HEADERS", "7")
    });
    assert!(table.starts_with("TOLLGATE_LIMITS: limits.max_headers = 0: "), "{table}");

    // What is wrong within a list is so without the rest.
    let twice = "[[listener]]\n[[listener]]\n[listener.tls]\nkey = '/nonexistent'\n";
    let route = "[[route]]\nmethods = ['GET']\npath = '/a'\nauth = 'none'\n";
    let problems = given(&format!("{twice}{route}{route}"))
        .variable("TOLLGATE_LISTENER", "[{}]")
        .variable("TOLLGATE_ROUTE", "[]")
        .problems();
    let expected = ["another listener has", "TLS needs a certificate", "GET on this path is shadowed"];
    assert!(problems.len() == 3 && problems.iter().zip(expected).all(|(a, b)| a.contains(b)), "{problems:#?}");
}

/// A file need not be complete where variables make it so, nor need what it names be there.
#[test]
fn what_is_in_effect_need_not_be_in_the_file() {
    given("[store]\nsentinel_username = 'a'\nquorum_replicas = 1\n[[listener]]\ntls = { certificate = '/nope', key = '/nope' }")
        .variable("TOLLGATE_LISTENER", "[{}]")
        .variable("TOLLGATE_STORE__URL", "redis-sentinel://h/m")
        .variable("TOLLGATE_STORE__SENTINEL_PASSWORD_FILE", REFERENCE)
        .accepted();
    given("[freshness]\nprobe_interval = '2m'").variable("TOLLGATE_FRESHNESS__MAX_STALENESS", "5m").accepted();
}

#[test]
fn every_file_that_is_missing_is_named_whatever_else_is_wrong() {
    let tls = |prefix: &str, ca: &str| {
        ["certificate", "key", ca].map(|key| format!("{prefix}{key} = '/nonexistent/{key}'\n")).concat()
    };
    let (listener, client, store) = (tls("tls.", "client_ca"), tls("tls.", "ca"), tls("", "ca"));
    let passwords = "password_file = '/nonexistent/p'\nsentinel_password_file = '/nonexistent/s'\n";
    for (toml, named) in [
        (format!("[[listener]]\n{listener}"), 3),
        (format!("[[listener]]\n{listener}tls.alpn = ['h3']"), 3),
        ("[[listener]]\ntls.client_ca = '/nonexistent/ca'".to_owned(), 1),
        (format!("[upstream.api]\nurl = 'https://h'\n{client}"), 3),
        (format!("[upstream.api]\nurl = 'https://'\n{client}"), 3),
        ("[upstream.api]\nurl = 'https://h'\ntls.certificate = '/nonexistent/c'".to_owned(), 1),
        ("[upstream.api]\ncredential = { mode = 'x', token_file = '/nonexistent/t' }".to_owned(), 1),
        (format!("[store]\nurl = 'rediss-sentinel://h/m'\n{store}{passwords}"), 5),
        (format!("[store]\nurl = 'redis://'\n{store}{passwords}"), 5),
    ] {
        let problems = given(&toml).problems();
        let missing = problems.iter().filter(|problem| problem.contains("No such file"));
        assert_eq!(missing.count(), named, "{toml}: {problems:#?}");
    }
}

#[test]
fn what_to_write_is_said_whole_whatever_was_written() {
    for url in ["redis:h", "redis//h", "redis", "redis-cluster:h", "h", ""] {
        let problem = given(&format!("[store]\nurl = '{url}'")).problem();
        assert!(problem.contains("write sqlite:PATH, redis://HOST, redis-sentinel://HOST,HOST/NAME or"), "{problem}");
    }
    for key in ["store.password_file", "upstream.api.url", "store.url", "name"] {
        let problems = given(&format!("{key} = ''")).problems();
        assert!(problems.iter().all(|problem| !problem.contains("...")), "{problems:?}");
    }
}

#[test]
fn unknown_keys_are_found_at_any_depth() {
    let problem = |toml: &str| given(toml).problem();
    assert!(
        problem("[upstream.api.timeouts]\nconect = '2s'").starts_with("t.toml:2:1: upstream.api.timeouts.conect: ")
    );
    assert!(problem("[upstream.api]\ntimeouts.conect = '2s'").contains("t.toml:2:10: upstream.api.timeouts.conect: "));
    let near = |key: &str, nearest: &str| wrong(key, Reason::Misspelt(nearest.to_owned()));
    let refused = |toml: &str| given(toml).refused();
    assert_eq!(refused("[upstrem.api]\nurl = 5"), near("upstrem", "upstream"));
    assert_eq!(refused("[store]\nurls = 'x'"), near("store.urls", "url"));
    assert_eq!(refused("[log]\nworkers = 4"), wrong("log.workers", Reason::Outermost("workers".to_owned())));
    let tls = "[[listener]]\n[[listener]]\naddress = '127.0.0.1:1'\n[listener.tls]\ncert = 'a'";
    let problems = given(tls).problems();
    let cert = "t.toml:5:1: listener[1].tls.cert: there is no such key; did you mean `certificate`?";
    assert!(problems.iter().any(|problem| problem == cert), "{problems:#?}");
    assert!(problem("[store]\npassword = 's3cret'").starts_with("t.toml:2:1: store.password: there is no such key"));
    let inline = given("").variable("TOLLGATE_LISTENER", "[{ adress = \"127.0.0.1:1\" }]").refused();
    assert_eq!(inline, near("listener[0].adress", "address"));
}

#[test]
fn a_filter_that_would_log_nothing_is_refused_and_shows_no_secret() {
    for filter in [
        "info.",
        "in-fo",
        "info;tollgate=debug",
        "info/tollgate=debug",
        "tollgate =debug",
        "tollgate= debug",
        "tollgate=debug=info",
        "info=info",
        "tollgate::=debug",
        "tollgate[request]=debug",
        "tc-apiv1_s3cret_0123456789",
        "redis://u:s3cret@h",
        "-----BEGIN PRIVATE KEY----- s3cret",
    ] {
        let problem = given("").variable("TOLLGATE_LOG__FILTER", filter).problem();
        assert!(problem.contains("write a level") && !problem.contains("s3cret"), "{filter}: {problem}");
    }
    let config = given("[log]\nfilter = ' warn, tollgate::proxy=DEBUG,h2=off '").accepted();
    assert_eq!(config.log.filter, "warn,tollgate::proxy=DEBUG,h2=off", "a blank would be part of a name");
}

#[test]
fn errors_of_syntax_have_a_place_and_show_no_text() {
    let problems = given("[log]\nfilter = 'info'\npassword = s3cret\n").problems();
    assert!(
        problems.iter().all(|problem| problem.starts_with("t.toml:3:") && !problem.contains("s3cret")),
        "{problems:?}"
    );
    let problems = given("[log]\n[admin]\n[log]\n").problems();
    assert!(
        problems.iter().any(|problem| problem.starts_with("t.toml:3:") && problem.contains("duplicate key")),
        "{problems:?}"
    );
    let binary = given("");
    fs::write(binary.directory.path().join("t.toml"), b"a = 1\nb = \"\xff\"").expect("written");
    let reason = binary.refused().1;
    assert!(matches!(reason, Reason::NotText { line: 2, .. }), "{reason}");
}

#[test]
fn values_of_another_kind_say_what_is_accepted() {
    let workers = Reason::OutOfRange { least: 1, most: 1024 };
    let list = |text: &str| Reason::Unlisted(text.to_owned());
    for (toml, key, expected) in [
        ("store = 5", "store", Reason::NotTable),
        ("[store]\nurl = ['a']", "store.url", Reason::NotSingle),
        ("[store]\nurl = true", "store.url", invalid::<StoreUrl>("true")),
        ("[store]\nurl = 5", "store.url", invalid::<StoreUrl>("5")),
        ("[log]\nfilter = true", "log.filter", Reason::NotFilter),
        ("name = 5", "name", Reason::Unquoted),
        ("name = 'a b'", "name", Reason::NotName),
        ("listener = [5]", "listener[0]", Reason::NotTable),
        ("listener = []", "listener", Reason::NoListener),
        ("[listener]", "listener", Reason::Several("listener".to_owned())),
        ("listener = 5", "listener", Reason::NotTables),
        ("trusted_proxies = '10.0.0.0/8'", "trusted_proxies", list("10.0.0.0/8")),
        ("trusted_proxies = 'tc-apiv1_s3cret'", "trusted_proxies", list("tc-apiv1_...")),
        ("trusted_proxies = 5", "trusted_proxies", Reason::NotList),
        ("trusted_proxies = ['::1', '10.1.0.0/8']", "trusted_proxies[1]", invalid::<Network>("10.1.0.0/8")),
        ("trusted_proxies = [7]", "trusted_proxies[0]", invalid::<Network>("7")),
        ("workers = -1", "workers", workers.clone()),
        ("workers = 1.5", "workers", workers.clone()),
        ("workers = '4'", "workers", workers),
        (
            "[limits]\nmax_head_bytes = '4KiB'",
            "limits.max_head_bytes",
            Reason::SizeOutOfRange { least: 8 << 10, most: 1 << 20 },
        ),
        ("[log]\nformat = 'xml'", "log.format", invalid::<LogFormat>("xml")),
        ("[log]\nfilter = 'inf'", "log.filter", Reason::NotFilter),
        ("[log]\nfilter = 'tollgate=loud'", "log.filter", Reason::NotFilter),
        ("[log]\nfilter = 'error warn'", "log.filter", Reason::NotFilter),
        ("[log]\nfilter = ''", "log.filter", Reason::NotFilter),
        ("disabled_auth_groups = ['config']", "disabled_auth_groups[0]", Reason::NotGroup),
        ("[timeouts]\nkeep_alive = '0s'", "timeouts.keep_alive", Reason::Zero),
        ("[store]\nsnapshot_file = ''", "store.snapshot_file", Reason::NoFile),
    ] {
        assert_eq!(given(toml).refused(), wrong(key, expected), "{toml}");
    }
}

#[test]
fn addresses_that_get_in_each_others_way_are_refused() {
    let listeners =
        |one: &str, other: &str| format!("[[listener]]\naddress = '{one}'\n[[listener]]\naddress = '{other}'");
    let taken = |one, other| given(&listeners(one, other)).load().is_err();
    assert!(taken("127.0.0.1:1", "127.0.0.1:1"));
    assert!(taken("127.0.0.1:1", "0.0.0.0:1"));
    assert!(!taken("127.0.0.1:1", "127.0.0.2:1"));
    assert!(!taken("127.0.0.1:1", "127.0.0.1:2"));
    assert!(!taken("127.0.0.1:0", "127.0.0.1:0"));
    assert!(!taken("0.0.0.0:1", "[::1]:1"));
    // The system refuses these too: `[::]` is both families, and what is mapped is IPv4.
    for (one, other) in [
        ("0.0.0.0:1", "[::]:1"),
        ("127.0.0.1:1", "[::]:1"),
        ("127.0.0.1:1", "[::ffff:127.0.0.1]:1"),
        ("0.0.0.0:1", "[::ffff:127.0.0.1]:1"),
        ("[::ffff:0.0.0.0]:1", "127.0.0.1:1"),
    ] {
        assert!(taken(one, other) && taken(other, one), "{one} {other}");
    }
    assert!(!taken("[::ffff:127.0.0.1]:1", "127.0.0.2:1"));
    for (listener, url) in [
        ("[::ffff:127.0.0.1]:1", "http://127.0.0.1:1"),
        ("127.0.0.1:1", "http://[::ffff:127.0.0.1]:1"),
        ("[::]:1", "http://127.0.0.1:1"),
        ("[::ffff:127.0.0.1]:1", "http://localhost:1"),
    ] {
        let refused = given(&format!("[[listener]]\naddress = '{listener}'\n[upstream.api]\nurl = '{url}'")).refused();
        assert_eq!(refused, wrong("upstream.api.url", Reason::Loop(listener.parse().expect("an address"))));
    }
    for (toml, place) in [
        ("[admin]\naddress = '[::ffff:127.0.0.1]:8080'", "t.toml:2:11: admin.address"),
        ("[admin]\naddress = '127.0.0.1:8080'", "t.toml:2:11: admin.address"),
        ("[[listener]]\naddress = '0.0.0.0:9900'", "t.toml:2:11: listener[0].address"),
    ] {
        let problem = given(toml).problem();
        assert!(problem.starts_with(place), "{problem}");
    }
    let refused = given("[[listener]]\naddress = '0.0.0.0:8888'").refused();
    assert_eq!(refused, wrong("upstream.api.url", Reason::Loop("0.0.0.0:8888".parse().expect("an address"))));
}

/// `--listen` replaces addresses and nothing else.
#[test]
fn a_listen_flag_moves_the_only_listener_and_never_drops_tls() {
    let listen = |toml: &str, addresses: &[&str]| {
        let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        given(toml).flags(|flags| flags.listen = addresses).problems()
    };
    let config =
        given("").flags(|flags| flags.listen = vec!["[::1]:5".to_owned(), "127.0.0.1:5".to_owned()]).accepted();
    assert_eq!(config.listeners.len(), 2);
    let with_tls = "[[listener]]\ntls = { certificate = '/nope.pem', key = '/nope.key' }";
    let moved = listen(with_tls, &["127.0.0.1:5"]);
    assert!(moved.iter().all(|problem| problem.contains("listener[0].tls.")), "TLS is still set up: {moved:?}");
    for written in [with_tls, "[[listener]]\nadress = '127.0.0.1:1'\n[[listener]]"] {
        let replaced = listen(written, &["127.0.0.1:5", "127.0.0.1:6"]).join("\n");
        let said = "--listen: listener: it would replace listeners that have more than an address";
        assert!(replaced.contains(said), "{replaced}");
    }
    let single = listen("[listener]\naddress = '127.0.0.1:1'\ntls.certificate = '/nope'", &["127.0.0.1:2"]).concat();
    assert!(single.contains("write [[listener]]"), "{single}");
    assert!(listen("", &["nowhere"]).concat().starts_with("--listen: listener[0].address = \"nowhere\""));
}

#[test]
fn tls_files_are_judged_at_once() {
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("certificate");
    let other = rcgen::KeyPair::generate().expect("key");
    let written = |tls: &str| {
        let given = given("");
        let at = |name: &str| given.directory.path().join(name);
        fs::write(at("c.pem"), key.cert.pem()).expect("written");
        fs::write(at("k.pem"), key.signing_key.serialize_pem()).expect("written");
        fs::write(at("other.pem"), other.serialize_pem()).expect("written");
        let tls = tls.replace("DIR", &given.directory.path().display().to_string());
        fs::write(at("t.toml"), format!("[[listener]]\n{tls}")).expect("written");
        given
    };
    let good = "tls.certificate = 'DIR/c.pem'\ntls.key = 'DIR/k.pem'";
    let tls = written(good).accepted().listeners.remove(0).tls.expect("TLS");
    assert_eq!(tls.alpn, [Alpn::Http1, Alpn::Http2], "what costs less comes first");
    let reason = |tls: &str, at: &str| {
        let (key, reason) = written(tls).refused();
        assert_eq!(key, format!("listener[0].tls.{at}"), "{reason}");
        reason
    };
    let cause = |tls: &str, at: &str, is_meant: fn(&TlsError) -> bool| match reason(tls, at) {
        Reason::Invalid(cause) => assert!(cause.downcast_ref().is_some_and(is_meant), "{cause}"),
        other => panic!("{other}"),
    };
    assert_eq!(reason("tls.certificate = 'DIR/c.pem'", "key"), Reason::NoCertificate);
    cause("tls.certificate = 'DIR/c.pem'\ntls.key = 'DIR/other.pem'", "key", |error| {
        matches!(error, TlsError::Mismatch { .. })
    });
    cause("tls.certificate = 'DIR/no.pem'\ntls.key = 'DIR/k.pem'", "certificate", |error| {
        matches!(error, TlsError::Read { .. })
    });
    cause(&format!("{good}\ntls.client_ca = 'DIR/k.pem'"), "client_ca", |error| {
        matches!(error, TlsError::NoCertificate(_))
    });
    assert_eq!(reason(&format!("{good}\ntls.alpn = ['h3']"), "alpn[0]"), invalid::<Alpn>("h3"));
    assert_eq!(reason(&format!("{good}\ntls.alpn = []"), "alpn"), Reason::NotSet);
}

#[test]
fn a_replaced_credential_needs_a_readable_token() {
    let directory = TempDir::new().expect("directory");
    let file = |name: &str, text: &str| written(&directory, name, text);
    let upstream = |more: &str| given(&format!("[upstream.api]\n{more}"));
    let good = file("good", "tc-apiv1_0123456789s3cret\n");
    let config = upstream(&format!("credential = {{ mode = 'replace', token_file = '{good}' }}")).accepted();
    assert_eq!(config.upstreams.api.credential, CredentialMode::Replace { token_file: good.clone().into() });
    assert_eq!(config.upstreams.heartbeat.credential, CredentialMode::Forward);

    let problem = |more: &str| upstream(more).problem();
    let token_file = "upstream.api.credential.token_file";
    let refused = |more: &str| upstream(more).refused();
    assert_eq!(refused("credential.mode = 'replace'"), wrong(token_file, Reason::NoServiceToken));
    assert_eq!(refused(&format!("credential.token_file = '{good}'")), wrong(token_file, Reason::NotReplaced));
    assert!(problem("credential.mode = 'drop'").contains("the modes are"));
    let bad = file("bad", "s3cret");
    let message = problem(&format!("credential = {{ mode = 'replace', token_file = '{bad}' }}"));
    assert!(message.contains("must hold one token") && !message.contains("s3cret"), "{message}");
    let message = problem("credential = { mode = 'replace', token_file = 'tc-apiv1_s3cret' }");
    assert!(message.contains("the value is not shown") && !message.contains("s3cret"), "{message}");
}

#[test]
fn an_https_upstream_is_verified_and_an_http_one_cannot_be() {
    let refused = given("[upstream.api]\ntls.ca = '/ca.pem'").refused();
    assert_eq!(refused, wrong("upstream.api.tls.ca", Reason::NotHttps));
    let problem = given("[upstream.api]\nurl = 'https://h'\ntls.ca = '/nope.pem'").problem();
    assert!(problem.contains("upstream.api.tls.ca = \"/nope.pem\": reading /nope.pem: No such file"), "{problem}");
    let authority = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).expect("certificate").cert.pem();
    let directory = TempDir::new().expect("directory");
    fs::write(directory.path().join("ca.pem"), authority).expect("written");
    let ca = directory.path().join("ca.pem");
    let config = given(&format!("[upstream.api]\nurl = 'https://h'\ntls.ca = '{}'", ca.display())).accepted();
    assert_eq!(config.upstreams.api.tls.expect("https").ca.as_deref(), Some(ca.as_path()));
    assert_eq!((config.upstreams.api.nodes[0].port, config.upstreams.api.nodes[0].authority.as_str()), (443, "h"));
}

#[test]
fn an_upstream_can_have_several_nodes() {
    let nodes = |config: Config| config.upstreams.api.nodes.iter().map(ToString::to_string).collect::<Vec<_>>();
    let written = |url: &str| given(&format!("[upstream.api]\nurl = {url}"));
    let two = ["http://a:1", "http://b:80"];
    assert_eq!(nodes(written("['http://a:1', 'http://b/']").accepted()), two);
    assert_eq!(nodes(written("['http://a:1']").accepted()), two[..1]);
    for outside in ["http://a:1, http://b", "['http://a:1', 'http://b']"] {
        assert_eq!(nodes(given("").variable("TOLLGATE_UPSTREAM__API__URL", outside).accepted()), two);
        assert_eq!(nodes(given("").flags(|flags| flags.api_upstream = Some(outside.to_owned())).accepted()), two);
    }
    let many: Vec<String> = (0..=MAX_NODES).map(|node| format!("'http://h{node}'")).collect();
    for (url, key, expected) in [
        ("[]", "upstream.api.url", Reason::NotSet),
        ("['http://a', 'http://a:80']", "upstream.api.url[1]", Reason::NotSet),
        ("['http://a', 'https://b']", "upstream.api.url", Reason::MixedSchemes),
        (format!("[{}]", many.join(",")).as_str(), "upstream.api.url", Reason::TooManyNodes),
        ("['http://a', 'http://b/c']", "upstream.api.url[1]", invalid::<UpstreamUrl>("http://b/c")),
        ("'http://a,http://b'", "upstream.api.url", Reason::NotList),
        ("['http://a:1', 'http://127.0.0.1:8080']", "upstream.api.url[1]", looping()),
        ("'http://127.0.0.1:8080'", "upstream.api.url", looping()),
    ] {
        assert_eq!(written(url).refused(), wrong(key, expected), "{url}");
    }
}

fn looping() -> Reason {
    Reason::Loop("127.0.0.1:8080".parse().expect("an address"))
}

#[test]
fn checks_have_a_path_or_none() {
    let path = |text: &str| given(&format!("[upstream.api]\nhealth.path = '{text}'"));
    let accepted = |text: &str| path(text).accepted().upstreams.api.health_path.map(|path| path.to_string());
    assert_eq!(accepted("/health/live?a=b").as_deref(), Some("/health/live?a=b"));
    assert_eq!(accepted("off"), None);
    assert_eq!(path("/h?t=tc-apiv1_x").refused(), wrong("upstream.api.health.path", Reason::RawToken));
    for text in ["", "health", "http://h/health", "/a b", "/a#b"] {
        assert_eq!(path(text).refused(), wrong("upstream.api.health.path", Reason::NotHealthPath), "{text}");
    }
    let upstreams = given("").accepted().upstreams;
    let defaults =
        [upstreams.api, upstreams.heartbeat].map(|upstream| upstream.health_path.map(|path| path.to_string()));
    assert_eq!(defaults, [Some("/health/ready".to_owned()), Some("/health".to_owned())]);
}

#[test]
fn a_listener_is_an_address_a_name_or_a_socket() {
    let listener = |rest: &str| given(&format!("[[listener]]\n{rest}"));
    let address = |text: &str| listener(&format!("address = '{text}'"));
    for (text, shown) in
        [(":8080", "[::]:8080"), ("localhost:8080", "localhost:8080"), ("unix:/run/t.sock", "unix:/run/t.sock")]
    {
        assert_eq!(address(text).accepted().listeners[0].address.to_string(), shown);
    }
    let socket = "address = 'unix:/run/t.sock'";
    assert_eq!(listener(&format!("{socket}\nmode = '0600'")).accepted().listeners[0].mode, Some(0o600));
    for mode in ["rw", "0999", "1777", ""] {
        let refused = listener(&format!("{socket}\nmode = '{mode}'")).refused();
        assert_eq!(refused, wrong("listener[0].mode", Reason::NotMode), "{mode}");
    }
    let refused = listener("address = ':8080'\nmode = '0600'").refused();
    assert_eq!(refused, wrong("listener[0].mode", Reason::ModeOfNoSocket));
    let twice = given(&format!("[[listener]]\n{socket}\n[[listener]]\n{socket}")).refused();
    let taken = Reason::ListenerTaken("unix:/run/t.sock".parse().expect("an address"));
    assert_eq!(twice, wrong("listener[1].address", taken));
    let loops = given(&format!("[[listener]]\n{socket}\n[upstream.api]\nurl = 'unix:/run/t.sock'")).refused();
    assert_eq!(loops, wrong("upstream.api.url", Reason::Loop("unix:/run/t.sock".parse().expect("an address"))));
}

#[test]
fn a_revocation_list_needs_the_authorities_that_it_is_of() {
    let directory = TempDir::new().expect("directory");
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["h".to_owned()]).expect("names").self_signed(&key);
    let certificate = written(&directory, "h.pem", &certificate.expect("a certificate").pem());
    let key = written(&directory, "h.key", &key.serialize_pem());
    let tls =
        |rest: &str| given(&format!("[[listener]]\ntls.certificate = '{certificate}'\ntls.key = '{key}'\n{rest}"));
    let refused = tls("tls.client_crl = '/nonexistent/x.crl'").refused();
    assert_eq!(refused, wrong("listener[0].tls.client_crl", Reason::Without("client_ca")));
    let config = tls("tls.min_version = '1.3'").accepted();
    assert_eq!(config.listeners[0].tls.as_ref().expect("TLS").min_version, crate::tls::TlsVersion::Tls13);
    assert_eq!(
        tls("tls.min_version = '1.1'").refused(),
        wrong("listener[0].tls.min_version", invalid::<crate::tls::TlsVersion>("1.1"))
    );
}

#[test]
fn the_listeners_own_health_path_is_none_that_a_route_has() {
    let path = |text: &str| given(&format!("[health]\npath = '{text}'"));
    assert_eq!(path("/healthz").accepted().health_path.as_deref(), Some("/healthz"));
    for text in ["", "healthz", "/", "/healthz?a=b", "/a/../b", "//a", "/%61"] {
        assert_eq!(path(text).refused(), wrong("health.path", Reason::NotOwnPath), "{text}");
    }
    for text in ["/api/configs", "/c/edge", "/agents/heartbeat"] {
        assert_eq!(path(text).refused(), wrong("health.path", Reason::HealthTaken), "{text}");
    }
}

#[test]
fn an_upstream_can_have_another_name_and_ask_for_a_certificate() {
    let directory = TempDir::new().expect("directory");
    let file = |name: &str, text: &str| written(&directory, name, text);
    let ours = rcgen::generate_simple_self_signed(vec!["tollgate".to_owned()]).expect("certificate");
    let certificate = file("c.pem", &ours.cert.pem());
    let key = file("k.pem", &ours.signing_key.serialize_pem());
    let other = file("other.pem", &rcgen::KeyPair::generate().expect("a key").serialize_pem());
    let https = |more: &str| given(&format!("[upstream.api]\nurl = 'https://h'\ntls.ca = '{certificate}'\n{more}"));
    let written = format!("tls.server_name = 'c.example'\ntls.certificate = '{certificate}'\ntls.key = '{key}'");
    let tls = https(&written).accepted().upstreams.api.tls.expect("https");
    assert_eq!(tls.server_name.expect("a name").to_str(), "c.example");
    let identity = Identity { certificate: certificate.clone().into(), key: key.clone().into() };
    assert_eq!(tls.identity, Some(identity));

    let refused = |more: &str, key: &str, reason: Reason| {
        assert_eq!(https(more).refused(), wrong(&format!("upstream.api.tls.{key}"), reason), "{more}");
    };
    refused(&format!("tls.certificate = '{certificate}'"), "certificate", Reason::Without("key"));
    refused(&format!("tls.key = '{key}'"), "key", Reason::Without("certificate"));
    refused(&format!("tls.certificate = '/nope'\ntls.key = '{key}'"), "certificate", unreadable("/nope"));
    refused(&format!("tls.certificate = '{certificate}'\ntls.key = '{other}'"), "key", mismatch(&certificate, &other));
    refused("tls.server_name = 'a b'", "server_name", Reason::NotHost);
    let plain = given("[upstream.api]\ntls.server_name = 'h'").refused();
    assert_eq!(plain, wrong("upstream.api.tls.server_name", Reason::NotHttps));
}

#[test]
fn durations_have_the_grammar_of_flags() {
    let config =
        given("[timeouts]\nkeep_alive = '1h30m'\ndrain = '1s500ms'\n[freshness]\nmax_staleness = '1d12h'").accepted();
    assert_eq!(config.timeouts.keep_alive, Duration::from_mins(90));
    assert_eq!(config.freshness.max_staleness, MaxStaleness::Within(Duration::from_hours(36)));
    let printed = effective(&config);
    let lines = ["keep_alive = \"1h30m\"", "drain = \"1s500ms\"", "max_staleness = \"1d12h\""];
    assert!(lines.iter().all(|line| printed.contains(line)), "{printed}");
}

#[test]
fn limits_that_cannot_be_enforced_are_refused() {
    let refused = given("[limits]\nmax_headers = 129").refused();
    assert_eq!(refused, wrong("limits.max_headers", Reason::OutOfRange { least: 1, most: 128 }));
    let config = given("[limits]\nmax_headers = 128\nmax_connections_per_client = 9").accepted();
    assert_eq!(config.limits.max_connections_per_client.map(std::num::NonZeroUsize::get), Some(9));
    for number in ["0", "100001"] {
        let refused = given(&format!("[upstream.heartbeat]\nmax_in_flight = {number}")).refused();
        assert_eq!(refused, wrong("upstream.heartbeat.max_in_flight", Reason::OutOfRange { least: 1, most: 100_000 }));
    }
}

#[test]
fn freshness_bounds_are_longer_than_the_probe_interval() {
    let problem = given("[freshness]\nprobe_interval = '60s'").problem();
    assert!(problem.starts_with("t.toml:2:18: freshness.probe_interval"), "{problem}");
    let problem = given("[freshness]\nmax_staleness = '500ms'").problem();
    assert!(
        problem.starts_with("t.toml:2:17: freshness.max_staleness = \"500ms\": max_staleness must be longer"),
        "{problem}"
    );
    let refused = |toml: &str| given(toml).refused();
    let longer = Reason::ShortPermissionStaleness { probe_interval: FreshnessConfig::default().probe_interval };
    assert_eq!(
        refused("[freshness.per_permission]\n'tokens:write' = '1s'"),
        wrong("freshness.per_permission.tokens:write", longer)
    );
    assert_eq!(
        refused("[freshness.per_permission]\n'token:write' = '5s'"),
        wrong("freshness.per_permission.token:write", invalid::<Permission>("token:write"))
    );
    assert_eq!(
        refused("[freshness]\nprobe_interval = 'x'\nmax_staleness = '500ms'"),
        wrong("freshness.probe_interval", Reason::invalid(InvalidDuration)),
        "what cannot be read is not compared"
    );
    let config = given("[freshness]\nprobe_interval = '1h'\nmax_staleness = 'never'").accepted();
    assert_eq!(config.freshness.max_staleness, MaxStaleness::Never);
}

#[test]
fn routes_are_added_and_replace_built_in_ones() {
    let config = given(
        r#"disabled_auth_groups = ["labels"]
[freshness.per_permission]
"reporting-rules:write" = "5s"
[[route]]
methods = ["GET"]
path = "/api/configs/**"
auth = "none"
[[route]]
methods = ["POST", "PUT"]
path = "/api/reports/{id}"
permission = "reporting-rules:write"
upstream = "heartbeat"
[[route]]
methods = ["GET"]
path = "/health"
auth = "none"
[[route]]
methods = ["HEAD"]
path = "/health"
permission = "agents:read"
[[route]]
methods = ["GET", "POST"]
path = "/api/users/**"
auth = "token"
"#,
    )
    .accepted();
    assert_eq!(route(&config, "GET", "/api/configs/1/toml"), "open api");
    assert_eq!(route(&config, "HEAD", "/api/configs/1/toml"), "open api", "GET includes HEAD");
    assert_eq!(route(&config, "GET", "/api/configs"), "configs:read api", "another path");
    assert_eq!(route(&config, "POST", "/api/configs/1"), "configs:write api", "another method");
    assert_eq!(route(&config, "PUT", "/api/reports/7"), "reporting-rules:write heartbeat");
    assert_eq!(route(&config, "HEAD", "/health"), "agents:read api", "unless HEAD has a route of its own");
    assert_eq!(route(&config, "GET", "/health"), "open api");
    assert_eq!(route(&config, "DELETE", "/api/labels/1"), "open api");
    assert_eq!(route(&config, "HEAD", "/api/users/1"), "token api", "in place of what is built in");
    assert_eq!(route(&config, "POST", "/api/users/1"), "token api");
    assert_eq!(route(&config, "PUT", "/api/users/1"), "users:write api", "another method");
    let bound = |method, path| match config.routes.find(method, path).expect("a route").access {
        Access::Token { max_staleness, .. } => max_staleness,
        Access::Open => panic!("it needs a token"),
    };
    assert_eq!(bound("POST", "/api/reports/7"), MaxStaleness::Within(Duration::from_secs(5)));
    assert_eq!(bound("POST", "/api/users/1"), config.freshness.max_staleness, "no permission, no bound of its own");
    assert_same(
        &given("disabled_auth_groups = ['*']").accepted(),
        &given("disabled_auth_groups = ['labels', 'heartbeat', 'agents', 'configs', 'reporting-rules']").accepted(),
    );
}

#[test]
fn routes_that_cannot_be_meant_are_refused() {
    let problem = |route: &str| given(&format!("[[route]]\n{route}")).problem();
    let path = "path = '/x'";
    let get = "methods = ['GET']";
    for (route, key, expected) in [
        (format!("{get}\n{path}"), "", Reason::NoPermission),
        (format!("{get}\n{path}\nauth = 'none'\npermission = 'agents:read'"), ".auth", Reason::PermissionAndAuth),
        (format!("{get}\n{path}\nauth = 'token'\npermission = 'agents:read'"), ".auth", Reason::PermissionAndAuth),
        (format!("{get}\n{path}\nauth = 'basic'"), ".auth", Reason::NotAuth),
        (format!("{path}\nauth = 'none'"), ".methods", Reason::IncompleteRoute),
        (format!("{get}\nauth = 'none'"), ".path", Reason::IncompleteRoute),
        (format!("methods = ['get']\n{path}\nauth = 'none'"), ".methods[0]", Reason::NotMethod),
        (format!("methods = []\n{path}\nauth = 'none'"), ".methods", Reason::NotSet),
        (format!("methods = ['GET', 'GET']\n{path}\nauth = 'none'"), ".methods[1]", Reason::NotSet),
        (format!("{get}\npath = 'x'\nauth = 'none'"), ".path", invalid::<Pattern>("x")),
        (format!("{get}\n{path}\npermission = 'agent:read'"), ".permission", invalid::<Permission>("agent:read")),
        (format!("{get}\n{path}\npermission = 'S3CRET'"), ".permission", Reason::NotPermission),
        (format!("{get}\n{path}\nauth = 'none'\nupstream = 'web'"), ".upstream", invalid::<UpstreamName>("web")),
    ] {
        let refused = given(&format!("[[route]]\n{route}")).refused();
        assert_eq!(refused, wrong(&format!("route[0]{key}"), expected), "{route}");
    }

    let twice = format!(
        "{get}\npath = '/x/{{a}}'\nauth = 'none'\n[[route]]\nmethods = ['POST', 'GET']\npath = '/x/{{b}}'\nauth = 'none'"
    );
    let message = problem(&twice);
    assert!(message.starts_with("t.toml:7:8: route[1].path"), "{message}");
    assert!(
        message.contains("GET on this path is shadowed by the route at") && message.contains("t.toml:3:8"),
        "{message}"
    );
}

#[test]
fn what_check_prints_means_the_same() {
    let read_back = |config: &Config| {
        let printed = effective(config);
        let again = given(&printed).load().unwrap_or_else(|problems| panic!("{problems}\n{printed}"));
        assert_same(&again, config);
        assert_eq!(effective(&again), printed);
        printed
    };
    let printed = read_back(&given("").accepted());
    assert!(!printed.contains("\n[[route]]") && printed.contains("#   POST            /agents/heartbeat"), "{printed}");

    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("certificate");
    let directory = TempDir::new().expect("directory");
    let write = |name: &str, text: &str| written(&directory, name, text);
    let certificate = write("it's.pem", &key.cert.pem());
    let private_key = write("key.pem", &key.signing_key.serialize_pem());
    let token = write("token", "tc-apiv1_0123456789s3cret");
    let config = given(&format!(
        r#"workers = 3
disabled_auth_groups = ["labels", "heartbeat"]
trusted_proxies = ["10.0.0.0/8", "fd00::/8"]
[[listener]]
address = "[::1]:8443"
tls = {{ certificate = "{certificate}", key = "{private_key}", client_ca = "{certificate}", alpn = ["http/1.1"] }}
[[listener]]
address = "127.0.0.1:0"
[upstream.api]
url = "https://[fd00::1]"
tls = {{ ca = "{certificate}", server_name = "c.example", certificate = "{certificate}", key = "{private_key}" }}
credential = {{ mode = "replace", token_file = "{token}" }}
timeouts = {{ connect = "1500ms", first_byte = "1h", idle = "90s" }}
pool = {{ idle_timeout = "1s", max_idle = 0 }}
max_in_flight = 2
[upstream.heartbeat]
url = ["http://heartbeats.example.:8000", "http://10.0.0.2:8000"]
credential.mode = "strip"
health = {{ path = "off", interval = "1s" }}
[store]
url = "sqlite:/var/lib/a \"b\".db"
[freshness]
probe_interval = "250ms"
max_staleness = "never"
per_permission = {{ "heartbeat:write" = "15m", "tokens:write" = "never" }}
[registry]
expired_retention = "0s"
[admin]
address = "0.0.0.0:9901"
[limits]
max_connections = 5
max_connections_per_client = 4
max_head_bytes = 10000
max_headers = 6
max_body_bytes = "1MB"
max_streams = 7
min_body_rate = 8
[timeouts]
tls_handshake = "1s"
request_head = "2s"
body_grace = "3s"
keep_alive = "4d"
drain = "0s"
[log]
filter = "warn,tollgate=debug"
format = "json"
[[route]]
methods = ["GET", "POST"]
path = "/api/configs/{{id}}/public"
auth = "none"
[[route]]
methods = ["GET"]
path = "/api/configs"
auth = "none"
[[route]]
methods = ["HEAD"]
path = "/api/configs"
permission = "configs:read"
[[route]]
methods = ["POST"]
path = "/api/labels"
permission = "labels:write"
"#
    ))
    .accepted();
    assert_eq!(config.log.format, LogFormat::Json);
    let printed = read_back(&config);
    assert!(!printed.contains("s3cret"), "{printed}");
    assert!(Path::new(&token).exists());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_damaged_file_is_refused_with_a_problem_or_means_something(
        cut: prop::sample::Index, length in 0..40_usize, put in "[a-z0-9\\[\\]{}=\"'.,#\n é-]{0,6}",
    ) {
        let lines = include_str!("../../../config/tollgate.toml").lines().filter(|line| !line.starts_with("# "));
        let text: Vec<char> = lines.collect::<Vec<_>>().join("\n").chars().collect();
        let start = cut.index(text.len());
        let after = text.iter().skip(start + length);
        let damaged: String = text[..start].iter().copied().chain(put.chars()).chain(after.copied()).collect();
        match given(&damaged).load() {
            Ok(config) => assert_same(&given(&effective(&config)).accepted(), &config),
            Err(problems) => prop_assert!(problems.iter().all(|problem| !problem.reason.to_string().is_empty())),
        }
    }
}
