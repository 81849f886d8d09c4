//! The simulated guests' schedulers: which task runs next, by rule or by seed.

use surefault_core::plan::mix;
use surefault_core::run::TaskId;

use crate::machine::{Guest, Pick, TaskState, Vcpu, Why};
use crate::spec::{Scheduling, SimSpec};

/// The schedulers of all vCPUs.
#[derive(Clone, Debug)]
pub(crate) struct Scheduler {
    scheduling: Scheduling,
    seed: u64,
    draws: u64,
    /// The task of each vCPU that was woken last.
    woken_last: Vec<Option<TaskId>>,
}

impl Scheduler {
    pub(crate) fn new(spec: &SimSpec) -> Scheduler {
        Scheduler {
            scheduling: spec.scheduling,
            seed: spec.run.seed,
            draws: 0,
            woken_last: vec![None; usize::from(spec.run.vcpus)],
        }
    }

    /// A task was woken.
    pub(crate) fn woken(&mut self, v: Vcpu, task: TaskId) {
        self.woken_last[v] = Some(task);
    }

    /// Answers `pick`.
    pub(crate) fn choose(&mut self, pick: Pick, guest: &Guest) -> TaskId {
        let v = pick.vcpu;
        let able = guest.able(v);
        let nth = |nth| {
            let task = guest.nth_able(v, nth);
            task.expect("a scheduler is asked only where a task can run")
        };
        // Whoever runs is the last in turn.
        let keeps = pick.why == Why::Woken
            && match self.scheduling {
                Scheduling::RoundRobin | Scheduling::Adversarial => true,
                Scheduling::Random => self.draw(2) != 0,
            };
        if keeps {
            let current = guest.current(v);
            let goes_on = current.filter(|task| task.state == TaskState::Runnable);
            return goes_on.map_or_else(|| nth(able - 1), |task| task.id);
        }
        match self.scheduling {
            Scheduling::RoundRobin => nth(0),
            Scheduling::Random => nth(self.draw(able as u64) as usize),
            Scheduling::Adversarial => {
                let last = self.woken_last[v];
                let first = nth(0);
                match Some(first) == last && able > 1 {
                    true => nth(1),
                    false => first,
                }
            }
        }
    }

    /// A number below `below`, from the run's seed.
    fn draw(&mut self, below: u64) -> u64 {
        self.draws += 1;
        mix(self.seed ^ mix(self.draws)) % below
    }
}
