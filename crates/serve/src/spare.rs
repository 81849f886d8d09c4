//! Room for one descriptor.

use std::io;
use std::sync::Mutex;

use crate::daemon::lock;
use crate::wakeup::Wakeup;

/// A descriptor that is kept for when there is room for no other, and somebody has to be killed.
#[derive(Debug)]
pub(crate) struct Spare(Mutex<Option<Wakeup>>);

impl Spare {
    /// # Errors
    /// When there is no room for it.
    pub(crate) fn new() -> io::Result<Spare> {
        Ok(Spare(Mutex::new(Some(Wakeup::new()?))))
    }

    /// Does what needs a descriptor with room for one.
    pub(crate) fn lend<T>(&self, act: impl FnOnce() -> T) -> T {
        let mut spare = lock(&self.0);
        drop(spare.take());
        let done = act();
        *spare = Wakeup::new().ok();
        done
    }
}
