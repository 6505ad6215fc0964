//! Fetches that are under way: one of the same thing at a time, whose outcome all get who ask for it meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use super::super::refusal::Refusal;
use super::entry::Entry;
use super::key::{Part, Place};
use crate::lock::Mutex;

/// How far a fetch is.
#[derive(Debug, Clone)]
pub(super) enum State {
    /// The Controller has said nothing yet.
    Asking,
    /// For so long that nobody should wait who has an answer.
    Silent,
    /// It has begun to reply.
    Answered,
    /// It is over.
    Done(Outcome),
}

/// What came of a fetch.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// An answer for all whom its `Vary` allows it.
    Shared(Arc<Entry>),
    /// The Controller is away: what those are told who had no answer stored.
    Away(Refusal),
    /// The Controller says itself that it is away.
    SaysAway,
    /// A reply for who asked first alone: the others ask by themselves, all at once.
    Apart,
    /// Nothing that the Controller had to do with.
    Refused(Refusal),
    /// It ended for a reason of its own, such as that its token was revoked: somebody else begins.
    Again,
}

/// The fetches that are under way, by what they fetch; in what its answer varies by beyond that, it may be for some only.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<BTreeMap<Place, Arc<Flight>>>);

#[derive(Debug)]
struct Flight {
    state: watch::Sender<State>,
    /// What it fetches was forgotten since it began: what it brings may be what was deleted.
    is_outdated: AtomicBool,
}

/// Whoever makes a fetch has this, and says by it what comes of it. Dropped, it says [`Outcome::Again`].
pub(super) struct Landing {
    flights: Arc<Flights>,
    place: Place,
    flight: Arc<Flight>,
}

impl Flights {
    /// Takes part in a fetch: in one that is under way, or in a new one, which the caller has to make then. One that is silent may
    /// be stuck in a connection that nobody is at the other end of, so nobody joins it any more.
    pub(super) fn join(self: &Arc<Self>, place: Place) -> (watch::Receiver<State>, Option<Landing>) {
        let mut flights = self.0.lock();
        let is_silent = |flight: &Flight| matches!(*flight.state.borrow(), State::Silent);
        if let Some(flight) = flights.get(&place).filter(|flight| !is_silent(flight)) {
            return (flight.state.subscribe(), None);
        }
        let (state, seen) = watch::channel(State::Asking);
        let flight = Arc::new(Flight { state, is_outdated: AtomicBool::new(false) });
        flights.insert(place, Arc::clone(&flight));
        (seen, Some(Landing { flights: Arc::clone(self), place, flight }))
    }

    /// What is fetched of a path, or at all, is not to be stored any more.
    pub(super) fn forget(&self, path: Option<Part>) {
        for (_, flight) in self.0.lock().iter().filter(|(place, _)| path.is_none_or(|path| place.path == path)) {
            flight.is_outdated.store(true, Ordering::Relaxed);
        }
    }
}

impl Landing {
    /// How far it is, short of its end.
    pub(super) fn is(&self, state: State) {
        self.flight.state.send_replace(state);
    }

    /// Whether what it fetches was forgotten since it began.
    pub(super) fn is_outdated(&self) -> bool {
        self.flight.is_outdated.load(Ordering::Relaxed)
    }

    /// It is over.
    pub(super) fn end(self, outcome: Outcome) {
        self.leave();
        self.flight.state.send_replace(State::Done(outcome));
    }

    /// Who asks from here on begins another one.
    fn leave(&self) {
        let mut flights = self.flights.0.lock();
        if flights.get(&self.place).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            flights.remove(&self.place);
        }
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.leave();
        self.flight.state.send_if_modified(|state| {
            let is_over = matches!(state, State::Done(_));
            if !is_over {
                *state = State::Done(Outcome::Again);
            }
            !is_over
        });
    }
}
