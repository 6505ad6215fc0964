//! Memory stays bounded whatever a peer does or leaves undone. Looked at from outside: what the process holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use h2::client::Builder;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::harness::{
    CONFIG, Client, HEARTBEAT, Http2Client, Program, Script, Upstream, http2_request, request, within,
};

const MIB: usize = 1024 * 1024;

/// Peers that do not read, each with far more on the way than may be held for it.
const PEERS: usize = 16;
const BODY: usize = 64 * MIB;

struct Machine {
    program: Program,
    api: Upstream,
    heartbeat: Upstream,
}

impl Machine {
    async fn start() -> Self {
        let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
        let grace = [("TIMEOUTS__BODY_GRACE", "60s"), ("LIMITS__MAX_BODY_BYTES", "1GiB")];
        let program = Program::start(&api, &heartbeat, &grace);
        Self { program, api, heartbeat }
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.program.token)
    }

    /// Waits until this counter moves no more, and checks how much memory was taken meanwhile, for each peer.
    async fn settles(&self, what: &str, before: usize, count: impl Fn() -> usize) {
        let mut last = 0;
        let settled = async {
            while last == 0 || count() != last {
                last = count();
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        within("everything is full", settled).await;
        let grown = self.program.resident_bytes().saturating_sub(before) / PEERS;
        println!("{what}: {} KiB on the way, {} KiB held, for each", last / PEERS / 1024, grown / 1024);
        assert!(last < PEERS * BODY, "nobody held it up");
        assert!(grown < MIB / 2, "{grown} bytes for each of {PEERS}");
    }
}

fn endless() -> Script {
    let head = format!("HTTP/1.1 200 OK\r\nServer: scripted\r\nContent-Length: {BODY}\r\n\r\n");
    Script::flood(head, vec![b'x'; 64 * 1024], BODY / 64 / 1024)
}

#[tokio::test]
async fn downloads_that_nobody_reads_are_not_held() {
    let machine = Machine::start().await;
    let before = machine.program.resident_bytes();
    let mut clients = Vec::new();
    for _ in 0..PEERS {
        machine.api.next(endless());
        let mut client = Client::connect(machine.program.address()).await;
        client.send(request("GET", CONFIG, &format!("Authorization: {}\r\n", machine.bearer()))).await;
        clients.push(client);
    }
    machine.settles("downloads", before, || machine.api.sent()).await;
}

#[tokio::test]
async fn streams_that_nobody_reads_are_not_held() {
    let machine = Machine::start().await;
    let before = machine.program.resident_bytes();
    let mut settings = Builder::new();
    settings.initial_window_size(1024).initial_connection_window_size(1 << 30);
    let client = Http2Client::connect_with(machine.program.address(), &settings).await;
    let mut streams = Vec::new();
    for _ in 0..PEERS {
        machine.api.next(endless());
        streams.push(client.send(http2_request("GET", CONFIG, &[("authorization", &machine.bearer())])).await);
    }
    machine.settles("streams", before, || machine.api.sent()).await;
}

#[tokio::test]
async fn uploads_that_the_upstream_does_not_read_are_not_held() {
    let machine = Machine::start().await;
    let before = machine.program.resident_bytes();
    let sent = Arc::new(AtomicUsize::new(0));
    let mut uploads = tokio::task::JoinSet::new();
    for number in 0..PEERS {
        machine.heartbeat.next(Script::deaf());
        let mut stream = TcpStream::connect(machine.program.address()).await.expect("connects");
        let (framing, piece) = match number % 2 {
            0 => (format!("Content-Length: {BODY}"), vec![b'x'; 0x10000]),
            _ => {
                ("Transfer-Encoding: chunked".to_owned(), [b"10000\r\n", [b'x'; 0x10000].as_slice(), b"\r\n"].concat())
            }
        };
        let fields = format!("Authorization: {}\r\n{framing}\r\n", machine.bearer());
        let sent = Arc::clone(&sent);
        uploads.spawn(async move {
            stream.write_all(request("POST", HEARTBEAT, &fields).as_bytes()).await.expect("sends");
            for _ in 0..BODY / 0x10000 {
                stream.write_all(&piece).await.expect("sends");
                sent.fetch_add(0x10000, Ordering::Relaxed);
            }
        });
    }
    machine.settles("uploads", before, || sent.load(Ordering::Relaxed)).await;
}

/// What strangers can do without end leaves nothing behind.
#[tokio::test]
async fn a_flood_of_unknown_tokens_leaves_nothing_behind() {
    let machine = Machine::start().await;
    let mut client = Client::connect(machine.program.address()).await;
    let mut flood = async |numbers: std::ops::Range<usize>| {
        for number in numbers {
            let fields = format!("Authorization: Bearer tc-apiv1_{number}\r\nX-{number}: {number}\r\n");
            client.send(request("GET", &format!("/api/configs/{number}"), &fields)).await;
            assert_eq!(client.reply().await.status(), 401);
        }
    };
    flood(0..1000).await;
    let before = machine.program.resident_bytes();
    flood(1000..6000).await;
    let grown = machine.program.resident_bytes().saturating_sub(before);
    println!("{} KiB more after 5,000 unknown tokens", grown / 1024);
    assert!(grown < MIB, "{grown} bytes");
    assert_eq!(machine.api.requests().len(), 0);
}
