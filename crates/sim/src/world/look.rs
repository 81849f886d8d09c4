//! What a checker asks of a world beyond its steps: what is promised to whom, at this point.

use surefault_core::policy::{AddressKey, Attempt, Policy};
use surefault_core::residency::PageState;
use surefault_core::run::TaskId;
use surefault_core::{Gfn, PageIndex, Token, VcpuId};

use super::{Step, World};
use crate::machine::{TaskState, address_of, page_id};

/// A task, seen from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskLook {
    /// Who.
    pub id: TaskId,
    /// Where it runs, or would.
    pub vcpu: VcpuId,
    /// The page that it wants; `None` when it is over.
    pub wants: Option<PageIndex>,
    /// It has asked for it.
    pub has_asked: bool,
    /// How often the access has been taken again since its page failed, up to 2.
    pub again: u8,
    /// The token that it sleeps for.
    pub sleeps_for: Option<Token>,
}

impl<P: Policy> World<P> {
    /// All tasks.
    pub fn tasks(&self) -> impl Iterator<Item = TaskLook> + '_ {
        self.machine.guest.tasks.iter().map(|task| TaskLook {
            id: task.id,
            vcpu: crate::machine::vcpu_id(task.cpu),
            wants: task.wants().filter(|_| !task.is_over()),
            has_asked: task.tried,
            again: task.again.min(2),
            sleeps_for: match task.state {
                TaskState::Waiting(token) => Some(token),
                TaskState::Runnable | TaskState::Finished | TaskState::Killed => None,
            },
        })
    }

    /// The page whose report has stopped the vCPU.
    pub fn stopped_for(&self, vcpu: VcpuId) -> Option<PageIndex> {
        let thread = self.machine.threads.get(vcpu.get() as usize)?;
        thread.stopped_for
    }

    /// The token that the guest has been given and not looked at yet.
    pub fn ready(&self, vcpu: VcpuId) -> Option<Token> {
        let cpu = self.machine.guest.cpus.get(vcpu.get() as usize)?;
        cpu.ready.map(|(token, _)| token)
    }

    /// Whether somebody still wants what this step brings: `false` for a fetch that was overtaken.
    pub fn is_awaited(&self, step: &Step) -> bool {
        let Step::Fetched { page, nth, .. } = *step else {
            return true;
        };
        let mut fetches = self.machine.listener.fetches.iter();
        let fetch = fetches
            .by_ref()
            .filter(|fetch| fetch.first == page)
            .nth(usize::from(nth));
        fetch.is_some_and(|fetch| {
            !fetch.overtaken && self.machine.pages.is_awaited(fetch.generation)
        })
    }

    /// Whether the policy would keep a fault of this vCPU on this page from the asynchronous way.
    pub fn would_refuse(&self, vcpu: VcpuId, page: PageIndex) -> bool {
        let machine = &self.machine;
        let gfn = Gfn::new(machine.setup.first_gfn.get() + u64::from(page.get()));
        let key = match machine.setup.paging() {
            surefault_core::faults::Paging::TwoDimensional => gfn.get(),
            surefault_core::faults::Paging::Shadow => address_of(page).get() >> 12,
        };
        let attempt = Attempt {
            vcpu,
            gfn,
            key: AddressKey::new(key),
            page: page_id(page),
            state: self.page_state(page),
        };
        // Asking may change it.
        !machine.faults.policy().clone().may_go_async(&attempt)
    }

    /// What is known of a page.
    pub fn page_state(&self, page: PageIndex) -> PageState {
        self.machine.state(page_id(page))
    }
}
