//! What becomes of a session, and what is told in it.

use super::client::{Client, owner};
use super::*;

/// What was done is told on the next page that somebody sees, whatever scripts ask for before.
#[tokio::test]
async fn a_receipt_waits_for_a_page_that_is_seen() {
    let site = Site::start().await;
    let client = owner(&site).await;
    let asked = client.get(&format!("/tokens/{}/revoke", site.agent.id)).await;
    let form = format!("id={}&fingerprint={}", site.agent.id, asked.hidden("fingerprint"));
    assert_eq!(client.post("/tokens/do/revoke", &form).await.status, 303);
    for by_script in ["X-Tollgate-Poll: 1\r\n", "Sec-Fetch-Dest: empty\r\n"] {
        let script = Client { more: by_script.to_owned(), ..client.clone() };
        for path in ["/fleet", "/nowhere", &format!("/tokens/{}/delete", site.agent.id)] {
            assert!(!script.get(path).await.body.contains("Revoked “"), "{by_script} {path}");
        }
    }
    assert!(client.get("/fleet").await.body.contains("Revoked “"));
    assert!(!client.get("/fleet").await.body.contains("Revoked “"), "once");
    // As a browser says it.
    let browser = signed_in(&site, &site.owner, Looks::default()).await;
    let token = token_called(&site, "olga", "Line 4", PermissionSet::TELEGRAF_AGENT).await;
    browser.go(&format!("/tokens/{}/revoke", token.id)).await;
    let send = "const done = arguments[arguments.length - 1]; const form = document.querySelector('main form'); \
                fetch(form.action, { method: 'POST', body: new URLSearchParams(new FormData(form)), redirect: 'manual' }) \
                .then(() => fetch('/fleet')).then(reply => reply.text()).then(text => done(text.includes('Line 4')))";
    assert_eq!(browser.script_async(send).await, false, "not told to a script");
    browser.go("/fleet").await;
    browser.says("#notices", "Revoked “Line 4”.").await;
}

#[tokio::test]
async fn two_tabs_sign_in_one_after_the_other() {
    let site = Site::start().await;
    let mut client = Client::of(&site);
    let first = client.get("/sign-in").await;
    client.cookie = first.cookie();
    let second = client.get("/sign-in").await;
    client.cookie = second.cookie();
    for page in [first, second] {
        client.csrf = page.hidden("csrf");
        assert_eq!(client.post("/sign-in", &format!("token={}", site.owner.raw)).await.status, 303);
    }
    // What is none is replaced.
    client.cookie = client.cookie.split('=').next().expect("a name").to_owned() + "=short";
    assert_eq!(client.get("/sign-in").await.hidden("csrf").len(), 32);
}

/// The token that one is signed in with: what follows is said before, and after.
#[tokio::test]
async fn who_ends_the_own_session_is_told_so() {
    let site = Site::start().await;
    let adam = person(&site, "adam", Role::Administrator).await;
    let mut client = Client::of(&site);
    client.sign_in_to(&adam, "/tokens").await;
    let page = |verb: &str| format!("/tokens/{}/{verb}", adam.id);
    for (verb, said) in [
        ("rotate", "your session ends when it does"),
        ("reassign", "what its new owner may"),
        ("delete", "session ends too"),
    ] {
        let asked = client.get(&page(verb)).await.body;
        assert!(asked.contains("You are signed in with it") && asked.contains(said), "{verb}: {asked}");
        let other = client.get(&format!("/tokens/{}/{verb}", site.agent.id)).await.body;
        assert!(!other.contains("You are signed in with it"), "{verb}");
    }
    let asked = client.get(&page("revoke")).await;
    let form = format!("id={}&fingerprint={}", adam.id, asked.hidden("fingerprint"));
    let done = client.post("/tokens/do/revoke", &form).await;
    let led = client.get(done.field("location").expect("a way on")).await;
    let signed_out = client.get(led.field("location").expect("a way on")).await.body;
    for said in ["Revoked “adam signs in”.", "Your session has ended.", "works no longer", "name=\"token\""] {
        assert!(signed_out.contains(said), "{said}: {signed_out}");
    }
    assert!(!client.get("/sign-in").await.body.contains("session has ended"), "once");
    // Whoever signs out knows, and a stranger has had none.
    client.sign_in_to(&site.owner, "/tokens").await;
    client.post("/sign-out", "").await;
    assert!(!client.get("/sign-in").await.body.contains("session has ended"));
    assert!(!Client::of(&site).get("/sign-in").await.body.contains("session has ended"));
}
