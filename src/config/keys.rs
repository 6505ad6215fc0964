//! Every key that there is; those that there are not, and which one was probably meant.

use std::collections::BTreeMap;

use super::problem::{Problem, shown_name};
use super::raw::{Place, TomlTable, Value, join};
use super::reason::Reason;
use super::visit::{Form, Text, Visitor};

/// Every key there is, by its path without list positions (`listener.address`).
pub(super) type Keys = BTreeMap<String, KeyKind>;

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyKind {
    Value,
    /// A table with keys of its own.
    Section,
    /// A list of such tables.
    Sections,
}

#[derive(Default)]
pub(super) struct Lister {
    pub(super) keys: Keys,
    path: Vec<&'static str>,
}

impl Lister {
    fn list(&mut self, key: &'static str, kind: KeyKind, walk: impl FnOnce(&mut Self)) {
        self.path.push(key);
        self.keys.insert(self.path.join("."), kind);
        walk(self);
        self.path.pop();
    }
}

impl Visitor for Lister {
    fn value<T>(&mut self, key: &'static str, _: &impl Form<T>, _: &mut T) {
        self.list(key, KeyKind::Value, |_| {});
    }

    fn section(&mut self, key: &'static str, walk: impl FnOnce(&mut Self)) {
        self.list(key, KeyKind::Section, walk);
    }

    fn sections<T: Default>(&mut self, key: &'static str, _: &mut Vec<T>, walk: impl Fn(&mut T, &mut Self)) {
        self.list(key, KeyKind::Sections, |keys| walk(&mut T::default(), keys));
    }

    fn map<K, V>(&mut self, key: &'static str, _: (&Text<K>, &impl Form<V>), _: &mut Vec<(K, V)>) {
        self.list(key, KeyKind::Value, |_| {});
    }
}

/// What environment variables that set keys start with.
const VARIABLE_PREFIX: &str = "TOLLGATE_";

/// Notes every key that does not exist, at any depth.
pub(super) fn note_unknown(keys: &Keys, root: &TomlTable, problems: &mut Vec<Problem>) {
    walk(keys, root, "", "", problems);
}

/// `parent` is the path of the table, `generic` the same without list positions.
fn walk(keys: &Keys, table: &TomlTable, parent: &str, generic: &str, problems: &mut Vec<Problem>) {
    for (key, node) in table {
        let path = join(generic, key);
        let written = join(parent, key);
        match (keys.get(&path), &node.value) {
            (None, _) => {
                // The value is not shown: whoever misspells a key may have put a secret there, or in the key's place.
                let written = join(parent, shown_name(key));
                problems.push(Problem::at(Some(&node.key_place), &written, unknown(keys, generic, key)));
            }
            (Some(KeyKind::Section), Value::Table(inner)) => walk(keys, inner, &written, &path, problems),
            (Some(KeyKind::Sections), Value::List(items)) => {
                for (at, item) in items.iter().enumerate() {
                    if let Value::Table(inner) = &item.value {
                        walk(keys, inner, &format!("{written}[{at}]"), &path, problems);
                    }
                }
            }
            // A value, or something of the wrong kind, which its reader finds fault with.
            (Some(_), _) => {}
        }
    }
}

/// What was meant by an unknown key: the nearest of the same table, else the same key elsewhere, else what there is.
fn unknown(keys: &Keys, table: &str, key: &str) -> Reason {
    let all = || keys.keys().map(|path| path.rsplit_once('.').unwrap_or(("", path)));
    let siblings: Vec<&str> = all().filter(|(parent, _)| *parent == table).map(|(_, name)| name).collect();
    // That below this table first.
    let elsewhere = (all().filter(|(_, name)| *name == key))
        .min_by_key(|(parent, _)| !parent.strip_prefix(table).is_some_and(|rest| rest.starts_with('.')));
    let is_meant = |name: &&str| is_near(name, key) && (elsewhere.is_none() || strsim::osa_distance(name, key) <= 2);
    if let Some(nearest) = nearest(siblings.iter().copied(), key).filter(is_meant) {
        return Reason::Misspelt(nearest.to_owned());
    }
    match elsewhere {
        Some(("", name)) => Reason::Outermost(name.to_owned()),
        Some((parent, name)) => Reason::Elsewhere(join(parent, name)),
        None => Reason::UnknownKey {
            nearest: nearest(siblings.iter().copied(), key).unwrap_or_default().to_owned(),
            known: siblings.into_iter().map(str::to_owned).collect(),
        },
    }
}

fn nearest<'a>(names: impl Iterator<Item = &'a str>, name: &str) -> Option<&'a str> {
    // One that was cut short, or written out, comes before one that merely has as many letters in common.
    let is_short_for = |known: &str| known.starts_with(name) || name.starts_with(known);
    names.min_by_key(|known| (!is_short_for(known), strsim::osa_distance(known, name)))
}

fn is_near(known: &str, name: &str) -> bool {
    known.starts_with(name) || name.starts_with(known) || strsim::normalized_damerau_levenshtein(known, name) >= 0.6
}

/// The variable that sets a key.
pub(super) fn variable(path: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", path.replace('.', "__").to_ascii_uppercase())
}

/// What an environment variable is to the configuration.
pub(super) enum Variable {
    /// Nothing: another program's, or one that Kubernetes sets.
    Foreign,
    /// It sets the key with this path.
    Key(String),
    /// It looks as if it set a key, and there is none.
    Unknown(Problem),
}

/// Finds out what a variable sets.
pub(super) fn identify(keys: &Keys, name: &str) -> Variable {
    let Some(rest) = name.strip_prefix(VARIABLE_PREFIX) else { return Variable::Foreign };
    let path = rest.replace("__", ".").to_ascii_lowercase();
    if keys.contains_key(&path) && variable(&path) == name && !in_list(keys, &path) {
        return Variable::Key(path);
    }
    if is_service_link(rest) {
        return Variable::Foreign;
    }
    let place = Place::Variable(name.to_owned());
    let list = path.split_once('.').map(|(list, _)| list).filter(|list| keys.get(*list) == Some(&KeyKind::Sections));
    let unknown = match list {
        Some(list) => Reason::ListItem(variable(list)),
        None => {
            let values = keys.iter().filter(|(path, kind)| **kind != KeyKind::Section && !in_list(keys, path));
            let variables: Vec<String> = values.map(|(path, _)| variable(path)).collect();
            Reason::UnknownVariable(nearest(variables.iter().map(String::as_str), name).unwrap_or_default().to_owned())
        }
    };
    Variable::Unknown(Problem::at(Some(&place), "", unknown))
}

/// Whether the key is one of the tables in a list.
fn in_list(keys: &Keys, path: &str) -> bool {
    path.split_once('.').is_some_and(|(list, _)| keys.get(list) == Some(&KeyKind::Sections))
}

/// Whether the name, after `TOLLGATE_`, is one that Kubernetes gives every container of a namespace that has a Service
/// called `tollgate` or `tollgate-...`. Taking these for misspelt keys would prevent such a pod from starting.
fn is_service_link(name: &str) -> bool {
    let parts: Vec<&str> = name.split('_').collect();
    let has = |pattern: &[&str]| parts.windows(pattern.len()).any(|window| window == pattern);
    has(&["SERVICE", "HOST"]) || has(&["SERVICE", "PORT"]) || (0..parts.len()).any(|at| starts_with_port(&parts[at..]))
}

/// `PORT` alone, or `PORT_8080_TCP`.
fn starts_with_port(parts: &[&str]) -> bool {
    match parts {
        ["PORT"] => true,
        ["PORT", number, protocol, ..] => {
            let is_number = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
            is_number && ["TCP", "UDP", "SCTP"].contains(protocol)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        let section =
            ["limits", "upstream", "upstream.api", "store", "admin", "listener.tls"].map(|key| (key, KeyKind::Section));
        let value = ["workers", "limits.max_headers", "limits.max_streams", "store.url", "upstream.api.url"];
        let more = ["freshness.max_staleness", "admin.address", "listener.address", "listener.tls.key"];
        let values = value.iter().chain(&more).map(|key| (*key, KeyKind::Value));
        let all = section.into_iter().chain(values).chain([("listener", KeyKind::Sections)]);
        all.map(|(key, kind)| (key.to_owned(), kind)).collect()
    }

    #[test]
    fn unknown_keys_name_the_one_that_was_meant() {
        let near = |key: &str| Reason::Misspelt(key.to_owned());
        let elsewhere = |key: &str| Reason::Elsewhere(key.to_owned());
        let known = ["max_headers", "max_streams"].map(str::to_owned).to_vec();
        let cases = [
            ("", "worker", near("workers")),
            ("", "upstreams", near("upstream")),
            ("limits", "max_header", near("max_headers")),
            ("limits", "max-streams", near("max_streams")),
            ("limits", "workers", Reason::Outermost("workers".to_owned())),
            ("", "max_headers", elsewhere("limits.max_headers")),
            ("store", "address", elsewhere("admin.address")),
            ("limits", "zzz", Reason::UnknownKey { nearest: "max_headers".to_owned(), known }),
            ("listener", "adress", near("address")),
            // What is so somewhere else, and only a little like what is here.
            ("limits", "max_staleness", elsewhere("freshness.max_staleness")),
            ("upstream", "url", elsewhere("upstream.api.url")),
        ];
        for (table, key, expected) in cases {
            assert_eq!(unknown(&keys(), table, key), expected, "{table}.{key}");
        }
    }

    #[test]
    fn variables_are_found_by_their_exact_names() {
        let identify = |name: &str| match identify(&keys(), name) {
            Variable::Key(path) => Ok(path),
            Variable::Foreign => Ok("foreign".to_owned()),
            Variable::Unknown(problem) => Err(problem.reason),
        };
        let unknown = |unknown: fn(String) -> Reason, key: &str| Err(unknown(key.to_owned()));
        for (name, expected) in [
            ("TOLLGATE_WORKERS", Ok("workers".to_owned())),
            ("TOLLGATE_UPSTREAM__API__URL", Ok("upstream.api.url".to_owned())),
            ("TOLLGATE_LISTENER", Ok("listener".to_owned())),
            ("PATH", Ok("foreign".to_owned())),
            ("TOLLGATE_STORE_URL", unknown(Reason::UnknownVariable, "TOLLGATE_STORE__URL")),
            ("TOLLGATE_store__url", unknown(Reason::UnknownVariable, "TOLLGATE_STORE__URL")),
            ("TOLLGATE_LISTENER__0__ADDRESS", unknown(Reason::ListItem, "TOLLGATE_LISTENER")),
            ("TOLLGATE_LISTENER__ADDRESS", unknown(Reason::ListItem, "TOLLGATE_LISTENER")),
            ("TOLLGATE_", unknown(Reason::UnknownVariable, "TOLLGATE_WORKERS")),
        ] {
            assert_eq!(identify(name), expected, "{name}");
        }
    }

    #[test]
    fn variables_of_a_kubernetes_service_are_left_alone() {
        let foreign = |name: &str| matches!(identify(&keys(), name), Variable::Foreign);
        for name in [
            "TOLLGATE_SERVICE_HOST",
            "TOLLGATE_SERVICE_PORT",
            "TOLLGATE_SERVICE_PORT_HTTP",
            "TOLLGATE_PORT",
            "TOLLGATE_PORT_8080_TCP",
            "TOLLGATE_PORT_8080_TCP_ADDR",
            "TOLLGATE_ADMIN_SERVICE_HOST",
            "TOLLGATE_ADMIN_PORT_9900_TCP_PROTO",
        ] {
            assert!(foreign(name), "{name}");
        }
        for name in ["TOLLGATE_PORTS", "TOLLGATE_STORE_URL", "TOLLGATE_PORT_X", "TOLLGATE_SERVICE"] {
            assert!(!foreign(name), "{name}");
        }
    }
}
