//! What a request may be answered.

use std::fmt;
use std::ops::BitOr;

/// A set of right answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdicts(u8);

impl Verdicts {
    /// None at all.
    pub(crate) const NONE: Self = Self(0);
    /// 200.
    pub const SERVED: Self = Self(1);
    /// 403: a good token without the permission.
    pub const FORBIDDEN: Self = Self(2);
    /// 401, for now: not created yet, or its owner is disabled.
    pub const REFUSED: Self = Self(4);
    /// 401, for good: revoked or deleted.
    pub const GONE: Self = Self(8);
    /// 503, until a sidecar has reached an operation that it has heard of.
    pub const IN_DOUBT: Self = Self(16);

    /// Whether they have one in common.
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// All but these.
    pub(super) fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// The verdicts that a status may stand for.
    pub(crate) fn behind(status: u16) -> Option<Self> {
        match status {
            200 => Some(Self::SERVED),
            401 => Some(Self::REFUSED | Self::GONE),
            403 => Some(Self::FORBIDDEN),
            _ => None,
        }
    }
}

impl BitOr for Verdicts {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Verdicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::SERVED, "served"),
            (Self::FORBIDDEN, "403"),
            (Self::REFUSED, "401"),
            (Self::GONE, "gone"),
            (Self::IN_DOUBT, "503"),
        ];
        let names = names.iter().filter(|(verdict, _)| self.intersects(*verdict)).map(|(_, name)| *name);
        f.write_str(&names.collect::<Vec<_>>().join(" or "))
    }
}
