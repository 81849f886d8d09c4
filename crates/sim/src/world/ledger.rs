//! What is outstanding: fetches that have not come back, and timers that run. It gives the exact
//! names of the machines' own ([`Input`]) names that last ([`Step`]).

use std::collections::BTreeMap;

use surefault_core::plan::FailureMode;
use surefault_core::residency::{self, FetchRange, Generation, Residency};
use surefault_core::{PageIndex, faults};

use super::step::{Answer, Step, TimerKind, of_faults_timer};
use crate::machine::{Around, Happened, Input, Listener, Output, vcpu_id};

/// What a source will say to a fetch. Decided when the fetch begins, so that one that began before
/// a repair still fails after it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Planned {
    /// This.
    Says(Answer),
    /// Data, or a temporary error.
    Either,
    /// Nothing, ever.
    Silent,
}

/// A fetch that has not come back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Fetch {
    pub(crate) generation: Generation,
    pub(crate) first: PageIndex,
    pub(crate) count: u32,
    pub(crate) planned: Planned,
    /// One of its pages was removed or repaired since it began.
    pub(crate) overtaken: bool,
}

/// What is outstanding.
#[derive(Debug, Default)]
pub struct Ledger {
    pub(crate) fetches: Vec<Fetch>,
    pub(crate) timers: Vec<residency::Timer>,
    pub(crate) faults_timers: Vec<faults::Timer>,
    /// Attempts at pages that heal after some, where nobody else counts them.
    pub(crate) attempts: BTreeMap<PageIndex, u8>,
    /// What comes about in a step. Empty between two of them.
    pub(crate) happened: Vec<Happened>,
}

surefault_core::clone_in_place! { Ledger {
    fetches, timers, faults_timers, attempts; queues happened
} }

impl Listener for Ledger {
    #[inline]
    fn hear(&mut self, output: Output, around: Around<'_>) {
        match output {
            Output::Fetch(range) => {
                let planned = self.plan(&range, around);
                self.fetches.push(Fetch {
                    generation: range.generation,
                    first: range.first.index(),
                    count: range.count,
                    planned,
                    overtaken: false,
                });
            }
            Output::PageTimer(timer, _) => self.timers.push(timer),
            Output::FaultsTimer(timer, _) if !self.faults_timers.contains(&timer) => {
                self.faults_timers.push(timer);
            }
            Output::Died => {
                self.fetches.clear();
                self.timers.clear();
            }
            Output::Happened(what) => self.happened.push(what),
            Output::FaultsTimer(..) | Output::Go(..) | Output::AckDue(_) | Output::Idle(..) => {}
        }
    }
}

impl Ledger {
    /// Strikes out the timers that have become pointless.
    pub(crate) fn prune(&mut self, pages: &Residency) {
        self.timers.retain(|&timer| pages.is_live(timer));
    }

    fn plan(&mut self, range: &FetchRange, around: Around<'_>) -> Planned {
        let first = range.first.index().get();
        let mut planned = Planned::Says(Answer::Data);
        for page in (first..first + range.count).map(PageIndex::new) {
            let says = self.plan_page(page, range.attempt, around);
            planned = match (planned, says) {
                // It takes as long as its slowest page, and fails with the first that does.
                (Planned::Silent, _) | (_, Planned::Silent) => Planned::Silent,
                (Planned::Says(Answer::Data), says) => says,
                (Planned::Either, Planned::Says(answer)) if answer != Answer::Data => {
                    Planned::Says(answer)
                }
                (planned, _) => planned,
            };
        }
        planned
    }

    fn plan_page(&mut self, page: PageIndex, attempt: u8, around: Around<'_>) -> Planned {
        let setup = around.setup;
        let mode = setup.failing.get(&page).copied();
        let attempt = match mode {
            Some(FailureMode::Temporary { failures }) if !setup.keeps_record => {
                let attempts = self.attempts.entry(page).or_default();
                *attempts = attempts.saturating_add(1).min(failures.saturating_add(1));
                *attempts
            }
            Some(_) | None => attempt,
        };
        if around.is_repaired(page) {
            return Planned::Says(Answer::Data);
        }
        match mode.unwrap_or(FailureMode::Healthy) {
            FailureMode::Permanent => Planned::Says(Answer::Permanent),
            FailureMode::Truncate => Planned::Says(Answer::Truncated),
            FailureMode::Stall => Planned::Silent,
            FailureMode::Temporary { failures } if attempt <= failures => {
                Planned::Says(Answer::Temporary)
            }
            FailureMode::Healthy | FailureMode::Temporary { .. } => {
                match setup.intermittent.contains(&page) {
                    true => Planned::Either,
                    false => Planned::Says(Answer::Data),
                }
            }
        }
    }

    /// The steps with which outstanding things come.
    pub(crate) fn steps(&self, into: &mut Vec<Step>) {
        for (at, fetch) in self.fetches.iter().enumerate() {
            let (page, nth) = (fetch.first, self.nth(at));
            let mut push = |answer| into.push(Step::Fetched { page, nth, answer });
            match fetch.planned {
                Planned::Says(answer) => push(answer),
                Planned::Either => [Answer::Data, Answer::Temporary].into_iter().for_each(push),
                Planned::Silent => {}
            }
        }
        for &timer in &self.timers {
            let (kind, page) = TimerKind::of(timer);
            let step = Step::PageTimer(kind, page);
            if !into.contains(&step) {
                into.push(step);
            }
        }
        into.extend(
            self.faults_timers
                .iter()
                .map(|&timer| of_faults_timer(timer)),
        );
    }

    /// Of the fetches with the same first page, the how manieth this one is.
    fn nth(&self, at: usize) -> u8 {
        let first = self.fetches[at].first;
        let older = self.fetches[..at]
            .iter()
            .filter(|other| other.first == first);
        u8::try_from(older.count()).unwrap_or(u8::MAX)
    }

    /// The input that this step is, with its place on the list cleared.
    pub(crate) fn take(&mut self, step: Step) -> Option<Input> {
        if let Step::Remove(page) | Step::Repair(page) = step {
            for fetch in &mut self.fetches {
                let pages = fetch.first.get()..fetch.first.get() + fetch.count;
                fetch.overtaken |= pages.contains(&page.get());
            }
        }
        Some(match step {
            Step::Fetched { page, nth, answer } => {
                let at = (0..self.fetches.len())
                    .find(|&at| self.fetches[at].first == page && self.nth(at) == nth)?;
                Input::Fetched(self.fetches.remove(at).generation, answer.result())
            }
            Step::PageTimer(kind, page) => {
                let same = |&timer: &residency::Timer| TimerKind::of(timer) == (kind, page);
                let at = self.timers.iter().position(same)?;
                Input::PageTimer(self.timers.remove(at))
            }
            Step::Unclaimed | Step::PolicyTimer(_) => {
                let same = |&timer: &faults::Timer| of_faults_timer(timer) == step;
                let at = self.faults_timers.iter().position(same)?;
                Input::FaultsTimer(self.faults_timers.remove(at))
            }
            Step::Enter(vcpu) => Input::Enter(index(vcpu)),
            Step::Touch(vcpu) => Input::Touch(index(vcpu)),
            Step::IrqsOn(vcpu) => Input::IrqsOn(index(vcpu)),
            Step::Switch(vcpu, task) => Input::Switch(index(vcpu), task),
            Step::Tick(vcpu) => Input::Tick(index(vcpu)),
            Step::Ack(vcpu) => Input::Ack(index(vcpu)),
            Step::Apf(vcpu, on) => Input::Apf(index(vcpu), on),
            Step::Repair(page) => Input::Repair(page),
            Step::Mend(page) => Input::Mend(page),
            Step::Relapse(page) => Input::Relapse(page),
            Step::Remove(page) => Input::Remove(page),
            Step::Kill(task) => Input::Kill(task),
            Step::Migrate(task, vcpu) => Input::Migrate(task, index(vcpu)),
            Step::Pager(step) => Input::Pager(step),
            Step::Die => Input::Die,
        })
    }

    /// The step that this input is, with its place on the list cleared; `None` for what changes
    /// nothing.
    pub(crate) fn name(&mut self, input: Input) -> Option<Step> {
        Some(match input {
            Input::Fetched(generation, result) => {
                let same = |fetch: &Fetch| fetch.generation == generation;
                let at = self.fetches.iter().position(same)?;
                let (page, nth) = (self.fetches[at].first, self.nth(at));
                self.fetches.remove(at);
                let answer = Answer::of(&result);
                Step::Fetched { page, nth, answer }
            }
            Input::PageTimer(timer) => {
                let at = self.timers.iter().position(|&other| other == timer)?;
                self.timers.remove(at);
                let (kind, page) = TimerKind::of(timer);
                Step::PageTimer(kind, page)
            }
            Input::FaultsTimer(timer) => {
                let at = self
                    .faults_timers
                    .iter()
                    .position(|&other| other == timer)?;
                self.faults_timers.remove(at);
                of_faults_timer(timer)
            }
            Input::Enter(v) => Step::Enter(vcpu_id(v)),
            Input::Touch(v) => Step::Touch(vcpu_id(v)),
            Input::IrqsOn(v) => Step::IrqsOn(vcpu_id(v)),
            Input::Switch(v, task) => Step::Switch(vcpu_id(v), task),
            Input::Tick(v) => Step::Tick(vcpu_id(v)),
            Input::Ack(v) => Step::Ack(vcpu_id(v)),
            Input::Apf(v, on) => Step::Apf(vcpu_id(v), on),
            Input::Repair(page) => Step::Repair(page),
            Input::Mend(page) => Step::Mend(page),
            Input::Relapse(page) => Step::Relapse(page),
            Input::Remove(page) => Step::Remove(page),
            Input::Kill(task) => Step::Kill(task),
            Input::Migrate(task, v) => Step::Migrate(task, vcpu_id(v)),
            Input::Pager(step) => Step::Pager(step),
            Input::Die => Step::Die,
        })
    }
}

fn index(vcpu: surefault_core::VcpuId) -> usize {
    vcpu.get() as usize
}
