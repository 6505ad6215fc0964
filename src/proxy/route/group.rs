//! What the requests of a route are counted as.

use crate::token::Resource;

/// What requests are counted as: by what their route is about, whoever may pass it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteGroup {
    /// What the permission is about that the route needs, or would if it were not opened.
    Resource(Resource),
    /// Any token will do.
    Token,
    /// One of the configuration's own that needs no token.
    Open,
    /// A balancer asks for the sidecar's health.
    Health,
    /// There is no route, or the request was refused before one was looked for.
    Unrouted,
}

impl RouteGroup {
    /// How many there are.
    pub const COUNT: usize = Resource::ALL.len() + Self::OTHERS.len();

    const OTHERS: [Self; 4] = [Self::Token, Self::Open, Self::Health, Self::Unrouted];

    /// Every one, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Self> {
        Resource::ALL.into_iter().map(Self::Resource).chain(Self::OTHERS)
    }

    /// Its number.
    #[must_use]
    pub const fn index(self) -> usize {
        let others = Resource::ALL.len();
        match self {
            Self::Resource(resource) => resource as usize,
            Self::Token => others,
            Self::Open => others + 1,
            Self::Health => others + 2,
            Self::Unrouted => others + 3,
        }
    }

    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Resource(resource) => resource.name(),
            Self::Token => "token",
            Self::Open => "open",
            Self::Health => "health",
            Self::Unrouted => "unrouted",
        }
    }
}
