//! Who is treated fairly. The rule is that of `surefault_sim::world::fairness`, which judges every
//! cycle that is found once more; here it is a number for each claim.

use surefault_core::policy::AnyPolicy;
use surefault_sim::machine::PagerParty;
use surefault_sim::world::{Step, TimerKind, World};

use super::Config;
use crate::model::{Class, Fairness};

/// The classes of a configuration, in an order from which their numbers follow.
#[derive(Clone, Debug)]
pub(super) struct Claims {
    vcpus: u32,
    tasks: u32,
    pages: u32,
    classes: Vec<Class>,
}

/// Classes of each vCPU, of each task, of each page.
const OF_VCPU: u32 = 3;
const OF_TASK: u32 = 1;
const OF_PAGE: u32 = 3;

impl Claims {
    pub(super) fn new(config: &Config) -> Claims {
        let (vcpus, tasks) = (u32::from(config.vcpus), u32::from(config.tasks));
        let pages = config.pages;
        let mut classes = Vec::new();
        let mut add = |name: String, fairness| classes.push(Class { name, fairness });
        for v in 0..vcpus {
            add(format!("the next move of vCPU {v}"), Fairness::Strong);
            add(format!("the ack of vCPU {v}"), Fairness::Strong);
            add(format!("the timer interrupt of vCPU {v}"), Fairness::Weak);
        }
        for task in 0..tasks {
            // It can have its turn when the scheduler may let it run; it has had it when it touches.
            add(format!("the turn of task {task}"), Fairness::Strong);
        }
        for page in 0..pages {
            add(format!("the fetch of page {page}"), Fairness::Weak);
            add(format!("the deadline of page {page}"), Fairness::Weak);
            add(format!("the other timers of page {page}"), Fairness::Weak);
        }
        add("the timer of unclaimed errors".to_owned(), Fairness::Weak);
        add("the policy's timers".to_owned(), Fairness::Weak);
        if config.budgets.deaths > 0 {
            add("the pager's reader".to_owned(), Fairness::Strong);
            add("the pager's hands".to_owned(), Fairness::Strong);
            add("another worker".to_owned(), Fairness::Strong);
            for page in 0..pages {
                let name = format!("the thread that gives page {page} up");
                add(name, Fairness::Strong);
            }
        }
        Claims {
            vcpus,
            tasks,
            pages,
            classes,
        }
    }

    pub(super) fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// The classes that a step shows to be able to act, without acting for them.
    pub(super) fn offers(&self, step: &Step) -> u64 {
        match *step {
            Step::Switch(_, task) => 1 << (self.vcpus * OF_VCPU + u32::from(task.get()) * OF_TASK),
            _ => 0,
        }
    }

    /// The classes that a step acts for.
    pub(super) fn of(&self, world: &World<AnyPolicy>, step: &Step) -> u64 {
        let of_vcpu = |v: u32, n: u32| 1u64 << (v * OF_VCPU + n);
        let of_task = |task: u32| 1u64 << (self.vcpus * OF_VCPU + task * OF_TASK);
        let before_pages = self.vcpus * OF_VCPU + self.tasks * OF_TASK;
        let of_page = |page: u32, n: u32| 1u64 << (before_pages + page * OF_PAGE + n);
        let others = before_pages + self.pages * OF_PAGE;
        match *step {
            Step::Enter(vcpu) => of_vcpu(vcpu.get(), 0),
            Step::Touch(vcpu) => {
                let task = world.running(vcpu);
                let touch = task.map_or(0, |task| of_task(u32::from(task.get())));
                of_vcpu(vcpu.get(), 0) | touch
            }
            Step::Ack(vcpu) => of_vcpu(vcpu.get(), 1),
            Step::Tick(vcpu) => of_vcpu(vcpu.get(), 2),
            Step::Fetched { page, .. } => of_page(page.get(), 0),
            Step::PageTimer(TimerKind::Deadline, page) => of_page(page.get(), 1),
            Step::PageTimer(_, page) => of_page(page.get(), 2),
            Step::Unclaimed => 1 << others,
            Step::PolicyTimer(_) => 1 << (others + 1),
            Step::Switch(..) => 0,
            // Nobody repairs, kills or removes because he must.
            Step::Apf(..)
            | Step::Repair(_)
            | Step::Relapse(_)
            | Step::Remove(_)
            | Step::Kill(_)
            | Step::Migrate(..)
            | Step::Die => 0,
            Step::Pager(step) => match step.party() {
                PagerParty::Reader => 1 << (others + 2),
                PagerParty::Hands => 1 << (others + 3),
                PagerParty::Supervisor => 1 << (others + 4),
                PagerParty::Remover(page) => 1 << (others + 5 + page.get()),
            },
        }
    }
}
