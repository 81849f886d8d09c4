//! The simulated guest: tasks that touch pages, and on each vCPU a scheduler and the handlers of
//! the paravirtual events. Beside its tasks each vCPU has one that only counts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use surefault_core::faults::{Root, WAKE_ALL};
use surefault_core::plan::mix;
use surefault_core::run::TaskId;
use surefault_core::workload::{FirstTouch, Touch, Workload};
use surefault_core::{Access, Gva, PageIndex, Token};

use crate::spec::{Scheduling, SimSpec};

/// What one iteration of the counting task takes.
const COUNT: Duration = Duration::from_micros(1);

/// A task.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) id: TaskId,
    touches: Vec<Touch>,
    at: usize,
    state: TaskState,
    /// How often the current access has met its page failed already.
    pub(crate) retries: u64,
    /// How often the current access was taken again after "ready".
    pub(crate) asked_again: u64,
    /// The page has been said ready since the current access was taken last.
    pub(crate) said_ready: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum TaskState {
    Runnable,
    /// Sleeps until the token is said ready.
    Waiting(Token),
    Finished,
    Killed,
}

impl Task {
    /// The page it wants next.
    pub(crate) fn wants(&self) -> Option<PageIndex> {
        self.touches.get(self.at).map(|touch| touch.page)
    }

    /// What it wants of that page.
    pub(crate) fn access(&self) -> Access {
        match self.touches.get(self.at).map(|touch| touch.first) {
            Some(FirstTouch::Read) => Access::Read,
            Some(FirstTouch::Write) => Access::Write,
            Some(FirstTouch::Call) => Access::Fetch,
            None => Access::Unknown,
        }
    }

    /// The instruction it stands at: each task has its own.
    pub(crate) fn rip(&self) -> Gva {
        Gva::new(0x40_0000 + (u64::from(self.id.get()) << 12))
    }

    /// Its address space: each task has its own, and the counting task has the first.
    pub(crate) fn root(&self) -> Root {
        Root::new((u64::from(self.id.get()) + 2) << 12)
    }
}

/// What a vCPU runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Running {
    /// This task.
    Task(usize),
    /// The counting task, since then.
    Counter(Duration),
}

/// One vCPU's share of the guest.
#[derive(Clone, Debug)]
struct Cpu {
    tasks: Vec<usize>,
    running: Running,
    waiters: BTreeMap<Token, usize>,
    /// The ready event whose interrupt is pending.
    ready: Option<Token>,
}

/// All tasks, and who runs where.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    pub(crate) tasks: Vec<Task>,
    cpus: Vec<Cpu>,
    killed: BTreeSet<TaskId>,
    scheduling: Scheduling,
    draws: u64,
    seed: u64,
    count: Duration,
}

impl Guest {
    pub(crate) fn new(spec: &SimSpec) -> Guest {
        let usual = || Workload::partition(spec.run.pages, spec.run.tasks, spec.run.seed);
        let workload = spec.workload.clone().unwrap_or_else(usual);
        let vcpus = usize::from(spec.run.vcpus);
        let cpu = |v: usize| Cpu {
            tasks: (v..usize::from(spec.run.tasks)).step_by(vcpus).collect(),
            running: Running::Counter(Duration::ZERO),
            waiters: BTreeMap::new(),
            ready: None,
        };
        let task = |(id, touches): (u16, &Vec<Touch>)| Task {
            id: TaskId::new(id),
            touches: touches.clone(),
            at: 0,
            state: match touches.is_empty() {
                true => TaskState::Finished,
                false => TaskState::Runnable,
            },
            retries: 0,
            asked_again: 0,
            said_ready: false,
        };
        let mut guest = Guest {
            tasks: (0..).zip(workload.tasks()).map(task).collect(),
            cpus: (0..vcpus).map(cpu).collect(),
            killed: spec.killed.clone(),
            scheduling: spec.scheduling,
            draws: 0,
            seed: spec.run.seed,
            count: Duration::ZERO,
        };
        for v in 0..vcpus {
            guest.reschedule(v, Duration::ZERO);
        }
        guest
    }

    pub(crate) fn running(&self, v: usize) -> Running {
        self.cpus[v].running
    }

    /// The task that runs, unless it is the counting one.
    pub(crate) fn current(&mut self, v: usize) -> Option<&mut Task> {
        match self.cpus[v].running {
            Running::Task(task) => Some(&mut self.tasks[task]),
            Running::Counter(_) => None,
        }
    }

    /// The address space that runs.
    pub(crate) fn root(&self, v: usize) -> Root {
        match self.cpus[v].running {
            Running::Task(task) => self.tasks[task].root(),
            Running::Counter(_) => Root::new(1 << 12),
        }
    }

    /// The current task has its page: on to the next. False when it was the last.
    pub(crate) fn advance(&mut self, v: usize) -> bool {
        let Some(task) = self.current(v) else {
            return false;
        };
        task.at += 1;
        task.retries = 0;
        task.asked_again = 0;
        task.said_ready = false;
        if task.wants().is_none() {
            task.state = TaskState::Finished;
        }
        task.state == TaskState::Runnable
    }

    /// The handler of "page not present": the current task sleeps, another runs.
    pub(crate) fn not_present(&mut self, v: usize, token: Token, now: Duration) {
        if let Running::Task(task) = self.cpus[v].running {
            self.tasks[task].state = TaskState::Waiting(token);
            self.cpus[v].waiters.insert(token, task);
        }
        self.reschedule(v, now);
    }

    /// "Page ready" is written, its interrupt pending.
    pub(crate) fn raise_ready(&mut self, v: usize, token: Token) {
        self.cpus[v].ready = Some(token);
    }

    /// The handler of "page ready", if its interrupt is pending: wakes whoever waits. The token is
    /// acknowledged when this is true. Also says how many tasks were found killed.
    pub(crate) fn take_ready(&mut self, v: usize, now: Duration) -> Option<u64> {
        let token = self.cpus[v].ready.take()?;
        let woken: Vec<usize> = if token == WAKE_ALL {
            std::mem::take(&mut self.cpus[v].waiters)
                .into_values()
                .collect()
        } else {
            self.cpus[v].waiters.remove(&token).into_iter().collect()
        };
        let mut killed = 0;
        for &task in &woken {
            let task = &mut self.tasks[task];
            task.said_ready = true;
            if self.killed.contains(&task.id) {
                task.state = TaskState::Killed;
                killed += 1;
            } else {
                task.state = TaskState::Runnable;
            }
        }
        let takes_over = match (self.cpus[v].running, self.scheduling) {
            (Running::Counter(_), _) => true,
            (Running::Task(_), Scheduling::RoundRobin) => false,
            (Running::Task(_), Scheduling::Random) => !woken.is_empty() && self.draw(2) == 0,
        };
        if takes_over {
            self.reschedule(v, now);
        }
        Some(killed)
    }

    /// Picks who runs: a task that can, or the counting one.
    pub(crate) fn reschedule(&mut self, v: usize, now: Duration) {
        let cpu = &self.cpus[v];
        let (since, after) = match cpu.running {
            Running::Counter(since) => (Some(since), 0),
            Running::Task(task) => {
                let place = cpu.tasks.iter().position(|&other| other == task);
                (None, place.map_or(0, |place| place + 1))
            }
        };
        let can = |&task: &usize| self.tasks[task].state == TaskState::Runnable;
        let turn = cpu.tasks.iter().cycle().skip(after).take(cpu.tasks.len());
        let able: Vec<usize> = turn.copied().filter(can).collect();
        let pick = match self.scheduling {
            Scheduling::RoundRobin => 0,
            Scheduling::Random if able.is_empty() => 0,
            Scheduling::Random => self.draw(able.len() as u64) as usize,
        };
        if let Some(since) = since {
            self.count += now.saturating_sub(since);
        }
        self.cpus[v].running = match able.get(pick) {
            Some(&task) => Running::Task(task),
            None => Running::Counter(now),
        };
    }

    /// Every task has finished or is dead.
    pub(crate) fn is_done(&self) -> bool {
        let over = |task: &Task| matches!(task.state, TaskState::Finished | TaskState::Killed);
        self.tasks.iter().all(over)
    }

    pub(crate) fn finished(&self) -> u16 {
        let finished = |task: &&Task| task.state == TaskState::Finished;
        self.tasks.iter().filter(finished).count() as u16
    }

    /// Tokens that tasks wait for.
    pub(crate) fn tokens_left(&self) -> u64 {
        self.cpus.iter().map(|cpu| cpu.waiters.len() as u64).sum()
    }

    /// What the counting tasks have reached.
    pub(crate) fn progress(&self, now: Duration) -> u64 {
        let running: Duration = self
            .cpus
            .iter()
            .map(|cpu| match cpu.running {
                Running::Counter(since) => now.saturating_sub(since),
                Running::Task(_) => Duration::ZERO,
            })
            .sum();
        ((self.count + running).as_nanos() / COUNT.as_nanos()) as u64
    }

    /// A number below `below`, from the run's seed.
    fn draw(&mut self, below: u64) -> u64 {
        self.draws += 1;
        mix(self.seed ^ mix(self.draws)) % below
    }
}
