//! The simulated guest: tasks that touch pages, and on each vCPU a run queue and the waiters of the
//! paravirtual events. Beside its tasks each vCPU has one that only counts.

use std::sync::Arc;

use surefault_core::faults::{Root, WAKE_ALL};
use surefault_core::run::TaskId;
use surefault_core::workload::{FirstTouch, Touch};
use surefault_core::{Access, Gva, PageIndex, Token};

use super::bits::Bits;
use super::{Setup, Vcpu};

/// A task.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) id: TaskId,
    touches: Arc<[Touch]>,
    pub(crate) at: usize,
    /// How often it will go through its list again.
    pub(crate) laps: u64,
    pub(crate) state: TaskState,
    /// The vCPU that it runs on.
    pub(crate) cpu: Vcpu,
    /// Its place in that vCPU's list.
    place: usize,
    /// How often the current access has met its page failed already.
    pub(crate) retries: u64,
    /// The same since its page failed anew.
    pub(crate) again: u8,
    /// How often the current access was taken again after "ready".
    pub(crate) asked_again: u64,
    /// The page has been said ready since the current access was taken last.
    pub(crate) said_ready: bool,
    /// The current access has been taken before.
    pub(crate) tried: bool,
    /// The current access has met a failure.
    pub(crate) met_failure: bool,
    /// It was killed in its sleep, and dies when it is woken.
    pub(crate) doomed: bool,
    /// None of its pages fails.
    pub(crate) healthy: bool,
}

surefault_core::clone_in_place! { Task {
    id, at, laps, state, cpu, place, retries, again, asked_again, said_ready, tried,
    met_failure, doomed, healthy; shared touches
} }

/// What a task is doing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum TaskState {
    /// It runs, or waits for its turn.
    Runnable,
    /// Sleeps until the token is said ready.
    Waiting(Token),
    Finished,
    Killed,
}

/// What a vCPU runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Running {
    /// This task.
    Task(usize),
    /// The counting task.
    Counter,
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
        rip_of(self.id)
    }

    /// Its address space: each task has its own, and the counting task has the first.
    pub(crate) fn root(&self) -> Root {
        Root::new((u64::from(self.id.get()) + 2) << 12)
    }

    /// It has finished or is dead.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, TaskState::Finished | TaskState::Killed)
    }

    /// How many visits it makes in all.
    pub(crate) fn visits(&self) -> u64 {
        self.touches.len() as u64
    }

    fn next_access(&mut self) {
        self.at += 1;
        if self.at == self.touches.len() && self.laps > 0 {
            self.at = 0;
            self.laps -= 1;
        }
        self.retries = 0;
        self.again = 0;
        self.asked_again = 0;
        self.said_ready = false;
        self.tried = false;
        self.met_failure = false;
    }
}

/// The instruction that a task stands at.
pub fn rip_of(task: TaskId) -> Gva {
    Gva::new(0x40_0000 + (u64::from(task.get()) << 12))
}

/// One vCPU's share of the guest.
#[derive(Debug)]
pub(crate) struct Cpu {
    /// Its tasks, in the order of their turns.
    tasks: Vec<usize>,
    /// The places of those that can run.
    able: Bits,
    running: Running,
    waiters: Vec<(Token, usize)>,
    /// The ready event whose interrupt is pending, and its error word.
    pub(crate) ready: Option<(Token, bool)>,
}

surefault_core::clone_in_place! { Cpu {
    tasks, able, running, waiters, ready,
} }

impl Cpu {
    pub(crate) fn running(&self) -> Running {
        self.running
    }
}

/// All tasks, and who runs where.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) tasks: Vec<Task>,
    pub(crate) cpus: Vec<Cpu>,
    /// Tasks that are not over.
    live: usize,
    /// By page: the tasks that touch it, at one time or another.
    touching: Arc<[Vec<usize>]>,
}

surefault_core::clone_in_place! { Guest {
    tasks, cpus, live; shared touching
} }

impl Guest {
    pub(crate) fn new(setup: &Setup) -> Guest {
        let lists = setup.workload.tasks();
        let vcpus = usize::from(setup.faults.vcpus);
        let task = |(id, touches): (u16, &Vec<Touch>)| Task {
            id: TaskId::new(id),
            touches: touches.as_slice().into(),
            at: 0,
            laps: setup.laps.saturating_sub(1),
            state: match touches.is_empty() {
                true => TaskState::Finished,
                false => TaskState::Runnable,
            },
            cpu: usize::from(id) % vcpus,
            place: usize::from(id) / vcpus,
            retries: 0,
            again: 0,
            asked_again: 0,
            said_ready: false,
            tried: false,
            met_failure: false,
            doomed: false,
            healthy: !touches.iter().any(|touch| setup.is_failing(touch.page)),
        };
        let cpu = |v: usize| Cpu {
            tasks: (v..lists.len()).step_by(vcpus).collect(),
            able: Bits::new(lists.len().div_ceil(vcpus)),
            running: Running::Counter,
            waiters: Vec::new(),
            ready: None,
        };
        let mut touching = vec![Vec::new(); setup.workload.pages().get() as usize];
        for (task, touches) in lists.iter().enumerate() {
            for touch in touches {
                let tasks: &mut Vec<usize> = &mut touching[touch.page.get() as usize];
                if tasks.last() != Some(&task) {
                    tasks.push(task);
                }
            }
        }
        let mut guest = Guest {
            tasks: (0..).zip(lists).map(task).collect(),
            cpus: (0..vcpus).map(cpu).collect(),
            live: 0,
            touching: touching.into(),
        };
        for task in &guest.tasks {
            if task.state == TaskState::Runnable {
                guest.live += 1;
                guest.cpus[task.cpu].able.insert(task.place);
            }
        }
        guest
    }

    pub(crate) fn running(&self, v: Vcpu) -> Running {
        self.cpus[v].running
    }

    /// Says who runs. Gives who ran before.
    pub(crate) fn set_running(&mut self, v: Vcpu, running: Running) -> Running {
        std::mem::replace(&mut self.cpus[v].running, running)
    }

    /// The task that runs, unless it is the counting one.
    pub(crate) fn current(&self, v: Vcpu) -> Option<&Task> {
        match self.cpus[v].running {
            Running::Task(task) => Some(&self.tasks[task]),
            Running::Counter => None,
        }
    }

    /// The same, to change.
    pub(crate) fn current_mut(&mut self, v: Vcpu) -> Option<&mut Task> {
        match self.cpus[v].running {
            Running::Task(task) => Some(&mut self.tasks[task]),
            Running::Counter => None,
        }
    }

    /// The address space that runs.
    #[inline]
    pub(crate) fn root(&self, v: Vcpu) -> Root {
        self.current(v).map_or(Root::new(1 << 12), Task::root)
    }

    /// Does something to every task that wants the page next.
    pub(crate) fn for_all_that_want(&mut self, page: PageIndex, mut what: impl FnMut(&mut Task)) {
        for &task in &self.touching[page.get() as usize] {
            let task = &mut self.tasks[task];
            if task.wants() == Some(page) {
                what(task);
            }
        }
    }

    /// How many tasks of the vCPU can run, the one that does included.
    pub(crate) fn able(&self, v: Vcpu) -> usize {
        self.cpus[v].able.count()
    }

    /// The `nth` of them in the order of their turns: whoever runs comes last.
    pub(crate) fn nth_able(&self, v: Vcpu, nth: usize) -> Option<TaskId> {
        let cpu = &self.cpus[v];
        let after = self.current(v).map_or(0, |task| task.place + 1);
        let place = cpu.able.nth_from(after, nth)?;
        Some(self.tasks[cpu.tasks[place]].id)
    }

    /// Whether the task runs.
    pub(crate) fn runs(&self, task: &Task) -> bool {
        self.running(task.cpu) == Running::Task(usize::from(task.id.get()))
    }

    /// Whether the task can run on the vCPU.
    pub(crate) fn can_run(&self, v: Vcpu, task: TaskId) -> bool {
        self.tasks
            .get(usize::from(task.get()))
            .is_some_and(|task| task.state == TaskState::Runnable && task.cpu == v)
    }

    pub(crate) fn set_state(&mut self, task: usize, state: TaskState) {
        let task = &mut self.tasks[task];
        let was_over = task.is_over();
        task.state = state;
        self.live -= usize::from(!was_over && task.is_over());
        let able = &mut self.cpus[task.cpu].able;
        match state {
            TaskState::Runnable => able.insert(task.place),
            TaskState::Waiting(_) | TaskState::Finished | TaskState::Killed => {
                able.remove(task.place);
            }
        }
    }

    /// The current task has its page: on to the next. False when it was the last.
    pub(crate) fn advance(&mut self, v: Vcpu) -> bool {
        let Running::Task(current) = self.cpus[v].running else {
            return false;
        };
        let task = &mut self.tasks[current];
        task.next_access();
        if task.wants().is_none() {
            self.set_state(current, TaskState::Finished);
            return false;
        }
        task.state == TaskState::Runnable
    }

    /// The handler of "page not present": the current task sleeps.
    pub(crate) fn sleep(&mut self, v: Vcpu, token: Token) {
        if let Running::Task(task) = self.cpus[v].running {
            self.set_state(task, TaskState::Waiting(token));
            self.cpus[v].waiters.push((token, task));
        }
    }

    /// Whoever waits for the token on the vCPU, taken off the list. Everybody in the order of their
    /// tokens where all are meant.
    pub(crate) fn take_waiters(&mut self, v: Vcpu, token: Token) -> Waiters {
        let waiters = &mut self.cpus[v].waiters;
        if token == WAKE_ALL {
            waiters.sort_unstable();
            return Waiters::All(std::mem::take(waiters).into_iter());
        }
        let at = waiters.iter().position(|&(other, _)| other == token);
        Waiters::One(at.map(|at| waiters.swap_remove(at).1))
    }

    /// Moves a task to another vCPU, to the end of its list.
    pub(crate) fn move_to(&mut self, task: usize, to: Vcpu) {
        let from = self.tasks[task].cpu;
        self.cpus[from].tasks.retain(|&other| other != task);
        self.cpus[to].tasks.push(task);
        self.tasks[task].cpu = to;
        for v in [from, to] {
            let cpu = &mut self.cpus[v];
            cpu.able = Bits::new(cpu.tasks.len());
            for (place, &task) in cpu.tasks.iter().enumerate() {
                self.tasks[task].place = place;
                if self.tasks[task].state == TaskState::Runnable {
                    cpu.able.insert(place);
                }
            }
        }
    }

    /// Every task has finished or is dead.
    pub(crate) fn is_done(&self) -> bool {
        self.live == 0
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
        healthy.map(Task::visits).sum()
    }
}

/// Tasks that a "ready" is for.
pub(crate) enum Waiters {
    One(Option<usize>),
    All(std::vec::IntoIter<(Token, usize)>),
}

impl Iterator for Waiters {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        match self {
            Waiters::One(task) => task.take(),
            Waiters::All(tasks) => tasks.next().map(|(_, task)| task),
        }
    }
}
