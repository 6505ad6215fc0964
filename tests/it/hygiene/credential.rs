//! What the upstream gets as the credential: the client's own, none, or the service token.

use tollgate::upstream::CredentialMode;

use crate::harness::{CONFIG, Site, eventually, request};

async fn site_with(mode: CredentialMode) -> Site {
    Site::builder()
        .setting("DISABLED_AUTH_GROUPS", "labels")
        .config(move |config| config.upstreams.api.credential = mode)
        .start()
        .await
}

/// The `Authorization` that arrives with this request.
async fn arriving(site: &Site, request: String) -> Option<String> {
    let before = site.api.requests().len();
    assert_eq!(site.send(request).await.status(), 200);
    site.api.requests()[before].field("Authorization").map(str::to_owned)
}

#[tokio::test]
async fn forward_hands_on_the_clients_own_as_it_was_written() {
    let site = site_with(CredentialMode::Forward).await;
    let value = format!("tOkEn   {}", site.agent.raw);
    let with = |path: &str, value: &str| request("GET", path, &format!("Authorization: {value}\r\n"));
    assert_eq!(arriving(&site, with(CONFIG, &value)).await.as_deref(), Some(value.as_str()));
    assert_eq!(arriving(&site, with("/api/labels", "Basic eDp5")).await.as_deref(), Some("Basic eDp5"));
    assert_eq!(arriving(&site, request("GET", "/api/labels", "")).await, None);
}

#[tokio::test]
async fn strip_hands_on_none() {
    let site = site_with(CredentialMode::Strip).await;
    let field = format!("Authorization: Bearer {}\r\n", site.agent.raw);
    assert_eq!(arriving(&site, request("GET", CONFIG, &field)).await, None);
    assert_eq!(arriving(&site, request("GET", "/api/labels", &field)).await, None);
    assert!(!site.api.requests()[0].head.contains("tc-apiv1_"));
}

#[tokio::test]
async fn replace_hands_on_the_service_token_and_a_new_one_when_the_file_changes() {
    let site = Site::builder()
        .config_in(|config, directory| {
            let token_file = directory.join("service-token");
            std::fs::write(&token_file, "  tc-apiv1_first-service-token\n").expect("writes");
            config.upstreams.api.credential = CredentialMode::Replace { token_file };
        })
        .start()
        .await;
    let field = format!("Authorization: Bearer {}\r\nauthorization_: x\r\n", site.agent.raw);
    let with_token = || arriving(&site, request("GET", CONFIG, &field));
    assert_eq!(with_token().await.as_deref(), Some("Bearer tc-apiv1_first-service-token"));
    assert!(!site.api.requests()[0].head.contains(&site.agent.raw), "the client's is gone");
    assert_eq!(site.send(request("GET", CONFIG, "")).await.status(), 401, "it is no way in without a token");
    assert_eq!(
        site.send(request("GET", CONFIG, "Authorization: Bearer tc-apiv1_first-service-token\r\n")).await.status(),
        401,
        "the service token is the Controller's, not Tollgate's"
    );

    let file = site.directory().join("service-token");
    std::fs::write(&file, "tc-apiv1_second-service-token-that-is-longer").expect("writes");
    eventually("the new one is used", || async {
        with_token().await.as_deref() == Some("Bearer tc-apiv1_second-service-token-that-is-longer")
    })
    .await;
    // What cannot be used is not: the one read before stays. The file after it shows that it was looked at.
    std::fs::write(&file, "not a token").expect("writes");
    eventually("the file was looked at again", || async {
        std::fs::write(&file, "tc-apiv1_third").expect("writes");
        let arrived = with_token().await;
        assert!(arrived.as_deref().is_some_and(|value| value.starts_with("Bearer tc-apiv1_")), "{arrived:?}");
        arrived.as_deref() == Some("Bearer tc-apiv1_third")
    })
    .await;
}
