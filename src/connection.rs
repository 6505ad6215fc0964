//! One client connection, from accepting it to closing it.
//!
//! While it is idle it holds no buffer and no request state, only the socket and a small task: fleets have tens of
//! thousands of connections open and use each once a minute. What a request needs is made when its first byte arrives.

mod http1;
mod http2;
mod limits;
mod proxy_protocol;

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsAcceptor;

use crate::proxy::Current;
use crate::proxy::request::Origin;
use crate::socket::{Socket, Stream};
use crate::tls::subject;
use crate::worker::OpenConnection;
use crate::worker::alarm::{Alarm, Ease, Interrupt};
use crate::worker::panic::Guard;

use proxy_protocol::HeaderError;

pub(crate) use limits::ConnectionLimits;

/// How long a client may take to take note of the end of a connection.
const FAREWELL_TIME: Duration = Duration::from_secs(2);

/// A connection as it was accepted, and what it begins with before its first request.
pub(crate) struct Accepted {
    /// The connection.
    pub stream: TcpStream,
    /// Who is at its other end.
    pub peer: IpAddr,
    /// It has to begin with a PROXY header.
    pub has_proxy_header: bool,
    /// Then a TLS handshake comes.
    pub tls: Option<TlsAcceptor>,
    /// Its slot under the limit of connections, and among those that a drain waits for.
    pub slot: (OwnedSemaphorePermit, OpenConnection),
}

/// Serves a connection until it closes.
pub(crate) async fn serve(current: Rc<Current>, limits: Arc<ConnectionLimits>, accepted: Accepted) {
    let _guard = Guard::new(&current.worker.panics);
    current.tally.accepted();
    let Accepted { mut stream, peer, has_proxy_header, tls, slot: (slot, _open) } = accepted;
    let alarm = Alarm::new(&current.worker);
    let mut address = peer.to_canonical();
    if has_proxy_header {
        alarm.set(current.proxy().gate.timeouts.request_head);
        let read = Box::pin(alarm.race(proxy_protocol::read(&mut stream))).await;
        match read.unwrap_or(Err(HeaderError::Late)) {
            Ok(client) => address = client.map_or(address, |client| client.ip().to_canonical()),
            // A balancer's check that it can connect.
            Err(HeaderError::Silent) => return,
            Err(error) => return limits.no_proxy_header(address, &error),
        }
    }
    let Some(_slot) = limits.admit(slot, address) else { return };
    let mut origin = Origin { address, trusted: false, secure: tls.is_some(), subject: None };
    let stream = match tls {
        None => Stream::Plain(stream),
        // Boxed, like everything that is over before the connection becomes idle: it would enlarge the task for good.
        Some(acceptor) => match Box::pin(handshake(&current, &alarm, &limits, acceptor, stream, address)).await {
            Some(stream) => stream,
            None => return,
        },
    };
    if current.proxy().gate.wants_subjects() {
        origin.subject = stream.peer_certificate().and_then(subject).map(Rc::from);
    }
    if let Stream::Tls(tls) = &stream
        && tls.get_ref().1.alpn_protocol() == Some(b"h2")
    {
        return Box::pin(http2::serve(current, alarm, stream, Vec::new(), origin)).await;
    }
    let socket = Rc::new(Socket::new(stream));
    alarm.set(current.proxy().gate.timeouts.request_head);
    let mut fresh = true;
    // The first request may have come with the end of the handshake, and lie decrypted where readiness cannot see it.
    let mut wait = !origin.secure;
    loop {
        alarm.ease(Ease::Idle);
        if wait {
            match alarm.race(socket.readable()).await {
                Ok(Ok(())) => {}
                // What has arrived already, perhaps unnoticed, is still served: after one turn of the loop it shows.
                Err(Interrupt::Drain) => tokio::task::yield_now().await,
                Ok(Err(_)) => return,
                Err(_) => break,
            }
        }
        alarm.ease(Ease::Busy);
        match Box::pin(http1::serve(&current, &alarm, &socket, &origin, &mut fresh)).await {
            http1::Next::Idle if current.worker.closes_idle() => break,
            http1::Next::Idle if fresh => {} // readiness was reported ahead of the first byte
            http1::Next::Idle => alarm.set(current.proxy().gate.timeouts.keep_alive),
            http1::Next::Close => return,
            http1::Next::Http2 { received } => {
                // Nothing else holds it between requests.
                let Some(socket) = Rc::into_inner(socket) else { return };
                let stream = socket.into_inner();
                return Box::pin(http2::serve(current, alarm, stream, received, origin)).await;
            }
        }
        wait = true;
    }
    if origin.secure {
        // TLS says that it ends (RFC 8446 section 6.1); when that cannot be said any more, closing has to do.
        alarm.set(FAREWELL_TIME);
        drop(alarm.race(socket.shutdown()).await);
    }
}

async fn handshake(
    current: &Current,
    alarm: &Alarm,
    limits: &ConnectionLimits,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: IpAddr,
) -> Option<Stream> {
    alarm.set(current.proxy().gate.timeouts.tls_handshake);
    let mut first = [0];
    let accept = async {
        // Before it there is nothing to read; and it tells HTTP from TLS.
        if stream.peek(&mut first).await? == 0 {
            return Ok(None);
        }
        acceptor.accept(stream).await.map(Some)
    };
    let error = match alarm.race(accept).await {
        Ok(Ok(stream)) => {
            let stream = stream?;
            current.tally.shook_hands();
            return Some(Stream::Tls(Box::new(stream.into())));
        }
        Ok(Err(error)) => error,
        Err(Interrupt::Deadline) => std::io::ErrorKind::TimedOut.into(),
        Err(_) => return None,
    };
    limits.handshakes.failed(address, &error, first[0]);
    None
}
