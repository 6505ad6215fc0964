//! What agents fetch: configurations, groups of them, their aliases, and the constants in them.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::whole_seconds;
use crate::dev::template::{self, InvalidParameters};

/// Most entries of each kind.
const MAX_ENTRIES: usize = 1_000;

/// All of it. Aliases share one set of names, whatever they stand for.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    configurations: BTreeMap<String, Configuration>,
    groups: BTreeMap<String, Group>,
    aliases: BTreeMap<String, Target>,
    constants: BTreeMap<String, Constant>,
}

#[derive(Debug, Clone)]
struct Configuration {
    text: String,
    last_modified: Timestamp,
}

#[derive(Debug, Clone)]
struct Group {
    members: Vec<String>,
    last_modified: Timestamp,
}

#[derive(Debug, Clone)]
struct Constant {
    value: String,
    last_modified: Timestamp,
}

/// What an alias stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// The configuration with this id.
    Configuration(String),
    /// The group with this id.
    Group(String),
}

/// A configuration as an agent gets it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rendered {
    pub text: String,
    /// In whole seconds, as `Last-Modified` has them.
    pub last_modified: Timestamp,
}

/// An entry in a list.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Listed {
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub members: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    pub last_modified: Timestamp,
}

/// Why something is not there, or cannot be put there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CatalogError {
    #[error("there is no configuration `{0}`")]
    NoConfiguration(String),
    #[error("there is no configuration group `{0}`")]
    NoGroup(String),
    #[error("there is no alias `{0}`")]
    NoAlias(String),
    #[error("constants without a value: {0}")]
    NoConstants(String),
    #[error(transparent)]
    Parameters(#[from] InvalidParameters),
    #[error("an alias has 3 to 63 of a-z, 0-9 and -, and begins and ends with a letter or digit")]
    InvalidAlias,
    #[error("the alias is taken; delete it there first")]
    AliasTaken,
    #[error("a constant has at most 128 of A-Z, a-z, 0-9 and _, no digit first; its value has no quotes or line ends")]
    InvalidConstant,
    #[error("this stand-in has {MAX_ENTRIES} of these at most")]
    Full,
}

impl Catalog {
    /// Adds a configuration, or replaces the one with this id.
    pub(super) fn put_configuration(&mut self, id: &str, text: String, now: Timestamp) -> Listed {
        let last_modified = later(self.configurations.get(id).map(|before| before.last_modified), now);
        self.configurations.insert(id.to_owned(), Configuration { text, last_modified });
        Listed { id: id.to_owned(), members: None, value: None, last_modified }
    }

    /// The id of a configuration, by itself or by an alias.
    pub(super) fn configuration_id(&self, name: &str) -> Result<String, CatalogError> {
        match self.aliases.get(name) {
            Some(Target::Configuration(id)) => Ok(id.clone()),
            _ if self.configurations.contains_key(name) => Ok(name.to_owned()),
            _ => Err(CatalogError::NoConfiguration(name.to_owned())),
        }
    }

    /// The id of a group, by itself or by an alias.
    pub(super) fn group_id(&self, name: &str) -> Result<String, CatalogError> {
        match self.aliases.get(name) {
            Some(Target::Group(id)) => Ok(id.clone()),
            _ if self.groups.contains_key(name) => Ok(name.to_owned()),
            _ => Err(CatalogError::NoGroup(name.to_owned())),
        }
    }

    /// What an alias stands for.
    pub(super) fn target(&self, alias: &str) -> Result<Target, CatalogError> {
        self.aliases.get(alias).cloned().ok_or_else(|| CatalogError::NoAlias(alias.to_owned()))
    }

    /// Adds a group, or replaces the one with this id.
    pub(super) fn put_group(&mut self, id: &str, members: Vec<String>, now: Timestamp) -> Result<Listed, CatalogError> {
        let members: Vec<_> = members.iter().map(|member| self.configuration_id(member)).collect::<Result<_, _>>()?;
        let last_modified = later(self.groups.get(id).map(|before| before.last_modified), now);
        let group = Group { members: members.clone(), last_modified };
        insert(&mut self.groups, id, group)?;
        Ok(Listed { id: id.to_owned(), members: Some(members), value: None, last_modified })
    }

    /// Adds a constant, or gives it another value.
    pub(super) fn put_constant(&mut self, name: &str, value: String, now: Timestamp) -> Result<Listed, CatalogError> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let is_named =
            name.len() <= 128 && name.bytes().all(is_name) && !name.starts_with(|first: char| first.is_ascii_digit());
        if !is_named || name.is_empty() || value.contains(['"', '\n', '\r']) {
            return Err(CatalogError::InvalidConstant);
        }
        let last_modified = later(self.constants.get(name).map(|before| before.last_modified), now);
        insert(&mut self.constants, name, Constant { value: value.clone(), last_modified })?;
        Ok(Listed { id: name.to_owned(), members: None, value: Some(value), last_modified })
    }

    /// Gives something another name. One that something else has stays there.
    pub(super) fn put_alias(&mut self, alias: &str, target: Target) -> Result<(), CatalogError> {
        let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(3..=63).contains(&alias.len())
            || !alias.bytes().all(is_inner)
            || alias.starts_with('-')
            || alias.ends_with('-')
        {
            return Err(CatalogError::InvalidAlias);
        }
        match self.aliases.get(alias) {
            Some(other) if *other != target => Err(CatalogError::AliasTaken),
            _ => insert(&mut self.aliases, alias, target),
        }
    }

    /// Takes the name away again.
    pub(super) fn delete_alias(&mut self, alias: &str, target: &Target) -> Result<(), CatalogError> {
        match self.aliases.get(alias) {
            Some(found) if found == target => drop(self.aliases.remove(alias)),
            _ => return Err(CatalogError::NoAlias(alias.to_owned())),
        }
        Ok(())
    }

    /// A configuration, or all of a group's in their order, with its parameters and constants filled in.
    pub(super) fn render(&self, target: &Target, query: &str) -> Result<Rendered, CatalogError> {
        let (members, mut last_modified) = match target {
            Target::Configuration(id) => (std::slice::from_ref(id), Timestamp::MIN),
            Target::Group(id) => {
                let group = self.groups.get(id).ok_or_else(|| CatalogError::NoGroup(id.clone()))?;
                (group.members.as_slice(), group.last_modified)
            }
        };
        let mut text = String::new();
        for id in members {
            let member = self.configurations.get(id).ok_or_else(|| CatalogError::NoConfiguration(id.clone()))?;
            last_modified = last_modified.max(member.last_modified);
            if matches!(target, Target::Group(_)) {
                text.push_str(&format!("# Configuration: {id}\n"));
            }
            text.push_str(&member.text);
        }
        // Constants afterwards: no parameter can name one, since its braces are escaped.
        let text = template::substitute(&text, query)?;
        let (text, constants) = self.fill_in(&text)?;
        Ok(Rendered { text, last_modified: last_modified.max(constants) })
    }

    /// Puts constants in, as they are, and says when the last of them was changed.
    fn fill_in(&self, text: &str) -> Result<(String, Timestamp), CatalogError> {
        let (mut filled, mut last_modified, mut missing) =
            (String::with_capacity(text.len()), Timestamp::MIN, Vec::new());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("::{") {
            filled.push_str(before);
            let Some((name, after)) = after.split_once('}') else {
                filled.push_str("::{");
                rest = after;
                continue;
            };
            match self.constants.get(name) {
                Some(constant) => {
                    filled.push_str(&constant.value);
                    last_modified = last_modified.max(constant.last_modified);
                }
                None => missing.push(name),
            }
            rest = after;
        }
        filled.push_str(rest);
        if missing.is_empty() {
            Ok((filled, last_modified))
        } else {
            Err(CatalogError::NoConstants(missing.join(", ")))
        }
    }

    /// Every configuration.
    pub(super) fn configurations(&self) -> Vec<Listed> {
        let listed = |(id, entry): (&String, &Configuration)| Listed {
            id: id.clone(),
            members: None,
            value: None,
            last_modified: entry.last_modified,
        };
        self.configurations.iter().map(listed).collect()
    }

    /// Every group.
    pub(super) fn groups(&self) -> Vec<Listed> {
        let listed = |(id, entry): (&String, &Group)| Listed {
            id: id.clone(),
            members: Some(entry.members.clone()),
            value: None,
            last_modified: entry.last_modified,
        };
        self.groups.iter().map(listed).collect()
    }

    /// Every constant.
    pub(super) fn constants(&self) -> Vec<Listed> {
        let listed = |(id, entry): (&String, &Constant)| Listed {
            id: id.clone(),
            members: None,
            value: Some(entry.value.clone()),
            last_modified: entry.last_modified,
        };
        self.constants.iter().map(listed).collect()
    }
}

fn insert<T>(entries: &mut BTreeMap<String, T>, id: &str, entry: T) -> Result<(), CatalogError> {
    if entries.len() >= MAX_ENTRIES && !entries.contains_key(id) {
        return Err(CatalogError::Full);
    }
    entries.insert(id.to_owned(), entry);
    Ok(())
}

/// Agents compare the dates only: two versions within a second need two of them.
fn later(before: Option<Timestamp>, now: Timestamp) -> Timestamp {
    let next = |before: Timestamp| before.saturating_add(SignedDuration::from_secs(1)).unwrap_or(before);
    before.map_or(Timestamp::MIN, next).max(whole_seconds(now))
}
