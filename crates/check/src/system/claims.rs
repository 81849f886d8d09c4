//! Who is treated fairly: the claims of `surefault_sim::world::fairness`, which says who acts by a step and
//! how fairly each is treated, as numbers. Every cycle that is found is judged by it once more.

use surefault_core::policy::AnyPolicy;
use surefault_core::run::TaskId;
use surefault_core::{PageIndex, VcpuId};
use surefault_sim::machine::PagerParty;
use surefault_sim::world::fairness::{Claim, acted};
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
        let mut add = |claim: Claim, name: String| {
            let fairness = match claim.is_strong() {
                true => Fairness::Strong,
                false => Fairness::Weak,
            };
            classes.push(Class { name, fairness });
        };
        for v in 0..vcpus {
            let vcpu = VcpuId::new(v);
            add(Claim::Move(vcpu), format!("the next move of vCPU {v}"));
            add(Claim::Ack(vcpu), format!("the ack of vCPU {v}"));
            add(
                Claim::Tick(vcpu),
                format!("the timer interrupt of vCPU {v}"),
            );
        }
        for task in 0..config.tasks {
            // It can have its turn when the scheduler may let it run; it has had it when it touches.
            let claim = Claim::Touch(TaskId::new(task));
            add(claim, format!("the turn of task {task}"));
        }
        for n in 0..pages {
            let page = PageIndex::new(n);
            let timer = |kind| Claim::PageTimer(kind, page);
            add(Claim::Fetch(page), format!("the fetch of page {n}"));
            add(
                timer(TimerKind::Deadline),
                format!("the deadline of page {n}"),
            );
            add(
                timer(TimerKind::Backoff),
                format!("the other timers of page {n}"),
            );
        }
        let timer = Claim::FaultsTimer;
        add(
            timer(Step::Unclaimed),
            "the timer of unclaimed errors".to_owned(),
        );
        add(
            timer(Step::PolicyTimer(0)),
            "the policy's timers".to_owned(),
        );
        if config.budgets.deaths > 0 {
            let pager = Claim::Pager;
            add(pager(PagerParty::Reader), "the pager's reader".to_owned());
            add(pager(PagerParty::Hands), "the pager's hands".to_owned());
            add(pager(PagerParty::Supervisor), "another worker".to_owned());
            for n in 0..pages {
                let party = PagerParty::Remover(PageIndex::new(n));
                add(pager(party), format!("the thread that gives page {n} up"));
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
        let classes = acted(world, step).filter_map(|claim| self.class(claim));
        classes.fold(0, |set, class| set | 1 << class)
    }

    /// The number of a claim's class. A pending interrupt is delivered by the next move, a task has had
    /// its turn when it touches its page, and here no page has two answers: no classes.
    fn class(&self, claim: Claim) -> Option<u32> {
        let of_vcpu = |vcpu: VcpuId, n| vcpu.get() * OF_VCPU + n;
        let before_pages = self.vcpus * OF_VCPU + self.tasks * OF_TASK;
        let of_page = |page: PageIndex, n| before_pages + page.get() * OF_PAGE + n;
        let others = before_pages + self.pages * OF_PAGE;
        Some(match claim {
            Claim::Move(vcpu) => of_vcpu(vcpu, 0),
            Claim::Ack(vcpu) => of_vcpu(vcpu, 1),
            Claim::Tick(vcpu) => of_vcpu(vcpu, 2),
            Claim::Touch(task) => self.vcpus * OF_VCPU + u32::from(task.get()) * OF_TASK,
            Claim::Fetch(page) => of_page(page, 0),
            Claim::PageTimer(TimerKind::Deadline, page) => of_page(page, 1),
            Claim::PageTimer(_, page) => of_page(page, 2),
            Claim::FaultsTimer(Step::Unclaimed) => others,
            Claim::FaultsTimer(_) => others + 1,
            Claim::Pager(PagerParty::Reader) => others + 2,
            Claim::Pager(PagerParty::Hands) => others + 3,
            Claim::Pager(PagerParty::Supervisor) => others + 4,
            Claim::Pager(PagerParty::Remover(page)) => others + 5 + page.get(),
            Claim::IrqsOn(_) | Claim::Interrupt(_) | Claim::Run(_) | Claim::Answer(..) => {
                return None;
            }
        })
    }
}
