//! The layouts of stores: which ones this version reads, and what to do about any other.

use std::fmt;

/// The layout that this version writes, in every store. It grows with every change that an older program could not work
/// with; reports of sidecars say which one they can read.
pub const SCHEMA: u32 = 3;

/// This program, as `tollgate --version` has it.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A store has a layout that this version does not read. Completes the name of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OtherSchema {
    /// As it is written there.
    pub(super) found: String,
    /// The one that this version can make its own.
    pub(super) earlier: u32,
}

impl std::error::Error for OtherSchema {}

impl fmt::Display for OtherSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { found, earlier } = self;
        write!(f, "has schema {found}, and this program (tollgate {VERSION}) reads {earlier} and {SCHEMA}: ")?;
        f.write_str(match found.parse::<u32>() {
            Ok(found) if found > SCHEMA => {
                "a later version made it so; use that version here too, or restore a backup from before that \
                 (docs/upgrade.md)"
            }
            Ok(_) => {
                "it is of an earlier version than the one before; change something in it with a version in between first \
                 (docs/upgrade.md)"
            }
            Err(_) => "that is no schema; restore it from a backup",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_other_schema_is_said_with_the_way_out() {
        let said = |found: &str| OtherSchema { found: found.to_owned(), earlier: 2 }.to_string();
        let numbers = format!("(tollgate {VERSION}) reads 2 and 3: ");
        for (found, way_out) in [("4", "use that version here too"), ("1", "a version in between"), ("x", "backup")] {
            let text = said(found);
            assert!(text.starts_with(&format!("has schema {found}, ")) && text.contains(&numbers), "{text}");
            assert!(text.contains(way_out), "{text}");
        }
    }
}
