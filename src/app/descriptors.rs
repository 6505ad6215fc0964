//! File descriptors: as many as the system lets this process have, and who may have them. Clients must not take those
//! that their own requests, the store and the admin listener need.

use std::num::NonZeroUsize;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;
use crate::upstream::UpstreamConfig;

/// Reserved for what is neither a client's nor an upstream's: the runtimes, the store, files, and a few admin connections.
const OWN: usize = 64;

/// Admin connections that are always reserved.
const FEW_ADMIN: usize = 32;

/// The share of the admin connections.
const ADMIN_SHARE: usize = 16;

/// Raises the limit of open files; the configuration with as many connections of clients and of the admin listener as that leaves
/// room for, or fewer.
pub(super) fn share(config: &Config) -> Config {
    let mut config = config.clone();
    // The usual soft limit is 1,024. The hard limit is there to be used.
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let Some(limit) = getrlimit(Resource::Nofile).current else { return config };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    // A check has a connection of its own to each of several nodes.
    let of = |upstream: &UpstreamConfig| Some(upstream.nodes.len()).filter(|count| *count > 1).unwrap_or_default();
    let checked = of(&config.upstreams.api) + of(&config.upstreams.heartbeat);
    let admin = (limit / ADMIN_SHARE).max(FEW_ADMIN).min(config.admin.max_connections);
    config.admin.max_connections = admin;
    // Each socket that listens is held by a worker, and for a process that takes over.
    let reserved = OWN + admin.saturating_sub(FEW_ADMIN) + checked + 2 * config.listeners.len() * config.workers.get();
    let (wanted, api, heartbeat) = {
        let upstreams = &config.upstreams;
        (config.limits.max_connections, upstreams.api.max_in_flight, upstreams.heartbeat.max_in_flight)
    };
    let Shares { clients, upstreams: [for_api, for_heartbeat] } = shares(limit, reserved, [api.get(), heartbeat.get()]);
    if clients < wanted {
        config.limits.max_connections = clients;
        config.upstreams.api.max_in_flight = for_api;
        config.upstreams.heartbeat.max_in_flight = for_heartbeat;
        let needed = wanted.get().saturating_add(reserved + api.get() + heartbeat.get());
        tracing::warn!(
            limit,
            needed,
            accepted = clients,
            api = for_api,
            heartbeat = for_heartbeat,
            "the limit of open files (ulimit -n) is too low for limits.max_connections: accepting fewer; raise it or lower the key"
        );
    }
    config
}

/// Who may have how many descriptors.
#[derive(Debug, PartialEq, Eq)]
struct Shares {
    clients: NonZeroUsize,
    upstreams: [NonZeroUsize; 2],
}

/// What a limit has room for beyond what is `reserved`. Where it is so low that upstreams would leave clients less than half, each
/// side gets half: then as many requests wait as would otherwise fail.
fn shares(limit: usize, reserved: usize, upstreams: [usize; 2]) -> Shares {
    let rest = limit.saturating_sub(reserved);
    let clients = rest.saturating_sub(upstreams.iter().sum()).max(rest / 2);
    let each = (rest - clients) / 2;
    let some = |count| NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
    let fits = upstreams.iter().sum::<usize>() <= rest - clients;
    Shares { clients: some(clients), upstreams: upstreams.map(|most| some(if fits { most } else { most.min(each) })) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(limit: usize) -> (usize, [usize; 2]) {
        let Shares { clients, upstreams } = shares(limit, 66, [512, 512]);
        (clients.get(), upstreams.map(NonZeroUsize::get))
    }

    #[test]
    fn clients_get_what_the_rest_does_not_need_and_at_least_half() {
        assert_eq!(of(100_000), (98_910, [512, 512]));
        assert_eq!(of(1_024), (479, [239, 239]));
        assert_eq!(of(0), (1, [1, 1]));
    }
}
