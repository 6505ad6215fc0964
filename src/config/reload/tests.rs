use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::config::load::all_keys;
use crate::config::{Overrides, Source, effective, load};

fn read(directory: &TempDir, text: &str) -> Config {
    let file = directory.path().join("tollgate.toml");
    std::fs::write(&file, text).expect("writes");
    let source = Source { file: Some(file), environment: vec![("HOME".into(), "/home/tollgate".into())] };
    load(&source, &Overrides::default()).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Every key, with another value than its default.
fn everything(directory: &Path) -> String {
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).expect("writes");
        path.display().to_string()
    };
    let certificate = write("certificate.pem", &key.cert.pem());
    let private_key = write("key.pem", &key.signing_key.serialize_pem());
    let token = write("token", "tc-apiv1_0123456789s3cret");
    let password = write("password", "x");
    let mut issuer = rcgen::CertificateParams::new(Vec::<String>::new()).expect("names");
    issuer.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
    let issuer_key = rcgen::KeyPair::generate().expect("a key");
    let issuer = rcgen::Issuer::new(issuer, issuer_key);
    let crl = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2026, 1, 1),
        next_update: rcgen::date_time_ymd(2100, 1, 1),
        crl_number: rcgen::SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let crl = write("crl.pem", &crl.signed_by(&issuer).expect("a list").pem().expect("PEM"));
    let tls = format!(
        "certificate = '{certificate}', key = '{private_key}', client_ca = '{certificate}', client_crl = '{crl}', min_version = '1.3'"
    );
    let upstream = format!(
        "tls = {{ ca = '{certificate}', server_name = 'c.example', certificate = '{certificate}', key = '{private_key}' }}
credential = {{ mode = 'replace', token_file = '{token}' }}
health = {{ path = '/other', interval = '1s' }}
timeouts = {{ connect = '1500ms', first_byte = '1h', idle = '90s' }}
pool = {{ idle_timeout = '1s', max_idle = 0 }}
max_in_flight = 2"
    );
    format!(
        "name = 'other'
workers = 77
disabled_auth_groups = ['labels']
trusted_proxies = ['10.0.0.0/8']
[[listener]]
address = 'unix:/run/x.sock'
mode = '0600'
proxy_protocol = ['10.0.0.0/8']
tls = {{ {tls}, alpn = ['http/1.1'] }}
[upstream.api]
url = 'https://a.example'
{upstream}
[upstream.heartbeat]
url = 'https://b.example'
{upstream}
[store]
url = 'redis-sentinel://user@h,i,j/name'
namespace = 'other'
quorum_replicas = 1
read_from = 'replica'
password_file = '{password}'
sentinel_username = 'user'
sentinel_password_file = '{password}'
snapshot_file = '/var/lib/x'
[freshness]
probe_interval = '250ms'
max_staleness = '10s'
per_permission = {{ 'heartbeat:write' = '15m' }}
[registry]
expired_retention = '0s'
max_token_lifetime = '1h'
[admin]
address = '127.0.0.1:9901'
tls = {{ {tls} }}
public_url = 'https://ops.example'
console = 'on'
store_username = 'user'
store_password_file = '{password}'
[audit]
retention = '1h'
file = '/var/log/x'
syslog = '/dev/log'
required = true
[health]
path = '/ready'
[limits]
max_connections = 5
max_connections_per_client = 4
max_head_bytes = 10000
max_headers = 6
max_body_bytes = '1MB'
max_streams = 7
min_body_rate = 8
failed_auth = {{ rate = 1, burst = 2, exempt = ['10.0.0.0/8'] }}
[timeouts]
tls_handshake = '1s'
request_head = '2s'
body_grace = '3s'
keep_alive = '4d'
drain_delay = '1s'
drain = '0s'
[config_cache]
enabled = true
max_bytes = '3MB'
max_entries = 3
max_age = '1h'
directory = '/var/cache/x'
[log]
filter = 'warn'
format = 'json'
[access_log]
output = 'stdout'
format = 'json'
one_in = 3
[traces]
endpoint = 'http://127.0.0.1:4318'
one_in = 3
service_name = 'other'
[[route]]
methods = ['GET']
path = '/x'
auth = 'none'
"
    )
}

/// The list of names, which `check` and the log go by, says what the exchange of values does.
#[test]
fn what_is_named_as_exchanged_is_what_is_exchanged() {
    let directory = TempDir::new().expect("a directory");
    // The same address, since a listener is known by it.
    let running = read(&directory, "[[listener]]\naddress = 'unix:/run/x.sock'\n");
    let other = read(&directory, &everything(directory.path()));
    let (_, changes) = running.reloaded(&other);
    assert_eq!(changes, Changes::between(&running.values(), &other.values()));
    let changed: Vec<_> = changes.reloaded.iter().chain(&changes.restart).map(|key| generic(key)).collect();
    let is_changed =
        |key: &str| changed.iter().any(|changed| changed == key || changed.starts_with(&format!("{key}.")));
    let is_of_route = |key: &str| key.starts_with("route.");
    // The proofs' keys are as the console's.
    let same: Vec<_> = all_keys().into_keys().filter(|key| !is_changed(key) && !is_of_route(key)).collect();
    let expected = ["listener.address", "store.ca", "store.certificate", "store.key"];
    let same: Vec<_> = same.iter().filter(|key| !key.starts_with("admin.prove")).collect();
    assert_eq!(same, expected, "every other key is tried here");
    let printed = effective(&other);
    assert!(printed.contains("\nworkers = 77  # restart\n") && printed.contains("\nmax_headers = 6\n"), "{printed}");
}

#[test]
fn what_needs_a_restart_stays_and_is_named() {
    let directory = TempDir::new().expect("a directory");
    let running = read(&directory, "workers = 2\n[limits]\nmax_headers = 10\n");
    let other = read(&directory, "workers = 3\n[limits]\nmax_headers = 11\n[[listener]]\naddress = '127.0.0.1:1'\n");
    let (config, changes) = running.reloaded(&other);
    assert_eq!((config.workers, config.limits.max_headers.get()), (running.workers, 11));
    assert_eq!(changes.reloaded, ["limits.max_headers"]);
    let usual = format!("listener[{}].address", running.listeners[0].address);
    assert_eq!(changes.restart, ["listener[127.0.0.1:1].address", &usual, "workers"]);
    assert_eq!(config.listeners[0].address, running.listeners[0].address);
}

/// What place a listener has in the file says nothing, neither to a reload nor to who asks what one would do.
#[test]
fn listeners_are_the_same_by_their_addresses() {
    let directory = TempDir::new().expect("a directory");
    let proxied = |port: u16, network: &str| {
        format!("[[listener]]\naddress = '127.0.0.1:{port}'\nproxy_protocol = ['{network}']\n")
    };
    let (one, two) = (proxied(1, "10.0.0.0/8"), proxied(2, "11.0.0.0/8"));
    let running = read(&directory, &format!("{one}{two}"));
    for (text, reloaded, restart) in [
        (format!("{two}{one}"), None, None),
        (two.clone(), None, Some("listener[127.0.0.1:1].address")),
        (format!("{}{two}{one}", proxied(3, "12.0.0.0/8")), None, Some("listener[127.0.0.1:3].address")),
        (format!("{}{one}", proxied(2, "12.0.0.0/8")), Some("listener[127.0.0.1:2].proxy_protocol"), None),
    ] {
        let other = read(&directory, &text);
        let (config, changes) = running.reloaded(&other);
        let expected = Changes {
            reloaded: reloaded.map(str::to_owned).into_iter().collect(),
            restart: restart.map(str::to_owned).into_iter().collect(),
        };
        assert_eq!(changes, expected, "{text}");
        assert_eq!(Changes::between(&running.values(), &other.values()), expected, "{text}");
        let addresses = |config: &Config| config.listeners.iter().map(|it| it.address.clone()).collect::<Vec<_>>();
        assert_eq!(addresses(&config), addresses(&running));
    }
}

/// What is stored is of one Controller.
#[test]
fn another_controller_needs_a_restart_while_its_answers_are_stored() {
    let directory = TempDir::new().expect("a directory");
    let cached = "[config_cache]\nenabled = true\n";
    let (one, other) = ("[upstream.api]\nurl = 'http://a'\n", "[upstream.api]\nurl = 'http://b'\n");
    let of = |cache: &str, upstream: &str| read(&directory, &format!("{cache}{upstream}"));
    let (config, changes) = of(cached, one).reloaded(&of(cached, other));
    assert_eq!(changes, Changes::between(&of(cached, one).values(), &of(cached, other).values()));
    assert_eq!((changes.reloaded.len(), changes.restart), (0, vec!["upstream.api.url".to_owned()]));
    assert_eq!(config.upstreams.api.nodes[0].host, "a");
    let (config, changes) = of("", one).reloaded(&of("", other));
    assert_eq!((changes.reloaded, changes.restart.len()), (vec!["upstream.api.url".to_owned()], 0));
    assert_eq!(config.upstreams.api.nodes[0].host, "b");
}

/// A group that is opened is so from the start on.
#[test]
fn routes_are_those_of_the_groups_that_were_open_at_the_start() {
    let directory = TempDir::new().expect("a directory");
    let running = read(&directory, "");
    let route = "[[route]]\nmethods = ['GET']\npath = '/x'\nauth = 'none'\n";
    let other = read(&directory, &format!("disabled_auth_groups = ['configs']\n{route}"));
    let (config, changes) = running.reloaded(&other);
    assert_eq!(
        (changes.reloaded, changes.restart),
        (vec!["route".to_owned()], vec!["disabled_auth_groups".to_owned()])
    );
    let listed =
        |config: &Config| config.routes.list().into_iter().filter(|(_, path, _)| path != "/x").collect::<Vec<_>>();
    assert_eq!(listed(&config), listed(&running));
    assert_ne!(listed(&config), listed(&other));
    assert!(config.routes.find("GET", "/x").is_ok());
}
