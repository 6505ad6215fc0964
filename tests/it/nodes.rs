//! An upstream with several nodes: which of them gets a request, how one that is gone, hangs or stands by is found, and that
//! no request is lost that another could have taken, nor sent twice.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use tokio::net::TcpSocket;

use crate::harness::{
    Builder, CONFIG, Client, Program, Recorded, Script, Site, Token, Upstream, eventually, get, ok, post, request,
    scripted,
};

/// A node at a loopback address that nobody else uses, so that it can come back to its port.
async fn node(last: u8) -> Upstream {
    Upstream::start_at(SocketAddr::from(([127, 0, 0, last], 0))).await
}

/// A site whose API upstream has these nodes, checked often.
fn behind(nodes: &[SocketAddr]) -> Builder {
    let urls: Vec<String> = nodes.iter().map(|node| format!("http://{node}")).collect();
    Site::builder().api_at(urls.join(",")).setting("UPSTREAM__API__HEALTH__INTERVAL", "100ms")
}

async fn of_node(site: &Site, metric: &str, node: SocketAddr) -> String {
    site.metric(&format!("tollgate_upstream_node_{metric}{{upstream=\"api\",node=\"http://{node}\"}}")).await
}

async fn failures(site: &Site, step: &str) -> usize {
    let failures = site.metric(&format!("tollgate_upstream_failures_total{{upstream=\"api\",step=\"{step}\"}}")).await;
    failures.parse().expect("a number")
}

/// Waits until the node was found healthy, or not.
async fn known(site: &Site, node: SocketAddr, is_healthy: bool) {
    let expected = u8::from(is_healthy).to_string();
    eventually(&format!("{node} is known: {is_healthy}"), || async {
        of_node(site, "healthy", node).await == expected
    })
    .await;
}

fn received(node: &Upstream) -> usize {
    node.requests().len()
}

/// What `/readyz` says.
async fn readyz(admin: SocketAddr) -> String {
    let mut client = Client::connect(admin).await;
    client.send("GET /readyz HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").await;
    String::from_utf8(client.rest().await).expect("text")
}

/// Takes the whole request, and closes.
fn unanswered() -> Script {
    Script::reply("").then_close()
}

#[tokio::test]
async fn requests_go_to_the_node_with_the_fewest_in_flight() {
    let (one, two) = (node(51).await, node(52).await);
    let site = behind(&[one.address(), two.address()]).start().await;
    known(&site, one.address(), true).await;
    known(&site, two.address(), true).await;
    one.otherwise(Script::silent);
    let mut waiting = Vec::new();
    while received(&one) == 0 {
        let before = received(&two);
        let mut client = site.connect().await;
        client.send(get(CONFIG, &site.agent)).await;
        eventually("it is forwarded", || async { received(&one) + received(&two) > before }).await;
        waiting.push(client);
    }
    assert_eq!(of_node(&site, "in_flight", one.address()).await, "1");
    for _ in 0..5 {
        assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200, "never where one waits already");
    }
    assert_eq!(received(&one), 1);
    drop(waiting);
    eventually("the client that left takes its request with it", || async {
        of_node(&site, "in_flight", one.address()).await == "0"
    })
    .await;
}

/// Each node is called by its own name, also by the request that another one was meant for.
#[tokio::test]
async fn a_request_that_a_node_cannot_be_connected_to_for_goes_to_another() {
    let (dies, well) = (node(64).await, node(53).await);
    let dead = dies.address();
    // After the first one no check shall find out.
    let site = behind(&[dead, well.address()]).setting("UPSTREAM__API__HEALTH__INTERVAL", "1h").start().await;
    known(&site, dead, true).await;
    known(&site, well.address(), true).await;
    dies.kill().await;
    for count in 1..=4 {
        assert_eq!(site.send(post("/api/configs", &site.owner, b"once")).await.status(), 200);
        let requests = well.requests();
        assert_eq!(requests.len(), count, "sent once");
        let last = requests.last().expect("one");
        assert_eq!((last.field("Host"), &*last.body), (Some(well.address().to_string().as_str()), b"once".as_slice()));
        assert_eq!(last.field("X-Forwarded-Host"), Some("tollgate"));
    }
    assert_eq!(failures(&site, "connect").await, 0, "no request went without a reply");
    assert_eq!(of_node(&site, "healthy", dead).await, "0");
    assert_eq!(of_node(&site, "connects_failed_total", dead).await, "1", "then the other one goes first");
}

#[tokio::test]
async fn requests_go_around_a_node_whose_name_cannot_be_looked_up_and_it_is_said() {
    const NAMELESS: &str = "http://no-such-host.invalid:1";
    let well = node(54).await;
    let urls = format!("{NAMELESS},http://{}", well.address());
    let site = Site::builder().api_at(urls.clone()).setting("UPSTREAM__API__HEALTH__INTERVAL", "1h").start().await;
    for _ in 0..3 {
        assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
    }
    let of_it = async |metric: &str| {
        site.metric(&format!("tollgate_upstream_node_{metric}{{upstream=\"api\",node=\"{NAMELESS}\"}}")).await
    };
    eventually("the lookup fails", || async { of_it("lookups_failed_total").await != "0" }).await;
    let named = format!("\"warnings\":[\"api: the name of the node {NAMELESS} cannot be looked up\"]");
    let said = readyz(site.sidecar.admin()).await;
    assert!(said.starts_with("HTTP/1.1 200") && said.contains(&named), "{said}");
    assert_eq!(of_it("healthy").await, "0");
    let heartbeat = Upstream::start().await;
    let program = Program::start_at(&urls, &format!("http://{}", heartbeat.address()), &[]);
    eventually("it is logged", || async {
        let lines = [program.starting_log(), program.log()].concat();
        lines.iter().any(|line| line.contains("no-such-host.invalid") && line.contains("WARN"))
    })
    .await;
}

/// Such a node is the fastest: without a word against it, it would get most requests.
#[tokio::test]
async fn a_node_that_takes_requests_and_does_not_answer_gets_three_and_no_more_until_it_answers_one() {
    let (hole, well) = (node(65).await, node(66).await);
    let (at, well_at) = (hole.address(), well.address());
    let site = behind(&[at, well_at]).setting("UPSTREAM__API__HEALTH__PATH", "off").start().await;
    known(&site, at, true).await;
    known(&site, well_at, true).await;
    hole.otherwise(unanswered);
    let post = || post("/api/configs", &site.owner, b"once");
    let mut lost = 0;
    while of_node(&site, "healthy", at).await == "1" {
        let status = site.send(post()).await.status();
        assert!([200, 502].contains(&status), "{status}");
        lost += usize::from(status == 502);
    }
    assert_eq!((lost, received(&hole)), (3, 3), "each that it got was lost, and not sent to another one");
    assert_eq!(of_node(&site, "unanswered_total", at).await, "3");
    assert!(readyz(site.sidecar.admin()).await.contains(&format!("api: the node http://{at} is unhealthy")));
    let checked = hole.connections() + 3;
    hole.until("it passes checks", |seen| seen.connections >= checked).await;
    assert_eq!(of_node(&site, "healthy", at).await, "0", "a connection is no reply");
    // What may be sent twice finds out whether it is well again, and loses nothing by that.
    for _ in 0..20 {
        assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
    }
    hole.otherwise(|| Script::reply(ok("back")));
    eventually("it is well again", || async {
        assert_eq!(site.send(post()).await.status(), 200);
        of_node(&site, "healthy", at).await == "1"
    })
    .await;
}

#[tokio::test]
async fn what_a_node_does_not_answer_goes_to_another_if_it_may_be_sent_twice() {
    let half: fn() -> Script = || Script::reply("HTTP/1.1 200 OK\r\nServer: half a he").then_close();
    for (broken, is_silent) in [(unanswered as fn() -> Script, true), (half, false)] {
        let (hole, well) = (node(67).await, node(68).await);
        let site =
            behind(&[hole.address(), well.address()]).setting("UPSTREAM__API__HEALTH__INTERVAL", "1h").start().await;
        known(&site, hole.address(), true).await;
        known(&site, well.address(), true).await;
        hole.otherwise(broken);
        let field = format!("Authorization: Bearer {}\r\n", site.owner.raw);
        let mut lost = 0;
        for method in ["GET", "HEAD", "GET", "HEAD", "DELETE", "POST"] {
            let status = site.send(request(method, "/api/agents/1", &field)).await.status();
            lost += usize::from(status == 502);
            let may_be_lost = !is_silent || !["GET", "HEAD"].contains(&method);
            assert!(status == 200 || (may_be_lost && status == 502), "{method}: {status}");
        }
        assert!(received(&hole) > 0 && received(&hole) <= 3, "{}", received(&hole));
        let requests = well.requests();
        assert_eq!(requests.len() + lost, 6, "each was served or lost");
        let host = well.address().to_string();
        assert!(requests.iter().all(|request| request.field("Host") == Some(host.as_str())));
    }
}

/// An agent gives up after 5 s.
#[tokio::test]
async fn dead_nodes_are_not_all_waited_for() {
    let full = |last: u8| {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).expect("binds");
        let address = socket.local_addr().expect("an address");
        (socket.listen(1).expect("listens"), address)
    };
    let nodes: Vec<_> = (69..75).map(full).collect();
    let mut waiting = Vec::new();
    for (_, address) in &nodes {
        let connect = || tokio::time::timeout(Duration::from_millis(200), tokio::net::TcpStream::connect(address));
        while let Ok(stream) = connect().await {
            waiting.push(stream.expect("connects"));
        }
    }
    let at: Vec<_> = nodes.iter().map(|(_, address)| *address).collect();
    let site = behind(&at)
        .setting("UPSTREAM__API__HEALTH__INTERVAL", "1h")
        .setting("UPSTREAM__API__TIMEOUTS__CONNECT", "1s")
        .start()
        .await;
    eventually("all are known to be dead", || async {
        let said = readyz(site.sidecar.admin()).await;
        said.matches("is unhealthy").count() == at.len()
    })
    .await;
    let began = Instant::now();
    assert_eq!(site.get(CONFIG, &site.agent).await.status(), 504);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_node_that_says_503_of_itself_gets_no_requests_until_it_says_something_else() {
    let (one, two) = (node(55).await, node(56).await);
    let site = behind(&[one.address(), two.address()]).start().await;
    let standby = || Script::answer(scripted("503 Service Unavailable", "", "standby"));
    one.health(standby);
    known(&site, one.address(), false).await;
    known(&site, two.address(), true).await;
    let before = received(&one);
    for _ in 0..6 {
        assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
    }
    assert_eq!(received(&one), before);
    let said = readyz(site.sidecar.admin()).await;
    let named = format!("\"warnings\":[\"api: the node http://{} is unhealthy\"]", one.address());
    assert!(said.starts_with("HTTP/1.1 200") && said.contains(&named), "{said}");
    // No outage is made by a check.
    two.health(standby);
    known(&site, two.address(), false).await;
    for _ in 0..4 {
        assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
    }
    assert_eq!(received(&one), before + 2, "all of them are tried all the same");
    // Whoever does not know the path, or wants a token, answers.
    one.health(|| Script::answer(scripted("404 Not Found", "", "")));
    known(&site, one.address(), true).await;
    one.health(Script::deaf);
    known(&site, one.address(), false).await;
    one.health(|| Script::answer(scripted("401 Unauthorized", "", "")));
    known(&site, one.address(), true).await;
    // What a gateway says of a node that is gone.
    one.health(|| Script::answer(scripted("502 Bad Gateway", "", "")));
    known(&site, one.address(), false).await;
    one.health(|| Script::answer(scripted("500 Internal Server Error", "", "")));
    known(&site, one.address(), true).await;
    one.health(|| Script::answer(scripted("504 Gateway Timeout", "", "")));
    known(&site, one.address(), false).await;
    assert!(one.checks().iter().all(|path| path == "/health/ready"));
    assert_eq!(of_node(&site, "healthy", two.address()).await, "0");
}

#[tokio::test]
async fn a_new_node_is_checked_before_it_gets_its_share() {
    let (known_one, new) = (node(57).await, node(58).await);
    new.health(Script::deaf);
    // So long that the check of the new one does not end.
    let site =
        behind(&[new.address(), known_one.address()]).setting("UPSTREAM__API__HEALTH__INTERVAL", "1h").start().await;
    known(&site, known_one.address(), true).await;
    new.until("a check", |seen| seen.checks.len() == 1).await;
    for _ in 0..6 {
        assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
    }
    assert_eq!((received(&new), received(&known_one)), (0, 6));
}

#[tokio::test]
async fn the_path_of_checks_can_be_another_or_none() {
    for (path, expected) in [("/health/live?full=1", Some("/health/live?full=1")), ("off", None)] {
        let (one, two) = (node(59).await, node(60).await);
        one.health(|| Script::answer(scripted("503 Service Unavailable", "", "")));
        let site = behind(&[one.address(), two.address()]).setting("UPSTREAM__API__HEALTH__PATH", path).start().await;
        known(&site, two.address(), true).await;
        known(&site, one.address(), expected.is_none()).await;
        let address = one.address();
        assert_eq!(one.checks().first().map(String::as_str), expected);
        one.kill().await;
        known(&site, address, false).await;
        let _back = Upstream::start_at(address).await;
        known(&site, address, true).await;
    }
}

#[tokio::test]
async fn a_single_node_is_not_checked() {
    let site = Site::builder().setting("UPSTREAM__API__HEALTH__INTERVAL", "1ms").start().await;
    for _ in 0..20 {
        assert_eq!(site.get(CONFIG, &site.agent).await.status(), 200);
    }
    assert_eq!((site.api.checks().len(), site.api.connections()), (0, 1));
    assert!(!site.metrics().await.contains("tollgate_upstream_node_healthy{"));
}

/// What clients were told, by the phase in which they asked.
#[derive(Clone)]
struct Load {
    address: SocketAddr,
    token: Token,
    phase: Arc<AtomicUsize>,
    served: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

struct Told {
    /// When it was asked, and when it was told.
    phases: (usize, usize),
    id: String,
    status: u16,
}

impl Load {
    /// Asks for one thing after the other, each of which is to be done once.
    async fn run(self, number: usize) -> Vec<Told> {
        let mut told = Vec::new();
        let mut client = Client::connect(self.address).await;
        while !self.over.load(Ordering::SeqCst) {
            let phase = self.phase.load(Ordering::SeqCst);
            let id = format!("{number}-{}", told.len());
            client.send(post("/api/configs", &self.token, id.as_bytes())).await;
            let reply = client.reply().await;
            if reply.closes() {
                client = Client::connect(self.address).await;
            }
            let status = reply.status();
            self.served.fetch_add(usize::from(status == 200), Ordering::SeqCst);
            told.push(Told { phases: (phase, self.phase.load(Ordering::SeqCst)), id, status });
        }
        told
    }

    /// Begins a phase in which no request may be lost, and waits until it has served some.
    async fn calm(&self) {
        self.phase.fetch_add(1, Ordering::SeqCst);
        self.serves().await;
    }

    async fn serves(&self) {
        let before = self.served.load(Ordering::SeqCst);
        eventually("the load goes on", || async { self.served.load(Ordering::SeqCst) > before + 100 }).await;
    }

    /// Begins a phase in which requests may be lost: those that were sent to a node that then failed.
    fn rough(&self) {
        self.phase.fetch_add(1, Ordering::SeqCst);
    }
}

/// Phases with an even number are calm.
fn is_calm(phase: usize) -> bool {
    phase.is_multiple_of(2)
}

#[tokio::test]
async fn nodes_that_die_hang_and_return_under_load_lose_no_request_that_could_have_gone_elsewhere() {
    const CLIENTS: usize = 8;
    let (one, two, three) = (node(61).await, node(62).await, node(63).await);
    let at = [one.address(), two.address(), three.address()];
    let site = behind(&at)
        .setting("UPSTREAM__API__TIMEOUTS__FIRST_BYTE", "1s")
        .config(|config| config.workers = std::num::NonZeroUsize::new(2).expect("two"))
        .start()
        .await;
    let load = Load {
        address: site.address(),
        token: site.owner.clone(),
        phase: Arc::default(),
        served: Arc::default(),
        over: Arc::default(),
    };
    for address in at {
        known(&site, address, true).await;
    }
    let clients: JoinSet<Vec<Told>> = (0..CLIENTS).map(|number| load.clone().run(number)).collect();
    let mut recorded: Vec<Recorded> = Vec::new();
    load.serves().await;

    load.rough();
    recorded.extend(one.kill().await);
    known(&site, at[0], false).await;
    load.calm().await;
    let one = Upstream::start_at(at[0]).await;
    one.until("it gets its share again", |seen| seen.requests.len() > 10).await;

    load.rough();
    two.otherwise(Script::silent);
    two.health(Script::deaf);
    known(&site, at[1], false).await;
    load.calm().await;
    two.otherwise(|| Script::reply(ok("ok")));
    two.health(|| Script::answer(ok("ready")));
    let before = received(&two);
    two.until("it gets its share again", |seen| seen.requests.len() > before + 10).await;

    // All but one are gone, and then that one is, while another comes back.
    load.rough();
    recorded.extend(one.kill().await);
    recorded.extend(two.kill().await);
    known(&site, at[0], false).await;
    known(&site, at[1], false).await;
    load.calm().await;
    let two = Upstream::start_at(at[1]).await;
    two.until("it gets its share again", |seen| seen.requests.len() > 10).await;
    load.rough();
    recorded.extend(three.kill().await);
    load.calm().await;

    load.over.store(true, Ordering::SeqCst);
    let told: Vec<Told> = clients.join_all().await.into_iter().flatten().collect();
    recorded.extend(two.kill().await);
    let mut times: HashMap<String, usize> = HashMap::new();
    for request in recorded.iter().filter(|request| request.complete) {
        *times.entry(String::from_utf8(request.body.clone()).expect("text")).or_default() += 1;
    }
    let lost: Vec<&Told> = told.iter().filter(|told| told.status != 200).collect();
    for Told { phases: (asked, told), id, status } in &lost {
        assert!([502, 504].contains(status), "{status}");
        assert!(!is_calm(*asked) || told != asked, "{id} was lost in phase {asked} with {status}");
    }
    assert!(times.values().all(|times| *times == 1), "nothing was sent twice");
    let served = told.iter().filter(|told| told.status == 200);
    served.for_each(|told| assert_eq!(times.get(&told.id), Some(&1), "{} was served by one of them", told.id));
    // Whoever was lost was lost after it was sent.
    for step in ["resolve", "connect", "tls"] {
        assert_eq!(failures(&site, step).await, 0, "{step}");
    }
    assert!(lost.len() <= 4 * 2 * CLIENTS, "{} of {} were lost", lost.len(), told.len());
}
