//! `/api/v1/status`: the store, and every sidecar.

use axum::response::Response;
use http::StatusCode;

use super::input::{Nothing, Query};
use super::problem::{Problem, Problems};
use super::reply;
use crate::console::caller::{Caller, SettingsRead};
use crate::registry::status::{FleetStatus, StatusView};

/// Shows the store's position, and every sidecar that reports to it. Needs `settings:read`.
#[utoipa::path(
    get, path = "/api/v1/status", tag = "status", operation_id = "show_status",
    responses((status = 200, description = "The store and the sidecars", body = StatusView), Problems),
)]
pub(super) async fn show(caller: Caller<SettingsRead>, _: Query<Nothing>) -> Result<Response, Problem> {
    let status = FleetStatus::read(&**caller.registry.store()).await?;
    Ok(reply::json(StatusCode::OK, &status.view()))
}
