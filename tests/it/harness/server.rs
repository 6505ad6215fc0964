//! A `redis-server` process on a port of its own, which can be killed, stopped and started again.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::{FromRedisValue, RedisResult};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpSocket;

use super::{eventually, within};

/// Ends with its data when dropped.
pub(crate) struct RedisProcess {
    address: SocketAddr,
    arguments: Vec<String>,
    child: Option<Child>,
    directory: TempDir,
    /// Keeps the port while the process is down: bound, and not listened on.
    _place: TcpSocket,
}

impl RedisProcess {
    /// Starts a server with these options besides its own, such as `["--appendonly", "yes"]`, and waits until it answers.
    pub(crate) async fn start(options: &[&str]) -> Self {
        let place = TcpSocket::new_v4().expect("a socket");
        place.set_reuseaddr(true).expect("sets");
        place.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("binds");
        let address = place.local_addr().expect("an address");
        let directory = tempfile::tempdir().expect("a directory");
        let (port, path) = (address.port().to_string(), directory.path().to_str().expect("text"));
        let own = ["--port", &port, "--bind", "127.0.0.1", "--dir", path, "--save", "", "--enable-debug-command", "yes"];
        let arguments = own.iter().chain(options).map(|option| (*option).to_owned()).collect();
        let mut server = Self { address, arguments, child: None, directory, _place: place };
        server.launch(&[]).await;
        server
    }

    /// Starts it again, with these options besides those of the first time, and waits until it answers.
    pub(crate) async fn launch(&mut self, options: &[&str]) {
        self.spawn(options);
        eventually("Redis answers", || async { self.command::<String>(&["PING"]).await.is_ok() }).await;
    }

    /// Starts it again and does not wait.
    pub(crate) fn spawn(&mut self, options: &[&str]) {
        let log = std::fs::File::options().create(true).append(true).open(self.directory.path().join("log"));
        let mut command = Command::new("redis-server");
        command.args(&self.arguments).args(options).stdin(Stdio::null()).stdout(log.expect("a file"));
        self.child = Some(command.spawn().expect("redis-server is installed"));
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its files.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Kills it: nothing is saved or said.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("runs");
            child.wait().expect("ends");
        }
    }

    /// Stops it: it stays connected and does nothing.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("it runs");
    }

    /// Runs a command on a connection of its own.
    pub(crate) async fn command<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        let client = redis::Client::open(format!("redis://{}", self.address)).expect("a URL");
        let settings = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(60)));
        let mut connection = client.get_multiplexed_async_connection_with_config(&settings).await?;
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| drop(command.arg(word)));
        within("an answer of Redis", command.query_async(&mut connection)).await
    }

    /// Runs a command that must succeed.
    pub(crate) async fn does(&self, words: &[&str]) {
        let done = self.command::<redis::Value>(words).await;
        assert!(done.is_ok(), "{words:?}: {done:?}");
    }
}

impl Drop for RedisProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
