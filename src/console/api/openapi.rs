//! The description of the API, generated from its code. `docs/openapi.json` is the same, and a test holds it so.

use axum::response::Response;
use http::StatusCode;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{audit, bulk, create, find, moving, purge, reply, status, tokens, users};

/// Everything that is served below `/api/v1`, but for the description itself.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tollgate admin API",
        description = "Manages the API tokens and the users of a Tollgate registry. Call it with an API token whose \
                       permissions and owner's role allow it. Lists are arrays, the newest first; `Link` leads to the \
                       next page. Problems are told as RFC 9457 has it.",
        license(name = "MIT OR Apache-2.0"),
    ),
    paths(
        tokens::own,
        tokens::list,
        create::create,
        tokens::show,
        tokens::delete,
        tokens::revoke,
        tokens::reassign,
        create::rotate,
        bulk::selection,
        bulk::revoke,
        bulk::delete,
        bulk::reassign,
        bulk::dependents,
        find::find,
        moving::import,
        moving::export,
        purge::purge,
        users::list,
        users::add,
        users::show,
        users::delete,
        users::set_role,
        users::disable,
        users::enable,
        users::transfer_ownership,
        audit::list,
        audit::verify,
        status::show,
    ),
    components(schemas(super::problem::ProblemBody, crate::registry::ListState)),
    tags(
        (name = "tokens", description = "API tokens"),
        (name = "users", description = "Users, whose roles limit what their tokens permit"),
        (name = "audit", description = "The audit trail: every change, and every attempt that was refused"),
        (name = "status", description = "The store and its sidecars"),
    ),
    security(("token" = [])),
    modifiers(&Bearer),
)]
struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An API token, `tc-apiv1_...`. Each call needs its permission in it: see the reply 403."))
            .build();
        openapi.components.get_or_insert_default().add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// Anybody who reaches the console may read it: it is published anyway.
pub(super) async fn show() -> Response {
    reply::json(StatusCode::OK, &Description::openapi())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> String {
        Description::openapi().to_pretty_json().expect("serializes") + "\n"
    }

    /// `UPDATE_OPENAPI=1 cargo test --lib openapi` writes it.
    #[test]
    fn the_committed_description_is_that_of_the_code() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
        if std::env::var_os("UPDATE_OPENAPI").is_some() {
            std::fs::write(file, description()).expect("writes");
        }
        let committed = std::fs::read_to_string(file).expect("reads");
        assert!(committed == description(), "docs/openapi.json differs: UPDATE_OPENAPI=1 cargo test --lib openapi");
    }

    #[test]
    fn every_call_says_how_it_may_end() {
        let description: serde_json::Value = serde_json::from_str(&description()).expect("JSON");
        assert!(description["openapi"].as_str().is_some_and(|version| version.starts_with("3.1.")));
        let mut ids = std::collections::BTreeSet::new();
        for (path, calls) in description["paths"].as_object().expect("paths") {
            for (method, call) in calls.as_object().expect("calls") {
                assert!(ids.insert(call["operationId"].as_str()), "{method} {path}: another call has its id");
                assert!(call["responses"]["default"].is_object(), "{method} {path}");
                assert!(call["summary"].is_string() && call["operationId"].is_string(), "{method} {path}");
            }
        }
    }
}
