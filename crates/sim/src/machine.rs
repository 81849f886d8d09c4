//! The simulated machine: both pure machines, a guest and its vCPU threads, without time and
//! without a choice of its own.
//!
//! ```text
//!   Input ──► Machine ──► Output: what is due next (a move, a fetch, a timer, an ack),
//!               │                 and what came about; a Listener hears it as it follows
//!               └──────► Pick: which task runs is somebody else's choice, too
//! ```
//!
//! Two drivers decide what happens when:
//!
//! | driver | chooses the next step by |
//! |---|---|
//! | [`Sim`](crate::Sim) | simulated time, a fault plan and a seed |
//! | [`World`](crate::world::World) | whoever asks it: a model checker, a trace |
//!
//! # The rules
//! * A step is carried out to its end: all effects of both machines, until neither has any.
//! * While a [`Pick`] is open, [`Input::Switch`] is the only step. Where no task can run no question is
//!   asked: the vCPU counts.
//! * A thread has at most one move before it ([`Output::Go`] replaces any other). A vCPU that is asleep,
//!   stopped, halted, or only counts has none.
//! * What is not possible now is taken for a step that changes nothing: inputs are checked by `World`,
//!   not here.

pub(crate) mod bits;
mod effects;
mod guest;
mod happened;
mod interrupts;
mod mapped;
pub(crate) mod pager;
mod pages;
mod setup;
mod tasks;
mod threads;

use std::collections::VecDeque;
use std::sync::Arc;

use surefault_core::faults::{Faults, ItemId};
use surefault_core::policy::Policy;
use surefault_core::residency::Residency;
use surefault_core::run::ApfMode;
use surefault_core::{Gva, PageId, PageIndex, RegionId, VcpuId};

pub use guest::rip_of;
pub(crate) use guest::{Guest, Running, Task, TaskState};
pub use happened::{Ended, Happened, Input, Move, Output, Pick, Why};
pub(crate) use mapped::Mapped;
#[cfg(any(test, feature = "defects"))]
pub use pager::Mistake;
pub(crate) use pager::{Pager, PagerView};
pub use pager::{PagerParty, PagerStep};
pub use setup::Setup;
pub(crate) use threads::{Place, Thread};

use bits::Bits;

use crate::spec::SimError;

/// A vCPU, counted from 0.
pub type Vcpu = usize;

/// Hears what follows from the steps of a machine, as it follows.
pub trait Listener {
    /// This follows. `around` is the machine at that moment, within a step.
    fn hear(&mut self, output: Output, around: Around<'_>);
}

/// What a [`Listener`] may look at.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    pub(crate) setup: &'a Setup,
    pub(crate) pages: &'a Residency,
    pub(crate) guest: &'a Guest,
    repaired: &'a Bits,
}

impl Around<'_> {
    /// [`Machine::is_repaired`].
    pub(crate) fn is_repaired(&self, page: PageIndex) -> bool {
        self.repaired.contains(page.get() as usize)
    }
}

/// The machine under the error policy `P`. See the [module](self) for the rules.
#[derive(Debug)]
pub struct Machine<P, L> {
    pub(crate) setup: Arc<Setup>,
    pub(crate) faults: Faults<P>,
    pub(crate) pages: Residency,
    pub(crate) guest: Guest,
    pub(crate) threads: Vec<Thread>,
    /// What is mapped for the guest.
    pub(crate) mapped: Mapped,
    /// The pager that serves another process's memory; without one, what `pages` wants done is done
    /// at once.
    pub(crate) pager: Option<Box<Pager>>,
    /// Items whose work waits for their page, by page; those of one page in the order in which they
    /// came.
    pub(crate) workers: Vec<(PageId, VcpuId, ItemId)>,
    /// Demands that found no room.
    pub(crate) backlog: VecDeque<PageId>,
    /// Pages that were repaired.
    pub(crate) repaired: Bits,
    /// Schedulers that were not answered yet.
    picks: VecDeque<Pick>,
    /// vCPUs that go on when they were.
    runs: VecDeque<Vcpu>,
    /// A report has ended the run.
    stopped: bool,
    pub(crate) listener: L,
}

surefault_core::clone_in_place! { Machine<P, L> {
    faults, pages, guest, threads, mapped, pager, workers, repaired, stopped, listener;
    queues backlog, picks, runs; shared setup
} }

impl<P: Policy, L: Listener> Machine<P, L> {
    /// A machine that is about to start.
    ///
    /// # Errors
    /// When `setup` makes no sense.
    pub fn new(setup: Arc<Setup>, policy: P, listener: L) -> Result<Machine<P, L>, SimError> {
        setup.check()?;
        let pages = setup.workload.pages();
        let mut machine = Machine {
            faults: Faults::with(setup.faults, policy)?,
            pages: Residency::new(setup.residency.clone(), &[pages])?,
            guest: Guest::new(&setup),
            threads: vec![Thread::new(); usize::from(setup.faults.vcpus)],
            mapped: Mapped::new(setup.paging(), pages),
            pager: (setup.records).then(|| Box::new(Pager::new(pages.get() as usize))),
            workers: Vec::new(),
            backlog: VecDeque::new(),
            repaired: Bits::new(pages.get() as usize),
            picks: VecDeque::new(),
            runs: VecDeque::new(),
            stopped: false,
            listener,
            setup,
        };
        for v in 0..machine.threads.len() {
            if machine.setup.guest_apf && machine.setup.apf != ApfMode::Off {
                let settings = machine.setup.settings(true);
                machine.faults.handle_guest_apf(vcpu_id(v), settings);
            }
            machine.say(Output::Idle(v, true));
            machine.want_pick(v, Why::Free);
            machine.go(v, Move::Enter);
        }
        machine.settle();
        Ok(machine)
    }

    /// The machine of vCPUs, to look at.
    pub fn faults(&self) -> &Faults<P> {
        &self.faults
    }

    /// The machine of pages, to look at.
    pub fn pages(&self) -> &Residency {
        &self.pages
    }

    /// What it is made of.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The scheduler that must answer before anything else happens.
    pub fn pick(&self) -> Option<Pick> {
        self.picks.front().copied()
    }

    /// All of them, in the order in which they answer.
    pub(crate) fn picks(&self) -> impl Iterator<Item = Pick> + '_ {
        self.picks.iter().copied()
    }

    /// Every task has finished or is dead.
    pub fn is_done(&self) -> bool {
        self.guest.is_done()
    }

    /// A report has ended the run.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Whether the vCPU runs its guest.
    pub fn is_in_guest(&self, v: Vcpu) -> bool {
        self.threads[v].place == Place::Guest
    }

    /// Whether the source has the page again, whether it has said so or not.
    pub fn is_repaired(&self, page: PageIndex) -> bool {
        self.repaired.contains(page.get() as usize)
    }

    /// Whether the worker that serves the pages lives; without a pager there is none that could die.
    pub(crate) fn is_served(&self) -> bool {
        self.pager.as_ref().is_some_and(|pager| pager.is_alive())
    }

    /// Whether the pager, or a thread that gives pages up, has anything to do.
    pub(crate) fn is_pager_busy(&self) -> bool {
        self.pager.as_ref().is_some_and(|pager| pager.is_busy())
    }

    /// What they can do.
    pub(crate) fn pager_steps(&self) -> Vec<PagerStep> {
        let mut steps = Vec::new();
        if let Some(pager) = &self.pager {
            pager.steps(&mut steps);
        }
        steps
    }

    /// Takes a step.
    #[inline]
    pub fn apply(&mut self, input: Input) {
        match input {
            // Neither machine hears of it: nothing is left to settle.
            Input::Switch(v, task) => self.switch(v, task),
            input => self.take(input),
        }
        if self.picks.is_empty() {
            while let Some(v) = self.runs.pop_front() {
                self.run_guest(v);
            }
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Enter(v) => self.entry(v),
            Input::Touch(v) => self.touch(v),
            Input::IrqsOn(v) => self.irqs_on(v),
            Input::Switch(v, task) => self.switch(v, task),
            Input::Tick(v) => self.tick(v),
            Input::Ack(v) => self.ack(v),
            Input::Fetched(generation, result) => self.pages.handle_fetched(generation, result),
            Input::PageTimer(timer) => self.pages.handle_timer(timer),
            Input::FaultsTimer(timer) => drop(self.faults.handle_timer(timer)),
            Input::Apf(v, on) => self.change_apf(v, on),
            Input::Repair(page) => self.repair(page),
            Input::Mend(page) => self.repaired.insert(page.get() as usize),
            Input::Relapse(page) => self.repaired.remove(page.get() as usize),
            Input::Remove(page) => self.remove(page),
            Input::Kill(task) => self.kill(task),
            Input::Migrate(task, v) => self.migrate(task, v),
            Input::Pager(step) => self.pager_step(step),
            Input::Die => self.kill_worker(),
        }
        self.settle();
    }

    /// Carries out effects of both machines until neither has any, and passes their timers on.
    #[inline]
    fn settle(&mut self) {
        loop {
            if let Some(effect) = self.faults.poll_effect() {
                self.faults_effect(effect);
            } else if let Some(effect) = self.pages.poll_effect() {
                self.pages_effect(effect);
            } else if !self.reads_faults() {
                break;
            }
        }
        while let Some((timer, after)) = self.pages.poll_timer() {
            self.say(Output::PageTimer(timer, after));
        }
        while let Some((timer, after)) = self.faults.poll_timer() {
            self.say(Output::FaultsTimer(timer, after));
        }
    }

    /// Asks the vCPU's scheduler, unless it is asked already or there is nobody to choose from.
    fn want_pick(&mut self, v: Vcpu, why: Why) {
        if self.picks.iter().any(|pick| pick.vcpu == v) {
            return;
        }
        match self.guest.able(v) {
            0 => self.set_running(v, Running::Counter),
            _ => self.picks.push_back(Pick { vcpu: v, why }),
        }
    }

    /// The answer to a pick: `task` runs on.
    fn switch(&mut self, v: Vcpu, task: surefault_core::run::TaskId) {
        let open = self.picks.front().is_some_and(|pick| pick.vcpu == v);
        if open && self.guest.can_run(v, task) {
            self.picks.pop_front();
            self.set_running(v, Running::Task(usize::from(task.get())));
        }
    }

    fn set_running(&mut self, v: Vcpu, running: Running) {
        let before = self.guest.set_running(v, running);
        let (was_idle, idle) = (before == Running::Counter, running == Running::Counter);
        if was_idle != idle {
            self.say(Output::Idle(v, idle));
        }
    }

    /// The vCPU's next move, in place of any other.
    fn go(&mut self, v: Vcpu, next: Move) {
        self.threads[v].next = Some(next);
        self.say(Output::Go(v, next));
    }

    #[inline(always)]
    fn say(&mut self, output: Output) {
        let around = Around {
            setup: &self.setup,
            pages: &self.pages,
            guest: &self.guest,
            repaired: &self.repaired,
        };
        self.listener.hear(output, around);
    }

    #[inline(always)]
    fn happened(&mut self, what: Happened) {
        self.say(Output::Happened(what));
    }
}

pub(crate) fn vcpu_id(v: usize) -> VcpuId {
    VcpuId::new(v as u32)
}

/// One page of address space for each page of the region.
pub(crate) fn address_of(page: PageIndex) -> Gva {
    Gva::new((0x10_0000 + u64::from(page.get())) << 12)
}

/// The demand-paged region is the only one.
pub(crate) fn page_id(index: PageIndex) -> PageId {
    PageId::new(RegionId::new(0), index)
}
