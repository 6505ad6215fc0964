//! `health`: how the sidecar on this host is, as an exit code, for `HEALTHCHECK` and probes that run a command.

use anyhow::bail;
use clap::Args;

use super::Globals;
use super::args::Format;
use super::output::Output;
use super::sidecar::{Answer, SidecarArgs};

/// Shown below `health --help`.
pub(super) const EXAMPLES: &str = "\
Exit codes: 0 ready, 1 not ready, or there is no sidecar.

Where admin.tls.client_ca is set, the admin listener answers only who shows a certificate that it trusts.

Examples:
  tollgate health
  tollgate health --certificate probe.crt --key probe.key
  HEALTHCHECK CMD [\"tollgate\", \"health\"]";

/// What is asked.
#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// Ask whether the process runs, not whether it is ready
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    sidecar: SidecarArgs,
}

/// Asks the admin listener of the sidecar on this host.
///
/// # Errors
/// When it is not ready, with the reason; when nobody answers, with what was asked.
pub(super) fn health(globals: &Globals, args: &HealthArgs) -> anyhow::Result<()> {
    let Answer { status, body } = args.sidecar.ask(globals, if args.live { "/livez" } else { "/readyz" })?;
    if status != 200 {
        bail!("not ready: {}", body.trim());
    }
    Ok(Output::new(Format { json: false }).text(body.trim())?)
}
