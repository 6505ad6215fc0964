//! Fetches that are under way: one of the same thing at a time, whose outcome all get who ask for it meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use super::super::refusal::Refusal;
use super::entry::Entry;
use super::key::Place;
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
    /// The Controller is away, or cannot be asked: what those are told who have no answer stored.
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
    /// Somebody was given the stored answer in place of what it brings.
    is_owed: AtomicBool,
}

/// Whoever waits for a fetch has this.
pub(super) struct Waiting {
    seen: watch::Receiver<State>,
    flight: Arc<Flight>,
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
    pub(super) fn join(self: &Arc<Self>, place: Place) -> (Waiting, Option<Landing>) {
        let mut flights = self.0.lock();
        let is_silent = |flight: &Flight| matches!(*flight.state.borrow(), State::Silent);
        if let Some(flight) = flights.get(&place).filter(|flight| !is_silent(flight)) {
            return (Waiting { seen: flight.state.subscribe(), flight: Arc::clone(flight) }, None);
        }
        let (state, seen) = watch::channel(State::Asking);
        let flight = Arc::new(Flight { state, is_owed: AtomicBool::new(false) });
        flights.insert(place, Arc::clone(&flight));
        let waiting = Waiting { seen, flight: Arc::clone(&flight) };
        (waiting, Some(Landing { flights: Arc::clone(self), place, flight }))
    }
}

impl Waiting {
    /// Waits until it is over, or is silent and was not so `before`.
    pub(super) async fn news(&mut self, was_silent: bool) -> State {
        let is_news = |state: &State| match state {
            State::Asking | State::Answered => false,
            State::Silent => !was_silent,
            State::Done(_) => true,
        };
        let news = self.seen.wait_for(is_news).await.map(|state| state.clone());
        // What comes of it is said before it goes.
        news.unwrap_or(State::Done(Outcome::Again))
    }

    /// Waits no longer, since there is a stored answer; what it brings is to be stored in the place of that.
    pub(super) fn make_do(&self) {
        self.flight.is_owed.store(true, Ordering::Relaxed);
    }
}

impl Landing {
    /// Waits until nobody wants what it brings: all who waited have left.
    pub(super) async fn is_unwanted(&self) {
        self.flight.state.closed().await;
        if self.flight.is_owed.load(Ordering::Relaxed) {
            std::future::pending().await
        }
    }

    /// How far it is, short of its end.
    pub(super) fn is(&self, state: State) {
        self.flight.state.send_replace(state);
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
