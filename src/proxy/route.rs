//! Routes: which method on which path needs which permission, and where it goes.
//!
//! A route is found by walking the segments of the path through a tree. The most specific route that has the method
//! wins: a literal segment before `{any}`, `{any}` before a trailing `**`. So the order in which routes are written
//! means nothing, and two routes conflict only when they are the same. The Controller's are in [`built_in`].

mod built_in;
mod group;
mod pattern;

use std::fmt;
use std::str::FromStr;

use crate::replica::MaxStaleness;
use crate::token::{Permission, Resource};
use crate::upstream::UpstreamName;
use crate::words::words;

pub use group::RouteGroup;

words! {
    /// A method that routes can name, in the order in which `Allow` lists them. Methods are case-sensitive (RFC 9110
    /// section 9.1).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    #[expect(missing_docs, reason = "the names say it")]
    pub enum Method {
        Get = "GET",
        Head = "HEAD",
        Post = "POST",
        Put = "PUT",
        Patch = "PATCH",
        Delete = "DELETE",
        Options = "OPTIONS",
    }
}

/// What a request needs to pass a route, and where it goes then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Who may pass.
    pub access: Access,
    /// Where to.
    pub upstream: UpstreamName,
    /// What it is counted as.
    pub group: RouteGroup,
}

impl Route {
    /// Whether whoever may pass the one may pass the other, to the same upstream.
    fn has_terms_of(&self, other: &Self) -> bool {
        (self.access, self.upstream) == (other.access, other.upstream)
    }
}

/// Who may pass a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everyone, with or without a token.
    Open,
    /// Those who have a token.
    Token {
        /// That has this permission; `None`: any that works.
        needed: Option<Permission>,
        /// How stale the replica that says so may be.
        max_staleness: MaxStaleness,
    },
}

/// What a route asks for, before it is known how stale the replica may be that says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    #[default]
    Nothing,
    /// A token that works, whatever it permits.
    Token,
    /// A token with this permission.
    Permission(Permission),
}

impl Needs {
    fn access(self, bound: impl Fn(Option<Permission>) -> MaxStaleness) -> Access {
        let needed = match self {
            Self::Nothing => return Access::Open,
            Self::Token => None,
            Self::Permission(permission) => Some(permission),
        };
        Access::Token { needed, max_staleness: bound(needed) }
    }

    const fn group(self) -> RouteGroup {
        match self {
            Self::Nothing => RouteGroup::Open,
            Self::Token => RouteGroup::Token,
            Self::Permission(permission) => RouteGroup::Resource(permission.resource()),
        }
    }
}

words! {
    /// A group of endpoints that can be opened at start. The Controller's names.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    #[expect(missing_docs, reason = "the names say it")]
    pub enum Group {
        Agents = "agents",
        Configs = "configs",
        Labels = "labels",
        ReportingRules = "reporting-rules",
        Heartbeat = "heartbeat",
    }
}

/// A path pattern: literal segments, `{name}` for any one segment, and `**` at the end for any further ones (at least
/// one).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pattern(Vec<Segment>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Any,
    Rest,
}

/// A text that is not a path pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// Requests with such a path are refused before routes are looked at.
    #[error(transparent)]
    Path(#[from] super::path::AmbiguousPath),
    /// `**` before the end.
    #[error("`**` can only be the last segment")]
    RestNotLast,
    /// A segment with a brace or star that is neither `{name}` nor `**`.
    #[error("`{0}` is neither a literal segment nor {{name}} nor **")]
    Segment(String),
}

impl Pattern {
    /// What it is for a server that distinguishes neither capitals nor a slash at the end.
    fn lenient(&self) -> Self {
        let mut segments: Vec<_> = (self.0.iter())
            .map(|segment| match segment {
                Segment::Literal(literal) => Segment::Literal(literal.to_ascii_lowercase()),
                other => other.clone(),
            })
            .collect();
        if segments.len() > 1 && segments.last() == Some(&Segment::Literal(String::new())) {
            segments.pop();
        }
        Self(segments)
    }
}

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let path = text.strip_prefix('/').ok_or(super::path::AmbiguousPath::Relative)?;
        let mut segments = Vec::new();
        for segment in path.split('/') {
            if segments.last() == Some(&Segment::Rest) {
                return Err(InvalidPattern::RestNotLast);
            }
            segments.push(match segment {
                "**" => Segment::Rest,
                _ if segment.len() > 2 && segment.starts_with('{') && segment.ends_with('}') => Segment::Any,
                _ if segment.contains(['{', '}', '*']) => return Err(InvalidPattern::Segment(segment.to_owned())),
                "" if segments.len() + 1 < path.split('/').count() => Err(super::path::AmbiguousPath::EmptySegment)?,
                // As requests have it, decoded.
                literal => {
                    let decoded = super::path::normalise(&format!("/{literal}"))?.into_owned();
                    Segment::Literal(decoded.trim_start_matches('/').to_owned())
                }
            });
        }
        Ok(Self(segments))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|segment| match segment {
            Segment::Literal(literal) => write!(f, "/{}", encoded(literal)),
            Segment::Any => f.write_str("/{any}"),
            Segment::Rest => f.write_str("/**"),
        })
    }
}

/// What is encoded in a request's path is so here.
fn encoded(literal: &str) -> String {
    let mut text = String::new();
    for byte in literal.bytes() {
        match char::from(byte) {
            plain if super::path::normalise(&format!("/x{plain}")).is_ok() => text.push(plain),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// A route of the configuration's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnRoute {
    /// Requests with these methods. GET includes HEAD, unless a route of its own has it.
    pub methods: Vec<Method>,
    /// On these paths.
    pub path: Pattern,
    /// Need this.
    pub needs: Needs,
    /// And go there.
    pub upstream: UpstreamName,
}

/// No route for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRoute {
    /// No route has the path: 404.
    Path,
    /// Routes have the path, with other methods: 405. The value of `Allow`.
    Method {
        /// Such as `GET, HEAD`.
        allow: String,
    },
}

/// All routes.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    root: Node,
    /// `Some`: what is below these paths has no other routes than these.
    as_owner: Option<Node>,
    /// All of them as they are for a server that distinguishes neither capitals nor a slash at the end.
    lenient: Node,
    /// Some pattern is another one for such a server.
    is_unusual: bool,
}

/// Below `/api`: what the Controller would do as the owner of the service token, whoever asks.
const AS_OWNER: [Resource; 4] = [Resource::Tokens, Resource::Users, Resource::Invites, Resource::PasswordResets];

/// Whether a path leads there, also for a server that does not distinguish capitals.
fn is_as_owner<'a>(mut segments: impl Iterator<Item = &'a str>) -> bool {
    let is_one = |segment: &str| AS_OWNER.iter().any(|resource| segment.eq_ignore_ascii_case(resource.name()));
    segments.next().is_some_and(|segment| segment.eq_ignore_ascii_case("api")) && segments.next().is_some_and(is_one)
}

/// One segment's place in the tree.
#[derive(Debug, Clone, Default)]
struct Node {
    literals: Vec<(Box<str>, Node)>,
    any: Option<Box<Node>>,
    rest: Methods,
    here: Methods,
}

/// The routes that end at one place, by method.
type Methods = [Option<Route>; Method::ALL.len()];

impl RouteTable {
    /// The built-in routes with these groups opened, and these routes put over them. `bound` says how stale a replica may be
    /// for each permission, and where any token will do. With `one_owner` the API server takes everybody for the owner of one
    /// token: what it would do as that owner is routed only by routes that name it, not by wider ones.
    #[must_use]
    pub fn new(
        open: &[Group],
        own: &[OwnRoute],
        one_owner: bool,
        bound: impl Fn(Option<Permission>) -> MaxStaleness,
    ) -> Self {
        let mut table = Self::built_in(open, &bound);
        if one_owner {
            table.root.literal("api").literals.retain(|(name, _)| !is_as_owner(["api", name].into_iter()));
            table.as_owner = Some(Node::default());
        }
        // Who may GET may HEAD, unless a route of its own says otherwise: agents watch their configuration by HEAD.
        let has_head =
            |path: &Pattern| own.iter().any(|route| route.methods.contains(&Method::Head) && route.path == *path);
        for OwnRoute { methods, path, needs, upstream } in own {
            let route = Route { access: needs.access(&bound), upstream: *upstream, group: needs.group() };
            table.put(methods, path, route);
            if methods.contains(&Method::Get) && !has_head(path) {
                table.put(&[Method::Head], path, route);
            }
        }
        table
    }

    /// The Controller's routes, with these groups opened. `bound` as for [`RouteTable::new`].
    #[must_use]
    pub fn built_in(open: &[Group], bound: impl Fn(Option<Permission>) -> MaxStaleness) -> Self {
        let mut table = Self::default();
        for row in built_in::rows() {
            let is_open = row.group.is_some_and(|group| open.contains(&group));
            let access = if is_open { Access::Open } else { row.needs.access(&bound) };
            let route = Route { access, upstream: row.upstream, group: row.needs.group() };
            table.put(row.methods, &row.path, route);
        }
        table
    }

    /// Adds a route, in the place of one with the same method and path.
    pub fn put(&mut self, methods: &[Method], pattern: &Pattern, route: Route) {
        let lenient = pattern.lenient();
        self.is_unusual |= lenient != *pattern;
        let literals = pattern.0.iter().map_while(|segment| match segment {
            Segment::Literal(literal) => Some(literal.as_str()),
            Segment::Any | Segment::Rest => None,
        });
        let root = match &mut self.as_owner {
            Some(as_owner) if is_as_owner(literals) => as_owner,
            _ => &mut self.root,
        };
        for (root, pattern) in [(root, pattern), (&mut self.lenient, &lenient)] {
            let place = root.place(pattern);
            methods.iter().for_each(|method| place[*method as usize] = Some(route));
        }
    }

    /// The route of a request, by its method and its normalised path.
    ///
    /// # Errors
    /// [`NoRoute`] says whether the path or the method is unknown.
    pub fn find(&self, method: &str, path: &str) -> Result<&Route, NoRoute> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let root = self.as_owner.as_ref().filter(|_| is_as_owner(path.split('/'))).unwrap_or(&self.root);
        if let Some(route) = Method::from_name(method).and_then(|method| self.find_in(root, method, path)) {
            return Ok(route);
        }
        // Only a refusal pays for looking up the other methods.
        let allowed = Method::ALL.into_iter().filter(|method| self.find_in(root, *method, path).is_some());
        match allowed.map(Method::name).collect::<Vec<_>>() {
            none if none.is_empty() => Err(NoRoute::Path),
            allowed => Err(NoRoute::Method { allow: allowed.join(", ") }),
        }
    }

    /// Many servers take a path for the same in capitals, or with a slash at its end (Express does by default). So one that
    /// only then has another route, with other terms, has none: whoever may pass the one may not pass the other.
    fn find_in<'a>(&self, root: &'a Node, method: Method, path: &str) -> Option<&'a Route> {
        let route = root.find(method, path)?;
        let is_unusual = |path: &str| path.ends_with('/') || path.bytes().any(|byte| byte.is_ascii_uppercase());
        if !self.is_unusual && !is_unusual(path) {
            return Some(route);
        }
        let path = path.strip_suffix('/').unwrap_or(path).to_ascii_lowercase();
        Some(route).filter(|route| self.lenient.find(method, &path).is_none_or(|other| other.has_terms_of(route)))
    }

    /// Every route, for showing: method, path, route.
    #[must_use]
    pub fn list(&self) -> Vec<(Method, String, Route)> {
        let mut routes = Vec::new();
        self.root.list("", &mut routes);
        self.as_owner.iter().for_each(|root| root.list("", &mut routes));
        routes
    }
}

impl Node {
    fn place(&mut self, pattern: &Pattern) -> &mut Methods {
        let mut node = self;
        for segment in &pattern.0 {
            node = match segment {
                Segment::Any => node.any.get_or_insert_default(),
                Segment::Rest => return &mut node.rest,
                Segment::Literal(literal) => node.literal(literal),
            };
        }
        &mut node.here
    }

    fn literal(&mut self, name: &str) -> &mut Self {
        let at = self.literals.iter().position(|(other, _)| **other == *name).unwrap_or_else(|| {
            self.literals.push((name.into(), Self::default()));
            self.literals.len() - 1
        });
        &mut self.literals[at].1
    }

    /// `path` is what follows the slash before this node's children.
    fn find(&self, method: Method, path: &str) -> Option<&Route> {
        let (segment, rest) = match path.bytes().position(|byte| byte == b'/') {
            Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..)),
            None => (path, None),
        };
        let literal = self.literals.iter().find(|(name, _)| **name == *segment).map(|(_, node)| node);
        // One that has the path without the method gives way to a less specific one.
        literal
            .and_then(|node| node.descend(method, rest))
            .or_else(|| self.any.as_deref().filter(|_| !segment.is_empty())?.descend(method, rest))
            .or(self.rest[method as usize].as_ref().filter(|_| !path.is_empty()))
    }

    fn descend(&self, method: Method, rest: Option<&str>) -> Option<&Route> {
        match rest {
            Some(rest) => self.find(method, rest),
            None => self.here[method as usize].as_ref(),
        }
    }

    fn list(&self, prefix: &str, routes: &mut Vec<(Method, String, Route)>) {
        let mut add = |methods: &Methods, path: &str| {
            for method in Method::ALL {
                if let Some(route) = methods[method as usize] {
                    routes.push((method, path.to_owned(), route));
                }
            }
        };
        add(&self.here, prefix);
        add(&self.rest, &format!("{prefix}/**"));
        for (name, node) in &self.literals {
            node.list(&format!("{prefix}/{name}"), routes);
        }
        if let Some(node) = &self.any {
            node.list(&format!("{prefix}/{{any}}"), routes);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table() -> RouteTable {
        RouteTable::built_in(&[], |_| MaxStaleness::Never)
    }

    fn permission(table: &RouteTable, method: &str, path: &str) -> String {
        match table.find(method, path) {
            Ok(Route { access: Access::Token { needed: Some(permission), .. }, .. }) => permission.to_string(),
            Ok(Route { access: Access::Token { needed: None, .. }, .. }) => "token".to_owned(),
            Ok(Route { access: Access::Open, .. }) => "open".to_owned(),
            Err(NoRoute::Path) => "404".to_owned(),
            Err(NoRoute::Method { allow }) => format!("405 {allow}"),
        }
    }

    #[test]
    fn what_no_route_has_is_told_from_a_method_that_it_lacks() {
        let table = table();
        let cases = [
            ("GET", "/agents/heartbeat", "405 POST"),
            ("POST", "/agents/heartbeat/", "404"),
            ("POST", "/agents/heartbeat/x", "404"),
            ("GET", "/agents", "404"),
            ("HEAD", "/api/configs/1/toml", "configs:read"),
            ("DELETE", "/api/settings", "405 GET, HEAD, POST, PUT, PATCH"),
            ("TRACE", "/api/audit-logger", "405 GET, HEAD"),
            ("get", "/api/audit-logger", "405 GET, HEAD"),
            ("GET", "/api", "404"),
            ("GET", "/api/", "404"),
            ("GET", "/api/configs/", "404"),
            ("GET", "/api/Configs", "404"),
            ("GET", "/api/configsx", "404"),
            ("GET", "/c/", "404"),
            ("GET", "/c/a/b", "404"),
            ("GET", "/", "404"),
            ("GET", "", "404"),
        ];
        for (method, path, expected) in cases {
            assert_eq!(permission(&table, method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn what_would_be_done_as_the_service_tokens_owner_is_not_routed_unless_by_a_route_of_its_own() {
        let route = |method, path: &str| OwnRoute {
            methods: vec![method],
            path: path.parse().expect("valid"),
            ..OwnRoute::default()
        };
        let catch_all = ["/api/**", "/{any}/{any}", "/**"].map(|path| route(Method::Get, path));
        let table = |own: &[OwnRoute]| RouteTable::new(&[], own, true, |_| MaxStaleness::Never);
        for resource in ["tokens", "users", "invites", "password-resets"] {
            let below = ["", "/", "/1", "/1/x"].map(|rest| format!("/api/{resource}{rest}"));
            let capitals = [format!("/API/{resource}"), format!("/api/{}/1", resource.to_uppercase())];
            for path in below.into_iter().chain(capitals) {
                for method in ["GET", "HEAD", "POST", "DELETE", "OPTIONS"] {
                    assert_eq!(permission(&table(&[]), method, &path), "404", "{method} {path}");
                    assert_eq!(permission(&table(&catch_all), method, &path), "404", "{method} {path}");
                }
            }
        }
        assert_eq!(permission(&table(&catch_all), "GET", "/api/tokensx"), "open", "it is there for everything else");
        let others = RouteTable::new(&[], &[], false, |_| MaxStaleness::Never);
        assert_eq!(permission(&others, "GET", "/api/tokens/1"), "tokens:read");
        assert_eq!(permission(&table(&[]), "DELETE", "/api/configs/1"), "configs:delete");
        assert!(!format!("{:?}", table(&[]).list()).contains("tokens"));
        let own = table(&[route(Method::Get, "/api/tokens/**"), route(Method::Get, "/api/users/{id}")]);
        assert_eq!(permission(&own, "GET", "/api/tokens/1"), "open");
        assert_eq!(permission(&own, "HEAD", "/api/users/1"), "open");
        assert_eq!(permission(&own, "POST", "/api/tokens/1"), "405 GET, HEAD");
        assert_eq!(permission(&own, "GET", "/api/tokens"), "404", "another path");
        assert_eq!(permission(&own, "GET", "/api/users/1/x"), "404", "another path");
    }

    #[test]
    fn the_most_specific_route_with_the_method_wins() {
        let mut table = table();
        let open = Route { access: Access::Open, upstream: UpstreamName::Api, group: RouteGroup::Open };
        table.put(&[Method::Get], &"/api/configs/{id}/public".parse().expect("valid"), open);
        assert_eq!(permission(&table, "GET", "/api/configs/1/public"), "open");
        assert_eq!(permission(&table, "POST", "/api/configs/1/public"), "configs:write");
        assert_eq!(permission(&table, "GET", "/api/configs/1/public/x"), "configs:read");
    }

    /// A server that does not distinguish capitals, or takes no notice of a slash at the end, would do what the one route leads
    /// to for whoever may pass the other.
    #[test]
    fn what_a_lenient_server_takes_for_another_route_has_none() {
        let route = |path: &str| OwnRoute {
            methods: vec![Method::Get],
            path: path.parse().expect("valid"),
            ..OwnRoute::default()
        };
        let own = ["/api/configs/{id}/secrets", "/api/configs/{id}/Shown", "/api/configs/{id}/slashed/"].map(route);
        let table = RouteTable::new(&[], &own, false, |_| MaxStaleness::Never);
        let cases = [
            ("DELETE", "/api/configs/1/labels/2", "configs:write"),
            ("DELETE", "/api/configs/1/labels/2/", "404"),
            ("DELETE", "/api/configs/1/Labels/2", "404"),
            ("DELETE", "/api/configs/1/labels/A", "configs:write"),
            ("GET", "/api/configs/1/secrets", "open"),
            ("GET", "/api/configs/1/secrets/", "404"),
            ("GET", "/api/configs/1/Secrets", "404"),
            ("GET", "/api/configs/1/Shown", "open"),
            ("GET", "/api/configs/1/shown", "404"),
            ("GET", "/api/configs/1/slashed/", "open"),
            ("GET", "/api/configs/1/slashed", "404"),
            // The same either way.
            ("GET", "/api/configs/Mine/toml", "configs:read"),
            ("GET", "/api/configs/1/TOML/", "configs:read"),
            ("GET", "/c/Web-Servers", "configs:read"),
        ];
        for (method, path, expected) in cases {
            let found = permission(&table, method, path);
            assert!(found == expected || (expected == "404" && found.starts_with("405")), "{method} {path}: {found}");
        }
    }

    proptest! {
        #[test]
        fn no_capital_and_no_slash_changes_what_is_needed(row in 0..1000_usize, capitals: u64, slash: bool, method in 0..7_usize) {
            let rows: Vec<_> = built_in::rows().collect();
            let pattern = rows[row % rows.len()].path.to_string().replace("{any}", "x").replace("**", "y/z");
            let method = Method::ALL[method].name();
            let table = table();
            let spelt: String = (pattern.chars().enumerate())
                .map(|(at, letter)| if capitals >> (at % 64) & 1 == 1 { letter.to_ascii_uppercase() } else { letter })
                .chain(slash.then_some('/'))
                .collect();
            let (plain, spelt) = (permission(&table, method, &pattern), permission(&table, method, &spelt));
            prop_assert!(spelt == plain || spelt.starts_with('4'), "{pattern}: {plain}, {spelt}");
        }
    }

    #[test]
    fn patterns_that_could_never_match_are_refused() {
        let refused =
            ["", "api", "/a//b", "/a/../b", "/**/a", "/a*", "/{}", "/{a", "/%2f", "/%zz", "/a;b", "/\u{e9}", "/a b"];
        for pattern in refused {
            assert!(pattern.parse::<Pattern>().is_err(), "{pattern}");
        }
        for pattern in ["/", "/a/{any}/b", "/a/**", "/**", "/a%20b", "/a/"] {
            assert_eq!(pattern.parse::<Pattern>().map(|pattern| pattern.to_string()).as_deref(), Ok(pattern));
        }
        assert_eq!("/%41".parse::<Pattern>(), "/A".parse());
    }
}
