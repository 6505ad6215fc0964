//! The sidecar on this host, told by its Unix socket what only this host may tell it.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::de::DeserializeOwned;

use super::Globals;
use super::serve::admin_listener;
use crate::admin::control;

/// Reading all files of a slow disk takes its time.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Of an answer there is no more to read.
const MAX_ANSWER: u64 = 16 << 20;

/// Which sidecar.
#[derive(Debug, Args)]
pub(super) struct ControlArgs {
    /// The sidecar's admin listener, after which its socket is named; default: that of the configuration
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,
}

impl ControlArgs {
    /// What it answers.
    ///
    /// # Errors
    /// When none answers; its own.
    pub(super) fn demand<T: DeserializeOwned>(
        &self,
        globals: &Globals,
        method: &str,
        target: &str,
    ) -> anyhow::Result<T> {
        let admin = match self.admin_listen {
            Some(address) => address,
            None => admin_listener(globals)?.address,
        };
        demand(admin, method, target)
    }
}

/// What the sidecar with this admin listener answers.
///
/// # Errors
/// When none answers; its own.
pub(super) fn demand<T: DeserializeOwned>(admin: SocketAddr, method: &str, target: &str) -> anyhow::Result<T> {
    let none = || format!("no sidecar with the admin listener {admin} takes commands on this host");
    let answer = connect(admin).and_then(|stream| exchange(stream, method, target)).with_context(none)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.starts_with("HTTP/1.1 200 ") {
        return Ok(serde_json::from_str(body)?);
    }
    let error: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    match error["error"].as_str().filter(|error| *error != "Not found") {
        Some(error) => bail!("{error}"),
        None => bail!("the sidecar does not know this command: it is of another version"),
    }
}

/// One that listens on every interface is named after that, wherever it is reached.
fn connect(admin: SocketAddr) -> io::Result<UnixStream> {
    let port = admin.port();
    let names = [admin, (Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()];
    let mut refused = io::Error::from(ErrorKind::ConnectionRefused);
    for name in names {
        match UnixStream::connect_addr(&control::address(name)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

fn exchange(mut stream: UnixStream, method: &str, target: &str) -> io::Result<String> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    Ok(answer)
}
