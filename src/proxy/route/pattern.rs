//! Which pattern a request's route has, for whoever reads of it: the search itself has no use for it.

use super::{Method, Node, RouteTable, is_as_owner};

impl RouteTable {
    /// The pattern of the route of a request, by its method and its normalised path.
    #[must_use]
    pub fn pattern(&self, method: &str, path: &str) -> Option<String> {
        self.find(method, path).ok()?;
        let path = path.strip_prefix('/').unwrap_or(path);
        let root = self.as_owner.as_ref().filter(|_| is_as_owner(path.split('/'))).unwrap_or(&self.root);
        let mut pattern = String::new();
        root.trace(Method::from_name(method)?, path, &mut pattern).then_some(pattern)
    }
}

impl Node {
    /// As [`Node::find`].
    fn trace(&self, method: Method, path: &str, pattern: &mut String) -> bool {
        let (segment, rest) = path.split_once('/').map_or((path, None), |(segment, rest)| (segment, Some(rest)));
        let literal = self.literals.iter().find(|(name, _)| **name == *segment).map(|(_, node)| (segment, node));
        let any = self.any.as_deref().filter(|_| !segment.is_empty()).map(|node| ("{any}", node));
        for (name, node) in literal.into_iter().chain(any) {
            let before = pattern.len();
            pattern.push('/');
            pattern.push_str(name);
            let is_found = match rest {
                Some(rest) => node.trace(method, rest, pattern),
                None => node.here[method as usize].is_some(),
            };
            if is_found {
                return true;
            }
            pattern.truncate(before);
        }
        let is_rest = self.rest[method as usize].is_some() && !path.is_empty();
        if is_rest {
            pattern.push_str("/**");
        }
        is_rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::MaxStaleness;

    #[test]
    fn every_route_is_shown_by_its_own_pattern() {
        let table = RouteTable::built_in(&[], |_| MaxStaleness::Never);
        for (method, pattern, _) in table.list() {
            let path = pattern.replace("{any}", "x").replace("**", "x/y");
            assert_eq!(table.pattern(method.name(), &path), Some(pattern));
        }
        assert_eq!(table.pattern("GET", "/nowhere"), None);
    }
}
