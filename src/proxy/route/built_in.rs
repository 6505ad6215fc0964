//! The Controller's routes, up to its version 1.2: what is published, and guesses at the rest, which are said to be some in
//! `config/tollgate.toml` too. A route of the configuration's own with the same method and path replaces one.

use super::{Group, Method, Needs, Pattern};
use crate::token::{Action, Permission, Resource};
use crate::upstream::UpstreamName;

const READ: &[Method] = &[Method::Get, Method::Head];
const WRITE: &[Method] = &[Method::Post, Method::Put, Method::Patch];
const DELETE: &[Method] = &[Method::Delete];

/// What the Controller documents. Not, however, the name of the group that opens configuration groups, nor of one for
/// constants: none opens them.
const PUBLISHED: &[Endpoint] = &[
    on(&[Method::Post], "/agents/heartbeat", needs(Resource::Heartbeat, Action::Write))
        .opened_by(Group::Heartbeat)
        .at(UpstreamName::Heartbeat),
    // A configuration, or a group of them, as agents fetch it. What the alias names is not known here, so it is one
    // permission for both, which agents have.
    on(READ, "/c/{alias}", needs(Resource::Configs, Action::Read)).opened_by(Group::Configs),
    all("/api/configs", Resource::Configs).opened_by(Group::Configs),
    all("/api/config-groups", Resource::ConfigGroups),
    all("/api/constants", Resource::Constants),
    all("/api/agents", Resource::Agents).opened_by(Group::Agents),
    all("/api/labels", Resource::Labels).opened_by(Group::Labels),
    all("/api/reporting-rules", Resource::ReportingRules).opened_by(Group::ReportingRules),
    on(READ, "/api/heartbeat/**", needs(Resource::Heartbeat, Action::Read)).opened_by(Group::Heartbeat),
    // To take a label off something is to change it.
    on(DELETE, "/api/configs/{id}/labels/{label}", needs(Resource::Configs, Action::Write)).opened_by(Group::Configs),
    on(DELETE, "/api/config-groups/{id}/labels/{label}", needs(Resource::ConfigGroups, Action::Write)),
    on(DELETE, "/api/agents/{id}/labels/{label}", needs(Resource::Agents, Action::Write)).opened_by(Group::Agents),
    all("/api/tokens", Resource::Tokens),
    all("/api/license", Resource::License),
    on(DELETE, "/api/license", needs(Resource::License, Action::Write)),
    on(READ, "/api/license/entitlements", needs(Resource::Entitlements, Action::Read)),
    all("/api/audit-logger", Resource::AuditLogs),
    on(READ, "/api/auth/settings", needs(Resource::AuthConfig, Action::Read)),
    on(WRITE, "/api/auth/settings", needs(Resource::AuthConfig, Action::Write)),
    on(READ, "/api/docs", Needs::Token),
    on(READ, "/api/docs/openapi.json", Needs::Token),
    on(READ, "/api/docs/openapi.yaml", Needs::Token),
];

/// Where the Controller is supposed to have these: it does not publish it.
const GUESSES: &[Endpoint] = &[
    // An alias is a part of what it names, so taking it off is to change that.
    on(DELETE, "/api/configs/{id}/aliases/{alias}", needs(Resource::Configs, Action::Write)).opened_by(Group::Configs),
    on(DELETE, "/api/config-groups/{id}/aliases/{alias}", needs(Resource::ConfigGroups, Action::Write)),
    all("/api/users", Resource::Users),
    all("/api/invites", Resource::Invites),
    all("/api/password-resets", Resource::PasswordResets),
    all("/api/settings", Resource::Settings),
    all("/api/analytics", Resource::Analytics),
];

/// An entry of [`PUBLISHED`] or [`GUESSES`].
struct Endpoint {
    path: &'static str,
    what: What,
    group: Option<Group>,
    upstream: UpstreamName,
}

/// What an [`Endpoint`] is.
enum What {
    /// The path and everything below it, with the actions that the resource has.
    All(Resource),
    /// These methods on this path.
    On(&'static [Method], Needs),
}

const fn all(path: &'static str, resource: Resource) -> Endpoint {
    Endpoint { path, what: What::All(resource), group: None, upstream: UpstreamName::Api }
}

const fn on(methods: &'static [Method], path: &'static str, needs: Needs) -> Endpoint {
    Endpoint { path, what: What::On(methods, needs), group: None, upstream: UpstreamName::Api }
}

/// One that does not exist does not compile.
const fn needs(resource: Resource, action: Action) -> Needs {
    match Permission::new(resource, action) {
        Some(permission) => Needs::Permission(permission),
        None => panic!("the resource has no such action"),
    }
}

impl Endpoint {
    const fn opened_by(self, group: Group) -> Self {
        Self { group: Some(group), ..self }
    }

    const fn at(self, upstream: UpstreamName) -> Self {
        Self { upstream, ..self }
    }
}

/// Requests with these methods on this path.
pub(super) struct Row {
    pub(super) methods: &'static [Method],
    pub(super) path: Pattern,
    /// Need this.
    pub(super) needs: Needs,
    /// Unless this group is opened.
    pub(super) group: Option<Group>,
    pub(super) upstream: UpstreamName,
}

/// The table, row by row. A later one with the same method and path counts.
pub(super) fn rows() -> impl Iterator<Item = Row> {
    PUBLISHED.iter().chain(GUESSES).flat_map(|Endpoint { path, what, group, upstream }| {
        let row = move |methods, path: &str, needs| {
            Some(Row { methods, path: path.parse().ok()?, needs, group: *group, upstream: *upstream })
        };
        match what {
            What::On(methods, needs) => row(*methods, path, *needs).into_iter().collect::<Vec<_>>(),
            What::All(resource) => {
                let paths = [(*path).to_owned(), format!("{path}/**")];
                let row = |action: &Action, path: &String| row(methods(*action), path, needs(*resource, *action));
                resource.actions().iter().flat_map(|action| paths.iter().filter_map(|path| row(action, path))).collect()
            }
        }
    })
}

const fn methods(action: Action) -> &'static [Method] {
    match action {
        Action::Read => READ,
        Action::Write => WRITE,
        Action::Delete => DELETE,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::{Access, Route, RouteTable};
    use super::*;
    use crate::replica::MaxStaleness;

    /// Methods, path, what it needs, the group that opens it, upstream.
    #[rustfmt::skip]
    const ROUTES: &[(&str, &str, &str, &str, &str)] = &[
        ("POST",           "/agents/heartbeat",                      "heartbeat:write",        "heartbeat",       "heartbeat"),
        ("GET HEAD",       "/c/{any}",                               "configs:read",           "configs",         "api"),
        ("GET HEAD",       "/api/configs",                           "configs:read",           "configs",         "api"),
        ("POST PUT PATCH", "/api/configs",                           "configs:write",          "configs",         "api"),
        ("DELETE",         "/api/configs",                           "configs:delete",         "configs",         "api"),
        ("GET HEAD",       "/api/configs/**",                        "configs:read",           "configs",         "api"),
        ("POST PUT PATCH", "/api/configs/**",                        "configs:write",          "configs",         "api"),
        ("DELETE",         "/api/configs/**",                        "configs:delete",         "configs",         "api"),
        ("DELETE",         "/api/configs/{any}/labels/{any}",        "configs:write",          "configs",         "api"),
        ("DELETE",         "/api/configs/{any}/aliases/{any}",       "configs:write",          "configs",         "api"),
        ("GET HEAD",       "/api/config-groups",                     "config-groups:read",     "",                "api"),
        ("POST PUT PATCH", "/api/config-groups",                     "config-groups:write",    "",                "api"),
        ("DELETE",         "/api/config-groups",                     "config-groups:delete",   "",                "api"),
        ("GET HEAD",       "/api/config-groups/**",                  "config-groups:read",     "",                "api"),
        ("POST PUT PATCH", "/api/config-groups/**",                  "config-groups:write",    "",                "api"),
        ("DELETE",         "/api/config-groups/**",                  "config-groups:delete",   "",                "api"),
        ("DELETE",         "/api/config-groups/{any}/labels/{any}",  "config-groups:write",    "",                "api"),
        ("DELETE",         "/api/config-groups/{any}/aliases/{any}", "config-groups:write",    "",                "api"),
        ("GET HEAD",       "/api/constants",                         "constants:read",         "",                "api"),
        ("POST PUT PATCH", "/api/constants",                         "constants:write",        "",                "api"),
        ("DELETE",         "/api/constants",                         "constants:delete",       "",                "api"),
        ("GET HEAD",       "/api/constants/**",                      "constants:read",         "",                "api"),
        ("POST PUT PATCH", "/api/constants/**",                      "constants:write",        "",                "api"),
        ("DELETE",         "/api/constants/**",                      "constants:delete",       "",                "api"),
        ("GET HEAD",       "/api/agents",                            "agents:read",            "agents",          "api"),
        ("POST PUT PATCH", "/api/agents",                            "agents:write",           "agents",          "api"),
        ("DELETE",         "/api/agents",                            "agents:delete",          "agents",          "api"),
        ("GET HEAD",       "/api/agents/**",                         "agents:read",            "agents",          "api"),
        ("POST PUT PATCH", "/api/agents/**",                         "agents:write",           "agents",          "api"),
        ("DELETE",         "/api/agents/**",                         "agents:delete",          "agents",          "api"),
        ("DELETE",         "/api/agents/{any}/labels/{any}",         "agents:write",           "agents",          "api"),
        ("GET HEAD",       "/api/labels",                            "labels:read",            "labels",          "api"),
        ("POST PUT PATCH", "/api/labels",                            "labels:write",           "labels",          "api"),
        ("DELETE",         "/api/labels",                            "labels:delete",          "labels",          "api"),
        ("GET HEAD",       "/api/labels/**",                         "labels:read",            "labels",          "api"),
        ("POST PUT PATCH", "/api/labels/**",                         "labels:write",           "labels",          "api"),
        ("DELETE",         "/api/labels/**",                         "labels:delete",          "labels",          "api"),
        ("GET HEAD",       "/api/reporting-rules",                   "reporting-rules:read",   "reporting-rules", "api"),
        ("POST PUT PATCH", "/api/reporting-rules",                   "reporting-rules:write",  "reporting-rules", "api"),
        ("DELETE",         "/api/reporting-rules",                   "reporting-rules:delete", "reporting-rules", "api"),
        ("GET HEAD",       "/api/reporting-rules/**",                "reporting-rules:read",   "reporting-rules", "api"),
        ("POST PUT PATCH", "/api/reporting-rules/**",                "reporting-rules:write",  "reporting-rules", "api"),
        ("DELETE",         "/api/reporting-rules/**",                "reporting-rules:delete", "reporting-rules", "api"),
        ("GET HEAD",       "/api/heartbeat/**",                      "heartbeat:read",         "heartbeat",       "api"),
        ("GET HEAD",       "/api/tokens",                            "tokens:read",            "",                "api"),
        ("POST PUT PATCH", "/api/tokens",                            "tokens:write",           "",                "api"),
        ("DELETE",         "/api/tokens",                            "tokens:delete",          "",                "api"),
        ("GET HEAD",       "/api/tokens/**",                         "tokens:read",            "",                "api"),
        ("POST PUT PATCH", "/api/tokens/**",                         "tokens:write",           "",                "api"),
        ("DELETE",         "/api/tokens/**",                         "tokens:delete",          "",                "api"),
        ("GET HEAD",       "/api/license",                           "license:read",           "",                "api"),
        ("POST PUT PATCH", "/api/license",                           "license:write",          "",                "api"),
        ("DELETE",         "/api/license",                           "license:write",          "",                "api"),
        ("GET HEAD",       "/api/license/**",                        "license:read",           "",                "api"),
        ("POST PUT PATCH", "/api/license/**",                        "license:write",          "",                "api"),
        ("GET HEAD",       "/api/license/entitlements",              "entitlements:read",      "",                "api"),
        ("GET HEAD",       "/api/audit-logger",                      "audit-logs:read",        "",                "api"),
        ("GET HEAD",       "/api/audit-logger/**",                   "audit-logs:read",        "",                "api"),
        ("GET HEAD",       "/api/auth/settings",                     "auth-config:read",       "",                "api"),
        ("POST PUT PATCH", "/api/auth/settings",                     "auth-config:write",      "",                "api"),
        ("GET HEAD",       "/api/docs",                              "any token",              "",                "api"),
        ("GET HEAD",       "/api/docs/openapi.json",                 "any token",              "",                "api"),
        ("GET HEAD",       "/api/docs/openapi.yaml",                 "any token",              "",                "api"),
        ("GET HEAD",       "/api/users",                             "users:read",             "",                "api"),
        ("POST PUT PATCH", "/api/users",                             "users:write",            "",                "api"),
        ("DELETE",         "/api/users",                             "users:delete",           "",                "api"),
        ("GET HEAD",       "/api/users/**",                          "users:read",             "",                "api"),
        ("POST PUT PATCH", "/api/users/**",                          "users:write",            "",                "api"),
        ("DELETE",         "/api/users/**",                          "users:delete",           "",                "api"),
        ("GET HEAD",       "/api/invites",                           "invites:read",           "",                "api"),
        ("POST PUT PATCH", "/api/invites",                           "invites:write",          "",                "api"),
        ("DELETE",         "/api/invites",                           "invites:delete",         "",                "api"),
        ("GET HEAD",       "/api/invites/**",                        "invites:read",           "",                "api"),
        ("POST PUT PATCH", "/api/invites/**",                        "invites:write",          "",                "api"),
        ("DELETE",         "/api/invites/**",                        "invites:delete",         "",                "api"),
        ("GET HEAD",       "/api/password-resets",                   "password-resets:read",   "",                "api"),
        ("POST PUT PATCH", "/api/password-resets",                   "password-resets:write",  "",                "api"),
        ("DELETE",         "/api/password-resets",                   "password-resets:delete", "",                "api"),
        ("GET HEAD",       "/api/password-resets/**",                "password-resets:read",   "",                "api"),
        ("POST PUT PATCH", "/api/password-resets/**",                "password-resets:write",  "",                "api"),
        ("DELETE",         "/api/password-resets/**",                "password-resets:delete", "",                "api"),
        ("GET HEAD",       "/api/settings",                          "settings:read",          "",                "api"),
        ("POST PUT PATCH", "/api/settings",                          "settings:write",         "",                "api"),
        ("GET HEAD",       "/api/settings/**",                       "settings:read",          "",                "api"),
        ("POST PUT PATCH", "/api/settings/**",                       "settings:write",         "",                "api"),
        ("GET HEAD",       "/api/analytics",                         "analytics:read",         "",                "api"),
        ("GET HEAD",       "/api/analytics/**",                      "analytics:read",         "",                "api"),
    ];

    #[test]
    fn the_routes_are_these_and_no_others() {
        let table = |open: &[Group]| RouteTable::built_in(open, |_| MaxStaleness::Never);
        let opened_by = |group: &Group, method: Method, path: &str| {
            matches!(table(&[*group]).find(method.name(), path), Ok(Route { access: Access::Open, .. }))
        };
        let listed = table(&[]).list().into_iter().map(|(method, path, route)| {
            let needs = match route.access {
                Access::Open => "nothing".to_owned(),
                Access::Token { needed: None, .. } => "any token".to_owned(),
                Access::Token { needed: Some(permission), .. } => permission.to_string(),
            };
            let (concrete, mut groups) = (path.replace("{any}", "x").replace("**", "x/y/z"), Group::ALL.into_iter());
            let group = groups.find(|group| opened_by(group, method, &concrete)).map_or("", Group::name);
            format!("{method} {path} needs {needs}, {group:?} opens it, to {}", route.upstream)
        });
        let expected = ROUTES.iter().flat_map(|(methods, path, needs, group, upstream)| {
            let row = move |method| format!("{method} {path} needs {needs}, {group:?} opens it, to {upstream}");
            methods.split(' ').map(row)
        });
        let (listed, expected): (BTreeSet<_>, BTreeSet<_>) = (listed.collect(), expected.collect());
        assert_eq!(listed.difference(&expected).collect::<Vec<_>>(), Vec::<&String>::new(), "beside these");
        assert_eq!(expected.difference(&listed).collect::<Vec<_>>(), Vec::<&String>::new(), "missing");
        assert!(PUBLISHED.iter().chain(GUESSES).all(|endpoint| endpoint.path.parse::<Pattern>().is_ok()));
    }

    #[test]
    fn the_reference_names_every_guess() {
        let reference = include_str!("../../../config/tollgate.toml");
        let (_, guesses) = reference.split_once("# Guesses:").expect("says which routes are guesses");
        let (guesses, _) = guesses.split_once("\n#\n").expect("a paragraph");
        let is_named = |path| guesses.split_whitespace().any(|word| word.trim_end_matches([',', '.', ';']) == path);
        assert!(GUESSES.iter().all(|guess| is_named(guess.path)), "{guesses}");
        assert!(!PUBLISHED.iter().any(|endpoint| is_named(endpoint.path)), "{guesses}");
    }
}
