//! The console's pages, in a real browser and as a browser would ask for them.

mod again;
mod client;
mod dialogs;
mod flows;
mod guarded;
mod listing;
mod live;
mod narrow;
mod pictures;
mod proxied;
mod roles;
mod scriptless;
mod seen;
mod sessions;
mod trail;

use std::time::Duration;

use tollgate::registry::{LastUse, NewToken, Requested};
use tollgate::store::{AgentName, AgentUse, Use};
use tollgate::token::{PermissionSet, Role, TokenId};

use crate::harness::browser::{Browser, Looks};
use crate::harness::{Site, Token, operator};

/// A token of this user that is called so.
async fn token_called(site: &Site, user: &str, description: &str, permissions: PermissionSet) -> Token {
    let permissions = Requested::Permissions(permissions);
    let new = NewToken { user: user.to_owned(), description: description.to_owned(), permissions, expires_at: None };
    let token = site.registry.create_token(&operator(), new).await.expect("creates").into();
    site.replica_is_current().await;
    token
}

/// A user with a token that may do all that the role may.
async fn person(site: &Site, name: &str, role: Role) -> Token {
    site.user(name, role).await;
    token_called(site, name, &format!("{name} signs in"), role.permissions()).await
}

/// Lets it be known that agents use a token.
async fn used_by(site: &Site, token: TokenId, agents: &[&str]) {
    let agents = agents.iter().zip(1..).map(|(name, minutes)| AgentUse {
        name: AgentName::Id((*name).to_owned()),
        age: Duration::from_secs(minutes * 47),
        address: std::net::Ipv4Addr::new(10, 0, 7, u8::try_from(minutes).unwrap_or(u8::MAX)).into(),
        version: Some("1.39.0".to_owned()),
    });
    let used = Use { token, age: Duration::from_secs(47), agents: agents.collect() };
    site.registry.store().record(&[used]).await.expect("records");
}

/// A browser in which somebody is signed in.
async fn signed_in(site: &Site, token: &Token, looks: Looks) -> Browser {
    let browser = Browser::open(site.sidecar.admin(), looks).await;
    sign_in(&browser, token).await;
    browser.is_at("/tokens").await;
    browser
}

/// Pastes a token.
async fn sign_in(browser: &Browser, token: &Token) {
    browser.go("/").await;
    browser.is_at("/sign-in").await;
    browser.fill("#token", &token.raw).await;
    browser.click("main form button").await;
}
