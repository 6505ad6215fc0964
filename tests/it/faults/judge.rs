//! Hand-made histories: each rule can be broken, and is found broken only then.

use std::time::{Duration, Instant};

use tollgate_harness::history::{CUT_OFF, Impact, Judge, Observed, Outcome, Part, Rule, Subject, Verdicts, Violation};

const BOUND: u64 = 1000;
const RECOVERY: u64 = 2000;

/// Times are milliseconds from the start.
struct Story {
    judge: Judge,
    start: Instant,
    token: Subject,
}

impl Story {
    /// About one good token.
    fn new() -> Self {
        let start = Instant::now();
        let mut judge = Judge::new(Duration::from_millis(BOUND), Duration::from_millis(RECOVERY), start);
        let token = judge.subject("a token", Verdicts::SERVED, start);
        Self { judge, start, token }
    }

    /// About one that got this right at 200 at the latest.
    fn since(right: Verdicts) -> Self {
        let mut story = Self::new();
        story.does(right, (100, 200), Done);
        story
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    fn does(&mut self, right: Verdicts, (from, to): (u64, u64), outcome: Outcome) -> &mut Self {
        let operation = self.judge.begins("an operation", &[(self.token, right)], self.at(from));
        self.judge.ends(operation, outcome, self.at(to));
        self
    }

    fn breaks(&mut self, sidecar: Option<usize>, impact: Impact, (from, to): (u64, u64)) -> &mut Self {
        let fault = self.judge.breaks("a fault", sidecar, impact, self.at(from));
        self.judge.heals(fault, self.at(to));
        self
    }

    fn loses(&mut self, since: u64, between: Verdicts, now: Verdicts, at: u64) -> &mut Self {
        self.judge.lost(self.token, self.at(since), between, now, self.at(at));
        self
    }

    fn says(&mut self, sidecar: usize, status: u16, (sent, answered): (u64, u64)) -> &mut Self {
        let (sent_at, answered_at) = (self.at(sent), self.at(answered));
        let status = (status != 0).then_some(status);
        self.judge.observe(Observed { sidecar, subject: self.token, sent_at, answered_at, status, part: Part::Whole });
        self
    }

    /// A piece of a reply that runs.
    fn goes_on(&mut self, sidecar: usize, at: u64) -> &mut Self {
        let (answered_at, status) = (self.at(at), Some(200));
        let sent_at = answered_at - CUT_OFF;
        self.judge.observe(Observed { sidecar, subject: self.token, sent_at, answered_at, status, part: Part::Piece });
        self
    }

    fn is_cut_off(&mut self, sidecar: usize, at: u64) -> &mut Self {
        let (answered_at, status) = (self.at(at), None);
        let sent_at = answered_at - CUT_OFF;
        self.judge.observe(Observed { sidecar, subject: self.token, sent_at, answered_at, status, part: Part::CutOff });
        self
    }

    #[track_caller]
    fn is(&mut self, expected: &[Rule]) {
        let (violations, counts) = self.judge.finish();
        let found: Vec<_> = violations.iter().map(|violation| violation.rule).collect();
        assert_eq!(found, expected, "{}", violations.iter().map(Violation::to_string).collect::<String>());
        assert_eq!(counts.violations, expected.len() as u64);
    }
}

use Outcome::{Done, Failed, Unknown};
use Rule::{Accepted, Blamed, Foreign, Revived, Stale, Strange, Unavailable, Vouched, Widened};

const SERVED: Verdicts = Verdicts::SERVED;
const FORBIDDEN: Verdicts = Verdicts::FORBIDDEN;
const REFUSED: Verdicts = Verdicts::REFUSED;
const GONE: Verdicts = Verdicts::GONE;
const IN_DOUBT: Verdicts = Verdicts::IN_DOUBT;

#[test]
fn a_revoked_token_is_accepted_within_the_bound_only() {
    let revoked = || Story::since(GONE);
    revoked().says(0, 200, (1200, 9000)).is(&[]);
    revoked().says(0, 200, (1201, 1202)).is(&[Accepted]);
    revoked().says(0, 403, (1201, 1202)).is(&[Accepted]);
    revoked().says(0, 401, (50, 101)).is(&[]);
    revoked().says(0, 401, (50, 99)).is(&[Blamed]);
    // A fault is no excuse, and neither is another sidecar.
    revoked().breaks(None, Impact::Down, (0, 9000)).says(1, 401, (300, 301)).says(0, 200, (1201, 1202)).is(&[Accepted]);
}

#[test]
fn a_sidecar_that_refused_a_token_for_good_never_accepts_it_again() {
    Story::since(GONE).says(0, 401, (150, 160)).says(0, 200, (170, 180)).is(&[Revived]);
    Story::since(GONE).says(0, 401, (150, 160)).says(0, 403, (170, 180)).is(&[Revived]);
    // Sent before the refusal was known.
    Story::since(GONE).says(0, 401, (150, 160)).says(0, 200, (155, 180)).is(&[]);
    Story::since(GONE).says(0, 401, (150, 160)).says(1, 200, (170, 180)).is(&[]);
    // It has seen what nobody else knows the outcome of.
    Story::new().does(GONE, (100, 200), Unknown).says(0, 401, (150, 160)).says(0, 200, (170, 180)).is(&[Revived]);
    // Observed in another order.
    Story::since(GONE).says(0, 200, (170, 180)).says(0, 401, (150, 160)).is(&[Revived]);
}

#[test]
fn a_user_that_was_disabled_may_come_back() {
    let mut story = Story::since(REFUSED);
    story.says(0, 401, (300, 301));
    story.does(SERVED, (400, 500), Done).says(0, 200, (450, 460)).says(0, 401, (600, 601)).is(&[]);
    story.says(0, 401, (1501, 1502)).is(&[Blamed]);
}

#[test]
fn a_good_token_is_never_blamed() {
    Story::new().says(0, 200, (1, 2)).is(&[]);
    Story::new().says(0, 401, (1, 2)).is(&[Blamed]);
    Story::new().says(0, 403, (1, 2)).is(&[Blamed]);
    // Not while something is broken either.
    Story::new().breaks(None, Impact::Down, (0, 9000)).says(0, 401, (5000, 5001)).is(&[Blamed]);
    // An operation that failed changed nothing.
    Story::new().does(GONE, (100, 200), Failed).says(0, 401, (150, 160)).is(&[Blamed]);
    Story::new().does(GONE, (100, 200), Failed).says(0, 200, (5000, 5001)).is(&[]);
}

#[test]
fn a_new_token_is_known_after_the_bound() {
    let created = || {
        let mut story = Story::new();
        story.token = story.judge.subject("another token", REFUSED, story.start);
        story.does(SERVED, (100, 200), Done);
        story
    };
    created().says(0, 401, (1200, 1201)).says(0, 200, (1201, 1202)).is(&[]);
    created().says(0, 401, (1201, 1202)).is(&[Blamed]);
    created().says(0, 200, (50, 99)).is(&[Accepted]);
}

#[test]
fn what_was_just_narrowed_may_be_answered_503() {
    Story::since(REFUSED).says(0, 503, (150, 160)).does(SERVED, (300, 400), Done).says(0, 503, (1200, 1201)).is(&[]);
    // Every sidecar has reached that it is so no more.
    Story::since(REFUSED).does(SERVED, (300, 400), Done).says(0, 503, (1401, 1402)).is(&[Unavailable]);
    Story::since(REFUSED).says(0, 503, (1201, 1202)).is(&[Unavailable]);
    Story::since(FORBIDDEN).says(0, 503, (150, 160)).is(&[]);
    // A revocation leaves no doubt.
    Story::since(GONE).says(0, 503, (150, 160)).is(&[Unavailable]);
    Story::since(SERVED | IN_DOUBT).says(0, 503, (1200, 1201)).says(0, 503, (1201, 1202)).is(&[Unavailable]);
    Story::since(SERVED | IN_DOUBT).is_cut_off(0, 200).says(0, 401, (210, 211)).is(&[Blamed]);
}

#[test]
fn an_unknown_outcome_may_be_either() {
    let unknown = |status| {
        let mut story = Story::new();
        story.does(GONE, (100, 200), Unknown).says(0, status, (5000, 5001));
        story
    };
    unknown(200).is(&[]);
    unknown(401).is(&[]);
    unknown(403).is(&[Blamed]);
    unknown(200)
        .loses(100, SERVED | GONE, GONE, 6000)
        .says(0, 401, (7001, 7002))
        .says(1, 200, (7001, 7002))
        .is(&[Accepted]);
}

#[test]
fn a_token_without_the_permission_is_neither_served_nor_unknown() {
    let mut story = Story::since(FORBIDDEN);
    story.says(0, 200, (300, 301)).says(0, 403, (300, 301)).is(&[]);
    story.says(0, 200, (1300, 1301)).is(&[Accepted]);
    let mut story = Story::since(FORBIDDEN);
    story.says(0, 401, (1300, 1301)).is(&[Blamed]);
}

#[test]
fn a_lost_revocation_excuses_those_who_had_not_seen_it() {
    let lost = || {
        let mut story = Story::since(GONE);
        story.breaks(None, Impact::Stale, (300, 900));
        story.says(0, 401, (250, 260)).loses(300, SERVED | GONE, GONE, 4000);
        story
    };
    lost().says(1, 200, (3000, 3001)).says(0, 401, (3000, 3001)).is(&[]);
    lost().says(0, 200, (3000, 3001)).is(&[Revived]);
    lost().says(1, 200, (5001, 5002)).is(&[Accepted]);
    // A sidecar that forgot everything may believe the store.
    let mut story = lost();
    story.judge.settle();
    story.judge.restarted(0);
    story.says(0, 200, (3000, 3001)).is(&[]);
}

/// Disabled, enabled, and disabled again by a store that had lost the enabling: equal at the end, and not in between.
#[test]
fn what_was_right_before_lost_writes_was_right_again() {
    let back_and_forth = || {
        let mut story = Story::since(REFUSED);
        story.does(SERVED, (1000, 1100), Done).does(REFUSED, (4000, 4100), Done);
        story
    };
    back_and_forth().says(0, 401, (3500, 3501)).is(&[Blamed]);
    let mut story = back_and_forth();
    assert!(story.judge.changed_since(story.token, story.at(900)));
    assert!(!story.judge.changed_since(story.token, story.at(4100)));
    story.loses(900, REFUSED, REFUSED, 4500).says(0, 401, (3500, 3501)).is(&[]);
}

#[test]
fn replies_wait_until_it_is_known_what_was_lost() {
    let mut story = Story::since(GONE);
    let hold = story.judge.hold(story.at(300));
    story.says(0, 200, (2000, 2001));
    story.judge.settle();
    assert!(story.judge.violations().is_empty());
    story.loses(300, SERVED | GONE, SERVED, 2500);
    story.judge.release(hold);
    story.is(&[]);

    let mut story = Story::since(GONE);
    let hold = story.judge.hold(story.at(300));
    story.says(0, 200, (2000, 2001));
    story.judge.release(hold);
    story.is(&[Accepted]);
}

#[test]
fn replies_wait_for_operations_that_run() {
    for (outcome, expected) in [(Done, [].as_slice()), (Failed, &[Blamed]), (Unknown, &[])] {
        let mut story = Story::new();
        let operation = story.judge.begins("an operation", &[(story.token, GONE)], story.at(100));
        story.says(0, 401, (200, 201));
        story.judge.settle();
        assert!(story.judge.violations().is_empty());
        story.judge.ends(operation, outcome, story.at(300));
        story.is(expected);
    }
}

#[test]
fn what_all_are_said_to_refuse_is_let_in_by_none() {
    let vouched = || {
        let mut story = Story::since(GONE);
        story.judge.vouched(story.token, story.at(300));
        story
    };
    vouched().says(0, 200, (299, 400)).is(&[]);
    // Long before the bound.
    vouched().says(0, 200, (301, 400)).is(&[Vouched]);
    vouched().loses(250, SERVED | GONE, SERVED, 400).says(1, 200, (3000, 3001)).is(&[Vouched]);
    vouched().goes_on(0, 790).is(&[]);
    vouched().goes_on(0, 801).is(&[Vouched]);
}

#[test]
fn a_token_of_another_registry_is_never_let_in() {
    let foreign = || {
        let mut story = Story::new();
        story.token = story.judge.foreign("a token of the other one", story.start);
        story
    };
    foreign().says(0, 401, (1, 2)).is(&[]);
    foreign().says(0, 200, (1, 2)).says(0, 403, (3, 4)).is(&[Foreign, Foreign]);
    foreign().breaks(None, Impact::Down, (0, 9000)).says(0, 200, (100, 102)).is(&[Foreign]);
}

#[test]
fn a_sidecar_that_nothing_reaches_decides_about_nobody() {
    let blind = || {
        let mut story = Story::new();
        let fault = story.judge.breaks("a fault", Some(0), Impact::Stale, story.at(90));
        story.judge.blinds(fault, story.at(100));
        story.judge.sees(fault, story.at(5000));
        story.judge.heals(fault, story.at(5100));
        story
    };
    blind().says(0, 200, (1200, 1201)).says(1, 200, (3000, 3001)).says(0, 503, (1300, 1301)).is(&[]);
    blind().says(0, 200, (1201, 1202)).is(&[Stale]);
    blind().says(0, 401, (3000, 3001)).is(&[Stale]);
    // It may have heard of something before it answered.
    blind().says(0, 200, (4000, 5001)).is(&[]);
    blind().goes_on(0, 1690).is(&[]);
    blind().goes_on(0, 1701).is(&[Stale]);
}

#[test]
fn whoever_saw_a_user_narrowed_goes_on_until_somebody_touches_the_user() {
    let lost = || {
        let mut story = Story::since(REFUSED);
        story.breaks(None, Impact::Stale, (300, 900));
        story.judge.narrowed(story.token, story.at(200));
        story.says(0, 401, (210, 220)).loses(150, SERVED | REFUSED, SERVED | REFUSED, 4000);
        story
    };
    lost().says(0, 401, (6000, 6001)).says(1, 200, (6000, 6001)).is(&[]);
    lost().says(0, 200, (6000, 6001)).is(&[Widened]);
    let touched = |from| {
        let mut story = lost();
        story.judge.touched(story.token, story.at(from));
        story
    };
    touched(5000).says(0, 200, (6000, 6001)).is(&[]);
    touched(6500).says(0, 200, (6000, 6001)).is(&[Widened]);
    // One that forgot everything may believe the store.
    let mut story = lost();
    story.judge.settle();
    story.judge.restarted(0);
    story.says(0, 200, (6000, 6001)).is(&[]);
}

#[test]
fn a_reply_that_runs_is_cut_off_when_its_request_would_be_refused_and_not_before() {
    let revoked = || Story::since(GONE);
    revoked().goes_on(0, 1700).is(&[]);
    revoked().goes_on(0, 1701).is(&[Accepted]);
    // One that sleeps cuts off nothing, and has to when it wakes.
    let asleep = (Some(0), Impact::Asleep, (1100, 3000));
    revoked().breaks(asleep.0, asleep.1, asleep.2).goes_on(0, 3500).goes_on(1, 1700).is(&[]);
    revoked().breaks(asleep.0, asleep.1, asleep.2).goes_on(0, 3501).is(&[Accepted]);
    revoked().breaks(asleep.0, asleep.1, asleep.2).goes_on(1, 3500).is(&[Accepted]);
    revoked().is_cut_off(0, 300).is(&[]);
    Story::new().is_cut_off(0, 300).is(&[Strange]);
    Story::new().breaks(Some(0), Impact::Stale, (100, 2000)).is_cut_off(0, 1100).is(&[]);
    Story::new().breaks(Some(1), Impact::Stale, (100, 2000)).is_cut_off(0, 1100).is(&[Strange]);
}

#[test]
fn a_fault_that_is_not_to_be_noticed_is_no_excuse() {
    Story::new().breaks(None, Impact::None, (0, 9000)).says(0, 503, (5000, 5001)).is(&[Unavailable]);
}

#[test]
fn only_a_fault_makes_a_sidecar_unavailable() {
    Story::new().says(0, 503, (1, 2)).is(&[Unavailable]);
    let broken = || {
        let mut story = Story::new();
        story.breaks(Some(0), Impact::Stale, (1000, 5000));
        story
    };
    broken().says(0, 503, (1100, 1200)).is(&[Unavailable]); // nobody can be stale so soon
    broken().says(0, 503, (2100, 2200)).says(0, 503, (7000, 7001)).is(&[]);
    broken().says(0, 503, (7001, 7002)).is(&[Unavailable]);
    broken().says(1, 503, (2100, 2200)).is(&[Unavailable]);
    Story::new().breaks(None, Impact::Down, (1000, 5000)).says(0, 503, (1001, 1002)).says(1, 503, (6000, 6001)).is(&[]);
    let mut story = broken();
    story.judge.stood_still(story.at(9000), story.at(9500));
    story.says(0, 503, (9500, 9501)).is(&[]);
}

#[test]
fn nothing_else_is_ever_answered() {
    for status in [0, 404, 500, 502, 504] {
        Story::new().breaks(None, Impact::Stale, (0, 9000)).says(0, status, (5000, 5001)).is(&[Strange]);
    }
    Story::new().breaks(Some(0), Impact::Down, (0, 9000)).says(0, 0, (5000, 5001)).is(&[]);
    Story::new().breaks(Some(0), Impact::Down, (0, 9000)).says(1, 0, (5000, 5001)).is(&[Strange]);
}

#[test]
fn memory_is_bounded_by_what_is_under_way() {
    let mut story = Story::new();
    for round in 0..1000u64 {
        let start = round * 10_000;
        story.does(REFUSED, (start, start + 1), Done).does(SERVED, (start + 2, start + 3), Done);
        story.breaks(None, Impact::Stale, (start, start + 10));
        story.says(0, 200, (start + 5000, start + 5001));
        story.judge.settle();
    }
    assert!(story.judge.held() < 40, "{}", story.judge.held());
    story.says(0, 200, (9_999_000, 9_999_001)).is(&[]);
}

#[test]
fn a_violation_tells_its_story() {
    let mut story = Story::since(GONE);
    story.breaks(Some(2), Impact::Stale, (150, 250)).says(0, 200, (1500, 1600));
    let (violations, _) = story.judge.finish();
    let told = violations.iter().map(Violation::to_string).collect::<String>();
    for part in
        ["Accepted: a token", "sidecar 0 answered 200", "sure 0.200: gone (an operation)", "a fault (sidecars: 2)"]
    {
        assert!(told.contains(part), "{told}");
    }
}
