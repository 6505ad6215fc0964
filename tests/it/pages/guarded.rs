//! What keeps pages from strangers, asked for as a browser would, or as somebody who forges what it asks.

use tollgate::audit::Outcome;
use tollgate::registry::AuditFilter;
use tollgate::token::{Action, Permission, Resource};

use super::client::{Client, count, owner};
use super::*;
use crate::harness::within;

#[tokio::test]
async fn a_session_is_new_and_opaque_and_ends() {
    let site = Site::start().await;
    let mut client = Client::of(&site);
    // One that somebody else chose is none, before and after signing in.
    let chosen = format!("tollgate={}", "ab".repeat(32));
    client.cookie = chosen.clone();
    assert_eq!(
        client.get("/tokens?state=active").await.field("location"),
        Some("/sign-in?next=%2Ftokens%3Fstate%3Dactive")
    );
    let reply = client.sign_in(&site.owner).await;
    assert_eq!(reply.field("location"), Some("/fleet"), "where one wanted to go");
    assert_ne!(client.cookie, chosen);
    let set = reply.field("set-cookie").expect("a cookie");
    assert!(set.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{set}");
    assert!(!set.contains(&site.owner.raw) && client.cookie.len() == "tollgate=".len() + 64);
    assert_eq!(client.get("/tokens").await.status, 200);
    // Signed out is signed out at the server too.
    let mut other = Client::of(&site);
    other.sign_in(&site.owner).await;
    assert_ne!(other.cookie, client.cookie);
    assert_eq!(client.post("/sign-out", "").await.field("location"), Some("/sign-in"));
    assert_eq!(client.get("/tokens").await.status, 303);
    assert_eq!(other.get("/tokens").await.status, 200, "another session goes on");
    // With the token it ends at once. Who asks by a script is told so, and led nowhere.
    site.replica_reaches(site.revoke(&site.owner).await).await;
    other.more = "X-Tollgate-Poll: 1\r\n".to_owned();
    assert_eq!(other.get("/fleet").await.status, 401);
    other.more.clear();
    assert_eq!(other.get("/tokens").await.status, 303);
}

#[tokio::test]
async fn no_token_signs_in_but_one_that_manages_tokens() {
    let site = Site::start().await;
    let mut client = Client::of(&site);
    let page = client.get("/sign-in").await;
    (client.cookie, client.csrf) = (page.cookie(), page.hidden("csrf"));
    for (token, status, said) in [
        ("tc-apiv1_0123456789", 401, "Invalid token"),
        ("nonsense", 401, "Invalid token format"),
        ("", 401, "Invalid token format"),
        (site.agent.raw.as_str(), 403, "lacks tokens:read"),
    ] {
        let reply = client.post("/sign-in", &format!("token={token}")).await;
        assert_eq!(reply.status, status, "{said}");
        assert!(
            reply.body.contains(said) && (token.len() < 12 || !reply.body.contains(token)),
            "{said}: {}",
            reply.body
        );
        (client.cookie, client.csrf) = (reply.cookie(), reply.hidden("csrf"));
    }
    // A form that another page made somebody send.
    let form = format!("token={}", site.owner.raw);
    let forged = Client { csrf: "0".repeat(32), ..client.clone() };
    assert_eq!(forged.post("/sign-in", &form).await.status, 403);
    let foreign = Client { origin: Some("http://evil.example".to_owned()), ..client.clone() };
    assert_eq!(foreign.post("/sign-in", &form).await.status, 403);
    assert_eq!(client.post("/sign-in", &form).await.status, 303);
}

#[tokio::test]
async fn only_our_own_pages_send_forms() {
    let site = Site::start().await;
    let client = owner(&site).await;
    let fingerprint = client.get(&format!("/tokens/{}/delete", site.agent.id)).await.hidden("fingerprint");
    let form = format!("id={}&fingerprint={fingerprint}", site.agent.id);
    let other_port = format!("http://127.0.0.1:{}", site.address().port());
    for origin in [None, Some("null"), Some("http://evil.example"), Some(other_port.as_str()), Some("")] {
        let foreign = Client { origin: origin.map(str::to_owned), ..client.clone() };
        assert_eq!(foreign.post("/tokens/do/delete", &form).await.status, 403, "{origin:?}");
    }
    for csrf in ["", "0123456789abcdef0123456789abcdef", &client.cookie["tollgate=".len()..]] {
        let forged = Client { csrf: csrf.to_owned(), ..client.clone() };
        assert_eq!(forged.post("/tokens/do/delete", &form).await.status, 403, "{csrf}");
    }
    assert!(client.get(&format!("/tokens/do/delete?{form}")).await.status >= 400, "reading changes nothing");
    assert_eq!(site.beat(&site.agent).await.status(), 200, "it is as it was");
    assert_eq!(client.post("/tokens/do/delete", &form).await.status, 303);
    assert_eq!(site.beat(&site.agent).await.status(), 401);
    let rebound = Client { host: "evil.example".to_owned(), ..client.clone() };
    assert_eq!(rebound.get("/tokens").await.status, 421);
}

#[tokio::test]
async fn pages_are_kept_to_themselves_and_markup_is_text() {
    let site = Site::start().await;
    let nasty = "<script>alert(1)</script>\"'><img src=x>";
    let token = token_called(&site, "olga", nasty, PermissionSet::TELEGRAF_AGENT).await;
    let client = owner(&site).await;
    let of_token = format!("/tokens/{}", token.id);
    let paths = ["/tokens", "/tokens?text=%3Cscript%3E", "/nowhere", "/sign-in", of_token.as_str(), "/audit", "/users"];
    for path in paths {
        let page = client.get(path).await;
        let policy = page.field("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none'; ") && policy.contains("frame-ancestors 'none'"), "{path}");
        assert!(!policy.contains("unsafe") && policy.contains("script-src 'self'"));
        assert_eq!(page.field("cache-control"), Some("no-store"), "{path}");
        assert_eq!(page.field("referrer-policy"), Some("same-origin"), "{path}");
        assert_eq!(page.field("x-frame-options"), Some("DENY"), "{path}");
        assert_eq!(page.field("x-content-type-options"), Some("nosniff"), "{path}");
        assert!(!page.body.contains("<script>") && !page.body.contains("<img"), "{path}: {}", page.body);
        assert!(!page.body.contains(" style=") && !page.body.contains(" onclick="), "{path}");
    }
    let page = client.get("/tokens").await.body;
    let style = page.split("href=\"").find(|part| part.contains("style.css")).and_then(|part| part.split('"').next());
    let style = client.get(style.expect("a stylesheet")).await;
    assert_eq!(style.field("cache-control"), Some("public, max-age=31536000, immutable"));
    // Nobody's name leads anywhere else: what would end a field of the head is a path of ours, or none.
    let led = Client { cookie: String::new(), ..client }.get("/sign-in?next=//evil.example").await;
    assert_eq!(led.hidden("next"), "");
}

/// What is confirmed is the set that was shown. Nothing chosen, and what is not understood, is never everything.
#[tokio::test]
async fn what_was_not_seen_or_not_said_is_not_done() {
    let site = Site::start().await;
    let client = owner(&site).await;
    let before = count(&site).await;
    let owner_id = site.owner.id;
    for (form, status) in [
        ("", 400),
        ("all=1", 400),
        ("all=1&text=", 400),
        ("all=1&stat=active", 400),
        ("all=1&state=actve", 400),
        ("id=nonsense", 400),
        ("id=0000000000000", 404),
    ] {
        assert_eq!(client.post("/tokens/confirm", &format!("verb=delete&{form}")).await.status, status, "{form}");
        assert_ne!(client.post("/tokens/do/delete", form).await.status, 303, "{form}");
    }
    let of_agent = client.get(&format!("/tokens/{}/delete", site.agent.id)).await.hidden("fingerprint");
    let swapped = client.post("/tokens/do/delete", &format!("id={owner_id}&fingerprint={of_agent}")).await;
    assert_eq!(swapped.status, 409, "a set of equal size");
    assert_eq!(client.post("/tokens/do/delete", &format!("id={}", site.agent.id)).await.status, 409);
    // The Owner's last usable token goes only where that is said.
    let own = client.get(&format!("/tokens/{owner_id}/revoke")).await;
    assert!(own.body.contains("your session ends too"));
    let both = client.post("/tokens/confirm", &format!("verb=revoke&id={owner_id}&id={}", site.agent.id)).await;
    let form = format!("id={owner_id}&id={}&fingerprint={}", site.agent.id, both.hidden("fingerprint"));
    let refused = client.post("/tokens/do/revoke", &form).await;
    assert!(refused.status >= 400, "{}", refused.status);
    assert_eq!(count(&site).await, before);

    let once = "once=0123456789abcdef0123456789abcdef&description=a";
    for form in [
        "expires=30d",
        "expires=30d&preset=custom",
        "preset=telegraf-agent",
        "preset=telegraf-agent&expires=",
        "preset=telegraf-agent&expires_at=never&expires=30d",
        "preset=custom&permission=all&expires=30d",
        "preset=telegraf-agent&expires=date&date=2001-01-01",
    ] {
        let reply = client.post("/tokens/new", &format!("{once}&{form}")).await;
        assert!(reply.status == 400 || reply.status == 409, "{form}: {}", reply.status);
        assert!(reply.body.contains("role=\"alert\""), "{form}");
    }
    assert_eq!(count(&site).await, before);
}

#[tokio::test]
async fn no_value_of_a_token_is_in_an_address() {
    let site = Site::start().await;
    let client = owner(&site).await;
    let raw = &site.agent.raw;
    let asked = client.get(&format!("/tokens?text={raw}")).await;
    assert!(asked.status == 400 && !asked.body.contains(raw));
    let searched = client.post("/tokens/search", &format!("text={raw}")).await;
    assert_eq!(searched.field("location"), Some(format!("/tokens?text={}", &raw[raw.len() - 6..]).as_str()));
    // However it is written, and in whichever field.
    let secret = &raw["tc-apiv1_".len()..];
    for text in [secret.to_owned(), raw[1..].to_owned(), raw.to_uppercase(), format!("%2574c{}", &raw[2..])] {
        for field in ["text", "user"] {
            let searched = client.post("/tokens/search", &format!("{field}={text}")).await;
            assert!(
                searched.status == 400 && !searched.body.to_lowercase().contains(secret),
                "{text}: {}",
                searched.body
            );
            let asked = client.get(&format!("/tokens?{field}={text}")).await;
            assert!(asked.status == 400 && !asked.body.to_lowercase().contains(secret), "{text}: {}", asked.body);
        }
        let asked = client.api(&site.owner, &format!("/api/v1/tokens?text={text}")).await;
        assert!(asked.status == 400 && !asked.body.to_lowercase().contains(secret), "{text}: {}", asked.body);
    }
    assert_eq!(client.post("/tokens/search", "text=50%25+of+plant").await.status, 303);
}

/// Nobody reads that, nor is it a link that one sees; and a value is in no record, nor in the form that is refused.
#[tokio::test]
async fn a_description_can_be_read_and_is_no_token() {
    let site = Site::start().await;
    let client = owner(&site).await;
    let before = count(&site).await;
    let raw = site.agent.raw.as_str();
    let pile = format!("a{}", "%CC%82".repeat(150));
    for description in
        [raw, &raw[9..], &raw.to_uppercase(), "%E2%80%8B", "%E3%85%A4", "%EF%BB%BF", "a%E2%80%AEb", &pile]
    {
        let form = format!("once={}&preset=telegraf-agent&expires=30d&description={description}", "0".repeat(32));
        let reply = client.post("/tokens/new", &form).await;
        assert!(
            reply.status == 400 && reply.body.contains("characters that can be read"),
            "{description}: {}",
            reply.body
        );
        assert!(!reply.body.to_lowercase().contains(&raw[9..]), "{description}");
    }
    assert_eq!(count(&site).await, before);
}

/// Whoever looks where forms are sent is told, and led on.
#[tokio::test]
async fn where_forms_are_sent_a_page_leads_on() {
    let site = Site::start().await;
    let client = owner(&site).await;
    for (path, list) in [
        ("/tokens/confirm", "/tokens"),
        ("/tokens/do/revoke", "/tokens"),
        ("/tokens/search", "/tokens"),
        ("/sign-out", "/tokens"),
        ("/audit/verify", "/audit"),
        ("/audit/search", "/audit"),
    ] {
        let page = client.get(path).await;
        let link = format!("<a class=\"button primary\" href=\"{list}\">");
        assert!(page.status == 405 && page.body.contains(&link), "{path}: {} {}", page.head, page.body);
        assert_eq!(page.field("allow"), Some("POST"), "{path}");
        let page = Client::of(&site).get(path).await;
        assert!(page.status == 405 && page.body.contains("Open the console"), "{path}: {}", page.body);
    }
    assert_eq!(client.get("/tokens").await.status, 200, "one is signed in still");
}

#[tokio::test]
async fn what_looks_like_the_value_of_a_token_is_repeated_nowhere() {
    let site = Site::start().await;
    let client = owner(&site).await;
    let raw = &site.agent.raw;
    let stranger = Client::of(&site);
    for path in [format!("/tokens?text={raw}"), format!("/tokens?text={}", raw.replace('_', "%5F"))] {
        assert_eq!(stranger.get(&path).await.field("location"), Some("/sign-in?next=%2F"), "{path}");
    }
    assert_eq!(stranger.get(&format!("/sign-in?next=/tokens?text={raw}")).await.hidden("next"), "");
    let searched = client.post("/audit/search", &format!("actor={raw}")).await;
    assert!(searched.status == 400 && !searched.body.contains(raw), "{}", searched.body);
    let listed = client.get(&format!("/audit?subject={raw}")).await;
    assert!(listed.status == 400 && !listed.body.contains(raw), "{}", listed.body);
    let searched = client.post("/audit/search", "actor=owner&action=&subject=&outcome=Success").await;
    assert_eq!(searched.field("location"), Some("/audit?actor=owner&outcome=Success"));
    let added = client.post("/add-user", &format!("name=x+{raw}&role=manager")).await;
    assert!(added.status >= 400 && !added.body.contains(raw), "{}", added.body);
}

/// A cookie of the same name that another port of the host has set.
#[tokio::test]
async fn a_cookie_that_is_none_of_ours_hides_no_session() {
    let site = Site::start().await;
    let client = owner(&site).await;
    for other in [format!("tollgate={}", "0".repeat(64)), "tollgate=x".to_owned()] {
        let shadowed = Client { cookie: format!("{other}; {}", client.cookie), ..client.clone() };
        assert_eq!(shadowed.get("/tokens").await.status, 200, "{other}");
    }
}

#[tokio::test]
async fn what_pages_refuse_is_in_the_audit_trail() {
    let site = Site::start().await;
    site.user("max", Role::Manager).await;
    let reads = Permission::new(Resource::Tokens, Action::Read).expect("is one");
    let reader = token_called(&site, "max", "only looks", PermissionSet::from_iter([reads])).await;
    let mut client = Client::of(&site);
    client.get("/sign-in").await;
    let page = client.get("/sign-in").await;
    (client.cookie, client.csrf) = (page.cookie(), page.hidden("csrf"));
    client.cookie = client.post("/sign-in", &format!("token={}", reader.raw)).await.cookie();
    client.csrf = client.get("/tokens").await.hidden("csrf");
    let of_agent = format!("id={}", site.agent.id);
    let once = "once=0123456789abcdef0123456789abcdef";
    let rotate = format!("/tokens/{}/rotate", site.agent.id);
    let refused = [
        ("/tokens/do/delete", of_agent.as_str(), "token.delete"),
        ("/tokens/do/revoke", &of_agent, "token.revoke"),
        ("/tokens/new", &format!("{once}&description=x&preset=telegraf-agent&expires=30d"), "token.create"),
        (&rotate, &format!("{once}&overlap=1h"), "token.rotate"),
        ("/users/owner/disable", "", "user.disable"),
        ("/add-user", "name=new&role=manager", "user.create"),
    ];
    for (path, form, _) in refused {
        assert_eq!(client.post(path, form).await.status, 403, "{path}");
    }
    assert_eq!(client.get("/audit").await.status, 403);
    let filter = AuditFilter { outcome: Some(Outcome::Denied), ..AuditFilter::default() };
    let actions = async || {
        let entries = site.registry.audit(&operator(), &filter, None, 100).await.expect("reads");
        entries.iter().filter_map(|entry| entry.text("action").map(str::to_owned)).collect::<Vec<_>>()
    };
    let mut expected: Vec<_> = refused.iter().map(|(.., action)| *action).chain(["audit.read"]).collect();
    expected.sort_unstable();
    within("an entry for each", async {
        loop {
            let mut found = actions().await;
            found.sort_unstable();
            if found == expected {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// Whoever asks too often, or while it is not known whether the token is valid, is told what to do about it.
#[tokio::test]
async fn what_will_pass_is_asked_for_again() {
    let site =
        Site::builder().setting("FRESHNESS__PROBE_INTERVAL", "100ms").setting("FRESHNESS__MAX_STALENESS", "400ms");
    let site = site.start().await;
    let client = owner(&site).await;
    site.store.set_broken(true);
    let away = async |path: &str| {
        within("the registry is away", async {
            loop {
                let page = client.get(path).await;
                assert!(page.status == 200 || page.body.contains("Try again"), "{}", page.body);
                if page.body.contains("You stay signed in") {
                    break page;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    };
    let page = away("/fleet").await;
    assert!(page.body.contains("<a class=\"button primary\" href=\"\">Try again</a>"), "{}", page.body);
    assert!(page.status == 503 && !page.body.contains("Token registry unavailable"), "{}", page.body);
    assert!(!client.post("/tokens/search", "text=x").await.body.contains("Try again"), "a form has a page of its own");
    site.store.set_broken(false);
    within("it is back", async {
        while client.get("/fleet").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // So many that a busy machine sends them too.
    let mut page = client.get("/fleet").await;
    while page.status != 429 {
        let calls = (0..100).map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.get("/").await })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.expect("answers");
        }
        page = client.get("/fleet").await;
    }
    assert!(page.field("retry-after").is_some() && page.body.contains("Too many requests"), "{}", page.body);
    assert!(page.body.contains("Try again") && page.body.contains("style.css"), "{}", page.body);
    let nothing = Client { more: String::new(), ..client }.post("/tokens/confirm", "verb=delete").await;
    assert!(nothing.status == 429 && !nothing.body.contains("Try again"), "{}", nothing.body);
}

/// Behind a proxy with TLS, a rewritten `Host` and a sub-path.
#[tokio::test]
async fn behind_a_proxy_the_public_url_decides() {
    let site = Site::builder().setting("ADMIN__PUBLIC_URL", "https://ops.example/tollgate").start().await;
    let mut client = Client::of(&site);
    client.origin = Some("https://ops.example".to_owned());
    let page = client.get("/tollgate/sign-in").await;
    assert!(page.body.contains("action=\"/tollgate/sign-in\"") && page.body.contains("/tollgate/assets/style.css"));
    (client.cookie, client.csrf) = (page.cookie(), page.hidden("csrf"));
    let form = format!("token={}", site.owner.raw);
    let direct = Client { origin: Some(format!("http://{}", client.address)), ..client.clone() };
    assert_eq!(direct.post("/sign-in", &form).await.status, 403);
    let reply = client.post("/sign-in", &form).await;
    assert_eq!(reply.field("location"), Some("/tollgate/tokens"));
    let set = reply.field("set-cookie").expect("a cookie");
    assert!(
        set.starts_with("__Host-tollgate=") && set.ends_with("; Path=/; Secure; HttpOnly; SameSite=Strict"),
        "{set}"
    );
    client.cookie = reply.cookie();
    for path in ["/", "/tollgate", "/tollgate/"] {
        assert_eq!(client.get(path).await.field("location"), Some("/tollgate/tokens"), "{path}");
    }
    assert!(client.get("/tollgate/nowhere").await.body.contains("href=\"/tollgate/assets/"));
    for path in ["/tokens", "/tollgate/tokens"] {
        assert!(client.get(path).await.body.contains("href=\"/tollgate/tokens/"), "{path}");
    }
    client.cookie = client.cookie.replace("__Host-", "");
    assert_eq!(client.get("/tokens").await.field("location"), Some("/tollgate/sign-in?next=%2Ftokens"));
}

#[tokio::test]
async fn where_it_is_off_the_page_says_why() {
    let site =
        Site::builder().config(|config| config.admin.address = "0.0.0.0:0".parse().expect("an address")).start().await;
    let mut client = Client::of(&site);
    client.address.set_ip([127, 0, 0, 1].into());
    let page = client.get("/").await;
    assert!(page.status == 501 && page.body.contains("The console is off here"), "{} {}", page.status, page.body);
    assert!(page.body.contains("admin.console = ") && !page.body.contains("Open the console"), "{}", page.body);
    assert_eq!(client.get("/tokens").await.status, 404);
}

#[tokio::test]
async fn a_session_is_a_use_of_its_token_and_a_form_that_is_refused_is_none() {
    let site = Site::start().await;
    let (used, forged) = (site.token("olga", &["tokens:read"]).await, site.token("olga", &["tokens:read"]).await);
    let mut client = Client::of(&site);
    client.sign_in(&used).await;
    let mut other = Client::of(&site);
    let page = other.get("/sign-in").await;
    (other.cookie, other.csrf) = (page.cookie(), page.hidden("csrf"));
    let reply = other.post("/sign-in", &format!("token={}", forged.raw)).await;
    (other.cookie, other.csrf) = (reply.cookie(), "0".to_owned());
    assert_eq!(other.post("/tokens/search", "text=x").await.status, 403);
    other.more = "X-Tollgate-Poll: 1\r\n".to_owned();
    other.get("/tokens").await;
    let site = site.restart().await;
    let uses = site.registry.usage(&operator(), &[used.id, forged.id]).await.expect("reads");
    assert!(matches!(uses.last_use(used.id), LastUse::At(_)), "{uses:?}");
    assert!(!matches!(uses.last_use(forged.id), LastUse::At(_)), "{uses:?}");
}

/// Each has an entry, up to a bound; a flood of them is counted.
#[tokio::test]
async fn who_signs_in_is_in_the_audit_trail() {
    let site = Site::start().await;
    let operator = crate::harness::operator();
    let filter = tollgate::registry::AuditFilter { action: Some("sign-in".to_owned()), ..Default::default() };
    for _ in 0..2 {
        owner(&site).await;
    }
    let found = site.registry.audit(&operator, &filter, None, 100).await.expect("reads");
    assert_eq!(found.len(), 2, "{found:?}");
    let said = ["actorName", "actorType", "outcome", "ipAddress"].map(|name| found[0].text(name).unwrap_or_default());
    assert_eq!(said, ["olga", "Token", "Success", "127.0.0.1"]);
    for _ in 0..25 {
        owner(&site).await;
    }
    let found = site.registry.audit(&operator, &filter, None, 100).await.expect("reads");
    assert!((20..27).contains(&found.len()), "20 a minute: {}", found.len());
}
