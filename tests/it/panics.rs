//! Panics in what a sidecar cannot do without: it goes on, or ends, and never decides by what is stale.

use crate::harness::{CONFIG, Site, eventually, within};

const PANICS: &str = "tollgate_panics_total";

#[tokio::test]
async fn a_synchroniser_that_panicked_is_started_again() {
    let site = Site::builder().setting("FRESHNESS__PROBE_INTERVAL", "100ms").start().await;
    assert_eq!(site.metric(PANICS).await, "0");
    site.store.panic_at_probes(2);
    eventually("both panics", || async { site.store.panics_left() == 0 }).await;
    let revision = site.revoke(&site.agent).await;
    site.replica_reaches(revision).await;
    assert_eq!(site.get(CONFIG, &site.agent).await.status(), 401);
    assert_eq!(site.get(CONFIG, &site.owner).await.status(), 200);
    assert_eq!(site.metric(PANICS).await, "2");
}

#[tokio::test]
async fn a_sidecar_whose_synchroniser_panics_again_and_again_says_that_it_cannot_go_on() {
    let site = Site::builder().setting("FRESHNESS__PROBE_INTERVAL", "100ms").start().await;
    site.store.panic_at_probes(usize::MAX);
    assert_eq!(within("the end", site.sidecar.failed()).await, "synchroniser");
}
