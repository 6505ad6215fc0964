//! The four ports: taken before anything else is made, so that a port in use is the first thing that is said.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::Args;
use tokio::net::TcpListener;

/// The options of `tollgate dev`: where things listen. Port 0 takes a free one.
///
/// The defaults are Tollgate's own for Tollgate, and the Controller's own with a 1 before them for the stand-in, so
/// that a real Controller can run beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub(crate) struct DevOptions {
    /// Tollgate's address for agents
    #[arg(long, value_name = "ADDRESS", default_value_t = loopback(8080))]
    pub listen: SocketAddr,
    /// Tollgate's address for health, metrics and the admin API
    #[arg(long, value_name = "ADDRESS", default_value_t = loopback(9900))]
    pub admin_listen: SocketAddr,
    /// Address of the stand-in Controller's API
    #[arg(long, value_name = "ADDRESS", default_value_t = loopback(18888))]
    pub api_listen: SocketAddr,
    /// Address of the stand-in Controller's heartbeat server
    #[arg(long, value_name = "ADDRESS", default_value_t = loopback(18000))]
    pub heartbeat_listen: SocketAddr,
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// A port cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortError {
    /// Somebody else does.
    #[error("{address}, for {purpose}, is in use; choose another address with {option} (port 0 takes a free one)")]
    InUse {
        /// The address.
        address: SocketAddr,
        /// What listens there.
        purpose: &'static str,
        /// The option that names another.
        option: &'static str,
    },
    /// Another reason, such as an address that this machine does not have.
    #[error("listening on {address} for {purpose} (chosen with {option})")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What listens there.
        purpose: &'static str,
        /// The option that names another.
        option: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The stand-in's listeners. Tollgate's own two are free as well, and to be bound by the sidecar.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// For the API server.
    pub api: TcpListener,
    /// For the heartbeat server.
    pub heartbeat: TcpListener,
}

impl Listeners {
    /// Binds the stand-in's two ports and makes sure that Tollgate's can be bound.
    ///
    /// # Errors
    /// [`PortError`] names the first that cannot, what it is for, and the option for another.
    pub(crate) async fn bind(options: &DevOptions) -> Result<Self, PortError> {
        let DevOptions { listen, admin_listen, api_listen, heartbeat_listen } = *options;
        // Held until all four are bound. The sidecar's sockets share their port with those of another Tollgate (that is
        // what SO_REUSEPORT is for), and only a socket that does not share finds out whether there is one.
        let _tollgate = bind(listen, "Tollgate", "--listen").await?;
        let _admin = bind(admin_listen, "Tollgate's health and metrics", "--admin-listen").await?;
        let api = bind(api_listen, "the stand-in Controller's API", "--api-listen").await?;
        let heartbeat = bind(heartbeat_listen, "the stand-in Controller's heartbeats", "--heartbeat-listen").await?;
        Ok(Self { api, heartbeat })
    }
}

async fn bind(address: SocketAddr, purpose: &'static str, option: &'static str) -> Result<TcpListener, PortError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => PortError::InUse { address, purpose, option },
        _ => PortError::Listen { address, purpose, option, source },
    })
}

#[cfg(test)]
impl DevOptions {
    pub(crate) const ANY: Self =
        Self { listen: loopback(0), admin_listen: loopback(0), api_listen: loopback(0), heartbeat_listen: loopback(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: DevOptions = DevOptions::ANY;

    #[tokio::test]
    async fn a_port_in_use_is_named_with_its_purpose_and_the_option_for_another() {
        let taken = TcpListener::bind(loopback(0)).await.expect("binds");
        let address = taken.local_addr().expect("bound");
        let cases = [
            (DevOptions { listen: address, ..ANY }, "for Tollgate,", "--listen"),
            (DevOptions { admin_listen: address, ..ANY }, "health", "--admin-listen"),
            (DevOptions { api_listen: address, ..ANY }, "API", "--api-listen"),
            (DevOptions { heartbeat_listen: address, ..ANY }, "heartbeats", "--heartbeat-listen"),
        ];
        for (options, purpose, option) in cases {
            let error = Listeners::bind(&options).await.expect_err("in use").to_string();
            assert!(error.starts_with(&address.to_string()), "{error}");
            assert!(error.contains(purpose) && error.contains(&format!(" with {option} ")), "{error}");
        }
    }

    #[tokio::test]
    async fn a_port_that_another_tollgate_shares_is_in_use_too() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.set_reuse_port(true).expect("shares");
        socket.bind(&loopback(0).into()).expect("binds");
        socket.listen(1).expect("listens");
        let address = socket.local_addr().expect("bound").as_socket().expect("an address");
        let error = Listeners::bind(&DevOptions { listen: address, ..ANY }).await.expect_err("in use");
        assert!(matches!(error, PortError::InUse { .. }), "{error}");
    }

    #[tokio::test]
    async fn the_same_port_twice_is_refused() {
        let free = TcpListener::bind(loopback(0)).await.and_then(|listener| listener.local_addr()).expect("bound");
        let options = DevOptions { listen: free, api_listen: free, ..ANY };
        assert!(matches!(Listeners::bind(&options).await, Err(PortError::InUse { option: "--api-listen", .. })));
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_not_called_in_use() {
        let options = DevOptions { listen: SocketAddr::from(([192, 0, 2, 1], 80)), ..ANY };
        assert!(matches!(Listeners::bind(&options).await, Err(PortError::Listen { option: "--listen", .. })));
    }

    #[test]
    fn the_options_default_to_loopback() {
        #[derive(Debug, clap::Parser)]
        struct Arguments {
            #[command(flatten)]
            options: DevOptions,
        }
        let options = <Arguments as clap::Parser>::parse_from(["dev"]).options;
        let DevOptions { listen, admin_listen, api_listen, heartbeat_listen } = options;
        for address in [listen, admin_listen, api_listen, heartbeat_listen] {
            assert!(address.ip().is_loopback());
        }
    }
}
