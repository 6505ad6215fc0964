//! A primary and its replica, the link between them, and failovers by hand. No Sentinel: whoever tells the sidecars where
//! the primary is does so by moving their relays.

use crate::eventually;
use crate::redis::{RedisServer, cli};
use crate::relay::{Relay, Traffic};

/// Two servers, one of which follows the other.
pub struct Pair {
    pub primary: RedisServer,
    pub replica: RedisServer,
    /// Leads the replica to the primary.
    pub link: Relay,
}

/// Nothing on disk, and nobody waits long for anybody.
const OPTIONS: [&str; 8] =
    ["--save", "", "--appendonly", "no", "--repl-timeout", "60", "--repl-ping-replica-period", "1"];

impl Pair {
    /// Starts both, in step.
    pub async fn start() -> Self {
        let (primary, replica) = (RedisServer::with(&OPTIONS), RedisServer::with(&OPTIONS));
        let link = Relay::start(primary.address()).await;
        let pair = Self { primary, replica, link };
        pair.follow(&pair.replica).await;
        pair
    }

    /// Makes a server follow the link, and waits until it does.
    async fn follow(&self, server: &RedisServer) {
        eventually("the replica answers", || async { run(server, &["PING"]).await == "PONG" }).await;
        run(server, &["REPLICAOF", "127.0.0.1", &self.link.address().port().to_string()]).await;
        self.reaches(server).await;
    }

    /// Waits until the replica has what the primary has.
    pub async fn is_in_step(&self) {
        self.reaches(&self.replica).await;
    }

    /// A replica that is said to be online may still wait for the first of what is written from then on.
    async fn reaches(&self, replica: &RedisServer) {
        let number = run(&self.primary, &["INCR", "in-step"]).await;
        eventually("the replica is in step", || async { run(replica, &["GET", "in-step"]).await == number }).await;
    }

    /// What the primary writes from now on does not reach the replica.
    pub async fn part(&self) {
        self.link.set(Traffic::Stalls).await;
    }

    /// The replica takes over, with what it has. The old primary goes on, alone.
    pub async fn promote(&mut self) {
        self.link.set(Traffic::Cut).await;
        assert_eq!(run(&self.replica, &["REPLICAOF", "NO", "ONE"]).await, "OK");
        std::mem::swap(&mut self.primary, &mut self.replica);
    }

    /// Another replica of the primary, in step.
    pub async fn third(&self) -> RedisServer {
        let third = RedisServer::with(&OPTIONS);
        run(&third, &["REPLICAOF", "127.0.0.1", &self.primary.port().to_string()]).await;
        self.reaches(&third).await;
        third
    }

    /// The old primary, started anew, comes back as the replica.
    pub async fn rejoin(&mut self) {
        self.replica.spawn(&[]);
        self.link.lead_to(self.primary.address());
        self.link.heal().await;
        self.follow(&self.replica).await;
    }
}

/// One command, without blocking those who share the thread; its answer as `redis-cli` prints it.
pub async fn run(server: &RedisServer, command: &[&str]) -> String {
    let (port, command) = (server.port(), command.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    tokio::task::spawn_blocking(move || cli(port, &command)).await.expect("no panic")
}
