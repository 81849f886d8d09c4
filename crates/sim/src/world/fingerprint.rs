//! A hash of a world's view, without making it: a checker asks for millions of them.

use std::hash::{Hash, Hasher};

use surefault_core::faults;
use surefault_core::policy::Policy;

use super::step::TimerKind;
use super::{World, step};
use crate::machine::TaskState;

impl<P: Policy> World<P> {
    /// A hash of the [view](Self::view), the same in every run of one build.
    pub fn hash_view(&self) -> u64 {
        let mut hasher = Folding::default();
        let machine = &self.machine;
        let faults = &machine.faults;
        faults.hash_view(&mut hasher);
        let ranks = machine.pages.hash_view(&mut hasher);
        for task in &machine.guest.tasks {
            let state = match task.state {
                TaskState::Runnable => 1,
                TaskState::Finished | TaskState::Killed => 2,
                TaskState::Waiting(token) => {
                    3 + u64::from(faults.rank_of_token(super::vcpu_id(task.cpu), token))
                }
            };
            let doomed = task.doomed && !task.is_over();
            let flags = bits([task.tried, task.met_failure, doomed]);
            let again = u64::from(task.again.min(2));
            (task.at, task.laps, task.cpu).hash(&mut hasher);
            (state << 8 | again << 4 | flags).hash(&mut hasher);
        }
        for (v, (cpu, thread)) in machine.guest.cpus.iter().zip(&machine.threads).enumerate() {
            let rank = |token| faults.rank_of_token(super::vcpu_id(v), token);
            let ready = cpu.ready.map(|(token, error)| (rank(token), error));
            (cpu.running(), ready).hash(&mut hasher);
            let flags = bits([thread.kicked, thread.irqs_off, thread.tick_due]);
            (thread.place, thread.next).hash(&mut hasher);
            (u64::from(thread.acks_due) << 8 | flags).hash(&mut hasher);
            (thread.early_sigbus, thread.stopped_for).hash(&mut hasher);
        }
        machine.mapped.hash(&mut hasher);
        if let Some(pager) = &machine.pager {
            pager.hash_view(&ranks, &mut hasher);
        }
        machine.backlog.hash(&mut hasher);
        machine.repaired.hash(&mut hasher);
        for pick in machine.picks() {
            pick.hash(&mut hasher);
        }
        machine.is_stopped().hash(&mut hasher);
        // In any order: the sum of a hash of each.
        let mut workers = 0u64;
        for &(page, vcpu, item) in &machine.workers {
            let mut each = Folding::default();
            (page, vcpu, faults.rank_of_item(vcpu, item)).hash(&mut each);
            workers = workers.wrapping_add(each.finish());
        }
        workers.hash(&mut hasher);
        let mut timers = 0u64;
        for (at, &timer) in self.machine.listener.timers.iter().enumerate() {
            let name = TimerKind::of(timer);
            let known = self.machine.listener.timers[..at].iter();
            if !known.copied().map(TimerKind::of).any(|other| other == name) {
                let mut each = Folding::default();
                name.hash(&mut each);
                timers = timers.wrapping_add(each.finish());
            }
        }
        for &timer in &self.machine.listener.faults_timers {
            let mut each = Folding::default();
            step::of_faults_timer(timer).hash(&mut each);
            matches!(timer, faults::Timer::Unclaimed).hash(&mut each);
            timers = timers.wrapping_add(each.finish());
        }
        timers.hash(&mut hasher);
        for fetch in &self.machine.listener.fetches {
            let rank = ranks.of(fetch.generation);
            (fetch.first, fetch.count, rank).hash(&mut hasher);
            (fetch.planned, fetch.overtaken).hash(&mut hasher);
        }
        for (page, attempts) in &self.machine.listener.attempts {
            (page, attempts).hash(&mut hasher);
        }
        self.left.hash(&mut hasher);
        hasher.finish()
    }
}

/// One bit for each.
fn bits<const N: usize>(flags: [bool; N]) -> u64 {
    flags
        .iter()
        .fold(0, |bits, &flag| bits << 1 | u64::from(flag))
}

/// A word at a time, each mixed in by a multiplication whose two halves are folded together: no key, no
/// randomness.
struct Folding(u64);

impl Default for Folding {
    fn default() -> Folding {
        Folding(0xd6e8_feb8_6659_fd93)
    }
}

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for &word in words {
            self.write_u64(u64::from_le_bytes(word));
        }
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, word: u64) {
        let wide = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15_u128;
        self.0 = wide as u64 ^ (wide >> 64) as u64;
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        surefault_core::plan::mix(self.0)
    }
}
