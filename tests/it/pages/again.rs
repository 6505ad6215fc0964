//! Forms that are sent again: by a second click, or since no answer arrived.

use tollgate::store::SidecarId;

use super::client::{Answer, Client, count, owner};
use super::*;
use crate::harness::within;

/// A receipt takes as long as there is a sidecar that says nothing.
async fn wait_for_receipts(site: &Site) {
    let store = site.registry.store();
    let mut standing = store.sidecars().await.expect("reads").remove(0).report;
    (standing.id, standing.applied) = (SidecarId(7), None);
    store.report(&standing, Duration::from_secs(60)).await.expect("reports");
}

async fn wait_no_more(site: &Site) {
    site.registry.store().withdraw(SidecarId(7)).await.expect("withdraws");
}

/// The value on a page.
fn value(page: &Answer) -> &str {
    let (_, rest) =
        page.body.split_once("data-secret value=\"").unwrap_or_else(|| panic!("{} {}", page.head, page.body));
    rest.split('"').next().expect("its value")
}

/// Sends the first form twice, the second time before the first is answered, which the browser then drops.
async fn twice(site: &Site, client: &Client, path: &str, form: &str) -> Answer {
    wait_for_receipts(site).await;
    let before = site.revision().await;
    let first = tokio::spawn({
        let (client, path, form) = (client.clone(), path.to_owned(), form.to_owned());
        async move { client.post(&path, &form).await.status }
    });
    within("it is done", async {
        while site.revision().await == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let second = tokio::spawn({
        let (client, path, form) = (client.clone(), path.to_owned(), form.to_owned());
        async move { client.post(&path, &form).await }
    });
    first.abort();
    assert!(first.await.is_err(), "the first is not answered");
    wait_no_more(site).await;
    second.await.expect("answers")
}

#[tokio::test]
async fn a_value_is_on_the_page_of_the_last_click() {
    let site = Site::start().await;
    let client = owner(&site).await;
    let before = count(&site).await;
    let create = format!(
        "once={}&description=twice&preset=telegraf-agent&expires=30d",
        client.get("/tokens/new").await.hidden("once")
    );
    let rotate = format!("/tokens/{}/rotate", site.agent.id);
    let overlap = format!("once={}&overlap=1h", client.get(&rotate).await.hidden("once"));
    for (path, form, made) in [("/tokens/new", &create, 1), (rotate.as_str(), &overlap, 2)] {
        let page = twice(&site, &client, path, form).await;
        let raw = value(&page).to_owned();
        assert_eq!((page.status, count(&site).await), (200, before + made), "{path}");
        assert_eq!(site.beat(&Token { raw: raw.clone(), id: site.agent.id }).await.status(), 200);
        // A third time too, as when the connection broke on the way back; until somebody has gone on.
        assert_eq!(value(&client.post(path, form).await), raw);
        let (_, id) =
            page.body.split_once("href=\"/tokens/").and_then(|_| page.body.rsplit_once("/tokens/")).expect("a link");
        let id = id.split('"').next().expect("an id").to_owned();
        assert_eq!(client.get(&format!("/tokens/{id}")).await.status, 200);
        let again = client.post(path, form).await;
        assert_eq!((again.status, again.field("location")), (303, Some(format!("/tokens/{id}/manage").as_str())));
        let told = client.get(&format!("/tokens/{id}/manage")).await;
        assert!(told.body.contains("cannot be had again") && !told.body.contains(&raw[9..]), "{}", told.body);
        assert!(told.body.contains(&format!("/tokens/{id}/rotate")) && told.body.contains("rotate the token"));
        assert_eq!(count(&site).await, before + made, "nothing more is made");
    }
}

/// A browser that goes back may show the page that it had, with the mark of then.
#[tokio::test]
async fn a_form_that_was_filled_in_anew_is_another_one() {
    let site = Site::start().await;
    let client = owner(&site).await;
    let once = client.get("/add-user").await.hidden("once");
    for name in ["ann", "ben", "ann"] {
        let added = client.post("/add-user", &format!("once={once}&name={name}&role=viewer")).await;
        assert_eq!(
            (added.status, added.field("location")),
            (303, Some(format!("/users/{name}").as_str())),
            "{}",
            added.body
        );
        assert_eq!(client.get(&format!("/users/{name}")).await.status, 200);
    }
}

#[tokio::test]
async fn what_was_done_is_told_by_the_last_click() {
    let site = Site::start().await;
    let client = owner(&site).await;
    let mut tokens = Vec::new();
    for number in 0..4 {
        tokens.push(token_called(&site, "olga", &format!("Twice {number}"), PermissionSet::TELEGRAF_AGENT).await.id);
    }
    let [one, two, three, four] = tokens[..] else { panic!("four") };
    let of_one = |verb: &str| format!("/tokens/{one}/{verb}");
    let cases = [
        ("/add-user".to_owned(), "/add-user", "name=max&role=administrator".to_owned(), "/users/max", "Added max."),
        (
            of_one("reassign"),
            "/tokens/do/reassign",
            format!("id={one}&to=max"),
            &of_one("")[..21],
            "Reassigned “Twice 0”.",
        ),
        (of_one("revoke"), "/tokens/do/revoke", format!("id={one}"), &of_one("")[..21], "Revoked “Twice 0”."),
        (format!("/tokens/{two}/delete"), "/tokens/do/delete", format!("id={two}"), "/tokens", "Deleted “Twice 1”."),
        (String::new(), "/tokens/do/delete", format!("id={four}&id={three}"), "/tokens", "Deleted 2 tokens."),
        ("/users/max/disable".to_owned(), "/users/max/disable", "x=".to_owned(), "/users/max", "Disabled max."),
        ("/users/max/enable".to_owned(), "/users/max/enable", "x=".to_owned(), "/users/max", "Enabled max."),
        ("/users/max/delete".to_owned(), "/users/max/delete", "x=".to_owned(), "/users", "Deleted max and 1 token."),
    ];
    for (shown, path, form, leads, said) in cases {
        let page = match shown.is_empty() {
            true => client.post("/tokens/confirm", &format!("verb=delete&{form}")).await,
            false => client.get(&shown).await,
        };
        let mut form = form.trim_end_matches("x=").to_owned();
        for name in ["once", "fingerprint", "version"] {
            if page.body.contains(&format!("name=\"{name}\"")) {
                form = format!("{form}&{name}={}", page.hidden(name));
            }
        }
        let again = twice(&site, &client, path, form.trim_start_matches('&')).await;
        assert_eq!((again.status, again.field("location")), (303, Some(leads)), "{path}: {}", again.body);
        // And when its answer was read before: once on the page, however often it was sent.
        assert_eq!(client.post(path, form.trim_start_matches('&')).await.field("location"), Some(leads), "{path}");
        let told = client.get(leads).await.body;
        assert_eq!(told.matches(said).count(), 1, "{said}: {told}");
    }
}

#[tokio::test]
async fn a_form_that_did_nothing_is_sent_once_more() {
    let site = Site::start().await;
    let client = owner(&site).await;
    let before = count(&site).await;
    let once = client.get("/tokens/new").await.hidden("once");
    let form = |rest: &str| format!("once={once}&description=x&expires=30d{rest}");
    assert_eq!(client.post("/tokens/new", &form("")).await.status, 400);
    let page = client.post("/tokens/new", &form("&preset=telegraf-agent")).await;
    assert_eq!((page.status, count(&site).await), (200, before + 1));
    // The mark is of a session: another one's makes something else.
    let other = owner(&site).await;
    let others = other.post("/tokens/new", &form("&preset=telegraf-agent")).await;
    assert!(value(&others) != value(&page) && count(&site).await == before + 2);
}

/// What the page does by itself about a second click, and that it lets a form be sent again when one comes back.
#[tokio::test]
async fn a_double_click_is_a_click() {
    const COUNT: &str = "window.sent = 0; document.addEventListener('submit', event => { \
                         if (!event.defaultPrevented) window.sent++; event.preventDefault(); });";
    let site = Site::start().await;
    let browser = signed_in(&site, &site.owner, Looks::default()).await;
    for (path, fields, button) in [
        ("/tokens/new".to_owned(), "#description", "main form .primary"),
        (format!("/tokens/{}/rotate", site.agent.id), "", "main form .primary"),
        (format!("/tokens/{}/delete", site.agent.id), "", "main form .danger"),
        ("/add-user".to_owned(), "#name", "main form .primary"),
    ] {
        browser.go(&path).await;
        if !fields.is_empty() {
            browser.fill(fields, "x").await;
        }
        browser.script(COUNT).await;
        let click =
            format!("for (let n = 0; n < 3; n++) document.querySelector('{button}').click(); return window.sent");
        assert_eq!(browser.script(&click).await, 1, "{path}");
        browser.script("window.dispatchEvent(new Event('pageshow'))").await;
        assert_eq!(browser.script(&click).await, 2, "{path}");
    }
}
