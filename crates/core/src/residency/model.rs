//! A kernel, a source and waiting threads around a residency machine, for the property tests.
//!
//! It plays the driver's part one small step at a time, in any order, and knows what must be true
//! of every page independently of the machine: what the kernel has there, what the source would
//! say, who waits since when.

use std::time::Duration;

use super::{
    Admission, Defect, Effect, Fault, FetchRange, Generation, InstallResult, Marked, PageOutcome,
    PageState, Residency, ResidencyConfig, Timer,
};
use crate::{
    Cause, CauseId, CauseKind, Failure, PageCount, PageId, PageIndex, Persistence, RegionId,
};

/// What the model kernel has in a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Held {
    Nothing,
    Data,
    Zeros,
    Marker,
}

/// How the model source answers for a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    Healthy,
    Permanent,
    /// The first attempts fail.
    Temporary(u8),
    Stalled,
}

struct Page {
    held: Held,
    /// What the guest must read there: zeros if it was removed, else data.
    removed: bool,
    source: Source,
    /// When the thread that waits for it began to.
    waiting_since: Option<Duration>,
    /// A second thread waits, too.
    joined: bool,
    /// Attempts alone that failed since the page's last fresh start.
    failures_seen: u8,
    permanent_seen: bool,
    deadline_seen: bool,
}

/// Something of the driver's that is under way.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Work {
    Fetch(FetchRange, Duration),
    /// Decided by the machine, not yet done.
    Do(Effect),
    /// Done, not yet acknowledged.
    Done(Effect, Marked),
}

/// One small step of the world.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Touch(u32),
    Prefetch(u32, u32),
    /// The nth fetch under way comes back.
    Fetched(usize),
    /// The nth other work under way goes one step further.
    Work(usize),
    Remove(u32, u32),
    /// Repair the source and heal.
    Heal(u32, u32),
    /// The slot is replaced.
    Cancel(u32, u32),
    /// Time passes, in units of a sixteenth of the deadline.
    Wait(u32),
}

pub(super) struct Model {
    pub(super) machine: Residency,
    pages: Vec<Page>,
    work: Vec<Work>,
    timers: Vec<(Duration, Timer)>,
    now: Duration,
    deadline: Duration,
    attempts: u8,
}

const REGION: RegionId = RegionId::new(0);

fn id(n: u32) -> PageId {
    PageId::new(REGION, PageIndex::new(n))
}

fn nth(page: PageId) -> usize {
    page.index().get() as usize
}

impl Model {
    pub(super) fn new(
        config: ResidencyConfig,
        sources: &[Source],
        defect: Option<Defect>,
    ) -> Model {
        let (deadline, attempts) = (config.deadline, config.attempts);
        let count = PageCount::new(sources.len() as u64);
        let mut machine = Residency::new(config, &[count]).unwrap();
        if let Some(defect) = defect {
            machine = machine.with_defect(defect);
        }
        let page = |&source| Page {
            held: Held::Nothing,
            removed: false,
            source,
            waiting_since: None,
            joined: false,
            failures_seen: 0,
            permanent_seen: false,
            deadline_seen: false,
        };
        Model {
            machine,
            pages: sources.iter().map(page).collect(),
            work: Vec::new(),
            timers: Vec::new(),
            now: Duration::ZERO,
            deadline,
            attempts,
        }
    }

    /// Takes one step; what the world forbids at this moment is passed over.
    ///
    /// # Errors
    /// What the machine did wrong.
    pub(super) fn step(&mut self, step: Step) -> Result<(), String> {
        let pages = self.pages.len() as u32;
        match step {
            Step::Touch(page) => self.touch(page % pages)?,
            Step::Prefetch(first, count) => {
                self.machine
                    .handle_prefetch(id(first % pages), count)
                    .unwrap();
            }
            Step::Fetched(n) => self.fetched(n),
            Step::Work(n) => self.go_on(n)?,
            Step::Remove(first, count) => self.remove(first % pages, count),
            Step::Heal(first, count) => self.heal(first % pages, count),
            Step::Cancel(first, count) => self.cancel(first % pages, count),
            Step::Wait(units) => self.wait(self.deadline / 16 * units)?,
        }
        self.settle()
    }

    /// Lets everything come to its end, fairly, in a bounded number of steps.
    pub(super) fn drain(&mut self) -> Result<(), String> {
        for _ in 0..self.pages.len() * 200 {
            let fetch = self.work.iter().position(|work| self.will_answer(work));
            if let Some(n) = fetch {
                self.answer(n);
            } else if let Some(n) = self.work.iter().position(|w| !matches!(w, Work::Fetch(..))) {
                self.go_on_with(n)?;
            } else if let Some((due, _)) = self.timers.iter().min_by_key(|(due, _)| *due) {
                self.wait(due.saturating_sub(self.now))?;
            } else if let Some(waiting) = self.pages.iter().position(|p| p.waiting_since.is_some())
            {
                return Err(format!("the wait for page {waiting} never ends"));
            } else {
                // What is left belongs to reads that never come back and that nobody waits for.
                let stalled = !self.work.is_empty();
                return match self.machine.pending() {
                    n if n == 0 || stalled => {
                        self.machine.check_invariants().map_err(|v| v.to_string())
                    }
                    n => Err(format!(
                        "{n} pages stay pending although nothing is under way"
                    )),
                };
            }
            self.settle()?;
        }
        Err("the bound was reached".into())
    }

    fn touch(&mut self, n: u32) -> Result<(), String> {
        let page = &mut self.pages[n as usize];
        match page.held {
            Held::Data | Held::Zeros => {
                let expected = if page.removed {
                    Held::Zeros
                } else {
                    Held::Data
                };
                return if page.held == expected {
                    Ok(())
                } else {
                    Err(format!(
                        "page {n} reads as {:?}, should be {expected:?}",
                        page.held
                    ))
                };
            }
            Held::Nothing | Held::Marker => {}
        }
        match self.machine.handle_demand(id(n)).unwrap() {
            Admission::Full => return Ok(()),
            Admission::Taken => {}
        }
        let page = &mut self.pages[n as usize];
        page.joined |= page.waiting_since.is_some();
        page.waiting_since.get_or_insert(self.now);
        Ok(())
    }

    fn will_answer(&self, work: &Work) -> bool {
        let Work::Fetch(range, _) = work else {
            return false;
        };
        let first = nth(range.first);
        self.pages[first..first + range.count as usize]
            .iter()
            .all(|p| p.source != Source::Stalled)
    }

    fn fetched(&mut self, n: usize) {
        let answering: Vec<_> = (0..self.work.len())
            .filter(|&at| self.will_answer(&self.work[at]))
            .collect();
        if !answering.is_empty() {
            self.answer(answering[n % answering.len()]);
        }
    }

    fn answer(&mut self, at: usize) {
        let Work::Fetch(range, _) = self.work.remove(at) else {
            unreachable!("it is a fetch")
        };
        let first = nth(range.first);
        let range_pages = &mut self.pages[first..first + range.count as usize];
        let fails = |page: &&mut Page| match page.source {
            Source::Healthy | Source::Stalled => false,
            Source::Permanent => true,
            Source::Temporary(failures) => range.attempt <= failures,
        };
        let failing = range_pages.iter_mut().find(fails);
        let result = match failing {
            None => Ok(()),
            Some(page) => {
                let permanent = page.source == Source::Permanent;
                if range.count == 1 {
                    page.failures_seen = page.failures_seen.saturating_add(1);
                    page.permanent_seen |= permanent;
                }
                let persistence = if permanent {
                    Persistence::Permanent
                } else {
                    Persistence::Temporary
                };
                Err(Fault {
                    cause: Cause {
                        kind: CauseKind::Io,
                        id: CauseId::new(1),
                    },
                    persistence,
                })
            }
        };
        self.machine.handle_fetched(range.generation, result);
    }

    fn go_on(&mut self, n: usize) -> Result<(), String> {
        let others: Vec<_> = (0..self.work.len())
            .filter(|&at| !matches!(self.work[at], Work::Fetch(..)))
            .collect();
        if others.is_empty() {
            Ok(())
        } else {
            self.go_on_with(others[n % others.len()])
        }
    }

    fn go_on_with(&mut self, at: usize) -> Result<(), String> {
        match self.work.remove(at) {
            Work::Fetch(..) => unreachable!("fetches come back by themselves"),
            Work::Do(effect) => {
                let marked = self.carry_out(effect)?;
                self.work.insert(at, Work::Done(effect, marked));
            }
            Work::Done(effect, marked) => match effect {
                Effect::Install {
                    generation,
                    first,
                    count,
                } => {
                    self.machine
                        .handle_installed(generation, first, count, InstallResult::Done);
                }
                Effect::Zero { generation, page } => {
                    self.machine.handle_zeroed(generation, page, Ok(()));
                }
                Effect::Mark { generation, page } => {
                    self.machine.handle_marked(generation, page, marked);
                }
                Effect::Unmark { generation, page } => {
                    // Healed: whoever still waits begins afresh.
                    if let Some(since) = &mut self.pages[nth(page)].waiting_since {
                        *since = self.now;
                    }
                    self.machine.handle_unmarked(generation, page);
                }
                Effect::Fetch(_) | Effect::Settled { .. } => unreachable!("needs no carrying out"),
            },
        }
        Ok(())
    }

    /// What the driver does inside its gate: ask, then do.
    fn carry_out(&mut self, effect: Effect) -> Result<Marked, String> {
        match effect {
            Effect::Install {
                generation,
                first,
                count,
            } => {
                let mut from = 0;
                while from < count {
                    let page = first.checked_add(from).unwrap();
                    let allowed = self.machine.may_apply(generation, page, count - from);
                    for n in nth(page)..nth(page) + allowed as usize {
                        self.install(n, Held::Data)?;
                    }
                    from += allowed.max(1);
                }
            }
            Effect::Zero { generation, page } => {
                let n = nth(page);
                if self.allowed(generation, page) && self.pages[n].held == Held::Nothing {
                    self.install(n, Held::Zeros)?;
                }
                self.wake(n)?;
            }
            Effect::Mark { generation, page } => {
                let n = nth(page);
                if self.allowed(generation, page) {
                    if matches!(self.pages[n].held, Held::Data | Held::Zeros) {
                        self.wake(n)?;
                        return Ok(Marked::AlreadyPresent);
                    }
                    self.pages[n].held = Held::Marker;
                    self.wake(n)?;
                }
            }
            Effect::Unmark { generation, page } if self.allowed(generation, page) => {
                let held = &mut self.pages[nth(page)].held;
                match held {
                    Held::Marker => *held = Held::Nothing,
                    Held::Nothing => {}
                    Held::Data | Held::Zeros => {
                        return Err(format!("{page} is unmarked with data"));
                    }
                }
            }
            Effect::Unmark { .. } => {}
            Effect::Fetch(_) | Effect::Settled { .. } => unreachable!("needs no carrying out"),
        }
        Ok(Marked::Marked)
    }

    fn allowed(&self, generation: Generation, page: PageId) -> bool {
        self.machine.may_apply(generation, page, 1) == 1
    }

    fn install(&mut self, n: usize, what: Held) -> Result<(), String> {
        let page = &mut self.pages[n];
        match (page.held, what, page.removed) {
            (Held::Nothing, Held::Data, false) | (Held::Nothing, Held::Zeros, true) => {}
            (Held::Nothing, _, removed) => {
                return Err(format!("page {n} gets {what:?}, removed: {removed}"));
            }
            (held, ..) => return Err(format!("page {n} gets {what:?} over {held:?}")),
        }
        page.held = what;
        self.wake(n)
    }

    /// Threads that wait for a page look at it again.
    fn wake(&mut self, n: usize) -> Result<(), String> {
        let page = &mut self.pages[n];
        if page.waiting_since.is_none() {
            return Ok(());
        }
        match page.held {
            Held::Data | Held::Zeros => {
                page.waiting_since = None;
                page.joined = false;
                Ok(())
            }
            // The thread stays until the machine says `Settled`.
            Held::Marker => Ok(()),
            // It faults again at once.
            Held::Nothing => self.touch(n as u32),
        }
    }

    fn remove(&mut self, first: u32, count: u32) {
        let last = (first + count).min(self.pages.len() as u32);
        for page in &mut self.pages[first as usize..last as usize] {
            page.held = Held::Nothing;
            page.removed = true;
        }
        self.machine.handle_removed(id(first), count).unwrap();
    }

    fn heal(&mut self, first: u32, count: u32) {
        let last = (first + count).min(self.pages.len() as u32);
        for page in &mut self.pages[first as usize..last as usize] {
            page.source = Source::Healthy;
        }
        self.machine.handle_heal(id(first), count).unwrap();
    }

    /// The slot goes and comes back empty: threads inside it get their end from the VMM.
    fn cancel(&mut self, first: u32, count: u32) {
        let last = (first + count).min(self.pages.len() as u32);
        for page in &mut self.pages[first as usize..last as usize] {
            page.held = Held::Nothing;
            page.removed = false;
        }
        self.machine.handle_cancelled(id(first), count).unwrap();
    }

    fn wait(&mut self, time: Duration) -> Result<(), String> {
        let until = self.now + time;
        while let Some(at) = self.next_due(until) {
            let (due, timer) = self.timers.remove(at);
            self.now = self.now.max(due);
            if let Timer::Deadline { page, .. } = timer {
                self.pages[nth(page)].deadline_seen = true;
            }
            self.machine.handle_timer(timer);
            self.settle()?;
        }
        self.now = until;
        self.check_deadlines()
    }

    fn next_due(&self, until: Duration) -> Option<usize> {
        let due = self
            .timers
            .iter()
            .enumerate()
            .filter(|(_, (due, _))| *due <= until);
        due.min_by_key(|(_, (due, _))| *due).map(|(at, _)| at)
    }

    /// Nobody waits for a source beyond the deadline.
    fn check_deadlines(&self) -> Result<(), String> {
        for (n, page) in self.pages.iter().enumerate() {
            let overdue = page
                .waiting_since
                .is_some_and(|since| self.now > since + self.deadline);
            let local_work = self
                .work
                .iter()
                .any(|work| !matches!(work, Work::Fetch(..)));
            if overdue && !local_work && self.machine.state(id(n as u32)) == Ok(PageState::Pending)
            {
                return Err(format!("page {n} is waited for beyond the deadline"));
            }
        }
        Ok(())
    }

    /// Polls the machine dry.
    fn settle(&mut self) -> Result<(), String> {
        loop {
            while let Some((timer, delay)) = self.machine.poll_timer() {
                self.timers.push((self.now + delay, timer));
            }
            let Some(effect) = self.machine.poll_effect() else {
                break;
            };
            match effect {
                Effect::Fetch(range) => {
                    if range.attempt > self.attempts {
                        return Err(format!("attempt {} at {}", range.attempt, range.first));
                    }
                    self.work.push(Work::Fetch(range, self.now));
                }
                Effect::Settled { page, outcome } => self.settled(page, outcome)?,
                Effect::Install { .. } | Effect::Zero { .. } => self.work.push(Work::Do(effect)),
                Effect::Mark { .. } | Effect::Unmark { .. } => self.work.push(Work::Do(effect)),
            }
        }
        self.machine
            .check_invariants()
            .map_err(|violation| violation.to_string())
    }

    fn settled(&mut self, id: PageId, outcome: PageOutcome) -> Result<(), String> {
        let page = &mut self.pages[nth(id)];
        match outcome {
            PageOutcome::Present => Ok(()),
            PageOutcome::Cancelled => {
                page.waiting_since = None;
                Ok(())
            }
            PageOutcome::Failed(failure) => {
                if page.held != Held::Marker {
                    return Err(format!("{id} is called failed and holds {:?}", page.held));
                }
                if page.waiting_since.take().is_none() {
                    return Err(format!("{id} is called failed and nobody waits for it"));
                }
                page.joined = false;
                self.check_failure(id, failure)
            }
        }
    }

    /// A failure is deserved.
    fn check_failure(&self, id: PageId, failure: Failure) -> Result<(), String> {
        let page = &self.pages[nth(id)];
        let deserved = match failure.cause.kind {
            CauseKind::Deadline => page.deadline_seen,
            _ => page.permanent_seen || page.failures_seen >= self.attempts,
        };
        if deserved {
            Ok(())
        } else {
            Err(format!("{id} failed undeservedly: {failure:?}"))
        }
    }
}
