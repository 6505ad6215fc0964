use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::upstream::Upstreams;

/// Longer than any test takes.
const AMPLE: Duration = Duration::from_secs(20);

fn config(connect_timeout: Duration) -> UpstreamConfig {
    UpstreamConfig { connect_timeout, ..Upstreams::default().api }
}

fn url(host: &str, port: u16) -> UpstreamUrl {
    UpstreamUrl { https: false, host: host.to_owned(), port, authority: format!("{host}:{port}"), socket: None }
}

/// A connector for a name that has these addresses.
fn named(addresses: &[SocketAddr], timeout: Duration) -> Connector {
    let addresses = addresses.to_vec();
    let resolve: Resolve = Arc::new(move |_, _| Ok(addresses.clone()));
    Connector::resolving(&url("controller.test", 1), &config(timeout), resolve).expect("usable")
}

/// A server at `127.0.0.x`, port 0 for a free one.
async fn server(last: u8, port: u16) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, last], port))).await.expect("listens");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// An address at `127.0.0.x` that is free, and refuses connections while the socket lives.
fn refusing(last: u8) -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, last], 0)).into()).expect("binds");
    let address = socket.local_addr().expect("an address").as_socket().expect("of the internet");
    (socket, address)
}

/// An address that answers to nothing: the queue of connections is full, so the kernel drops every further one.
fn hole() -> (Vec<Socket>, SocketAddr) {
    let (socket, address) = refusing(1);
    socket.listen(0).expect("listens");
    let mut sockets = vec![socket];
    for _ in 0..4 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_nonblocking(true).expect("can be set");
        // In progress is an error, too.
        drop(socket.connect(&address.into()));
        sockets.push(socket);
    }
    (sockets, address)
}

async fn reached(connector: &Connector) -> SocketAddr {
    match connector.connect().await.expect("connects").1 {
        Address::Tcp(address) => address,
        Address::Unix(path) => panic!("{path:?}"),
    }
}

async fn failure(connector: &Connector) -> ConnectError {
    connector.connect().await.expect_err("no connection")
}

#[tokio::test]
async fn an_address_is_connected_to_without_a_lookup() {
    let (_server, address) = server(1, 0).await;
    let resolve: Resolve = Arc::new(|_, _| panic!("looked up"));
    let connector = Connector::resolving(&url("127.0.0.1", address.port()), &config(AMPLE), resolve).expect("usable");
    assert_eq!(reached(&connector).await, address);
}

#[tokio::test]
async fn a_name_is_looked_up_by_the_system() {
    let (_server, address) = server(1, 0).await;
    let connector = Connector::new(&url("localhost", address.port()), &config(AMPLE)).expect("usable");
    assert_eq!(reached(&connector).await, address);
}

#[tokio::test]
async fn the_address_that_worked_last_comes_first() {
    // Addresses that no other test takes ports of.
    let (socket, first) = refusing(3);
    let (other, second) = server(4, first.port()).await;
    let connector = named(&[first, second], AMPLE);
    assert_eq!(reached(&connector).await, second, "the first one refuses");

    drop(socket);
    let (again, _) = server(3, first.port()).await;
    assert_eq!(reached(&connector).await, second, "it worked");
    drop(other);
    assert_eq!(reached(&connector).await, first, "the other one is gone");
    let (_other, _) = server(4, first.port()).await;
    assert_eq!(reached(&connector).await, first, "it worked");
    drop(again);
}

#[tokio::test]
async fn addresses_that_do_not_answer_leave_time_for_the_next() {
    let holes = [hole(), hole(), hole()];
    let (_server, address) = server(1, 0).await;
    let mut addresses: Vec<SocketAddr> = holes.iter().map(|(_, address)| *address).collect();
    addresses.push(address);
    assert_eq!(reached(&named(&addresses, AMPLE)).await, address);

    let seconds = Duration::from_secs;
    assert_eq!(race::delay(2, seconds(2)), Duration::from_millis(250));
    assert_eq!(race::delay(100, seconds(2)), Duration::from_millis(10), "the last starts at half of the time");
}

/// An address may accept connections and still be dead.
#[tokio::test]
async fn a_handshake_that_hangs_leaves_time_for_the_next() {
    let (_silent, first) = server(2, 0).await;
    let (listener, second) = server(1, 0).await;
    let key = rcgen::generate_simple_self_signed(vec!["controller.test".to_owned()]).expect("certificate");
    let directory = tempfile::tempdir().expect("directory");
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, key.cert.pem()).expect("written");
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], key.signing_key.into())
        .expect("usable");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let serve = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("accepts");
        let mut stream = acceptor.accept(stream).await.expect("shakes hands");
        let mut byte = [0];
        stream.read_exact(&mut byte).await.expect("reads");
        byte
    });

    let (url, mut config) = (url("controller.test", 1), config(AMPLE));
    config.tls = Some(UpstreamTlsConfig { ca: Some(ca), ..UpstreamTlsConfig::default() });
    let connector = Connector::resolving(&url, &config, Arc::new(move |_, _| Ok(vec![first, second]))).expect("usable");
    let (mut stream, address) = connector.connect().await.expect("connects");
    assert_eq!(address, Address::Tcp(second));
    stream.write_all(b"x").await.expect("writes");
    stream.flush().await.expect("writes");
    assert_eq!(serve.await.expect("served"), *b"x");
}

#[tokio::test]
async fn a_failure_names_the_step_and_the_address() {
    let short = Duration::from_millis(300);
    let (_socket, refused) = refusing(1);
    let error = failure(&named(&[refused], AMPLE)).await;
    assert_eq!(
        (error.step, error.address.clone(), error.timed_out),
        (Step::Connect, Some(Address::Tcp(refused)), false)
    );
    assert_eq!(error.to_string(), format!("connect {refused}"));
    assert!(error.source().expect("a cause").to_string().contains("refused"));

    let (_sockets, dead) = hole();
    let error = failure(&named(&[refused, dead], short)).await;
    assert_eq!((error.step, error.address.clone(), error.timed_out), (Step::Connect, Some(Address::Tcp(dead)), true));

    let mut secure = config(short);
    let key = rcgen::generate_simple_self_signed(vec!["other".to_owned()]).expect("certificate");
    let directory = tempfile::tempdir().expect("directory");
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, key.cert.pem()).expect("written");
    secure.tls = Some(UpstreamTlsConfig { ca: Some(ca), ..UpstreamTlsConfig::default() });
    let (listener, silent) = server(1, 0).await;
    let error = failure(&Connector::new(&url("127.0.0.1", silent.port()), &secure).expect("usable")).await;
    assert_eq!((error.step, error.address.clone(), error.timed_out), (Step::Tls, Some(Address::Tcp(silent)), true));

    let plain = tokio::spawn(async move {
        let (_late, _) = listener.accept().await.expect("accepts");
        let (mut stream, _) = listener.accept().await.expect("accepts");
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("writes");
        stream.read_to_end(&mut Vec::new()).await.ok();
    });
    secure.connect_timeout = AMPLE;
    let error = failure(&Connector::new(&url("127.0.0.1", silent.port()), &secure).expect("usable")).await;
    assert_eq!((error.step, error.address.clone(), error.timed_out), (Step::Tls, Some(Address::Tcp(silent)), false));
    plain.await.expect("served");

    let unknown: Resolve = Arc::new(|_, _| Err(io::Error::other("no such name")));
    let connector = Connector::resolving(&url("controller.test", 1), &config(AMPLE), unknown).expect("usable");
    let error = failure(&connector).await;
    assert_eq!((error.step, error.address.clone(), error.timed_out), (Step::Resolve, None, false));
    assert_eq!(
        (error.to_string().as_str(), error.source().expect("a cause").to_string().as_str()),
        ("resolve", "no such name")
    );
    assert_eq!(failure(&named(&[], AMPLE)).await.step, Step::Resolve, "no address is no answer");
}

#[test]
fn files_are_read_again_and_what_cannot_be_used_changes_nothing() {
    let directory = tempfile::tempdir().expect("directory");
    let ca = directory.path().join("ca.pem");
    let certificate = || {
        let key = rcgen::generate_simple_self_signed(vec!["controller.test".to_owned()]).expect("certificate");
        key.cert.pem()
    };
    let (first, second) = (certificate(), certificate());
    let write = |text: &str| std::fs::write(&ca, text).expect("written");
    write(&first);
    let (url, mut config) = (url("controller.test", 1), config(AMPLE));
    let plain = Connector::new(&url, &config).expect("usable");
    config.tls = Some(UpstreamTlsConfig { ca: Some(ca.clone()), ..UpstreamTlsConfig::default() });
    let connector = Connector::new(&url, &config).expect("usable");
    // Whether the connections until now are of former files.
    let reload = |connector: &Connector| {
        let before = connector.generation();
        connector.reload().expect("usable");
        connector.generation() != before
    };
    assert!(!reload(&plain), "there is nothing to read");
    assert!(!reload(&connector), "the same");
    write(&second);
    assert!(reload(&connector));
    write("nonsense");
    assert!(matches!(connector.reload(), Err(TlsError::NoCertificate(_))));
    write(&second);
    assert!(!reload(&connector), "it stayed");
}

#[tokio::test]
async fn one_lookup_is_under_way_and_all_share_it() {
    let (_server, address) = server(1, 0).await;
    let (release, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let resolve: Resolve = Arc::new(move |_, _| {
        counter.fetch_add(1, Ordering::SeqCst);
        wait.lock().recv().expect("is released");
        Ok(vec![address])
    });
    let connector = Connector::resolving(&url("controller.test", 1), &config(AMPLE), resolve).expect("usable");
    // All are polled once before the last one lets the lookup end.
    let end = async { release.send(()).expect("is waited for") };
    tokio::join!(reached(&connector), reached(&connector), reached(&connector), end);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    tokio::join!(reached(&connector), async { release.send(()).expect("is waited for") });
    assert_eq!(asked.load(Ordering::SeqCst), 2, "a name may move: each connection asks, unless somebody just does");
}

/// The system's resolver cannot be stopped. Nobody waits for it longer than for a connection: neither a request nor the
/// end of its worker.
#[test]
fn a_resolver_that_hangs_holds_up_nothing() {
    let (release, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let (ended, end) = mpsc::channel();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let hang: Resolve = Arc::new(move |_, _| {
        counter.fetch_add(1, Ordering::SeqCst);
        wait.lock().recv().ok();
        Ok(Vec::new())
    });
    let worker = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let connector = Connector::resolving(&url("controller.test", 1), &config(Duration::from_millis(100)), hang)
            .expect("usable");
        for _ in 0..2 {
            let error = runtime.block_on(failure(&connector));
            assert_eq!((error.step, error.address.clone(), error.timed_out), (Step::Resolve, None, true));
        }
        drop(runtime);
        ended.send(()).expect("is waited for");
    });
    end.recv_timeout(AMPLE).expect("the worker ends while the resolver hangs");
    assert_eq!(asked.load(Ordering::SeqCst), 1, "one thread waits for it, not one for each request");
    drop(release);
    worker.join().expect("no panic");
}

/// What a resolver says, when it is asked.
type Says = Arc<Mutex<Box<dyn Fn() -> io::Result<Vec<SocketAddr>> + Send>>>;

fn scripted(timeout: Duration) -> (Connector, Says) {
    let says: Says = Arc::new(Mutex::new(Box::new(|| Ok(Vec::new()))));
    let script = Arc::clone(&says);
    let resolve: Resolve = Arc::new(move |_, _| script.lock()());
    (Connector::resolving(&url("controller.test", 1), &config(timeout), resolve).expect("usable"), says)
}

/// A server that takes any number of connections.
async fn accepting() -> SocketAddr {
    let (listener, address) = server(1, 0).await;
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    address
}

#[tokio::test]
async fn while_the_resolver_says_nothing_its_latest_addresses_are_used() {
    let address = accepting().await;
    let (connector, says) = scripted(AMPLE);
    *says.lock() = Box::new(move || Ok(vec![address]));
    assert_eq!(reached(&connector).await, address);
    assert!(!connector.has_lookup_trouble());
    // At once, as where no server runs.
    *says.lock() = Box::new(|| Err(io::ErrorKind::WouldBlock.into()));
    assert_eq!(reached(&connector).await, address);
    assert_eq!((connector.has_lookup_trouble(), connector.is_resolved(), connector.lookups_failed()), (true, true, 1));
    *says.lock() = Box::new(move || Ok(vec![address]));
    while connector.has_lookup_trouble() {
        assert_eq!(reached(&connector).await, address);
    }
    // That there is no such name is an answer: its address may be somebody else's.
    *says.lock() = Box::new(|| Err(io::ErrorKind::NotFound.into()));
    assert_eq!(failure(&connector).await.step, Step::Resolve);
    assert!(!connector.is_resolved());
    *says.lock() = Box::new(|| Err(io::ErrorKind::WouldBlock.into()));
    assert_eq!(failure(&connector).await.step, Step::Resolve, "it is forgotten");
    *says.lock() = Box::new(move || Ok(vec![address]));
    assert_eq!(reached(&connector).await, address);
    assert!(connector.is_resolved() && !connector.has_lookup_trouble());
}

#[tokio::test]
async fn a_resolver_that_hangs_is_waited_for_once_where_an_address_is_known() {
    let address = accepting().await;
    let (release, wait) = mpsc::channel::<()>();
    let (wait, known) = (Mutex::new(wait), AtomicUsize::new(0));
    let resolve: Resolve = Arc::new(move |_, _| {
        if known.fetch_add(1, Ordering::SeqCst) > 0 {
            wait.lock().recv().ok();
        }
        Ok(vec![address])
    });
    let connector = Connector::resolving(&url("controller.test", 1), &config(AMPLE), resolve).expect("usable");
    assert_eq!(reached(&connector).await, address);
    let began = Instant::now();
    for _ in 0..10 {
        assert_eq!(reached(&connector).await, address);
    }
    assert!(began.elapsed() >= RESOLVER_PATIENCE && began.elapsed() < 4 * RESOLVER_PATIENCE, "{:?}", began.elapsed());
    assert!(connector.has_lookup_trouble() && connector.is_resolved());
    drop(release);
    while connector.has_lookup_trouble() {
        assert_eq!(reached(&connector).await, address);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_lookup_that_panics_does_not_stop_the_next() {
    let (_server, address) = server(1, 0).await;
    let asked = AtomicUsize::new(0);
    let resolve: Resolve = Arc::new(move |_, _| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => panic!("on purpose"),
        _ => Ok(vec![address]),
    });
    let connector = Connector::resolving(&url("controller.test", 1), &config(AMPLE), resolve).expect("usable");
    assert_eq!(failure(&connector).await.step, Step::Resolve);
    assert_eq!(reached(&connector).await, address);
}
