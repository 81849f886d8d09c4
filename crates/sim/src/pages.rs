//! The machine of pages, driven: fetches from the source, installs that always work.

use surefault_core::policy::Policy;
use surefault_core::residency::{Admission, Effect, InstallResult, Marked, PageOutcome, PageState};
use surefault_core::{PageCount, PageId, PageIndex};

use crate::guest::Task;
use crate::sim::{Event, Place, Sim, page_id, vcpu_id};

impl<P: Policy> Sim<P> {
    pub(crate) fn pages_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Fetch(range) => {
                if let Some((after, result)) = self.source.fetch(&range) {
                    let back = Event::Fetched(range.generation, result);
                    self.agenda.after(after, back);
                }
            }
            Effect::Install {
                generation,
                first,
                count,
            } => {
                let count = self.pages.may_apply(generation, first, count);
                let how = InstallResult::Done;
                self.pages.handle_installed(generation, first, count, how);
            }
            Effect::Zero { generation, page } => {
                self.pages.handle_zeroed(generation, page, Ok(()));
            }
            Effect::Mark { generation, page } => {
                self.pages.handle_marked(generation, page, Marked::Marked);
            }
            Effect::Unmark { generation, page } => self.pages.handle_unmarked(generation, page),
            Effect::Settled { page, outcome } => self.settled(page, outcome),
        }
    }

    /// Somebody wants the page. Ends with `Settled`, possibly at once.
    pub(crate) fn demand(&mut self, page: PageId) {
        match self.pages.handle_demand(page) {
            Ok(Admission::Taken) => {}
            Ok(Admission::Full) => self.backlog.push_back(page),
            Err(unknown) => unreachable!("a workload stays within its region: {unknown}"),
        }
    }

    /// What is known of the page.
    pub(crate) fn state(&self, page: PageId) -> PageState {
        self.pages.state(page).unwrap_or(PageState::Absent)
    }

    /// Tells everybody who waits for the page.
    fn settled(&mut self, page: PageId, outcome: PageOutcome) {
        match outcome {
            PageOutcome::Failed(_) => {
                let now = self.agenda.now();
                self.failed.entry(page.index()).or_insert(now);
                let meets = |task: &&mut Task| task.tried && task.wants() == Some(page.index());
                for task in self.guest.tasks.iter_mut().filter(meets) {
                    task.met_failure = true;
                }
            }
            PageOutcome::Present => drop(self.failed.remove(&page.index())),
            PageOutcome::Cancelled => {}
        }
        for (vcpu, item) in self.workers.remove(&page).unwrap_or_default() {
            self.faults.handle_work_done(vcpu, item, outcome);
        }
        for v in 0..self.threads.len() {
            if self.threads[v].place == Place::Asleep(page) {
                self.threads[v].place = Place::Host;
                if outcome == PageOutcome::Present {
                    self.map(self.guest.root(v), page);
                }
                let outcome = self.as_linux_says(outcome);
                self.faults.handle_settled(vcpu_id(v), page, outcome);
            }
        }
        if let Some(page) = self.backlog.pop_front() {
            self.demand(page);
        }
    }

    /// Without a record a failure is forgotten as soon as the next attempt comes.
    pub(crate) fn forget_failure(&mut self, page: PageId) {
        let healed = self.pages.handle_heal(page, 1);
        debug_assert!(healed.is_ok(), "the page exists");
        while let Some(effect) = self.pages.poll_effect() {
            self.pages_effect(effect);
        }
    }

    /// The source provides the page again, and says so. Whoever is stopped for it goes on.
    pub(crate) fn repair(&mut self, page: PageIndex) {
        self.source.repair(page);
        let id = page_id(page);
        // Whoever reported it knows the page, so the machine does.
        let healed = self.pages.handle_heal(id, 1);
        debug_assert!(healed.is_ok(), "the page exists");
        self.faults.handle_healed(id);
        for v in 0..self.threads.len() {
            if self.threads[v].stopped_for == Some(page) {
                self.threads[v].stopped_for = None;
                self.faults.handle_resume(vcpu_id(v));
            }
        }
    }

    /// The guest gives the page away. It reads as zeros from now on.
    pub(crate) fn remove(&mut self, page: PageIndex) {
        let id = page_id(page);
        self.mapped.retain(|&(_, mapped)| mapped != page);
        let removed = self.pages.handle_removed(id, 1);
        debug_assert!(removed.is_ok(), "the page exists");
        self.faults.handle_removed(id, PageCount::new(1));
        self.failed.remove(&page);
    }
}
