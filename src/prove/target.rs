//! Which listeners are asked: those that were named, or what sidecars report of theirs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::listener::ListenAddress;
use crate::store::report::with_distinct_names;
use crate::store::{Report, Reported, SidecarId};
use crate::upstream::UpstreamUrl;

/// Which sidecars are on this host: their loopback is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Here {
    /// All that share a SQLite file.
    All,
    /// This one.
    Only(SidecarId),
    /// None is known to be.
    None,
}

impl Here {
    fn has(self, sidecar: SidecarId) -> bool {
        match self {
            Self::All => true,
            Self::Only(id) => id == sidecar,
            Self::None => false,
        }
    }
}

/// A listener to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) url: UpstreamUrl,
    /// Whose it is, as far as that is known.
    pub(super) sidecar: Option<String>,
}

/// A sidecar that reports and cannot be asked from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unmeasured {
    /// What people call it.
    pub sidecar: String,
    /// Where it listens, as it reports it.
    pub address: String,
}

/// Everything that there is to ask.
#[derive(Debug, Default)]
pub(super) struct Targets {
    pub(super) listeners: Vec<Target>,
    pub(super) unmeasured: Vec<Unmeasured>,
}

impl Targets {
    /// These, each once. Where more sidecars report than these can be, some of those that report elsewhere are not among them.
    pub(super) fn named(via: &[UpstreamUrl], sidecars: Vec<Reported>) -> Self {
        let mut listeners: Vec<Target> = Vec::new();
        for url in via {
            if listeners.iter().all(|known| known.url != *url) {
                listeners.push(Target { url: url.clone(), sidecar: None });
            }
        }
        let (mut unmeasured, mut elsewhere) = (Vec::new(), listeners.len());
        let mut places: Vec<_> = listeners.iter().map(|target| place_of(&target.url)).collect();
        for Reported { report, .. } in with_distinct_names(sidecars) {
            let reported = url_of(&report, Here::All).map(|url| place_of(&url));
            match places.iter().position(|place| Some(place) == reported.as_ref()) {
                Some(at) => {
                    places.swap_remove(at);
                    elsewhere -= 1;
                }
                None => unmeasured.push(Unmeasured { sidecar: report.name, address: report.address }),
            }
        }
        if unmeasured.len() <= elsewhere {
            unmeasured.clear();
        }
        Self { listeners, unmeasured }
    }

    /// The first listener of each sidecar that reports.
    pub(super) fn of_reports(sidecars: Vec<Reported>, here: Here) -> Self {
        let mut targets = Self::default();
        for Reported { report, .. } in with_distinct_names(sidecars) {
            match url_of(&report, here) {
                Some(url) => targets.listeners.push(Target { url, sidecar: Some(report.name) }),
                None => {
                    targets.unmeasured.push(Unmeasured { sidecar: report.name, address: report.address });
                }
            }
        }
        targets
    }
}

/// Where a sidecar can be asked from here. What it reports is where it listens, and that is no way to it from elsewhere if it
/// is loopback, every interface, or a file. Reports do not say whether a listener speaks TLS: then it does not answer, which
/// is said.
fn url_of(report: &Report, here: Here) -> Option<UpstreamUrl> {
    let here = here.has(report.id);
    let address = match report.address.parse::<ListenAddress>().ok()? {
        ListenAddress::Tcp(address) => address,
        ListenAddress::Unix(path) if here => return format!("unix:{}", path.display()).parse().ok(),
        ListenAddress::Unix(_) | ListenAddress::Name { .. } => return None,
    };
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() && here => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() && here => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let is_elsewhere = ip.to_canonical().is_loopback() && !here;
    if ip.is_unspecified() || is_elsewhere {
        return None;
    }
    format!("http://{}", SocketAddr::new(ip, address.port())).parse().ok()
}

/// A URL without what comes before its host, which reports do not say.
fn place_of(url: &UpstreamUrl) -> String {
    let url = url.to_string();
    url.split_once("://").map_or(url.as_str(), |(_, place)| place).to_owned()
}

/// Why reports were of no use, for the end of a sentence.
pub(super) fn excuse(unmeasured: &[Unmeasured]) -> String {
    if unmeasured.is_empty() {
        return "; no sidecar reports to this store".to_owned();
    }
    let named: Vec<_> =
        unmeasured.iter().map(|Unmeasured { sidecar, address }| format!("{sidecar} ({address})")).collect();
    format!("; what these report is no way to them from here: {}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;

    fn report(id: u64, address: &str) -> Reported {
        let report = Report {
            host: String::new(),
            config_cache: None,
            id: SidecarId(id),
            name: format!("edge-{id}"),
            version: "1".to_owned(),
            address: address.to_owned(),
            started_at: Timestamp::UNIX_EPOCH,
            applied: None,
            head: None,
            unwritten_ms: None,
            held_users: Vec::new(),
            schema: crate::store::SCHEMA,
            staleness_ms: None,
            connections: 0,
            draining: None,
            late: Vec::new(),
        };
        Reported { report, age: Duration::ZERO, ttl: Duration::from_secs(70) }
    }

    #[test]
    fn what_a_sidecar_reports_is_asked_where_it_leads_there_from_here() {
        for (address, here, elsewhere) in [
            ("127.0.0.1:8080", Some("http://127.0.0.1:8080"), None),
            ("0.0.0.0:8080", Some("http://127.0.0.1:8080"), None),
            ("[::]:8080", Some("http://[::1]:8080"), None),
            ("10.0.0.5:8080", Some("http://10.0.0.5:8080"), Some("http://10.0.0.5:8080")),
            ("[::ffff:127.0.0.1]:80", Some("http://[::ffff:127.0.0.1]:80"), None),
            ("unix:/run/t.sock", Some("unix:/run/t.sock"), None),
            ("localhost:8080", None, None),
            ("", None, None),
        ] {
            let url = |here| url_of(&report(1, address).report, here).map(|url| url.to_string());
            assert_eq!(url(Here::All).as_deref(), here, "{address}");
            assert_eq!(url(Here::Only(SidecarId(1))).as_deref(), here, "{address}");
            assert_eq!(url(Here::Only(SidecarId(2))).as_deref(), elsewhere, "{address}");
            assert_eq!(url(Here::None).as_deref(), elsewhere, "{address}");
        }
    }

    #[test]
    fn those_that_cannot_be_asked_are_named() {
        let targets = Targets::of_reports(vec![report(2, "127.0.0.1:1"), report(1, "10.0.0.1:1")], Here::None);
        assert_eq!(targets.listeners.len(), 1);
        assert_eq!(targets.listeners[0].sidecar.as_deref(), Some("edge-1"));
        assert_eq!(
            excuse(&targets.unmeasured),
            "; what these report is no way to them from here: edge-2 (127.0.0.1:1)"
        );
    }

    #[test]
    fn a_listener_that_is_named_twice_is_asked_once() {
        let via = ["http://a:1", "http://A:1/", "http://a:2"].map(|url| url.parse().expect("a URL"));
        let urls: Vec<_> =
            Targets::named(&via, Vec::new()).listeners.iter().map(|target| target.url.to_string()).collect();
        assert_eq!(urls, ["http://a:1", "http://a:2"]);
    }

    #[test]
    fn of_sidecars_that_report_and_are_more_than_the_listeners_some_were_not_asked() {
        let unmeasured = |via: &[&str], addresses: &[&str]| {
            let via: Vec<_> = via.iter().map(|url| url.parse().expect("a URL")).collect();
            let sidecars = (1..).zip(addresses).map(|(id, address)| report(id, address)).collect();
            let unmeasured = Targets::named(&via, sidecars).unmeasured;
            unmeasured.into_iter().map(|Unmeasured { sidecar, .. }| sidecar).collect::<Vec<_>>()
        };
        let two = ["10.0.0.5:8080", "10.0.0.6:8080"];
        assert_eq!(unmeasured(&["http://10.0.0.5:8080"], &two), ["edge-2"]);
        assert_eq!(unmeasured(&["https://10.0.0.6:8080"], &two), ["edge-1"]);
        assert_eq!(unmeasured(&["http://10.0.0.5:8080", "http://edge-2.example:8080"], &two), [""; 0], "by its name");
        assert_eq!(unmeasured(&["http://balancer:8080"], &two), ["edge-1", "edge-2"], "it is one of them");
        assert_eq!(unmeasured(&["http://10.0.0.5:8080"], &["0.0.0.0:8080"]), [""; 0], "it may be this one");
        let alike = ["127.0.0.1:8080", "127.0.0.1:8080"];
        assert_eq!(unmeasured(&["http://127.0.0.1:8080"], &alike), ["edge-2"], "each on a host of its own");
        assert_eq!(unmeasured(&["http://10.0.0.5:8080"], &[]), [""; 0]);
    }
}
