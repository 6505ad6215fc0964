//! Clients of HTTP/2, by prior knowledge: several streams at once, some of them reset.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, SendStream};
use http::Request;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::PATIENCE;
use super::case::{Case, FORGED, Framing};
use super::http1::head_of;
use super::judge::{Got, Judge};
use tollgate_harness::random::Random;

/// One connection from beginning to end.
pub(crate) async fn play(
    stream: TcpStream,
    name: &str,
    judge: &Arc<Judge>,
    cases: Vec<Arc<Case>>,
    random: &mut Random,
) {
    stream.set_nodelay(true).unwrap_or_default();
    let Ok(Ok((requests, connection))) = timeout(PATIENCE, h2::client::handshake(stream)).await else {
        judge.find(name, &[], "no HTTP/2");
        return;
    };
    let connection = tokio::spawn(async move { connection.await.map_err(|error| error.to_string()) });
    let mut streams = JoinSet::new();
    for case in cases {
        let (requests, judge, name) = (requests.clone(), Arc::clone(judge), name.to_owned());
        let mut random = Random::new(random.number());
        if random.percent(30) {
            sleep(random.time(0, 50)).await;
        }
        streams.spawn(async move {
            let played = timeout(PATIENCE, exchange(requests, &name, &judge, &case, &mut random)).await;
            match played {
                Ok(Ok(())) => {}
                Ok(Err(error)) => judge.unanswered(&name, &case, ended(&error)),
                Err(_) => {
                    judge.find(
                        &name,
                        &[case.number],
                        format!("neither a reply nor an end within {PATIENCE:?}: {case:?}"),
                    );
                }
            }
        });
    }
    while streams.join_next().await.is_some() {}
    drop(requests);
    // It ends with its last stream.
    if timeout(PATIENCE, connection).await.is_err() {
        judge.find(name, &[], "a connection without streams does not end");
    }
}

/// A few words for an error.
fn ended(error: &h2::Error) -> &'static str {
    match () {
        () if error.is_reset() => "stream reset",
        () if error.is_go_away() => "GOAWAY",
        () => "HTTP/2 connection over",
    }
}

async fn exchange(
    requests: SendRequest<Bytes>,
    name: &str,
    judge: &Judge,
    case: &Arc<Case>,
    random: &mut Random,
) -> Result<(), h2::Error> {
    let mut requests = requests.ready().await?;
    let Some(request) = request(case, judge, random) else { return Ok(()) };
    judge.sends(name, case);
    let (reply, mut upload) = requests.send_request(request, case.framing == Framing::None)?;
    drop(requests);
    let body = Bytes::from(case.body(&judge.tokens));
    let leaves = random.percent(4).then(|| random.time(0, 200));
    let slow = random.percent(12);
    let mut pieces = random.clone();
    let sending = async {
        if case.framing != Framing::None {
            // The server may not want all of it.
            send(&mut upload, body, case, &mut pieces).await.unwrap_or_default();
        }
        if let Some(after) = leaves {
            sleep(after).await;
            upload.send_reset(Reason::CANCEL);
        }
        std::future::pending::<()>().await;
    };
    let receiving = async {
        let reply = reply.await?;
        let (parts, mut body) = reply.into_parts();
        let head = head_of(format!("HTTP/2 {}", parts.status), &parts.headers);
        let mut got = Got { status: parts.status.as_u16(), head, body: Vec::new(), whole: false };
        loop {
            if slow {
                sleep(random.time(0, 30)).await;
            }
            match body.data().await {
                Some(Ok(data)) => {
                    body.flow_control().release_capacity(data.len())?;
                    got.body.extend_from_slice(&data);
                }
                Some(Err(error)) => {
                    judge.gets(name, case, &got);
                    return Err(error);
                }
                None => break,
            }
        }
        got.whole = true;
        judge.gets(name, case, &got);
        Ok(())
    };
    tokio::select! {
        received = receiving => received,
        () = sending => Ok(()),
    }
}

fn request(case: &Case, judge: &Judge, random: &mut Random) -> Option<Request<()>> {
    let mut request = Request::builder().method(case.method).uri(format!("http://gate{}", case.target));
    request = request.header("x-case", case.number);
    if let Some(token) = judge.tokens.raw(case.bearer) {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    for (name, value) in FORGED.iter().filter(|_| random.percent(8)) {
        request = request.header(*name, *value);
    }
    for (name, value) in case.fields() {
        request = request.header(name, value);
    }
    if case.framing == Framing::Length {
        request = request.header("content-length", case.length);
    }
    request.body(()).ok()
}

async fn send(stream: &mut SendStream<Bytes>, body: Bytes, case: &Case, random: &mut Random) -> Result<(), h2::Error> {
    let mut rest = body.slice(..case.sent);
    while !rest.is_empty() {
        let mut piece = rest.split_to(1 + random.below(rest.len()));
        while !piece.is_empty() {
            stream.reserve_capacity(piece.len());
            let Some(room) = poll_fn(|context| stream.poll_capacity(context)).await else { return Ok(()) };
            let part = piece.split_to(room?.min(piece.len()));
            stream.send_data(part, false)?;
        }
        if random.percent(30) {
            sleep(random.time(0, 10)).await;
        }
    }
    match case.is_whole() {
        true => stream.send_data(Bytes::new(), true),
        false => {
            stream.send_reset(Reason::CANCEL);
            Ok(())
        }
    }
}
