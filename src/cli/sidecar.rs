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
use super::output::note;
use super::serve::admin_listener;
use crate::chain::chain;
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
    /// Asks it, by TLS if the configuration has a certificate for it. The sidecar may show another one than is in that file: it keeps
    /// the one before until the key is there too. That is said, and no failure: nothing is told to whoever answers.
    ///
    /// # Errors
    /// When nobody answers, with what was asked; what is wrong with the configuration.
    pub(super) fn ask(&self, globals: &Globals, target: &str) -> anyhow::Result<Answer> {
        let (address, listener) = match (self.admin_listen, admin_listener(globals)) {
            (None, listener) => listener.map(|listener| (listener.address, Some(listener)))?,
            (Some(address), listener) => (address, listener.ok()),
        };
        let address = reachable(address);
        match listener {
            Some(AdminListener { certificate: None, .. }) => self.ask_at(address, false, None, target),
            Some(AdminListener { certificate, .. }) => self.ask_at(address, true, certificate.as_deref(), target),
            // Of a configuration that cannot be read it is not known whether the address speaks TLS.
            None => {
                let plain = self.ask_at(address, false, None, target);
                plain.or_else(|error| self.ask_at(address, true, None, target).map_err(|_| error))
            }
        }
    }

    fn ask_at(
        &self,
        address: SocketAddr,
        by_tls: bool,
        certificate: Option<&Path>,
        target: &str,
    ) -> anyhow::Result<Answer> {
        let url = format!("{}://{address}{target}", if by_tls { "https" } else { "http" });
        let asked = || format!("no sidecar answers at {url}");
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).with_context(asked)?;
        stream.set_read_timeout(Some(TIMEOUT)).with_context(asked)?;
        stream.set_write_timeout(Some(TIMEOUT)).with_context(asked)?;
        let answer = if by_tls {
            let mut stream = over_tls(stream, address, self.certificate.as_deref().zip(self.key.as_deref()))?;
            let answer = exchange(&mut stream, address, target).with_context(|| match self.certificate {
                None => format!(
                    "no sidecar answers at {url} whoever shows no certificate: where admin.tls.client_ca is set, --certificate and \
                     --key show one"
                ),
                Some(_) => asked(),
            })?;
            compare(&stream.conn, certificate);
            answer
        } else {
            exchange(&mut stream, address, target).with_context(asked)?
        };
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        match status {
            Some(status) => Ok(Answer { status, body: body.to_owned() }),
            None => bail!("what answers at {url} is no sidecar, or expects TLS (admin.tls)"),
        }
    }
}

fn over_tls(
    stream: TcpStream,
    address: SocketAddr,
    identity: Option<(&Path, &Path)>,
) -> anyhow::Result<StreamOwned<ClientConnection, TcpStream>> {
    let config = tls::unverified_config(identity)?;
    let connection = ClientConnection::new(config, ServerName::from(address.ip()))?;
    Ok(StreamOwned::new(connection, stream))
}

/// Says so where what was shown is not what the file has.
fn compare(connection: &ClientConnection, file: Option<&Path>) {
    let shown = connection.peer_certificates().and_then(<[_]>::first);
    let Some((file, shown)) = file.zip(shown) else { return };
    match tls::is_first_of(file, shown) {
        Ok(true) => {}
        Ok(false) => note(format_args!(
            "it shows another certificate than is in {}: its key is not there yet, or another program listens there",
            file.display()
        )),
        Err(error) => note(format_args!("the certificate that was shown is compared with none: {}", chain(&error))),
    }
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
fn exchange(stream: &mut (impl Read + Write), address: SocketAddr, target: &str) -> std::io::Result<String> {
    write!(stream, "GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    stream.flush()?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    Ok(answer)
}
