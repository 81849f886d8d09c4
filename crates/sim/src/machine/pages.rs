//! The machine of pages, driven: fetches from the source, installs that always work.

use surefault_core::policy::Policy;
use surefault_core::residency::{Admission, Effect, InstallResult, Marked, PageOutcome, PageState};
use surefault_core::{PageCount, PageId, PageIndex};

use super::threads::index;
use super::{Happened, Listener, Machine, Output, Place, Task, page_id, vcpu_id};

impl<P: Policy, L: Listener> Machine<P, L> {
    pub(super) fn pages_effect(&mut self, effect: Effect) {
        if let Some(pager) = &mut self.pager
            && !matches!(effect, Effect::Fetch(_) | Effect::Settled { .. })
        {
            return pager.take_in_hand(effect);
        }
        match effect {
            Effect::Fetch(range) => self.say(Output::Fetch(range)),
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

    /// Somebody wants the page, and waits for it. Ends when the page is there or fails, possibly at
    /// once.
    pub(super) fn demand(&mut self, page: PageId) {
        if self.pager.is_none() {
            return self.ask_for(page);
        }
        match self.state(page) {
            // Whoever meets a marker asks outright.
            PageState::Failed(_) => self.ask_for(page),
            PageState::Present => self.end_waits(page, PageOutcome::Present),
            PageState::Absent | PageState::Pending | PageState::Removed => {
                if let Some(pager) = &mut self.pager {
                    pager.raise(page.index());
                }
            }
        }
    }

    /// The machine of pages is told that somebody waits for the page.
    pub(super) fn ask_for(&mut self, page: PageId) {
        match self.pages.handle_demand(page) {
            Ok(Admission::Taken) => {}
            Ok(Admission::Full) => self.backlog.push_back(page),
            Err(unknown) => unreachable!("a workload stays within its region: {unknown}"),
        }
    }

    /// What is known of the page.
    pub(crate) fn state(&self, page: PageId) -> PageState {
        let known = self.pages.state(page).unwrap_or(PageState::Absent);
        match &self.pager {
            None => known,
            // The kernel knows better what is there.
            Some(pager) if pager.is_there(page.index()) => PageState::Present,
            Some(_) => match known {
                PageState::Present => PageState::Absent,
                PageState::Failed(_) if self.pages.tries_again(page) => PageState::Absent,
                PageState::Absent | PageState::Pending => known,
                PageState::Failed(_) | PageState::Removed => known,
            },
        }
    }

    /// The same for somebody who wants it: a failure whose time is over is not taken for one.
    pub(super) fn state_now(&mut self, page: PageId) -> PageState {
        let expires = self.setup.residency.failure_ttl.is_some();
        if expires && matches!(self.state(page), PageState::Failed(_)) {
            self.demand(page);
        }
        self.state(page)
    }

    /// A demand has ended, and everybody who waits for the page hears of it.
    fn settled(&mut self, page: PageId, outcome: PageOutcome) {
        if let PageOutcome::Failed(_) = outcome {
            let meets = |task: &mut Task| task.met_failure |= task.tried;
            self.guest.for_all_that_want(page.index(), meets);
        }
        self.happened(Happened::Settled {
            page: page.index(),
            outcome,
        });
        // Who waits for what a pager puts in place is awake since then.
        if self.pager.is_none() || outcome != PageOutcome::Present {
            self.end_waits(page, outcome);
        }
        if let Some(page) = self.backlog.pop_front() {
            self.ask_for(page);
        }
    }

    /// Whether somebody waits for the page.
    pub(super) fn is_waited_for(&self, page: PageIndex) -> bool {
        let id = page_id(page);
        self.workers.iter().any(|&(other, _, _)| other == id)
            || self
                .threads
                .iter()
                .any(|thread| thread.place == Place::Asleep(id))
    }

    /// Tells everybody who waits for the page.
    pub(super) fn end_waits(&mut self, page: PageId, outcome: PageOutcome) {
        let at = self.workers.partition_point(|&(of, _, _)| of < page);
        while let Some(&(of, vcpu, item)) = self.workers.get(at)
            && of == page
        {
            self.workers.remove(at);
            let thread = &mut self.threads[index(vcpu)];
            thread.halt_answered |=
                thread.place == Place::Halted && thread.halted_for == Some(page.index());
            self.faults.handle_work_done(vcpu, item, outcome);
        }
        for v in 0..self.threads.len() {
            if self.threads[v].place == Place::Asleep(page) {
                self.threads[v].place = Place::Host;
                if outcome == PageOutcome::Present {
                    self.mapped.insert(self.guest.root(v), page.index());
                }
                let outcome = self.as_linux_says(outcome);
                self.faults.handle_settled(vcpu_id(v), page, outcome);
            }
        }
    }

    /// Without a record a failure is forgotten as soon as the next attempt comes.
    pub(super) fn forget_failure(&mut self, page: PageId) {
        let healed = self.pages.handle_heal(page, 1);
        debug_assert!(healed.is_ok(), "the page exists");
        while let Some(effect) = self.pages.poll_effect() {
            self.pages_effect(effect);
        }
    }

    /// Whether a repair would be news: the page fails, or has failed since.
    pub(crate) fn can_repair(&self, page: PageIndex) -> bool {
        let failed = matches!(self.state(page_id(page)), PageState::Failed(_));
        self.setup.is_failing(page) && (failed || !self.is_repaired(page))
    }

    /// Whether the source still lacks the page.
    pub(crate) fn can_mend(&self, page: PageIndex) -> bool {
        self.setup.is_failing(page) && !self.is_repaired(page)
    }

    /// Whether there is anything to remove.
    pub(crate) fn can_remove(&self, page: PageIndex) -> bool {
        match &self.pager {
            None => self.state(page_id(page)) != PageState::Removed,
            Some(pager) => pager.can_remove(page),
        }
    }

    /// The source provides the page again, and says so. Whoever is stopped for it goes on.
    pub(super) fn repair(&mut self, page: PageIndex) {
        self.repaired.insert(page.get() as usize);
        let id = page_id(page);
        // Whoever reported it knows the page, so the machine does.
        let healed = self.pages.handle_heal(id, 1);
        debug_assert!(healed.is_ok(), "the page exists");
        self.faults.handle_healed(id);
        self.resume_stopped(page);
    }

    /// The page can be had now: whoever is stopped for it goes on.
    fn resume_stopped(&mut self, page: PageIndex) {
        self.guest.for_all_that_want(page, |task| task.again = 0);
        for v in 0..self.threads.len() {
            if self.threads[v].stopped_for == Some(page) {
                self.threads[v].stopped_for = None;
                self.faults.handle_resume(vcpu_id(v));
            }
        }
    }

    /// The memory behind the page is taken away: whoever wants it again asks the source.
    pub(super) fn evict(&mut self, page: PageIndex) {
        self.repaired.remove(page.get() as usize);
        self.mapped.remove(page);
        let cancelled = self.pages.handle_cancelled(page_id(page), 1);
        debug_assert!(cancelled.is_ok(), "the page exists");
    }

    /// The guest gives the page away. It reads as zeros from now on; with a pager, from when the
    /// event was read and the thread has gone on.
    pub(super) fn remove(&mut self, page: PageIndex) {
        if let Some(pager) = &mut self.pager {
            return pager.give_up(page);
        }
        let id = page_id(page);
        self.mapped.remove(page);
        let removed = self.pages.handle_removed(id, 1);
        debug_assert!(removed.is_ok(), "the page exists");
        self.is_removed(page);
    }

    /// It is known that the page reads as zeros.
    pub(super) fn is_removed(&mut self, page: PageIndex) {
        self.faults.handle_removed(page_id(page), PageCount::new(1));
        self.resume_stopped(page);
    }
}
