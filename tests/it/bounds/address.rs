//! How many connections one address may have.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

use crate::harness::{CONFIG, Client, Site, eventually, get, within};

const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// A connection from this address.
async fn connect(site: &Site, from: IpAddr) -> Client {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(from, 0)).expect("binds");
    Client::over(within("connecting", socket.connect(site.address())).await.expect("connects"))
}

/// Whether a request on a new connection from this address is served.
async fn is_served(site: &Site, from: IpAddr) -> bool {
    let mut client = connect(site, from).await;
    client.send(get(CONFIG, &site.agent)).await;
    client.try_reply(false).await.is_ok_and(|reply| reply.status() == 200)
}

/// So many connections that are served and stay open.
async fn hold(site: &Site, from: IpAddr, count: usize) -> Vec<Client> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut client = connect(site, from).await;
        client.send(get(CONFIG, &site.agent)).await;
        assert_eq!(client.reply().await.status(), 200);
        held.push(client);
    }
    held
}

#[tokio::test]
async fn one_address_has_so_many_connections_and_no_more() {
    for workers in [1, 3] {
        let site = Site::builder()
            .setting("LIMITS__MAX_CONNECTIONS_PER_CLIENT", "5")
            .config(move |config| config.workers = workers.try_into().expect("not 0"))
            .start()
            .await;
        let mut held = hold(&site, ONE, 5).await;
        for _ in 0..3 {
            assert!(!is_served(&site, ONE).await, "the sixth");
        }
        let mut silent = connect(&site, ONE).await;
        silent.is_cut().await; // not even held open
        let others = hold(&site, OTHER, 5).await;
        assert!(!is_served(&site, OTHER).await, "the sixth of another address");

        drop(held.pop());
        eventually("a free place is used again", || is_served(&site, ONE)).await;
        for client in &mut held {
            client.send(get(CONFIG, &site.agent)).await;
            assert_eq!(client.reply().await.status(), 200, "those that stand go on");
        }
        drop(others);
    }
}

/// A fleet behind one address is normal.
#[tokio::test]
async fn without_a_limit_one_address_has_as_many_as_it_likes() {
    for setting in [None, Some("0")] {
        let mut builder = Site::builder();
        if let Some(off) = setting {
            builder = builder.setting("LIMITS__MAX_CONNECTIONS_PER_CLIENT", off);
        }
        let site = builder.start().await;
        drop(hold(&site, ONE, 300).await);
    }
}
