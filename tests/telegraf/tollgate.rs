//! `tollgate serve` and the commands beside it, as an operator runs them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::port::Port;
use crate::process::{Process, Reaper};
use crate::setup::{PATIENCE, Settings};

/// How an agent comes: by one of three listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// Without TLS.
    Plain,
    /// By TLS with the default protocols. The output has `tls_ca`, which makes its heartbeats HTTP/1.1.
    Tls,
    /// By the same listener. The agent has its authority from the environment alone, and offers HTTP/2 and HTTP/1.1.
    TlsEither,
    /// The same agent, by TLS for HTTP/2 only.
    Http2,
}

impl Door {
    pub(crate) const ALL: [Self; 4] = [Self::Plain, Self::Tls, Self::TlsEither, Self::Http2];
}

/// A listener's certificate and the authority that it is from, PEM.
pub(crate) struct Certificate {
    pub(crate) authority: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// A sidecar with its store, on ports that it keeps. Killed when dropped.
pub(crate) struct Tollgate {
    directory: PathBuf,
    store: String,
    plain: Port,
    tls: Port,
    http2: Port,
    listeners: String,
    controller: SocketAddr,
    settings: Settings,
    reaper: Arc<Reaper>,
    process: Option<Process>,
}

impl Tollgate {
    /// With a registry that has an Owner, not running yet.
    pub(crate) async fn new(
        directory: PathBuf,
        store: String,
        certificate: &Certificate,
        controller: SocketAddr,
        settings: Settings,
        reaper: &Arc<Reaper>,
    ) -> Result<Self, String> {
        let hold = || Port::hold().map_err(|error| format!("a port: {error}"));
        let (plain, tls, http2) = (hold()?, hold()?, hold()?);
        let (file, key) = (certificate.certificate.display(), certificate.key.display());
        let files = format!("tls.certificate = \"{file}\", tls.key = \"{key}\"");
        let listeners = format!(
            "[{{ address = \"{}\" }}, {{ address = \"{}\", {files} }}, \
              {{ address = \"{}\", {files}, tls.alpn = [\"h2\"] }}]",
            plain.address(),
            tls.address(),
            http2.address(),
        );
        let reaper = Arc::clone(reaper);
        let tollgate =
            Self { directory, store, plain, tls, http2, listeners, controller, settings, reaper, process: None };
        tollgate.run(&["init", "--owner", "olga"]).await?;
        Ok(tollgate)
    }

    /// Where agents connect.
    pub(crate) fn address(&self, door: Door) -> SocketAddr {
        match door {
            Door::Plain => self.plain.address(),
            Door::Tls | Door::TlsEither => self.tls.address(),
            Door::Http2 => self.http2.address(),
        }
    }

    /// Runs a command to its end and returns what it prints.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.command();
        command.args(arguments);
        let what = format!("tollgate {}", arguments.join(" "));
        let output = tokio::task::spawn_blocking(move || command.output()).await.map_err(|error| error.to_string())?;
        let output = output.map_err(|error| format!("{what}: {error}"))?;
        if !output.status.success() {
            return Err(format!("{what}: {}, {}", output.status, String::from_utf8_lossy(&output.stderr).trim()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Starts the sidecar and waits until it is ready.
    pub(crate) async fn start(&mut self) -> Result<(), String> {
        let before = self.readies();
        let mut command = self.command();
        command.args(["serve", "--admin-listen", "127.0.0.1:0"]);
        let controller = format!("http://{}", self.controller);
        command.args(["--api-upstream", &controller, "--heartbeat-upstream", &controller]);
        let always = [
            ("LISTENER", self.listeners.as_str()),
            ("WORKERS", "2"),
            ("LOG__FORMAT", "json"),
            ("TIMEOUTS__DRAIN", "5s"),
        ];
        for (name, value) in always.iter().chain(self.settings.variables) {
            command.env(format!("TOLLGATE_{name}"), value);
        }
        if self.settings.cache {
            command
                .env("TOLLGATE_CONFIG_CACHE__ENABLED", "true")
                .env("TOLLGATE_CONFIG_CACHE__DIRECTORY", self.stored());
            // Each request has a line.
            command.env("TOLLGATE_LOG__FILTER", "tollgate=debug");
        }
        let mut process = Process::start(command, &self.directory.join("tollgate.log"), &self.reaper)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = process.ended();
            if let Some(status) = ended {
                return Err(format!("tollgate serve does not start, {status}: {}", process.log()));
            }
            if self.readies() > before {
                break;
            }
            if Instant::now() > deadline {
                return Err("tollgate serve does not become ready".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.process = Some(process);
        Ok(())
    }

    /// SIGTERM: it ends well.
    pub(crate) async fn stop(&mut self) -> Result<(), String> {
        let Some(mut process) = self.process.take() else { return Err("tollgate serve does not run".to_owned()) };
        process.signal(Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match process.ended() {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("tollgate serve ended with {status} after SIGTERM")),
                None if Instant::now() > deadline => return Err("tollgate serve does not end".to_owned()),
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Whether it runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    /// What it has said, over all its lives.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("tollgate.log")).unwrap_or_default()
    }

    /// How often a watcher was told what is stored, with the cache.
    pub(crate) fn stored_looks(&self) -> usize {
        let is_one = |line: &&str| line.contains(r#""outcome":"stored""#) && line.contains(r#""line":"HEAD /"#);
        self.log().lines().filter(is_one).count()
    }

    /// How many configurations are stored on disk.
    pub(crate) fn stored_files(&self) -> usize {
        let Ok(entries) = std::fs::read_dir(self.stored()) else { return 0 };
        entries.flatten().filter(|entry| entry.path().extension().is_some_and(|it| it == "config")).count()
    }

    fn stored(&self) -> PathBuf {
        self.directory.join("config-cache")
    }

    fn readies(&self) -> usize {
        self.log().matches("\"message\":\"ready\"").count()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command.env_clear().env("HOME", &self.directory).env("LOGNAME", "tester").args(["--store", &self.store]);
        command
    }
}
