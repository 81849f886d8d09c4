//! Stores that do what a test wants.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};

use surefault_store::{PatternStore, ReadRequest, Store, StoreError};
use surefault_testkit::page_size;

use crate::served::pattern;

/// The pattern, whose reads wait until they are let go, or not; and are counted.
pub(crate) struct Held {
    inner: PatternStore,
    gates: Mutex<Gates>,
    changed: Condvar,
    reads: AtomicUsize,
    /// Whether cancelling lets everything go.
    stubborn: bool,
}

#[derive(Default)]
struct Gates {
    /// Pages whose reads wait.
    held: Vec<usize>,
    /// Reads that wait now.
    waiting: usize,
}

impl Held {
    pub(crate) fn new(pages: usize) -> Held {
        Held {
            inner: pattern(pages),
            gates: Mutex::default(),
            changed: Condvar::new(),
            reads: AtomicUsize::new(0),
            stubborn: false,
        }
    }

    pub(crate) fn stubborn(pages: usize) -> Held {
        Held {
            stubborn: true,
            ..Held::new(pages)
        }
    }

    fn gates(&self) -> MutexGuard<'_, Gates> {
        self.gates.lock().expect("no reader panics")
    }

    /// From now on, reads of `page` wait.
    pub(crate) fn hold(&self, page: usize) {
        self.gates().held.push(page);
    }

    /// Lets all reads go.
    pub(crate) fn release(&self) {
        self.gates().held.clear();
        self.changed.notify_all();
    }

    /// Reads that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.gates().waiting
    }

    /// Reads that were begun.
    pub(crate) fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

impl Store for Held {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn describe(&self) -> String {
        "the held pattern".to_owned()
    }

    fn read(&self, request: ReadRequest, buf: &mut [u8]) -> Result<(), StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let first = request.offset as usize / page_size();
        let last = first + buf.len() / page_size();
        let mut gates = self.gates();
        gates.waiting += 1;
        while gates.held.iter().any(|page| (first..last).contains(page)) {
            gates = self.changed.wait(gates).expect("no reader panics");
        }
        gates.waiting -= 1;
        drop(gates);
        self.inner.read(request, buf)
    }

    fn read_now(&self, _: ReadRequest, _: &mut [u8]) -> Option<Result<(), StoreError>> {
        None
    }

    fn cancel(&self) {
        if !self.stubborn {
            self.release();
        }
    }
}

/// The pattern, but reads of page 3 panic until told otherwise: inline reads and others.
pub(crate) struct Panicking {
    pub(crate) inner: PatternStore,
    pub(crate) inline: bool,
    pub(crate) mended: AtomicBool,
}

impl Store for Panicking {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn describe(&self) -> String {
        "the panicking store".to_owned()
    }

    fn read(&self, request: ReadRequest, buf: &mut [u8]) -> Result<(), StoreError> {
        let page = request.offset as usize / page_size();
        assert!(
            page != 3 || self.mended.load(Ordering::Relaxed),
            "a panic on purpose"
        );
        self.inner.read(request, buf)
    }

    fn read_now(&self, request: ReadRequest, buf: &mut [u8]) -> Option<Result<(), StoreError>> {
        self.inline.then(|| self.read(request, buf))
    }
}
