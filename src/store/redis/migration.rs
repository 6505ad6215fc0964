//! Reading from a slot that is on its way from one node of a cluster to another: each key is on one of the two.
//!
//! The node that has the slot answers `ASK` for a key that it has given away already, or never had. The other one
//! answers a single command about such a key when `ASKING` precedes it. Scripts use many keys and have to wait.

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisError, RedisFuture, Value};

use super::dial::{Carrier, Dialer, Peer};
use super::discovery::parse_endpoint;
use super::fault::Fault;
use crate::store::url::Server;

/// A connection that sends each command to the node that has its key.
pub(super) struct Migrating<'a> {
    pub(super) dialer: &'a Dialer,
    pub(super) source: MultiplexedConnection,
    pub(super) config: AsyncConnectionConfig,
    /// Made with the first command that needs it.
    pub(super) target: Option<(Server, MultiplexedConnection, Carrier)>,
}

impl Migrating<'_> {
    async fn send(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        let answer = self.source.req_packed_command(command).await.and_then(Value::extract_error);
        let Some(target) = answer.as_ref().err().and_then(target) else { return answer };
        let mut commands = redis::pipe();
        commands.cmd("ASKING").ignore().add_command(command.clone());
        let (answer,) = commands.query_async(self.connection_to(target).await?).await?;
        Ok(answer)
    }

    async fn connection_to(&mut self, server: Server) -> Result<&mut MultiplexedConnection, RedisError> {
        if self.target.as_ref().is_none_or(|(there, ..)| *there != server) {
            let dialled = self.dialer.dial(&server, Peer::Server, self.config.clone()).await;
            let (connection, carrier) = dialled.map_err(|fault| io_error(&fault))?;
            self.target = Some((server, connection, carrier));
        }
        let missing = || io_error(&Fault::NotPrimary);
        self.target.as_mut().map(|(_, connection, _)| connection).ok_or_else(missing)
    }
}

/// Where a node sends the command.
fn target(error: &RedisError) -> Option<Server> {
    let is_ask = error.code() == Some("ASK");
    is_ask.then(|| parse_endpoint(error.detail()?.split_ascii_whitespace().nth(1)?)).flatten()
}

fn io_error(fault: &Fault) -> RedisError {
    std::io::Error::new(std::io::ErrorKind::NotConnected, fault.chain()).into()
}

impl ConnectionLike for Migrating<'_> {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(self.send(command))
    }

    /// One after the other: the place of each command's key has to be found by itself.
    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        _offset: usize,
        _count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let mut answers = Vec::with_capacity(commands.len());
            for command in commands.cmd_iter() {
                answers.push(self.send(command).await?);
            }
            Ok(answers)
        })
    }

    fn get_db(&self) -> i64 {
        0
    }
}
