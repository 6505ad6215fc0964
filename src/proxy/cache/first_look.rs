//! Who was given a stored answer, and has not asked yet when that was modified.
//!
//! Telegraf's watcher takes the `Last-Modified` of its *first* `HEAD` for that of what its agent runs, whatever that is. One that asks
//! for the first time when the Controller is back would take the time of what was edited meanwhile for that of the stored answer which
//! its agent booted from, and never load the edit. So that `HEAD` is told the time of the stored answer; the next one is told another,
//! and the agent loads what the Controller has.
//!
//! Who looks cannot be told from others of one address and token. To be told too much an older time only costs a reload, or delays one;
//! who is told too little never loads the edit. So an answer of the Controller's, which one of them may have been given, forgives
//! none, and of several times the one that was owed first is told.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use super::super::exchange::Exchange;
use super::super::request::Origin;
use super::super::{Permit, sanitize};
use super::key::{Key, Part};
use crate::clock::Instant;
use crate::lock::Mutex;
use crate::token::TokenId;

/// How many are remembered since the last time that the others became the older ones: twice as many are at most.
const GENERATION: usize = 1 << 16;

/// Who has not looked for so long does not watch, or was restarted since: its look delays nobody's edit any more.
const DUE: Duration = Duration::from_hours(1);

/// An agent, as far as can be told: several that ask for the same with one token from one address are one, and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Agent {
    /// What it asks for.
    subject: Part,
    /// `None` on an open route.
    token: Option<TokenId>,
    /// Where it is.
    address: IpAddr,
}

/// The first looks that are to come.
#[derive(Debug, Default)]
pub(super) struct FirstLooks(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Agent, Due>,
    /// What nobody has looked at since they became these goes when the next ones do: agents that do not watch never look.
    old: HashMap<Agent, Due>,
}

#[derive(Debug)]
struct Due {
    modified: HeaderValue,
    times: u32,
    /// When the last stored answer was given.
    since: Instant,
}

impl Agent {
    /// Whose request this is, with its fields as they came.
    pub(super) fn of(exchange: &Exchange, permit: &Permit, key: &Key, fields: &HeaderMap) -> Self {
        let (&Origin { address, trusted, .. }, gate) = (&exchange.origin, &exchange.proxy.gate);
        Self {
            subject: key.place.subject,
            token: permit.admission().map(|admission| admission.holder.token),
            address: sanitize::client(fields, address, trusted, |hop| gate.trusts(hop)).to_canonical(),
        }
    }
}

impl FirstLooks {
    /// It was given a stored answer, modified then.
    pub(super) fn owe(&self, agent: Agent, modified: HeaderValue) {
        let mut looks = self.0.lock();
        let (modified, times) = looks.take(&agent).map_or((modified, 0), |due| (due.modified, due.times));
        let times = times.saturating_add(1);
        if looks.young.len() >= GENERATION {
            looks.old = std::mem::take(&mut looks.young);
        }
        looks.young.insert(agent, Due { modified, times, since: Instant::now() });
    }

    /// What the agent's watcher is to be told in place of what is true now.
    pub(super) fn pay(&self, agent: &Agent) -> Option<HeaderValue> {
        let mut looks = self.0.lock();
        let Due { modified, times, since } = looks.take(agent)?;
        if let Some(times @ 1..) = times.checked_sub(1) {
            looks.young.insert(*agent, Due { modified: modified.clone(), times, since });
        }
        Some(modified)
    }
}

impl Generations {
    fn take(&mut self, agent: &Agent) -> Option<Due> {
        let due = self.young.remove(agent).or_else(|| self.old.remove(agent));
        due.filter(|due| due.since.elapsed() < DUE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(number: u32) -> Agent {
        Agent { subject: Part::default(), token: None, address: IpAddr::from(number.to_be_bytes()) }
    }

    fn at(time: &'static str) -> HeaderValue {
        HeaderValue::from_static(time)
    }

    #[test]
    fn each_stored_answer_is_told_once() {
        let looks = FirstLooks::default();
        assert_eq!(looks.pay(&agent(1)), None);
        looks.owe(agent(1), at("then"));
        looks.owe(agent(1), at("then"));
        looks.owe(agent(2), at("then"));
        assert_eq!(looks.pay(&agent(3)), None);
        assert_eq!([1, 1, 1].map(|number| looks.pay(&agent(number))), [Some(at("then")), Some(at("then")), None]);
        assert_eq!(looks.pay(&agent(2)), Some(at("then")));
        // These may be two agents. Who runs the second loads it once more; who runs the first would never load it.
        looks.owe(agent(1), at("then"));
        looks.owe(agent(1), at("later"));
        assert_eq!([1, 1, 1].map(|number| looks.pay(&agent(number))), [Some(at("then")), Some(at("then")), None]);
    }

    #[test]
    fn who_has_not_looked_for_long_delays_nobody() {
        let looks = FirstLooks::default();
        looks.owe(agent(1), at("then"));
        let since = Instant::now().checked_sub(DUE).unwrap_or(Instant::since_boot(Duration::ZERO));
        looks.0.lock().young.values_mut().for_each(|due| due.since = since);
        let is_up_for_so_long = Instant::now().uptime() >= DUE;
        assert_eq!(looks.pay(&agent(1)).is_none(), is_up_for_so_long);
    }

    #[test]
    fn their_number_is_bounded() {
        let looks = FirstLooks::default();
        let many = u32::try_from(3 * GENERATION).expect("fits");
        for number in 0..many {
            looks.owe(agent(number), at("then"));
        }
        let left = looks.0.lock();
        assert_eq!(left.young.len() + left.old.len(), 2 * GENERATION);
        drop(left);
        assert_eq!((looks.pay(&agent(0)), looks.pay(&agent(many - 1))), (None, Some(at("then"))));
    }
}
