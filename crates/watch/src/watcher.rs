//! The watcher: trace and `/proc` in, cases out.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use surefault_core::VcpuId;
use surefault_trace::{Record, Session};

use crate::abilities;
use crate::case::{Case, Frozen, Stuck};
use crate::diagnose::{Diagnosis, diagnose};
use crate::error::{Lack, WatchError};
use crate::events::{AsyncFault, observed};
use crate::frozen_case;
use crate::ids::{Moment, Pid, Tid};
use crate::proc;
use crate::proc::maps::{self, Mapping};
use crate::proc::pagemap::{self, Lookout};
use crate::proc::thread::vcpu_of_name;
use crate::rates::Rates;
use crate::report::{Snapshot, Stats};
use crate::scan::{FrozenWorker, Scan};
use crate::suspicion::{GLANCES, Presence, Suspicion, Verdict};
use crate::turns::{PageKey, Suspect, Turns, WaitedFor};

/// A page that is not asked for again for this long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(1);
/// How long to wait for events when nothing is suspect.
const CALM: Duration = Duration::from_millis(200);
/// How far apart a suspect is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How far apart the glances of one look are, at least.
const BETWEEN_GLANCES: Duration = Duration::from_micros(50);

/// What to watch, and when to call it trouble.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// This process alone; all of them otherwise.
    pub pid: Option<Pid>,
    /// A page that was asked for again this often without being mapped is stuck; at least 1.
    pub stuck_after: u32,
    /// A thread that has waited for one page for this long is frozen.
    pub frozen_after: Duration,
    /// Memory for the events of one CPU, in KiB.
    pub buffer_kib: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            pid: None,
            stuck_after: 100,
            frozen_after: Duration::from_secs(5),
            buffer_kib: 512,
        }
    }
}

/// Something that has begun or ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A machine was found in trouble.
    Began(Case),
    /// It is so no more: the page came, or the machine is gone.
    Ended(Case),
}

/// Follows all machines of the host.
#[derive(Debug)]
pub struct Watcher {
    options: Options,
    trace: Option<Session>,
    lacks: Vec<Lack>,
    records: Vec<Record>,
    turns: Turns,
    /// The process of each thread in the trace; `None` when it is not to be watched.
    owners: HashMap<Tid, Option<Pid>>,
    suspicions: HashMap<PageKey, Suspicion>,
    looked: Moment,
    tidied: Moment,
    scan: Scan,
    rates: Rates,
    stuck: BTreeMap<PageKey, Stuck>,
    frozen: BTreeMap<(Pid, Tid), Frozen>,
    stats: Stats,
    started: Moment,
}

impl Watcher {
    /// Starts to watch.
    ///
    /// # Errors
    /// [`WatchError::NoProcess`], and [`WatchError::Nothing`] when neither tracing nor looking at
    /// processes is possible. When one of them is, what lacks is among [`lacks`](Self::lacks).
    pub fn open(options: Options) -> Result<Watcher, WatchError> {
        let processes = abilities::processes(options.pid)?;
        let (trace, tracing) = match abilities::trace(options.buffer_kib) {
            Ok(session) => (Some(session), None),
            Err(lack) => (None, Some(lack)),
        };
        // Without tracing, and with one process only that may not be looked at, nothing is left.
        // Without a process named, those of our own user are.
        if let (Some(tracing), Some(processes), Some(_)) = (&tracing, &processes, options.pid) {
            return Err(WatchError::Nothing {
                tracing: tracing.clone(),
                processes: processes.clone(),
            });
        }
        let rates = Rates::open();
        let lacks = [tracing, processes, abilities::rates(&rates)];
        let turns = Turns::new(FORGET_AFTER, options.stuck_after, pagemap::page_size());
        Ok(Watcher {
            options,
            trace,
            lacks: lacks.into_iter().flatten().collect(),
            records: Vec::new(),
            turns,
            owners: HashMap::new(),
            suspicions: HashMap::new(),
            looked: Moment::default(),
            tidied: Moment::default(),
            scan: Scan::new(options.pid),
            rates,
            stuck: BTreeMap::new(),
            frozen: BTreeMap::new(),
            stats: Stats::default(),
            started: Moment::now(),
        })
    }

    /// What cannot be had on this host or with these privileges, and so is not watched.
    pub fn lacks(&self) -> &[Lack] {
        &self.lacks
    }

    /// How long to watch before "nothing was found" can be said.
    pub fn settles_after(&self) -> Duration {
        // The first pass sees a wait; the pass after the limit knows it to be the same.
        self.options.frozen_after + Duration::from_secs(2)
    }

    /// Waits for events, for `timeout` at most or until a signal comes, and takes them in.
    ///
    /// # Errors
    /// [`WatchError::Trace`].
    pub fn step(&mut self, timeout: Duration) -> Result<Vec<Change>, WatchError> {
        let calm = self.suspicions.is_empty() && self.stuck.is_empty();
        let wait = timeout.min(if calm { CALM } else { LOOK_EVERY });
        match &self.trace {
            Some(trace) => trace.wait(wait).map_err(WatchError::Trace)?,
            None => std::thread::sleep(wait),
        }
        self.take_events()?;
        let now = Moment::now();
        let mut changes = Vec::new();
        if now.since(self.tidied) >= FORGET_AFTER {
            self.tidied = now;
            // A thread's id is used again some day: what is not heard of is asked for anew.
            self.owners
                .retain(|thread, _| self.turns.has_thread(*thread));
        }
        for forgotten in self.turns.expire(now) {
            self.stats.temporary += u64::from(forgotten.retries > 0);
            self.acquit(forgotten.key, &mut changes);
        }
        if now.since(self.looked) >= LOOK_EVERY {
            let elapsed = now.since(self.looked);
            self.looked = now;
            self.look_at_suspects(now, elapsed, &mut changes);
        }
        self.look_at_threads(now, &mut changes);
        self.stats.remembered_pages = self.turns.remembered();
        Ok(changes)
    }

    /// What is in trouble now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            stuck: self.stuck.values().cloned().collect(),
            frozen: self.frozen.values().cloned().collect(),
            lacks: self.lacks.clone(),
            stats: Stats {
                machines: self.scan.machines(),
                tracing: self.trace.is_some(),
                watched: Moment::now().since(self.started),
                ..self.stats
            },
        }
    }

    fn take_events(&mut self) -> Result<(), WatchError> {
        let Some(trace) = &mut self.trace else {
            return Ok(());
        };
        self.records.clear();
        let drained = trace.drain(&mut self.records).map_err(WatchError::Trace)?;
        self.stats.events += self.records.len() as u64;
        self.stats.lost_events += drained.lost;
        self.stats.malformed_events += drained.malformed;
        for record in &self.records {
            let Some(event) = observed(record) else {
                continue;
            };
            match event.fault {
                AsyncFault::Completed { .. } => {}
                AsyncFault::Asked { .. } => {
                    self.stats.faults += 1;
                    let only = self.options.pid;
                    let scan = &mut self.scan;
                    let owner = *self.owners.entry(event.thread).or_insert_with(|| {
                        let pid = proc::process_of(event.thread)?;
                        scan.add(pid);
                        Some(pid).filter(|pid| only.is_none_or(|only| only == *pid))
                    });
                    if owner.is_none() {
                        continue;
                    }
                }
                AsyncFault::NotPresent { .. } | AsyncFault::Ready { .. } => {
                    if self.owners.get(&event.thread).is_none_or(Option::is_none) {
                        continue;
                    }
                }
            }
            self.turns.handle(&event);
        }
        Ok(())
    }

    fn owner(&self, thread: Tid) -> Option<Pid> {
        self.owners.get(&thread).copied().flatten()
    }

    /// Looks at each suspect, and at what has become of those that are stuck.
    fn look_at_suspects(&mut self, now: Moment, elapsed: Duration, changes: &mut Vec<Change>) {
        let mut suspects = Vec::new();
        for suspect in self.turns.suspects() {
            let Some(pid) = self.owner(suspect.key.thread) else {
                continue;
            };
            if !proc::is_alive(pid, suspect.key.thread) {
                self.turns.forget_thread(suspect.key.thread);
                self.acquit(suspect.key, changes);
            } else if let Some(stuck) = self.stuck.get_mut(&suspect.key) {
                stuck.retries = suspect.retries;
                stuck.since = suspect.last.since(suspect.first);
            } else {
                suspects.push((pid, suspect));
            }
        }
        let presences = presences(&suspects);
        for ((pid, suspect), presence) in suspects.into_iter().zip(presences) {
            let suspicion = self.suspicions.entry(suspect.key).or_default();
            let limit = self.options.stuck_after;
            match suspicion.look(presence, suspect.retries, elapsed, limit) {
                Verdict::Wait => {
                    // So that there is a rate when it is found to be stuck.
                    if suspicion.is_fresh() {
                        self.rates.faults_per_second(pid, now);
                    }
                }
                Verdict::Temporary => {
                    self.stats.temporary += 1;
                    self.turns.clear(suspect.key);
                    self.acquit(suspect.key, changes);
                }
                Verdict::Stuck => {
                    let diagnosis = diagnose(pid, &suspect.candidates);
                    if diagnosis.cause.kind.is_certain() || suspicion.doubt() {
                        let stuck = self.stuck_case(pid, suspect, diagnosis, now);
                        changes.push(Change::Began(Case::Stuck(stuck)));
                    }
                }
            }
        }
    }

    fn stuck_case(
        &mut self,
        pid: Pid,
        suspect: Suspect,
        diagnosis: Diagnosis,
        now: Moment,
    ) -> Stuck {
        let comm = proc::comm(pid, suspect.key.thread);
        let stuck = Stuck {
            pid,
            tid: suspect.key.thread,
            vcpu: suspect.vcpu.or(vcpu_of_name(&comm).map(VcpuId::new)),
            comm,
            gfn: suspect.key.gfn,
            gva: suspect.gva,
            hva: diagnosis.hva,
            path: diagnosis.path,
            offset: diagnosis.offset,
            cause: diagnosis.cause,
            retries: suspect.retries,
            since: suspect.last.since(suspect.first),
            faults_per_second: self.rates.faults_per_second(pid, now),
        };
        self.suspicions.remove(&suspect.key);
        self.stuck.insert(suspect.key, stuck.clone());
        self.stats.stuck_cases += 1;
        stuck
    }

    /// Drops what was held against a page.
    fn acquit(&mut self, key: PageKey, changes: &mut Vec<Change>) {
        self.suspicions.remove(&key);
        if let Some(stuck) = self.stuck.remove(&key) {
            self.rates.forget(stuck.pid);
            changes.push(Change::Ended(Case::Stuck(stuck)));
        }
    }

    fn look_at_threads(&mut self, now: Moment, changes: &mut Vec<Change>) {
        let limit = self.options.frozen_after;
        let Some(found) = self.scan.look(now, limit) else {
            return;
        };
        let mut before = std::mem::take(&mut self.frozen);
        for (waiting, since) in found.threads {
            self.keep_or_begin(&mut before, changes, waiting.key, now.since(since), || {
                frozen_case::thread(&waiting)
            });
        }
        for (key, frozen, since) in self.frozen_by_workers(found.workers, now) {
            self.keep_or_begin(&mut before, changes, key, now.since(since), || frozen);
        }
        changes.extend(before.into_values().map(|f| Change::Ended(Case::Frozen(f))));
    }

    fn keep_or_begin(
        &mut self,
        before: &mut BTreeMap<(Pid, Tid), Frozen>,
        changes: &mut Vec<Change>,
        key: (Pid, Tid),
        since: Duration,
        begin: impl FnOnce() -> Frozen,
    ) {
        let known = before.remove(&key);
        let is_new = known.is_none();
        let mut frozen = known.unwrap_or_else(begin);
        frozen.since = since;
        if is_new {
            self.stats.frozen_cases += 1;
            changes.push(Change::Began(Case::Frozen(frozen.clone())));
        }
        self.frozen.insert(key, frozen);
    }

    /// Kernel threads wait for pages on behalf of vCPUs that do not wait themselves. Each is taken
    /// to work on the page that was asked for last before it was first seen waiting; where no such
    /// page was seen being asked for, the kernel thread itself stands for the vCPU.
    fn frozen_by_workers(
        &self,
        mut workers: Vec<FrozenWorker>,
        now: Moment,
    ) -> Vec<((Pid, Tid), Frozen, Moment)> {
        let owned = |page: WaitedFor| Some((self.owner(page.key.thread)?, page));
        let mut pages: Vec<(Pid, WaitedFor)> = match workers.is_empty() {
            true => Vec::new(),
            false => self
                .turns
                .waited_for(now)
                .into_iter()
                .filter_map(owned)
                .collect(),
        };
        pages.retain(|(pid, page)| proc::is_alive(*pid, page.key.thread));
        workers.sort_by_key(|worker| worker.since);
        let mut frozen = Vec::new();
        for FrozenWorker { waiting, since } in workers {
            match pages.iter().rposition(|(_, page)| page.since <= since) {
                Some(index) => {
                    let (pid, page) = pages.remove(index);
                    let key = (pid, page.key.thread);
                    frozen.push((key, frozen_case::vcpu(pid, &page, &waiting), page.since));
                }
                None if self.options.pid.is_none() => {
                    let machines = self.scan.of_interest().iter().copied();
                    frozen.push((waiting.key, frozen_case::worker(&waiting, machines), since));
                }
                None => {}
            }
        }
        frozen
    }
}

/// Looks at all suspects, several glances each.
fn presences(suspects: &[(Pid, Suspect)]) -> Vec<Presence> {
    let mut maps: HashMap<Pid, Vec<Mapping>> = HashMap::new();
    let lookouts: Vec<Option<Lookout>> = suspects
        .iter()
        .map(|(pid, suspect)| {
            let maps = maps
                .entry(*pid)
                .or_insert_with(|| maps::all(*pid).unwrap_or_default());
            let is_mapped = |hva: &&_| maps.iter().any(|mapping| mapping.contains(**hva));
            let hva = suspect.candidates.iter().find(is_mapped)?;
            Lookout::open(*pid, *hva).ok()
        })
        .collect();
    let mut presences = vec![Presence::Unknown; suspects.len()];
    for glance in 0..GLANCES {
        if lookouts.iter().all(Option::is_none) {
            break;
        }
        if glance > 0 {
            std::thread::sleep(BETWEEN_GLANCES);
        }
        for (presence, lookout) in presences.iter_mut().zip(&lookouts) {
            if let Some(lookout) = lookout
                && *presence != Presence::Present
            {
                *presence = lookout.presence();
            }
        }
    }
    presences
}
