//! How values that are texts are described where records are (OpenAPI): ids, permissions, roles.

use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{KnownFormat, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::import::LineKind;
use super::{Fingerprint, ListState};
use crate::token::{HistoryEntry, Permission, PermissionSet, Role, TokenId, UserId, UserStatus};

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn one_of(names: impl IntoIterator<Item = String>) -> ObjectBuilder {
    text().enum_values(Some(names))
}

/// Implements the description of a type by this schema.
macro_rules! described {
    ($($type:ty => $schema:expr;)+) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                $schema.into()
            }
        }

        impl ToSchema for $type {}
    )+};
}

described! {
    Permission => one_of(PermissionSet::all().iter().map(|permission| permission.to_string()));
    PermissionSet => ArrayBuilder::new().items(Permission::schema());
    Role => one_of(Role::ALL.map(|role| role.name().to_owned()));
    UserStatus => one_of(UserStatus::ALL.map(|status| status.name().to_owned()));
    ListState => one_of(ListState::ALL.map(|state| state.name().to_owned()));
    LineKind => one_of(LineKind::ALL.map(|kind| kind.name().to_owned()));
    TokenId => id();
    UserId => id();
    Fingerprint => text().pattern(Some("^[0-9a-f]{32}$")).description(Some("A set of tokens, in few characters"));
    HistoryEntry => ObjectBuilder::new()
        .description(Some("Something that happened to a token"))
        .property("at", text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))))
        .required("at")
        .property("by", text().description(Some("Who: a user's name, or `cli:` and a login name")))
        .required("by")
        .property("event", one_of(["created", "imported", "reassigned", "rotated", "narrowed", "revoked"].map(str::to_owned)))
        .required("event")
        .property("from", text().description(Some("Of `reassigned`: the owner before")))
        .property("to", text().description(Some("Of `reassigned`: the owner after; of `rotated`: the successor")))
        .property("lost", PermissionSet::schema())
        .property("reason", text().description(Some("Of `revoked`, where it was no command about this token")))
        .property("operator_reason", text().description(Some("Why, as whoever did it said (`--reason`)")));
}

fn id() -> ObjectBuilder {
    text().pattern(Some("^[0-9a-f][0-9a-hjkmnp-tv-z]{12}$")).description(Some("An id; later ones are of later records"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Action, Resource};

    #[test]
    fn every_resource_has_a_permission_that_is_described() {
        let described = serde_json::to_value(Permission::schema()).expect("serializes");
        let names = described["enum"].as_array().expect("names");
        for resource in Resource::ALL {
            assert!(names.contains(&format!("{resource}:{}", Action::Read).into()), "{resource}");
        }
    }
}
