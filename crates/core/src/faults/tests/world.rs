//! A driver and a guest for the machine, that check every effect against what they know.
//!
//! A world first runs through arbitrary steps, valid and stale, and is then driven fairly: every
//! outstanding thing is answered, every task runs. It must come to rest with every task finished,
//! within a bound.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;
use crate::faults::{
    Accepted, Announced, Defect, Effect, Faults, FaultsConfig, GuestApf, ItemId, LinuxApf,
    Listening, Paging, Prefaulted, Seen, Timer, VcpuState, WAKE_ALL,
};
use crate::policy::Policy;
use crate::residency::{PageOutcome, PageState};
use crate::{PageCount, Token};

/// What went wrong.
pub(super) type Caught = String;

macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(format!($($why)+));
        }
    };
}

mod check;
mod drive;
mod laws;
mod step;

/// One step of the arbitrary part: what, and two numbers to choose with.
pub(super) type Step = (u8, u8, u8);

pub(super) const STEPS: u8 = 25;

/// Pages that tasks touch.
const PAGES: u32 = 6;

struct Task {
    root: u64,
    accesses: Vec<u32>,
    at: usize,
    /// Waits for "ready".
    waiting: Option<Token>,
}

impl Task {
    fn wants(&self) -> Option<u32> {
        self.accesses.get(self.at).copied()
    }
}

#[derive(Default)]
struct VcpuWorld {
    tasks: Vec<Task>,
    current: usize,
    in_guest: bool,
    resumed: bool,
    kicked: bool,
    /// The access that is being dealt with.
    access: Option<(Fault, Root)>,
    /// Outstanding, oldest first; several only after resets.
    announcing: VecDeque<(ItemId, Token)>,
    prefaulting: VecDeque<(ItemId, PageId)>,
    waiting: Option<PageId>,
    /// Asked whether its guest can be told of this; and what was answered.
    telling: Option<Fault>,
    listening: Option<Listening>,
    stopped: bool,
    /// The token that the guest has not acknowledged.
    slot: Option<Token>,
    settings_on: bool,
    /// Tokens announced and not yet said ready.
    announced: BTreeSet<Token>,
    /// Completions not yet served, with the token where one was announced.
    completed: VecDeque<(ItemId, Option<Token>)>,
    /// The fault and the token behind each live item.
    items: BTreeMap<ItemId, (Fault, Root, Option<Token>)>,
    lapic_off: bool,
}

pub(super) struct World<P> {
    m: Faults<P>,
    vcpus: Vec<VcpuWorld>,
    /// Work that was started and not answered; also cancelled.
    works: Vec<(VcpuId, ItemId, PageId)>,
    failing: BTreeSet<u32>,
    owed_before: usize,
    unclaimed: usize,
    /// A fault may just have claimed an error.
    claiming: bool,
    /// The policy reports errors when it learns of them, whatever runs then.
    exits_early: bool,
    reports: usize,
    /// Failures that were to be told to the guest, and those that were.
    tells: usize,
    machine_checks: usize,
    removing: bool,
}

impl<P: Policy> World<P> {
    pub(super) fn new(config: FaultsConfig, defect: Option<Defect>) -> World<P> {
        let m = Faults::<P>::new(config).expect("a valid configuration");
        let m = match defect {
            Some(defect) => m.with_defect(defect),
            None => m,
        };
        let vcpu = |id: u32| VcpuWorld {
            resumed: true,
            tasks: (0..3)
                .map(|task| Task {
                    root: 1 + task,
                    accesses: (0..3).map(|n| (id + task as u32 * 2 + n) % PAGES).collect(),
                    at: 0,
                    waiting: None,
                })
                .collect(),
            ..VcpuWorld::default()
        };
        World {
            m,
            vcpus: (0..u32::from(config.vcpus)).map(vcpu).collect(),
            works: Vec::new(),
            failing: BTreeSet::new(),
            owed_before: 0,
            unclaimed: 0,
            claiming: false,
            exits_early: false,
            reports: 0,
            tells: 0,
            machine_checks: 0,
            removing: false,
        }
    }

    /// For a policy that reports errors when it learns of them: what a report says of the vCPU is
    /// left to chance.
    pub(super) fn exiting_early(self) -> World<P> {
        World {
            exits_early: true,
            ..self
        }
    }

    /// Runs all steps, then drives to the end.
    pub(super) fn run(mut self, steps: &[Step]) -> Result<World<P>, Caught> {
        for &step in steps {
            self.step(step)?;
        }
        self.drive()?;
        Ok(self)
    }

    pub(super) fn reports(&self) -> usize {
        self.reports
    }

    pub(super) fn machine_checks(&self) -> usize {
        self.machine_checks
    }

    fn state(&self, index: u32) -> PageState {
        if self.failing.contains(&index) {
            PageState::Failed(failure())
        } else {
            PageState::Pending
        }
    }

    fn settled(&self, page: PageId) -> PageOutcome {
        match self.state(page.index().get()) {
            PageState::Failed(failure) => PageOutcome::Failed(failure),
            PageState::Present | PageState::Pending | PageState::Absent | PageState::Removed => {
                PageOutcome::Present
            }
        }
    }

    fn index(&self, vcpu: VcpuId) -> Result<usize, Caught> {
        let index = vcpu.get() as usize;
        ensure!(index < self.vcpus.len(), "no vCPU {vcpu}");
        Ok(index)
    }
}
