//! Memory of another process: what can be done to its failed pages from here.
//!
//! Neither protection nor `madvise` reaches there, so a page is marked by poison, or by the end of
//! the process, or not at all; and poison is undone by nothing but contents
//! ([`Userfaultfd::copy`](surefault_uffd::Userfaultfd::copy)): a healed page is fetched at once,
//! because its next access would raise no event.

use std::sync::OnceLock;

use surefault_core::residency::{Generation, Marked};
use surefault_core::{Hva, PageId};
use surefault_uffd::{Address, Features, Outcome, PageRange, Wake, host_page_size};

use crate::install::Progress;
use crate::mark::Marking;
use crate::shared::{Hands, Shared};
use crate::{FailedPage, Point};

/// What becomes of a failed page in another process's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rule {
    /// It is poisoned: SIGBUS with the address.
    Poison,
    /// Its process is killed.
    Kill,
    /// Who waits for it goes on waiting.
    Wait,
}

impl Rule {
    /// The rule for `failed_page`; `None` when there is none of that kind here.
    pub(crate) fn new(failed_page: FailedPage) -> Option<Rule> {
        match failed_page {
            FailedPage::Auto if kernel_poisons() => Some(Rule::Poison),
            FailedPage::Auto => Some(Rule::Kill),
            FailedPage::Poison => kernel_poisons().then_some(Rule::Poison),
            FailedPage::Kill => Some(Rule::Kill),
            FailedPage::Wait => Some(Rule::Wait),
            FailedPage::Protect => None,
        }
    }
}

/// Whether this kernel can poison pages. Asked once, of a userfaultfd of our own: one that somebody
/// else has made does not say, and needs no feature for it.
pub fn kernel_poisons() -> bool {
    static POISONS: OnceLock<bool> = OnceLock::new();
    *POISONS.get_or_init(|| {
        Features::supported().is_ok_and(|features| features.contains(Features::POISON))
    })
}

impl Shared {
    pub(crate) fn mark_foreign(
        &self,
        hands: &mut Hands,
        generation: Generation,
        page: PageId,
        rule: Rule,
    ) -> Marked {
        match rule {
            Rule::Wait => Marked::Marked,
            Rule::Kill => {
                self.attempt(hands, generation, page, 1, |_| {
                    self.kill();
                    Ok(Outcome::Done)
                });
                Marked::Marked
            }
            Rule::Poison => self.poison_foreign(hands, generation, page),
        }
    }

    fn poison_foreign(&self, hands: &mut Hands, generation: Generation, page: PageId) -> Marked {
        // Noted first, so that nobody ever takes a poisoned page for a sound one.
        let is_poisoned = !self.machine().poisoned.insert(page);
        let range = self.regions.range(page, 1);
        let poison = |_| {
            if let Some(recorder) = &self.recorder {
                recorder.fail(page);
                self.attendant.reached(Point::Failing);
            }
            let outcome = self.uffd.poison(range, Wake::Now);
            if let (Some(recorder), Ok(Outcome::AlreadyThere), false) =
                (&self.recorder, &outcome, is_poisoned)
            {
                recorder.was_there(page);
            }
            outcome
        };
        match self.attempt(hands, generation, page, 1, poison) {
            Some(Progress::Pages(_)) | None => Marked::Marked,
            // It was healed and has failed again: the poison is still there.
            Some(Progress::AlreadyThere) if is_poisoned => Marked::Marked,
            Some(Progress::AlreadyThere) => {
                self.machine().poisoned.remove(&page);
                Marked::AlreadyPresent
            }
            Some(Progress::Refused(_)) => {
                self.stats.strange_events.add(1);
                self.machine().poisoned.remove(&page);
                self.kill();
                Marked::Marked
            }
        }
    }

    pub(crate) fn unmark_foreign(&self, hands: &mut Hands, generation: Generation, page: PageId) {
        self.stats.healed.add(1);
        let is_poisoned = self.tell(hands, |machine| {
            machine.residency.handle_unmarked(generation, page);
            let is_poisoned = machine.poisoned.contains(&page);
            if is_poisoned {
                machine.demand(page);
            }
            is_poisoned
        });
        if !is_poisoned {
            // Who waits for it asks again.
            self.wake(self.regions.range(page, 1));
        }
    }

    /// Refuses who waits for a page when the service ends. Inside the gate only.
    pub(crate) fn refuse_foreign(&self, range: PageRange, rule: Rule) {
        match rule {
            // The owner has seen to the end of the process.
            Rule::Kill | Rule::Wait => {}
            Rule::Poison => {
                if self.uffd.poison(range, Wake::Now).is_err() {
                    self.stats.strange_events.add(1);
                }
            }
        }
    }

    /// Refuses a fault outside of all regions, which nobody else will end. Inside the gate only.
    pub(crate) fn refuse_stray(&self, address: Address) {
        self.stats.strange_events.add(1);
        let Marking::Foreign(rule) = self.marking else {
            return;
        };
        self.attendant.stray_fault(Hva::new(address.get()));
        let size = host_page_size();
        let start = Address::new(address.get() - address.get() % size);
        let range = PageRange::new(start, size, size);
        match rule {
            Rule::Wait => {}
            Rule::Kill => self.kill(),
            Rule::Poison => match range.map(|range| self.uffd.poison(range, Wake::Now)) {
                Ok(Ok(Outcome::Done | Outcome::Gone | Outcome::NoRegion)) => {}
                // A page of another size, or one that is there by now.
                _ => self.kill(),
            },
        }
    }

    fn kill(&self) {
        if self.attendant.kill().is_err() {
            self.stats.strange_events.add(1);
        }
    }
}
