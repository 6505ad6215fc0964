//! A reply whose end is that of the connection, and a connection that does not end but breaks.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::harness::{Site, request, reset};

/// While the client takes its time over the reply, the request's body meets the reset first; what is then read from the
/// upstream looks like a good end, and is none.
#[tokio::test]
async fn a_reset_that_an_upload_meets_is_no_end_of_the_reply() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (told, broken) = oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        drop(stream.read(&mut [0; 200]).await);
        stream.write_all(b"HTTP/1.1 200 OK\r\nServer: scripted\r\n\r\n").await.expect("sends");
        // Until the client's slowness is felt.
        let bytes = vec![b'x'; 1 << 20];
        while timeout(Duration::from_millis(300), stream.write_all(&bytes)).await.is_ok() {}
        reset(stream);
        told.send(()).expect("waits");
    });
    let site = Site::builder().api_at(format!("http://{address}")).start().await;
    let mut client = site.connect().await;
    let fields = format!("Authorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n", site.owner.raw);
    client.send(request("PUT", "/api/configs/1", &fields)).await;
    let chunk = [b"4e20\r\n".as_slice(), &[b'y'; 20_000], b"\r\n"].concat();
    client.send(&chunk).await;
    broken.await.expect("breaks");
    client.send(&chunk).await;
    // Nothing shows when it was written on; without that, the test tries less, and passes.
    tokio::time::sleep(Duration::from_millis(200)).await;
    client.cut_reply().await;
}
