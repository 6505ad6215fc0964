//! Each way to misbehave, plain and by TLS.

use super::opponent::{Opponent, Then, Way, body};
use super::{PLAYED, others_get_theirs, play};
use crate::harness::{Site, post, scripted};
use tollgate_harness::authority::Authority;

/// More than the sockets of an upstream that does not read take.
const UPLOAD: usize = 200_000;

/// Runs a play with an upstream that is plain, and with one by TLS.
async fn plain_and_tls<F: AsyncFn(&Site, &Opponent, &str)>(play: F) {
    let opponent = Opponent::start(None);
    let site = Site::builder().api_at(format!("http://{}", opponent.address)).start().await;
    play(&site, &opponent, "plain").await;

    let authority = Authority::create();
    let opponent = Opponent::start(Some(authority.server("upstream", &["localhost"])));
    let ca = authority.certificate();
    let site = Site::builder().setting("UPSTREAM__API__TLS__CA", ca.to_str().expect("text"));
    let site = site.api_at(format!("https://localhost:{}", opponent.address.port())).start().await;
    play(&site, &opponent, "tls").await;
}

fn reply(text: &str) -> Vec<u8> {
    scripted("200 OK", "", text).into_bytes()
}

/// Before the body, or after half of it; the rest is read a little later. How much the sockets hold varies: what matters is a
/// body that they hold but for its end.
#[tokio::test]
async fn what_is_left_of_a_body_is_nobodys_request() {
    plain_and_tls(async |site, opponent, what| {
        let sizes: Vec<_> = (0..48).map(|step| 40_000 + 2_000 * step).collect();
        for (round, sizes) in sizes.chunks(12).enumerate() {
            let mut clients = Vec::new();
            for size in sizes {
                let reads = if round % 2 == 0 { 0 } else { size / 2 };
                opponent.next(Way { reads, says: reply("early"), then: Then::ReadLate });
                let mut client = site.connect().await;
                client.send(post(PLAYED, &site.owner, &body(*size, &site.owner))).await;
                clients.push((size, client));
            }
            for (size, client) in &mut clients {
                let reply = client.try_reply(false).await;
                assert_eq!(opponent.problems(), Vec::<String>::new(), "{what}, {size}");
                if let Ok(reply) = reply {
                    assert_eq!(reply.text(), "early", "{what}, {size}");
                }
            }
            others_get_theirs(site, opponent, &format!("{what}, {sizes:?}")).await;
        }
    })
    .await;
}

/// An upstream that closes or resets with the body unread.
#[tokio::test]
async fn an_early_reply_and_an_end_leave_nothing_behind() {
    plain_and_tls(async |site, opponent, what| {
        for (reads, then) in [(0, Then::Close), (UPLOAD / 2, Then::Close), (0, Then::Reset), (UPLOAD / 2, Then::Reset)]
        {
            let name = format!("{what}, {then:?} after {reads}");
            let way = Way { reads, says: reply("early"), then };
            if let Some(reply) = play(site, opponent, way, UPLOAD).await {
                assert!(reply.status() == 502 || reply.text() == "early", "{name}: {reply:?}");
            }
            others_get_theirs(site, opponent, &name).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_reply_that_ends_at_any_byte_is_seen_to() {
    plain_and_tls(async |site, opponent, what| {
        let chunked =
            "HTTP/1.1 200 OK\r\nServer: scripted\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwhol\r\n1\r\ne\r\n0\r\n\r\n";
        for whole in [reply("whole"), chunked.as_bytes().to_vec()] {
            for end in 0..=whole.len() {
                let then = if end % 2 == 0 { Then::Close } else { Then::Reset };
                let name = format!("{what}, {end} of {}, {then:?}", whole.len());
                // A connection that nobody used before, so that nothing is sent again.
                let way = Way { reads: usize::MAX, says: whole[..end].to_vec(), then };
                match play(site, opponent, way, 40).await {
                    Some(reply) if reply.status() == 502 => {}
                    Some(reply) => {
                        assert_eq!(reply.text(), "whole", "{name}");
                        // The last line of chunks may be taken for granted: the body is there.
                        assert_eq!(end, whole.len(), "{name}: a cut reply looks whole");
                    }
                    None => {}
                }
                if end % 8 == 0 {
                    others_get_theirs(site, opponent, &name).await;
                }
            }
        }
        others_get_theirs(site, opponent, what).await;
    })
    .await;
}

/// In one piece with the reply, or later on a connection that nobody uses.
#[tokio::test]
async fn what_is_said_behind_a_reply_is_for_nobody() {
    plain_and_tls(async |site, opponent, what| {
        let more = reply("not asked for");
        let spare = scripted("200 OK", "", "own").replace("Content-Length: 3", "Content-Length: 2");
        let ways = [
            ("glued", [reply("own"), more.clone()].concat(), "own"),
            ("half", [reply("own"), more[..20].to_vec()].concat(), "own"),
            ("an empty line", [reply("own"), b"\r\n".to_vec()].concat(), "own"),
            ("too short a length", spare.into_bytes(), "ow"),
        ];
        for (name, says, text) in ways {
            for upload in [0, 40] {
                let way = Way { reads: usize::MAX, says: says.clone(), then: Then::Say(Vec::new()) };
                let reply = play(site, opponent, way, upload).await.expect("its own reply");
                assert_eq!(reply.text(), text, "{what}, {name}");
                others_get_theirs(site, opponent, &format!("{what}, {name}")).await;
            }
        }
        for upload in [0, 40] {
            let way = Way { reads: usize::MAX, says: reply("own"), then: Then::Say(more.clone()) };
            let reply = play(site, opponent, way, upload).await.expect("its own reply");
            assert_eq!(reply.text(), "own", "{what}, later");
            opponent.read_on();
            opponent.settled().await;
            others_get_theirs(site, opponent, &format!("{what}, later")).await;
        }
    })
    .await;
}
