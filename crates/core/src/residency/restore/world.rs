//! A kernel that outlives the worker that serves it, for the property tests.
//!
//! The worker does everything in its smallest steps, and may die between any two of them. What
//! outlives it is what the kernel holds (pages, markers, threads that wait, events that nobody has
//! read), the record of the pages, and the journal of what was read. A new worker has nothing else.

mod attach;
mod work;

use std::collections::{BTreeSet, VecDeque};

use super::super::{
    Admission, Effect, Fault, Generation, InstallResult, Marked, PageOutcome, PageState, Residency,
    ResidencyConfig, Timer,
};
use super::{PageRecord, RecordedPage};
use crate::{Cause, CauseId, CauseKind, PageCount, PageId, PageIndex, Persistence, RegionId};

/// What the kernel has in a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Held {
    Nothing,
    Data,
    Zeros,
    Marker,
}

/// How the source answers for a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    Healthy,
    Permanent,
    Stalled,
}

/// A deliberate mistake of the driver's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mistake {
    /// Events are read into memory of the worker's own.
    ReadUnrecorded,
    /// The journal is cleared before what stands in it was noted.
    ClearedTooSoon,
    /// The next worker does not look at the journal.
    NotReplayed,
    /// The next worker does not wake who waits.
    NotWoken,
    /// An install that was intended counts as carried out.
    IntentTrusted,
    /// A page is recorded as present before it is installed.
    PresentTooSoon,
    /// A removed page counts as absent after a restart.
    RemovalForgotten,
    /// Nobody is woken once more after zeros were put in place and answered for.
    ZeroWokenOnce,
}

impl Mistake {
    /// Those that random worlds meet soon.
    pub(super) const ALL: [Mistake; 7] = [
        Mistake::ReadUnrecorded,
        Mistake::ClearedTooSoon,
        Mistake::NotReplayed,
        Mistake::NotWoken,
        Mistake::IntentTrusted,
        Mistake::PresentTooSoon,
        Mistake::RemovalForgotten,
    ];
}

/// One small step.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Touch(u32),
    /// A thread gives pages up; it goes on when that was read.
    Remove(u32, u32),
    /// The kernel takes the pages of a removal that was read away.
    Zap(usize),
    /// The worker's reading of events goes one step further.
    Read,
    /// The nth thing that the worker has to do goes one step further.
    Work(usize),
    Fetched(usize),
    Prefetch(u32, u32),
    /// The nth timer fires.
    Fire(usize),
    /// The worker is killed. The next one begins, and dies as often before it has cleared the
    /// journal.
    Die(u8),
}

struct Page {
    held: Held,
    source: Source,
    /// Its contents were given up: it reads as zeros.
    given_up: bool,
    /// Its source fails, or it was waited for too long.
    may_fail: bool,
    waited_for: bool,
    /// Its fault waits to be read.
    queued: bool,
}

/// How far an effect is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Decided.
    Decided,
    /// In the gate, recorded as intended as far as allowed; so many pages are done.
    InGate { allowed: u32, done: u32 },
    /// Done, still in the gate.
    Done { allowed: u32, already: bool },
    /// Recorded, out of the gate.
    Recorded { allowed: u32, already: bool },
}

/// Something that the worker has to do.
#[derive(Clone, Copy)]
struct Work {
    effect: Effect,
    /// Its pages that are behind it, wanted or not.
    offset: u32,
    stage: Stage,
}

/// How far the reading of events is. The gate is held exclusively.
enum Reading {
    Read { faults: Vec<u32> },
    Noted { faults: Vec<u32> },
    Told,
}

/// What dies with a worker.
struct Worker {
    machine: Residency,
    reading: Option<Reading>,
    /// The removals of the batch, as the worker has them.
    batch: Vec<(u32, u32)>,
    work: Vec<Work>,
    fetches: Vec<(Generation, u32, u32)>,
    timers: Vec<Timer>,
    backlog: VecDeque<u32>,
}

pub(super) struct World {
    config: ResidencyConfig,
    mistake: Option<Mistake>,
    pages: Vec<Page>,
    records: Vec<PageRecord>,
    journal: Vec<(u32, u32)>,
    unread_removals: VecDeque<(u32, u32)>,
    zaps: Vec<(u32, u32)>,
    worker: Worker,
    pub(super) deaths_in_gate: u32,
}

const CAUSE: Cause = Cause {
    kind: CauseKind::Io,
    id: CauseId::new(1),
};

fn id(n: u32) -> PageId {
    PageId::new(RegionId::new(0), PageIndex::new(n))
}

fn nth(page: PageId) -> usize {
    page.index().get() as usize
}

impl Worker {
    fn new(machine: Residency) -> Worker {
        Worker {
            machine,
            reading: None,
            batch: Vec::new(),
            work: Vec::new(),
            fetches: Vec::new(),
            timers: Vec::new(),
            backlog: VecDeque::new(),
        }
    }

    fn gate_is_shared(&self) -> bool {
        self.work
            .iter()
            .any(|work| matches!(work.stage, Stage::InGate { .. } | Stage::Done { .. }))
    }
}

impl World {
    pub(super) fn new(
        config: ResidencyConfig,
        sources: &[Source],
        mistake: Option<Mistake>,
    ) -> World {
        let count = PageCount::new(sources.len() as u64);
        let machine = Residency::new(config.clone(), &[count]).unwrap();
        let page = |&source| Page {
            held: Held::Nothing,
            source,
            given_up: false,
            may_fail: source == Source::Permanent,
            waited_for: false,
            queued: false,
        };
        World {
            config,
            mistake,
            records: vec![PageRecord::Absent; sources.len()],
            pages: sources.iter().map(page).collect(),
            journal: Vec::new(),
            unread_removals: VecDeque::new(),
            zaps: Vec::new(),
            worker: Worker::new(machine),
            deaths_in_gate: 0,
        }
    }

    /// Takes one step; what is impossible at this moment is passed over.
    ///
    /// # Errors
    /// What went wrong.
    pub(super) fn step(&mut self, step: Step) -> Result<(), String> {
        let pages = self.pages.len() as u32;
        match step {
            Step::Touch(n) => self.touch(n % pages)?,
            Step::Remove(first, count) => {
                let first = first % pages;
                let removal = (first, (first + count).min(pages));
                self.unread_removals.push_back(removal);
            }
            Step::Zap(n) if !self.zaps.is_empty() => self.zap(n % self.zaps.len()),
            Step::Read => self.read()?,
            Step::Work(n) if !self.worker.work.is_empty() => {
                self.go_on(n % self.worker.work.len())?;
            }
            Step::Fetched(n) if !self.worker.fetches.is_empty() => {
                self.fetched(n % self.worker.fetches.len());
            }
            Step::Prefetch(first, count) => {
                let taken = self
                    .worker
                    .machine
                    .handle_prefetch(id(first % pages), count);
                taken.unwrap();
            }
            Step::Fire(n) if !self.worker.timers.is_empty() => {
                let timer = self.worker.timers.remove(n % self.worker.timers.len());
                self.fire(timer);
            }
            Step::Die(more) => {
                for _ in 0..more {
                    self.attach_and_die();
                }
                self.attach()?;
            }
            Step::Zap(_) | Step::Work(_) | Step::Fetched(_) | Step::Fire(_) => {}
        }
        self.settle()
    }

    /// Lets everything come to its end, fairly, in a bounded number of steps.
    pub(super) fn drain(&mut self) -> Result<(), String> {
        for _ in 0..self.pages.len() * 400 {
            let unread =
                self.pages.iter().any(|page| page.queued) || !self.unread_removals.is_empty();
            let answers = (0..self.worker.fetches.len()).find(|&n| self.will_answer(n));
            // The gate is fair: who waits for it exclusively is let in before others enter.
            let work =
                (self.worker.work.iter()).position(|work| !unread || work.stage != Stage::Decided);
            if self.worker.reading.is_some() || (unread && !self.worker.gate_is_shared()) {
                self.read()?;
            } else if let Some(n) = work {
                self.go_on(n)?;
            } else if let Some(n) = answers {
                self.fetched(n);
            } else if !self.zaps.is_empty() {
                self.zap(0);
            } else if !self.worker.timers.is_empty() {
                let timer = self.worker.timers.remove(0);
                self.fire(timer);
            } else {
                return match self.pages.iter().position(|page| page.waited_for) {
                    Some(n) => Err(format!("the thread at page {n} waits for ever")),
                    None => Ok(()),
                };
            }
            self.settle()?;
        }
        Err("the bound was reached".into())
    }

    fn fire(&mut self, timer: Timer) {
        if let Timer::Deadline { page, .. } = timer {
            self.pages[nth(page)].may_fail = true;
        }
        self.worker.machine.handle_timer(timer);
    }

    /// A thread touches a page, or looks at it again.
    fn touch(&mut self, n: u32) -> Result<(), String> {
        let given_up_soon = self.is_given_up_soon(n);
        let page = &mut self.pages[n as usize];
        match page.held {
            Held::Nothing => {
                page.waited_for = true;
                page.queued = true;
                return Ok(());
            }
            Held::Marker if page.may_fail => {}
            Held::Marker => return Err(format!("page {n} fails although it is healthy")),
            Held::Data if page.given_up => return Err(format!("page {n} has old data")),
            Held::Zeros if !page.given_up && !given_up_soon => {
                return Err(format!("page {n} has zeros instead of its data"));
            }
            Held::Data | Held::Zeros => {}
        }
        (page.waited_for, page.queued) = (false, false);
        Ok(())
    }

    fn wake(&mut self, n: u32) -> Result<(), String> {
        if self.pages[n as usize].waited_for {
            self.touch(n)?;
        }
        Ok(())
    }

    /// A removal of the page was read and its thread has not yet taken it away.
    fn is_given_up_soon(&self, n: u32) -> bool {
        self.zaps
            .iter()
            .any(|&(first, end)| (first..end).contains(&n))
    }

    fn zap(&mut self, n: usize) {
        let (first, end) = self.zaps.remove(n);
        for page in &mut self.pages[first as usize..end as usize] {
            page.held = Held::Nothing;
            page.given_up = true;
        }
    }

    /// Polls the machine dry.
    fn settle(&mut self) -> Result<(), String> {
        loop {
            while let Some((timer, _)) = self.worker.machine.poll_timer() {
                self.worker.timers.push(timer);
            }
            match self.worker.machine.poll_effect() {
                Some(Effect::Fetch(range)) => {
                    let first = nth(range.first) as u32;
                    self.worker
                        .fetches
                        .push((range.generation, first, range.count));
                }
                Some(Effect::Settled { page, outcome }) => match outcome {
                    PageOutcome::Present => {}
                    PageOutcome::Failed(_) | PageOutcome::Cancelled => {
                        self.wake(nth(page) as u32)?;
                    }
                },
                Some(effect) => self.worker.work.push(Work {
                    effect,
                    offset: 0,
                    stage: Stage::Decided,
                }),
                None => match self.worker.backlog.pop_front() {
                    Some(n) => match self.worker.machine.handle_demand(id(n)).unwrap() {
                        Admission::Taken => {}
                        Admission::Full => {
                            self.worker.backlog.push_front(n);
                            break;
                        }
                    },
                    None => break,
                },
            }
        }
        let invariants = self.worker.machine.check_invariants();
        invariants.map_err(|violation| violation.to_string())
    }
}
