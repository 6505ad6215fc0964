//! Files that may change while a sidecar runs: service tokens, certificates and their keys, authorities, revocation lists. Looked
//! at once a second: which files they are, and what is in them.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::task::{JoinError, JoinSet};
use tokio::time::MissedTickBehavior;
use tracing::subscriber::NoSubscriber;
use zeroize::Zeroizing;

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
        // What is worth a warning of files that were just read was said then.
        let outcome = match first {
            true => tracing::subscriber::with_default(NoSubscriber::default(), &self.reload),
            false => (self.reload)(),
        };
        match outcome {
            Ok(()) if first => {}
            Ok(()) => tracing::info!(files, "reloaded changed files"),
            Err(error) => tracing::error!(files, error, "changed files cannot be used; the previous ones stay in use"),
        }
    }
}

/// What distinguishes a file from another and from itself before a change: device, inode, and what is in it. Times tell less: what is
/// written again within a tick of the clock, or by who sets them back, has the same.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    content: [u8; 32],
}

fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    paths.iter().map(|path| stamp(path).ok()).collect()
}

/// Of whatever is at the end of links.
fn stamp(path: &Path) -> io::Result<Stamp> {
    // To open a pipe would wait for who writes to it.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut file = File::open(path)?;
    let found = file.metadata()?;
    let mut content = Zeroizing::new(Vec::new());
    file.read_to_end(&mut content)?;
    Ok(Stamp { device: found.dev(), inode: found.ino(), content: Sha256::digest(&*content).into() })
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

    /// As Kubernetes and certbot do it, and as an editor that preserves times does.
    #[test]
    fn a_file_of_the_same_size_and_time_is_another_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let (one, other, link) =
            (directory.path().join("one"), directory.path().join("other"), directory.path().join("link"));
        let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let write = |path: &Path, text: &str| {
            std::fs::write(path, text).expect("writes");
            File::options().write(true).open(path).and_then(|file| file.set_modified(time)).expect("a time");
        };
        let seen = || stamps(std::slice::from_ref(&link));
        assert_eq!(seen(), [None], "nothing is there");
        write(&one, "a key");
        write(&other, "A KEY");
        std::os::unix::fs::symlink(&one, &link).expect("a link");
        let first = seen();
        assert_eq!(seen(), first, "nothing happened");
        std::fs::remove_file(&link).and_then(|()| std::os::unix::fs::symlink(&other, &link)).expect("another link");
        let second = seen();
        assert_ne!(second, first, "the link was swapped");
        write(&other, "b key");
        assert_ne!(seen(), second, "written in its place");
        let third = stamp(&link).expect("a file");
        std::fs::copy(&link, &one).and_then(|_| std::fs::rename(&one, &other)).expect("moved into its place");
        let fourth = stamp(&link).expect("a file");
        assert_eq!(fourth.content, third.content);
        assert_ne!(fourth, third, "another file with the same content");
    }

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
