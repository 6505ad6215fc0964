//! Random bytes. All of them are the operating system's.

pub(crate) use getrandom::Error as NoEntropy;

/// Fills with random bytes, for secrets and for what must never be the same twice.
///
/// # Errors
/// When the operating system has none to give.
pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), NoEntropy> {
    getrandom::fill(bytes)
}

/// A random number, for names and for spreading things in time. Without entropy it is unlike that of any other process that
/// runs on this host now, with zeros in its lower half.
pub(crate) fn number() -> u64 {
    let mut bytes = [0; 8];
    match fill(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => u64::from(std::process::id()) << 32,
    }
}
