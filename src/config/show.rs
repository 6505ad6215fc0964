//! The effective configuration as a file that means the same.

use super::Config;
use super::reload::is_reloaded;
use super::visit::{Form, Text, Visitor, quote};
use crate::proxy::route::{Access, Method, Route};
use crate::upstream::CredentialMode;

/// Writes the configuration as TOML that [`load`](super::load()) reads back to the same: every key with its value, and whether
/// that needs a restart to change; then all routes as comments. It holds no secrets: a configuration names files.
pub fn effective(config: &Config) -> String {
    let mut printer = Printer::default();
    config.clone().walk(&mut printer);
    let Printer { mut text, .. } = printer;
    text.insert_str(0, LEGEND);
    text.push_str("\n# Every route, the built-in ones included; everything else is refused:\n");
    for (path, methods, route) in group(&config.routes.list()) {
        let methods = methods.iter().map(|method| method.name()).collect::<Vec<_>>().join(" ");
        let (needs, bound) = match route.access {
            Access::Open => ("nothing".to_owned(), "never".to_owned()),
            Access::Token { needed, max_staleness } => {
                let needed = needed.map_or_else(|| "any token".to_owned(), |permission| permission.to_string());
                (needed, max_staleness.to_string())
            }
        };
        let to = route.upstream;
        text.push_str(&format!("#   {methods:15} {path:39} needs {needs:23} goes to {to}, max_staleness {bound}\n"));
    }
    if matches!(config.upstreams.api.credential, CredentialMode::Replace { .. }) {
        text.push_str(AS_OWNER);
    }
    text
}

/// Of a key that a reload leaves as it is.
const RESTART: &str = "  # restart";

const LEGEND: &str = "\
# A reload (SIGHUP, systemctl reload) changes every key but those with \"restart\" behind them.
";

/// Why some are missing.
const AS_OWNER: &str = "#
# Refused as well, but for what is listed above, since the Controller would take everybody for the owner of the service token in
# upstream.api.credential.token_file: /api/tokens, /api/users, /api/invites, /api/password-resets, and all below them
";

/// The routes by path, those that differ only in the method together.
fn group(routes: &[(Method, String, Route)]) -> Vec<(String, Vec<Method>, Route)> {
    let mut groups: Vec<(String, Vec<Method>, Route)> = Vec::new();
    for (method, path, route) in routes {
        match groups.iter_mut().find(|(other, _, same)| other == path && same == route) {
            Some((_, methods, _)) => methods.push(*method),
            None => groups.push((path.clone(), vec![*method], *route)),
        }
    }
    groups
}

/// Prints keys with their values.
#[derive(Default)]
struct Printer {
    text: String,
    path: Vec<&'static str>,
    /// How much of the path the header above says.
    headed: usize,
}

impl Printer {
    fn within(&mut self, key: &'static str, walk: impl FnOnce(&mut Self)) {
        self.path.push(key);
        walk(self);
        self.path.pop();
        if self.headed > self.path.len() {
            self.headed = 0;
        }
    }

    fn line(&mut self, key: &str, value: &str) {
        // The outermost table that has values of its own has a header; what is in it is written with dots.
        if self.headed == 0 && !self.path.is_empty() {
            self.headed = self.path.len();
            self.text.push_str(&format!("\n[{}]\n", self.path.join(".")));
        }
        let within: String = self.path.iter().skip(self.headed).map(|table| format!("{table}.")).collect();
        let full: String = self.path.iter().map(|table| format!("{table}.")).collect();
        let mark = if is_reloaded(&format!("{full}{key}")) { "" } else { RESTART };
        self.text.push_str(&format!("{within}{key} = {value}{mark}\n"));
    }
}

impl Visitor for Printer {
    fn value<T>(&mut self, key: &'static str, form: &impl Form<T>, value: &mut T) {
        if let Some(value) = form.print(value) {
            self.line(key, &value);
        }
    }

    fn section(&mut self, key: &'static str, walk: impl FnOnce(&mut Self)) {
        self.within(key, walk);
    }

    fn sections<T: Default>(&mut self, key: &'static str, items: &mut Vec<T>, walk: impl Fn(&mut T, &mut Self)) {
        for item in items {
            self.within(key, |printer| {
                printer.headed = printer.path.len();
                printer.text.push_str(&format!("\n[[{}]]\n", printer.path.join(".")));
                walk(item, printer);
            });
        }
    }

    fn map<K, V>(&mut self, key: &'static str, (name, form): (&Text<K>, &impl Form<V>), entries: &mut Vec<(K, V)>) {
        self.within(key, |printer| {
            for (key, value) in entries {
                if let Some(value) = form.print(value) {
                    printer.line(&quote((name.print)(key)), &value);
                }
            }
        });
    }
}
