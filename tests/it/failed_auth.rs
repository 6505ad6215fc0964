//! Who has no good token: what a flood of them gets, and what the operator learns.

use tollgate::token::{Role, UserStatus};

use crate::harness::{Builder, CONFIG, Client, Program, Reply, Site, Upstream, eventually, operator, request};

/// The NAT behind which a flood comes from, and good agents.
const NAT: &str = "198.51.100.7";

/// So few a second that a busy machine gives none back.
fn behind_a_proxy() -> Builder {
    Site::builder()
        .setting("TRUSTED_PROXIES", "127.0.0.1")
        .setting("LIMITS__FAILED_AUTH__RATE", "1")
        .setting("LIMITS__FAILED_AUTH__BURST", "20")
}

fn with(token: &str, client: &str) -> String {
    request("GET", CONFIG, &format!("Authorization: Bearer {token}\r\nX-Forwarded-For: {client}\r\n"))
}

async fn ask(client: &mut Client, token: &str, from: &str) -> Reply {
    client.send(with(token, from)).await;
    client.reply().await
}

async fn total(site: &Site, reason: &str) -> String {
    site.metric(&format!("tollgate_authentication_failures_total{{reason=\"{reason}\"}}")).await
}

#[tokio::test]
async fn a_flood_gets_429_and_good_agents_behind_the_same_nat_get_what_they_ask_for() {
    let site = behind_a_proxy().start().await;
    let mut flood = site.connect().await;
    let mut statuses = Vec::new();
    for number in 0..200 {
        let reply = ask(&mut flood, &format!("tc-apiv1_{number}"), NAT).await;
        if reply.status() == 429 {
            let seconds: u64 = reply.field("Retry-After").expect("a time").parse().expect("seconds");
            assert!((1..=2).contains(&seconds), "{seconds}");
            assert_eq!(reply.error(), "Too many failed authentications");
        }
        statuses.push(reply.status());
        assert_eq!(ask(&mut flood, &site.agent.raw, NAT).await.status(), 200, "after {number}");
    }
    // What time passes gives back is little, and nobody knows how much of it did.
    let refused = statuses.iter().filter(|status| **status == 429).count();
    assert!(statuses[..20].iter().all(|status| *status == 401) && refused > 0, "{statuses:?}");
    assert_eq!(site.metric("tollgate_authentication_limited_total").await, refused.to_string());
    assert_eq!(total(&site, "unknown_token").await, "200");
    // Others have done nothing, and who connects to the sidecar's host itself is not counted.
    assert_eq!(ask(&mut flood, "tc-apiv1_x", "198.51.100.8").await.status(), 401);
    let mut here = site.connect().await;
    for _ in 0..50 {
        here.send(request("GET", CONFIG, "Authorization: Bearer tc-apiv1_x\r\n")).await;
        assert_eq!(here.reply().await.status(), 401);
    }
}

#[tokio::test]
async fn a_token_that_is_known_is_told_what_is_wrong_with_it_however_many_fail() {
    let site = behind_a_proxy().start().await;
    let (expired, disabled) = (site.token("olga", &["configs:read"]).await, {
        site.user("max", Role::Manager).await;
        site.token("max", &["configs:read"]).await
    });
    site.expire(&expired).await;
    site.registry.set_status(&operator(), "max", UserStatus::Disabled).await.expect("disabled");
    site.replica_is_current().await;
    let mut client = site.connect().await;
    for _ in 0..60 {
        ask(&mut client, "tc-apiv1_x", NAT).await;
    }
    assert_eq!(ask(&mut client, "tc-apiv1_x", NAT).await.status(), 429);
    assert_eq!(ask(&mut client, &expired.raw, NAT).await.error(), "Token expired");
    assert_eq!(ask(&mut client, &disabled.raw, NAT).await.error(), "Invalid token");
    assert_eq!((total(&site, "expired").await.as_str(), total(&site, "owner_disabled").await.as_str()), ("1", "1"));
}

/// `why 401?` within a minute: the log says it, with what `tollgate token find` takes.
#[tokio::test]
async fn the_log_says_whose_token_was_refused_and_why() {
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let program = Program::start(&api, &heartbeat, &[("TRUSTED_PROXIES", "127.0.0.1")]);
    let mut client = Client::connect(program.address()).await;
    client.send(with(&program.token, "192.0.2.1")).await;
    assert_eq!(client.reply().await.status(), 200);
    let listed = program.run(&["token", "list", "--json"]);
    let records: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let id = records[0]["id"].as_str().expect("an id").to_owned();
    // Once it is applied: before, the log cannot tell.
    let revoked = program.run(&["token", "revoke", &id, "--yes", "--force", "--wait", "--timeout", "30s"]);
    assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
    client.send(with(&program.token, "192.0.2.2")).await;
    assert_eq!(client.reply().await.status(), 401);
    client.send(with("tc-apiv1_neverseen", "192.0.2.3")).await;
    client.reply().await;
    client.send(request("GET", CONFIG, "X-Forwarded-For: 192.0.2.4\r\n")).await;
    client.reply().await;
    client.send(request("GET", CONFIG, "Authorization: Bearer other\r\nX-Forwarded-For: 192.0.2.5\r\n")).await;
    client.reply().await;
    let cases = [
        ("192.0.2.2", "the token was revoked or deleted"),
        ("192.0.2.3", "there is no such token"),
        ("192.0.2.4", "no token, or not in the form"),
        ("192.0.2.5", "what was sent is no token of Telegraf Controller"),
    ];
    for (client, reason) in cases {
        eventually(&format!("{client}: {reason}"), || async {
            program
                .log()
                .iter()
                .any(|line| line.contains("authentication refused") && line.contains(client) && line.contains(reason))
        })
        .await;
    }
    let log = program.log().concat();
    let refused = |line: &String| line.contains("authentication refused");
    let fields = program
        .log()
        .into_iter()
        .filter(refused)
        .map(|line| serde_json::from_str::<serde_json::Value>(&line).expect("JSON"));
    let digests: Vec<_> = fields.filter_map(|line| Some(line["fields"]["digest"].as_str()?.to_owned())).collect();
    assert!(!digests.is_empty() && digests.iter().all(|digest| digest.len() == 12), "{digests:?}");
    // The first of them is that of the token that was revoked.
    let found = program.run(&["token", "find", &digests[0], "--json"]);
    let found: serde_json::Value = serde_json::from_slice(&found.stdout).expect("JSON");
    assert_eq!((&found[0]["id"], &found[0]["state"]), (&records[0]["id"], &"revoked".into()), "{found}");
    assert!(found[0]["history"].to_string().contains("revoked"), "{found}");
    assert!(!log.contains(&program.token) && !log.contains("neverseen"));
}
