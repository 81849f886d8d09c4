//! What a socket's VMs are served from: opened for each VM, at its first fault.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use surefault_store::{FileStore, ReadRequest, Store, StoreError};

/// Opens a store for each VM.
///
/// Called by a thread that reads, under the deadline of what is read: it may take as long as it
/// likes, and hold up nobody else.
pub trait Source: Send + Sync {
    /// A store for one VM.
    ///
    /// # Errors
    /// When it is not available. It is tried again at the next read.
    fn open(&self) -> Result<Arc<dyn Store>, StoreError>;

    /// The source in words.
    fn describe(&self) -> String;
}

/// A file, opened anew for each VM: one that was replaced under its name serves later VMs.
#[derive(Clone, Debug)]
pub struct FileSource(PathBuf);

impl FileSource {
    /// The file at `path`.
    pub fn new(path: &Path) -> FileSource {
        FileSource(path.to_owned())
    }
}

impl Source for FileSource {
    fn open(&self) -> Result<Arc<dyn Store>, StoreError> {
        let store = FileStore::open_as_it_is(&self.0).map_err(StoreError::Open)?;
        Ok(Arc::new(store))
    }

    fn describe(&self) -> String {
        self.0.display().to_string()
    }
}

/// A store that is opened by its first read.
pub(crate) struct Later {
    source: Arc<dyn Source>,
    store: OnceLock<Arc<dyn Store>>,
}

impl Later {
    pub(crate) fn new(source: Arc<dyn Source>) -> Later {
        Later {
            source,
            store: OnceLock::new(),
        }
    }
}

impl Store for Later {
    /// Nobody knows yet.
    fn size(&self) -> u64 {
        self.store.get().map_or(u64::MAX, |store| store.size())
    }

    fn describe(&self) -> String {
        self.source.describe()
    }

    fn read(&self, request: ReadRequest, buf: &mut [u8]) -> Result<(), StoreError> {
        if let Some(store) = self.store.get() {
            return store.read(request, buf);
        }
        // No lock: of several that open it at once, one is kept.
        let store = self.source.open()?;
        self.store.get_or_init(|| store).read(request, buf)
    }

    fn read_now(&self, request: ReadRequest, buf: &mut [u8]) -> Option<Result<(), StoreError>> {
        self.store.get()?.read_now(request, buf)
    }

    fn cancel(&self) {
        if let Some(store) = self.store.get() {
            store.cancel();
        }
    }
}
