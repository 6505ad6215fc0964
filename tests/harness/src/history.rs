//! What was done and what was answered, and a judge over both.
//!
//! For every *subject*, which is one token used for one kind of request, the history is a row of **claims**: from some
//! moment on, these verdicts are right. An operation makes a claim when it begins, and the claim is **sure** once the
//! operation was acknowledged. A request that was sent at `s` and answered at `a` may be answered by
//!
//! - the last claim that was sure before `s - bound`, because no replica that is believed is older than the bound, and
//! - every later claim that began before `a`,
//!
//! and by nothing else. That is a register with bounded staleness, and it says both that nothing revoked is accepted
//! past the bound and that nothing good is ever refused. The rules, as a [`Rule`] names them:
//!
//! - **Accepted**: a token is not accepted by a request sent later than the bound after its end was acknowledged, on any
//!   sidecar, whatever broke.
//! - **Revived**: once a sidecar has refused a token because it was revoked or deleted, it never accepts it again, also
//!   if the store has lost that write. (A sidecar that had not seen the revocation before the store lost it cannot know
//!   better: for it the loss makes a new claim, see [`Judge::lost`].)
//! - **Widened**: a sidecar that has refused a token because its owner was disabled or got a weaker role goes on so where the
//!   store has lost that write, until another commit touches the owner. See [`Judge::narrowed`].
//! - **Vouched**: once a command has said that all sidecars have applied the end of a token, none lets it in, whatever its
//!   bound, and whatever is lost and restored later.
//! - **Foreign**: a token of one registry is let in by no sidecar of another one, though they share a server.
//! - **Stale**: a sidecar that nothing has reached for longer than the bound decides about nobody.
//! - **Blamed**: a good token is not answered 401 or 403.
//! - **Unavailable**: 503 is said only by a sidecar that a fault could have made stale, and no longer than the recovery
//!   time after the fault's end; and of a token that was narrowed or reassigned within the bound, which a sidecar may have heard
//!   of and not reached.
//! - **Strange**: nothing else is answered at all, and no connection is lost, except to a sidecar that is down. No reply that
//!   runs is cut off, except where the same request could be refused.
//!
//! A reply that runs is an answer all the time: each of its pieces counts as one to a request sent [`CUT_OFF`] before, which
//! is how long it may take to cut it off.
//!
//! A reply is judged once everything is known that could excuse or condemn it: operations that were running when it came
//! have ended, and what a fault has lost was read back. Then it is forgotten, so that the judge's memory is bounded by
//! what is under way.

mod verdicts;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use verdicts::Verdicts;

/// What is asked about: one token for one kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject(u64);

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// Acknowledged.
    Done,
    /// Known to have changed nothing.
    Failed,
    /// Nobody knows.
    Unknown,
}

/// An operation that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Operation(u64);

/// Something that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutageId(u64);

/// A moment from which on replies wait to be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hold(u64);

/// What a fault does to sidecars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Impact {
    /// Their replicas may grow stale from when it begins, and say 503 once they are past the bound.
    Stale,
    /// The same. They do nothing meanwhile; what was on its way through them comes out when they wake, and is cut off then.
    Asleep,
    /// They may lose connections, and say 503 until they have read the store.
    Down,
    /// Nothing that a replica does is to be noticed: 503 is not excused.
    None,
}

/// What was observed of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// A part of one that has begun before and goes on.
    Piece,
    /// Its end, which came too early.
    CutOff,
}

/// One request and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    pub sidecar: usize,
    pub subject: Subject,
    pub sent_at: Instant,
    pub answered_at: Instant,
    /// `None`: the connection ended without a reply.
    pub status: Option<u16>,
    pub part: Part,
}

/// What must never be broken. See the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    Accepted,
    Revived,
    Widened,
    Vouched,
    Foreign,
    Stale,
    Blamed,
    Unavailable,
    Strange,
}

/// A reply that breaks a rule, with the part of the history that shows it.
#[derive(Debug, Clone)]
pub struct Violation {
    pub rule: Rule,
    pub observed: Observed,
    story: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.story)
    }
}

/// How much was judged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub requests: u64,
    /// Of replies that ran.
    pub pieces: u64,
    pub cut_off: u64,
    /// By status; 0 for none.
    pub statuses: BTreeMap<u16, u64>,
    pub operations: BTreeMap<(&'static str, Outcome), u64>,
    pub faults: BTreeMap<String, u64>,
    pub violations: u64,
}

/// One statement on a subject.
#[derive(Debug, Clone)]
struct Claim {
    right: Verdicts,
    from: Instant,
    sure: Option<Instant>,
    why: Arc<str>,
}

#[derive(Debug)]
struct Row {
    label: String,
    /// The operation behind the last claim, while it runs.
    running: Option<Operation>,
    claims: Vec<Claim>,
    /// Of another registry than the sidecars that are asked.
    is_foreign: bool,
    /// Since when all sidecars are said to have applied its end.
    vouched_at: Option<Instant>,
    /// Which sidecars have refused it for good, and when.
    refusals: Vec<(usize, Instant)>,
    /// When it was narrowed by writes that the store has lost.
    narrowings: Vec<Narrowing>,
    /// The latest replies that differed from the one before on the same sidecar.
    seen: VecDeque<Observed>,
}

/// A narrowing that the store has lost.
#[derive(Debug)]
struct Narrowing {
    /// When it was acknowledged.
    from: Instant,
    /// When another commit touched the owner.
    to: Option<Instant>,
    /// Which sidecars have shown that they had seen it, and when.
    refusals: Vec<(usize, Instant)>,
}

#[derive(Debug)]
struct Running {
    name: &'static str,
    since: Instant,
    subjects: Vec<Subject>,
}

#[derive(Debug)]
struct Broken {
    id: OutageId,
    name: String,
    /// `None`: all of them.
    sidecar: Option<usize>,
    impact: Impact,
    from: Instant,
    to: Option<Instant>,
    /// From when until when nothing reached the sidecar.
    blind: Option<(Instant, Option<Instant>)>,
}

/// Longest that a request may take from sending to its answer; what is older than that and the bound is forgotten.
const LONGEST_REQUEST: Duration = Duration::from_secs(30);

/// Longest time until a reply that runs is cut off, and what was written before has been read.
pub const CUT_OFF: Duration = Duration::from_millis(500);

/// Those that excuse a replica for being stale.
const STALE: [Impact; 3] = [Impact::Down, Impact::Stale, Impact::Asleep];

/// What a sidecar has heard may be on its way to it for so long.
const UNDER_WAY: Duration = Duration::from_millis(100);

/// Replies that differ from the one before, retained for the story of a violation.
const SEEN: usize = 24;

/// Violations that are retained with their stories; the others are counted.
const MAX_STORIES: usize = 10;

/// The judge.
#[derive(Debug)]
pub struct Judge {
    origin: Instant,
    bound: Duration,
    recovery: Duration,
    numbers: u64,
    rows: HashMap<Subject, Row>,
    running: BTreeMap<Operation, Running>,
    faults: Vec<Broken>,
    holds: BTreeMap<Hold, Instant>,
    waiting: Vec<Observed>,
    violations: Vec<Violation>,
    counts: Counts,
    /// The latest of what was noted.
    notes: VecDeque<(Instant, String)>,
}

/// Notes that are retained for the story of a violation.
const NOTES: usize = 60;

impl Judge {
    /// Judges sidecars with this `max_staleness`, which must be over a fault this long after its end.
    pub fn new(bound: Duration, recovery: Duration, origin: Instant) -> Self {
        Self {
            origin,
            bound,
            recovery,
            numbers: 0,
            rows: HashMap::new(),
            running: BTreeMap::new(),
            faults: Vec::new(),
            holds: BTreeMap::new(),
            waiting: Vec::new(),
            violations: Vec::new(),
            counts: Counts::default(),
            notes: VecDeque::new(),
        }
    }

    /// Something worth reporting should a rule be broken soon.
    pub fn note(&mut self, text: String, at: Instant) {
        if self.notes.len() == NOTES {
            self.notes.pop_front();
        }
        self.notes.push_back((at, text));
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// A new subject, for which these verdicts are right until an operation says otherwise.
    pub fn subject(&mut self, label: impl Into<String>, right: Verdicts, at: Instant) -> Subject {
        let subject = Subject(self.number());
        let claims = vec![Claim { right, from: at, sure: Some(at), why: "at first".into() }];
        let row = Row {
            label: label.into(),
            running: None,
            claims,
            is_foreign: false,
            vouched_at: None,
            refusals: Vec::new(),
            narrowings: Vec::new(),
            seen: VecDeque::new(),
        };
        self.rows.insert(subject, row);
        subject
    }

    /// A subject that the sidecars which are asked about it must never have heard of.
    pub fn foreign(&mut self, label: impl Into<String>, at: Instant) -> Subject {
        let subject = self.subject(label, Verdicts::REFUSED, at);
        self.rows.entry(subject).and_modify(|row| row.is_foreign = true);
        subject
    }

    /// All sidecars are said to have applied the end of this subject.
    pub fn vouched(&mut self, subject: Subject, at: Instant) {
        self.rows.entry(subject).and_modify(|row| row.vouched_at = row.vouched_at.or(Some(at)));
    }

    /// The store has lost a write that had narrowed this subject, and that was acknowledged at `from`. Whoever has seen it
    /// goes on refusing.
    pub fn narrowed(&mut self, subject: Subject, from: Instant) {
        let narrowing = Narrowing { from, to: None, refusals: Vec::new() };
        self.rows.entry(subject).and_modify(|row| row.narrowings.push(narrowing));
    }

    /// A commit is about to touch this subject's owner: what was lost before counts no more.
    pub fn touched(&mut self, subject: Subject, at: Instant) {
        let end = |narrowing: &mut Narrowing| narrowing.to = narrowing.to.or(Some(at));
        self.rows.entry(subject).and_modify(|row| row.narrowings.iter_mut().for_each(end));
    }

    /// Forgets a subject; replies about it count no more.
    pub fn forget(&mut self, subject: Subject) {
        self.rows.remove(&subject);
        self.waiting.retain(|observed| observed.subject != subject);
    }

    /// An operation is about to be sent that makes these verdicts right. Operations on the same subject follow each
    /// other.
    pub fn begins(&mut self, name: &'static str, effects: &[(Subject, Verdicts)], at: Instant) -> Operation {
        let operation = Operation(self.number());
        for (subject, right) in effects {
            let row = self.rows.get_mut(subject).expect("a known subject");
            assert_eq!(row.running, None, "two operations at once on {}", row.label);
            row.running = Some(operation);
            row.claims.push(Claim { right: *right, from: at, sure: None, why: name.into() });
        }
        let subjects = effects.iter().map(|(subject, _)| *subject).collect();
        self.running.insert(operation, Running { name, since: at, subjects });
        operation
    }

    /// An operation has ended.
    pub fn ends(&mut self, operation: Operation, outcome: Outcome, at: Instant) {
        let Running { name, subjects, .. } = self.running.remove(&operation).expect("it runs");
        *self.counts.operations.entry((name, outcome)).or_default() += 1;
        for subject in subjects {
            let Some(row) = self.rows.get_mut(&subject).filter(|row| row.running == Some(operation)) else { continue };
            row.running = None;
            let Some((claim, before)) = row.claims.split_last_mut() else { continue };
            match outcome {
                Outcome::Done => claim.sure = Some(at),
                Outcome::Failed => drop(row.claims.pop()),
                Outcome::Unknown => {
                    claim.right = before.last().map_or(claim.right, |before| claim.right | before.right);
                    claim.sure = Some(at);
                    claim.why = format!("{name}, outcome unknown").into();
                }
            }
        }
    }

    /// Something is about to break: for one sidecar, or for all.
    pub fn breaks(&mut self, name: impl Into<String>, sidecar: Option<usize>, impact: Impact, at: Instant) -> OutageId {
        let (id, name) = (OutageId(self.number()), name.into());
        *self.counts.faults.entry(name.clone()).or_default() += 1;
        self.faults.push(Broken { id, name, sidecar, impact, from: at, to: None, blind: None });
        id
    }

    /// From here on nothing reaches the sidecar, or all of them.
    pub fn blinds(&mut self, fault: OutageId, at: Instant) {
        self.faults.iter_mut().filter(|broken| broken.id == fault).for_each(|broken| broken.blind = Some((at, None)));
    }

    /// Something may reach it again.
    pub fn sees(&mut self, fault: OutageId, at: Instant) {
        let blind =
            self.faults.iter_mut().filter(|broken| broken.id == fault).filter_map(|broken| broken.blind.as_mut());
        blind.for_each(|(_, to)| *to = Some(at));
    }

    /// It is whole again.
    pub fn heals(&mut self, fault: OutageId, at: Instant) {
        if let Some(broken) = self.faults.iter_mut().find(|broken| broken.id == fault) {
            broken.to = Some(at);
        }
    }

    /// The machine, or this process, did not run between these moments: what came late then was nobody's fault.
    pub fn stood_still(&mut self, from: Instant, to: Instant) {
        let id = OutageId(self.number());
        let (name, impact) = ("the machine stood still".to_owned(), Impact::Asleep);
        let from = from - self.bound;
        self.faults.push(Broken { id, name, sidecar: None, impact, from, to: Some(to), blind: None });
    }

    /// Acknowledged writes may get lost from here on: replies wait until it is known which.
    pub fn hold(&mut self, at: Instant) -> Hold {
        let hold = Hold(self.number());
        self.holds.insert(hold, at);
        hold
    }

    /// What was lost is known.
    pub fn release(&mut self, hold: Hold) {
        self.holds.remove(&hold);
    }

    /// The store has lost writes on this subject at some time after `since`: whatever was right from then on was right
    /// again, and `between` too; `now` is what it holds for sure since `at`. Without lost writes: it was read what is
    /// right.
    pub fn lost(&mut self, subject: Subject, since: Instant, between: Verdicts, now: Verdicts, at: Instant) {
        let Some(row) = self.rows.get_mut(&subject) else { return };
        assert_eq!(row.running, None, "read back while an operation runs on {}", row.label);
        let before = row.claims.iter().rposition(|claim| claim.sure.is_some_and(|sure| sure <= since)).unwrap_or(0);
        let right = row.claims.iter().skip(before).fold(between, |right, claim| right | claim.right);
        row.claims.push(Claim { right, from: since, sure: None, why: "the store lost writes".into() });
        row.claims.push(Claim { right: now, from: since, sure: Some(at), why: "read back".into() });
    }

    /// Whether an operation on this subject may have been executed since then.
    pub fn changed_since(&self, subject: Subject, since: Instant) -> bool {
        let Some(row) = self.rows.get(&subject) else { return false };
        row.claims.iter().any(|claim| claim.sure.is_none_or(|sure| sure > since))
    }

    /// What is right for this subject by the last claim.
    pub fn right(&self, subject: Subject) -> Option<Verdicts> {
        self.rows.get(&subject)?.claims.last().map(|claim| claim.right)
    }

    /// A sidecar was started anew, without what it had seen.
    pub fn restarted(&mut self, sidecar: usize) {
        for row in self.rows.values_mut() {
            let narrowings = row.narrowings.iter_mut().map(|narrowing| &mut narrowing.refusals);
            narrowings.chain([&mut row.refusals]).for_each(|all| all.retain(|(refuser, _)| *refuser != sidecar));
        }
    }

    /// A reply.
    pub fn observe(&mut self, observed: Observed) {
        match observed.part {
            Part::Whole => {
                self.counts.requests += 1;
                *self.counts.statuses.entry(observed.status.unwrap_or(0)).or_default() += 1;
            }
            Part::Piece => self.counts.pieces += 1,
            Part::CutOff => self.counts.cut_off += 1,
        }
        self.waiting.push(observed);
    }

    /// Judges what can be judged, and forgets it.
    pub fn settle(&mut self) {
        let running = self.running.values().map(|running| running.since);
        let horizon = running.chain(self.holds.values().copied()).min();
        let ready = |observed: &Observed| horizon.is_none_or(|horizon| observed.answered_at < horizon);
        let (mut ready, waiting): (Vec<_>, Vec<_>) = self.waiting.drain(..).partition(ready);
        self.waiting = waiting;
        ready.sort_by_key(|observed| observed.answered_at);
        let last = ready.last().map(|observed| observed.answered_at);
        ready.into_iter().for_each(|observed| self.judge(observed));
        if let Some(oldest) = last.and_then(|last| last.checked_sub(LONGEST_REQUEST)) {
            self.forget_before(horizon.map_or(oldest, |horizon| oldest.min(horizon)));
        }
    }

    /// Judges everything, and says what was found.
    pub fn finish(&mut self) -> (&[Violation], &Counts) {
        self.holds.clear();
        self.settle();
        assert!(self.waiting.is_empty(), "operations still run: {:?}", self.running);
        (&self.violations, &self.counts)
    }

    /// What was found so far.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// How many things it remembers that are not subjects.
    pub fn held(&self) -> usize {
        let claims: usize = self.rows.values().map(|row| row.claims.len()).sum();
        claims + self.faults.len() + self.waiting.len()
    }

    /// How much was judged so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    fn judge(&mut self, observed: Observed) {
        let Some(row) = self.rows.get(&observed.subject) else { return };
        let broken = self.rule_broken(row, observed);
        let known = row.known_at(observed, self.bound);
        if let Some(rule) = broken {
            self.counts.violations += 1;
            if self.violations.len() < MAX_STORIES {
                let story = self.story(row, observed, known);
                self.violations.push(Violation { rule, observed, story });
            }
        }
        let Some(row) = self.rows.get_mut(&observed.subject) else { return };
        let said_gone = observed.status == Some(401) && !known.intersects(Verdicts::REFUSED);
        if said_gone && broken.is_none() && row.refused_by(observed.sidecar).is_none() {
            row.refusals.push((observed.sidecar, observed.answered_at));
        }
        if matches!(observed.status, Some(401 | 403)) {
            row.narrowings.iter_mut().filter(|narrowing| narrowing.covers(observed)).for_each(|narrowing| {
                let refuser = (observed.sidecar, observed.answered_at);
                narrowing.refusals.extend(narrowing.refused_by(observed.sidecar).is_none().then_some(refuser));
            });
        }
        let alike = |before: &&Observed| before.sidecar == observed.sidecar && before.part == observed.part;
        let before = row.seen.iter().rev().find(alike);
        if before.is_none_or(|before| before.status != observed.status) {
            if row.seen.len() == SEEN {
                row.seen.pop_front();
            }
            row.seen.push_back(observed);
        }
    }

    fn rule_broken(&self, row: &Row, observed: Observed) -> Option<Rule> {
        let cut_off = observed.part == Part::CutOff;
        if cut_off && row.known_at(observed, self.bound) != Verdicts::SERVED {
            return None;
        }
        let Some(status) = observed.status else {
            let excuses: &[Impact] = if cut_off { &STALE } else { &[Impact::Down] };
            return (!self.excused(observed, excuses)).then_some(Rule::Strange);
        };
        if status == 503 {
            let is_in_doubt = row.is_in_doubt(observed, self.bound);
            return (!is_in_doubt && !self.excused(observed, &STALE)).then_some(Rule::Unavailable);
        }
        if observed.part == Part::Piece && self.was_asleep(observed) {
            return None;
        }
        let Some(said) = Verdicts::behind(status) else { return Some(Rule::Strange) };
        let accepted = said != Verdicts::REFUSED | Verdicts::GONE;
        if accepted && row.is_foreign {
            return Some(Rule::Foreign);
        }
        if self.is_blind(observed) {
            return Some(Rule::Stale);
        }
        if accepted && row.vouched_at.is_some_and(|at| at < observed.sent_at) {
            return Some(Rule::Vouched);
        }
        let widened = |narrowing: &Narrowing| {
            narrowing.covers(observed) && narrowing.refused_by(observed.sidecar).is_some_and(|at| at < observed.sent_at)
        };
        if status == 200 && row.narrowings.iter().any(widened) {
            return Some(Rule::Widened);
        }
        if accepted && row.refused_by(observed.sidecar).is_some_and(|at| at < observed.sent_at) {
            return Some(Rule::Revived);
        }
        let known = row.known_at(observed, self.bound);
        match said.intersects(known) {
            true => None,
            false if accepted && !known.intersects(Verdicts::SERVED | Verdicts::FORBIDDEN) => Some(Rule::Accepted),
            false if status == 200 => Some(Rule::Accepted),
            false => Some(Rule::Blamed),
        }
    }

    /// Whether the sidecar slept so shortly before that it could not have cut off anything yet.
    fn was_asleep(&self, observed: Observed) -> bool {
        self.faults.iter().filter(|fault| fault.impact == Impact::Asleep).any(|fault| {
            let reached = fault.sidecar.is_none_or(|sidecar| sidecar == observed.sidecar);
            let woke = fault.to.is_none_or(|to| observed.answered_at <= to + CUT_OFF);
            reached && observed.answered_at >= fault.from && woke
        })
    }

    /// Whether nothing had reached the sidecar for longer than the bound.
    fn is_blind(&self, observed: Observed) -> bool {
        self.faults.iter().any(|fault| {
            let Some((from, to)) = fault.blind else { return false };
            let reached = fault.sidecar.is_none_or(|sidecar| sidecar == observed.sidecar);
            let overdue = observed.sent_at > from + self.bound + UNDER_WAY;
            reached && overdue && to.is_none_or(|to| observed.answered_at < to)
        })
    }

    /// Whether a fault of one of these kinds explains that a sidecar could not answer.
    fn excused(&self, observed: Observed, impacts: &[Impact]) -> bool {
        self.faults.iter().any(|fault| {
            let reached = fault.sidecar.is_none_or(|sidecar| sidecar == observed.sidecar);
            // Stale replicas are believed for a while. Half of the bound: probes may have been late before.
            let earliest = match fault.impact {
                Impact::Stale | Impact::Asleep => fault.from + self.bound / 2,
                Impact::Down | Impact::None => fault.from,
            };
            let latest = fault.to.map(|to| to + self.recovery);
            reached
                && impacts.contains(&fault.impact)
                && observed.answered_at >= earliest
                && latest.is_none_or(|latest| observed.sent_at <= latest)
        })
    }

    fn forget_before(&mut self, oldest: Instant) {
        for row in self.rows.values_mut() {
            let base = row.claims.iter().rposition(|claim| claim.sure.is_some_and(|sure| sure + self.bound < oldest));
            row.claims.drain(..base.unwrap_or(0));
            row.narrowings.retain(|narrowing| narrowing.to.is_none_or(|to| to >= oldest));
        }
        let recovery = self.recovery;
        self.faults.retain(|fault| fault.to.is_none_or(|to| to + recovery >= oldest));
    }

    fn story(&self, row: &Row, observed: Observed, known: Verdicts) -> String {
        let at = |moment: Instant| match moment.checked_duration_since(self.origin) {
            Some(since) => format!("{:.3}", since.as_secs_f64()),
            None => "before".to_owned(),
        };
        let said = |observed: &Observed| {
            let (sent, answered) = (at(observed.sent_at), at(observed.answered_at));
            let status = observed.status.map_or("nothing".to_owned(), |status| status.to_string());
            let part = match observed.part {
                Part::Whole => "",
                Part::Piece => "a piece of ",
                Part::CutOff => "half of ",
            };
            format!("sidecar {} answered {part}{status} (sent {sent}, answered {answered})", observed.sidecar)
        };
        let mut story = format!("{}: {}; right: {known}, bound {:?}\n", row.label, said(&observed), self.bound);
        // Writing to a string cannot fail.
        let mut line = |line: String| writeln!(story, "  {line}").unwrap_or_default();
        for claim in &row.claims {
            let sure = claim.sure.map_or("never".to_owned(), at);
            line(format!("{} .. sure {sure}: {} ({})", at(claim.from), claim.right, claim.why));
        }
        for (sidecar, moment) in &row.refusals {
            line(format!("{}: sidecar {sidecar} refused it for good", at(*moment)));
        }
        if let Some(moment) = row.vouched_at {
            line(format!("{}: all sidecars are said to refuse it", at(moment)));
        }
        for Narrowing { from, to, refusals } in &row.narrowings {
            let to = to.map(at).unwrap_or_default();
            let refusers: Vec<_> =
                refusals.iter().map(|(sidecar, moment)| format!("{sidecar} at {}", at(*moment))).collect();
            line(format!("{} .. {to}: narrowed, and lost; refused by {}", at(*from), refusers.join(", ")));
        }
        row.seen.iter().for_each(|seen| line(said(seen)));
        for fault in self.faults.iter().filter(|fault| fault.from <= observed.answered_at) {
            let (reach, to) = (fault.sidecar.map_or("all".to_owned(), |one| one.to_string()), fault.to.map(at));
            let to = to.unwrap_or_default();
            line(format!("{} .. {to}: {} (sidecars: {reach})", at(fault.from), fault.name));
        }
        if self.violations.is_empty() {
            self.notes.iter().for_each(|(moment, note)| line(format!("{}: {note}", at(*moment))));
        }
        story
    }
}

impl Row {
    /// The verdicts that a request may have been answered by.
    fn known_at(&self, observed: Observed, bound: Duration) -> Verdicts {
        let (first, later) = self.claims_at(observed, bound);
        first.without(Verdicts::IN_DOUBT) | later
    }

    /// Whether it was narrowed or reassigned so shortly before that a sidecar may know that it is behind.
    fn is_in_doubt(&self, observed: Observed, bound: Duration) -> bool {
        let (_, later) = self.claims_at(observed, bound);
        later.intersects(Verdicts::REFUSED | Verdicts::FORBIDDEN | Verdicts::IN_DOUBT)
    }

    /// What is right by the last claim that every sidecar must have reached, and by those after it.
    fn claims_at(&self, observed: Observed, bound: Duration) -> (Verdicts, Verdicts) {
        let settled = |claim: &Claim| claim.sure.is_some_and(|sure| sure + bound < observed.sent_at);
        let base = self.claims.iter().rposition(settled).unwrap_or(0);
        let mut claims = self.claims.iter().skip(base);
        let first = claims.next().map_or(Verdicts::NONE, |claim| claim.right);
        let later = claims.filter(|claim| claim.from <= observed.answered_at);
        (first, later.fold(Verdicts::NONE, |known, claim| known | claim.right))
    }

    fn refused_by(&self, sidecar: usize) -> Option<Instant> {
        self.refusals.iter().find(|(refuser, _)| *refuser == sidecar).map(|(_, at)| *at)
    }
}

impl Narrowing {
    fn covers(&self, observed: Observed) -> bool {
        observed.sent_at > self.from && self.to.is_none_or(|to| observed.answered_at < to)
    }

    fn refused_by(&self, sidecar: usize) -> Option<Instant> {
        self.refusals.iter().find(|(refuser, _)| *refuser == sidecar).map(|(_, at)| *at)
    }
}
