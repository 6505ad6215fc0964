//! Listeners and upstreams that are no IP address: Unix sockets, before Tollgate and behind it, and names.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use tokio::net::UnixStream;

use crate::harness::{Builder, CONFIG, Client, HaProxy, Script, Site, Upstream, get, ok, post, run};

/// A site with one listener, on this socket.
fn on(path: &Path) -> Builder {
    let address = format!("unix:{}", path.display());
    Site::builder().config(move |config| config.listeners[0].address = address.parse().expect("an address"))
}

async fn connect(path: &Path) -> Client {
    Client::over(UnixStream::connect(path).await.expect("a connection"))
}

fn directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("tollgate.sock");
    (directory, path)
}

/// Every path that a socket can have, whatever room it leaves for another name beside it.
#[tokio::test]
async fn a_path_may_be_as_long_as_that_of_a_socket() {
    let directory = tempfile::tempdir().expect("a directory");
    let room = 107 - directory.path().as_os_str().len() - 1;
    for name in ["s".repeat(room), format!("{}/s", "d".repeat(room - 2))] {
        let path = directory.path().join(name);
        let parent = path.parent().expect("has one");
        fs::create_dir_all(parent).expect("makes");
        assert_eq!(path.as_os_str().len(), 107);
        let site = on(&path).start().await;
        let mut client = connect(&path).await;
        client.send(get(CONFIG, &site.agent)).await;
        assert_eq!(client.reply().await.status(), 200);
        let beside = fs::read_dir(parent).expect("reads").map(|entry| entry.expect("reads").file_name());
        let beside: Vec<_> = beside.filter(|name| name.to_string_lossy().ends_with(".new")).collect();
        assert!(beside.is_empty(), "{beside:?}");
    }
    let address = format!("unix:{}x", directory.path().join("s".repeat(room)).display());
    let output = run(&["serve", "--listen", &address], &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() != Some(0) && said.contains("at most 107 bytes"), "{said}");
}

/// Starting another one there fails, and says this.
fn is_refused(path: &Path, expected: &str) {
    let address = format!("unix:{}", path.display());
    let store = format!("sqlite:{}", path.with_extension("db").display());
    let serve = ["serve", "--listen", &address, "--admin-listen", "127.0.0.1:0", "--store", &store];
    let output = run(&serve, &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&address) && said.contains(expected), "{said}");
}

#[tokio::test]
async fn agents_and_balancers_of_the_same_host_connect_to_a_file() {
    let (_directory, path) = directory();
    let site = on(&path).start().await;
    let found = fs::metadata(&path).expect("a socket");
    assert_eq!((found.file_type().is_socket(), found.permissions().mode() & 0o777), (true, 0o660));
    let mut client = connect(&path).await;
    for _ in 0..2 {
        client.send(get(CONFIG, &site.agent)).await;
        assert_eq!(client.reply().await.status(), 200);
        client.send(post("/agents/heartbeat", &site.agent, &[b'x'; 100_000])).await;
        assert_eq!(client.reply().await.status(), 200);
    }
    // Somebody on this host.
    assert_eq!(site.api.requests()[0].field("X-Forwarded-For"), Some("127.0.0.1"));
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket"]).arg(&path);
    curl.args(["-H", &format!("Authorization: Bearer {}", site.agent.raw), &format!("http://tollgate{CONFIG}")]);
    let said = tokio::task::spawn_blocking(move || curl.output().expect("curl runs")).await.expect("it ends");
    assert_eq!(String::from_utf8_lossy(&said.stdout), "200");
    let haproxy = HaProxy::start(&format!("mode http\n    server tollgate unix@{}", path.display())).await;
    let mut agent = Client::connect(haproxy.address()).await;
    agent.send(get(CONFIG, &site.agent)).await;
    assert_eq!(agent.reply().await.status(), 200);
    drop(client);
    site.sidecar.stop().await;
    assert!(!path.exists(), "the file goes with the sidecar");
}

#[tokio::test]
async fn a_file_that_was_left_is_replaced_and_nothing_else_is() {
    let (_directory, path) = directory();
    // Left by a process that was killed.
    drop(UnixListener::bind(&path).expect("a socket"));
    assert!(path.exists());
    let site = on(&path).start().await;
    connect(&path).await;
    is_refused(&path, "another process listens there");
    connect(&path).await;
    // Somebody else's, by now: it stays.
    fs::remove_file(&path).expect("removed");
    let other = UnixListener::bind(&path).expect("a socket");
    site.sidecar.stop().await;
    assert!(path.exists());
    drop(other);
    fs::remove_file(&path).expect("removed");
    fs::write(&path, "precious").expect("a file");
    is_refused(&path, "no socket");
    assert_eq!(fs::read_to_string(&path).expect("a file"), "precious");
}

#[tokio::test]
async fn who_may_connect_is_the_files_mode() {
    let (_directory, path) = directory();
    let _site = on(&path).config(|config| config.listeners[0].mode = Some(0o600)).start().await;
    assert_eq!(fs::metadata(&path).expect("a socket").permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_balancer_on_a_unix_socket_says_whose_a_connection_is() {
    let (_directory, path) = directory();
    let this_host = vec!["127.0.0.1".parse().expect("a network")];
    let site = on(&path).config(|config| config.listeners[0].proxy_protocol = this_host).start().await;
    let mut balancer = connect(&path).await;
    balancer.send(format!("PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n{}", get(CONFIG, &site.agent))).await;
    assert_eq!(balancer.reply().await.status(), 200);
    assert_eq!(site.api.request().field("X-Forwarded-For"), Some("192.0.2.7"));
}

/// A Unix socket knows no reset: where only the connection's end tells a reply's, one that broke off would look whole.
#[tokio::test]
async fn a_reply_whose_end_would_not_be_known_is_not_begun() {
    let (_directory, path) = directory();
    let site = on(&path).start().await;
    let http10 = format!("GET {CONFIG} HTTP/1.0\r\nAuthorization: Bearer {}\r\n\r\n", site.agent.raw);
    let mut client = connect(&path).await;
    client.send(&http10).await;
    assert_eq!(client.reply().await.status(), 200, "its length is known");
    site.api.next(Script::reply(
        "HTTP/1.1 200 OK\r\nServer: scripted\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ));
    let mut client = connect(&path).await;
    client.send(&http10).await;
    client.is_cut().await;
}

#[tokio::test]
async fn the_controller_can_be_behind_a_unix_socket() {
    let (_directory, path) = directory();
    let upstream = Upstream::start().await;
    // What listens there passes everything on.
    let socket = tokio::net::UnixListener::bind(&path).expect("a socket");
    let behind = upstream.address();
    let relay = tokio::spawn(async move {
        loop {
            let (mut near, _) = socket.accept().await.expect("a connection");
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(behind).await.expect("a connection");
                tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
            });
        }
    });
    let site = Site::builder().api_at(format!("unix:{}", path.display())).start().await;
    let mut client = site.connect().await;
    for _ in 0..3 {
        client.send(get(CONFIG, &site.agent)).await;
        assert_eq!(client.reply().await.status(), 200);
    }
    let requests = upstream.requests();
    assert_eq!((requests.len(), upstream.connections()), (3, 1), "one connection for all");
    assert_eq!(requests[0].field("Host"), Some("localhost"));
    relay.abort();
    fs::remove_file(&path).expect("removed");
    upstream.next(Script::answer_and_close(ok("")));
    client.send(get(CONFIG, &site.agent)).await;
    client.reply().await;
    client.send(get(CONFIG, &site.agent)).await;
    assert_eq!(client.reply().await.status(), 502);
}

#[tokio::test]
async fn a_listener_can_be_named_and_port_alone_means_every_interface() {
    let named = Site::builder().config(|config| config.listeners[0].address = "localhost:0".parse().expect("a name"));
    let site = named.start().await;
    for address in site.sidecar.listeners() {
        let mut client = Client::connect(address.tcp().expect("an address")).await;
        client.send(get(CONFIG, &site.agent)).await;
        assert_eq!(client.reply().await.status(), 200, "{address}");
    }
    let everywhere = Site::builder().config(|config| config.listeners[0].address = ":0".parse().expect("a port"));
    let site = everywhere.start().await;
    let mut client = Client::connect(([127, 0, 0, 77], site.address().port()).into()).await;
    client.send(get(CONFIG, &site.agent)).await;
    assert_eq!(client.reply().await.status(), 200);
}
