//! How large the system is, and what may befall it.

use std::collections::{BTreeMap, BTreeSet};

use surefault_core::faults::{FaultsConfig, Paging};
use surefault_core::plan::FailureMode;
use surefault_core::policy::PolicyKind;
use surefault_core::run::ApfMode;
use surefault_core::workload::{FirstTouch, Touch, Workload, WorkloadError};
use surefault_core::{Gfn, PageCount, PageIndex, SlotId};
use surefault_sim::machine::Setup;
use surefault_sim::world::Budgets;
use surefault_sim::{Host, OnReport, SimError};
use thiserror::Error;

/// A configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The error policy.
    pub policy: PolicyKind,
    /// vCPUs.
    pub vcpus: u16,
    /// Tasks, dealt round-robin to the vCPUs. Task `n` wants page `n`, and so on.
    pub tasks: u16,
    /// Pages.
    pub pages: u32,
    /// Pages that never come unless they are repaired: the first ones.
    pub failing: u32,
    /// Pages that come at the second attempt: those after them.
    pub healing: u32,
    /// Pages that each task wants, one after the other.
    pub touches: u32,
    /// Asynchronous faults that a vCPU may have queued.
    pub cap: u8,
    /// Addresses that `error-gfn-table` remembers for a vCPU.
    pub slots: u8,
    /// How the guest's page tables are walked.
    pub paging: Paging,
    /// Faults are asynchronous.
    pub apf: bool,
    /// Incidents in all.
    pub incidents: u8,
    /// Incidents of each kind. Deaths of the worker that serves the pages come on top of `incidents`.
    pub budgets: Budgets,
}

/// A configuration that contradicts itself.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Nothing to check, or more than can be.
    #[error("{what} must be between {least} and {most}, not {value}")]
    OutOfBounds {
        /// What.
        what: &'static str,
        /// Its value.
        value: u32,
        /// The least.
        least: u32,
        /// The most.
        most: u32,
    },
    /// More pages that fail than there are.
    #[error("{failing} failing and {healing} healing pages are more than the {pages} pages")]
    TooManyFailing {
        /// Pages that fail.
        failing: u32,
        /// Pages that heal.
        healing: u32,
        /// Pages.
        pages: u32,
    },
    /// A number that must be a power of two.
    #[error("slots must be a power of two, not {0}")]
    Slots(u8),
    /// Only failures that are remembered can be gone on from.
    #[error("deaths mean nothing under {0}, which keeps no record of failures: only exact does")]
    Deaths(PolicyKind),
    /// The lists of the tasks.
    #[error("the tasks' lists")]
    Workload(#[from] WorkloadError),
    /// The simulated machine refuses.
    #[error("setting up the machine")]
    Setup(#[source] SimError),
}

impl Config {
    /// One vCPU, three tasks, three pages of which two never come: the first configuration of the
    /// two that are always checked.
    pub fn one_vcpu(policy: PolicyKind) -> Config {
        Config {
            policy,
            vcpus: 1,
            tasks: 3,
            pages: 3,
            failing: 2,
            healing: 0,
            touches: 1,
            cap: 2,
            slots: 1,
            paging: Paging::TwoDimensional,
            apf: true,
            incidents: 1,
            budgets: Config::ONE_OF_EACH,
        }
    }

    /// Two vCPUs, two tasks, a page that never comes and one that heals: the second.
    pub fn two_vcpus(policy: PolicyKind) -> Config {
        Config {
            vcpus: 2,
            tasks: 2,
            pages: 2,
            failing: 1,
            healing: 1,
            ..Config::one_vcpu(policy)
        }
    }

    /// One incident of each kind but deaths of the worker that serves the pages.
    pub const ONE_OF_EACH: Budgets = Budgets {
        kills: 1,
        repairs: 1,
        // A repair that is not announced differs from a later one that is only in what is remembered.
        mends: 0,
        relapses: 1,
        removals: 1,
        apf_changes: 1,
        migrations: 1,
        deaths: 0,
    };

    /// What becomes of the page.
    pub fn mode(&self, page: u32) -> FailureMode {
        match page {
            page if page < self.failing => FailureMode::Permanent,
            page if page < self.failing + self.healing => FailureMode::Temporary { failures: 1 },
            _ => FailureMode::Healthy,
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        for (what, value, least, most) in [
            ("vcpus", u32::from(self.vcpus), 1, 4),
            ("tasks", u32::from(self.tasks), 1, 6),
            ("pages", self.pages, 1, 6),
            ("touches", self.touches, 1, self.pages),
            ("cap", u32::from(self.cap), 1, 8),
            ("slots", u32::from(self.slots), 1, 8),
        ] {
            if !(least..=most).contains(&value) {
                return Err(ConfigError::OutOfBounds {
                    what,
                    value,
                    least,
                    most,
                });
            }
        }
        let (failing, healing, pages) = (self.failing, self.healing, self.pages);
        if failing.saturating_add(healing) > pages {
            return Err(ConfigError::TooManyFailing {
                failing,
                healing,
                pages,
            });
        }
        if self.budgets.deaths > 0 && self.policy != PolicyKind::Exact {
            return Err(ConfigError::Deaths(self.policy));
        }
        if !self.slots.is_power_of_two() {
            return Err(ConfigError::Slots(self.slots));
        }
        Ok(())
    }

    /// The machine of this configuration.
    ///
    /// # Errors
    /// When it contradicts itself.
    pub fn setup(&self) -> Result<Setup, ConfigError> {
        self.check()?;
        let list = |task: u16| -> Vec<Touch> {
            let pages = (0..self.touches).map(|n| (u32::from(task) + n) % self.pages);
            let read = |page| Touch {
                page: PageIndex::new(page),
                first: FirstTouch::Read,
            };
            pages.map(read).collect()
        };
        let lists = (0..self.tasks).map(list).collect();
        let pages = PageCount::new(u64::from(self.pages));
        // Surefault's own remembers failures, and tries again within a budget.
        let keeps_record = self.policy == PolicyKind::Exact;
        let attempts = if keeps_record { 2 } else { 1 };
        let modes = (0..self.pages).map(|page| (PageIndex::new(page), self.mode(page)));
        let failing: BTreeMap<_, _> = modes
            .filter(|&(_, mode)| mode != FailureMode::Healthy)
            .collect();
        Ok(Setup {
            policy: self.policy,
            host: Host::Surefault,
            apf: if self.apf {
                ApfMode::User
            } else {
                ApfMode::Off
            },
            workload: Workload::new(pages, lists)?,
            faults: FaultsConfig {
                paging: self.paging,
                queue_cap: self.cap,
                gfn_slots: self.cap.next_power_of_two(),
                item_slots: 2 * self.cap,
                owed_slots: self.pages as u16,
                observed_slots: 1,
                error_slots: self.slots,
                hlt_in_guest: !self.apf,
                error_word: true,
                ..FaultsConfig::new(self.vcpus)
            },
            residency: super::residency(attempts, self.pages as usize),
            failing,
            intermittent: BTreeSet::new(),
            guest_apf: true,
            guest_reads_errors: true,
            kernel: BTreeSet::new(),
            irqs_off: BTreeSet::new(),
            migrate: false,
            keeps_record,
            records: self.budgets.deaths > 0,
            on_report: OnReport::Wait,
            killed: BTreeSet::new(),
            acks_late: true,
            laps: 1,
            evicts: false,
            memslot: SlotId::new(1),
            first_gfn: Gfn::new(0x100),
        })
    }
}
