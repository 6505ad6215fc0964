//! The Controller's four roles and what each may do at most.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::permission::{Action, PermissionSet, Resource};
use crate::words::words;

words! {
    /// A user's role. The order is that of power: a later one may do all that an earlier one may.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    #[repr(u8)]
    pub enum Role {
        /// Reads configurations, their groups and constants, agents, labels and reporting rules. Cannot manage tokens.
        Viewer = "viewer",
        /// Manages those, and tokens of their own.
        Manager = "manager",
        /// Everything but the licence, authentication settings and the transfer of ownership.
        Administrator = "administrator",
        /// Everything. There is exactly one.
        Owner = "owner",
    }
}

/// A text that is not a role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no role `{0}`: the roles are owner, administrator, manager, viewer")]
pub struct InvalidRole(String);

impl Role {
    /// The most that a token of a user with this role can permit.
    pub fn permissions(self) -> PermissionSet {
        let permitted = PermissionSet::all();
        permitted.iter().filter(|permission| self.permits(permission.resource(), permission.action())).collect()
    }

    fn permits(self, resource: Resource, action: Action) -> bool {
        match resource {
            Resource::Configs
            | Resource::ConfigGroups
            | Resource::Constants
            | Resource::Agents
            | Resource::Labels
            | Resource::ReportingRules => self >= Self::Manager || action == Action::Read,
            Resource::Analytics | Resource::Entitlements => true,
            Resource::Tokens | Resource::Heartbeat => self >= Self::Manager,
            Resource::Users
            | Resource::Invites
            | Resource::PasswordResets
            | Resource::Settings
            | Resource::AuditLogs => self >= Self::Administrator,
            Resource::AuthConfig => self == Self::Owner || (self == Self::Administrator && action == Action::Read),
            Resource::License => self == Self::Owner,
        }
    }

    /// Whether users with this role may have tokens made for them, and manage their own.
    pub fn manages_tokens(self) -> bool {
        self >= Self::Manager
    }
}

impl FromStr for Role {
    type Err = InvalidRole;

    fn from_str(text: &str) -> Result<Self, InvalidRole> {
        let named = |role: &Self| role.name().eq_ignore_ascii_case(text);
        Self::ALL.into_iter().find(named).ok_or_else(|| InvalidRole(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Permission;

    fn has(role: Role, permission: &str) -> bool {
        role.permissions().contains(permission.parse::<Permission>().expect("a permission"))
    }

    #[test]
    fn a_stronger_role_has_all_of_a_weaker_one() {
        for pair in Role::ALL.windows(2) {
            assert!(pair[0].permissions().is_subset_of(pair[1].permissions()), "{pair:?}");
        }
        assert_eq!(Role::Owner.permissions(), PermissionSet::all());
    }

    #[test]
    fn the_limits_of_each_role() {
        assert!(!has(Role::Administrator, "license:read"));
        assert!(has(Role::Administrator, "auth-config:read") && !has(Role::Administrator, "auth-config:write"));
        assert!(has(Role::Administrator, "audit-logs:read") && !has(Role::Manager, "audit-logs:read"));
        assert!(has(Role::Manager, "tokens:write") && !has(Role::Manager, "users:read"));
        assert!(has(Role::Manager, "heartbeat:write") && !has(Role::Manager, "settings:read"));
        assert!(has(Role::Viewer, "configs:read") && !has(Role::Viewer, "configs:write"));
        for role in Role::ALL {
            for (action, resource) in
                Action::ALL.into_iter().flat_map(|action| ["config-groups", "constants"].map(|of| (action, of)))
            {
                let like_configs = has(role, &format!("configs:{action}"));
                assert_eq!(has(role, &format!("{resource}:{action}")), like_configs, "{role} {resource}:{action}");
            }
        }
        assert!(!has(Role::Viewer, "tokens:read") && has(Role::Viewer, "entitlements:read"));
    }
}
