use std::io;

use http_body_util::Empty;
use hyper::body::Bytes;

use super::*;
use crate::tls::UpstreamTlsConfig;

fn of_nodes(count: u16) -> UpstreamConfig {
    let url = |port| format!("http://127.0.0.1:{port}").parse().expect("a URL");
    UpstreamConfig { nodes: (1..=count).map(url).collect(), ..Upstreams::default().api }
}

fn balancer(count: u16) -> Balancer<Empty<Bytes>> {
    Balancer::new(Arc::new(Upstream::new(UpstreamName::Api, of_nodes(count)).expect("usable")))
}

fn is_at(chosen: &Chosen<Empty<Bytes>>) -> u16 {
    chosen.pool.node().url.port
}

#[test]
fn the_node_with_the_fewest_in_flight_is_chosen_and_each_in_turn() {
    let balancer = balancer(3);
    let idle: Vec<u16> = (0..6).map(|_| is_at(&balancer.choose())).collect();
    assert_eq!(idle, [1, 2, 3, 1, 2, 3]);
    let mut held: Vec<_> = (0..5).map(|_| balancer.choose()).collect();
    let loads = || balancer.upstream.nodes.iter().map(|node| node.in_flight()).collect::<Vec<_>>();
    assert_eq!(loads(), [2, 2, 1]);
    assert_eq!(is_at(&balancer.choose()), 3);
    held.remove(1).finish();
    assert_eq!(loads(), [2, 1, 1], "counted once, whatever came first");
    drop(held);
    assert_eq!(loads(), [0, 0, 0]);
}

#[test]
fn the_turn_passes_evenly_over_those_that_are_as_good() {
    let balancer = balancer(6);
    for node in [0, 1, 2, 4] {
        balancer.upstream.judge(&balancer.upstream.nodes[node], Condition::Unhealthy, "a test");
    }
    let chosen: Vec<u16> = (0..6).map(|_| is_at(&balancer.choose())).collect();
    assert_eq!(chosen, [4, 6, 4, 6, 4, 6]);
}

#[test]
fn a_node_that_fails_requests_is_tried_by_one_at_a_time_after_each_check() {
    let balancer = balancer(2);
    let (upstream, failing) = (&balancer.upstream, &balancer.upstream.nodes[0]);
    upstream.nodes.iter().for_each(|node| upstream.check_passed(node));
    for count in 1..=3 {
        assert_eq!(failing.condition(), Condition::Healthy, "after {count}");
        upstream.unanswered(failing, &"a test");
    }
    assert_eq!((failing.condition(), failing.unanswered()), (Condition::Unhealthy, 3));
    let chosen = || (0..3).map(|_| is_at(&balancer.choose())).collect::<Vec<_>>();
    assert_eq!(chosen(), [2, 2, 2]);
    upstream.check_passed(failing);
    assert_eq!(failing.condition(), Condition::Unhealthy, "a check is no reply to a request");
    assert_eq!(chosen(), [1, 2, 2], "one may find out");
    upstream.check_passed(failing);
    let busy = balancer.other(&balancer.choose(), &mut Tried::default()).expect("the other one");
    assert_eq!((is_at(&busy), failing.in_flight()), (2, 0));
    failing.begin();
    upstream.check_passed(failing);
    assert_eq!(chosen(), [2, 2, 2], "not beside another one");
    failing.end();
    assert_eq!(chosen(), [1, 2, 2]);
    upstream.check_passed(failing);
    upstream.check_failed(failing, "a test");
    assert_eq!(chosen(), [2, 2, 2]);
    upstream.answered(failing);
    assert_eq!(failing.condition(), Condition::Healthy);
    upstream.unanswered(failing, &"a test");
    upstream.answered(failing);
    upstream.unanswered(failing, &"a test");
    upstream.unanswered(failing, &"a test");
    assert_eq!(failing.condition(), Condition::Healthy, "not in a row");
}

#[test]
fn a_node_that_has_no_address_any_more_goes_last_and_is_said() {
    let resolve: connect::Resolve = Arc::new(|_, _| Err(io::ErrorKind::NotFound.into()));
    let mut config = of_nodes(2);
    config.nodes[0] = "http://gone.test:1".parse().expect("a URL");
    let mut upstream = Upstream::new(UpstreamName::Api, config.clone()).expect("usable");
    let node = Arc::get_mut(&mut upstream.nodes[0]).expect("nobody else's");
    node.connector = connect::Connector::resolving(&config.nodes[0], &config, resolve).expect("usable");
    upstream.nodes.iter().for_each(|node| upstream.check_passed(node));
    let balancer: Balancer<Empty<Bytes>> = Balancer::new(Arc::new(upstream));
    let chosen = || (0..3).map(|_| is_at(&balancer.choose())).collect::<Vec<_>>();
    let node = &balancer.upstream.nodes[0];
    assert_eq!((chosen(), node.is_healthy()), (vec![1, 2, 1], true));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    assert!(runtime.block_on(node.connector.connect()).is_err());
    assert_eq!((chosen(), node.condition(), node.is_healthy()), (vec![2, 2, 2], Condition::Healthy, false));
    let said: Vec<_> = balancer.upstream.node_problems().collect();
    assert_eq!(said, ["api: the name of the node http://gone.test:1 cannot be looked up"]);
}

#[test]
fn healthy_nodes_go_first_and_all_are_tried() {
    let balancer = balancer(3);
    let judge = |node: usize, condition| balancer.upstream.judge(&balancer.upstream.nodes[node], condition, "a test");
    judge(0, Condition::Unhealthy);
    judge(2, Condition::Healthy);
    let _busy: Vec<_> = (0..3).map(|_| balancer.choose()).inspect(|chosen| assert_eq!(is_at(chosen), 3)).collect();
    let (mut order, mut tried, mut chosen) = (Vec::new(), Tried::default(), balancer.choose());
    loop {
        order.push(is_at(&chosen));
        let Some(other) = balancer.other(&chosen, &mut tried) else { break };
        chosen = other;
    }
    assert_eq!(order, [3, 2, 1], "the one that was not looked at yet before the one that is known to be unhealthy");
    drop(chosen);
    (0..3).for_each(|node| judge(node, Condition::Unhealthy));
    assert_ne!(is_at(&balancer.choose()), 3, "no worse, the others have none in flight");
}

#[test]
fn a_failed_lookup_says_nothing_of_a_node_and_a_failed_connection_does() {
    let upstream = Upstream::new(UpstreamName::Api, of_nodes(2)).expect("usable");
    let node = &upstream.nodes[0];
    for condition in [Condition::Unchecked, Condition::Healthy] {
        node.set_condition(condition);
        let failed = |step| {
            upstream.connect_failed(node, &ConnectError::new(step, None, io::ErrorKind::TimedOut.into()));
            node.condition()
        };
        assert_eq!(failed(Step::Resolve), condition);
        assert_eq!(failed(Step::Connect), Condition::Unhealthy);
    }
    assert_eq!(node.connects_failed(), 4);
    assert_eq!(upstream.nodes[1].condition(), Condition::Unchecked);
}

#[test]
fn files_that_are_read_again_change_nothing_of_what_is_known() {
    let directory = tempfile::tempdir().expect("a directory");
    let ca = directory.path().join("ca.pem");
    let write = || {
        let key = rcgen::generate_simple_self_signed(vec!["node.test".to_owned()]).expect("a certificate");
        std::fs::write(&ca, key.cert.pem()).expect("writes");
    };
    write();
    let url = |host: &str| format!("https://{host}").parse().expect("a URL");
    let config = UpstreamConfig {
        nodes: vec![url("a.test"), url("b.test")],
        tls: Some(UpstreamTlsConfig { ca: Some(ca.clone()), ..UpstreamTlsConfig::default() }),
        ..Upstreams::default().api
    };
    let upstream = Upstream::new(UpstreamName::Api, config).expect("usable");
    upstream.judge(&upstream.nodes[0], Condition::Healthy, "");
    upstream.judge(&upstream.nodes[1], Condition::Unhealthy, "a test");
    write();
    upstream.reload_tls().expect("reads");
    let generations: Vec<_> = upstream.nodes.iter().map(|node| node.connector.generation()).collect();
    assert_eq!(generations, [1, 1], "the connections of all nodes are of the former files");
    let known: Vec<_> = upstream.nodes.iter().map(|node| node.condition()).collect();
    assert_eq!(known, [Condition::Healthy, Condition::Unhealthy]);
}

#[tokio::test]
async fn another_configuration_has_the_same_nodes_and_slots_once_it_takes_over() {
    let upstream = Upstream::new(UpstreamName::Api, of_nodes(2)).expect("usable");
    upstream.judge(&upstream.nodes[0], Condition::Unhealthy, "a test");
    let take = || upstream.in_flight.take(Priority::Normal);
    let (held, also_held) = (take().expect("free"), take().expect("free"));
    let config = UpstreamConfig { max_in_flight: std::num::NonZeroUsize::MIN, ..of_nodes(3) };
    let next = upstream.with(config).expect("usable");
    drop(take().expect("nothing has changed yet"));
    next.take_over();
    let known: Vec<_> = next.nodes.iter().map(|node| node.condition()).collect();
    assert_eq!(known, [Condition::Unhealthy, Condition::Unchecked, Condition::Unchecked]);
    assert_eq!(next.requests_in_flight(), 2, "they go on");
    drop(held);
    let waiting = take().expect_err("there is one, and it is taken");
    drop(also_held);
    drop(waiting.slot().await);
    assert_eq!((next.requests_in_flight(), take().is_ok()), (0, true));
    let mut tls = of_nodes(1);
    tls.tls = Some(UpstreamTlsConfig { server_name: "other.test".try_into().ok(), ..UpstreamTlsConfig::default() });
    let other = next.with(tls).expect("usable");
    assert!(!Arc::ptr_eq(&other.nodes[0], &next.nodes[0]), "it is reached in another way");
}

/// Connections that were made before a reload are used after it, those under way included, unless their node is gone.
#[test]
fn pools_of_nodes_that_stay_are_the_same() {
    let balancer = balancer(2);
    let next: Balancer<Empty<Bytes>> = balancer.with(Arc::new(balancer.upstream.with(of_nodes(1)).expect("usable")));
    assert_eq!((0..2).map(|_| is_at(&next.choose())).collect::<Vec<_>>(), [1, 1]);
}
