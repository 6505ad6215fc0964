//! `drain`: takes the sidecar on this host out of its balancer, and back, while it serves on.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::Globals;
use super::args::Format;
use super::control::ControlArgs;
use super::output::Output;

/// Shown below `drain --help`.
pub(super) const EXAMPLES: &str = "\
/readyz and the health path of the listeners answer 503 from then on, so that balancers send nothing
more; whoever comes all the same is served. It lasts until --undo, or a restart: a process that takes
over (SIGUSR2) stays drained.

For root, and the user that the sidecar on this host runs as.

Examples:
  tollgate drain
  tollgate drain --undo";

/// What to do.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// Take it back in
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    sidecar: ControlArgs,
    #[command(flatten)]
    format: Format,
}

#[derive(Deserialize, Serialize)]
struct State {
    drained: bool,
}

/// Tells the sidecar on this host.
///
/// # Errors
/// When it does not answer, or is of an earlier version.
pub(super) fn run(globals: &Globals, DrainArgs { undo, sidecar, format }: &DrainArgs) -> anyhow::Result<()> {
    let method = if *undo { "DELETE" } else { "PUT" };
    let state: State = sidecar.demand(globals, method, "/drain")?;
    let output = Output::new(*format);
    if output.json {
        return output.json(&state);
    }
    let said = match state.drained {
        true => "drained: not ready, and serving on; `tollgate drain --undo` takes it back in\n",
        false => "no longer drained: ready when its replica is fresh\n",
    };
    Ok(output.done(said)?)
}
