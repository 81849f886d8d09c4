//! The canonical state of a world: what a checker compares and stores.

use surefault_core::faults::{Faults, ItemId, WAKE_ALL};
use surefault_core::policy::Policy;
use surefault_core::residency;
use surefault_core::{PageId, PageIndex, Token, VcpuId, faults};

use super::ledger::Planned;
use super::step::TimerKind;
use super::{Budgets, World};
use crate::machine::bits::Bits;
use crate::machine::{Mapped, PagerView, Pick, Running, TaskState, Thread};

/// A world without what no step depends on: live tokens, items and generations are numbered by age,
/// ticks and statistics dropped, sets sorted.
///
/// Worlds of one setup with equal views have equal [steps](World::steps), which lead to equal views.
/// (A guest that waits for a token which the machine has forgotten waits for ever, as long as tokens
/// do not come round: [`token_id_bits`](faults::FaultsConfig::token_id_bits).)
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct View<P> {
    faults: Faults<P>,
    pages: residency::View,
    tasks: Vec<TaskView>,
    cpus: Vec<CpuView>,
    threads: Vec<Thread>,
    mapped: Mapped,
    pager: Option<PagerView>,
    workers: Vec<(PageId, VcpuId, Option<ItemId>)>,
    backlog: Vec<PageId>,
    repaired: Bits,
    picks: Vec<Pick>,
    stopped: bool,
    fetches: Vec<(PageIndex, u32, Option<u64>, Planned, bool)>,
    timers: Vec<(TimerKind, PageIndex)>,
    faults_timers: Vec<faults::Timer>,
    attempts: Vec<(PageIndex, u8)>,
    budgets: Budgets,
}

/// A task: where it is on its list, and what became of its access.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct TaskView {
    at: usize,
    laps: u64,
    state: TaskStateView,
    cpu: usize,
    tried: bool,
    met_failure: bool,
    doomed: bool,
    /// Up to 2: promises are about one retry, or none.
    again: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum TaskStateView {
    Over,
    Runnable,
    /// For this token, if the machine still knows it.
    Waiting(Option<Token>),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct CpuView {
    running: Running,
    ready: Option<(Token, bool)>,
}

impl<P: Policy> World<P> {
    /// The canonical state.
    pub fn view(&self) -> View<P> {
        let machine = &self.machine;
        let (faults, names) = machine.faults.canonical();
        let token = |token| match token {
            WAKE_ALL => Some(WAKE_ALL),
            token => names.token(token),
        };
        let state = |state| match state {
            TaskState::Runnable => TaskStateView::Runnable,
            TaskState::Finished | TaskState::Killed => TaskStateView::Over,
            TaskState::Waiting(waits_for) => TaskStateView::Waiting(token(waits_for)),
        };
        let mut workers: Vec<_> = machine
            .workers
            .iter()
            .map(|&(page, vcpu, item)| (page, vcpu, names.item(vcpu, item)))
            .collect();
        workers.sort_unstable();
        let mut timers: Vec<_> = self
            .machine
            .listener
            .timers
            .iter()
            .copied()
            .map(TimerKind::of)
            .collect();
        timers.sort_unstable();
        timers.dedup();
        let mut faults_timers = self.machine.listener.faults_timers.clone();
        faults_timers.sort_unstable_by_key(|timer| match timer {
            faults::Timer::Unclaimed => None,
            faults::Timer::Policy(timer) => Some(timer.0),
        });
        View {
            faults,
            pages: machine.pages.view(),
            tasks: machine
                .guest
                .tasks
                .iter()
                .map(|task| TaskView {
                    at: task.at,
                    laps: task.laps,
                    state: state(task.state),
                    cpu: task.cpu,
                    tried: task.tried,
                    met_failure: task.met_failure,
                    doomed: task.doomed && !task.is_over(),
                    again: task.again.min(2),
                })
                .collect(),
            cpus: machine
                .guest
                .cpus
                .iter()
                .map(|cpu| CpuView {
                    running: cpu.running(),
                    ready: cpu
                        .ready
                        .map(|(ready, error)| (token(ready).unwrap_or_default(), error)),
                })
                .collect(),
            threads: machine
                .threads
                .iter()
                .map(|thread| Thread {
                    may_go_async: false,
                    halted_for: None,
                    halt_answered: false,
                    ..*thread
                })
                .collect(),
            mapped: machine.mapped.clone(),
            pager: machine
                .pager
                .as_ref()
                .map(|pager| pager.view(&machine.pages)),
            workers,
            backlog: machine.backlog.iter().copied().collect(),
            repaired: machine.repaired.clone(),
            picks: machine.picks().collect(),
            stopped: machine.is_stopped(),
            fetches: self
                .machine
                .listener
                .fetches
                .iter()
                .map(|fetch| {
                    let rank = machine.pages.rank(fetch.generation);
                    (
                        fetch.first,
                        fetch.count,
                        rank,
                        fetch.planned,
                        fetch.overtaken,
                    )
                })
                .collect(),
            timers,
            faults_timers,
            attempts: self
                .machine
                .listener
                .attempts
                .iter()
                .map(|(&a, &b)| (a, b))
                .collect(),
            budgets: self.left,
        }
    }
}
