//! The event loop: reads page faults, and fires the machine's timers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use surefault_core::Hva;
use surefault_core::residency::{Admission, PageState};
use surefault_uffd::{Event, Read};

use crate::shared::{Gate, Hands, Shared};

/// The loop's pause after an event could not be read, so that it does not spin.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(10);

pub(crate) fn run(shared: &Arc<Shared>) {
    let mut hands = Hands::default();
    while !shared.stopping.load(Ordering::Acquire) {
        let (readable, nudged) = sleep(shared);
        if nudged {
            // Its value does not matter, only that it is 0 again.
            let _ = rustix::io::read(&shared.nudge, &mut [0; 8]);
        }
        fire_timers(shared, &mut hands);
        if readable {
            shared.read_events(&mut hands);
        }
        shared.work_off(&mut hands);
    }
}

/// Sleeps until there is an event, a nudge or a timer: is there an event, was there a nudge?
fn sleep(shared: &Shared) -> (bool, bool) {
    let (due, full) = {
        let mut machine = shared.machine();
        let due = machine.timers.next_due();
        machine.loop_sleeps_until = due;
        (due, !machine.backlog.is_empty())
    };
    let timeout = due.map(|due| {
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
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => {}
        // A signal: look at everything.
        Err(_) => return (!full, true),
    }
    let nudged = fds[0].revents().contains(PollFlags::IN);
    let happened = fds[1].revents();
    if happened.intersects(PollFlags::ERR | PollFlags::NVAL) {
        shared.stats.strange_events.add(1);
        std::thread::sleep(PAUSE_AFTER_ERROR);
    }
    (happened.contains(PollFlags::IN), nudged)
}

fn fire_timers(shared: &Shared, hands: &mut Hands) {
    let now = Instant::now();
    let mut machine = shared.machine();
    let due = machine.timers.next_due().is_some_and(|due| due <= now);
    // Whoever arms an earlier timer from now on need not wake this thread: it is awake.
    machine.loop_sleeps_until = Some(now);
    drop(machine);
    if due {
        shared.tell(hands, |machine| {
            while let Some(timer) = machine.timers.pop_due(now) {
                machine.residency.handle_timer(timer);
            }
        });
    }
}

impl Shared {
    /// Reads a batch of events and notes them, as one step.
    pub(crate) fn read_events(&self, hands: &mut Hands) {
        let mut gate = self.gate_exclusively();
        self.take_events(&mut gate);
        let faulted = &gate.faulted;
        if faulted.is_empty() {
            return;
        }
        self.stats.faults.add(faulted.len() as u64);
        self.tell(hands, |machine| {
            for &page in faulted {
                match machine.residency.handle_demand(page) {
                    Ok(Admission::Taken) => {}
                    Ok(Admission::Full) => machine.backlog.push_back(page),
                    Err(_) => unreachable!("the address is in a region"),
                }
            }
        });
    }

    /// Reads a batch of events into `gate.faulted`.
    fn take_events(&self, gate: &mut Gate) {
        let Gate {
            buffer, faulted, ..
        } = gate;
        faulted.clear();
        match self.uffd.read(buffer) {
            Ok(Read::WouldBlock) => {}
            Ok(Read::Events(events)) => {
                for event in events {
                    let page = match event {
                        Event::Pagefault(fault) => {
                            self.regions.page_of(Hva::new(fault.address.get()))
                        }
                        // None of these was asked for.
                        Event::Fork(_) | Event::Remap { .. } | Event::Remove { .. } => None,
                        Event::Unmap { .. } | Event::Unknown { .. } => None,
                    };
                    match page {
                        Some(page) => faulted.push(page),
                        None => self.stats.strange_events.add(1),
                    }
                }
            }
            Err(_) => {
                self.stats.strange_events.add(1);
                std::thread::sleep(PAUSE_AFTER_ERROR);
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
