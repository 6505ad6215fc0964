//! A link is worth something only if it breaks as it says.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::harness::{Relay, Traffic, within};

/// Answers each line with itself.
async fn echo() -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await.ok();
            });
        }
    });
    (address, task)
}

async fn says(stream: &mut TcpStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    within("bytes", stream.read_exact(&mut got)).await.expect("reads");
    assert_eq!(got, expected);
}

async fn is_silent(stream: &mut TcpStream) {
    let waited = tokio::time::timeout(Duration::from_millis(50), stream.read_u8()).await;
    assert!(waited.is_err(), "{waited:?}");
}

#[tokio::test]
async fn what_stalls_is_silent_and_comes_late() {
    let (server, _task) = echo().await;
    let relay = Relay::start(server).await;
    for stall in [Traffic::Stalls, Traffic::AnswersStall, Traffic::RequestsStall] {
        let mut old = TcpStream::connect(relay.address()).await.expect("connects");
        old.write_all(b"one").await.expect("writes");
        says(&mut old, b"one").await;
        relay.set(stall).await;
        old.write_all(b"two").await.expect("writes");
        let mut new = TcpStream::connect(relay.address()).await.expect("connects");
        new.write_all(b"three").await.expect("writes");
        is_silent(&mut old).await;
        is_silent(&mut new).await;
        relay.heal().await;
        says(&mut old, b"two").await;
        says(&mut new, b"three").await;
    }
}

#[tokio::test]
async fn what_is_cut_is_reset() {
    let (server, _task) = echo().await;
    let relay = Relay::start(server).await;
    let mut client = TcpStream::connect(relay.address()).await.expect("connects");
    client.write_all(b"one").await.expect("writes");
    says(&mut client, b"one").await;
    relay.set(Traffic::Cut).await;
    let error = within("the end", client.read_u8()).await.expect_err("reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let mut client = TcpStream::connect(relay.address()).await.expect("connects");
    within("the end", client.read_u8()).await.expect_err("reset");
    relay.heal().await;
    let mut client = TcpStream::connect(relay.address()).await.expect("connects");
    client.write_all(b"two").await.expect("writes");
    says(&mut client, b"two").await;
    assert_eq!(relay.accepted(), 3);
}

#[tokio::test]
async fn what_is_thin_is_late_and_takes_its_time() {
    let (server, _task) = echo().await;
    let relay = Relay::start(server).await;
    relay.set(Traffic::Thin { delay: Duration::from_millis(20), bytes_per_second: 100_000 }).await;
    let began = Instant::now();
    let both = [relay.address(); 2].map(|address| async move {
        let mut client = TcpStream::connect(address).await.expect("connects");
        client.write_all(&[7; 10_000]).await.expect("writes");
        says(&mut client, &[7; 10_000]).await;
    });
    let [one, two] = both;
    tokio::join!(one, two);
    assert!(began.elapsed() >= Duration::from_millis(240), "20,000 bytes, there and back: {:?}", began.elapsed());
    assert_eq!(relay.carried(), 20_000);
}
