//! Descriptors that the runtime waits for: whatever the kernel reports by making one readable.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// A descriptor that does not block, as one of this runtime's. Must be called within one.
pub(crate) fn register(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "its successor is for callers that may write `unsafe`; an `OwnedFd` keeps what it asks for"
    )]
    AsyncFd::new(descriptor)
}

/// Waits until there is something to be read, and throws it away. Cancel-safe.
pub(crate) async fn news(descriptor: &AsyncFd<OwnedFd>) {
    let mut buffer = [0; 4096];
    while let Ok(mut ready) = descriptor.readable().await {
        if ready.try_io(|descriptor| Ok(rustix::io::read(descriptor.get_ref(), &mut buffer)?)).is_ok() {
            return;
        }
    }
    std::future::pending().await // the runtime ends
}
