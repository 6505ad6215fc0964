//! Reading `disabled_auth_groups` and `[[route]]`, over the built-in routes.

use super::convert::{parse_permission, parse_upstream_name};
use super::raw::Place;
use super::read::Section;
use crate::proxy::route::{Access, Group, Method, Pattern, Route, RouteTable};
use crate::replica::FreshnessConfig;
use crate::upstream::UpstreamName;

/// The built-in routes with the groups opened and the file's own put over them. Of the latter two may not have the
/// same method and path; one that equals a built-in route replaces it.
pub(super) fn routes(root: &Section<'_>, freshness: &FreshnessConfig) -> RouteTable {
    let open = root.list("disabled_auth_groups", parse_groups).unwrap_or_default().concat();
    let bound = |permission| freshness.bound(permission);
    let mut table = RouteTable::built_in(&open, bound);
    let mut written: Vec<(Method, Pattern, Option<Place>)> = Vec::new();
    let mut implied_heads = Vec::new();
    for section in root.sections("route").unwrap_or_default() {
        let Some(entry) = entry(&section, freshness) else { continue };
        for method in &entry.methods {
            let taken = written.iter().find(|(other, pattern, _)| other == method && *pattern == entry.pattern);
            if let Some((_, _, place)) = taken {
                let place = place.as_ref().map(ToString::to_string).unwrap_or_default();
                let name = method.name();
                section.problem(
                    "path",
                    format!("{name} on this path is shadowed by the route at {place}; remove one of the two"),
                );
            }
            written.push((*method, entry.pattern.clone(), section.place("path").cloned()));
        }
        table.put(&entry.methods, &entry.pattern, entry.route);
        if entry.methods.contains(&Method::Get) {
            implied_heads.push((entry.pattern, entry.route));
        }
    }
    // Who may GET may HEAD, unless a route of its own says otherwise: agents watch their configuration by HEAD.
    for (pattern, route) in implied_heads {
        if !written.iter().any(|(method, other, _)| *method == Method::Head && *other == pattern) {
            table.put(&[Method::Head], &pattern, route);
        }
    }
    table
}

/// One `[[route]]`.
struct RouteEntry {
    methods: Vec<Method>,
    pattern: Pattern,
    route: Route,
}

fn entry(section: &Section<'_>, freshness: &FreshnessConfig) -> Option<RouteEntry> {
    let methods = section.set("methods", parse_method);
    let pattern = section.text("path", str::parse::<Pattern>);
    let permission = section.text("permission", parse_permission);
    let auth = section.text("auth", |auth| match auth {
        "none" => Ok(()),
        _ => Err("it can only be \"none\"; otherwise name a permission"),
    });
    let upstream = section.text("upstream", parse_upstream_name);
    if !section.is_written() {
        return None;
    }
    for required in ["methods", "path"].into_iter().filter(|key| section.node(key).is_none()) {
        section.problem(required, "every route needs methods and a path");
    }
    match (section.node("permission"), section.node("auth")) {
        (None, None) => section
            .problem_here("a route needs permission = \"resource:action\", or auth = \"none\" to open it to everyone"),
        (Some(_), Some(_)) => section.problem("auth", "a route has either a permission or auth = \"none\", not both"),
        _ => {}
    }
    let access = match (permission, auth) {
        (Some(permission), None) => Access::Requires { permission, max_staleness: freshness.bound(permission) },
        (None, Some(())) => Access::Open,
        _ => return None,
    };
    let upstream = section.or("upstream", upstream, UpstreamName::Api)?;
    Some(RouteEntry { methods: methods?, pattern: pattern?, route: Route { access, upstream } })
}

fn parse_groups(name: &str) -> Result<Vec<Group>, String> {
    let known = || Group::ALL.map(Group::name).join(", ");
    match Group::ALL.into_iter().find(|group| group.name() == name) {
        _ if name == "*" => Ok(Group::ALL.to_vec()),
        Some(group) => Ok(vec![group]),
        None => Err(format!("there is no such group; there are {}, and * for all of them", known())),
    }
}

fn parse_method(name: &str) -> Result<Method, String> {
    Method::from_name(name).ok_or_else(|| {
        let known = Method::ALL.map(Method::name).join(", ");
        format!("routes can have {known} (in capitals)")
    })
}
