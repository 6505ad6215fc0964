//! The sidecars that report to the store.

use askama::Template;
use axum::response::Response;
use jiff::Timestamp;

use super::html::{self, Section, Shell};
use super::trouble::Trouble;
use super::visitor::Visitor;
use super::when::{When, grouped};
use crate::registry::receipt::revision_in;
use crate::registry::status::{FleetStatus, staleness};
use crate::store::Reported;
use crate::token::{Action, Resource};

#[derive(Template)]
#[template(path = "fleet.html")]
struct FleetPage {
    shell: Shell,
    store: String,
    revision: u64,
    tokens: String,
    /// What somebody has to look at.
    warnings: Vec<String>,
    sidecars: Vec<Row>,
}

/// A sidecar.
struct Row {
    name: String,
    version: String,
    /// For the stylesheet, and for people.
    status: (&'static str, String),
    revision: String,
    fresh: String,
    connections: String,
    started: When,
}

/// Shows them.
pub(super) async fn show(visitor: Visitor) -> Response {
    let page = try_show(&visitor).await;
    visitor.answer(Section::Fleet, page)
}

async fn try_show(visitor: &Visitor) -> Result<Response, Trouble> {
    visitor.acting(Resource::Settings, Action::Read)?;
    let status = FleetStatus::read(&**visitor.registry.store()).await?;
    let now = Timestamp::now();
    let page = FleetPage {
        shell: visitor.shell("Sidecars", Section::Fleet),
        store: status.store.clone(),
        revision: status.position.revision.0,
        tokens: grouped(status.tokens),
        warnings: warnings(&status),
        sidecars: status.sidecars.iter().map(|sidecar| Row::new(sidecar, &status, now)).collect(),
    };
    Ok(html::page(&page))
}

impl Row {
    fn new(sidecar: &Reported, status: &FleetStatus, now: Timestamp) -> Self {
        let revision = revision_in(status.position.epoch, sidecar);
        let behind = revision.map(|revision| status.position.revision.0.saturating_sub(revision.0));
        let told = match behind {
            _ if let Some(reason) = &sidecar.report.draining => ("soon", reason.clone()),
            None => ("soon", "Reading the registry".to_owned()),
            Some(0) => ("active", "Up to date".to_owned()),
            Some(behind) => ("soon", format!("{} behind", grouped(behind))),
        };
        let is_silent = sidecar.age > std::time::Duration::from_secs(10);
        Self {
            name: sidecar.report.name.clone(),
            version: sidecar.report.version.clone(),
            status: if is_silent { ("bad", "Not heard of".to_owned()) } else { told },
            revision: revision.map_or_else(|| "–".to_owned(), |revision| revision.0.to_string()),
            fresh: staleness(sidecar).map_or_else(|| "–".to_owned(), |age| format!("{:.1} s ago", age.as_secs_f64())),
            connections: grouped(sidecar.report.connections),
            started: When::new(sidecar.report.started_at, now),
        }
    }
}

fn warnings(status: &FleetStatus) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(reason) = &status.writes_refused {
        warnings.push(format!("The store refuses writes: {reason}"));
    }
    if let Some(reason) = &status.frozen {
        warnings.push(format!("The registry refuses changes: {reason}"));
    }
    if status.recalled > 0 {
        warnings.push(format!(
            "The store has lost the revocation of {} tokens that sidecars saw revoked; they stay refused, and the next \
             change revokes them again.",
            grouped(status.recalled)
        ));
    }
    let held: Vec<_> = status.sidecars.iter().flat_map(|sidecar| sidecar.report.held_users.iter().cloned()).collect();
    if !held.is_empty() {
        warnings
            .push(format!("Held disabled or narrowed although the store has lost that they were: {}", held.join(", ")));
    }
    warnings
}
