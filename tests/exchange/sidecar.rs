//! The program under test, with a store and tokens of its own.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tempfile::TempDir;

use super::case::{Bearer, PASSING};

/// `tollgate serve`, with one worker, so that all share its connections. Killed when dropped.
pub(crate) struct Sidecar {
    child: Child,
    pub(crate) address: SocketAddr,
    program: PathBuf,
    directory: TempDir,
}

/// What the clients hold.
#[derive(Debug)]
pub(crate) struct Tokens {
    owner: String,
    agent: String,
    viewer: String,
    /// With their ids, by which they are revoked.
    passing: Vec<(String, String)>,
    revoked: String,
    unknown: String,
}

impl Tokens {
    pub(crate) fn raw(&self, bearer: Bearer) -> Option<&str> {
        match bearer {
            Bearer::Owner => Some(&self.owner),
            Bearer::Agent => Some(&self.agent),
            Bearer::Viewer => Some(&self.viewer),
            Bearer::Passing(number) => self.passing.get(number).map(|(_, raw)| raw.as_str()),
            Bearer::Revoked => Some(&self.revoked),
            Bearer::Unknown => Some(&self.unknown),
            Bearer::Missing => None,
        }
    }
}

/// Short times, so that what hangs does not hang for long: but so long that who has a stored answer is given that first.
const SETTINGS: [(&str, &str); 10] = [
    ("LOG__FORMAT", "json"),
    ("WORKERS", "1"),
    ("CONFIG_CACHE__ENABLED", "true"),
    ("UPSTREAM__API__TIMEOUTS__FIRST_BYTE", "4s"),
    ("UPSTREAM__API__TIMEOUTS__IDLE", "1s"),
    ("UPSTREAM__HEARTBEAT__TIMEOUTS__FIRST_BYTE", "1s"),
    ("UPSTREAM__HEARTBEAT__TIMEOUTS__IDLE", "1s"),
    ("TIMEOUTS__REQUEST_HEAD", "2s"),
    ("TIMEOUTS__BODY_GRACE", "2s"),
    ("TIMEOUTS__DRAIN", "1s"),
];

impl Sidecar {
    /// Starts it before this upstream and waits until it is ready.
    /// `strips`: the upstream's API sees nobody's token, so that all are given the same.
    pub(crate) fn start(program: &Path, upstream: SocketAddr, strips: bool) -> Result<(Self, Tokens), String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let run = |arguments: &str| run(command(program, &directory).args(arguments.split(' ')), arguments);
        let create = |who: &str| run(&format!("token create --description fuzz --user {who}"));
        let owner = run("init --owner olga")?;
        run("user add --role manager victor")?;
        let agent = create("olga --preset telegraf-agent")?;
        let viewer = create("victor --permission configs:read")?;
        let with_id = || -> Result<(String, String), String> {
            let token: serde_json::Value = serde_json::from_str(&create("olga --preset telegraf-agent --json")?)
                .map_err(|error| error.to_string())?;
            let text = |name: &str| token[name].as_str().map(str::to_owned).ok_or(format!("no {name} in {token}"));
            Ok((text("id")?, text("token")?))
        };
        let passing = (0..PASSING).map(|_| with_id()).collect::<Result<_, _>>()?;
        let (id, revoked) = with_id()?;
        run(&format!("token revoke {id}"))?;
        // One that was never given out.
        let unknown: String = "tc-apiv1_".chars().chain(agent.chars().skip(9).map(|_| '7')).collect();
        let (child, address) = serve(program, &directory, upstream, strips)?;
        let tokens = Tokens { owner, agent, viewer, passing, revoked, unknown };
        Ok((Self { child, address, program: program.to_owned(), directory }, tokens))
    }

    /// How one of the tokens is revoked that are good at first, everywhere when it returns.
    pub(crate) fn revocation(&self, tokens: &Tokens, number: usize) -> impl FnOnce() -> Result<(), String> + use<> {
        let id = tokens.passing.get(number).map(|(id, _)| id.as_str()).unwrap_or_default();
        let mut command = command(&self.program, &self.directory);
        command.args(["token", "revoke", id, "--wait"]);
        move || run(&mut command, "token revoke").map(drop)
    }

    /// Whether it runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

/// Runs a command to its end. What it prints.
fn run(command: &mut Command, what: &str) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("tollgate {what}: {error}"))?;
    if !output.status.success() {
        return Err(format!("tollgate {what}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn command(program: &Path, directory: &TempDir) -> Command {
    let mut command = Command::new(program);
    let store = format!("sqlite:{}", directory.path().join("tollgate.db").display());
    command.env_clear().env("HOME", directory.path()).env("LOGNAME", "fuzz");
    command.args(["--store", &store]).stdin(Stdio::null());
    command
}

fn serve(
    program: &Path,
    directory: &TempDir,
    upstream: SocketAddr,
    strips: bool,
) -> Result<(Child, SocketAddr), String> {
    let url = format!("http://{upstream}");
    let mut command = command(program, directory);
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    command.args(["--api-upstream", &url, "--heartbeat-upstream", &url]);
    command.envs(SETTINGS.map(|(key, value)| (format!("TOLLGATE_{key}"), value)));
    if strips {
        command.env("TOLLGATE_UPSTREAM__API__CREDENTIAL__MODE", "strip");
    }
    let mut child = command.stderr(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
    let log = child.stderr.take().ok_or("a sidecar has no log")?;
    let (ready, address) = mpsc::channel();
    // Reads on to the end, so that the sidecar never waits for its log.
    std::thread::spawn(move || {
        let mut listener = None;
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            match entry["fields"]["message"].as_str() {
                Some("listening") => {
                    listener = entry["fields"]["address"].as_str().and_then(|text| text.parse().ok());
                }
                // Nobody listens for more than the first.
                Some("ready") => ready.send(listener).unwrap_or_default(),
                _ if line.contains("panicked") => eprintln!("{line}"),
                _ => {}
            }
        }
    });
    match address.recv_timeout(Duration::from_secs(20)) {
        Ok(Some(address)) => Ok((child, address)),
        _ => {
            child.kill().and_then(|()| child.wait()).map(drop).unwrap_or_default();
            Err("the sidecar did not become ready".to_owned())
        }
    }
}
