//! The configuration cache: what was fetched is given when the Controller is away, to whoever is authorised at that moment.

mod authorised;
mod breaker;
mod disk;
mod forgotten;
mod head;
mod memory;
mod operators;
mod outage;
mod shared;
mod stored;
mod take_over;

use crate::harness::{Builder, Reply, Script, Site, Token, request, scripted};

/// What agents fetch, with a parameter that the Controller fills in.
const PATH: &str = "/api/configs/1/toml?host=a";

/// When it was modified.
const MODIFIED: &str = "Wed, 21 Oct 2015 07:28:00 GMT";

/// Another time.
const LATER: &str = "Thu, 22 Oct 2015 07:28:00 GMT";

/// A site with the cache.
fn cached() -> Builder {
    Site::builder().setting("CONFIG_CACHE__ENABLED", "true")
}

/// A configuration, as the Controller answers with it.
fn configuration(body: &str) -> String {
    modified(MODIFIED, body)
}

fn modified(at: &str, body: &str) -> String {
    scripted("200 OK", &format!("Content-Type: application/toml\r\nLast-Modified: {at}\r\n"), body)
}

/// From here on the Controller says so itself, whatever it is asked.
fn is_away(site: &Site) {
    site.api.otherwise(|| Script::reply(scripted("503 Service Unavailable", "Retry-After: 5\r\n", "away")));
}

/// The configuration is stored.
async fn fetched(site: &Site, path: &str, body: &str) {
    site.api.next(Script::reply(configuration(body)));
    let reply = site.get(path, &site.agent).await;
    assert_eq!((reply.status(), reply.text()), (200, body));
    assert_fresh(&reply);
}

/// It is the Controller's own answer.
fn assert_fresh(reply: &Reply) {
    assert_eq!((reply.field("Age"), reply.field("Cache-Status")), (None, None), "{reply:?}");
}

/// It is the stored one.
fn assert_stored(reply: &Reply, body: &str) {
    assert_eq!((reply.status(), reply.text()), (200, body), "{reply:?}");
    assert!(reply.field("Age").expect("an age").parse::<u32>().expect("seconds") < 60, "{reply:?}");
    assert!(reply.field("Cache-Status").expect("where it is from").starts_with("tollgate; "), "{reply:?}");
}

/// A request with a token and fields of its own.
fn with(token: &Token, method: &str, path: &str, fields: &str) -> String {
    request(method, path, &format!("Authorization: Bearer {}\r\n{fields}", token.raw))
}
