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

/// Calls that wait for a sidecar keep the console busy, and nothing else.
#[tokio::test]
async fn a_busy_console_says_so_and_is_not_in_the_way_of_health() {
    let site = site().await;
    let address = site.sidecar.admin();
    site.store.hang_at_reports();
    let call = format!(
        "POST /api/v1/users?wait=60s HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\n",
        site.owner.raw
    );
    let mut slow = Vec::new();
    for number in 0..MANY / 2 {
        let mut stream = connect(address).await;
        let body = format!("{{\"name\":\"user-{number}\",\"role\":\"viewer\"}}");
        let call = format!("{call}Content-Length: {}\r\n\r\n{body}", body.len());
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

/// Strangers' forms that never come whole, and calls too, keep nobody from the console.
#[tokio::test]
async fn bodies_that_do_not_come_keep_nobody_from_the_console() {
    let site = site().await;
    let address = site.sidecar.admin();
    let form = format!(
        "POST /sign-in HTTP/1.1\r\nHost: {address}\r\nOrigin: http://{address}\r\nExpect: 100-continue\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\n\r\n"
    );
    let own = format!("GET /api/v1/self HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n", site.owner.raw);
    let mut waiting = Vec::new();
    for number in 0..MANY {
        let mut stream = connect(address).await;
        stream.write_all(form.as_bytes()).await.expect("sends");
        let mut interim = [0; 25];
        within("the body is waited for", stream.read_exact(&mut interim)).await.expect("an interim reply");
        assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n", "form {number}");
        waiting.push(stream);
    }
    for _ in 0..8 {
        let mut stream = connect(address).await;
        stream.write_all(format!("{own}Connection: close\r\n\r\n").as_bytes()).await.expect("sends");
        let mut reply = String::new();
        within("a reply", stream.read_to_string(&mut reply)).await.expect("receives");
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    }
    is_well(address).await;
    // One that comes whole is answered.
    let mut last = waiting.pop().expect("one");
    last.write_all(b"csrf=abcd").await.expect("sends");
    let mut status = [0; 12];
    within("a reply", last.read_exact(&mut status)).await.expect("a reply");
    assert_eq!(&status, b"HTTP/1.1 403", "it is not of our page");
}
