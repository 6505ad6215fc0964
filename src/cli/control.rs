//! The sidecar on this host, told by its Unix socket what only this host may tell it.

mod listening;

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use self::listening::Listening;
use super::serve::admin_listener;
use super::{Globals, session};
use crate::admin::control;

/// Reading all files of a slow disk takes its time.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Pause where more wait to be accepted than may.
const FULL_PAUSE: Duration = Duration::from_millis(10);

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
/// When none answers, or somebody else in its place; its own.
pub(super) fn demand<T: DeserializeOwned>(admin: SocketAddr, method: &str, target: &str) -> anyhow::Result<T> {
    let answer = session::block_on(async {
        let late =
            |_| anyhow::anyhow!("the sidecar with the admin listener {admin} has not answered within {TIMEOUT:?}");
        tokio::time::timeout(TIMEOUT, ask(admin, method, target)).await.map_err(late)?
    })?;
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

/// Its answer, once it is sure that it is the one.
async fn ask(admin: SocketAddr, method: &str, target: &str) -> anyhow::Result<String> {
    let none = || format!("no sidecar with the admin listener {admin} takes commands on this host");
    let Some(listening) = Listening::at(admin).context("reading what listens on this host")? else { bail!(none()) };
    let stream = connect(&control::name(listening.address)).await.with_context(none)?;
    let peer = stream.peer_cred().context("asking who takes commands")?;
    let (user, own) = (peer.uid(), rustix::process::geteuid());
    if user != own.as_raw() && !(own.is_root() && listening.is_of(&peer)) {
        let process = peer.pid().map_or_else(String::new, |process| format!(" (process {process})"));
        let what_to_do = match own.is_root() {
            true => {
                "has not opened that listener: end that process, and the sidecar takes its place. If the sidecar does run as that \
                     user, run this command as that user"
            }
            false => {
                "is not you. If the sidecar runs as that user, run this command as that user, or as root; if not, have that \
                      process ended, and the sidecar takes its place"
            }
        };
        bail!(
            "nothing was asked: user {user}{process} takes commands in the name of the sidecar with the admin listener {admin}, and \
             {what_to_do}"
        );
    }
    let answer = exchange(stream, method, target).await.with_context(none)?;
    match answer.is_empty() {
        true => bail!(
            "the sidecar with the admin listener {admin} ended without an answer: it has one for root and for the user that it runs as"
        ),
        false => Ok(answer),
    }
}

async fn connect(name: &str) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(name).await {
            Err(error) if error.kind() == ErrorKind::WouldBlock => tokio::time::sleep(FULL_PAUSE).await,
            connected => return connected,
        }
    }
}

async fn exchange(mut stream: UnixStream, method: &str, target: &str) -> io::Result<String> {
    let request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
    Ok(answer)
}
