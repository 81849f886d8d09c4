//! Putting pages in place.

use std::sync::atomic::Ordering;

use surefault_core::residency::{Generation, InstallResult};
use surefault_core::{Cause, CauseKind, PageId, PageIndex};
use surefault_uffd::{OperationError, Outcome, Wake};

use crate::Point;
use crate::drive::error_text;
use crate::patience::Patience;
use crate::shared::{Hands, Shared};

/// What the kernel made of an operation on a range of pages.
pub(crate) enum Progress {
    /// So many pages are done.
    Pages(u32),
    /// The first page was there already; whoever waited for it is awake.
    AlreadyThere,
    /// It was refused.
    Refused(Cause),
}

impl Shared {
    /// Copies the fetched pages in place, as far as they are still wanted.
    pub(crate) fn install(
        &self,
        hands: &mut Hands,
        generation: Generation,
        first: PageId,
        count: u32,
    ) {
        let data = core::mem::take(&mut hands.data);
        let page_len = self.regions.page_size(first).buffer_len();
        // An install may be for the middle of what was fetched.
        let start = (first.index().get() - hands.data_from.index().get()) as usize * page_len;
        let mut done = 0;
        let mut result = InstallResult::Done;
        while done < count {
            let page = first.checked_add(done).expect("pages of a region");
            let offset = start + done as usize * page_len;
            match self.attempt(hands, generation, page, count - done, |wanted| {
                let range = self.regions.range(page, wanted);
                let source = data.part(offset, wanted as usize * page_len);
                self.intend(page, wanted);
                let outcome = self.uffd.copy(range, source, Wake::Now);
                self.intended(page, wanted, &outcome);
                outcome
            }) {
                None => {
                    self.stats.dropped.add(1);
                    done += 1;
                }
                Some(Progress::Pages(pages)) => {
                    self.stats.installed.add(pages.into());
                    done += pages;
                }
                Some(Progress::AlreadyThere) => done += 1,
                Some(Progress::Refused(cause)) => {
                    result = InstallResult::Failed {
                        installed: done,
                        cause,
                    };
                    break;
                }
            }
        }
        hands.data = data;
        self.tell(hands, |m| {
            // Contents overwrite poison.
            if !m.poisoned.is_empty() {
                for page in (0..done).filter_map(|n| first.checked_add(n)) {
                    m.poisoned.remove(&page);
                }
            }
            m.residency
                .handle_installed(generation, first, count, result)
        });
    }

    /// Data is about to be put in place. Inside the gate only.
    fn intend(&self, first: PageId, count: u32) {
        if let Some(recorder) = &self.recorder {
            recorder.intend(first, count);
            self.attendant.reached(Point::Intended);
        }
    }

    /// What came of it.
    fn intended(&self, first: PageId, count: u32, outcome: &Result<Outcome, OperationError>) {
        if let Some(recorder) = &self.recorder {
            self.attendant.reached(Point::Installed);
            let shift = self.regions.page_size(first).shift();
            recorder.installed(first, count, shift, outcome);
        }
    }

    /// Puts a page of zeros in place where nothing is.
    pub(crate) fn zero(&self, hands: &mut Hands, generation: Generation, page: PageId) {
        let result = match self.attempt(hands, generation, page, 1, |_| self.zero_fill(page)) {
            Some(Progress::Pages(_)) => {
                self.stats.zeroed.add(1);
                Ok(())
            }
            Some(Progress::AlreadyThere) | None => Ok(()),
            Some(Progress::Refused(cause)) => Err(cause),
        };
        self.tell(hands, |m| {
            if result.is_ok() {
                m.poisoned.remove(&page);
            }
            m.residency.handle_zeroed(generation, page, result)
        });
        // A removal is under way until its thread has taken the page away, which may be after it was
        // read and after zeros were put in place. Whoever has faulted since then has joined what was
        // answered just now, and was not woken by it.
        self.wake(self.regions.range(page, 1));
    }

    fn zero_fill(&self, page: PageId) -> Result<Outcome, OperationError> {
        let range = self.regions.range(page, 1);
        let is_poisoned = self.machine().poisoned.contains(&page);
        if range.page_size() == surefault_uffd::host_page_size() && !is_poisoned {
            return self.uffd.zeropage(range, Wake::Now);
        }
        // Huge pages have no shared page of zeros, and only contents overwrite poison.
        let zeros = vec![0; range.len() as usize];
        self.uffd.copy(range, &zeros, Wake::Now)
    }

    /// Carries `operation` out inside the gate for as many of the `count` pages from `page` on as
    /// are still wanted, the first included; `None` when that one is not, or is served no more.
    pub(crate) fn attempt(
        &self,
        hands: &mut Hands,
        generation: Generation,
        page: PageId,
        count: u32,
        operation: impl Fn(u32) -> Result<Outcome, OperationError>,
    ) -> Option<Progress> {
        let mut patience = Patience::default();
        let mut most = count;
        loop {
            let gate = self.gate();
            if gate.closed {
                return None;
            }
            let wanted = self.machine().residency.may_apply(generation, page, most);
            if wanted == 0 {
                return None;
            }
            let outcome = operation(wanted);
            drop(gate);
            let page_size = self.regions.page_size(page);
            return Some(match outcome {
                Ok(Outcome::Done) => Progress::Pages(wanted),
                Ok(Outcome::Partial { bytes }) => {
                    Progress::Pages((bytes >> page_size.shift()) as u32)
                }
                Ok(Outcome::AlreadyThere) => match self.uffd.wake(self.regions.range(page, 1)) {
                    Ok(()) => Progress::AlreadyThere,
                    Err(error) => Progress::Refused(self.refusal(&error)),
                },
                Ok(Outcome::Again) => {
                    self.stats.deferred.add(1);
                    // An event is queued, and nothing can be installed before it is read.
                    let events = self.read_events(hands);
                    if patience.wait(self, events) {
                        continue;
                    }
                    let text = "the kernel asked to try again for the whole deadline".to_owned();
                    Progress::Refused(self.causes.add(CauseKind::Install, text))
                }
                // A range must lie in one mapping, and a region may consist of several: protecting
                // a page splits one.
                Ok(Outcome::NoRegion) if wanted > 1 => {
                    most = 1;
                    continue;
                }
                Ok(Outcome::NoRegion) => {
                    if let Some(recorder) = &self.recorder {
                        recorder.forget(page);
                    }
                    self.tell(hands, |m| {
                        let known = m.residency.handle_cancelled(page, 1);
                        known.expect("a page of the memory");
                    });
                    return None;
                }
                Ok(Outcome::Gone) => {
                    self.memory_gone(hands);
                    return None;
                }
                Err(error) => Progress::Refused(self.refusal(&error)),
            });
        }
    }

    pub(crate) fn refusal(&self, error: &dyn std::error::Error) -> Cause {
        self.causes.add(CauseKind::Install, error_text(error))
    }

    /// The memory is gone: nobody can wait for it any more.
    fn memory_gone(&self, hands: &mut Hands) {
        if self.gone.swap(true, Ordering::AcqRel) {
            return;
        }
        self.attendant.memory_gone();
        self.tell(hands, |machine| {
            for (id, region) in self.regions.iter() {
                let first = PageId::new(id, PageIndex::default());
                let count = u32::try_from(region.pages.get()).unwrap_or(u32::MAX);
                machine
                    .residency
                    .handle_cancelled(first, count)
                    .expect("regions have pages");
            }
        });
    }
}
