//! Node as it is, as the Controller is one: a handler that answers without reading the body, which is drained later.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use tokio::task::JoinSet;

use super::opponent::body;
use crate::harness::{Site, post, request, within};

const SERVER: &str = "const server = require('http').createServer((request, response) => {
    console.log(request.method + ' ' + request.url);
    response.setHeader('Server', 'scripted');
    setTimeout(() => response.end('reply to ' + request.method + ' ' + request.url), 400);
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));";

/// Killed when dropped.
struct Node {
    child: Child,
    port: u16,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Node {
    fn start() -> Self {
        let mut command = Command::new("node");
        let mut child = command.args(["-e", SERVER]).stdout(Stdio::piped()).spawn().expect("node: see tests/run.sh");
        let mut log = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let port = log.next().expect("a line").expect("reads").parse().expect("a port");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&lines);
        std::thread::spawn(move || {
            log.map_while(Result::ok).for_each(|line| kept.lock().expect("no panic").push(line))
        });
        Self { child, port, lines }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// How much the sockets hold varies, so several sizes are tried.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_node_did_not_read_is_never_requests() {
    let node = Node::start();
    let site = Arc::new(Site::builder().api_at(format!("http://127.0.0.1:{}", node.port)).start().await);
    for round in 0..3 {
        let mut clients = JoinSet::new();
        for number in 0..12 {
            let site = Arc::clone(&site);
            clients.spawn(async move {
                let path = format!("/api/configs/{round}-{number}");
                let length = 3_900_000 + 50_000 * number + 12_000 * round;
                let fields = format!("Authorization: Bearer {}\r\nContent-Length: {length}\r\n", site.owner.raw);
                let mut client = site.connect().await;
                client.send([request("GET", &path, &fields).as_bytes(), &body(length, &site.owner)].concat()).await;
                // It may be cut: it was not read whole.
                if let Ok(reply) = client.try_reply(false).await {
                    assert_eq!(reply.text(), format!("reply to GET {path}"));
                }
            });
        }
        within("the large ones", async { while clients.join_next().await.transpose().expect("no panic").is_some() {} })
            .await;
        for number in 0..12 {
            let site = Arc::clone(&site);
            clients.spawn(async move {
                let path = format!("/api/configs/{round}-{number}-after");
                let mut client = site.connect().await;
                client.send(post(&path, &site.owner, &body(20_000, &site.owner))).await;
                assert_eq!(client.reply().await.text(), format!("reply to POST {path}"));
            });
        }
        within("the others", async { while clients.join_next().await.transpose().expect("no panic").is_some() {} })
            .await;
    }
    let served = node.lines.lock().expect("no panic").clone();
    let bad: Vec<_> =
        served.iter().filter(|line| line.starts_with("DELETE") || !line.contains(" /api/configs/")).collect();
    assert!(bad.is_empty() && served.len() >= 36, "{bad:?} of {served:?}");
}
