//! The sidecar on this host, asked at its admin listener.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::Globals;
use super::serve::admin_listener;
use crate::config::AdminListener;
use crate::tls;

/// A sidecar that says nothing for so long is not well.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Of an answer there is no more to read.
const MAX_ANSWER: u64 = 16 << 20;

/// Which sidecar, and how it is asked.
#[derive(Debug, Args)]
pub(super) struct SidecarArgs {
    /// The sidecar's admin listener; default: that of the configuration
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,
    /// The certificate to show, where admin.tls.client_ca asks for one (PEM)
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
}

/// What it answered.
pub(super) struct Answer {
    pub status: u16,
    pub body: String,
}

impl SidecarArgs {
    /// Asks it, by TLS if the configuration has a certificate for it: that one, and no other, is believed.
    ///
    /// # Errors
    /// When nobody answers, with what was asked; what is wrong with the configuration.
    pub(super) fn ask(&self, globals: &Globals, method: &str, target: &str) -> anyhow::Result<Answer> {
        let AdminListener { address, certificate } = match (self.admin_listen, admin_listener(globals)) {
            (None, listener) => listener?,
            // Of a configuration that cannot be read it is not known whether the address speaks TLS.
            (Some(address), Ok(listener)) => AdminListener { address, ..listener },
            (Some(address), Err(_)) => AdminListener { address, certificate: None },
        };
        let address = reachable(address);
        let scheme = if certificate.is_some() { "https" } else { "http" };
        let asked = || format!("no sidecar answers at {scheme}://{address}{target}");
        let stream = TcpStream::connect_timeout(&address, TIMEOUT).with_context(asked)?;
        stream.set_read_timeout(Some(TIMEOUT)).with_context(asked)?;
        stream.set_write_timeout(Some(TIMEOUT)).with_context(asked)?;
        let answer = match certificate {
            None => exchange(stream, address, method, target),
            Some(certificate) => {
                let identity = self.certificate.as_deref().zip(self.key.as_deref());
                exchange(over_tls(stream, address, &certificate, identity)?, address, method, target)
            }
        };
        let answer = answer.with_context(asked)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        match status {
            Some(status) => Ok(Answer { status, body: body.to_owned() }),
            None => bail!("what answers at {scheme}://{address} is no sidecar, or expects TLS (admin.tls)"),
        }
    }
}

fn over_tls(
    stream: TcpStream,
    address: SocketAddr,
    certificate: &Path,
    identity: Option<(&Path, &Path)>,
) -> anyhow::Result<StreamOwned<ClientConnection, TcpStream>> {
    let config = tls::pinned_config(certificate, identity)?;
    let connection = ClientConnection::new(config, ServerName::from(address.ip()))?;
    Ok(StreamOwned::new(connection, stream))
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
fn exchange(mut stream: impl Read + Write, address: SocketAddr, method: &str, target: &str) -> std::io::Result<String> {
    write!(stream, "{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    stream.flush()?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    Ok(answer)
}
