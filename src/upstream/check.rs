//! Looking at nodes, where an upstream has several: each is connected to, and asked for `health.path`, at once and then every
//! `health.interval`. So one that is back is found, and one that hangs, or stands by, before requests find it.
//!
//! A check says nothing of a node whose name cannot be looked up: that is the resolver's failure, which the lookup itself
//! says and remembers.

use std::pin::pin;
use std::sync::Arc;

use http::header::{HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::connect::ConnectError;
use super::node::Node;
use super::{Step, Upstream};
use crate::chain::chain;

/// Why a node gets no requests.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("asking for {0}")]
    Request(PathAndQuery, #[source] hyper::Error),
    #[error("{0} answers {1}")]
    Unavailable(PathAndQuery, StatusCode),
    #[error("no answer in time")]
    Late,
}

/// Checks the nodes of every upstream that has several. Never ends.
pub(crate) async fn watch(upstreams: Vec<Arc<Upstream>>) {
    let mut all = JoinSet::new();
    for upstream in upstreams.into_iter().filter(|upstream| upstream.has_several_nodes()) {
        for node in 0..upstream.nodes.len() {
            all.spawn(watch_one(Arc::clone(&upstream), node));
        }
    }
    while let Some(ended) = all.join_next().await {
        if let Err(Ok(panic)) = ended.map_err(JoinError::try_into_panic) {
            std::panic::resume_unwind(panic);
        }
    }
    std::future::pending().await
}

async fn watch_one(upstream: Arc<Upstream>, node: usize) {
    let mut interval = interval(upstream.config.health_interval);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let node = &*upstream.nodes[node];
    loop {
        interval.tick().await;
        let checked = timeout(upstream.config.health_interval, check(node, upstream.config.health_path.as_ref()));
        match checked.await.unwrap_or(Err(CheckError::Late)) {
            Ok(()) => upstream.check_passed(node),
            Err(CheckError::Connect(error)) if error.step == Step::Resolve => {}
            Err(error) => upstream.check_failed(node, &chain(&error)),
        }
    }
}

/// Anything is good but 503, by which a node says that it stands by, and what a gateway says of a node that is gone: one that
/// does not have the path, or refuses it, answers all the same.
async fn check(node: &Node, path: Option<&PathAndQuery>) -> Result<(), CheckError> {
    let (stream, _) = node.connector.connect().await?;
    let Some(path) = path else { return Ok(()) };
    let failed = |error| CheckError::Request(path.clone(), error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = path.clone().into();
    request.headers_mut().insert(HOST, node.host.clone());
    request.headers_mut().insert(USER_AGENT, AGENT);
    let mut reply = pin!(sender.send_request(request));
    let reply = tokio::select! {
        reply = &mut reply => reply,
        // What it received is the reply's; and without one, the reply has the error.
        _ = connection => reply.await,
    };
    match reply.map_err(failed)?.status() {
        status @ (StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT) => {
            Err(CheckError::Unavailable(path.clone(), status))
        }
        _ => Ok(()),
    }
}

const AGENT: http::HeaderValue = http::HeaderValue::from_static(concat!("Tollgate/", env!("CARGO_PKG_VERSION")));
