//! A cluster: three masters, and a replica of the one that has our slot.

use super::{RedisServer, eventually};
use tollgate_harness::redis::free_port;

/// The slot of `{tollgate}:...`.
const SLOT: u16 = 7332;

/// The cluster's nodes. All end when it is dropped.
pub(crate) struct RedisCluster {
    /// Three masters; the second has our slot at the beginning, and the fourth node is its replica.
    pub(crate) nodes: Vec<RedisServer>,
}

/// The master of our slot, at the beginning.
pub(crate) const OWNER: usize = 1;

/// Its replica.
pub(crate) const REPLICA: usize = 3;

impl RedisCluster {
    /// Starts it, and waits until all nodes say that it is whole.
    pub(crate) async fn start() -> Self {
        let node = |_| {
            let bus = bus_port();
            let mut arguments = vec!["--save", "", "--appendonly", "no", "--cluster-enabled", "yes"];
            arguments.extend(["--cluster-node-timeout", "1000", "--cluster-port", &bus]);
            RedisServer::with(&arguments)
        };
        let cluster = Self { nodes: (0..4).map(node).collect() };
        let ranges = [("0", "5460"), ("5461", "10922"), ("10923", "16383")];
        for (node, (first, last)) in cluster.nodes.iter().zip(ranges) {
            assert_eq!(node.cli(&["CLUSTER", "ADDSLOTSRANGE", first, last]), "OK");
        }
        for (at, node) in cluster.nodes.iter().enumerate() {
            node.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]);
            let bus = cluster.nodes[0].cli(&["CONFIG", "GET", "cluster-port"]);
            let bus = bus.lines().nth(1).expect("a port").to_owned();
            node.cli(&["CLUSTER", "MEET", "127.0.0.1", &cluster.nodes[0].port().to_string(), &bus]);
        }
        let owner = cluster.id(OWNER);
        eventually("the replica knows its master", || async {
            cluster.nodes[REPLICA].cli(&["CLUSTER", "REPLICATE", &owner]) == "OK"
        })
        .await;
        cluster.is_whole().await;
        eventually("the replica is in step", || async {
            cluster.nodes[REPLICA].cli(&["INFO", "replication"]).contains("master_link_status:up")
        })
        .await;
        cluster
    }

    /// Waits until all nodes that run say that every slot is served, and know all nodes.
    pub(crate) async fn is_whole(&self) {
        for node in &self.nodes {
            eventually("the cluster is whole", || async {
                let state = node.cli(&["CLUSTER", "INFO"]);
                state.contains("cluster_state:ok") && state.contains("cluster_known_nodes:4")
            })
            .await;
        }
    }

    /// The URL of a store that knows only these nodes.
    pub(crate) fn url(&self, seeds: &[usize]) -> String {
        let seeds: Vec<_> = seeds.iter().map(|seed| format!("127.0.0.1:{}", self.nodes[*seed].port())).collect();
        format!("redis-cluster://{}", seeds.join(","))
    }

    /// Has the replica take over from the master, with its consent.
    pub(crate) async fn fail_over(&self) {
        assert_eq!(self.nodes[REPLICA].cli(&["CLUSTER", "FAILOVER"]), "OK");
        self.replica_took_over().await;
    }

    /// Waits until the replica has become the master.
    pub(crate) async fn replica_took_over(&self) {
        eventually("the replica takes over", || async { self.nodes[REPLICA].cli(&["ROLE"]).starts_with("master") })
            .await;
    }

    /// Says that our slot is on its way from its master to this node: from here on, keys can be moved.
    pub(crate) fn begin_migration(&self, from: usize, to: usize) {
        let (slot, from_id, to_id) = (SLOT.to_string(), self.id(from), self.id(to));
        assert_eq!(self.nodes[to].cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]), "OK");
        assert_eq!(self.nodes[from].cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]), "OK");
    }

    /// Moves some keys of our slot, those that exist.
    pub(crate) fn move_keys(&self, from: usize, to: usize, keys: &[&str]) {
        let port = self.nodes[to].port().to_string();
        let mut command = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        command.extend(keys);
        let answer = self.nodes[from].cli(&command);
        assert!(answer == "OK" || answer == "NOKEY", "{answer}");
    }

    /// Moves what is left, and gives the slot to its new master.
    pub(crate) fn end_migration(&self, from: usize, to: usize) {
        let slot = SLOT.to_string();
        let keys = self.nodes[from].cli(&["CLUSTER", "GETKEYSINSLOT", &slot, "1000"]);
        let keys: Vec<_> = keys.lines().filter(|key| !key.is_empty()).collect();
        if !keys.is_empty() {
            self.move_keys(from, to, &keys);
        }
        let id = self.id(to);
        for node in [to, from] {
            assert_eq!(self.nodes[node].cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]), "OK");
        }
    }

    fn id(&self, node: usize) -> String {
        self.nodes[node].cli(&["CLUSTER", "MYID"])
    }
}

/// For a node's own protocol. By default it would be 10000 above the other, and perhaps not free.
pub(crate) fn bus_port() -> String {
    free_port().to_string()
}
