//! File descriptors: as many as the system lets this process have, and who may have them. Clients must not take those
//! that their own requests, the store and the admin listener need.

use std::num::NonZeroUsize;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Kept for what is neither a client's nor an upstream's: the runtimes, the store, the admin listener, files.
const OWN: usize = 64;

/// Raises the limit of open files, and lowers the number of client connections to what it leaves room for.
pub(super) fn share(config: &mut Config) {
    // The usual soft limit is 1,024. The hard limit is there to be used.
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let Some(limit) = getrlimit(Resource::Nofile).current else { return };
    let upstreams = [&config.upstreams.api, &config.upstreams.heartbeat].map(|upstream| upstream.max_in_flight.get());
    let listening = config.listeners.len() * config.workers.get();
    let kept = OWN + listening + upstreams.iter().sum::<usize>();
    let wanted = config.limits.max_connections;
    let room = room(usize::try_from(limit).unwrap_or(usize::MAX), kept);
    if room < wanted {
        config.limits.max_connections = room;
        let needed = wanted.get().saturating_add(kept);
        tracing::warn!(
            limit,
            needed,
            accepted = room,
            "the limit of open files (ulimit -n) is too low for limits.max_connections: fewer are accepted"
        );
    }
}

/// Client connections that a limit has room for. Where the limit is so low that hardly any were left, they get half: each
/// needs at most one upstream connection.
fn room(limit: usize, kept: usize) -> NonZeroUsize {
    NonZeroUsize::new(limit.saturating_sub(kept).max(limit / 2)).unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_the_rest_does_not_need_and_at_least_half() {
        assert_eq!(room(100_000, 1_100).get(), 98_900);
        assert_eq!(room(1_024, 1_100).get(), 512);
        assert_eq!(room(0, 1_100).get(), 1);
    }
}
