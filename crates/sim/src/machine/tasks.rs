//! What becomes of tasks: they are woken, die, and go on elsewhere.

use surefault_core::policy::Policy;
use surefault_core::run::TaskId;

use super::{Ended, Happened, Listener, Machine, TaskState, Vcpu};

impl<P: Policy, L: Listener> Machine<P, L> {
    /// Wakes a task. Says where it went, if it went elsewhere.
    pub(super) fn wake(&mut self, v: Vcpu, woken: usize, error: bool) -> Option<Vcpu> {
        let task = &mut self.guest.tasks[woken];
        task.said_ready = true;
        let killed = task.doomed || task.met_failure && self.setup.killed.contains(&task.id);
        if killed || error {
            let how = if killed { Ended::Killed } else { Ended::Told };
            self.die(woken, how);
            return None;
        }
        let id = task.id;
        self.guest.set_state(woken, TaskState::Runnable);
        let next = (v + 1) % self.threads.len();
        let moved = self.setup.migrate && next != v;
        if moved {
            self.guest.move_to(woken, next);
        }
        let vcpu = if moved { next } else { v };
        self.happened(Happened::Woken { task: id, vcpu });
        moved.then_some(next)
    }

    pub(super) fn die(&mut self, task: usize, how: Ended) {
        self.guest.set_state(task, TaskState::Killed);
        let task = &mut self.guest.tasks[task];
        let (met_failure, retries) = (std::mem::take(&mut task.met_failure), task.retries);
        if let (task, Some(page)) = (task.id, task.wants()) {
            self.happened(Happened::Ended {
                task,
                page,
                how,
                retries,
                met_failure,
            });
        }
    }

    /// Somebody kills a task that does not run: at once, or as soon as it is woken.
    pub(super) fn kill(&mut self, task: TaskId) {
        let task = usize::from(task.get());
        match self.guest.tasks[task].state {
            TaskState::Waiting(_) => self.guest.tasks[task].doomed = true,
            TaskState::Runnable => self.die(task, Ended::Killed),
            TaskState::Finished | TaskState::Killed => {}
        }
    }

    /// A task that waits for its turn goes on elsewhere.
    pub(super) fn migrate(&mut self, task: TaskId, to: Vcpu) {
        self.guest.move_to(usize::from(task.get()), to);
        self.prod(to);
    }
}
