//! The course of a run: what is due when, and what is counted, as the machine says it.

use std::time::Duration;

use surefault_core::residency::Generation;
use surefault_core::run::Reported;
use surefault_core::{PageIndex, faults, residency};

use crate::agenda::Agenda;
use crate::machine::{Around, Listener, Move, Output, Vcpu};
use crate::result::{Counts, Measured};
use crate::scheduler::Scheduler;
use crate::source::Source;
use crate::spec::SimSpec;

use super::recording::Recording;
use super::tally::FailedSince;

/// From an exit to the next entry.
const EXIT: Duration = Duration::from_micros(5);
/// One touch of a page, and all that a task does between two.
const TOUCH: Duration = Duration::from_micros(2);

/// What happens next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// A vCPU's timer interrupt.
    Tick(Vcpu),
    /// A fetch comes back.
    Fetched(Generation, Result<(), residency::Fault>),
    /// A timer of the machine of pages, but for deadlines.
    PageTimer(residency::Timer),
    /// A timer of the machine of vCPUs.
    FaultsTimer(faults::Timer),
    /// A vCPU's guest acknowledges the ready event.
    Ack(Vcpu),
    /// A vCPU's guest turns asynchronous faults on or off.
    Apf(Vcpu, bool),
    /// The source can provide a page again.
    Repair(PageIndex),
    /// It can, and says nothing.
    Mend(PageIndex),
    /// The balloon takes a page.
    Remove(PageIndex),
    /// The pager takes a step.
    Pager,
    /// The worker that serves the pages is killed.
    Die,
}

/// What the clock knows of a vCPU.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock {
    /// The move that it makes next.
    pub(super) next: Option<Move>,
    /// It has made one.
    pub(super) has_started: bool,
    /// The stretch with interrupts off is over then.
    pub(super) irqs_on_at: Option<Duration>,
    /// Its counting task runs since then.
    pub(super) counts_since: Option<Duration>,
    /// The policy has had its asynchronous faults off since then.
    pub(super) off_since: Option<Duration>,
}

/// Where a run stands in time, and what came of it so far.
#[derive(Clone, Debug)]
pub(crate) struct Course {
    source: Source,
    pub(super) scheduler: Scheduler,
    pub(super) agenda: Agenda<Event, residency::Timer>,
    pub(super) clocks: Vec<Clock>,
    /// Pages that have failed, since when.
    pub(super) failed: FailedSince,
    pub(super) counts: Counts,
    pub(super) measured: Measured,
    /// What the counting tasks have had.
    pub(super) counted: Duration,
    pub(super) done: u64,
    pub(super) report: Option<Reported>,
    /// How long a stretch with interrupts off takes, and an ack.
    irqs_off_for: Duration,
    ack_delay: Duration,
    pub(super) recording: Option<Box<Recording>>,
}

impl Course {
    pub(super) fn new(spec: &SimSpec, recording: Option<Recording>) -> Course {
        Course {
            source: Source::new(spec),
            scheduler: Scheduler::new(spec),
            agenda: Agenda::new(usize::from(spec.run.vcpus)),
            clocks: vec![Clock::default(); usize::from(spec.run.vcpus)],
            failed: FailedSince::default(),
            counts: Counts::default(),
            measured: Measured::default(),
            counted: Duration::ZERO,
            done: 0,
            report: None,
            irqs_off_for: spec.irqs_off_for,
            ack_delay: spec.ack_delay,
            recording: recording.map(Box::new),
        }
    }
}

impl Listener for Course {
    // Where it is called it is known what follows, and only that is left of it.
    #[inline(always)]
    fn hear(&mut self, output: Output, around: Around<'_>) {
        if let Some(recording) = &mut self.recording {
            recording.note(output, around);
        }
        match output {
            Output::Go(v, next) => {
                let clock = &mut self.clocks[v];
                clock.next = Some(next);
                let after = match next {
                    // The boot takes no time.
                    Move::Enter if !clock.has_started => Duration::ZERO,
                    Move::Enter => EXIT,
                    Move::Touch => TOUCH,
                    // Whatever takes the vCPU out meanwhile does not make it longer.
                    Move::IrqsOn => {
                        let now = self.agenda.now();
                        let at = *clock.irqs_on_at.get_or_insert(now + self.irqs_off_for);
                        at.saturating_sub(now)
                    }
                };
                clock.has_started = true;
                self.agenda.move_after(after, v);
            }
            Output::Fetch(range) => {
                let is_repaired = |page| around.is_repaired(page);
                if let Some((after, result)) = self.source.fetch(&range, is_repaired) {
                    let back = Event::Fetched(range.generation, result);
                    self.agenda.after(after, back);
                }
            }
            Output::PageTimer(timer @ residency::Timer::Deadline { .. }, after) => {
                let is_live = |timer| around.pages.is_live(timer);
                self.agenda.deadline_after(after, timer, is_live);
            }
            Output::PageTimer(timer, after) => self.agenda.after(after, Event::PageTimer(timer)),
            Output::FaultsTimer(timer, after) => {
                self.agenda.after(after, Event::FaultsTimer(timer));
            }
            Output::Died => self
                .agenda
                .forget(|event| matches!(event, Event::Fetched(..) | Event::PageTimer(_))),
            Output::AckDue(v) => self.agenda.after(self.ack_delay, Event::Ack(v)),
            Output::Idle(v, idle) => {
                let now = self.agenda.now();
                if let Some(since) = self.clocks[v].counts_since.take() {
                    self.counted += now - since;
                }
                self.clocks[v].counts_since = idle.then_some(now);
            }
            Output::Happened(what) => self.count(what, around),
        }
    }
}
