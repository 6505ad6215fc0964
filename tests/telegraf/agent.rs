//! A Telegraf agent as it is deployed: all it has is a URL, a token and perhaps an authority.

use std::process::{Command, ExitStatus};

use rustix::process::Signal;

use crate::process::Process;
use crate::setup::{Lab, Setup};
use crate::tollgate::Door;

/// How it gets the token that it fetches with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variable {
    /// `TELEGRAF_CONTROLLER_TOKEN`, sent as `Bearer`.
    Controller,
    /// `INFLUX_TOKEN`, sent as `Token`.
    Influx,
}

/// What it does when something is wrong with its configuration's URL, beyond what it says of its own.
const WATCH_FAILURES: [&str; 2] = ["Fetching config from", "Last-Modified header not found"];

/// What it warns of at every start.
const WARNINGS: [&str; 2] = ["Strict environment variable handling", "Running without secret protection"];

/// How an agent is started.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) name: String,
    /// Path of its configuration.
    pub(crate) configuration: &'static str,
    pub(crate) door: Door,
    pub(crate) variable: Variable,
    pub(crate) token: String,
    /// How often it looks whether its configuration was edited.
    pub(crate) watch: &'static str,
}

/// A running agent. Killed when dropped.
pub(crate) struct Agent {
    pub(crate) name: String,
    launch: Launch,
    process: Process,
}

impl Agent {
    /// Starts one with two tries for each fetch, ten seconds apart.
    pub(crate) fn start(lab: &Lab, setup: &Setup, launch: Launch) -> Result<Self, String> {
        let Launch { name, configuration, door, variable, token, watch } = &launch;
        let scheme = if *door == Door::Plain { "http" } else { "https" };
        let base = format!("{scheme}://{}", setup.tollgate.address(*door));
        let mut command = Command::new(&lab.telegraf);
        command.args(["--config", &format!("{base}{configuration}?agent={name}")]);
        command.args(["--config-url-watch-interval", watch, "--config-url-retry-attempts", "1"]);
        // A container may allow too little locked memory for it to protect its secrets, which it would complain of.
        command.arg("--unprotected").env_clear().env("HOME", setup.directory()).current_dir(setup.directory());
        command.env("TOLLGATE", base).env("AGENT", name).env("AGENT_TOKEN", token);
        // With an authority of its own the output speaks HTTP/1.1, without one it offers HTTP/2.
        let authority = &lab.certificate.authority;
        command.env("SSL_CERT_FILE", authority);
        command.env("AGENT_CA", if *door == Door::Tls { authority.as_os_str() } else { "".as_ref() });
        // Fifty of them share a small machine.
        command.env("GOMAXPROCS", "1");
        command.env(
            match variable {
                Variable::Controller => "TELEGRAF_CONTROLLER_TOKEN",
                Variable::Influx => "INFLUX_TOKEN",
            },
            token,
        );
        let process = Process::start(command, &setup.directory().join(format!("{name}.log")), &lab.reaper)?;
        Ok(Self { name: name.clone(), launch, process })
    }

    /// Kills it. How to start it again.
    pub(crate) fn kill(self) -> Launch {
        self.launch
    }

    /// SIGHUP: it stops what it runs, and fetches its configuration.
    pub(crate) fn hang_up(&self) {
        self.process.signal(Signal::HUP);
    }

    /// How it has ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// All that it has said.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// How often it has had a configuration, over all its lives.
    pub(crate) fn boots(&self) -> usize {
        self.log().matches("I! Loaded inputs: mem").count()
    }

    /// How often it has loaded its configuration anew.
    pub(crate) fn reloads(&self) -> usize {
        self.log().matches("I! Reloading Telegraf config").count()
    }

    /// How often its watcher was not told when the configuration was made.
    pub(crate) fn watch_failures(&self) -> usize {
        self.log().lines().filter(|line| WATCH_FAILURES.iter().any(|failure| line.contains(failure))).count()
    }

    /// Its errors and warnings, but for those of every start.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let is_one = |line: &&str| line.contains(" E! ") || line.contains(" W! ") || line.starts_with("Error");
        let is_news = |line: &&str| !WARNINGS.iter().any(|warning| line.contains(warning));
        self.log().lines().filter(is_one).filter(is_news).map(str::to_owned).collect()
    }
}
