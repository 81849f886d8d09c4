//! What a living worker does, in the steps between which it may be killed.

use surefault_core::PageIndex;
use surefault_core::policy::Policy;
use surefault_core::residency::{Effect, InstallResult, Marked, PageOutcome, PageRecord};

use super::{Batch, Deed, Held, Pager, PagerStep, Stage, Work, Worker, insert, mistaken, nth};
use crate::machine::{Happened, Listener, Machine, page_id};

impl Pager {
    /// The worker is to do this.
    pub(crate) fn take_in_hand(&mut self, effect: Effect) {
        let (deed, generation, first, count) = match effect {
            Effect::Install {
                generation,
                first,
                count,
            } => (Deed::Install, generation, first, count),
            Effect::Zero { generation, page } => (Deed::Zero, generation, page, 1),
            Effect::Mark { generation, page } => (Deed::Mark, generation, page, 1),
            Effect::Unmark { generation, page } => (Deed::Unmark, generation, page, 1),
            Effect::Fetch(_) | Effect::Settled { .. } => return,
        };
        if let Some(worker) = &mut self.worker {
            worker.work.push_back(Work {
                deed,
                generation,
                first: first.index(),
                count,
            });
        }
    }

    /// Somebody faults on the page, which is not there.
    pub(crate) fn raise(&mut self, page: PageIndex) {
        insert(&mut self.unread_faults, page);
    }

    /// A thread gives the page up. It goes on when that was read.
    pub(crate) fn give_up(&mut self, page: PageIndex) {
        insert(&mut self.unread_removals, page);
    }

    /// Faults that are read at once: nobody is in the gate, and there is no removal among them.
    fn read_faults(&mut self) -> Vec<PageIndex> {
        let free = |worker: &Worker| worker.reading.is_none() && !worker.is_in_gate();
        let reads = self.worker.as_ref().is_some_and(free) && self.unread_removals.is_empty();
        match reads {
            true => std::mem::take(&mut self.unread_faults),
            false => Vec::new(),
        }
    }

    /// Reads all events.
    fn read(&mut self) {
        let faults = std::mem::take(&mut self.unread_faults);
        let removals = std::mem::take(&mut self.unread_removals);
        for &page in &removals {
            insert(&mut self.zaps, page);
        }
        if !mistaken!(self, ReadUnrecorded) && !mistaken!(self, ClearedTooSoon) {
            self.journal.clone_from(&removals);
        }
        if let Some(worker) = &mut self.worker {
            worker.reading = Some(Batch {
                faults,
                removals,
                is_noted: false,
            });
        }
    }

    fn note(&mut self) {
        let Some(worker) = &mut self.worker else {
            return;
        };
        if let Some(batch) = &mut worker.reading {
            batch.is_noted = true;
            for &page in &batch.removals {
                let record = &mut self.records[nth(page)];
                *record = record.removed();
            }
        }
    }

    /// The batch, all of which is noted.
    fn tell(&mut self) -> Option<Batch> {
        self.journal.clear();
        self.worker.as_mut()?.reading.take()
    }

    /// What is being worked on: its pages that are not behind it.
    fn front(&self) -> Option<(Work, Stage)> {
        let worker = self.worker.as_ref()?;
        let work = *worker.work.front()?;
        let first = PageIndex::new(work.first.get() + worker.behind);
        let count = work.count - worker.behind;
        let rest = Work {
            first,
            count,
            ..work
        };
        Some((rest, worker.stage))
    }

    fn set_stage(&mut self, stage: Stage) {
        if let Some(worker) = &mut self.worker {
            worker.stage = stage;
        }
    }

    /// So many more pages of the front are behind it.
    fn pass(&mut self, pages: u32) {
        if let Some(worker) = &mut self.worker {
            worker.behind += pages;
            let all = worker.work.front().map_or(0, |work| work.count);
            worker.stage = match worker.behind < all {
                true => Stage::Decided,
                false => Stage::Done { was_there: false },
            };
        }
    }

    /// Takes the front off the list.
    fn finish(&mut self) -> Option<(Work, bool)> {
        let worker: &mut Worker = self.worker.as_mut()?;
        let was_there = worker.stage == Stage::Done { was_there: true };
        (worker.stage, worker.behind) = (Stage::Decided, 0);
        Some((worker.work.pop_front()?, was_there))
    }

    /// Puts `what` in place where nothing is. Says whether that makes the page a wrong one.
    fn put(&mut self, page: PageIndex, what: Held) -> bool {
        self.held[nth(page)] = what;
        let (given_up, soon) = (self.given_up.contains(nth(page)), self.zaps.contains(&page));
        match what {
            Held::Data => given_up,
            Held::Zeros => !given_up && !soon,
            Held::Nothing => false,
        }
    }
}

impl<P: Policy, L: Listener> Machine<P, L> {
    /// The pager, or a thread that gives pages up, takes a step.
    pub(in crate::machine) fn pager_step(&mut self, step: PagerStep) {
        match step {
            PagerStep::Read => {
                if let Some(pager) = &mut self.pager {
                    pager.read();
                }
            }
            PagerStep::Note => {
                if let Some(pager) = &mut self.pager {
                    pager.note();
                }
            }
            PagerStep::Tell => {
                let Some(batch) = self.pager.as_mut().and_then(|pager| pager.tell()) else {
                    return;
                };
                for page in batch.removals {
                    let removed = self.pages.handle_removed(page_id(page), 1);
                    debug_assert!(removed.is_ok(), "the page exists");
                    self.is_removed(page);
                }
                self.tell_faults(batch.faults);
            }
            PagerStep::Intend => self.intend(),
            PagerStep::Install => self.install(),
            PagerStep::Record => self.record(),
            PagerStep::Answer => self.answer(),
            PagerStep::Zap(page) => self.zap(page),
            PagerStep::Attach => self.attach(),
        }
    }

    /// Reads faults, if there is nothing else to read and nobody is in the gate. Says whether there
    /// were any.
    pub(in crate::machine) fn reads_faults(&mut self) -> bool {
        let Some(pager) = &mut self.pager else {
            return false;
        };
        let faults = pager.read_faults();
        let any = !faults.is_empty();
        self.tell_faults(faults);
        any
    }

    fn tell_faults(&mut self, faults: Vec<PageIndex>) {
        for page in faults {
            self.ask_for(page_id(page));
        }
    }

    /// For how many pages of the front the gate lets it through.
    fn wanted(&self, work: &Work) -> u32 {
        if self
            .pager
            .as_ref()
            .is_some_and(|pager| mistaken!(pager, AskedOutsideGate))
        {
            return work.count;
        }
        let first = page_id(work.first);
        self.pages.may_apply(work.generation, first, work.count)
    }

    fn intend(&mut self) {
        let Some((work, _)) = self.pager.as_ref().and_then(|pager| pager.front()) else {
            return;
        };
        let wanted = self.wanted(&work);
        let Some(pager) = &mut self.pager else { return };
        match (wanted, work.deed) {
            // The next page may be wanted where this one is not.
            (0, _) if work.count > 1 => pager.pass(1),
            (0, _) => self.answer(),
            (wanted, Deed::Mark) => {
                pager.write(work.first, wanted, PageRecord::failed);
                pager.set_stage(Stage::Intended(wanted));
            }
            (wanted, _) => {
                pager.write(work.first, wanted, PageRecord::intended);
                if mistaken!(pager, PresentTooSoon) {
                    pager.write(work.first, wanted, PageRecord::settled);
                }
                pager.set_stage(Stage::Intended(wanted));
            }
        }
    }

    fn install(&mut self) {
        let Some((work, stage)) = self.pager.as_ref().and_then(|pager| pager.front()) else {
            return;
        };
        match (work.deed, stage) {
            (Deed::Zero, _) if self.wanted(&work) == 0 => self.answer(),
            (Deed::Zero, _) => {
                self.put_in_place(work.first, Held::Zeros);
                if let Some(pager) = &mut self.pager {
                    pager.set_stage(Stage::Done { was_there: false });
                }
            }
            (deed, Stage::Intended(intended)) => {
                let Some(pager) = &mut self.pager else { return };
                if !pager.unread_removals.is_empty() {
                    // The kernel says to try again until that is read.
                    pager.write(work.first, intended, PageRecord::given_up);
                    return pager.set_stage(Stage::Decided);
                }
                if deed == Deed::Mark {
                    let was_there = pager.is_there(work.first);
                    if was_there {
                        pager.write(work.first, 1, PageRecord::settled);
                    }
                    return pager.set_stage(Stage::Done { was_there });
                }
                let pages = work.first.get()..work.first.get() + intended;
                let mut there = 0;
                for page in pages.map(PageIndex::new) {
                    // A range ends before the first page that is there; one that begins with it wakes
                    // who waits for that one.
                    let is_there = self
                        .pager
                        .as_ref()
                        .is_some_and(|pager| pager.is_there(page));
                    if is_there && there > 0 {
                        break;
                    }
                    self.put_in_place(page, Held::Data);
                    there += 1;
                    if is_there {
                        break;
                    }
                }
                if let Some(pager) = &mut self.pager {
                    pager.set_stage(Stage::Installed { intended, there });
                }
            }
            (_, Stage::Decided | Stage::Installed { .. } | Stage::Done { .. }) => {}
        }
    }

    /// Puts `what` in place unless something is there, and wakes who waits for the page.
    fn put_in_place(&mut self, page: PageIndex, what: Held) {
        let Some(pager) = &mut self.pager else { return };
        let is_wrong = !pager.is_there(page) && pager.put(page, what);
        if is_wrong {
            self.happened(Happened::WrongPage {
                page,
                stale: what == Held::Data,
            });
        }
        self.wake_who_waits(page);
    }

    fn record(&mut self) {
        let Some(pager) = &mut self.pager else { return };
        if let Some((work, Stage::Installed { intended, there })) = pager.front() {
            pager.write(work.first, there, PageRecord::settled);
            let rest = PageIndex::new(work.first.get() + there);
            pager.write(rest, intended - there, PageRecord::given_up);
            pager.pass(there);
            let is_over = matches!(pager.front(), Some((_, Stage::Done { .. })));
            if is_over && pager.unread_removals.is_empty() {
                self.answer();
            }
        }
    }

    /// Tells the machine of pages that the front is done, or is not wanted any more.
    fn answer(&mut self) {
        let Some(pager) = &mut self.pager else { return };
        let wakes_again = !mistaken!(pager, ZeroWokenOnce);
        let Some((work, was_there)) = pager.finish() else {
            return;
        };
        let (generation, first) = (work.generation, page_id(work.first));
        match work.deed {
            Deed::Install => {
                let how = InstallResult::Done;
                self.pages
                    .handle_installed(generation, first, work.count, how);
            }
            Deed::Zero => {
                self.pages.handle_zeroed(generation, first, Ok(()));
                // A removal that was read may have taken the zeros away since, and a fault that was
                // read since has joined what was answered just now.
                if wakes_again {
                    self.wake_who_waits(work.first);
                }
            }
            Deed::Mark => {
                let marked = match was_there {
                    true => Marked::AlreadyPresent,
                    false => Marked::Marked,
                };
                self.pages.handle_marked(generation, first, marked);
            }
            Deed::Unmark => {
                self.pages.handle_unmarked(generation, first);
                self.wake_who_waits(work.first);
            }
        }
    }

    /// A thread whose removal was read takes its page away.
    fn zap(&mut self, page: PageIndex) {
        let Some(pager) = &mut self.pager else { return };
        pager.zaps.retain(|&other| other != page);
        pager.held[nth(page)] = Held::Nothing;
        pager.given_up.insert(nth(page));
        self.mapped.remove(page);
    }

    /// Whoever waits for the page looks at it again: it is there, or the fault is raised again.
    pub(super) fn wake_who_waits(&mut self, page: PageIndex) {
        if !self.is_waited_for(page) {
            return;
        }
        match &mut self.pager {
            Some(pager) if !pager.is_there(page) => pager.raise(page),
            Some(_) | None => self.end_waits(page_id(page), PageOutcome::Present),
        }
    }
}
