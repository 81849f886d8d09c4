//! A worker is killed, and another goes on.

use surefault_core::PageIndex;
use surefault_core::policy::Policy;
use surefault_core::residency::{PageRecord, RecordedPage, Residency};

use super::{Pager, Worker, mistaken, nth};
use crate::machine::{Happened, Listener, Machine, Output, page_id};

impl Pager {
    /// Notes what was read and not noted.
    fn replay(&mut self) {
        for page in &self.journal {
            let record = &mut self.records[nth(*page)];
            *record = record.removed();
        }
    }

    /// What is recorded, as the next machine of pages takes it.
    fn recorded(&self) -> impl Iterator<Item = RecordedPage> + '_ {
        self.records.iter().map(move |&record| match record {
            PageRecord::Intent if mistaken!(self, IntentTrusted) => RecordedPage::Present,
            PageRecord::Removed if mistaken!(self, RemovalForgotten) => RecordedPage::Absent,
            record => record.recorded(),
        })
    }

    fn in_doubt(&self) -> Vec<PageIndex> {
        let pages = (0..).map(PageIndex::new).zip(&self.records);
        let in_doubt = pages.filter(|(_, record)| record.is_in_doubt());
        in_doubt.map(|(page, _)| page).collect()
    }
}

impl<P: Policy, L: Listener> Machine<P, L> {
    /// The worker is killed. What was under way is gone with it.
    pub(in crate::machine) fn kill_worker(&mut self) {
        let Some(pager) = &mut self.pager else { return };
        pager.worker = None;
        self.backlog.clear();
        // Nobody asks it anything before the next one is there.
        self.pages = Residency::new(self.setup.residency.clone(), &[self.setup.workload.pages()])
            .expect("it was made from that before");
        self.say(Output::Died);
        self.happened(Happened::Died);
    }

    /// Another one begins, in the order of `Pager::attach_recorded`.
    pub(super) fn attach(&mut self) {
        let Some(pager) = &mut self.pager else { return };
        let late = mistaken!(pager, ReplayedTooLate);
        let replays = !mistaken!(pager, NotReplayed);
        let wakes = !mistaken!(pager, NotWoken);
        if replays && !late {
            pager.replay();
        }
        let pages = [self.setup.workload.pages()];
        let limits = self.setup.residency.clone();
        self.pages = Residency::restored(limits, &pages, pager.recorded())
            .expect("all pages are recorded, and the limits were good before");
        if late {
            pager.replay();
        }
        let removed = std::mem::take(&mut pager.journal);
        let in_doubt = pager.in_doubt();
        pager.worker = Some(Worker::default());
        for page in in_doubt {
            let taken = self.pages.handle_prefetch(page_id(page), 1);
            debug_assert!(taken.is_ok(), "the page exists");
        }
        self.happened(Happened::Attached);
        for page in removed {
            self.is_removed(page);
        }
        if wakes {
            let pages = 0..self.setup.workload.pages().get() as u32;
            for page in pages.map(PageIndex::new) {
                self.wake_who_waits(page);
            }
        }
    }
}
