//! The simulation: a machine whose next step is chosen by time, a fault plan and a seed.

mod course;
mod recording;
mod tally;

use std::sync::Arc;
use std::time::Duration;

use surefault_core::faults::Faults;
use surefault_core::plan::mix;
use surefault_core::policy::{AnyPolicy, Policy};
use surefault_core::residency::Residency;
use surefault_core::run::{ApfMode, Outcome};

use crate::agenda::Next;
use crate::machine::{Input, Machine, Move, Vcpu};
use crate::result::{Counts, SimResult};
use crate::spec::{SimError, SimSpec};
use crate::world::Step;

use course::{Course, Event};
use recording::Recording;

/// An access counts as looping when it was taken this often after its page had been said ready.
const LOOPING: u64 = 100;
/// A guest that is not running is asked again after this.
const LATER: Duration = Duration::from_micros(10);
/// What one step of the pager takes.
const PAGER: Duration = Duration::from_micros(1);
/// From a worker's death until another one begins.
const RESTART: Duration = Duration::from_micros(200);
/// Of the steps between which a worker may be killed at random one in so many.
const DEADLY: u64 = 8;
/// What one iteration of the counting task takes.
const COUNT: Duration = Duration::from_micros(1);

/// A simulated machine under the error policy `P`.
#[derive(Clone, Debug)]
pub struct Sim<P> {
    spec: SimSpec,
    pub(crate) machine: Machine<P, Course>,
    /// The pager's next step is on the agenda.
    pager_goes_on: bool,
    /// Deaths at random moments that are left, and what was drawn for them and for the pager's turns.
    deaths_left: u16,
    pager_draws: u64,
}

impl Sim<AnyPolicy> {
    /// A machine that is about to run `spec`, under the policy that it names.
    ///
    /// # Errors
    /// When `spec` makes no sense.
    pub fn new(spec: &SimSpec) -> Result<Sim<AnyPolicy>, SimError> {
        let policy = spec.effective_policy().build(&spec.faults_config());
        Sim::with_policy(spec, policy)
    }
}

impl<P: Policy> Sim<P> {
    /// The same under a policy of one's own.
    ///
    /// # Errors
    /// When `spec` makes no sense.
    pub fn with_policy(spec: &SimSpec, policy: P) -> Result<Sim<P>, SimError> {
        Sim::on(spec, policy, None)
    }

    fn on(spec: &SimSpec, policy: P, recording: Option<Recording>) -> Result<Sim<P>, SimError> {
        spec.check()?;
        let course = Course::new(spec, recording);
        let mut sim = Sim {
            machine: Machine::new(Arc::new(spec.setup()), policy, course)?,
            pager_goes_on: false,
            deaths_left: spec.deaths.random,
            pager_draws: 0,
            spec: spec.clone(),
        };
        sim.boot();
        Ok(sim)
    }

    /// The same, with its first `limit` steps recorded.
    ///
    /// # Errors
    /// When `spec` makes no sense.
    pub fn recorded(spec: &SimSpec, policy: P, limit: usize) -> Result<Sim<P>, SimError> {
        Sim::on(spec, policy, Some(Recording::new(limit)))
    }

    /// The same with a deliberate mistake in the pager, for tests that must notice.
    #[cfg(test)]
    pub(crate) fn with_pager_mistake(mut self, mistake: crate::machine::Mistake) -> Sim<P> {
        if let Some(pager) = &mut self.machine.pager {
            pager.mistake = Some(mistake);
        }
        self
    }

    /// The steps that were recorded, in the words of [`World`](crate::world::World).
    pub fn steps(&self) -> &[Step] {
        let recording = self.machine.listener.recording.as_ref();
        recording.map_or(&[], |recording| recording.steps())
    }

    /// The machine of vCPUs, to look at.
    pub fn faults(&self) -> &Faults<P> {
        self.machine.faults()
    }

    /// The machine of pages, to look at.
    pub fn pages(&self) -> &Residency {
        self.machine.pages()
    }

    fn boot(&mut self) {
        self.settle();
        let spec = &self.spec;
        let agenda = &mut self.machine.listener.agenda;
        for v in 0..usize::from(spec.run.vcpus) {
            agenda.after(spec.tick, Event::Tick(v));
            for &(at, on) in &spec.apf_changes {
                agenda.after(at, Event::Apf(v, on));
            }
        }
        for &(at, page) in &spec.repairs {
            agenda.after(at, Event::Repair(page));
        }
        for &(at, page) in &spec.mends {
            agenda.after(at, Event::Mend(page));
        }
        for &(at, page) in &spec.removals {
            agenda.after(at, Event::Remove(page));
        }
        for &at in &spec.deaths.after {
            agenda.after(at, Event::Die);
        }
    }

    /// The same, and says what a comparison wants to know of the machine at the end: errors that
    /// nobody has come back for, and the bytes that the policy keeps.
    pub(crate) fn run_and_measure(mut self) -> (SimResult, u64, u64) {
        let outcome = self.advance();
        let owed = self.faults().owed() as u64;
        let bytes = self.faults().policy().state_bytes() as u64;
        (self.finish(outcome), owed, bytes)
    }

    /// Runs to the end: all tasks over, a report (unless those are healed), or a limit.
    pub fn run(mut self) -> SimResult {
        let outcome = self.advance();
        self.finish(outcome)
    }

    /// Until when it runs; later than it has run already, it goes on as if it had never stopped.
    pub(crate) fn limit_to(&mut self, timeout: Duration) {
        self.spec.run.timeout = timeout;
    }

    /// The same, and gives the machine as it is then.
    pub fn run_and_keep(mut self) -> (SimResult, Sim<P>) {
        let outcome = self.advance();
        (self.clone().finish(outcome), self)
    }

    /// Goes on until `faults` have been taken in all, for as long as nothing else ends the run: then
    /// the outcome is [`Outcome::TimedOut`].
    pub fn run_until_faults(&mut self, faults: u64) -> Outcome {
        self.advance_until(faults)
    }

    /// What has been counted so far.
    pub fn counts(&self) -> &Counts {
        &self.machine.listener.counts
    }

    fn course(&mut self) -> &mut Course {
        &mut self.machine.listener
    }

    fn advance(&mut self) -> Outcome {
        self.advance_until(u64::MAX)
    }

    fn advance_until(&mut self, faults: u64) -> Outcome {
        loop {
            if self.counts().faults >= faults {
                return Outcome::TimedOut;
            }
            if self.machine.is_stopped() {
                return Outcome::Reported;
            }
            if self.machine.is_done() {
                return Outcome::Finished;
            }
            let again = self.counts().max_asked_again;
            if self.spec.loop_limit.is_some_and(|limit| again >= limit) {
                return Outcome::Looped;
            }
            if self.is_deadly_step() {
                self.apply(Input::Die);
                self.settle();
            }
            let timeout = self.spec.run.timeout;
            let next = match self.counts().steps < self.spec.max_steps {
                true => self.course().agenda.next(timeout),
                false => None,
            };
            let Some(next) = next else {
                return match self.counts().max_asked_again >= LOOPING {
                    true => Outcome::Looped,
                    false => Outcome::TimedOut,
                };
            };
            self.course().counts.steps += 1;
            let input = match next {
                Next::Move(v) => self.next_move(v),
                Next::Deadline(timer) => Some(Input::PageTimer(timer)),
                Next::Event(event) => self.input(event),
            };
            if let Some(input) = input {
                self.apply(input);
                self.settle();
                self.measure_off();
            }
        }
    }

    /// The worker is to be killed before the next step.
    fn is_deadly_step(&mut self) -> bool {
        let next = self.counts().steps + 1;
        let steps = &mut self.spec.deaths.at_steps;
        !steps.is_empty() && steps.remove(&next) && self.machine.is_served()
    }

    /// A vCPU's thread makes its move.
    fn next_move(&mut self, v: Vcpu) -> Option<Input> {
        Some(match self.course().clocks[v].next.take()? {
            Move::Enter => Input::Enter(v),
            Move::Touch => Input::Touch(v),
            Move::IrqsOn => {
                self.course().clocks[v].irqs_on_at = None;
                Input::IrqsOn(v)
            }
        })
    }

    /// What an event is to the machine, if it is anything.
    fn input(&mut self, event: Event) -> Option<Input> {
        Some(match event {
            Event::Tick(v) => {
                let tick = self.spec.tick;
                self.course().agenda.after(tick, Event::Tick(v));
                Input::Tick(v)
            }
            Event::Fetched(generation, result) => Input::Fetched(generation, result),
            Event::PageTimer(timer) => Input::PageTimer(timer),
            Event::FaultsTimer(timer) => Input::FaultsTimer(timer),
            Event::Ack(v) => Input::Ack(v),
            // There is nothing to turn on.
            Event::Apf(..) if self.spec.run.apf == ApfMode::Off => return None,
            Event::Apf(v, on) if self.machine.is_in_guest(v) => Input::Apf(v, on),
            Event::Apf(..) => {
                self.course().agenda.after(LATER, event);
                return None;
            }
            Event::Repair(page) if !self.machine.can_repair(page) => return None,
            Event::Repair(page) => Input::Repair(page),
            Event::Mend(page) if !self.machine.can_mend(page) => return None,
            Event::Mend(page) => Input::Mend(page),
            Event::Remove(page) if !self.machine.can_remove(page) => return None,
            Event::Remove(page) => {
                self.course().failed.forget(page);
                Input::Remove(page)
            }
            Event::Pager => {
                self.pager_goes_on = false;
                self.pager_step()?
            }
            Event::Die if !self.machine.is_served() => return None,
            Event::Die => Input::Die,
        })
    }

    /// What the pager does next, and whose turn it is: by the run's seed.
    fn pager_step(&mut self) -> Option<Input> {
        let steps = self.machine.pager_steps();
        let step = *steps.get(self.draw_for_pager(steps.len().max(1) as u64) as usize)?;
        let may_die = self.deaths_left > 0 && self.machine.is_served();
        if may_die && self.draw_for_pager(DEADLY) == 0 {
            self.deaths_left -= 1;
            return Some(Input::Die);
        }
        Some(Input::Pager(step))
    }

    /// A number below `below`, from the run's seed.
    fn draw_for_pager(&mut self, below: u64) -> u64 {
        self.pager_draws += 1;
        mix(self.spec.run.seed ^ mix(self.pager_draws << 32)) % below
    }

    /// Puts the pager's next step down, if it has one.
    fn have_pager_go_on(&mut self) {
        if !self.pager_goes_on && self.machine.is_pager_busy() {
            self.pager_goes_on = true;
            let after = match self.machine.is_served() {
                true => PAGER,
                false => RESTART,
            };
            self.course().agenda.after(after, Event::Pager);
        }
    }

    /// Answers the schedulers.
    fn settle(&mut self) {
        while let Some(pick) = self.machine.pick() {
            let Machine {
                listener, guest, ..
            } = &mut self.machine;
            let task = listener.scheduler.choose(pick, guest);
            self.apply(Input::Switch(pick.vcpu, task));
        }
        self.have_pager_go_on();
    }

    #[inline]
    fn apply(&mut self, input: Input) {
        if let Some(mut recording) = self.course().recording.take() {
            recording.record(input, &self.machine);
            self.course().recording = Some(recording);
        }
        self.machine.apply(input);
    }
}
