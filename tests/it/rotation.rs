//! Rotation on a sidecar: both tokens work during the overlap, and an agent that was forgotten shows.

use std::time::Duration;

use tollgate::registry::Rotation;

use crate::harness::{Site, Token, eventually, operator};

#[tokio::test]
async fn both_tokens_work_during_the_overlap_and_a_forgotten_agent_shows_afterwards() {
    let site = Site::start().await;
    let overlap = Duration::from_hours(24);
    let rotation = Rotation { token: site.agent.id, overlap, expires_at: None };
    let rotated = site.registry.rotate(&operator(), rotation).await.expect("rotates");
    let new = Token::from(rotated.successor);
    site.replica_is_current().await;
    assert_eq!((site.beat(&site.agent).await.status(), site.beat(&new).await.status()), (200, 200));
    assert!(!site.metrics().await.contains("tollgate_late_requests_total{"), "nothing came late");

    // The overlap passes.
    site.expire(&site.agent).await;
    for _ in 0..3 {
        assert_eq!(site.beat(&site.agent).await.status(), 401);
    }
    assert_eq!(site.beat(&new).await.status(), 200);
    let metric = format!("tollgate_late_requests_total{{token=\"{}\"}}", site.agent.id);
    assert_eq!(site.metric(&metric).await, "3");
    let details = async |id| site.registry.token(&operator(), id).await.expect("exists");
    eventually("the report that tells of all of it", || async {
        details(new.id).await.predecessor_late.is_some_and(|late| late.requests == 3)
    })
    .await;
    let (old, new) = (details(site.agent.id).await, details(new.id).await);
    assert_eq!((old.late.as_ref(), &old.predecessor_late), (new.predecessor_late.as_ref(), &None));
    let late = old.late.expect("it was used");
    assert_eq!((late.requests, late.sidecars.len(), new.late), (3, 1, None));
}
