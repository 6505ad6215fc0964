//! Node as it is, as the Controller is one: a handler that answers without reading the body, which is drained later.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use super::opponent::body;
use crate::harness::{Site, post, request};

const SERVER: &str = "const server = require('http').createServer((request, response) => {
    console.log(request.method + ' ' + request.url);
    response.setHeader('Server', 'scripted');
    const large = request.url.endsWith('large');
    // The next large one shall have a connection of its own: one that was used has other buffers.
    if (!large) response.setHeader('Connection', 'close');
    setTimeout(() => response.end('reply to ' + request.method + ' ' + request.url), large ? 500 : 0);
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

/// A body that the sockets hold but for its end is the one that matters. How long that is follows from the kernel's buffers, so
/// it is searched for.
#[tokio::test]
async fn a_body_that_node_did_not_read_is_never_requests() {
    let node = Node::start();
    let site = Site::builder().api_at(format!("http://127.0.0.1:{}", node.port)).start().await;
    let (mut whole, mut stuck) = (1 << 20, 9 << 20);
    while stuck - whole > 4 << 10 {
        let length = usize::midpoint(whole, stuck);
        let fields = format!("Authorization: Bearer {}\r\nContent-Length: {length}\r\n", site.owner.raw);
        let mut client = site.connect().await;
        client.send(request("GET", "/api/configs/large", &fields)).await;
        client.send(body(length, &site.owner)).await;
        match client.try_reply(false).await {
            Ok(reply) => {
                assert_eq!(reply.text(), "reply to GET /api/configs/large");
                if reply.closes() { stuck = length } else { whole = length }
            }
            Err(_) => stuck = length,
        }
        // Empty lines, so that what is left of the body before need not end where a request begins.
        let rest = [b"\r\n".repeat(10_000), body(140, &site.owner)].concat();
        let reply = site.send(post("/api/configs/after", &site.owner, &rest)).await;
        assert_eq!(reply.text(), "reply to POST /api/configs/after", "after {length} bytes of somebody else's");
    }
    let served = node.lines.lock().expect("no panic").clone();
    let good = ["GET /api/configs/large", "POST /api/configs/after"];
    assert!(served.len() > 10 && served.iter().all(|line| good.contains(&line.as_str())), "{served:?}");
}
