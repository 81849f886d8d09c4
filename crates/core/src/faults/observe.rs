//! What a vCPU loop sees when Linux takes the faults, and whether to believe it.
//!
//! With `--apf off` every failure shows at the instruction that met it. With Linux's own
//! asynchronous page faults a SIGBUS may come *early*: KVM prefaults the page just before it tells
//! the guest "ready", and meets the poison while some other task is running. Acted upon, it stops
//! the wrong task. So a SIGBUS counts per (vCPU, page, RIP), at any CPL, and is acted upon at its
//! second time. Not "two in a row": two tasks that fail in turn never are.

use crate::{Gva, PageId, VcpuId};

/// What the vCPU loop saw.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Seen {
    /// SIGBUS with the address of a poisoned page.
    Sigbus,
    /// `KVM_RUN` failed with EFAULT.
    Efault,
    /// An MMIO exit inside a memory slot: KVM's emulator met the page.
    MmioInSlot,
}

/// Who takes the guest's page faults while the vCPU loop only watches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LinuxApf {
    /// Every fault is synchronous.
    Off,
    /// Linux runs its asynchronous page faults.
    On,
}

/// What to make of an observation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Belief {
    /// It may be early: see whether it comes again.
    Unconfirmed,
    /// It belongs to the instruction at RIP.
    Real,
}

/// The signals seen once, oldest first.
///
/// When the table overflows, the oldest makes room. Should as many have been pushed out as the
/// table holds without one having been confirmed, more failing accesses take turns than it can
/// tell apart; from then on a signal is believed at its first time. The rule degrades to an early
/// report, never to an endless wait.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(super) struct Observations {
    once: Vec<Key>,
    slots: usize,
    pushed_out: usize,
}

crate::clone_in_place! { Observations {
    once, slots, pushed_out,
} }

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    vcpu: VcpuId,
    page: PageId,
    rip: Gva,
}

impl Observations {
    pub(super) fn new(slots: u16) -> Observations {
        Observations {
            once: Vec::with_capacity(usize::from(slots)),
            slots: usize::from(slots),
            pushed_out: 0,
        }
    }

    /// Whether a failure seen at this place is to be acted upon.
    pub(super) fn weigh(
        &mut self,
        seen: Seen,
        apf: LinuxApf,
        vcpu: VcpuId,
        page: PageId,
        rip: Gva,
    ) -> Belief {
        let key = Key { vcpu, page, rip };
        let early = match seen {
            Seen::Sigbus => apf == LinuxApf::On,
            // The prefault's error is dropped, and the emulator works for the instruction at RIP.
            Seen::Efault | Seen::MmioInSlot => false,
        };
        let known = self.once.iter().position(|&other| other == key);
        if let Some(at) = known {
            self.once.remove(at);
        }
        if !early || known.is_some() || self.pushed_out >= self.slots {
            self.pushed_out = 0;
            return Belief::Real;
        }
        if self.once.len() == self.slots {
            self.once.remove(0);
            self.pushed_out += 1;
        }
        self.once.push(key);
        Belief::Unconfirmed
    }

    /// Forgets what was seen of pages that `of` holds for.
    pub(super) fn forget(&mut self, of: impl Fn(PageId) -> bool) {
        self.once.retain(|key| !of(key.page));
        if self.once.is_empty() {
            self.pushed_out = 0;
        }
    }

    pub(super) fn forget_vcpu(&mut self, vcpu: VcpuId) {
        self.once.retain(|key| key.vcpu != vcpu);
    }

    pub(super) fn is_sound(&self) -> bool {
        let twice = |key| self.once.iter().filter(|&&other| other == key).count() > 1;
        self.once.len() <= self.slots
            && self.pushed_out <= self.slots
            && !self.once.iter().any(|&key| twice(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PageIndex, RegionId};

    fn see(table: &mut Observations, seen: Seen, apf: LinuxApf, page: u32, rip: u64) -> Belief {
        let page = PageId::new(RegionId::new(0), PageIndex::new(page));
        table.weigh(seen, apf, VcpuId::new(0), page, Gva::new(rip))
    }

    #[test]
    fn two_tasks_in_turn_are_each_believed_at_their_second_time() {
        let mut table = Observations::new(8);
        let mut sigbus = |page, rip| see(&mut table, Seen::Sigbus, LinuxApf::On, page, rip);
        assert_eq!(sigbus(1, 0x10), Belief::Unconfirmed);
        assert_eq!(sigbus(2, 0x20), Belief::Unconfirmed);
        // Early, at another task's RIP.
        assert_eq!(sigbus(1, 0x20), Belief::Unconfirmed);
        assert_eq!(sigbus(1, 0x10), Belief::Real);
        assert_eq!(sigbus(2, 0x20), Belief::Real);
        // Believed means forgotten: the next one begins anew.
        assert_eq!(sigbus(2, 0x20), Belief::Unconfirmed);
    }

    #[test]
    fn what_cannot_be_early_is_believed_at_once() {
        let mut table = Observations::new(8);
        for (seen, apf) in [
            (Seen::Sigbus, LinuxApf::Off),
            (Seen::Efault, LinuxApf::On),
            (Seen::MmioInSlot, LinuxApf::On),
        ] {
            assert_eq!(see(&mut table, seen, apf, 1, 0x10), Belief::Real);
        }
    }

    #[test]
    fn more_accesses_in_turn_than_slots_still_end() {
        let mut table = Observations::new(4);
        let seen = (0..1000u32).find(|turn| {
            let task = turn % 100;
            see(
                &mut table,
                Seen::Sigbus,
                LinuxApf::On,
                task,
                u64::from(task),
            ) == Belief::Real
        });
        assert_eq!(seen, Some(8), "4 fill the table, 4 are pushed out");
        assert!(table.is_sound());
    }
}
