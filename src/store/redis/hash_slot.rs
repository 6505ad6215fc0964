//! Slots of a Redis cluster: which of them a namespace's keys are in.

use std::fmt;

use crate::store::settings::Namespace;

/// One of the 16384.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HashSlot(pub(super) u16);

impl HashSlot {
    /// Of all keys of a namespace: what is in the braces decides alone.
    pub(super) fn of(namespace: &Namespace) -> Self {
        Self(crc16(namespace.to_string().as_bytes()) % 16384)
    }
}

impl fmt::Display for HashSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// CRC-16/XMODEM, as the cluster's specification has it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        // As `CLUSTER KEYSLOT {tollgate}:meta` has it.
        assert_eq!(HashSlot::of(&Namespace::default()), HashSlot(7332));
    }
}
