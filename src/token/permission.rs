//! `resource:action`, and sets of them as bits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::words::{as_text, words};

words! {
    /// What a permission is about, in the order in which permissions are listed. The Controller's names, but for the last
    /// two, which it has not published. A new one goes to the end: its place is part of the stored format.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    #[repr(u8)]
    #[expect(missing_docs, reason = "the names say it")]
    pub enum Resource {
        Configs = "configs",
        Agents = "agents",
        ReportingRules = "reporting-rules",
        Labels = "labels",
        Tokens = "tokens",
        Users = "users",
        Invites = "invites",
        PasswordResets = "password-resets",
        Heartbeat = "heartbeat",
        Settings = "settings",
        License = "license",
        AuthConfig = "auth-config",
        Analytics = "analytics",
        Entitlements = "entitlements",
        AuditLogs = "audit-logs",
        ConfigGroups = "config-groups",
        Constants = "constants",
    }
}

impl Resource {
    /// The actions that exist for this resource.
    pub const fn actions(self) -> &'static [Action] {
        match self {
            Self::Configs
            | Self::Agents
            | Self::ReportingRules
            | Self::Labels
            | Self::Tokens
            | Self::Users
            | Self::Invites
            | Self::PasswordResets
            | Self::ConfigGroups
            | Self::Constants => &[Action::Read, Action::Write, Action::Delete],
            Self::Heartbeat | Self::Settings | Self::License | Self::AuthConfig => &[Action::Read, Action::Write],
            Self::Analytics | Self::Entitlements | Self::AuditLogs => &[Action::Read],
        }
    }
}

words! {
    /// What is done to a resource.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    #[repr(u8)]
    #[expect(missing_docs, reason = "the names say it")]
    pub enum Action {
        Read = "read",
        Write = "write",
        Delete = "delete",
    }
}

/// A permission that exists: a resource with one of its actions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Permission {
    resource: Resource,
    action: Action,
}

/// A text that is not a permission.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPermission {
    /// No colon.
    #[error("`{0}` is not a permission: write it as resource:action, such as configs:read")]
    Form(String),
    /// No such resource.
    #[error("`{permission}`: there is no resource `{resource}`; did you mean `{nearest}`?")]
    Resource {
        /// What was written.
        permission: String,
        /// Its part before the colon.
        resource: String,
        /// The resource with the nearest name.
        nearest: &'static str,
    },
    /// The resource exists, the action does not, or not for it.
    #[error("`{permission}`: {resource} has {}", list_actions(*resource))]
    Action {
        /// What was written.
        permission: String,
        /// The resource it names.
        resource: Resource,
    },
}

fn list_actions(resource: Resource) -> String {
    resource.actions().iter().map(|action| format!("{resource}:{action}")).collect::<Vec<_>>().join(", ")
}

impl Permission {
    /// The permission, if the resource has that action.
    pub const fn new(resource: Resource, action: Action) -> Option<Self> {
        let actions = resource.actions();
        let mut at = 0;
        while at < actions.len() {
            if actions[at] as u8 == action as u8 {
                return Some(Self { resource, action });
            }
            at += 1;
        }
        None
    }

    fn every() -> impl Iterator<Item = Self> {
        let of = |resource: Resource| resource.actions().iter().map(move |action| Self { resource, action: *action });
        Resource::ALL.into_iter().flat_map(of)
    }

    /// What it is about.
    pub const fn resource(self) -> Resource {
        self.resource
    }

    /// What it lets one do.
    pub const fn action(self) -> Action {
        self.action
    }

    /// Its bit in a [`PermissionSet`]: four bits a resource, one left free. Part of the stored format.
    const fn bit(self) -> u128 {
        1 << (self.resource as u32 * 4 + self.action as u32)
    }
}

/// `heartbeat:write`, the permission of the commonest request.
pub(crate) const HEARTBEAT_WRITE: Permission = Permission { resource: Resource::Heartbeat, action: Action::Write };

/// `configs:read`, the permission to fetch a configuration.
pub(crate) const CONFIGS_READ: Permission = Permission { resource: Resource::Configs, action: Action::Read };

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.resource, self.action)
    }
}

impl FromStr for Permission {
    type Err = InvalidPermission;

    fn from_str(text: &str) -> Result<Self, InvalidPermission> {
        let (resource, action) = text.split_once(':').ok_or_else(|| InvalidPermission::Form(text.to_owned()))?;
        let Some(found) = Resource::from_name(resource) else {
            let distance = |known: &Resource| strsim::osa_distance(known.name(), resource);
            let nearest = Resource::ALL.into_iter().min_by_key(distance).unwrap_or(Resource::Configs).name();
            let (permission, resource) = (text.to_owned(), resource.to_owned());
            return Err(InvalidPermission::Resource { permission, resource, nearest });
        };
        Action::from_name(action)
            .and_then(|action| Self::new(found, action))
            .ok_or_else(|| InvalidPermission::Action { permission: text.to_owned(), resource: found })
    }
}

as_text!(Permission);

/// A set of permissions, as bits.
///
/// Bits that this version has no permission for are retained, and permit nothing: a later version wrote them, shares the
/// registry with this one, and counts them in the checksum.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PermissionSet(u128);

impl PermissionSet {
    /// No permission.
    pub const EMPTY: Self = Self(0);

    /// What an agent needs: fetch its configuration and send heartbeats. The Controller's preset *Telegraf Agent*.
    pub const TELEGRAF_AGENT: Self = Self(CONFIGS_READ.bit() | HEARTBEAT_WRITE.bit());

    /// Every permission that exists.
    pub fn all() -> Self {
        Permission::every().collect()
    }

    /// The bits, for the stored format.
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// A set read back from the store, with all the bits that it was written with.
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// The bits in two words, the lower half first.
    #[expect(clippy::cast_possible_truncation, reason = "each word takes its half")]
    pub const fn words(self) -> [u64; 2] {
        [self.0 as u64, (self.0 >> 64) as u64]
    }

    /// The inverse of [`Self::words`].
    pub fn from_words([low, high]: [u64; 2]) -> Self {
        Self(u128::from(high) << 64 | u128::from(low))
    }

    /// Whether the set has this permission.
    pub const fn contains(self, permission: Permission) -> bool {
        self.0 & permission.bit() != 0
    }

    /// Whether the set has what is needed: this permission, or none at all.
    pub(crate) const fn satisfies(self, needed: Option<Permission>) -> bool {
        match needed {
            Some(permission) => self.contains(permission),
            None => true,
        }
    }

    /// What both sets have.
    pub const fn intersect(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What this set has and the other has not.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether `other` has all of this set.
    pub const fn is_subset_of(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Whether it has no permission at all.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The permissions, in the order of [`Resource::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::every().filter(move |permission| self.contains(*permission))
    }
}

impl FromIterator<Permission> for PermissionSet {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        Self(permissions.into_iter().fold(0, |bits, permission| bits | permission.bit()))
    }
}

impl fmt::Debug for PermissionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Serialize for PermissionSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

/// A set as records hold it: all bits, in hexadecimal. Read also as the names that the layout before had.
pub(super) mod at_rest {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::PermissionSet;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Bits(String),
        Names(PermissionSet),
    }

    pub(in crate::token) fn serialize<S: Serializer>(set: &PermissionSet, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:032x}", set.bits()))
    }

    pub(in crate::token) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PermissionSet, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Names(set) => Ok(set),
            Written::Bits(text) => {
                let bits = u128::from_str_radix(&text, 16).map_err(serde::de::Error::custom)?;
                Ok(PermissionSet::from_bits(bits))
            }
        }
    }
}

impl<'de> Deserialize<'de> for PermissionSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Permission>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_permission_has_its_own_bit_and_comes_back_from_its_text() {
        let all = PermissionSet::all();
        assert_eq!(all.iter().count(), 10 * 3 + 4 * 2 + 3);
        assert_eq!(all.bits().count_ones() as usize, all.iter().count());
        for permission in all.iter() {
            assert_eq!(permission.to_string().parse(), Ok(permission));
        }
    }

    #[test]
    fn the_bits_of_permissions_are_those_of_every_version_before() {
        for (permission, bit) in [
            ("configs:read", 0),
            ("configs:write", 1),
            ("configs:delete", 2),
            ("labels:read", 12),
            ("tokens:delete", 18),
            ("heartbeat:write", 33),
            ("audit-logs:read", 56),
            ("config-groups:read", 60),
            ("config-groups:delete", 62),
            ("constants:read", 64),
            ("constants:delete", 66),
        ] {
            let set: PermissionSet = [permission.parse::<Permission>().expect("a permission")].into_iter().collect();
            assert_eq!(set.bits(), 1 << bit, "{permission}");
        }
        let every_one_of_before = PermissionSet::from_bits((1 << 60) - 1);
        let is_newer =
            |permission: Permission| matches!(permission.resource(), Resource::ConfigGroups | Resource::Constants);
        assert!(!every_one_of_before.iter().any(is_newer), "no token of before has become wider");
    }

    #[test]
    fn what_is_no_permission_says_what_there_is() {
        let message = |text: &str| text.parse::<Permission>().expect_err("refused").to_string();
        assert!(message("configs").contains("resource:action"));
        assert!(message("config:read").contains("did you mean `configs`?"));
        assert_eq!(message("heartbeat:delete"), "`heartbeat:delete`: heartbeat has heartbeat:read, heartbeat:write");
        assert!(message("configs:Read").contains("configs:read"));
    }

    #[test]
    fn unknown_bits_stay_and_permit_nothing() {
        let set = PermissionSet::from_bits(u128::MAX);
        assert_eq!((set.bits(), PermissionSet::from_words(set.words())), (u128::MAX, set));
        assert!(set.iter().eq(PermissionSet::all().iter()));
        assert_eq!(serde_json::to_value(set).ok(), serde_json::to_value(PermissionSet::all()).ok());
        let all = PermissionSet::all();
        assert!(set.without(all).iter().next().is_none() && !set.without(all).is_empty());
    }

    #[test]
    fn records_keep_every_bit_and_are_read_as_they_were_written_before() {
        #[derive(Serialize, Deserialize)]
        struct Record {
            #[serde(with = "at_rest")]
            permissions: PermissionSet,
        }
        let set = PermissionSet::from_bits(u128::MAX << 7);
        let json = serde_json::to_string(&Record { permissions: set }).expect("serializes");
        assert_eq!(serde_json::from_str::<Record>(&json).expect("reads").permissions, set);
        let before = r#"{"permissions":["configs:read","heartbeat:write"]}"#;
        let read = serde_json::from_str::<Record>(before).expect("reads").permissions;
        assert_eq!(read, PermissionSet::TELEGRAF_AGENT);
        assert!(serde_json::from_str::<Record>(r#"{"permissions":"x"}"#).is_err());
    }
}
