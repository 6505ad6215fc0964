//! `disabled_auth_groups` and `[[route]]`, over the built-in routes.

use super::problem::shown_name;
use super::raw::Place;
use super::read::{Section, Written};
use super::reason::Reason;
use super::visit::{Form, List, Maybe, Set, Text, Visitor, text};
use crate::proxy::route::{Group, Method, Needs, OwnRoute, Pattern};
use crate::token::Permission;

/// Groups by their names, or all of them by `*`.
pub(super) struct Groups;

impl Groups {
    const NAMES: List<Text<Vec<Group>>> = List(Text {
        parse: |name| match Group::from_name(name) {
            _ if name == "*" => Ok(Group::ALL.to_vec()),
            Some(group) => Ok(vec![group]),
            None => Err(Reason::NotGroup),
        },
        print: |groups| groups.iter().map(|group| group.name()).collect(),
    });
}

impl Form<Vec<Group>> for Groups {
    fn read(&self, written: &Written<'_>) -> Option<Vec<Group>> {
        let named = Self::NAMES.read(written)?.concat();
        Some(Group::ALL.into_iter().filter(|group| named.contains(group)).collect())
    }

    fn print(&self, groups: &Vec<Group>) -> Option<String> {
        Self::NAMES.print(&groups.iter().map(|group| vec![*group]).collect())
    }
}

/// A permission. One that does not look like any is not repeated.
pub(super) const PERMISSION: Text<Permission> = Text {
    parse: |text| {
        text.parse::<Permission>().map_err(|error| match shown_name(text) == text {
            true => Reason::invalid(error),
            false => Reason::NotPermission,
        })
    },
    print: Permission::to_string,
};

const METHOD: Text<Method> =
    Text { parse: |name| Method::from_name(name).ok_or(Reason::NotMethod), print: Method::to_string };

/// `auth`, which is there where no permission is.
const AUTH: Text<Needs> = Text {
    parse: |auth| match auth {
        "none" => Ok(Needs::Nothing),
        "token" => Ok(Needs::Token),
        _ => Err(Reason::NotAuth),
    },
    print: |needs| if *needs == Needs::Token { "token" } else { "none" }.to_owned(),
};

/// The keys of a `[[route]]`.
pub(super) fn route(route: &mut OwnRoute, keys: &mut impl Visitor) {
    let OwnRoute { methods, path, needs, upstream } = route;
    let (mut permission, mut auth) = match *needs {
        Needs::Permission(permission) => (Some(permission), None),
        Needs::Nothing | Needs::Token => (None, Some(*needs)),
    };
    keys.value("methods", &Set(List(METHOD)), methods);
    keys.value("path", &text::<Pattern>(), path);
    keys.value("permission", &Maybe(PERMISSION), &mut permission);
    keys.value("auth", &Maybe(AUTH), &mut auth);
    // Both or none are refused below.
    *needs = permission.map(Needs::Permission).or(auth).unwrap_or_default();
    keys.value("upstream", &text(), upstream);
    keys.check_list(|section| {
        if !section.is_written() {
            return;
        }
        for required in ["methods", "path"].into_iter().filter(|key| !section.has(key)) {
            section.problem(required, Reason::IncompleteRoute);
        }
        match (section.has("permission"), section.has("auth")) {
            (false, false) => section.problem_here(Reason::NoPermission),
            (true, true) => section.problem("auth", Reason::PermissionAndAuth),
            _ => {}
        }
    });
}

/// Two routes may not have the same method and path; one that equals a built-in route replaces it.
pub(super) fn check(routes: &[OwnRoute], root: &Section<'_>) {
    let mut seen: Vec<(Method, &Pattern, &Place)> = Vec::new();
    for (route, section) in routes.iter().zip(root.sections("route").unwrap_or_default()) {
        let is_whole = ["methods", "path"].into_iter().all(|key| section.has(key) && section.is_sound(key));
        let Some(place) = section.place("path").filter(|_| is_whole) else { continue };
        for method in route.methods.iter().copied() {
            if let Some((.., place)) = seen.iter().find(|(other, path, _)| *other == method && **path == route.path) {
                section.problem("path", Reason::RouteTaken { method, place: Place::clone(place) });
            }
            seen.push((method, &route.path, place));
        }
    }
}
