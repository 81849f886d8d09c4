//! A daemon in this process, and what it is tested with.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use surefault_core::plan::{FaultPlan, Latency};
use surefault_core::residency::Backoff;
use surefault_core::{PageIndex, PageSize};
use surefault_pager::FailedPage;
use surefault_serve::event::{Event, VmSummary};
use surefault_serve::{Daemon, FileSource, ServeConfig, Source};
use surefault_store::{PatternStore, PlannedStore, ReadRequest, Store, StoreError};
use surefault_testkit::{PATIENCE, page_size};
use tempfile::TempDir;

pub(crate) const SEED: u64 = 23;

pub(crate) fn host_page() -> PageSize {
    PageSize::new(page_size() as u64).expect("a page size")
}

/// A daemon, and everything that it has said.
pub(crate) struct Rig {
    pub(crate) dir: TempDir,
    pub(crate) daemon: Daemon,
    thread: Option<JoinHandle<()>>,
    said: Arc<Mutex<Vec<Event>>>,
}

impl Rig {
    pub(crate) fn new(change: impl FnOnce(&mut ServeConfig)) -> Rig {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = ServeConfig::default().with_deadline(PATIENCE);
        config.pager.residency.backoff = Backoff {
            first: Duration::from_millis(1),
            max: Duration::from_millis(4),
        };
        config.control = Some(dir.path().join("control"));
        change(&mut config);
        let said = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&said);
        let log = move |event: &Event| hears.lock().expect("no panic").push(event.clone());
        let sources = |store: &str| Ok(Arc::new(FileSource::new(Path::new(store))) as _);
        let daemon = Daemon::new(config, log, Box::new(sources)).expect("a daemon");
        let runs = daemon.clone();
        let thread = Some(std::thread::spawn(move || runs.run()));
        Rig {
            dir,
            daemon,
            thread,
            said,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A socket whose VMs are served from `source`.
    pub(crate) fn listen(&self, name: &str, source: Arc<dyn Source>) -> PathBuf {
        let socket = self.path(name);
        self.daemon.listen(&socket, source).expect("listening");
        socket
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.said.lock().expect("no panic").clone()
    }

    /// Waits until an event was told, and gives what `find` makes of it.
    pub(crate) fn told<T>(&self, what: &str, find: impl Fn(&Event) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self.said.lock().expect("no panic").iter().find_map(&find);
            if let Some(found) = found {
                return found;
            }
            assert!(
                Instant::now() < until,
                "{what} is never told: {:#?}",
                self.events()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for the end of the VM that process `pid` had.
    pub(crate) fn summary(&self, pid: u32) -> VmSummary {
        self.told("the end", |event| match event {
            Event::VmEnded(summary) if summary.pid == pid => Some(summary.clone()),
            _ => None,
        })
    }

    /// Pages of process `pid` that failed, with their causes, in the order in which it was told.
    pub(crate) fn failures(&self, pid: u32) -> Vec<(u32, String)> {
        let said = self.said.lock().expect("no panic");
        let failures = said.iter().filter_map(|event| match event {
            Event::PageFailed {
                pid: of,
                page,
                cause,
                ..
            } if *of == pid => Some((*page, cause.clone())),
            _ => None,
        });
        failures.collect()
    }

    /// Waits until the daemon has ended by itself.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the daemon does not panic");
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.daemon.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The pattern, failing as rules say; each VM has a plan of its own.
pub(crate) struct Planned {
    pages: u64,
    plan: FaultPlan,
    opened: Mutex<Vec<Arc<PlannedStore<PatternStore>>>>,
}

impl Planned {
    pub(crate) fn new(pages: u64, rules: &[&str], latency: &str) -> Arc<Planned> {
        let latency: Latency = latency.parse().expect("a latency");
        let mut plan = FaultPlan::new(SEED, latency);
        rules
            .iter()
            .for_each(|rule| plan.push(rule.parse().expect("a rule")));
        Arc::new(Planned {
            pages,
            plan,
            opened: Mutex::default(),
        })
    }

    /// The source of all VMs so far is repaired.
    pub(crate) fn repair(&self, pages: RangeInclusive<u32>) {
        let pages = PageIndex::new(*pages.start())..=PageIndex::new(*pages.end());
        for store in &*self.opened.lock().expect("no panic") {
            store.repair(pages.clone());
        }
    }
}

impl Source for Planned {
    fn open(&self) -> Result<Arc<dyn Store>, StoreError> {
        let pattern = PatternStore::new(SEED, self.pages * page_size() as u64);
        let store = Arc::new(PlannedStore::new(pattern, self.plan.clone(), host_page()));
        self.opened
            .lock()
            .expect("no panic")
            .push(Arc::clone(&store));
        Ok(store)
    }

    fn describe(&self) -> String {
        "the pattern".to_owned()
    }
}

/// A file with `bytes` bytes of the pattern.
pub(crate) fn pattern_file(path: &Path, bytes: u64) -> Arc<FileSource> {
    let mut data = vec![0; bytes as usize];
    let pattern = PatternStore::new(SEED, bytes);
    pattern
        .read(ReadRequest::first(0), &mut data)
        .expect("the pattern");
    std::fs::write(path, data).expect("a file");
    Arc::new(FileSource::new(path))
}

pub(crate) fn short_deadline(config: &mut ServeConfig) {
    *config = config.clone().with_deadline(Duration::from_millis(300));
}

pub(crate) fn rule(failed_page: FailedPage) -> impl FnOnce(&mut ServeConfig) {
    move |config| config.pager.failed_page = failed_page
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "{what} never happens");
        std::thread::sleep(Duration::from_millis(1));
    }
}

const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

/// Huge pages that are reserved for as long as this lives.
pub(crate) struct HugePages(String);

impl HugePages {
    pub(crate) fn reserve(count: u64) -> Option<HugePages> {
        let before = std::fs::read_to_string(HUGE_PAGES).ok()?;
        let old: u64 = before.trim().parse().ok()?;
        let reserved = HugePages(before);
        std::fs::write(HUGE_PAGES, (old + count).to_string()).ok()?;
        let now: u64 = std::fs::read_to_string(HUGE_PAGES)
            .ok()?
            .trim()
            .parse()
            .ok()?;
        (now >= old + count).then_some(reserved)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = std::fs::write(HUGE_PAGES, &self.0);
    }
}

pub(crate) fn lacking_huge_pages() -> Option<String> {
    match HugePages::reserve(1) {
        Some(_) => None,
        None => Some(format!(
            "no huge page of 2 MiB can be reserved in {HUGE_PAGES}"
        )),
    }
}
