//! When tokens were used, and by which agents.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tollgate::store::{Agent, AgentName, AgentUse, StateFilter, TokenFilter, TokenUsage, Use, UseFilter};

use super::*;

const HOUR: Duration = Duration::from_hours(1);

/// Two tokens, the older one first.
async fn made(store: &dyn Store) -> [Versioned<TokenRecord>; 2] {
    let records = ["one", "two"].map(|name| token(UserId::from_u64(1), name));
    let version = commit(store, tokens(records.clone().map(Edit::Create))).await.id;
    records.map(|record| Versioned { record, version })
}

fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

fn named(name: &str, age: Duration, at: u8, version: Option<&str>) -> AgentUse {
    let version = version.map(str::to_owned);
    AgentUse { name: AgentName::Id(name.to_owned()), age, address: address(at), version }
}

fn unnamed(age: Duration, at: u8) -> AgentUse {
    AgentUse { name: AgentName::Address(address(at)), age, address: address(at), version: None }
}

fn used(token: &Versioned<TokenRecord>, age: Duration, agents: impl Into<Vec<AgentUse>>) -> Use {
    Use { token: token.record.id, age, agents: agents.into() }
}

async fn usage(store: &dyn Store, token: &Versioned<TokenRecord>) -> TokenUsage {
    store.usage(&[token.record.id]).await.expect("reads").tokens[0]
}

/// How long ago a token was last used.
async fn age(store: &dyn Store, token: &Versioned<TokenRecord>) -> Option<Duration> {
    let usages = store.usage(&[token.record.id]).await.expect("reads");
    let at = usages.tokens[0].last_used?;
    Some(usages.now.duration_since(at).try_into().expect("not in the future"))
}

async fn agents(store: &dyn Store, token: &Versioned<TokenRecord>, limit: usize) -> Vec<Agent> {
    store.agents(&[token.record.id], limit).await.expect("reads").swap_remove(0)
}

async fn names(store: &dyn Store, token: &Versioned<TokenRecord>) -> Vec<String> {
    agents(store, token, 10).await.into_iter().map(|agent| agent.name.to_string()).collect()
}

fn is_about(found: Duration, expected: Duration) -> bool {
    found >= expected && found < expected + Duration::from_secs(30)
}

pub(super) async fn uses_are_told_as_they_were_left<D: Database>() {
    let (_database, store) = store::<D>().await;
    let [one, two] = made(&*store).await;
    let before = store.usage(&[one.record.id]).await.expect("reads");
    assert_eq!((before.since, before.tokens), (None, vec![TokenUsage::default()]));
    store.record(&[]).await.expect("records");
    let since = store.usage(&[]).await.expect("reads").since.expect("uses are recorded now");
    let by = [named("web-1", HOUR, 1, Some("1.39.0")), named("web-2", 25 * HOUR, 2, None), unnamed(2 * HOUR, 3)];
    store.record(&[used(&one, HOUR, by)]).await.expect("records");

    let ids = [two.record.id, one.record.id, TokenId::from_u64(7)];
    let found = store.usage(&ids).await.expect("reads");
    let last_uses: Vec<_> = found.tokens.iter().map(|usage| usage.last_used).collect();
    assert_eq!(store.last_used(&ids).await.expect("reads"), last_uses);
    assert_eq!(found.since, Some(since));
    let counts = |usage: &TokenUsage| (usage.day.agents, usage.month.agents, usage.month.is_estimate);
    assert_eq!(found.tokens.iter().map(counts).collect::<Vec<_>>(), [(0, 0, false), (2, 3, false), (0, 0, false)]);
    assert_eq!(found.tokens.iter().map(|usage| usage.last_used.is_some()).collect::<Vec<_>>(), [false, true, false]);
    assert!(is_about(age(&*store, &one).await.expect("used"), HOUR));
    let agents = agents(&*store, &one, 2).await;
    let shown = |agent: &Agent| (agent.name.to_string(), agent.address, agent.version.clone());
    let expected =
        [("web-1".to_owned(), address(1), Some("1.39.0".to_owned())), ("10.0.0.3".to_owned(), address(3), None)];
    assert_eq!(agents.iter().map(shown).collect::<Vec<_>>(), expected, "the latest first, as many as asked for");
}

pub(super) async fn the_latest_use_wins<D: Database>() {
    let (_database, store) = store::<D>().await;
    let [one, _] = made(&*store).await;
    let late = used(&one, HOUR, [named("web-1", HOUR, 1, Some("1.39.0"))]);
    let early = used(&one, 3 * HOUR, [named("web-1", 3 * HOUR, 9, None), named("web-2", 3 * HOUR, 2, None)]);
    for uses in [&late, &early, &late] {
        store.record(std::slice::from_ref(uses)).await.expect("records");
    }
    assert!(is_about(age(&*store, &one).await.expect("used"), HOUR), "what comes late takes nothing back");
    assert_eq!(usage(&*store, &one).await.day.agents, 2, "and nothing counts twice");
    assert_eq!(names(&*store, &one).await, ["web-1", "web-2"]);
    store
        .record(&[used(&one, Duration::ZERO, [named("web-2", Duration::ZERO, 7, Some("1.40.0"))])])
        .await
        .expect("records");
    let first = agents(&*store, &one, 1).await.remove(0);
    assert_eq!((first.name.to_string().as_str(), first.address), ("web-2", address(7)), "where it is now");
    assert_eq!(first.version.as_deref(), Some("1.40.0"));
}

pub(super) async fn an_agent_that_is_named_is_not_counted_by_its_address_too<D: Database>() {
    let (_database, store) = store::<D>().await;
    let [one, two] = made(&*store).await;
    // It fetches its configuration before its first heartbeat.
    store.record(&[used(&one, HOUR, [unnamed(HOUR, 1), unnamed(HOUR, 2)])]).await.expect("records");
    store.record(&[used(&one, HOUR, [named("web-1", HOUR, 1, None)])]).await.expect("records");
    assert_eq!(names(&*store, &one).await, ["web-1", "10.0.0.2"]);
    // And goes on to do so.
    store.record(&[used(&one, Duration::ZERO, [unnamed(Duration::ZERO, 1)])]).await.expect("records");
    assert_eq!(usage(&*store, &one).await.day.agents, 2);
    assert!(is_about(age(&*store, &one).await.expect("used"), Duration::ZERO), "the token was used all the same");
    // Elsewhere that address is somebody.
    store.record(&[used(&two, HOUR, [unnamed(HOUR, 1)])]).await.expect("records");
    assert_eq!(names(&*store, &two).await, ["10.0.0.1"]);
    // Who has moved leaves the address to others.
    store.record(&[used(&one, Duration::ZERO, [named("web-1", Duration::ZERO, 3, None)])]).await.expect("records");
    store.record(&[used(&one, Duration::ZERO, [unnamed(Duration::ZERO, 1)])]).await.expect("records");
    assert_eq!(usage(&*store, &one).await.day.agents, 3);
}

pub(super) async fn use_goes_with_its_token<D: Database>() {
    let (_database, store) = store::<D>().await;
    let [one, two] = made(&*store).await;
    let uses = [&one, &two].map(|token| used(token, HOUR, [named("web-1", HOUR, 1, None)]));
    store.record(&uses).await.expect("records");
    commit(&*store, tokens([Edit::Delete(one.clone())])).await;
    // A sidecar that had not told of it yet.
    store.record(&uses).await.expect("records");
    assert_eq!(usage(&*store, &one).await, TokenUsage::default());
    assert_eq!(names(&*store, &one).await, [""; 0]);
    assert_eq!(usage(&*store, &two).await.day.agents, 1);
    // What was let through before a revocation was let through.
    let after = revoked(two.record.clone());
    commit(&*store, tokens([Edit::Update { before: two.clone(), after }])).await;
    store.record(&[used(&two, Duration::ZERO, [])]).await.expect("records");
    assert!(is_about(age(&*store, &two).await.expect("used"), Duration::ZERO));
}

pub(super) async fn what_is_long_ago_is_forgotten_once_others_use_the_token<D: Database>() {
    let (_database, store) = store::<D>().await;
    let [one, _] = made(&*store).await;
    let (old, day) = (31 * 24 * HOUR, 24 * HOUR);
    store.record(&[used(&one, 29 * day, [named("web-1", 29 * day, 1, None)])]).await.expect("records");
    assert_eq!(names(&*store, &one).await, ["web-1"]);
    store
        .record(&[used(&one, HOUR, [named("web-2", old, 1, None), named("web-3", HOUR, 3, None)])])
        .await
        .expect("records");
    assert_eq!(names(&*store, &one).await, ["web-3", "web-1"]);
    let TokenUsage { day, month, .. } = usage(&*store, &one).await;
    assert_eq!((day.agents, month.agents), (1, 2));
}

pub(super) async fn lists_follow_use<D: Database>() {
    let (_database, store) = store::<D>().await;
    let [one, two] = made(&*store).await;
    store.record(&[used(&two, HOUR, [])]).await.expect("records");
    let now = store.usage(&[]).await.expect("reads").now;
    let listed = async |filter: UseFilter, state: Option<StateFilter>| {
        let filter = TokenFilter { unused: Some(filter), state, ..TokenFilter::default() };
        let found = store.tokens(filter, None, 10).await.expect("lists");
        assert_eq!(store.count_tokens(filter).await.expect("counts"), found.len() as u64);
        found.into_iter().map(|token| token.record.id).collect::<Vec<_>>()
    };
    let [first, second] = [&one, &two].map(|token| token.record.id);
    let since = |age: Duration| UseFilter::UnusedSince(now.checked_sub(age).expect("a time"));
    let later = UseFilter::UnusedSince(now.checked_add(HOUR).expect("a time"));
    assert_eq!(listed(later, None).await, [second, first]);
    assert_eq!(listed(since(2 * HOUR), None).await, [], "they are younger");
    let never = UseFilter::NeverUsedSince(now.checked_sub(HOUR).expect("a time"));
    assert_eq!(listed(never, None).await, [first]);
    assert_eq!(listed(never, Some(StateFilter::Revoked)).await, []);
    assert_eq!(listed(UseFilter::NeverUsedSince(now.checked_add(HOUR).expect("a time")), None).await, []);
}

pub(super) async fn many_agents_are_counted_within_two_percent<D: Database>() {
    let database = D::create(Retention { agents: 4_000, ..Retention::default() }).await;
    let store = database.handle().await;
    let [one, two] = made(&*store).await;
    let agent = |number: u64, age: Duration| named(&format!("agent-{number}"), age, 1, None);
    let minute = Duration::from_mins(1);
    // The first ones are the oldest.
    let all: Vec<_> = (0..40_000).map(|number| agent(number, 2 * HOUR - Duration::from_millis(number))).collect();
    store.record(&[used(&one, minute, all)]).await.expect("records");
    let TokenUsage { day, month, .. } = usage(&*store, &one).await;
    assert!(day.is_estimate && (39_200..=40_800).contains(&day.agents), "{day:?}");
    assert_eq!(day, month);
    let stored = agents(&*store, &one, usize::MAX).await;
    assert!(stored.len() < 25_000, "{} of them are stored", stored.len());
    // Once more changes nothing, for those who were dropped either.
    let again: Vec<_> = (0..500).map(|number| agent(number, minute)).collect();
    store.record(&[used(&one, minute, again)]).await.expect("records");
    let again = usage(&*store, &one).await.day;
    assert!((39_200..=40_800).contains(&again.agents), "{again:?}");
    let few: Vec<_> = (0..4_000).map(|number| agent(number, HOUR)).collect();
    store.record(&[used(&two, HOUR, few)]).await.expect("records");
    let few = usage(&*store, &two).await.day;
    assert_eq!((few.agents, few.is_estimate), (4_000, false));
}
