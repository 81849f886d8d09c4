//! What a machine is made of: everything of a run's description but time and chance.

use std::collections::{BTreeMap, BTreeSet};

use surefault_core::faults::{FaultsConfig, GuestApf, Paging};
use surefault_core::plan::FailureMode;
use surefault_core::policy::PolicyKind;
use surefault_core::residency::ResidencyConfig;
use surefault_core::run::{ApfMode, TaskId};
use surefault_core::workload::Workload;
use surefault_core::{Gfn, PageIndex, SlotId};

use crate::spec::{Host, OnReport, SimError};

/// A machine's unchanging part. [`SimSpec::setup`](crate::SimSpec::setup) makes one from a run's
/// description, a trace's header names one, and a model checker writes its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setup {
    /// The error policy in force.
    pub policy: PolicyKind,
    /// Who stands behind the guest's memory.
    pub host: Host,
    /// Who runs the asynchronous faults.
    pub apf: ApfMode,
    /// What each task touches, and so the region's size and the number of tasks, which are dealt
    /// round-robin to the vCPUs.
    pub workload: Workload,
    /// The sizes of the machine of vCPUs, and the way of paging.
    pub faults: FaultsConfig,
    /// The limits of the machine of pages.
    pub residency: ResidencyConfig,
    /// Pages that fail, and how. Who decides about fetches goes by it; the machine itself only asks
    /// whether a page is among them.
    pub failing: BTreeMap<PageIndex, FailureMode>,
    /// Pages any attempt at which may fail, or may not.
    pub intermittent: BTreeSet<PageIndex>,
    /// The guest has asynchronous faults on from the start.
    pub guest_apf: bool,
    /// The guest reads the error word of "ready", and kills the task.
    pub guest_reads_errors: bool,
    /// Accesses to these pages come from the guest's kernel.
    pub kernel: BTreeSet<PageIndex>,
    /// Accesses to these pages come from the guest's kernel with interrupts off, from the first of them
    /// in a row to the last.
    pub irqs_off: BTreeSet<PageIndex>,
    /// A task that is woken goes on on the next vCPU.
    pub migrate: bool,
    /// Failures are remembered. Without, as in a kernel, an access to a failed page asks the source
    /// anew.
    pub keeps_record: bool,
    /// The pager serves another process's memory: it keeps records of the pages, takes its steps one by
    /// one, and may be killed between any two of them. Needs `keeps_record`, Surefault behind the
    /// memory, and memory that is not scarce.
    pub records: bool,
    /// What is done about a report.
    pub on_report: OnReport,
    /// Tasks that the guest kills when they are woken after their page has failed.
    pub killed: BTreeSet<TaskId>,
    /// The guest's ack is a step of its own, and not part of the ready event's handler.
    pub acks_late: bool,
    /// How often each task goes through its list.
    pub laps: u64,
    /// Memory is scarce: a page is gone as soon as its visit is over, and a repair is undone with it.
    pub evicts: bool,
    /// The memory slot that reports name.
    pub memslot: SlotId,
    /// The frame of page 0.
    pub first_gfn: Gfn,
}

impl Setup {
    /// Whether some attempt at the page fails, unless it is repaired.
    pub fn is_failing(&self, page: PageIndex) -> bool {
        self.intermittent.contains(&page)
            || self
                .failing
                .get(&page)
                .is_some_and(|&mode| mode != FailureMode::Healthy)
    }

    /// Whether accesses to the page come from the guest's kernel: nobody else turns interrupts off.
    pub fn is_kernel(&self, page: PageIndex) -> bool {
        self.kernel.contains(&page) || self.irqs_off.contains(&page)
    }

    /// # Errors
    /// When it contradicts itself in what the two machines do not know of.
    pub(crate) fn check(&self) -> Result<(), SimError> {
        let can_restart = self.keeps_record && !self.evicts && self.host == Host::Surefault;
        match self.records && !can_restart {
            true => Err(SimError::NothingToGoOnFrom),
            false => Ok(()),
        }
    }

    /// Whether the source never says anything about the page, unless it is repaired.
    pub fn is_silent(&self, page: PageIndex) -> bool {
        self.failing.get(&page) == Some(&FailureMode::Stall)
    }

    /// Failed pages are poisoned, and Linux takes the faults: failures come as signals.
    pub(crate) fn is_watched(&self) -> bool {
        self.host == Host::Surefault && self.apf == ApfMode::Kernel
    }

    pub(crate) fn paging(&self) -> Paging {
        self.faults.paging
    }

    pub(crate) fn settings(&self, on: bool) -> GuestApf {
        match on {
            true => GuestApf::On {
                send_always: false,
                error_word: self.guest_reads_errors,
            },
            false => GuestApf::Off,
        }
    }
}
