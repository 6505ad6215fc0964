//! A real nginx with TLS in front of whatever a test has.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::net::TcpStream;

use tollgate_harness::authority::Authority;

use super::eventually;

/// A running nginx with one server, for one name. Ended when it is dropped.
pub(crate) struct Nginx {
    process: Child,
    _directory: TempDir,
    _authority: Authority,
}

impl Nginx {
    /// Waits until it accepts on this port. `rest` is what stands in `server`, after `listen` and the certificate.
    pub(crate) async fn start(port: u16, name: &str, rest: &str) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Authority::create();
        let (certificate, key) = authority.issue("server", &[name]);
        let (place, certificate, key) = (directory.path().display(), certificate.display(), key.display());
        let kept = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let kept: String = kept.iter().map(|kind| format!("    {kind}_temp_path {place}/{kind};\n")).collect();
        // One process, so that ending it ends it.
        let text = format!(
            "daemon off;\nmaster_process off;\npid {place}/pid;\nevents {{}}\nhttp {{\n    access_log off;\n{kept}    \
             server {{\n        listen {address} ssl;\n        server_name {name};\n        ssl_certificate {certificate};\n        \
             ssl_certificate_key {key};\n        {rest}\n    }}\n}}\n"
        );
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, text).expect("a file");
        let mut command = Command::new("nginx");
        command.arg("-e").arg("stderr").arg("-p").arg(directory.path()).arg("-c").arg(&file).stdout(Stdio::null());
        let process = command.spawn().expect("nginx is installed (tests/run.sh does that)");
        let nginx = Self { process, _directory: directory, _authority: authority };
        eventually("nginx accepts", || async { TcpStream::connect(address).await.is_ok() }).await;
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
