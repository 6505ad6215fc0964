//! Listeners behind balancers that say with a PROXY header whose a connection is.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

use crate::harness::{Builder, CONFIG, Client, HaProxy, Site, eventually, get};

/// Who has to begin with a header here.
const BALANCER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 8);

/// Who does not.
const AGENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

const BINARY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn behind_a_balancer() -> Builder {
    let networks = vec![format!("{BALANCER}").parse().expect("a network")];
    Site::builder().config(move |config| config.listeners[0].proxy_protocol = networks)
}

async fn connect(from: Ipv4Addr, to: SocketAddr) -> Client {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("a loopback address");
    Client::over(socket.connect(to).await.expect("a connection"))
}

/// Whom the Controller takes for the client of the last request.
fn client(site: &Site) -> IpAddr {
    let requests = site.api.requests();
    let client = requests.last().and_then(|request| request.field("X-Forwarded-For"));
    client.expect("a client").parse().expect("an address")
}

async fn closed(site: &Site) -> String {
    site.metric("tollgate_connections_without_proxy_header_total").await
}

#[tokio::test]
async fn who_a_balancer_names_is_the_client() {
    let site = behind_a_balancer().start().await;
    let addresses = [192, 0, 2, 7, 192, 0, 2, 1, 0x12, 0x67, 1, 187];
    let tcp4 = [BINARY, &[0x21, 0x11, 0, 12], &addresses].concat();
    let with_more = [BINARY, &[0x21, 0x11, 0, 19], &addresses, &[4, 0, 4, 1, 2, 3, 4]].concat();
    let local = [BINARY, &[0x20, 0, 0, 0]].concat();
    let cases: [(&[u8], &str); 7] = [
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n", "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n", "2001:db8::7"),
        (b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:192.0.2.1 4711 443\r\n", "192.0.2.7"),
        (&tcp4, "192.0.2.7"),
        (&with_more, "192.0.2.7"),
        // Checks of the balancer itself.
        (b"PROXY UNKNOWN\r\n", "127.0.0.8"),
        (&local, "127.0.0.8"),
    ];
    for (header, expected) in cases {
        // Whole, with the request behind it, and byte by byte.
        let mut whole = connect(BALANCER, site.address()).await;
        whole.send([header, get(CONFIG, &site.agent).as_bytes()].concat()).await;
        assert_eq!(whole.reply().await.status(), 200);
        assert_eq!(client(&site).to_string(), expected);
        let mut pieces = connect(BALANCER, site.address()).await;
        for byte in header {
            pieces.send([*byte]).await;
        }
        for _ in 0..2 {
            pieces.send(get(CONFIG, &site.agent)).await;
            assert_eq!(pieces.reply().await.status(), 200);
            assert_eq!(client(&site).to_string(), expected);
        }
    }
    assert_eq!(closed(&site).await, "0");
}

#[tokio::test]
async fn who_has_to_send_a_header_and_does_not_is_closed_and_counted() {
    let site = behind_a_balancer().setting("TIMEOUTS__REQUEST_HEAD", "300ms").start().await;
    let request = get(CONFIG, &site.agent);
    let too_long = [BINARY, &[0x21, 0x11, 0xff, 0xff], &[0; 64]].concat();
    let endless = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
    let cases: [&[u8]; 6] = [
        request.as_bytes(),
        b"PROXY TCP4 192.0.2.7\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\nGET",
        &too_long,
        &endless,
        // Too late: the rest never comes.
        b"PROXY TCP4 192.0.2.7 ",
    ];
    for (at, bytes) in cases.into_iter().enumerate() {
        let mut balancer = connect(BALANCER, site.address()).await;
        balancer.send(bytes).await;
        balancer.is_cut().await;
        assert_eq!(closed(&site).await, (at + 1).to_string(), "{}", String::from_utf8_lossy(bytes));
    }
    assert_eq!(site.forwarded(), 0);
}

#[tokio::test]
async fn a_balancer_may_look_whether_it_can_connect() {
    let site = behind_a_balancer().start().await;
    for _ in 0..3 {
        let mut looks = connect(BALANCER, site.address()).await;
        looks.finish().await;
        looks.is_cut().await;
    }
    // One that is counted, after them.
    let mut balancer = connect(BALANCER, site.address()).await;
    balancer.send(get(CONFIG, &site.agent).as_bytes()).await;
    balancer.is_cut().await;
    assert_eq!(closed(&site).await, "1");
}

#[tokio::test]
async fn from_everybody_else_a_header_is_not_believed() {
    let site = behind_a_balancer().start().await;
    let mut agent = connect(AGENT, site.address()).await;
    agent.send(get(CONFIG, &site.agent)).await;
    assert_eq!(agent.reply().await.status(), 200);
    assert_eq!(client(&site), IpAddr::from(AGENT));
    let mut liar = connect(AGENT, site.address()).await;
    liar.send(format!("PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n{}", get(CONFIG, &site.agent))).await;
    assert_eq!(liar.reply().await.status(), 400);
    assert_eq!((site.forwarded(), closed(&site).await.as_str()), (1, "0"));
}

#[tokio::test]
async fn the_limit_of_connections_is_that_of_the_client_and_not_of_its_balancer() {
    let site = behind_a_balancer().setting("LIMITS__MAX_CONNECTIONS_PER_CLIENT", "1").start().await;
    let by_balancer = async |client: &str| {
        let mut balancer = connect(BALANCER, site.address()).await;
        let header = format!("PROXY TCP4 {client} 192.0.2.1 4711 443\r\n");
        balancer.send(format!("{header}{}", get(CONFIG, &site.agent))).await;
        balancer
    };
    let (mut one, mut two) = (by_balancer("192.0.2.7").await, by_balancer("192.0.2.8").await);
    assert_eq!((one.reply().await.status(), two.reply().await.status()), (200, 200));
    by_balancer("192.0.2.7").await.is_cut().await;
    drop(one);
    eventually("its place is free", || async {
        by_balancer("192.0.2.7").await.try_reply(false).await.is_ok_and(|reply| reply.status() == 200)
    })
    .await;
}

/// As README has it: HAProxy passes connections through, TLS and all, and tells whose they are.
#[tokio::test]
async fn haproxy_says_whose_a_connection_is() {
    for send in ["send-proxy", "send-proxy-v2"] {
        let site = behind_a_balancer().start().await;
        let server = format!("server tollgate {} {send} check source {BALANCER}", site.address());
        let haproxy = HaProxy::start(&format!("mode tcp\n    {server}")).await;
        for _ in 0..3 {
            let mut agent = connect(AGENT, haproxy.address()).await;
            agent.send(get(CONFIG, &site.agent)).await;
            assert_eq!(agent.reply().await.status(), 200);
            assert_eq!(client(&site), IpAddr::from(AGENT), "{send}");
        }
    }
}
