//! A real HAProxy in front of whatever a test has.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::net::TcpStream;

use tollgate_harness::redis::free_port;

use super::eventually;

/// A running HAProxy with one frontend. Ended when it is dropped.
pub(crate) struct HaProxy {
    process: Child,
    address: SocketAddr,
    _directory: TempDir,
}

impl HaProxy {
    /// Waits until it accepts. `rest` is what stands below `listen`, after `bind`.
    pub(crate) async fn start(rest: &str) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("haproxy.cfg");
        let timeouts = "timeout connect 10s\n    timeout client 60s\n    timeout server 60s";
        let text = format!("listen tollgate\n    {timeouts}\n    bind {address}\n    {rest}\n");
        std::fs::write(&file, text).expect("a file");
        let process = Command::new("haproxy").arg("-db").arg("-f").arg(&file).stdout(Stdio::null()).spawn();
        let haproxy = Self { process: process.expect("HAProxy is installed"), address, _directory: directory };
        eventually("HAProxy accepts", || async { TcpStream::connect(address).await.is_ok() }).await;
        haproxy
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
