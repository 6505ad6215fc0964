//! A reload, from the signal to what is said of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;

use super::console::ConsoleProcess;
use super::live::Live;
use super::service::ServiceManager;
use crate::chain::chain;
use crate::config::{Changes, Config, Problems};
use crate::reading;

/// How a process reads its configuration again.
pub(crate) struct Reread {
    /// From where it was read at the start: file, variables, flags. May block.
    pub(crate) read: Box<dyn Fn() -> Result<Config, Problems> + Send + Sync>,
    /// The log goes by this filter from now on.
    pub(crate) set_filter: Box<dyn Fn(&str) + Send + Sync>,
}

/// Why a reload was refused, each part of it a line of its own.
type Refused = Vec<String>;

/// After how long a reload gives way to the next one that is asked for: somebody has seen what it hangs at, and mended that.
const MOMENT: Duration = Duration::from_secs(1);

/// Reloads at each of these signals; of several that come meanwhile once more. Never ends.
pub(super) async fn when_asked(mut signal: Signal, reread: Reread, live: Arc<Live>, manager: ServiceManager) {
    let reread = Arc::new(reread);
    let mut is_asked = false;
    while is_asked || signal.recv().await.is_some() {
        is_asked = false;
        manager.reloads();
        let asked_again = async {
            tokio::time::sleep(MOMENT).await;
            is_asked = signal.recv().await.is_some();
        };
        match reload(&reread, &live, asked_again).await {
            Ok(changes) => {
                live.reloads().applied(changes.restart.len());
                say(&changes);
            }
            Err(reasons) => {
                live.reloads().refused();
                reasons.iter().for_each(|error| tracing::error!(error, "wrong in the configuration"));
                tracing::error!(
                    "the configuration that was read is refused, all of it: the one before stays in effect"
                );
            }
        }
        // After a refusal too: the process serves as before.
        manager.accepts();
    }
}

async fn reload(reread: &Arc<Reread>, live: &Live, asked_again: impl Future<Output = ()>) -> Result<Changes, Refused> {
    let again = Arc::clone(reread);
    let given_up = async {
        tokio::select! {
            () = reading::patience() => {}
            () = asked_again => {}
        }
    };
    let read = reading::until(given_up, move || (again.read)()).await.map_err(|error| vec![chain(&error)])?;
    let read = read.map_err(|problems| problems.iter().map(ToString::to_string).collect::<Refused>())?;
    let changes = live.reload(&read).await.map_err(|error| vec![chain(&error)])?;
    if changes.reloaded.iter().any(|key| key == "log.filter") {
        (reread.set_filter)(&read.log.filter);
    }
    Ok(changes)
}

fn say(Changes { reloaded, restart }: &Changes) {
    match reloaded.is_empty() {
        true => tracing::info!("configuration reloaded: no key was changed that a reload can exchange"),
        false => tracing::info!(changed = reloaded.join(", "), "configuration reloaded"),
    }
    if !restart.is_empty() {
        tracing::warn!(
            keys = restart.join(", "),
            "these keys were changed and need a restart: the process goes on with their former values"
        );
    }
}

/// The console has no more to exchange than the files of its TLS. Never ends.
pub(super) async fn files_when_asked(mut signal: Signal, console: &ConsoleProcess) {
    while signal.recv().await.is_some() {
        let tls = console.tls.clone();
        let read = reading::until(reading::patience(), move || tls.map_or(Ok(()), |tls| tls.reload())).await;
        match read.map(|read| read.map_err(|error| chain(&error))).unwrap_or_else(|error| Err(chain(&error))) {
            Ok(()) => tracing::info!(
                "SIGHUP: the files of admin.tls were read again; every key of the console's configuration needs a restart"
            ),
            Err(error) => {
                tracing::error!(error, "the files of admin.tls cannot be used: the previous ones stay in use");
            }
        }
    }
}
