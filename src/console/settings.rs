//! Whether the console is there.

use crate::words::words;

words! {
    /// A choice of the operator's.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Switch ("values") {
        /// It is.
        On = "on",
        /// It is not.
        Off = "off",
    }
}
