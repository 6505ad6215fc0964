//! Where file descriptors run out: who has a connection already goes on.

use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::net::TcpStream;

use crate::harness::{CONFIG, Client, Program, Upstream, eventually, request, within};

/// Every request needs a new upstream connection.
const NO_POOL: (&str, &str) = ("UPSTREAM__API__POOL__MAX_IDLE", "0");

fn authorized(program: &Program) -> String {
    request("GET", CONFIG, &format!("Authorization: Bearer {}\r\n", program.token))
}

async fn admin(program: &Program, path: &str) -> String {
    let mut client = Client::connect(program.admin()).await;
    client.send(format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")).await;
    String::from_utf8(client.rest().await).expect("text")
}

/// The lines whose message has this in it.
fn about(message: &str, log: Vec<String>) -> Vec<serde_json::Value> {
    let entries = log.into_iter().map(|line| serde_json::from_str(&line).unwrap_or_else(|_| panic!("JSON: {line}")));
    let fields = entries.map(|entry: serde_json::Value| entry["fields"].clone());
    fields.filter(|fields| fields["message"].as_str().is_some_and(|text| text.contains(message))).collect()
}

#[tokio::test]
async fn idle_clients_do_not_take_the_descriptors_that_requests_need() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let program = Program::start_limited(100, &api, &heartbeat, &[NO_POOL]);
    let said = about("limit of open files", program.starting_log());
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!((said[0]["limit"].as_u64(), said[0]["accepted"].as_u64()), (Some(100), Some(17)), "{said:?}");
    let mut agent = Client::connect(program.address()).await;
    agent.send(authorized(&program)).await;
    assert_eq!(agent.reply().await.status(), 200);
    let mut idle = Vec::new();
    for _ in 0..150 {
        idle.push(within("connecting", TcpStream::connect(program.address())).await.expect("connects"));
    }
    eventually("so many are accepted and no more", || async {
        admin(&program, "/metrics").await.contains("\ntollgate_connections_open 17\n")
    })
    .await;
    for _ in 0..5 {
        agent.send(authorized(&program)).await;
        assert_eq!(agent.reply().await.status(), 200);
        assert!(admin(&program, "/readyz").await.starts_with("HTTP/1.1 200"));
    }
    assert!(about("cannot accept", program.log()).is_empty());
    // The others get their turn.
    let mut late = Client::connect(program.address()).await;
    late.send(authorized(&program)).await;
    drop(idle);
    assert_eq!(late.reply().await.status(), 200);
}

#[tokio::test]
async fn running_out_of_them_is_said_now_and_then_and_gets_over() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let program = Program::start(&api, &heartbeat, &[NO_POOL, ("WORKERS", "1")]);
    let mut first = Client::connect(program.address()).await;
    first.send(authorized(&program)).await;
    assert_eq!(first.reply().await.status(), 200, "all of it has started");
    let pid = i32::try_from(program.pid()).ok().and_then(Pid::from_raw);
    let maximum = getrlimit(Resource::Nofile).maximum; // inherited
    let before = prlimit(pid, Resource::Nofile, Rlimit { current: Some(3), maximum }).expect("takes them away");
    let mut client = Client::connect(program.address()).await;
    client.send(authorized(&program)).await;
    eventually("it is said", || async { !about("cannot accept", program.log()).is_empty() }).await;
    // What must not happen has to be waited for.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let said = about("cannot accept", program.log()).len();
    assert!(said <= 5, "{said} times within 2 s");
    prlimit(pid, Resource::Nofile, before).expect("gives back");
    assert_eq!(client.reply().await.status(), 200);
}
