//! What is done is what was seen and chosen, and what cannot be done is not offered.

use super::client::{Client, count, owner};
use super::*;

/// The owner of this token.
async fn owner_of(site: &Site, token: TokenId) -> String {
    site.registry.token(&operator(), token).await.expect("reads").owner.name
}

const ONCE: &str = "once=0123456789abcdef0123456789abcdef&preset=telegraf-agent";

/// A browser chooses the first of a list that does not have the one that is meant: so of too many users none is chosen.
#[tokio::test]
async fn of_more_users_than_a_list_has_the_owner_is_the_one_that_was_named() {
    let site = Site::start().await;
    for number in 0..500 {
        site.registry.add_user(&operator(), &format!("user-{number:03}"), Role::Manager).await.expect("adds");
    }
    let client = owner(&site).await;
    let page = client.get("/tokens/new").await.body;
    assert!(!page.contains("<select id=\"user\""), "{page}");
    assert!(page.contains("<input id=\"user\" name=\"user\" value=\"olga\" list=\"user-names\""), "{page}");
    assert!(page.contains("<option value=\"user-499\">") && page.contains("<option value=\"olga\">"));
    let page = client.get("/tokens?user=olga").await.body;
    assert!(page.contains("name=\"user\" aria-label=\"Owner\" value=\"olga\""), "the next search keeps it: {page}");
    let page = client.get(&format!("/tokens/{}/reassign", site.agent.id)).await;
    let form = format!("id={}&fingerprint={}", site.agent.id, page.hidden("fingerprint"));
    let wrong = client.post("/tokens/do/reassign", &format!("{form}&to=nobody")).await;
    assert!(wrong.status == 409 && wrong.body.contains("value=\"nobody\""), "{}", wrong.body);
    assert_eq!(client.post("/tokens/do/reassign", &format!("{form}&to=user-007")).await.status, 303);
    assert_eq!(owner_of(&site, site.agent.id).await, "user-007");
    // Below that number a list has all of them.
    site.registry.delete_user(&operator(), "user-499").await.expect("deletes");
    assert!(client.get("/tokens/new").await.body.contains("<select id=\"user\""));
}

/// Whoever may give a token away and see no users writes the name.
#[tokio::test]
async fn a_token_is_given_away_by_who_may_not_list_users() {
    let site = Site::start().await;
    site.user("adam", Role::Administrator).await;
    let token = site.token("adam", &["tokens:read", "tokens:write"]).await;
    let mut client = Client::of(&site);
    client.sign_in_to(&token, "/tokens").await;
    let page = client.get(&format!("/tokens/{}/reassign", site.agent.id)).await;
    assert!(
        page.body.contains("<input id=\"to\" name=\"to\"") && !page.body.contains("olga</option>"),
        "{}",
        page.body
    );
    let form = format!("id={}&to=adam&fingerprint={}", site.agent.id, page.hidden("fingerprint"));
    assert_eq!(client.post("/tokens/do/reassign", &form).await.status, 303);
    assert_eq!(owner_of(&site, site.agent.id).await, "adam");
}

#[tokio::test]
async fn what_is_done_to_a_user_is_done_to_the_tokens_that_were_seen() {
    let site = Site::start().await;
    site.user("max", Role::Manager).await;
    token_called(&site, "max", "first", PermissionSet::TELEGRAF_AGENT).await;
    let client = owner(&site).await;
    for (verb, more, seen) in [("disable", "", 1), ("set-role", "role=viewer", 2), ("delete", "", 3), ("enable", "", 4)]
    {
        let path = format!("/users/max/{verb}");
        let asked = client.get(&format!("{path}?{more}")).await;
        assert!(asked.body.contains(&format!("This user has {seen} token")), "{}", asked.body);
        let form = |page: &super::client::Answer| {
            format!("{more}&fingerprint={}&version={}", page.hidden("fingerprint"), page.hidden("version"))
        };
        let old = form(&asked);
        token_called(&site, "max", "one more", PermissionSet::TELEGRAF_AGENT).await;
        let refused = client.post(&path, &old).await;
        assert!(refused.status == 409 && refused.body.contains("other tokens by now"), "{verb}: {}", refused.body);
        assert!(refused.body.contains(&format!("This user has {} tokens", seen + 1)), "it asks again, about these");
        assert_eq!(client.post(&path, more).await.status, 409, "{verb}: nothing was seen");
    }
    let user = site.registry.user(&operator(), "max").await.expect("is there").record;
    assert_eq!((user.role, user.status), (Role::Manager, tollgate::token::UserStatus::Active));
    // Another change of the user is one, too.
    let asked = client.get("/users/max/delete").await;
    let form = format!("fingerprint={}&version={}", asked.hidden("fingerprint"), asked.hidden("version"));
    site.registry.set_role(&operator(), "max", Role::Administrator).await.expect("promotes");
    let refused = client.post("/users/max/delete", &form).await;
    assert!(refused.status == 409 && refused.body.contains("was changed since"), "{}", refused.body);
    let form = format!("fingerprint={}&version={}", refused.hidden("fingerprint"), refused.hidden("version"));
    let before = count(&site).await;
    assert_eq!(client.post("/users/max/delete", &form).await.field("location"), Some("/users"));
    assert_eq!(count(&site).await, before - 5);
}

/// After it, and for who cancels: the list as it was, with its filters, its order and the page.
#[tokio::test]
async fn after_a_bulk_the_list_is_as_it_was() {
    let site = Site::start().await;
    let mut ids = Vec::new();
    for number in 0..3 {
        ids.push(token_called(&site, "olga", &format!("plant {number}"), PermissionSet::TELEGRAF_AGENT).await.id);
    }
    let client = owner(&site).await;
    let list = "/tokens?text=plant&sort=owner";
    for chosen in [format!("id={}&id={}", ids[0], ids[1]), format!("id={}", ids[2])] {
        let page = client.get(list).await;
        let view = format!("text={}&sort={}&after={}", page.hidden("text"), page.hidden("sort"), page.hidden("after"));
        let asked = client.post("/tokens/confirm", &format!("verb=revoke&{view}&{chosen}")).await;
        assert!(asked.body.contains("href=\"/tokens?text=plant&#38;sort=owner\" data-cancel"), "{}", asked.body);
        let fields = ["text", "sort", "after", "fingerprint"].map(|name| format!("{name}={}", asked.hidden(name)));
        let done = client.post("/tokens/do/revoke", &format!("{chosen}&{}", fields.join("&"))).await;
        assert_eq!(done.field("location"), Some(list), "{}", done.body);
    }
    // All that match too.
    let asked = client.post("/tokens/confirm", "verb=delete&all=1&text=plant&sort=owner&after=first").await;
    let form = format!("all=1&text=plant&sort=owner&after=first&fingerprint={}", asked.hidden("fingerprint"));
    assert_eq!(client.post("/tokens/do/delete", &form).await.field("location"), Some(list));
    // One that has a page of its own is shown there.
    let own = format!("/tokens/{}", site.agent.id);
    let asked = client.get(&format!("{own}/revoke")).await;
    let form = format!("id={}&fingerprint={}", site.agent.id, asked.hidden("fingerprint"));
    assert_eq!(client.post("/tokens/do/revoke", &form).await.field("location"), Some(own.as_str()));
}

#[tokio::test]
async fn what_cannot_be_done_is_not_offered() {
    let site = Site::start().await;
    let (adam, max) = (person(&site, "adam", Role::Administrator).await, person(&site, "max", Role::Manager).await);
    site.user("anna", Role::Administrator).await;
    site.expire(&site.agent).await;
    let mut client = owner(&site).await;
    let token = format!("/tokens/{}", site.agent.id);
    let rotate = format!("{token}/rotate");
    for path in ["/tokens", &format!("{token}/manage")] {
        assert!(!client.get(path).await.body.contains(&rotate), "{path}: an expired one is not rotated");
    }
    let refused = client.get(&rotate).await;
    assert!(refused.status == 409 && refused.body.contains("has expired") && !refused.body.contains("name=\"once\""));
    client.sign_in_to(&adam, "/tokens").await;
    for (path, why) in [
        ("/users/anna/delete", "Only the Owner manages Administrators"),
        ("/users/olga/disable", "This is the Owner"),
        ("/users/adam/set-role?role=manager", "This is you"),
        ("/users/max/set-role?role=administrator", "Only the Owner makes somebody an Administrator"),
        ("/users/max/transfer-ownership", "Only the Owner passes the ownership on"),
    ] {
        let page = client.get(path).await;
        assert!(page.status == 403 && page.body.contains(why), "{path}: {}", page.body);
    }
    client.sign_in_to(&max, "/tokens").await;
    let page = client.get(&format!("/tokens/{}/reassign", max.id)).await;
    assert!(page.status == 403 && page.body.contains("Only the Owner and Administrators"), "{}", page.body);
}

/// Two answers to how long it lives are none, with scripts or without.
#[tokio::test]
async fn a_date_beside_another_expiration_makes_no_token() {
    let site = Site::start().await;
    let client = owner(&site).await;
    let before = count(&site).await;
    let form = format!("{ONCE}&description=x&date=2027-02-28");
    for (choice, why) in [("never", "A date is filled in"), ("30d", "A date is filled in")] {
        let reply = client.post("/tokens/new", &format!("{form}&expires={choice}")).await;
        assert!(reply.status == 400 && reply.body.contains(why), "{choice}: {}", reply.body);
    }
    let far = client.post("/tokens/new", &format!("{ONCE}&description=x&expires=date&date=9999-12-31")).await;
    assert!(far.status == 400 && far.body.contains("earlier date"), "{}", far.body);
    assert_eq!(count(&site).await, before);
    // A browser with scripts sends no date that it does not show.
    let browser = signed_in(&site, &site.owner, Looks::default()).await;
    browser.go("/tokens/new").await;
    browser.fill("#description", "Changed my mind").await;
    let choose = async |choice: &str| {
        let set = format!("expires.value = '{choice}'; expires.dispatchEvent(new Event('change'))");
        browser.script(&format!("const expires = document.querySelector('#expires'); {set}")).await
    };
    choose("date").await;
    browser.script("document.querySelector('#date').value = '2001-01-01'").await;
    choose("90d").await;
    browser.click("main form .primary").await;
    browser.says("h1", "API Token created").await;
}

#[tokio::test]
async fn what_was_filled_in_is_there_when_the_store_is_not() {
    let site = Site::start().await;
    let client = owner(&site).await;
    site.store.set_broken(true);
    let form = format!("{ONCE}&description=For+plant+7&user=olga&expires=90d");
    let reply = client.post("/tokens/new", &form).await;
    assert_eq!(reply.status, 503, "{}", reply.body);
    for kept in ["value=\"For plant 7\"", "value=\"olga\"", "value=\"90d\" selected", "role=\"alert\""] {
        assert!(reply.body.contains(kept), "{kept}: {}", reply.body);
    }
    site.store.set_broken(false);
    assert!(client.post("/tokens/new", &form).await.body.contains("data-secret"));
}
