//! The pager as its owner sees it.
#![expect(unsafe_code, reason = "starting a pager makes memory depend on it")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use surefault_core::residency::{PageState, Residency, Violation};
use surefault_core::{Cause, Failure, Hva, PageCount, PageId};
use surefault_store::Store;
use surefault_uffd::{Features, Ioctls, Options, PageRange, RegisterMode, Userfaultfd};

use crate::attendant::Nobody;
use crate::foreign::Rule;
use crate::mark::Marking;
use crate::pool::Pool;
use crate::regions::Regions;
use crate::shared::{Hands, Shared};
use crate::{
    Attendant, DiscardError, FailedPage, FaultObserver, Latencies, PagerConfig, PagerStats,
    Records, ServedRegion, StartError, event_loop,
};

/// How long the end of a pager waits for threads that are inside the store.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// How many failed pages are protected at a time: each splits a mapping in three, of which a process
/// may have 65 530 (`vm.max_map_count`). The oldest failure is forgotten for another.
const MAX_PROTECTED: usize = 16_384;
/// Pages that are healed with the machine locked.
const HEALED_AT_ONCE: u32 = 1024;

/// Serves a memory from a store, until it is dropped.
///
/// Dropping it ends its service: the store's reads are cancelled ([`Store::cancel`]), its threads
/// end, except those that the store holds on to, and who waits for a page is refused it. Whoever drops
/// it may be one of these threads, which tells an observer something: that one ends afterwards. Nobody may
/// touch absent pages of the memory afterwards: they read as zeros.
pub struct Pager {
    shared: Arc<Shared>,
    event_loop: Option<JoinHandle<()>>,
}

/// What to do after an access to a page was refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PageVerdict {
    /// Access the page again: it is there, or on its way, or will be asked for.
    Retry,
    /// The page cannot be had.
    Failed(Failure),
}

impl Pager {
    /// Begins to serve `regions` from `store`.
    ///
    /// # Safety
    /// The regions must be mapped, private anonymous or shared memory of this process, readable and
    /// writable, disjoint, and stay mapped as they are for as long as the pager lives. Their pages
    /// are the store's from now on: an access to an absent one blocks until the pager provides it
    /// or fails with SIGBUS or SIGSEGV (`EFAULT` in system calls), so nothing may hold references
    /// into them, and threads of the pager and the store must not touch them.
    ///
    /// # Errors
    /// When memory cannot be served here, or these regions cannot. Nothing is registered then.
    pub unsafe fn start(
        regions: &[ServedRegion],
        store: Arc<dyn Store>,
        config: &PagerConfig,
    ) -> Result<Pager, StartError> {
        // SAFETY: the caller's promise.
        unsafe { Pager::launch(regions, store, config, None) }
    }

    /// As [`start`](Self::start), and tells `observer` what threads wait for.
    ///
    /// # Safety
    /// As for [`start`](Self::start).
    ///
    /// # Errors
    /// As for [`start`](Self::start), and where the kernel does not name threads (before 4.14).
    pub unsafe fn start_observed(
        regions: &[ServedRegion],
        store: Arc<dyn Store>,
        config: &PagerConfig,
        observer: Arc<dyn FaultObserver>,
    ) -> Result<Pager, StartError> {
        // SAFETY: the caller's promise.
        unsafe { Pager::launch(regions, store, config, Some(observer)) }
    }

    /// # Safety
    /// As for [`start`](Self::start).
    unsafe fn launch(
        regions: &[ServedRegion],
        store: Arc<dyn Store>,
        config: &PagerConfig,
        observer: Option<Arc<dyn FaultObserver>>,
    ) -> Result<Pager, StartError> {
        let ranges = check(regions, &*store)?;
        let uffd = Userfaultfd::create(match observer {
            None => Options::default(),
            Some(_) => Options {
                required: Features::THREAD_ID,
                wanted: Features::EXACT_ADDRESS,
                ..Options::default()
            },
        })?;
        let mut poison = true;
        for &(start, range) in &ranges {
            // SAFETY: the caller has promised what registering needs.
            let registered = unsafe { uffd.register(range, RegisterMode::MISSING) };
            // Dropping the userfaultfd takes back what was registered before.
            let ioctls = registered.map_err(|source| StartError::Register { start, source })?;
            poison &= ioctls.contains(Ioctls::POISON);
        }
        let marking = match (config.failed_page, poison) {
            (FailedPage::Poison, false) => return Err(StartError::NoPoison),
            (FailedPage::Poison | FailedPage::Auto, true) => Marking::Poison,
            (FailedPage::Protect, _) | (FailedPage::Auto, false) => Marking::Protect,
            (other @ (FailedPage::Kill | FailedPage::Wait), _) => {
                return Err(StartError::FailedPage(other));
            }
        };
        let mut config = config.clone();
        if marking == Marking::Protect {
            let limits = &mut config.residency;
            limits.max_failures = limits.max_failures.min(MAX_PROTECTED);
        }
        start_serving(
            uffd,
            regions,
            store,
            marking,
            &config,
            Listeners {
                attendant: Arc::new(Nobody),
                observer,
            },
            None,
        )
    }

    /// The page that `hva` lies in; `None` when it is in none of the regions.
    pub fn page_of(&self, hva: Hva) -> Option<PageId> {
        self.shared.regions.page_of(hva)
    }

    /// What to do after an access to `page` was refused: by SIGBUS, `EFAULT`, or otherwise.
    ///
    /// This is a demand for the page: a failure older than its time to live is forgotten here, and a
    /// page that was healed meanwhile is fetched.
    ///
    /// # Panics
    /// When there is no such page.
    pub fn verdict(&self, page: PageId) -> PageVerdict {
        let mut hands = Hands::default();
        let ask = |machine: &mut crate::shared::Machine| {
            let state = machine.residency.state(page).expect("a page of the memory");
            if self.shared.refuses_absent && state == PageState::Absent {
                self.shared.note_fault(machine, page, Instant::now());
            }
            // When there is no room, the access itself will be a demand.
            if matches!(state, PageState::Failed(_) | PageState::Absent) {
                let _ = machine
                    .residency
                    .handle_demand(page)
                    .expect("a page of the memory");
            }
            let state = machine.residency.state(page).expect("a page of the memory");
            (state, machine.prefetcher.has_planned())
        };
        let (state, planned) = self.shared.tell(&mut hands, ask);
        self.shared.work_off(&mut hands);
        if planned {
            // What comes of demands that it has not read itself.
            self.shared.nudge();
        }
        match state {
            PageState::Failed(failure) => PageVerdict::Failed(failure),
            PageState::Absent | PageState::Pending => PageVerdict::Retry,
            PageState::Present | PageState::Removed => PageVerdict::Retry,
        }
    }

    /// Whether first accesses are refused ([`PagerConfig::refuse_absent`]).
    pub fn refuses_absent(&self) -> bool {
        self.shared.refuses_absent
    }

    /// Returns when every event that was read before has been told to the observer.
    pub fn pass_events(&self) {
        drop(self.shared.gate());
    }

    /// What is known of `page`.
    ///
    /// # Panics
    /// When there is no such page.
    pub fn state(&self, page: PageId) -> PageState {
        self.shared
            .machine()
            .residency
            .state(page)
            .expect("a page of the memory")
    }

    /// The source of the `count` pages from `first` on was repaired: those that have failed are
    /// tried afresh at the next access. Says how many had failed.
    ///
    /// # Panics
    /// When there is no page `first`.
    pub fn heal(&self, first: PageId, count: u32) -> u32 {
        let mut hands = Hands::default();
        let pages = self.shared.regions.pages_from(first);
        let count = u32::try_from(pages).map_or(count, |pages| pages.min(count));
        // In parts, so that nobody waits for long while very many are healed.
        let parts = (0..count).step_by(HEALED_AT_ONCE as usize).map(|done| {
            let first = first.checked_add(done).expect("a page of the region");
            (first, (count - done).min(HEALED_AT_ONCE))
        });
        let healed = parts.map(|(first, count)| {
            let healed = self.shared.tell(&mut hands, |machine| {
                machine.forget_announced(first, count);
                machine
                    .residency
                    .handle_heal(first, count)
                    .expect("pages of the memory")
            });
            self.shared.work_off(&mut hands);
            healed
        });
        healed.sum()
    }

    /// Has the `count` pages from `first` on fetched before somebody wants them. Says for how many
    /// there was room and need.
    ///
    /// # Panics
    /// When there is no page `first`.
    pub fn prefetch(&self, first: PageId, count: u32) -> u32 {
        let mut hands = Hands::default();
        let taken = self.shared.tell(&mut hands, |machine| {
            machine
                .residency
                .handle_prefetch(first, count)
                .expect("pages of the memory")
        });
        self.shared.work_off(&mut hands);
        taken
    }

    /// Throws the contents of the `count` pages from `first` on away, as a balloon does: they read
    /// as zeros from now on, whatever is on its way for them.
    ///
    /// # Errors
    /// When the kernel refuses, say because the memory is locked (`mlock`): they keep their
    /// contents, and pages that had failed may be asked for again.
    ///
    /// # Panics
    /// When there is no page `first`, or its region ends before the last.
    pub fn discard(&self, first: PageId, count: u32) -> Result<(), DiscardError> {
        if count == 0 {
            return Ok(());
        }
        let pages = self.shared.regions.pages_from(first);
        assert!(u64::from(count) <= pages, "{first} and {count} pages on");
        let range = self.shared.regions.range(first, count);
        let mut hands = Hands::default();
        {
            let _gate = self.shared.gate_exclusively();
            let refused = |errno: Errno| DiscardError {
                first,
                count,
                source: errno.into(),
            };
            self.shared.throw_away(range).map_err(refused)?;
            self.shared.tell(&mut hands, |machine| {
                machine
                    .residency
                    .handle_removed(first, count)
                    .expect("pages of the memory");
            });
        }
        self.shared.work_off(&mut hands);
        Ok(())
    }

    /// What there is to say about a cause in one of this pager's failures.
    pub fn cause_text(&self, cause: Cause) -> String {
        self.shared.cause_text(cause)
    }

    /// The pages that have failed, in order.
    pub fn failed_pages(&self) -> Vec<(PageId, Failure)> {
        self.shared.machine().residency.failed_pages().collect()
    }

    /// Pages that are present, and pages that are pending.
    pub fn residency(&self) -> (PageCount, PageCount) {
        let machine = self.shared.machine();
        (
            machine.residency.present(),
            PageCount::new(machine.residency.pending() as u64),
        )
    }

    /// Holds what is known of the pages against its invariants. Looks at every page.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn check_invariants(&self) -> Result<(), Violation> {
        self.shared.machine().residency.check_invariants()
    }

    /// How long faults took that ended with their page: from the event to the wake-up.
    pub fn latencies(&self) -> Latencies {
        self.shared.machine().waits.latencies.clone()
    }

    /// What was counted so far.
    pub fn stats(&self) -> PagerStats {
        self.shared.stats.read()
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.store.cancel();
        self.shared.nudge();
        let own = |thread: &JoinHandle<()>| thread.thread().id() == std::thread::current().id();
        if let Some(event_loop) = self.event_loop.take().filter(|thread| !own(thread)) {
            // What its panic means has been seen to in it.
            let _ = event_loop.join();
        }
        self.shared.pool.stop(STOP_PATIENCE);
        self.shared.close();
    }
}

/// Who is told what becomes of a memory.
pub(crate) struct Listeners {
    pub(crate) attendant: Arc<dyn Attendant>,
    pub(crate) observer: Option<Arc<dyn FaultObserver>>,
}

/// Begins to serve what is registered with `uffd`.
pub(crate) fn start_serving(
    uffd: Userfaultfd,
    regions: &[ServedRegion],
    store: Arc<dyn Store>,
    marking: Marking,
    config: &PagerConfig,
    listeners: Listeners,
    records: Option<Records>,
) -> Result<Pager, StartError> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let nudge = eventfd(0, flags).map_err(|errno| StartError::Resource {
        what: "an event descriptor",
        source: errno.into(),
    })?;
    let pages: Vec<PageCount> = regions.iter().map(|region| region.pages).collect();
    let regions = Regions::new(regions);
    let limits = config.residency.clone();
    let (mut residency, mut keeping) = match records {
        None => (Residency::new(limits, &pages)?, None),
        Some(records) => {
            let found = records.restore(limits, &regions)?;
            (found.residency, Some(found.keeping))
        }
    };
    let (mut poisoned, mut stained) = (BTreeSet::new(), Vec::new());
    if let Some(keeping) = &mut keeping {
        if marking == Marking::Foreign(Rule::Poison) {
            poisoned.extend(core::mem::take(&mut keeping.failed));
            stained = core::mem::take(&mut keeping.stained);
            poisoned.extend(&stained);
        }
        // Installing them again says whether they were installed. What does not fit is absent, and
        // is found out about when somebody wants it.
        for page in core::mem::take(&mut keeping.intended) {
            let known = residency.handle_prefetch(page, 1);
            known.expect("a page of the memory");
        }
    }
    let shared = Arc::new(Shared::new(
        uffd,
        regions,
        store,
        marking,
        config.refuse_absent && marking == Marking::Poison,
        listeners.attendant,
        Pool::new(),
        nudge,
        residency,
        config.batch,
        config.prefetch,
        keeping,
        poisoned,
        listeners.observer,
    ));
    // Nobody faults on poison: zeros are put in its place unasked.
    for page in stained {
        shared.machine().demand(page);
    }
    shared.wake_all();
    if shared.refuses_absent {
        for range in shared.regions.ranges() {
            let refused = shared.refuse_first_accesses(range);
            refused.map_err(|source| StartError::Refuse {
                start: Hva::new(range.start().get()),
                source,
            })?;
        }
    }
    let body = {
        let shared = Arc::clone(&shared);
        move || shared.tell_of_panic(|| event_loop::run(&shared))
    };
    let event_loop = std::thread::Builder::new().name("pager".into()).spawn(body);
    let event_loop = event_loop.map_err(|source| StartError::Resource {
        what: "the event loop's thread",
        source,
    })?;
    Ok(Pager {
        shared,
        event_loop: Some(event_loop),
    })
}

/// Checks the regions against each other's limits and the store's.
fn check(regions: &[ServedRegion], store: &dyn Store) -> Result<Vec<(Hva, PageRange)>, StartError> {
    let mut ranges = Vec::with_capacity(regions.len());
    for region in regions {
        let start = region.start;
        let range = region
            .range()
            .map_err(|source| StartError::Region { start, source })?;
        let (needed, size) = (region.store_end(), store.size());
        if needed > size {
            let store = store.describe();
            return Err(StartError::StoreTooShort {
                start,
                needed,
                size,
                store,
            });
        }
        ranges.push((start, range));
    }
    Ok(ranges)
}
