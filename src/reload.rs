//! Files that may change while a sidecar runs: service tokens, certificates and their keys, authorities. Looked at once a
//! second.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::MissedTickBehavior;

use crate::chain::chain;
use crate::listener::Tls;
use crate::tls::TlsConfig;
use crate::upstream::{CredentialMode, Upstream};

const INTERVAL: Duration = Duration::from_secs(1);

/// After how long a look counts as one that hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// A set of files that are read together, and how.
struct Watched {
    paths: Vec<PathBuf>,
    /// Empty before the first look, which reads them: they may have changed since the start read them.
    seen: Vec<Option<Stamp>>,
    reload: Box<dyn Fn() -> Result<(), String> + Send>,
}

impl Watched {
    fn new(paths: Vec<PathBuf>, reload: Box<dyn Fn() -> Result<(), String> + Send>) -> Self {
        Self { paths, seen: Vec::new(), reload }
    }

    fn files(&self) -> String {
        self.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    fn look(&mut self) {
        let stamps = stamps(&self.paths);
        if stamps == self.seen {
            return;
        }
        let first = std::mem::replace(&mut self.seen, stamps).is_empty();
        let files = self.files();
        match (self.reload)() {
            Ok(()) if first => {}
            Ok(()) => tracing::info!(files, "reloaded changed files"),
            Err(error) => tracing::error!(files, error, "changed files cannot be used; the previous ones stay in use"),
        }
    }
}

/// What distinguishes a file from another and from itself before a change: device, inode, size, and the times of the last write and
/// the last change. A file put in its place with the same size and time of writing is another inode, or changed later.
type Stamp = [i64; 7];

fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| {
        let file = std::fs::metadata(path).ok()?;
        let [device, inode, size] = [file.dev(), file.ino(), file.size()].map(u64::cast_signed);
        Some([device, inode, size, file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()])
    };
    paths.iter().map(stamp).collect()
}

/// Looks at one set again and again, on a thread of its own while it does: a file on a mount that hangs holds up nothing but
/// its own set.
async fn watch_one(mut watched: Watched) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let files = watched.files();
        let mut look = tokio::task::spawn_blocking(move || {
            watched.look();
            watched
        });
        let looked = match tokio::time::timeout(PATIENCE, &mut look).await {
            Ok(looked) => looked,
            Err(_) => {
                tracing::warn!(files, "reading files hangs: until it ends, their changes are not seen");
                look.await
            }
        };
        watched = match looked {
            Ok(watched) => watched,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends.
                Err(_) => return,
            },
        };
    }
}

/// Reads files again when they change. What cannot be used is reported, and what was read before stays. Never ends.
pub(crate) async fn watch(upstreams: Vec<Arc<Upstream>>, listeners: Vec<Arc<Tls>>) {
    let mut watched = Vec::new();
    for upstream in upstreams {
        if let CredentialMode::Replace { token_file } = &upstream.config.credential {
            let paths = vec![token_file.clone()];
            let upstream = Arc::clone(&upstream);
            let reload = move || upstream.reload_credential().map_err(|error| chain(&error));
            watched.push(Watched::new(paths, Box::new(reload)));
        }
        if let Some(tls) = &upstream.config.tls {
            let identity = tls.identity.iter().flat_map(|identity| [&identity.certificate, &identity.key]);
            let paths: Vec<_> = tls.ca.iter().chain(identity).cloned().collect();
            let reload = move || upstream.reload_tls().map_err(|error| chain(&error));
            watched.push(Watched::new(paths, Box::new(reload)));
        }
    }
    for tls in listeners {
        let TlsConfig { certificate, key, client_ca, client_crl, .. } = &tls.config;
        let paths = [Some(certificate), Some(key), client_ca.as_ref(), client_crl.as_ref()];
        let paths = paths.into_iter().flatten().cloned().collect();
        watched.push(Watched::new(paths, Box::new(move || tls.reload().map_err(|error| chain(&error)))));
    }
    let mut all: JoinSet<_> = watched.into_iter().map(watch_one).collect();
    while let Some(ended) = all.join_next().await {
        if let Err(Ok(panic)) = ended.map_err(JoinError::try_into_panic) {
            std::panic::resume_unwind(panic);
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// The whole control plane waited for it once: revocations, the bound, health and signals.
    #[tokio::test]
    async fn a_file_that_hangs_holds_up_nothing_else() {
        let (release, held) = mpsc::channel::<()>();
        let hangs =
            Watched::new(vec![PathBuf::from("/hangs")], Box::new(move || held.recv().map_err(|end| end.to_string())));
        let (looked, mut looks) = tokio::sync::mpsc::channel(1);
        let other = Watched::new(
            vec![PathBuf::from("/other")],
            Box::new(move || looked.try_send(()).map_err(|error| error.to_string())),
        );
        tokio::select! {
            () = watch_one(hangs) => {}
            () = watch_one(other) => {}
            look = looks.recv() => assert!(look.is_some()),
        }
        // The runtime's end waits for who is looking.
        drop(release);
    }
}
