//! The file that is served, and what its pages begin with.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use surefault_store::{PatternStore, ReadRequest, Store as _};
use tempfile::TempDir;

use crate::BenchError;
use crate::memory::page_size;

const SEED: u64 = 7;

/// A memory file full of a pattern, in a directory of its own, which is gone with it. It has just
/// been written, so all of it is in the page cache.
#[derive(Debug)]
pub struct Source {
    dir: TempDir,
    pages: u32,
}

impl Source {
    /// A file of `pages` pages somewhere below `dir`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(dir: &Path, pages: u32) -> Result<Source, BenchError> {
        let failed = |source| BenchError::Source {
            dir: dir.to_owned(),
            source,
        };
        let temp = tempfile::Builder::new()
            .prefix("surefault-bench-")
            .tempdir_in(dir)
            .map_err(failed)?;
        let source = Source { dir: temp, pages };
        source.write().map_err(failed)?;
        Ok(source)
    }

    fn write(&self) -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(self.path())?);
        let page_size = page_size();
        let pattern = PatternStore::new(SEED, u64::from(self.pages) * page_size as u64);
        let mut page = vec![0; page_size];
        for n in 0..u64::from(self.pages) {
            let request = ReadRequest::first(n * page_size as u64);
            pattern
                .read(request, &mut page)
                .expect("a pattern has all of its pages");
            file.write_all(&page)?;
        }
        file.into_inner()?.sync_all()
    }

    /// Where the file is.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("memory")
    }

    /// A directory beside the file, for sockets and programs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its pages.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// The first word of a page.
    pub(crate) fn word(page: u32) -> u64 {
        u64::from_le(PatternStore::word(
            SEED,
            u64::from(page) * page_size() as u64,
        ))
    }
}
