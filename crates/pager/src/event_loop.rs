//! The event loop: reads page faults, and fires the machine's timers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use surefault_core::residency::{PageState, Timer};
use surefault_core::{Hva, PageId};
use surefault_uffd::{Event, Journal, Read};

use crate::Blocked;
use crate::Point;
use crate::foreign::Rule;
use crate::mark::Marking;
use crate::shared::{Gate, Hands, Machine, Shared};
use crate::spin::Spin;

/// The loop's pause after an event could not be read, so that it does not spin.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(10);

pub(crate) fn run(shared: &Arc<Shared>) {
    let mut hands = Hands::default();
    let mut spin = Spin::new();
    let mut events = 0;
    let mut turn = Instant::now();
    // What there is to do from the beginning.
    shared.tell(&mut hands, |_| ());
    shared.work_off(&mut hands);
    while !shared.stopping.load(Ordering::Acquire) {
        let room = fire_timers(shared, &mut hands);
        if events == 0 && room {
            shared.lookout.pass();
            events = shared.read_events(&mut hands);
        }
        shared.work_off(&mut hands);
        // Demands first, and then one chunk of what was planned, so that neither waits for long.
        let prefetched = shared.prefetch_more(&mut hands);
        shared.work_off(&mut hands);
        let attend = (shared.observer.as_ref()).and_then(|observer| observer.attend());
        // After a lone event there is rarely another at once.
        let busy = events > 1 || prefetched;
        events = 0;
        if busy {
            continue;
        }
        let left = attend.map(|due| due.saturating_duration_since(Instant::now()));
        let budget = left.map_or(spin.budget(), |left| left.min(spin.budget()));
        if room {
            events = look(shared, &mut hands, budget);
        }
        if events == 0 {
            sleep(shared, attend);
        }
        let now = Instant::now();
        spin.turned(now - turn);
        turn = now;
    }
}

/// Looks for events until there are some, or `budget` is over. Says how many were read.
fn look(shared: &Shared, hands: &mut Hands, budget: Duration) -> usize {
    if budget.is_zero() {
        return 0;
    }
    let begun = Instant::now();
    while begun.elapsed() < budget && !shared.stopping.load(Ordering::Acquire) {
        shared.lookout.pass();
        let events = shared.read_events(hands);
        if events > 0 {
            return events;
        }
        std::hint::spin_loop();
    }
    0
}

/// Sleeps until there is an event, a nudge or a timer.
fn sleep(shared: &Shared, attend: Option<Instant>) {
    let (due, full) = {
        let machine = &mut *shared.machine();
        let due = machine.timers.next_due(&machine.residency);
        machine.loop_sleeps_until = due;
        (due, !machine.backlog.is_empty())
    };
    let timeout = due.into_iter().chain(attend).min().map(|due| {
        let left = due.saturating_duration_since(Instant::now());
        Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        }
    });
    // While there is no room for demands, faults wait in the kernel. Whoever makes room is one of
    // the other threads or a timer, and takes the backlog up itself.
    let events = if full {
        PollFlags::empty()
    } else {
        PollFlags::IN
    };
    let mut fds = [
        PollFd::new(&shared.nudge, PollFlags::IN),
        PollFd::new(&shared.uffd, events),
    ];
    // After a signal everything is looked at, as after anything else.
    if poll(&mut fds, timeout.as_ref()).is_err() {
        return;
    }
    if fds[0].revents().contains(PollFlags::IN) {
        // Its value does not matter, only that it is 0 again.
        let _ = rustix::io::read(&shared.nudge, &mut [0; 8]);
    }
    if fds[1]
        .revents()
        .intersects(PollFlags::ERR | PollFlags::NVAL)
    {
        shared.stats.strange_events.add(1);
        std::thread::sleep(PAUSE_AFTER_ERROR);
    }
}

/// Fires the timers that are due. Says whether there is room for demands.
fn fire_timers(shared: &Shared, hands: &mut Hands) -> bool {
    let now = Instant::now();
    let mut guard = shared.machine();
    let machine = &mut *guard;
    let due = machine.timers.next_due(&machine.residency);
    let due = due.is_some_and(|due| due <= now);
    // Whoever arms an earlier timer from now on need not wake this thread: it is awake.
    machine.loop_sleeps_until = Some(now);
    let room = machine.backlog.is_empty();
    drop(guard);
    if due {
        shared.tell(hands, |machine| {
            while let Some(timer) = machine.timers.pop_due(now) {
                machine.residency.handle_timer(timer);
                if let (Timer::FailureTtl { page, .. }, Marking::Foreign(Rule::Wait)) =
                    (timer, shared.marking)
                {
                    try_again(machine, page);
                }
            }
        });
    }
    room
}

/// A page whose waiters were kept waiting is asked for in their name, who cannot.
fn try_again(machine: &mut Machine, page: PageId) {
    if let Ok(PageState::Failed(_)) = machine.residency.state(page) {
        machine.demand(page);
    }
}

impl Shared {
    /// Reads a batch of events and notes them, as one step. Says how many there were.
    pub(crate) fn read_events(&self, hands: &mut Hands) -> usize {
        let mut gate = self.gate_exclusively();
        self.take_events(&mut gate);
        let Gate {
            faulted, removed, ..
        } = &*gate;
        let events = faulted.len() + removed.len();
        if events == 0 {
            return 0;
        }
        let now = Instant::now();
        self.tell(hands, |machine| {
            // Removals first: a fault may have been read before one that came earlier.
            for &(first, count) in removed {
                let known = machine.residency.handle_removed(first, count);
                known.expect("pages of the memory");
            }
            for &page in faulted {
                self.note_fault(machine, page, now);
                machine.demand(page);
            }
        });
        if self.observer.is_some() && hands.may_wait {
            // Not the event loop, which attends to who is blocked.
            self.nudge();
        }
        events
    }

    /// Somebody has touched `page`, which is not there.
    pub(crate) fn note_fault(&self, machine: &mut Machine, page: PageId, now: Instant) {
        self.stats.faults.add(1);
        let left = self.regions.pages_from(page) - 1;
        let page_size = self.regions.page_size(page);
        machine.prefetcher.demanded(page, left, page_size);
        machine.waits.begin(page, now);
    }

    /// Tells the machine of the next few pages to prefetch, unless many pages are pending already.
    /// Says whether there were any.
    pub(crate) fn prefetch_more(&self, hands: &mut Hands) -> bool {
        self.tell(hands, |machine| {
            let pending = machine.residency.pending();
            if pending > machine.residency.config().max_pending / 4 {
                return false;
            }
            let most = machine.residency.config().max_range;
            let Some((first, count)) = machine.prefetcher.next_chunk(most) else {
                return false;
            };
            let known = machine.residency.handle_prefetch(first, count);
            known.expect("pages of the memory");
            true
        })
    }

    /// Reads events into `gate.faulted` and `gate.removed` until the queue is empty: the kernel gives
    /// all faults before any removal, so that a removal may stand behind a whole batch of faults.
    fn take_events(&self, gate: &mut Gate) {
        let Gate {
            buffer,
            journal,
            faulted,
            removed,
            ..
        } = gate;
        faulted.clear();
        removed.clear();
        loop {
            let read = match journal {
                Some(journal) => self.uffd.read_recorded(journal, buffer),
                None => self.uffd.read(buffer),
            };
            match read {
                Ok(Read::WouldBlock) => return,
                Ok(Read::Events(events)) => {
                    let is_all = events.len() < self.batch;
                    let known = removed.len();
                    events.for_each(|event| self.take_event(event, faulted, removed));
                    self.note(journal, &removed[known..]);
                    if is_all {
                        return;
                    }
                }
                Err(_) => {
                    self.stats.strange_events.add(1);
                    std::thread::sleep(PAUSE_AFTER_ERROR);
                    return;
                }
            }
        }
    }

    /// Notes the removals of a batch where a successor finds them.
    fn note(&self, journal: &mut Option<Journal>, removed: &[(PageId, u32)]) {
        self.attendant.reached(Point::Read);
        let (Some(journal), Some(recorder)) = (journal, &self.recorder) else {
            return;
        };
        for (n, &(first, count)) in removed.iter().enumerate() {
            recorder.remove(first, count);
            if n == 0 {
                self.attendant.reached(Point::Removing);
            }
        }
        self.attendant.reached(Point::Noted);
        journal.clear();
    }

    fn take_event(
        &self,
        event: Event,
        faulted: &mut Vec<PageId>,
        removed: &mut Vec<(PageId, u32)>,
    ) {
        match event {
            Event::Pagefault(fault) => {
                let address = Hva::new(fault.address.get());
                let Some(page) = self.regions.page_of(address) else {
                    return self.refuse_stray(fault.address);
                };
                if let Some(observer) = &self.observer {
                    observer.blocked(Blocked {
                        page,
                        address,
                        thread: fault.thread,
                    });
                }
                faulted.push(page);
            }
            // A mapping that is gone can raise no fault; what comes there next is not ours.
            Event::Remove { start, end } | Event::Unmap { start, end } => {
                let (start, end) = (Hva::new(start.get()), Hva::new(end.get()));
                for (first, count) in self.regions.pages_between(start, end) {
                    self.stats.removed.add(count.into());
                    removed.push((first, count));
                }
            }
            // Nobody should have asked for these.
            Event::Fork(_) | Event::Remap { .. } | Event::Unknown { .. } => {
                self.stats.strange_events.add(1);
            }
        }
    }

    /// Ends the service: who waits for a page that is not there is refused, instead of finding zeros
    /// when the userfaultfd is closed, and the memory is not touched any more.
    pub(crate) fn close(&self) {
        let mut gate = self.gate_exclusively();
        gate.closed = true;
        let mut waiting = Vec::new();
        loop {
            self.take_events(&mut gate);
            if gate.faulted.is_empty() {
                break;
            }
            waiting.extend_from_slice(&gate.faulted);
        }
        let machine = self.machine();
        waiting.extend(machine.residency.pending_pages());
        waiting.extend(&machine.backlog);
        waiting.retain(|&page| machine.residency.state(page) != Ok(PageState::Present));
        drop(machine);
        for page in waiting {
            if self.refuse_access(self.regions.range(page, 1)).is_err() {
                self.stats.strange_events.add(1);
            }
        }
    }
}
