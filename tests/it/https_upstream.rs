//! An upstream by TLS that misbehaves: what the session holds back or has decrypted already is as much a part of the
//! connection as what is still in its socket.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::harness::{CONFIG, Client, Site, eventually, get, ok, post, scripted, within};
use tollgate_harness::authority::Authority;

/// A site whose API server is at this port, by TLS.
async fn site(authority: &Authority, port: u16, settings: &[(&str, &str)]) -> Site {
    let ca = authority.certificate();
    let mut builder = Site::builder().setting("UPSTREAM__API__TLS__CA", ca.to_str().expect("text"));
    for (key, value) in settings {
        builder = builder.setting(key, value);
    }
    builder.api_at(format!("https://localhost:{port}")).start().await
}

/// Accepts connections that hardly hold anything, reads the beginning of a request and then nothing more, until told to
/// read on: then it counts what is still there.
struct Deaf {
    port: u16,
    /// Whether to read on.
    reads: watch::Sender<bool>,
    /// Bytes that each connection held when it had ended.
    held: Arc<Mutex<Vec<usize>>>,
}

impl Deaf {
    async fn start(config: Arc<ServerConfig>) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("sets");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("binds");
        let listener = socket.listen(1024).expect("listens");
        let port = listener.local_addr().expect("an address").port();
        let (reads, held) = (watch::Sender::new(false), Arc::new(Mutex::new(Vec::new())));
        let (told, counts, acceptor) = (reads.clone(), Arc::clone(&held), TlsAcceptor::from(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut told, counts, acceptor) = (told.subscribe(), Arc::clone(&counts), acceptor.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    drop(stream.read(&mut [0; 200]).await);
                    drop(told.wait_for(|reads| *reads).await);
                    let (mut socket, mut bytes, mut count) = (stream.into_inner().0, vec![0; 1 << 16], 0);
                    while let Ok(some @ 1..) = socket.read(&mut bytes).await {
                        count += some;
                    }
                    counts.lock().expect("no panic").push(count);
                });
            }
        });
        Self { port, reads, held }
    }
}

/// Uploads so many bytes, and says after how long there was an answer or an end.
async fn upload(address: SocketAddr, whole: Vec<u8>) -> Option<Duration> {
    let begun = Instant::now();
    let stream = within("connecting", TcpStream::connect(address)).await.expect("connects");
    let (mut reader, mut writer) = stream.into_split();
    let writing = tokio::spawn(async move { drop(writer.write_all(&whole).await) });
    let answered = tokio::time::timeout(Duration::from_secs(6), reader.read(&mut [0; 100])).await;
    writing.abort();
    answered.ok().map(|_| begun.elapsed())
}

/// What fits into the sockets is taken whole, what is far above it is paused; in between the last bytes are in the
/// session alone. That point is found first, and then looked at closely.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_bytes_of_an_upload_have_a_deadline() {
    let authority = Authority::create();
    let deaf = Deaf::start(authority.server("upstream", &["localhost"])).await;
    let short = [("UPSTREAM__API__TIMEOUTS__IDLE", "500ms"), ("UPSTREAM__API__TIMEOUTS__FIRST_BYTE", "500ms")];
    let site = site(&authority, deaf.port, &short).await;
    let upload_of = |size: usize| upload(site.address(), post("/api/configs", &site.owner, &vec![b'x'; size]));

    for size in [3_000_000, 6_000_000, 9_000_000] {
        assert!(upload_of(size).await.is_some(), "{size} bytes were not answered");
    }
    deaf.reads.send_replace(true);
    let held = || deaf.held.lock().expect("no panic").clone();
    eventually("what was held is known", || async { held().len() == 3 }).await;
    let held = held();
    deaf.reads.send_replace(false);
    println!("the sockets hold {held:?} bytes");

    // Steps smaller than what a session holds back, all around.
    let most = *held.iter().max().expect("three");
    let mut sizes: Vec<_> = (0..40).map(|step| most.saturating_sub(600_000) + step * 20_000).collect();
    let mut unanswered = Vec::new();
    while !sizes.is_empty() {
        let some = sizes.split_off(sizes.len().saturating_sub(8));
        let uploads: Vec<_> = some.iter().map(|size| tokio::spawn(upload_of(*size))).collect();
        for (size, upload) in some.into_iter().zip(uploads) {
            if upload.await.expect("no panic").is_none() {
                unanswered.push(size);
            }
        }
    }
    assert!(unanswered.is_empty(), "not answered within 6 s: uploads of {unanswered:?} bytes");
}

/// What follows on the wire when a reply is complete.
#[derive(Debug, Clone, Copy)]
enum Behind {
    /// In the record of the reply: decrypted with it.
    SameRecord,
    /// In a record of its own that comes with it: read from the socket, and not decrypted yet.
    NextRecord,
    /// Later, while the connection is unused.
    Later,
    /// The session's end, with the reply.
    Farewell,
}

/// Answers the first request on its first connection with a reply and more, everything else with `ok`.
async fn talkative(config: Arc<ServerConfig>, behind: Behind, asked: String) -> (u16, watch::Sender<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    // What was written has arrived then: otherwise it is held back for a moment, and nobody can know of it yet.
    socket2::SockRef::from(&listener).set_tcp_congestion(b"reno").expect("every kernel has it");
    socket2::SockRef::from(&listener).set_tcp_nodelay(true).expect("an option");
    let acceptor = TlsAcceptor::from(config);
    let said = watch::Sender::new(0);
    let shared = said.clone();
    tokio::spawn(async move {
        for number in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            let (acceptor, said, asked) = (acceptor.clone(), shared.clone(), asked.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut first = number == 0;
                while let Some(()) = request(&mut stream).await {
                    if std::mem::take(&mut first) {
                        say(&mut stream, behind, &asked, &said).await;
                    } else if stream.write_all(ok("ok").as_bytes()).await.is_err() || stream.flush().await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, said)
}

/// Waits for the end of a head.
async fn request(stream: &mut TlsStream<TcpStream>) -> Option<()> {
    let mut received = Vec::new();
    while !received.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut received).await.is_ok_and(|count| count > 0) {
            continue;
        }
        return None;
    }
    Some(())
}

/// The reply that was asked for, and what was not.
async fn say(stream: &mut TlsStream<TcpStream>, behind: Behind, asked: &str, said: &watch::Sender<usize>) {
    let more = scripted("200 OK", "", "not asked for");
    let session = &mut stream.get_mut().1;
    let mut write = |bytes: &[u8]| std::io::Write::write_all(&mut session.writer(), bytes).expect("a session holds it");
    match behind {
        Behind::SameRecord => write([asked, &more].concat().as_bytes()),
        // One write of the session is one record.
        Behind::NextRecord => {
            write(asked.as_bytes());
            write(more.as_bytes());
        }
        Behind::Later | Behind::Farewell => write(asked.as_bytes()),
    }
    if matches!(behind, Behind::Farewell) {
        session.send_close_notify();
    }
    stream.flush().await.ok();
    if matches!(behind, Behind::Later) {
        // Once the client has its reply.
        let mut taken = said.subscribe();
        taken.wait_for(|step| *step == 1).await.ok();
        stream.write_all(more.as_bytes()).await.ok();
        stream.flush().await.ok();
        said.send_replace(2);
    }
}

/// Nobody asked for it, so it must not become the answer to the next request, which may be somebody else's.
#[tokio::test]
async fn what_comes_behind_a_reply_is_never_handed_on() {
    let authority = Authority::create();
    let ways = [Behind::SameRecord, Behind::NextRecord, Behind::Later, Behind::Farewell];
    // A reply that fills the buffer that it is read into leaves what follows where it was: in the session.
    let sizes = [100, 4 << 10, 8 << 10, 16 << 10, 32 << 10];
    for (behind, size) in ways.into_iter().flat_map(|behind| sizes.map(|size| (behind, size))) {
        let empty = ok(&"x".repeat(size)).len() - size;
        let body = "x".repeat(size - empty);
        let server = authority.server("upstream", &["localhost"]);
        let (port, said) = talkative(server, behind, ok(&body)).await;
        let site = site(&authority, port, &[]).await;
        let mut client = site.connect().await;
        client.send(get(CONFIG, &site.agent)).await;
        assert_eq!(client.reply().await.text(), body, "{behind:?} {size}");
        if matches!(behind, Behind::Later) {
            said.send_replace(1);
            let mut told = said.subscribe();
            drop(within("it was said", told.wait_for(|step| *step == 2)).await.expect("runs"));
        }
        // What must not be sent twice goes first: trying is no way to find out whether a connection is good.
        assert_eq!(site.send(post("/api/configs", &site.owner, b"")).await.text(), "ok", "{behind:?} {size}");
        for _ in 0..3 {
            assert_eq!(site.get("/api/users", &site.owner).await.text(), "ok", "{behind:?} {size}");
        }
    }
}

/// Many at once, each with bytes behind its reply: each client reads its own.
#[tokio::test]
async fn clients_beside_each_other_read_their_own_replies() {
    let authority = Authority::create();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let acceptor = TlsAcceptor::from(authority.server("upstream", &["localhost"]));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut received = Vec::new();
                while stream.read_buf(&mut received).await.is_ok_and(|count| count > 0) {
                    if !received.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let head = String::from_utf8(std::mem::take(&mut received)).expect("text");
                    let path = head.split(' ').nth(1).expect("a path").to_owned();
                    let session = &mut stream.get_mut().1;
                    for body in [path.as_str(), "not asked for"] {
                        std::io::Write::write_all(&mut session.writer(), ok(body).as_bytes()).expect("holds it");
                    }
                    stream.flush().await.ok();
                }
            });
        }
    });
    let site = site(&authority, port, &[]).await;
    for round in 0..20 {
        let mut clients = Vec::new();
        for number in 0..10 {
            let path = format!("/api/configs/{round}-{number}");
            let mut client: Client = site.connect().await;
            client.send(get(&path, &site.agent)).await;
            clients.push((path, client));
        }
        for (path, mut client) in clients {
            assert_eq!(client.reply().await.text(), path);
        }
    }
}
