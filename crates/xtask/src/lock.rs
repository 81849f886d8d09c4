//! Keeps two runs of xtask out of one directory.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, flock};

/// A directory that no other run uses as long as this lives.
#[derive(Debug)]
pub(crate) struct Lock {
    // The kernel unlocks it when it is closed, however the process ends.
    _file: File,
}

impl Lock {
    /// Creates the directory if need be, and waits until nobody else uses it.
    ///
    /// # Errors
    /// When it cannot be created or locked.
    pub(crate) fn of(directory: &Path) -> Result<Self> {
        let file = fs::create_dir_all(directory)
            .and_then(|()| File::create(directory.join("lock")))
            .with_context(|| format!("preparing {}", directory.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                eprintln!(
                    "matrix: waiting for another run to leave {}",
                    directory.display()
                );
                flock(&file, FlockOperation::LockExclusive)
            }
            Err(error) => Err(error),
        }
        .with_context(|| format!("locking {}", directory.display()))?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_directory_is_free_again_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("new");
        let lock = Lock::of(&inner).unwrap();
        let other = File::open(inner.join("lock")).unwrap();
        assert!(flock(&other, FlockOperation::NonBlockingLockExclusive).is_err());
        drop(lock);
        assert!(flock(&other, FlockOperation::NonBlockingLockExclusive).is_ok());
    }
}
