//! The real program with a store that may be away, empty, or not to be used: what it says, and what it answers.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::{CONFIG, Client, request, within};

/// The program, with nothing of this process's environment but these variables.
fn tollgate(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.env_clear().env("HOME", "/nonexistent").env("LOGNAME", "tester").args(arguments);
    command.envs(variables.iter().copied());
    command
}

/// Runs it to its end.
pub(crate) fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    tollgate(arguments, variables).output().expect("runs")
}

/// An address that a line of the log has.
fn address(fields: &Value, key: &str) -> SocketAddr {
    fields[key].as_str().and_then(|address| address.parse().ok()).expect("an address")
}

/// A sidecar's process. Killed when dropped.
pub(crate) struct Serving {
    child: Child,
    log: mpsc::Receiver<Value>,
    /// What it said before it had started: that is not in an order that is sure.
    early: Vec<Value>,
    listener: SocketAddr,
    admin: SocketAddr,
}

impl Serving {
    /// Starts it with the store at this URL and these variables, and waits until it says where it listens.
    pub(crate) async fn start(url: &str, variables: &[(&str, &str)]) -> Self {
        Self::with(&[&[("TOLLGATE_STORE__URL", url)], variables].concat()).await
    }

    /// The same with the store that these variables name.
    pub(crate) async fn with(variables: &[(&str, &str)]) -> Self {
        let serve = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
        let mut sidecar = Self::launch(&serve, variables);
        let mut early = Vec::new();
        let mut said = async |message| sidecar.next(message, |line| early.push(line)).await;
        let (listening, started) = (said("listening").await, said("started").await);
        sidecar.early = early;
        sidecar.listener = address(&listening, "address");
        sidecar.admin = address(&started, "admin");
        sidecar
    }

    /// Starts `tollgate console` with these variables, and waits until it is ready.
    pub(crate) async fn console(variables: &[(&str, &str)]) -> Self {
        Self::console_at(&[&[("TOLLGATE_ADMIN__ADDRESS", "127.0.0.1:0")], variables].concat()).await
    }

    /// The same, where the variables say.
    pub(crate) async fn console_at(variables: &[(&str, &str)]) -> Self {
        let mut console = Self::launch(&["console"], variables);
        let started = console.says("started").await;
        console.admin = address(&started, "admin");
        console.says("ready").await;
        console
    }

    fn launch(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let usual = [("TOLLGATE_LOG__FORMAT", "json"), ("TOLLGATE_WORKERS", "1")];
        let mut command = tollgate(arguments, &usual);
        command.envs(variables.iter().copied());
        let mut child = command.stderr(Stdio::piped()).spawn().expect("starts");
        let lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let (send, log) = mpsc::channel(10_000);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                drop(send.try_send(line));
            }
        });
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        Self { child, log, early: Vec::new(), listener: nowhere, admin: nowhere }
    }

    /// Where agents connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listener
    }

    /// Where health, metrics and the admin API are.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Waits for a line of the log: its fields.
    pub(crate) async fn says(&mut self, message: &str) -> Value {
        match self.early.iter().position(|line| line["fields"]["message"] == message) {
            Some(at) => self.early.remove(at)["fields"].take(),
            None => self.next(message, drop).await,
        }
    }

    /// The next line with this message: its fields. Those before it go elsewhere.
    async fn next(&mut self, message: &str, mut other: impl FnMut(Value)) -> Value {
        within(message, async {
            loop {
                let mut line = self.log.recv().await.unwrap_or_else(|| panic!("it ended before {message:?}"));
                if line["fields"]["message"] == message {
                    return line["fields"].take();
                }
                other(line);
            }
        })
        .await
    }

    /// The status of `/readyz`. Without the checks that replies to agents have to pass.
    pub(crate) async fn readiness(&self) -> u16 {
        let mut connection = TcpStream::connect(self.admin).await.expect("listens");
        let request = "GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        connection.write_all(request.as_bytes()).await.expect("sends");
        let mut reply = String::new();
        within("a reply", connection.read_to_string(&mut reply)).await.expect("text");
        reply.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
    }

    /// What a fetch of a configuration with this token is answered.
    pub(crate) async fn fetch(&self, token: &str) -> u16 {
        let mut client = Client::connect(self.listener).await;
        client.send(request("GET", CONFIG, &format!("Authorization: Bearer {token}\r\n"))).await;
        client.reply().await.status()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM, and waits until it has ended.
    pub(crate) async fn stop(mut self) -> std::process::ExitStatus {
        let pid = rustix::process::Pid::from_raw(self.pid().cast_signed()).expect("a process");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("runs");
        within("the end", async {
            loop {
                match self.child.try_wait().expect("waits") {
                    Some(status) => return status,
                    None => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                }
            }
        })
        .await
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("runs");
        self.child.wait().expect("ends");
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
