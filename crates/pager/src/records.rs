//! What a successor needs, kept while serving: the state of every page, and what was read last.
//!
//! A pager whose process is killed leaves a userfaultfd (somebody else has a duplicate), and these
//! records. [`Pager::attach_recorded`](crate::Pager::attach_recorded) goes on from them: what was
//! read and not noted is noted, removals first of all; installs that were intended are made again,
//! and the kernel says which had been; then everybody who waits is woken and faults again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use surefault_core::residency::{PageRecord, Residency, ResidencyConfig};
use surefault_core::{Hva, PageCount, PageId};
use surefault_uffd::{Event, Journal, MapError, MapIndex, Outcome, PageMap, RecordedState};

use crate::regions::Regions;
use crate::{ServedRegion, StartError};

/// A moment in a pager's work after which its death would be told from a death before it. For tests:
/// [`Attendant::reached`](crate::Attendant::reached) hears of each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Point {
    /// Events were read, and none is noted.
    Read,
    /// The first removal of a batch is noted, the others are not.
    Removing,
    /// All events of a batch are noted, and their slots not cleared.
    Noted,
    /// An install is intended, and not carried out.
    Intended,
    /// An install is carried out, and not noted.
    Installed,
    /// A failure is noted, and its page not poisoned.
    Failing,
}

impl Point {
    /// All of them.
    pub const ALL: [Point; 6] = [
        Point::Read,
        Point::Removing,
        Point::Noted,
        Point::Intended,
        Point::Installed,
        Point::Failing,
    ];
}

/// The records of one memory, in shared memory that outlives this process if somebody else has a
/// duplicate of its descriptor.
#[derive(Debug)]
pub struct Records {
    map: PageMap,
    journal: Journal,
}

impl Records {
    /// New records, of a memory no page of which was ever installed. `batch` is the
    /// [`PagerConfig`](crate::PagerConfig)'s.
    ///
    /// # Errors
    /// When the memory for them cannot be had.
    pub fn create(regions: &[ServedRegion], batch: usize) -> Result<Records, MapError> {
        let (map, journal) = PageMap::create(total(regions), batch)?;
        Ok(Records { map, journal })
    }

    /// The records that a predecessor has left behind `fd`.
    ///
    /// # Errors
    /// When `fd` is no such thing, or of another memory.
    pub fn open(fd: OwnedFd, regions: &[ServedRegion]) -> Result<Records, MapError> {
        let (map, journal) = PageMap::open(fd, total(regions))?;
        Ok(Records { map, journal })
    }
}

impl AsFd for Records {
    /// To be duplicated for whoever keeps it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

fn total(regions: &[ServedRegion]) -> u64 {
    let pages = regions.iter().map(|region| region.pages.get());
    pages.fold(0, u64::saturating_add)
}

/// A machine that goes on, and what its driver has to go on with.
pub(crate) struct Found {
    pub(crate) residency: Residency,
    pub(crate) keeping: Keeping,
}

/// Records in use.
pub(crate) struct Keeping {
    pub(crate) recorder: Recorder,
    pub(crate) journal: Journal,
    /// Pages that may be poisoned.
    pub(crate) failed: Vec<PageId>,
    /// Pages that were poisoned and removed: shared memory keeps the poison.
    pub(crate) stained: Vec<PageId>,
    /// Pages that may have been installed.
    pub(crate) intended: Vec<PageId>,
}

impl Records {
    /// Notes what was read and not noted, and gives the machine that goes on from here.
    pub(crate) fn restore(
        self,
        config: ResidencyConfig,
        regions: &Regions,
    ) -> Result<Found, StartError> {
        let Records { map, mut journal } = self;
        let recorder = Recorder::new(map, regions);
        for event in journal.replay() {
            if let Event::Remove { start, end } | Event::Unmap { start, end } = event {
                let (start, end) = (Hva::new(start.get()), Hva::new(end.get()));
                for (first, count) in regions.pages_between(start, end) {
                    recorder.remove(first, count);
                }
            }
        }
        journal.clear();
        let (mut failed, mut stained, mut intended) = (Vec::new(), Vec::new(), Vec::new());
        let mut recorded = Vec::new();
        for (page, state) in regions.pages().zip(recorder.map.states()) {
            let state = state.map_err(StartError::Records)?;
            if state == RecordedState::RemovedFailed {
                stained.push(page);
            }
            let record = state.record();
            if record.is_in_doubt() {
                intended.push(page);
            }
            if record == PageRecord::Failed {
                failed.push(page);
            }
            recorded.push(record.recorded());
        }
        let pages: Vec<PageCount> = regions.iter().map(|(_, region)| region.pages).collect();
        let residency =
            Residency::restored(config, &pages, recorded).map_err(StartError::Restore)?;
        let keeping = Keeping {
            recorder,
            journal,
            failed,
            stained,
            intended,
        };
        Ok(Found { residency, keeping })
    }
}

/// Writes the states of pages down. All its methods but `remove` are for the inside of the gate; that
/// one is for its exclusive inside.
#[derive(Debug)]
pub(crate) struct Recorder {
    map: PageMap,
    /// The number of each region's first page.
    starts: Vec<u64>,
}

impl Recorder {
    fn new(map: PageMap, regions: &Regions) -> Recorder {
        let mut next = 0;
        let starts = regions.iter().map(|(_, region)| {
            let start = next;
            next += region.pages.get();
            start
        });
        Recorder {
            starts: starts.collect(),
            map,
        }
    }

    pub(crate) fn intend(&self, first: PageId, count: u32) {
        self.map.intend(self.index(first), count.into());
    }

    /// What came of an install that was intended.
    pub(crate) fn installed<E>(
        &self,
        first: PageId,
        count: u32,
        page_shift: u32,
        outcome: &Result<Outcome, E>,
    ) {
        let there = match *outcome {
            Ok(Outcome::Done) => count.into(),
            Ok(Outcome::Partial { bytes }) => (bytes >> page_shift).min(count.into()),
            Ok(Outcome::AlreadyThere) => 1,
            Ok(Outcome::Again | Outcome::Gone | Outcome::NoRegion) | Err(_) => 0,
        };
        let first = self.index(first);
        self.map.settle(first, there);
        let rest = MapIndex::new(first.get() + there);
        self.map.give_up(rest, u64::from(count) - there);
    }

    pub(crate) fn remove(&self, first: PageId, count: u32) {
        self.map.remove(self.index(first), count.into());
    }

    pub(crate) fn fail(&self, page: PageId) {
        self.map.fail(self.index(page), 0);
    }

    /// A page that was about to be made to fail was there.
    pub(crate) fn was_there(&self, page: PageId) {
        self.map.settle(self.index(page), 1);
    }

    pub(crate) fn forget(&self, page: PageId) {
        self.map.forget(self.index(page), 1);
    }

    fn index(&self, page: PageId) -> MapIndex {
        let start = self.starts[usize::from(page.region().get())];
        MapIndex::new(start + u64::from(page.index().get()))
    }
}
