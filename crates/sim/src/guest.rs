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
    /// The current access has been taken before.
    pub(crate) tried: bool,
    /// The current access has met a failure.
    pub(crate) met_failure: bool,
    /// None of its pages fails.
    pub(crate) healthy: bool,
}

/// What became of the tasks that a "ready" was for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Woken {
    /// Found killed by somebody else.
    pub(crate) killed: u64,
    /// Told that there is no page, and killed for it.
    pub(crate) told: u64,
    /// Went on to this vCPU.
    pub(crate) moved_to: Option<usize>,
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

    /// Somebody killed it.
    pub(crate) fn is_dead(&self) -> bool {
        self.state == TaskState::Killed
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
    /// The ready event whose interrupt is pending, and its error word.
    ready: Option<(Token, bool)>,
    /// The task that was woken last.
    woken_last: Option<usize>,
}

/// All tasks, and who runs where.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    pub(crate) tasks: Vec<Task>,
    cpus: Vec<Cpu>,
    killed: BTreeSet<TaskId>,
    scheduling: Scheduling,
    migrate: bool,
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
            woken_last: None,
        };
        let fails = |touch: &Touch| spec.is_failing(touch.page);
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
            tried: false,
            met_failure: false,
            healthy: !touches.iter().any(fails),
        };
        let mut guest = Guest {
            tasks: (0..).zip(workload.tasks()).map(task).collect(),
            cpus: (0..vcpus).map(cpu).collect(),
            killed: spec.killed.clone(),
            scheduling: spec.scheduling,
            migrate: spec.migrate,
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
        task.tried = false;
        task.met_failure = false;
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
    pub(crate) fn raise_ready(&mut self, v: usize, token: Token, error: bool) {
        self.cpus[v].ready = Some((token, error));
    }

    /// The guest has turned asynchronous faults off, and wakes its waiters itself.
    pub(crate) fn wake_all(&mut self, v: usize) {
        self.cpus[v].ready = None;
        for task in std::mem::take(&mut self.cpus[v].waiters).into_values() {
            self.tasks[task].state = TaskState::Runnable;
        }
    }

    /// The handler of "page ready", if its interrupt is pending: wakes whoever waits. The token is
    /// to be acknowledged then.
    pub(crate) fn take_ready(&mut self, v: usize, now: Duration) -> Option<Woken> {
        let (token, error) = self.cpus[v].ready.take()?;
        let mut result = Woken::default();
        if token == WAKE_ALL {
            for task in std::mem::take(&mut self.cpus[v].waiters).into_values() {
                self.wake(v, task, error, &mut result);
            }
        } else if let Some(task) = self.cpus[v].waiters.remove(&token) {
            self.wake(v, task, error, &mut result);
        }
        let takes_over = match (self.cpus[v].running, self.scheduling) {
            (Running::Counter(_), _) => true,
            (Running::Task(_), Scheduling::RoundRobin | Scheduling::Adversarial) => false,
            (Running::Task(_), Scheduling::Random) => self.draw(2) == 0,
        };
        if takes_over {
            self.reschedule(v, now);
        }
        Some(result)
    }

    fn wake(&mut self, v: usize, woken: usize, error: bool, result: &mut Woken) {
        let next = (v + 1) % self.cpus.len();
        let task = &mut self.tasks[woken];
        task.said_ready = true;
        if task.met_failure && self.killed.contains(&task.id) {
            task.state = TaskState::Killed;
            result.killed += 1;
        } else if error {
            task.state = TaskState::Killed;
            result.told += 1;
        } else {
            task.state = TaskState::Runnable;
            if self.migrate && next != v {
                self.cpus[v].tasks.retain(|&task| task != woken);
                self.cpus[next].tasks.push(woken);
                result.moved_to = Some(next);
            }
            let to = result.moved_to.unwrap_or(v);
            self.cpus[to].woken_last = Some(woken);
        }
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
            Scheduling::Adversarial => {
                let last = self.cpus[v].woken_last;
                let other = able.iter().position(|&task| Some(task) != last);
                other.unwrap_or(0)
            }
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

    /// Visits of healthy tasks that there are in all.
    pub(crate) fn healthy_visits(&self) -> u64 {
        let healthy = self.tasks.iter().filter(|task| task.healthy);
        healthy.map(|task| task.touches.len() as u64).sum()
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
