use super::*;
use crate::registry::receipt::Obstacle;
use crate::store::{Epoch, Head, Position, Report, Reported, Revision, SidecarId};

fn measured(url: &str, outcome: Outcome) -> Measured {
    Measured { url: url.to_owned(), sidecar: None, let_in_after: Some(Duration::from_millis(30)), outcome }
}

fn receipt(missing: &[&str], obstacle: Option<Obstacle>) -> Receipt {
    let report = |name: &&str| Report {
        host: String::new(),
        config_cache: None,
        id: SidecarId(1),
        name: (*name).to_owned(),
        version: "1".to_owned(),
        address: String::new(),
        started_at: Timestamp::UNIX_EPOCH,
        applied: Some((Epoch(1), Revision(4))),
        head: Some(Head(4)),
        unwritten_ms: None,
        held_users: Vec::new(),
        schema: crate::store::SCHEMA,
        staleness_ms: None,
        connections: 0,
        draining: None,
        late: Vec::new(),
    };
    let reported = |name| Reported { report: report(name), age: Duration::ZERO, ttl: Duration::from_secs(70) };
    Receipt {
        position: Position { epoch: Epoch(1), revision: Revision(7), head: Head(7), checksum: 0 },
        applied: 2,
        missing: missing.iter().map(reported).collect(),
        obstacle,
        slowest: None,
        took: Duration::from_millis(4),
    }
}

fn proof(outcomes: impl IntoIterator<Item = Outcome>, are_named: bool, receipt: Receipt) -> Proof {
    let listeners =
        outcomes.into_iter().zip(1..).map(|(outcome, number)| measured(&format!("http://h:{number}"), outcome));
    Proof {
        started_at: Timestamp::UNIX_EPOCH,
        canary: TokenId::from_u64(1),
        listeners: listeners.collect(),
        unmeasured: Vec::new(),
        are_named,
        reports: Ok(receipt),
        leftover: None,
    }
}

const REFUSED: Outcome = Outcome::Refused(Duration::from_micros(3_456));

#[test]
fn proven_is_what_every_listener_did() {
    let proof = proof([REFUSED, Outcome::Refused(Duration::from_micros(1_200))], false, receipt(&[], None));
    assert_eq!(proof.verdict(), Verdict::Proven);
    assert_eq!(
        proof.summary(),
        "proven: 2 of 2 listeners let the canary in, and refused it within 3.5 ms once it was revoked; applied by all 2 sidecars \
         in 4.0 ms, by their own reports"
    );
}

#[test]
fn one_that_was_seen_to_do_otherwise_disproves_it_and_is_named() {
    let still = Outcome::StillLetIn(Duration::from_secs(10));
    for (outcome, said) in [
        (still, "http://h:2 still lets the canary in 10.0 s after its revocation"),
        (Outcome::NotLetIn, "http://h:2 does not let in a token that was just made"),
        (Outcome::LetInAgain, "http://h:2 refused the canary and let it in again"),
    ] {
        let others = [REFUSED, outcome, Outcome::Unknown("does not answer".to_owned())];
        let proof = proof(others, true, receipt(&["edge-9"], None));
        assert_eq!(proof.verdict(), Verdict::NotProven);
        let summary = proof.summary();
        assert!(summary.starts_with("NOT proven: 1 of 3 listeners") && summary.contains(said), "{summary}");
        assert!(summary.contains("http://h:3 does not answer") && summary.contains("edge-9"), "{summary}");
    }
}

#[test]
fn what_was_not_seen_is_unknown() {
    let lost = || Some(Obstacle::ReportsLost(Duration::from_secs(9)));
    let unanswered = Outcome::Unknown("does not answer".to_owned());
    assert_eq!(proof([REFUSED, unanswered], true, receipt(&[], None)).verdict(), Verdict::Unknown);
    assert_eq!(
        proof([REFUSED], true, receipt(&["edge-9"], None)).verdict(),
        Verdict::Unknown,
        "it may be none of these"
    );
    assert_eq!(proof([REFUSED], false, receipt(&[], lost())).verdict(), Verdict::Unknown, "there may be more");
    assert_eq!(proof([REFUSED], true, receipt(&[], lost())).verdict(), Verdict::Proven, "all were named");
    assert_eq!(proof([], true, receipt(&[], None)).verdict(), Verdict::Unknown);
    let mut one = proof([REFUSED], false, receipt(&[], None));
    one.unmeasured.push(Unmeasured { sidecar: "edge-2".to_owned(), address: "127.0.0.1:80".to_owned() });
    assert_eq!(one.verdict(), Verdict::Unknown);
    assert!(one.summary().contains("edge-2 (127.0.0.1:80); name each with --via"), "{}", one.summary());
}

#[test]
fn as_json() {
    let view = serde_json::to_value(proof([REFUSED, Outcome::NotLetIn], true, receipt(&[], None)).view());
    let view = view.expect("serializes");
    assert_eq!((&view["verdict"], &view["slowest_ms"]), (&"not_proven".into(), &3.46.into()));
    assert_eq!(view["listeners"][0]["refused_after_ms"], 3.46);
    assert_eq!(
        (&view["listeners"][1]["outcome"], &view["listeners"][1]["refused_after_ms"]),
        (&"not_let_in".into(), &().into())
    );
    assert!(view["listeners"][1]["problem"].as_str().is_some_and(|problem| problem.contains("cut off")), "{view}");
    assert_eq!((&view["reports"]["applied"], &view["reports"]["complete"]), (&2.into(), &true.into()));
}
