//! The protocol between the store and its sidecars, checked exhaustively for small bounds: every order in which notices,
//! answers, faults, restarts and commits can happen.
//!
//! The model restates nothing of the synchroniser: it drives [`Synchroniser::on`](tollgate::replica::sync::Synchroniser),
//! which the sidecar runs. What it adds is the world around it, see [`world`], and a small table that is compared with
//! the real one, see [`table`].
//!
//! What is checked in every state that can be reached:
//!
//! - **The bound.** What the store has held as revoked for longer than the bound, no sidecar accepts. A revocation that
//!   the store has lost is one no more, until it is committed again; a sidecar that saw it is bound by the next rule, and
//!   the others by the same bound from when it was recalled.
//! - **Tombstones are never undone.** A token that a sidecar was told is revoked, it never accepts again, also not after
//!   a restart, as far as its snapshot file goes.
//! - **No good token is refused for good**, and none is unknown to a replica that was proven fresh since it was created.
//! - **Convergence.** If nothing breaks any more, a few probes make each sidecar equal to the store, and fresh; and the
//!   store then knows of every revocation that it has lost and a sidecar has not.
//!
//! - **A commit is what it is.** No command that read a record before a loss makes a revoked token active with it after, and a
//!   command that says that a token is refused is right: no sidecar lets it in then, nor later by a proof from before.
//!
//! The last two are shown to be worth something by the rules that once were ([`Rules::ByRevision`]): by these, the checker
//! finds how they are broken.
//!
//! `TOLLGATE_MODEL=large` checks larger bounds, for about a quarter of an hour; the largest takes 9 GB of memory at most.

mod registry;
mod table;
mod world;

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Mutex;

use stateright::{Checker as _, HasDiscoveries, Model, Property};

use registry::Rules;
use world::{Action, Bounds, Sidecar, TOKENS, Tokens, World};

struct Fleet {
    /// Ticks for which a replica is believed. With 0, until the next tick.
    max_staleness: u8,
    sidecars: usize,
    tokens: u8,
    active: Tokens,
    bounds: Bounds,
    rules: Rules,
    /// What was found to converge. Most of what a state consists of is not new in it.
    converging: Mutex<HashSet<u64>>,
    hasher: RandomState,
}

impl Fleet {
    fn new(sidecars: usize, tokens: u8, active: Tokens, bounds: Bounds) -> Self {
        Self {
            max_staleness: 0,
            sidecars,
            tokens,
            active,
            bounds,
            rules: Rules::ByCommit,
            converging: Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    /// Checks all of it, and says how much that was.
    fn check(self, name: &str) {
        let started = std::time::Instant::now();
        let checker = self.checker().threads(2).spawn_bfs().join();
        let (states, transitions, depth) = (checker.unique_state_count(), checker.state_count(), checker.max_depth());
        println!("{name}: {states} states, {transitions} transitions, depth {depth}, {:?}", started.elapsed());
        checker.assert_properties();
    }

    /// What breaks a property by the rules that once were, step by step.
    fn counterexample(self, property: &'static str) -> Vec<Action> {
        let fleet = Self { rules: Rules::ByRevision, ..self };
        let broken = HasDiscoveries::AnyOf([property].into());
        let checker = fleet.checker().threads(2).finish_when(broken).spawn_bfs().join();
        let path = checker.discovery(property).expect("by the number of a revision, this is not so");
        let actions = path.into_actions();
        println!("{property}: not so after {} states: {actions:?}", checker.unique_state_count());
        actions
    }
}

/// The bound.
const REFUSED: &str = "revoked tokens are refused after the bound";

/// Who is revoked stays so in the store.
const ACTIVE_AGAIN: &str = "no commit makes a token active that is revoked";

/// As far as there is no later loss.
const A_YES: &str = "a token of which a command said that it is refused is refused by every sidecar";

impl Model for Fleet {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.sidecars, self.tokens, self.active, self.bounds, self.rules)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(self.tokens, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.act(self.tokens, action);
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = self.reached();
        properties.extend([
            Property::always(REFUSED, |fleet: &Self, world: &World| fleet.refuses(world, &world.store.revoked_since)),
            Property::always("recalled tokens are refused after the bound", |fleet: &Self, world: &World| {
                fleet.refuses(world, &world.store.recalled_since)
            }),
            Property::always(ACTIVE_AGAIN, |_, world: &World| world.store.at().active & world.store.at().revoked == 0),
            Property::always(A_YES, |fleet: &Self, world: &World| {
                fleet.fresh(world).all(|sidecar| sidecar.held.grants & world.registry.vouched == 0)
            }),
            Property::always("what a sidecar was told is revoked it never accepts again", |_, world: &World| {
                world.sidecars.iter().all(|sidecar| sidecar.held.grants & sidecar.sworn == 0)
            }),
            Property::always("no good token is refused for good", |_, world: &World| {
                let good = world.store.at().active & !world.store.ever_revoked();
                world.sidecars.iter().all(|sidecar| sidecar.held.tombstones & good == 0)
            }),
            Property::always("a fresh replica knows every good token", |fleet: &Self, world: &World| {
                fleet.fresh(world).all(|sidecar| {
                    let known = sidecar.held.grants | sidecar.held.tombstones;
                    let as_of = sidecar.held.as_of;
                    (0..TOKENS).all(|token| {
                        let due = world.store.active_since[token].is_some_and(|since| Some(since) < as_of);
                        !due || known >> token & 1 == 1
                    })
                })
            }),
            Property::always("if nothing breaks any more, all become equal", |fleet: &Self, world: &World| {
                world.sidecars.iter().all(|sidecar| converges(fleet, world, sidecar))
            }),
        ]);
        properties
    }
}

impl Fleet {
    /// What the model must come to, or it shows nothing.
    fn reached(&self) -> Vec<Property<Self>> {
        let mut reached = vec![Property::sometimes("the log fills a gap", |_, world: &World| {
            world.sidecars.iter().any(Sidecar::is_given_entries)
        })];
        if self.bounds.notices && self.bounds.losses + self.bounds.restores > 0 {
            reached.push(Property::sometimes("a lost revocation is recalled", |_, world: &World| {
                world.store.recalled != 0
            }));
        }
        if self.bounds.losses > 0 {
            reached.push(Property::sometimes("only what was lost is read again", |_, world: &World| {
                world.sidecars.iter().any(Sidecar::makes_up_for_lost_writes)
            }));
        }
        if self.bounds.restores + self.bounds.trims > 0 {
            reached.push(Property::sometimes("a snapshot is read again", |_, world: &World| {
                world.sidecars.iter().any(|sidecar| sidecar.reads_a_snapshot() && sidecar.held.as_of.is_some())
            }));
        }
        if self.bounds.trims > 0 {
            reached.push(Property::sometimes("a store says what was revoked beyond its log", |_, world: &World| {
                world.sidecars.iter().any(Sidecar::is_told_of_what_it_missed)
            }));
        }
        if self.bounds.waits > 0 {
            reached.push(Property::sometimes("a command says that a token is refused", |_, world: &World| {
                world.registry.vouched != 0
            }));
        }
        if self.bounds.restarts > 0 {
            reached.push(Property::sometimes("a sidecar serves from its file", |fleet: &Self, world: &World| {
                fleet.fresh(world).any(Sidecar::runs_on_its_file)
            }));
        }
        if self.sidecars > 1 {
            reached.push(Property::sometimes("one sidecar refuses what another one saw", |_, world: &World| {
                let told = |sidecar: &Sidecar| sidecar.held.tombstones & world.store.recalled != 0;
                world.sidecars.iter().all(told)
            }));
        }
        reached
    }

    /// The sidecars whose replica decides about requests.
    fn fresh<'a>(&self, world: &'a World) -> impl Iterator<Item = &'a Sidecar> {
        let recent = world.clock.saturating_sub(self.max_staleness);
        world.sidecars.iter().filter(move |sidecar| sidecar.held.as_of.is_some_and(|as_of| as_of >= recent))
    }

    /// Whether nobody accepts what has been so for longer than the bound.
    fn refuses(&self, world: &World, since: &[Option<u8>; TOKENS]) -> bool {
        let overdue = |since: &Option<u8>| since.is_some_and(|since| world.clock - since > self.max_staleness);
        let overdue = (0..TOKENS).filter(|token| overdue(&since[*token])).fold(0, |tokens, token| tokens | 1 << token);
        self.fresh(world).all(|sidecar| sidecar.held.grants & overdue == 0)
    }
}

fn converges(fleet: &Fleet, world: &World, sidecar: &Sidecar) -> bool {
    let known = fleet.hasher.hash_one((world.clock, &world.store, sidecar));
    if !fleet.converging.lock().expect("no panic").insert(known) {
        return true;
    }
    let (mut store, mut sidecar) = (world.store.clone(), sidecar.clone());
    sidecar.settle(&mut store, fleet.tokens, world.clock);
    let (at, held) = (store.at(), &sidecar.held);
    let equal = sidecar.machine.position() == Some(at.position()) && held.checksum() == u64::from(at.active);
    let exact = held.vanished == 0
        && held.grants == at.active & !held.tombstones
        && held.suppressed == at.active & held.tombstones;
    equal && exact && held.as_of == Some(world.clock) && held.suppressed & !store.recalled == 0
}

/// Two tokens, the first of them active.
const FIRST: Tokens = 0b01;

const NOTHING: Bounds = Bounds {
    ticks: 0,
    commits: 0,
    reassigns: 0,
    waits: 0,
    reports: 0,
    losses: 0,
    lost_reports: false,
    restores: 0,
    trims: 0,
    failures: 0,
    moves: 0,
    notices: true,
    saves: 0,
    restarts: 0,
};

/// Whether to take some minutes.
fn large() -> bool {
    std::env::var_os("TOLLGATE_MODEL").is_some_and(|size| size == "large")
}

#[test]
fn a_store_that_loses_writes_and_trims_its_log() {
    let bounds = Bounds { ticks: 1, commits: 2, losses: 1, trims: 1, ..NOTHING };
    Fleet::new(1, 2, FIRST, bounds).check("losses");
    if large() {
        Fleet::new(1, 2, FIRST, Bounds { losses: 2, ..bounds }).check("more losses");
        Fleet::new(1, 2, FIRST, Bounds { commits: 3, trims: 0, ..bounds }).check("more commits");
    }
}

/// Their absence from a snapshot is no revocation, whatever else was committed since, and how far the log goes back: they may be
/// imported again.
#[test]
fn a_store_that_loses_tokens_which_are_created_again() {
    let bounds = Bounds { commits: 3, losses: 1, trims: 1, moves: 1, notices: false, ..NOTHING };
    Fleet::new(1, 2, FIRST, bounds).check("imports");
    if large() {
        let bounds = Bounds { commits: 4, moves: 0, ..bounds };
        Fleet::new(1, 3, FIRST, bounds).check("imports beyond the log");
    }
}

#[test]
fn a_store_that_is_restored_from_a_backup() {
    let bounds = Bounds { ticks: 1, commits: 2, restores: 1, ..NOTHING };
    Fleet::new(1, 2, FIRST, bounds).check("backups");
    if large() {
        let bounds = Bounds { losses: 1, ..bounds };
        Fleet::new(1, 2, FIRST, bounds).check("backups and losses");
    }
}

#[test]
fn a_sidecar_that_is_restarted() {
    let bounds = Bounds { ticks: 1, commits: 1, losses: 1, saves: 1, restarts: 1, ..NOTHING };
    Fleet::new(1, 1, FIRST, bounds).check("restarts");
    if large() {
        let bounds = Bounds { ticks: 2, ..bounds };
        Fleet { max_staleness: 1, ..Fleet::new(1, 1, FIRST, bounds) }.check("restarts for longer");
        let bounds = Bounds { ticks: 1, commits: 2, ..bounds };
        Fleet::new(1, 2, FIRST, bounds).check("restarts and commits");
    }
}

#[test]
fn reads_that_fail() {
    let bounds = Bounds { ticks: 1, commits: 2, trims: 1, failures: 1, moves: 1, ..NOTHING };
    Fleet::new(1, 2, FIRST, bounds).check("failures");
    if large() {
        let bounds = Bounds { losses: 1, ..bounds };
        Fleet::new(1, 2, FIRST, bounds).check("failures and losses");
    }
}

#[test]
fn two_sidecars() {
    let bounds = Bounds { ticks: 0, commits: 1, losses: 1, ..NOTHING };
    Fleet::new(2, 1, FIRST, bounds).check("two sidecars");
    if large() {
        Fleet::new(2, 1, FIRST, Bounds { ticks: 1, ..bounds }).check("two sidecars for longer");
    }
}

/// A reassignment is written and lost, another one has read what it wrote, and a revocation gets its revision.
#[test]
fn commands_that_have_read_what_is_lost() {
    let bounds = Bounds { ticks: 1, commits: 1, reassigns: 2, losses: 1, notices: false, ..NOTHING };
    let fleet = || Fleet::new(1, 1, FIRST, bounds);
    fleet().check("versions");
    fleet().counterexample(ACTIVE_AGAIN);
    if large() {
        Fleet::new(1, 1, FIRST, Bounds { trims: 1, ..bounds }).counterexample(REFUSED);
    }
}

/// A commit is lost while a command waits for it, and another one gets its revision.
#[test]
fn receipts_for_what_is_lost() {
    let bounds = Bounds { commits: 1, waits: 1, reports: 2, losses: 1, notices: false, ..NOTHING };
    let fleet = || Fleet::new(1, 2, FIRST, bounds);
    fleet().check("receipts for what is lost");
    fleet().counterexample(A_YES);
}

/// Reports are lost with the store that had them.
#[test]
fn receipts_from_a_store_that_has_lost_reports() {
    let bounds = Bounds { ticks: 1, waits: 1, reports: 1, losses: 1, lost_reports: true, notices: false, ..NOTHING };
    let fleet = || Fleet::new(1, 1, FIRST, bounds);
    fleet().check("lost reports");
    fleet().counterexample(A_YES);
}

/// A sidecar that was cut off comes back.
#[test]
fn receipts_beside_a_sidecar_that_was_cut_off() {
    let bounds = Bounds { ticks: 2, waits: 1, reports: 2, notices: false, ..NOTHING };
    let fleet = || Fleet::new(1, 1, FIRST, bounds);
    fleet().check("cut off");
    fleet().counterexample(A_YES);
}
