//! Calls that are to be safe to send again, sent several times at once.

use tokio::task::JoinSet;
use tollgate::token::RawToken;

use super::*;

/// At once, and again and again: whoever is first is another one each time.
const AT_ONCE: usize = 6;
const ROUNDS: usize = 8;

/// What the same call is answered, sent at once.
async fn at_once(site: &Site, path: &str, body: &Value) -> Vec<Answer> {
    let mut calls = JoinSet::new();
    for _ in 0..AT_ONCE {
        calls.spawn(Call::new("POST", path).by(&site.owner.raw).json(body).send(site.sidecar.admin()));
    }
    calls.join_all().await
}

/// One of them made it, and the others found it.
#[track_caller]
fn one_made_it(answers: &[Answer]) {
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    let found = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!((made, found), (1, AT_ONCE - 1), "{answers:#?}");
    let ids: std::collections::BTreeSet<_> = answers.iter().map(|answer| answer.body["id"].to_string()).collect();
    assert_eq!(ids.len(), 1, "{answers:#?}");
}

#[tokio::test]
async fn a_user_is_added_by_one_of_them() {
    let site = Site::start().await;
    for round in 0..ROUNDS {
        let user = json!({ "name": format!("user-{round}"), "role": "viewer" });
        one_made_it(&at_once(&site, "/api/v1/users?if_not_exists=true", &user).await);
    }
}

#[tokio::test]
async fn a_token_is_made_by_one_of_them() {
    let site = Site::start().await;
    for _ in 0..ROUNDS {
        let value = RawToken::generate().expect("entropy");
        let token = json!({ "description": "x", "permissions": ["configs:read"], "token": value.reveal() });
        one_made_it(&at_once(&site, "/api/v1/tokens?if_not_exists=true", &token).await);
    }
}

#[tokio::test]
async fn tokens_are_deleted_by_one_of_them() {
    let site = Site::start().await;
    for _ in 0..ROUNDS {
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.push(site.token("olga", &["configs:read"]).await.id);
        }
        let chosen = json!({ "ids": ids, "count": 3, "if_exists": true });
        let answers = at_once(&site, "/api/v1/tokens/delete", &chosen).await;
        let counts: Vec<_> = answers.into_iter().map(|answer| answer.done()["count"].clone()).collect();
        let of = |count: u64| counts.iter().filter(|other| **other == count).count();
        assert_eq!((of(3), of(0)), (1, AT_ONCE - 1), "{counts:?}");
    }
}
