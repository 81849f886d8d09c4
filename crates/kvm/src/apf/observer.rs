//! What the pager's threads say: who is blocked, and how that ended; and the kicks.

use std::time::{Duration, Instant};

use surefault_core::PageId;
use surefault_core::faults::Accepted;
use surefault_core::residency::PageOutcome;
use surefault_pager::{Blocked, FaultObserver};

use super::Apf;
use super::state::BlockedOn;
use crate::pages::host_page_size;

/// When a demand that found no room is made again.
const ROOM: Duration = Duration::from_millis(1);

impl FaultObserver for Apf {
    fn blocked(&self, blocked: Blocked) {
        let now = Instant::now();
        let mut state = self.state();
        state.demanded.entry(blocked.page).or_insert(now);
        let Some(thread) = blocked.thread else {
            return;
        };
        let Some(id) = state.ids().find(|&id| {
            let vcpu = state.vcpu(id);
            vcpu.in_kvm && vcpu.thread == thread.get()
        }) else {
            // A thread of the host's, or a vCPU's that reads memory on the VMM's behalf.
            return;
        };
        if state.machine.handle_noted(id, blocked.page) != Accepted::Taken {
            // It waits, as it was told to.
            return;
        }
        self.drain(&mut state, None);
        state.counted.blocked += 1;
        // KVM asks for whole pages when it maps one for the guest, so a byte in the middle is its
        // emulator's: no signal ends that, and one that is pending makes it fault on and on.
        let emulated = !(blocked.address.get()).is_multiple_of(host_page_size().bytes());
        state.counted.emulated += u64::from(emulated);
        let side = state.vcpu(id);
        let again = side.blocked.filter(|before| before.page == blocked.page);
        side.blocked = Some(BlockedOn {
            page: blocked.page,
            address: blocked.address,
            since: again.map_or(now, |before| before.since),
            // Once a fault: seen again without having come out, it is not to be had by a signal.
            kicked: emulated || again.is_some_and(|before| before.kicked),
        });
    }

    fn attend(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut state = self.state();
        state.fire_timers(now);
        self.drain(&mut state, None);
        let wait = state.patience.before_a_kick();
        let mut next = None;
        // Signalled when the lock is free: whoever comes out of its fault asks for it at once.
        let mut kicks = Vec::new();
        for id in state.ids() {
            let side = state.vcpu(id);
            let in_kvm = side.in_kvm;
            let Some(blocked) = side.blocked.as_mut().filter(|b| in_kvm && !b.kicked) else {
                continue;
            };
            let due = blocked.since + wait;
            if due > now {
                next = Some(next.map_or(due, |next: Instant| next.min(due)));
                continue;
            }
            blocked.kicked = true;
            kicks.extend(side.kicker.clone());
            state.counted.kicks += 1;
        }
        let postponed = std::mem::take(&mut state.postponed);
        let is_postponed = !postponed.is_empty();
        state.wanted.extend(postponed);
        drop(state);
        kicks.iter().for_each(|kicker| kicker.interrupt());
        if !is_postponed {
            return next;
        }
        self.demand_what_is_wanted();
        match self.state().postponed.is_empty() {
            true => next,
            false => Some(next.map_or(now + ROOM, |next| next.min(now + ROOM))),
        }
    }

    fn settled(&self, page: PageId, outcome: PageOutcome) {
        let Some(outside) = self.outside() else {
            return;
        };
        let mut state = self.state();
        let sleepers = state.sleepers(page);
        state.settle(outside, page, outcome);
        // There is room again. Where no fault is an event, the event loop may sleep for long.
        let postponed = std::mem::take(&mut state.postponed);
        state.wanted.extend(postponed);
        drop(state);
        sleepers.iter().for_each(|kicker| kicker.wake());
        self.demand_what_is_wanted();
    }
}
