//! `health`: how the sidecar on this host is, as an exit code, for `HEALTHCHECK` and probes that run a command.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;

use super::Globals;
use super::args::Format;
use super::output::Output;
use super::serve::admin_address;

/// Shown below `health --help`.
pub(super) const EXAMPLES: &str = "\
Exit codes: 0 ready, 1 not ready, or there is no sidecar.

Examples:
  tollgate health
  HEALTHCHECK CMD [\"tollgate\", \"health\"]";

/// A sidecar that says nothing for so long is not well.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Of an answer there is no more to read.
const MAX_ANSWER: u64 = 16 << 20;

/// What is asked.
#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// Ask whether the process runs, not whether it is ready
    #[arg(long)]
    live: bool,
    /// The sidecar's admin listener; default: that of the configuration
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,
}

/// Asks the admin listener of the sidecar on this host.
///
/// # Errors
/// When it is not ready, with the reason; when nobody answers, with what was asked.
pub(super) fn health(globals: &Globals, args: &HealthArgs) -> anyhow::Result<()> {
    let address = match args.admin_listen {
        Some(address) => address,
        None => admin_address(globals)?,
    };
    let address = reachable(address);
    let path = if args.live { "/livez" } else { "/readyz" };
    let answer = ask(address, "GET", path).with_context(|| format!("no sidecar answers at http://{address}{path}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if !head.starts_with("HTTP/1.1 200 ") {
        bail!("not ready: {}", body.trim());
    }
    Ok(Output::new(Format { json: false }).text(body.trim())?)
}

/// A listener on every interface is reached at loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    }
}

/// The whole answer to a request without a body.
fn ask(address: SocketAddr, method: &str, target: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    Ok(answer)
}
