//! What stored answers take of the program's memory, looked at from outside.

use super::{MODIFIED, configuration};
use crate::harness::{Client, Program, Script, Upstream, eventually, request};

/// What the program may have come to need for other things meanwhile, in bytes, however many answers there are.
const BESIDES: usize = 64 * 1024;

/// Fetches that many of this size, and looks what that took: no more than is counted, which is what they are and 512 bytes, and 16 for
/// each block.
async fn taken<const SIZE: usize>(count: usize) {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    api.otherwise(|| Script::reply(configuration(&"x".repeat(SIZE))));
    let variables = [("CONFIG_CACHE__ENABLED", "true"), ("CONFIG_CACHE__MAX_BYTES", "1GiB")];
    let program = Program::start(&api, &heartbeat, &variables);
    let mut client = Client::connect(program.address()).await;
    let mut fetch = async |path: String| {
        client.send(request("GET", &path, &format!("Authorization: Bearer {}\r\n", program.token))).await;
        let reply = client.reply().await;
        assert_eq!((reply.status(), reply.text().len(), reply.field("Last-Modified")), (200, SIZE, Some(MODIFIED)));
    };
    // What fetching itself takes is there before.
    for number in 0..1000 {
        fetch(format!("/c/warm?{number}")).await;
    }
    let (counted_before, before) = (counted(&program).await, anonymous(&program));
    for number in 0..count {
        fetch(format!("/c/stored?{number}")).await;
    }
    let counted_now = counted(&program).await;
    let grown = || anonymous(&program).saturating_sub(before + BESIDES) / count;
    let counted = (counted_now - counted_before) / count;
    println!("{SIZE}: {} taken, {counted} counted", grown());
    eventually("no more than that", || async { grown() <= counted }).await;
}

/// Bytes of memory that it holds, but for what it has of files: its own code, which is read as it is run.
fn anonymous(program: &Program) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid())).expect("runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("has memory");
    line.trim().strip_suffix(" kB").and_then(|number| number.parse::<usize>().ok()).expect("a number") * 1024
}

async fn counted(program: &Program) -> usize {
    let mut admin = Client::connect(program.admin()).await;
    admin.send("GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").await;
    let metrics = String::from_utf8(admin.rest().await).expect("text");
    let line = metrics.lines().find_map(|line| line.strip_prefix("tollgate_config_cache_bytes "));
    line.expect("is said").parse().expect("a number")
}

#[tokio::test]
async fn a_stored_answer_takes_little_more_than_its_bytes() {
    // Half of these lie between two sizes that an allocator has.
    taken::<800>(4000).await;
    taken::<4000>(4000).await;
    taken::<4700>(4000).await;
    taken::<21_000>(3000).await;
    taken::<65_536>(1000).await;
}
