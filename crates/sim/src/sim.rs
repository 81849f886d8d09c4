//! The machine: both pure machines, a guest, a source, and one agenda.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use surefault_core::faults::{self, Faults, GuestApf, ItemId, Root};
use surefault_core::policy::{AnyPolicy, Policy};
use surefault_core::residency::{self, Generation, Residency};
use surefault_core::run::{ApfMode, Outcome, Reported, RunResult, RunStats};
use surefault_core::{PageId, PageIndex, RegionId, VcpuId};

use crate::agenda::Agenda;
use crate::guest::Guest;
use crate::result::{Counts, Measured, SimResult};
use crate::source::Source;
use crate::spec::{SimError, SimSpec};

/// An access counts as looping when it was taken this often after its page had been said ready.
const LOOPING: u64 = 100;

/// What happens next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// A vCPU's thread comes to the point before the guest.
    Entry(Turn),
    /// A vCPU's guest runs its next instruction.
    Instruction(Turn),
    /// A vCPU's timer interrupt.
    Tick(usize),
    /// A fetch comes back.
    Fetched(Generation, Result<(), residency::Fault>),
    /// A timer of the machine of pages.
    PageTimer(residency::Timer),
    /// A timer of the machine of vCPUs.
    FaultsTimer(faults::Timer),
    /// A vCPU's guest acknowledges the ready event.
    Ack(usize),
    /// A vCPU's guest turns asynchronous faults on or off.
    Apf(usize, bool),
    /// The source can provide a page again.
    Repair(PageIndex),
    /// The balloon takes a page.
    Remove(PageIndex),
}

/// A vCPU's next move. A newer one makes it void.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Turn {
    pub(crate) vcpu: usize,
    pub(crate) number: u64,
}

/// Where a vCPU's thread is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// In the host, on the way to the guest.
    Host,
    /// In the guest.
    Guest,
    /// Asleep until the page settles.
    Asleep(PageId),
    /// Halted artificially.
    Halted,
}

/// A vCPU's thread.
#[derive(Clone, Debug)]
pub(crate) struct Thread {
    pub(crate) place: Place,
    pub(crate) turn: u64,
    /// A kick has come that no entry has answered yet.
    pub(crate) kicked: bool,
    /// A SIGBUS from the prefault is pending (Linux takes the faults, the page is poisoned).
    pub(crate) early_sigbus: Option<PageId>,
    /// KVM's own conditions let the current fault go the asynchronous way.
    pub(crate) may_go_async: bool,
    /// The policy has had this vCPU's asynchronous faults off since then.
    pub(crate) off_since: Option<Duration>,
    /// Stopped with a report of this page, until it is repaired.
    pub(crate) stopped_for: Option<PageIndex>,
}

/// A simulated machine under the error policy `P`.
#[derive(Clone, Debug)]
pub struct Sim<P> {
    pub(crate) spec: SimSpec,
    pub(crate) faults: Faults<P>,
    pub(crate) pages: Residency,
    pub(crate) guest: Guest,
    pub(crate) source: Source,
    pub(crate) agenda: Agenda<Event>,
    pub(crate) threads: Vec<Thread>,
    /// What is mapped for the guest, by address space under shadow paging.
    pub(crate) mapped: BTreeSet<(Root, PageIndex)>,
    /// Items whose work waits for their page.
    pub(crate) workers: BTreeMap<PageId, Vec<(VcpuId, ItemId)>>,
    /// Demands that found no room.
    pub(crate) backlog: VecDeque<PageId>,
    /// Pages that have failed, since when.
    pub(crate) failed: BTreeMap<PageIndex, Duration>,
    pub(crate) counts: Counts,
    pub(crate) measured: Measured,
    pub(crate) done: u64,
    pub(crate) report: Option<Reported>,
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
        spec.check()?;
        let pages = Residency::new(spec.residency_config(), &[spec.run.pages])?;
        let faults = Faults::with(spec.faults_config(), policy)?;
        let thread = Thread {
            place: Place::Host,
            turn: 0,
            kicked: false,
            early_sigbus: None,
            may_go_async: false,
            off_since: None,
            stopped_for: None,
        };
        let mut sim = Sim {
            pages,
            faults,
            guest: Guest::new(spec),
            source: Source::new(spec),
            agenda: Agenda::new(),
            threads: vec![thread; usize::from(spec.run.vcpus)],
            mapped: BTreeSet::new(),
            workers: BTreeMap::new(),
            backlog: VecDeque::new(),
            failed: BTreeMap::new(),
            counts: Counts::default(),
            measured: Measured::default(),
            done: 0,
            report: None,
            spec: spec.clone(),
        };
        sim.boot();
        Ok(sim)
    }

    /// The machine of vCPUs, to look at.
    pub fn faults(&self) -> &Faults<P> {
        &self.faults
    }

    /// The machine of pages, to look at.
    pub fn pages(&self) -> &Residency {
        &self.pages
    }

    fn boot(&mut self) {
        for v in 0..self.threads.len() {
            if self.spec.guest_apf && self.spec.run.apf != ApfMode::Off {
                self.faults
                    .handle_guest_apf(vcpu_id(v), self.guest_apf(true));
            }
            self.go(v, Duration::ZERO, Event::Entry);
            self.agenda.after(self.spec.tick, Event::Tick(v));
            for &(at, on) in &self.spec.apf_changes {
                self.agenda.after(at, Event::Apf(v, on));
            }
        }
        for &(at, page) in &self.spec.repairs {
            self.agenda.after(at, Event::Repair(page));
        }
        for &(at, page) in &self.spec.removals {
            self.agenda.after(at, Event::Remove(page));
        }
    }

    /// The same, and says what a comparison wants to know of the machine at the end: errors that
    /// nobody has come back for, and the bytes that the policy keeps.
    pub(crate) fn run_and_measure(mut self) -> (SimResult, u64, u64) {
        let outcome = self.advance();
        let owed = self.faults.owed() as u64;
        let bytes = self.faults.policy().state_bytes() as u64;
        (self.finish(outcome), owed, bytes)
    }

    pub(crate) fn guest_apf(&self, on: bool) -> GuestApf {
        match on {
            true => GuestApf::On {
                send_always: false,
                error_word: self.spec.guest_reads_errors,
            },
            false => GuestApf::Off,
        }
    }

    /// Runs to the end: all tasks over, a report (unless those are healed), or a limit.
    pub fn run(mut self) -> SimResult {
        let outcome = self.advance();
        self.finish(outcome)
    }

    /// The same, and gives the machine as it is then.
    pub fn run_and_keep(mut self) -> (SimResult, Sim<P>) {
        let outcome = self.advance();
        (self.clone().finish(outcome), self)
    }

    fn advance(&mut self) -> Outcome {
        self.settle();
        loop {
            if self.report.is_some() {
                return Outcome::Reported;
            }
            if self.guest.is_done() {
                return Outcome::Finished;
            }
            let again = self.counts.max_asked_again;
            if self.spec.loop_limit.is_some_and(|limit| again >= limit) {
                return Outcome::Looped;
            }
            let event = match self.counts.steps < self.spec.max_steps {
                true => self.agenda.next(self.spec.run.timeout),
                false => None,
            };
            let Some(event) = event else {
                return match self.counts.max_asked_again >= LOOPING {
                    true => Outcome::Looped,
                    false => Outcome::TimedOut,
                };
            };
            self.counts.steps += 1;
            self.play(event);
            self.settle();
            self.measure_off();
        }
    }

    fn play(&mut self, event: Event) {
        match event {
            Event::Entry(turn) if self.is_current(turn) => self.entry(turn.vcpu),
            Event::Instruction(turn) if self.is_current(turn) => self.instruction(turn.vcpu),
            Event::Entry(_) | Event::Instruction(_) => {}
            Event::Tick(v) => self.tick(v),
            Event::Fetched(generation, result) => self.pages.handle_fetched(generation, result),
            Event::PageTimer(timer) => self.pages.handle_timer(timer),
            Event::FaultsTimer(timer) => drop(self.faults.handle_timer(timer)),
            Event::Ack(v) => drop(self.faults.handle_ack(vcpu_id(v))),
            Event::Apf(v, on) => self.change_apf(v, on),
            Event::Repair(page) => self.repair(page),
            Event::Remove(page) => self.remove(page),
        }
    }

    /// Notes since when, and until when, the policy has a vCPU's asynchronous faults off.
    fn measure_off(&mut self) {
        let now = self.agenda.now();
        for (v, thread) in self.threads.iter_mut().enumerate() {
            match (thread.off_since, self.faults.policy().is_off(vcpu_id(v))) {
                (None, true) => thread.off_since = Some(now),
                (Some(since), false) => {
                    self.measured.off += now - since;
                    thread.off_since = None;
                }
                (None, false) | (Some(_), true) => {}
            }
        }
    }

    /// Carries out effects of both machines until neither has any, and arms their timers.
    fn settle(&mut self) {
        loop {
            if let Some(effect) = self.faults.poll_effect() {
                self.faults_effect(effect);
            } else if let Some(effect) = self.pages.poll_effect() {
                self.pages_effect(effect);
            } else {
                break;
            }
        }
        while let Some((timer, after)) = self.pages.poll_timer() {
            self.agenda.after(after, Event::PageTimer(timer));
        }
        while let Some((timer, after)) = self.faults.poll_timer() {
            self.agenda.after(after, Event::FaultsTimer(timer));
        }
    }

    /// Puts down a vCPU's next move, in place of any other.
    pub(crate) fn go(&mut self, v: usize, after: Duration, event: fn(Turn) -> Event) {
        let thread = &mut self.threads[v];
        thread.turn += 1;
        let turn = Turn {
            vcpu: v,
            number: thread.turn,
        };
        self.agenda.after(after, event(turn));
    }

    fn is_current(&self, turn: Turn) -> bool {
        self.threads[turn.vcpu].turn == turn.number
    }

    fn finish(mut self, outcome: Outcome) -> SimResult {
        let now = self.agenda.now();
        let off = |thread: &Thread| thread.off_since.map(|since| now - since);
        self.measured.off += self.threads.iter().filter_map(off).sum::<Duration>();
        for task in self.guest.tasks.iter().filter(|task| task.met_failure) {
            self.measured.retries.add(task.retries);
        }
        self.measured.healthy_all = self.guest.healthy_visits();
        SimResult {
            run: RunResult {
                outcome,
                report: self.report,
                stats: RunStats {
                    pages_done: self.done,
                    tasks_finished: self.guest.finished(),
                    // Pages have no content here.
                    wrong_sums: 0,
                    unchecked_sums: 0,
                    healed: self.counts.reports - u64::from(outcome == Outcome::Reported),
                    tokens_left: self.guest.tokens_left(),
                    progress: self.guest.progress(now),
                    elapsed: now,
                    ..RunStats::default()
                },
            },
            counts: self.counts,
            measured: self.measured,
        }
    }
}

pub(crate) fn vcpu_id(v: usize) -> VcpuId {
    VcpuId::new(v as u32)
}

/// The demand-paged region is the only one.
pub(crate) fn page_id(index: PageIndex) -> PageId {
    PageId::new(RegionId::new(0), index)
}
