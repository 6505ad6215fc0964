//! Locks that a panic does not poison.
//!
//! Whoever panics ends its connection or its task, and the sidecar goes on ([`panic`](crate::worker::panic)). So what is
//! under a lock is always whole: it is changed in one step, by code that does not panic in between.

use std::sync::{MutexGuard, PoisonError, RwLockReadGuard, RwLockWriteGuard, TryLockError};

/// A lock for one at a time.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// Around this.
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// Waits for it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does not wait for it.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// A lock for one who writes, or many who read.
#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(std::sync::RwLock<T>);

impl<T> RwLock<T> {
    /// Around this.
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::RwLock::new(value))
    }

    /// Waits until nobody writes.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is nobody else's.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_under_a_lock_leaves_it_to_the_next() {
        let (one, many) = (Mutex::new(1), RwLock::new(1));
        let panics = std::thread::scope(|scope| {
            let panicking = scope.spawn(|| {
                let _held = (one.lock(), many.write());
                panic!("on purpose");
            });
            panicking.join()
        });
        assert!(panics.is_err());
        *one.lock() += 1;
        *many.write() += 1;
        assert_eq!((*one.lock(), *many.read()), (2, 2));
    }
}
