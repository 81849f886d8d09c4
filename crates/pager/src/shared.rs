//! What the threads of a pager share, and the one way in which any of them tells the machine
//! something.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use surefault_core::residency::{Admission, Effect, FetchRange, PageOutcome, PageState, Residency};
use surefault_core::{Failure, PageId};
use surefault_store::Store;
use surefault_uffd::{EventBuffer, Journal, PageRange, Userfaultfd};

use crate::buffer::Buffer;
use crate::causes::Causes;
use crate::latency::Waits;
use crate::mark::Marking;
use crate::patience::Lookout;
use crate::pool::Pool;
use crate::prefetch::{Prefetch, Prefetcher};
use crate::records::{Keeping, Recorder};
use crate::regions::Regions;
use crate::stats::Counters;
use crate::timers::Timers;
use crate::{Attendant, FaultObserver};

/// Everything the threads of a pager share.
pub(crate) struct Shared {
    pub(crate) uffd: Userfaultfd,
    pub(crate) regions: Regions,
    pub(crate) store: Arc<dyn Store>,
    /// The store in words; asked for once, while nothing depends on its answer.
    pub(crate) store_name: String,
    pub(crate) marking: Marking,
    /// Absent pages are poisoned until they have been asked for once.
    pub(crate) refuses_absent: bool,
    pub(crate) attendant: Arc<dyn Attendant>,
    /// The memory is no more.
    pub(crate) gone: AtomicBool,
    pub(crate) pool: Pool,
    pub(crate) causes: Causes,
    pub(crate) stats: Counters,
    pub(crate) observer: Option<Arc<dyn FaultObserver>>,
    pub(crate) stopping: AtomicBool,
    /// An eventfd that gets the event loop out of its sleep.
    pub(crate) nudge: OwnedFd,
    /// Events read at once.
    pub(crate) batch: usize,
    /// Writes down what a successor needs, if there is to be one.
    pub(crate) recorder: Option<Recorder>,
    pub(crate) lookout: Lookout,
    machine: Mutex<Machine>,
    gate: RwLock<Gate>,
}

/// The machine and its timers.
pub(crate) struct Machine {
    pub(crate) residency: Residency,
    pub(crate) timers: Timers,
    /// Demands for which there was no room.
    pub(crate) backlog: VecDeque<PageId>,
    /// Until when the event loop sleeps; `None` = until something happens.
    pub(crate) loop_sleeps_until: Option<Instant>,
    /// Since when faults wait, and how long others did.
    pub(crate) waits: Waits,
    /// Failed pages that the attendant knows of.
    pub(crate) announced: BTreeSet<PageId>,
    /// Pages of another process's memory that are poisoned, whatever else is known of them.
    pub(crate) poisoned: BTreeSet<PageId>,
    /// What was demanded, and what to fetch because of it.
    pub(crate) prefetcher: Prefetcher,
}

/// What the gate guards: the means to read events, and whether the memory may still be changed.
pub(crate) struct Gate {
    /// The pager has ended, and the memory may be its owner's no longer: nothing of it may be
    /// touched any more, whatever a thread brings that was stuck in the store.
    pub(crate) closed: bool,
    pub(crate) buffer: EventBuffer,
    /// Where events are read to, if there is to be a successor.
    pub(crate) journal: Option<Journal>,
    pub(crate) faulted: Vec<PageId>,
    /// Pages that were given back: from where on, and how many.
    pub(crate) removed: Vec<(PageId, u32)>,
}

/// What one thread has been told to do and has not done yet.
#[derive(Default)]
pub(crate) struct Hands {
    /// Installs, marks: all of these come before the next fetch, so that `data` still holds what is
    /// to be installed.
    pub(crate) local: VecDeque<Effect>,
    pub(crate) fetches: VecDeque<FetchRange>,
    /// Whether this is a thread of the pool, which may wait for the store.
    pub(crate) may_wait: bool,
    /// A read that this thread of the pool does itself when everything else is done.
    pub(crate) kept: Option<FetchRange>,
    /// What was fetched last, and behind it what is left of longer fetches,
    pub(crate) data: Buffer,
    /// from this page on.
    pub(crate) data_from: PageId,
}

impl Shared {
    #[expect(
        clippy::too_many_arguments,
        reason = "called once, with the parts by name"
    )]
    pub(crate) fn new(
        uffd: Userfaultfd,
        regions: Regions,
        store: Arc<dyn Store>,
        marking: Marking,
        refuses_absent: bool,
        attendant: Arc<dyn Attendant>,
        pool: Pool,
        nudge: OwnedFd,
        residency: Residency,
        batch: usize,
        prefetch: Prefetch,
        keeping: Option<Keeping>,
        poisoned: BTreeSet<PageId>,
        observer: Option<Arc<dyn FaultObserver>>,
    ) -> Shared {
        let (recorder, journal) = match keeping {
            Some(keeping) => (Some(keeping.recorder), Some(keeping.journal)),
            None => (None, None),
        };
        let buffer = EventBuffer::with_capacity(batch);
        Shared {
            uffd,
            regions,
            store_name: store.describe(),
            store,
            marking,
            refuses_absent,
            attendant,
            gone: AtomicBool::new(false),
            pool,
            causes: Causes::default(),
            stats: Counters::default(),
            observer,
            stopping: AtomicBool::new(false),
            nudge,
            batch: batch.max(1),
            recorder,
            lookout: Lookout::default(),
            machine: Mutex::new(Machine {
                residency,
                timers: Timers::new(),
                backlog: VecDeque::new(),
                loop_sleeps_until: None,
                waits: Waits::default(),
                announced: BTreeSet::new(),
                poisoned,
                prefetcher: Prefetcher::new(prefetch),
            }),
            gate: RwLock::new(Gate {
                closed: false,
                buffer,
                journal,
                faulted: Vec::with_capacity(batch),
                removed: Vec::new(),
            }),
        }
    }

    /// The machine. A thread that panicked with it has broken a single input, not the pager.
    pub(crate) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The gate, to read events or to remove pages.
    pub(crate) fn gate_exclusively(&self) -> RwLockWriteGuard<'_, Gate> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The gate, to install.
    pub(crate) fn gate(&self) -> RwLockReadGuard<'_, Gate> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does a thread's work. When that panics it is told of: what the thread had in hand is lost, and
    /// nobody else would end those faults.
    pub(crate) fn tell_of_panic(&self, work: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            self.attendant.panicked();
        }
    }

    /// Tells the machine something and takes in hand what it wants done.
    pub(crate) fn tell<T>(&self, hands: &mut Hands, input: impl FnOnce(&mut Machine) -> T) -> T {
        let mut machine = self.machine();
        let answer = input(&mut machine);
        let wake_loop = self.collect(&mut machine, hands);
        drop(machine);
        if wake_loop {
            self.nudge();
        }
        answer
    }

    /// Makes everybody who waits fault again: for those whose events somebody else has read. They
    /// have the event loop to themselves, not yet begun.
    pub(crate) fn wake_all(&self) {
        if self.recorder.is_some() {
            self.regions.ranges().for_each(|range| self.wake(range));
        }
    }

    /// Makes who waits for pages of `range` touch them again.
    pub(crate) fn wake(&self, range: PageRange) {
        if self.uffd.wake(range).is_err() {
            self.stats.strange_events.add(1);
        }
    }

    /// Gets the event loop out of its sleep.
    pub(crate) fn nudge(&self) {
        // It can only fail when the counter is at its limit, and then the loop is awake already.
        let _ = rustix::io::write(&self.nudge, &1u64.to_ne_bytes());
    }

    /// Polls the machine dry. Says whether the event loop sleeps too long.
    fn collect(&self, machine: &mut Machine, hands: &mut Hands) -> bool {
        let Machine {
            residency,
            timers,
            backlog,
            loop_sleeps_until,
            waits,
            announced,
            poisoned: _,
            prefetcher: _,
        } = machine;
        let mut earliest: Option<Instant> = None;
        let was_full = !backlog.is_empty();
        loop {
            while let Some((timer, delay)) = residency.poll_timer() {
                let due = timers.arm(timer, delay, Instant::now());
                earliest = Some(earliest.map_or(due, |earliest| earliest.min(due)));
            }
            match residency.poll_effect() {
                Some(Effect::Fetch(range)) => hands.fetches.push_back(range),
                Some(effect @ Effect::Settled { page, outcome }) => match outcome {
                    // Installing has woken who waited.
                    PageOutcome::Present => {
                        waits.served(page);
                        if announced.remove(&page) || self.observer.is_some() {
                            hands.local.push_back(effect);
                        }
                    }
                    PageOutcome::Failed(_) | PageOutcome::Cancelled => {
                        waits.forget(page);
                        hands.local.push_back(effect);
                    }
                },
                Some(effect) => hands.local.push_back(effect),
                None => match backlog.front() {
                    Some(&page) if residency.handle_demand(page) != Ok(Admission::Full) => {
                        backlog.pop_front();
                    }
                    _ => break,
                },
            }
        }
        timers.sweep(residency);
        if was_full && backlog.is_empty() {
            // It did not look at the userfaultfd while there was no room.
            return true;
        }
        match (earliest, *loop_sleeps_until) {
            (Some(earliest), Some(until)) => earliest < until,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}

impl Machine {
    /// Somebody wants `page`, or it has to be there for another reason.
    pub(crate) fn demand(&mut self, page: PageId) {
        match self.residency.handle_demand(page) {
            Ok(Admission::Taken) => {}
            Ok(Admission::Full) => self.backlog.push_back(page),
            Err(_) => unreachable!("only pages of the memory are asked for"),
        }
    }

    /// What was said of these pages is over: a failure from now on is a new one.
    pub(crate) fn forget_announced(&mut self, first: PageId, count: u32) {
        let beyond = |page: &PageId| {
            let distance = page.index().get().checked_sub(first.index().get());
            page.region() != first.region() || distance.is_none_or(|n| n >= count)
        };
        self.announced.retain(beyond);
    }

    /// The failure of `page`, if it has failed and nobody was told.
    pub(crate) fn newly_failed(&mut self, page: PageId) -> Option<Failure> {
        match self.residency.state(page) {
            Ok(PageState::Failed(failure)) if self.announced.insert(page) => Some(failure),
            _ => None,
        }
    }
}
