//! The admin listener under clients that take its places and give nothing: health and metrics are answered all the same.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::{Site, eventually, within};

/// Places, and more clients than that.
const PLACES: usize = 32;
const MANY: usize = 40;

async fn site() -> Site {
    Site::builder().config(|config| config.admin.max_connections = PLACES).start().await
}

async fn connect(address: SocketAddr) -> TcpStream {
    within("connecting", TcpStream::connect(address)).await.expect("connects")
}

/// What a path is answered, on a connection of its own.
async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = connect(address).await;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sends");
    let mut reply = String::new();
    within("a reply", stream.read_to_string(&mut reply)).await.expect("receives");
    reply
}

async fn is_well(address: SocketAddr) {
    for path in ["/livez", "/readyz", "/metrics"] {
        let reply = get(address, path).await;
        assert!(reply.starts_with("HTTP/1.1 200"), "{path}: {reply}");
    }
}

#[tokio::test]
async fn clients_that_say_nothing_give_way() {
    let site = site().await;
    let address = site.sidecar.admin();
    let mut idle = Vec::new();
    for _ in 0..MANY {
        idle.push(connect(address).await);
        // A part of a head is none.
        idle.last_mut().expect("one").write_all(b"GET /livez HT").await.expect("sends");
    }
    is_well(address).await;
    let first = idle.swap_remove(0);
    let mut byte = [0];
    let mut first = first;
    let ended = within("the longest silent one ends", first.read(&mut byte)).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

#[tokio::test]
async fn clients_that_ask_and_do_not_read_give_way() {
    let site = site().await;
    let address = site.sidecar.admin();
    let mut deaf = Vec::new();
    for _ in 0..MANY {
        // With little room for what comes, and many answers that are asked for.
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(1024).expect("a small buffer");
        let mut stream = within("connecting", socket.connect(address)).await.expect("connects");
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n").repeat(20);
        stream.write_all(request.as_bytes()).await.expect("sends");
        deaf.push(stream);
    }
    is_well(address).await;
}

/// Calls whose bodies do not come keep the console busy, and nothing else.
#[tokio::test]
async fn a_busy_console_says_so_and_is_not_in_the_way_of_health() {
    let site = site().await;
    let address = site.sidecar.admin();
    let call = format!(
        "POST /api/v1/tokens HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{",
        site.owner.raw
    );
    let mut slow = Vec::new();
    for _ in 0..MANY / 2 {
        let mut stream = connect(address).await;
        stream.write_all(call.as_bytes()).await.expect("sends");
        slow.push(stream);
    }
    let busy = async {
        loop {
            let reply = get(address, "/api/v1/self").await;
            if reply.starts_with("HTTP/1.1 503") {
                return reply;
            }
        }
    };
    let busy = within("one client has as much of the console as one can have", busy).await;
    assert!(busy.contains("urn:tollgate:problem:busy") && busy.to_lowercase().contains("retry-after: 1"), "{busy}");
    is_well(address).await;
    drop(slow);
    eventually("they are gone", || async { get(address, "/api/v1/self").await.starts_with("HTTP/1.1 401") }).await;
}
