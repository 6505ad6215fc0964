//! Connections of the admin listener: how many there are, and which gives way to a new one. So whoever comes is heard: a probe is
//! not locked out by clients that say nothing, that ask and do not read, or that keep the console busy.
//!
//! ```text
//!   waiting for a request, with all of its body ──► answering ──► sending ──► waiting ...
//!                gives way first                       last        second
//! ```
//!
//! A body is waited for before anybody knows whose it is, as that of the form by which one signs in: strangers would keep the
//! console busy with bodies that never come.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use axum::body::Body;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use tokio::sync::{Notify, watch};

use crate::clock::Instant;
use crate::console::Busy;
use crate::lock::Mutex;

/// Longest wait for a connection that gives way to be gone.
const LEAVING: Duration = Duration::from_secs(2);

/// The connections that there are.
#[derive(Debug, Clone)]
pub(super) struct Places {
    most: usize,
    held: Arc<Mutex<Held>>,
    freed: Arc<Notify>,
    closing: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Held {
    next: u64,
    places: BTreeMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    client: IpAddr,
    doing: Doing,
    has_asked: bool,
    since: Instant,
    leave: Arc<Notify>,
}

/// What a connection is at; the body of a request that has not come is waited for as its head is. The later gives way only where there is none of the earlier, and what the console is busy with never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Doing {
    Waiting,
    Sending,
    Answering { is_console: bool },
    Leaving,
}

impl Places {
    /// At most so many connections.
    pub(super) fn new(most: usize) -> Self {
        Self { most, held: Arc::default(), freed: Arc::default(), closing: watch::Sender::new(false) }
    }

    /// A place for a connection of this client. Where all are taken, another connection gives way: one of the client that has
    /// the most, rather one that waits for a request than one that leaves its answer unread, the longest first.
    pub(super) async fn take(&self, client: IpAddr) -> Option<Place> {
        if let Some(place) = self.try_take(client) {
            return Some(place);
        }
        let freed = self.freed.notified();
        self.held.lock().gives_way()?.notify_one();
        _ = tokio::time::timeout(LEAVING, freed).await;
        self.try_take(client)
    }

    /// No further connections, and on those that there are no further requests. Waits until what was asked is answered.
    pub(super) async fn close(&self) {
        self.closing.send_replace(true);
        self.held.lock().dismiss_silent();
        loop {
            let freed = self.freed.notified();
            if self.count() == 0 {
                return;
            }
            freed.await;
        }
    }

    /// How many connections there are.
    pub(super) fn count(&self) -> usize {
        self.held.lock().places.len()
    }

    fn try_take(&self, client: IpAddr) -> Option<Place> {
        let mut held = self.held.lock();
        if held.places.len() >= self.most || *self.closing.borrow() {
            return None;
        }
        let (id, leave) = (held.next, Arc::new(Notify::new()));
        held.next += 1;
        let (doing, since) = (Doing::Waiting, Instant::now());
        let connection = Connection { client, doing, has_asked: false, since, leave: Arc::clone(&leave) };
        held.places.insert(id, connection);
        Some(Place { id, leave, places: self.clone() })
    }
}

impl Held {
    /// Marks the connection that gives way, if one can.
    fn gives_way(&mut self) -> Option<Arc<Notify>> {
        let can = |connection: &Connection| connection.doing < Doing::Answering { is_console: true };
        let mut of: HashMap<IpAddr, usize> = HashMap::new();
        self.places.values().for_each(|connection| *of.entry(connection.client).or_default() += 1);
        let rank = |connection: &&mut Connection| {
            let others = of.get(&connection.client).copied().unwrap_or_default();
            (std::cmp::Reverse(others), connection.doing, connection.since)
        };
        let connection = self.places.values_mut().filter(|connection| can(connection)).min_by_key(rank)?;
        connection.doing = Doing::Leaving;
        Some(Arc::clone(&connection.leave))
    }

    /// Tells those to leave that have asked nothing yet.
    fn dismiss_silent(&mut self) {
        for connection in self.places.values_mut().filter(|connection| !connection.has_asked) {
            connection.doing = Doing::Leaving;
            connection.leave.notify_one();
        }
    }

    /// Whether one more request to the console of this client can be answered: they have half of the places, so that there are
    /// always some that can give way, and one client has three quarters of that, so that it has not the console to itself.
    fn has_room(&self, client: IpAddr, most: usize) -> bool {
        let is_busy = |connection: &&Connection| connection.doing == Doing::Answering { is_console: true };
        let busy = self.places.values().filter(is_busy);
        let (all, own) = busy.fold((0, 0), |(all, own), other| (all + 1, own + usize::from(other.client == client)));
        let console = most / 2;
        all < console && own < console - console / 4
    }
}

/// A connection's place, until it is dropped.
pub(super) struct Place {
    id: u64,
    leave: Arc<Notify>,
    places: Places,
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The connection gives way to another one.
    Leaving,
    /// The console answers as many as it can.
    Busy,
}

impl Place {
    /// Once the connection is to give way.
    pub(super) async fn leave(&self) {
        self.leave.notified().await;
    }

    /// Once the connection is to have no further request.
    pub(super) async fn closing(&self) {
        // This place has the other end.
        drop(self.places.closing.subscribe().wait_for(|closing| *closing).await);
    }

    /// A request has come.
    ///
    /// # Errors
    /// When it gets no answer.
    pub(super) fn begin(&self, is_console: bool) -> Result<Exchange, Refused> {
        self.places.answer(self.id, is_console)?;
        Ok(Exchange { id: self.id, held: Arc::clone(&self.places.held) })
    }

    /// The head of a request to the console has come. Until its body has, the connection gives way as before.
    ///
    /// # Errors
    /// When it gets no answer.
    pub(super) fn begin_receiving<B: HttpBody>(&self, body: B) -> Result<(Exchange, Receiving<B>), Refused> {
        let (exchange, is_whole) = (self.begin(true)?, body.is_end_stream());
        if !is_whole {
            self.places.held.lock().turn(self.id, Doing::Waiting);
        }
        Ok((exchange, Receiving { body, is_whole, id: self.id, places: self.places.clone() }))
    }
}

impl Places {
    /// From now on a request is answered.
    fn answer(&self, id: u64, is_console: bool) -> Result<(), Refused> {
        let mut held = self.held.lock();
        let client = held.places.get(&id).filter(|connection| connection.doing != Doing::Leaving);
        let client = client.map(|connection| connection.client).ok_or(Refused::Leaving)?;
        if is_console && !held.has_room(client, self.most) {
            return Err(Refused::Busy);
        }
        held.turn(id, Doing::Answering { is_console });
        Ok(())
    }
}

/// The body of a request to the console. With its end the answering begins, if the console can answer one more by then.
pub(super) struct Receiving<B> {
    body: B,
    is_whole: bool,
    id: u64,
    places: Places,
}

impl<B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Unpin> HttpBody for Receiving<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if !self.is_whole && (frame.is_none() || self.body.is_end_stream()) {
            self.is_whole = true;
            if self.places.answer(self.id, true).is_err() {
                return Poll::Ready(Some(Err(Busy.into())));
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Held {
    fn turn(&mut self, id: u64, doing: Doing) {
        if let Some(connection) = self.places.get_mut(&id).filter(|connection| connection.doing != Doing::Leaving) {
            (connection.doing, connection.has_asked, connection.since) = (doing, true, Instant::now());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.held.lock().places.remove(&self.id);
        self.places.freed.notify_waiters();
    }
}

/// A request that is answered.
pub(super) struct Exchange {
    id: u64,
    held: Arc<Mutex<Held>>,
}

impl Exchange {
    /// The reply is on its way until its body is gone.
    pub(super) fn sending(self, body: Body) -> Sending {
        self.held.lock().turn(self.id, Doing::Sending);
        Sending { body, _exchange: self }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.held.lock().turn(self.id, Doing::Waiting);
    }
}

/// The body of a reply.
pub(super) struct Sending {
    body: Body,
    _exchange: Exchange,
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    /// Which of the connections were told to leave.
    fn leaving(places: &Places) -> Vec<u64> {
        let held = places.held.lock();
        held.places.iter().filter(|(_, place)| place.doing == Doing::Leaving).map(|(id, _)| *id).collect()
    }

    impl Places {
        fn is_answering(&self, id: u64) -> bool {
            self.held.lock().places[&id].doing == Doing::Answering { is_console: true }
        }
    }

    fn take(places: &Places, last: u8) -> Place {
        places.try_take(client(last)).expect("there is room")
    }

    #[tokio::test]
    async fn whoever_has_the_most_gives_way_and_the_longest_silent_first() {
        let places = Places::new(4);
        let (other, first, second, third) = (take(&places, 1), take(&places, 2), take(&places, 2), take(&places, 2));
        let answering = first.begin(false).expect("is answered");
        let sending = second.begin(false).expect("is answered").sending(Body::empty());
        assert!(places.take(client(3)).await.is_none(), "it is told to leave, and does not");
        assert_eq!(leaving(&places), [third.id]);
        assert_eq!(third.begin(false).err(), Some(Refused::Leaving), "too late");
        drop(third);
        let new = places.take(client(3)).await.expect("has its place");
        assert!(places.take(client(4)).await.is_none());
        assert_eq!(leaving(&places), [second.id], "what is left unread, before another client's");
        drop(sending);
        assert_eq!(leaving(&places), [second.id], "for good");
        drop((second, answering, new));
        assert_eq!((places.held.lock().places.len(), other.id), (2, 0));
    }

    #[tokio::test]
    async fn whoever_is_answered_is_waited_for_and_whoever_is_silent_is_not() {
        let places = Places::new(4);
        let (silent, busy) = (take(&places, 1), take(&places, 2));
        let answering = busy.begin(true).expect("is answered");
        let mut close = Box::pin(places.close());
        let gone = async {
            silent.leave().await;
            drop(silent);
            busy.closing().await;
        };
        tokio::select! {
            () = &mut close => panic!("one is answered still"),
            () = gone => {}
        }
        assert!(places.try_take(client(3)).is_none());
        drop(answering);
        tokio::select! {
            biased;
            () = &mut close => panic!("what was answered is on its way still"),
            () = std::future::ready(()) => {}
        }
        drop(busy);
        close.await;
    }

    #[tokio::test]
    async fn a_place_that_is_given_up_is_taken_at_once() {
        let places = Places::new(1);
        let old = take(&places, 1);
        let gone = async {
            old.leave().await;
            drop(old);
        };
        let (new, ()) = tokio::join!(places.take(client(2)), gone);
        assert_eq!(new.map(|place| place.id), Some(1));
    }

    /// A body that does not come.
    struct Never;

    impl HttpBody for Never {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_gives_way_and_one_that_comes_needs_room() {
        let places = Places::new(80);
        let held: Vec<_> = (0..40).map(|_| take(&places, 1)).collect();
        let _waiting: Vec<_> = held.iter().map(|place| place.begin_receiving(Never).ok()).collect();
        assert!(held.iter().all(|place| !places.is_answering(place.id)), "they are as good as silent");
        let (_exchange, mut whole) =
            held[0].begin_receiving(Body::from("a=b")).unwrap_or_else(|_| panic!("there is room"));
        assert!(!places.is_answering(held[0].id), "it was not read yet");
        let mut read = async || std::future::poll_fn(|cx| Pin::new(&mut whole).poll_frame(cx)).await;
        assert!(read().await.is_some_and(|frame| frame.is_ok()));
        assert!(places.is_answering(held[0].id));
        // By the time that it is there others may have the console.
        let (_exchange, mut late) =
            held[1].begin_receiving(Body::from("a=b")).unwrap_or_else(|_| panic!("there is room"));
        let busy: Vec<_> = held[2..].iter().filter_map(|place| place.begin(true).ok()).collect();
        assert_eq!(busy.len(), 29);
        let refused = std::future::poll_fn(|cx| Pin::new(&mut late).poll_frame(cx)).await;
        assert!(refused.is_some_and(|frame| frame.is_err_and(|error| error.is::<Busy>())));
    }

    #[test]
    fn one_client_does_not_have_the_console_to_itself() {
        let places = Places::new(80);
        let held: Vec<_> = (0..40).map(|_| take(&places, 1)).collect();
        let busy: Vec<_> = held.iter().filter_map(|place| place.begin(true).ok()).collect();
        assert_eq!(busy.len(), 30);
        assert!(held[35].begin(false).is_ok(), "health is answered all the same");
        let others: Vec<_> = (0..40).map(|_| take(&places, 2)).collect();
        let more: Vec<_> = others.iter().filter_map(|place| place.begin(true).ok()).collect();
        assert_eq!(more.len(), 10);
        drop(busy);
        assert!(others[39].begin(true).is_ok());
    }
}
