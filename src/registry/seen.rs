//! What a command is about, as whoever gives the command saw it.

use super::{RegistryError, Rotation};
use crate::store::{CommitId, Versioned};
use crate::token::TokenId;

/// What a command names, and the version of its record that was seen: where that has changed since, nothing is done.
#[derive(Debug, Clone, Copy)]
pub struct Seen<T> {
    pub(super) what: T,
    /// `None`: whatever it is by now.
    pub(super) version: Option<CommitId>,
    /// What is not there, or no longer, is left out.
    pub(super) if_exists: bool,
}

impl<T> Seen<T> {
    /// As it was at this version.
    pub const fn at(what: T, version: Option<CommitId>) -> Self {
        Self { what, version, if_exists: false }
    }

    /// Of tokens: whether those that are not there, or not for the actor to see, are left out. Somebody else may have deleted
    /// them a moment ago.
    #[must_use]
    pub const fn if_exists(self, if_exists: bool) -> Self
    where
        T: Copy,
    {
        Self { if_exists, ..self }
    }

    /// What is named.
    pub(crate) fn what(&self) -> T
    where
        T: Copy,
    {
        self.what
    }

    /// The record, if it is the one that was seen.
    pub(super) fn check<R>(&self, found: Versioned<R>) -> Result<Versioned<R>, RegistryError> {
        match self.version.is_none_or(|version| version == found.version) {
            true => Ok(found),
            false => Err(RegistryError::Changed),
        }
    }
}

impl<'a> From<&'a [TokenId]> for Seen<&'a [TokenId]> {
    fn from(ids: &'a [TokenId]) -> Self {
        Self::at(ids, None)
    }
}

impl<'a, const N: usize> From<&'a [TokenId; N]> for Seen<&'a [TokenId]> {
    fn from(ids: &'a [TokenId; N]) -> Self {
        Self::at(ids, None)
    }
}

impl<'a> From<&'a Vec<TokenId>> for Seen<&'a [TokenId]> {
    fn from(ids: &'a Vec<TokenId>) -> Self {
        Self::at(ids, None)
    }
}

impl From<Rotation> for Seen<Rotation> {
    fn from(rotation: Rotation) -> Self {
        Self::at(rotation, None)
    }
}

impl<'a> From<&'a str> for Seen<&'a str> {
    fn from(name: &'a str) -> Self {
        Self::at(name, None)
    }
}

impl<'a> From<&'a String> for Seen<&'a str> {
    fn from(name: &'a String) -> Self {
        Self::at(name, None)
    }
}
