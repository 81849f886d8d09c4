//! The fair end.

use super::*;

impl<P: Policy> World<P> {
    /// Fair to everybody: each round answers everything outstanding and runs every vCPU. Pages
    /// that fail are healed when they are reported, and all of them half-way, since not every
    /// policy reports.
    pub(super) fn drive(&mut self) -> Result<(), Caught> {
        const ROUNDS: usize = 400;
        for round in 0..ROUNDS {
            if round == ROUNDS / 2 {
                for index in 0..PAGES {
                    self.heal(index)?;
                }
            }
            while !self.works.is_empty() {
                self.finish_work(0)?;
            }
            for v in 0..self.vcpus.len() {
                let id = VcpuId::new(v as u32);
                if self.vcpus[v].lapic_off {
                    self.vcpus[v].lapic_off = false;
                    let taken = self.m.handle_lapic(id, true);
                    self.absorb(taken)?;
                }
                self.answer_announcement(v, true)?;
                self.answer_prefault(v, 1)?;
                self.settle(v)?;
                self.listen(v, (round % 256) as u8)?;
                if let Some(VcpuState::Stopped(fault, _)) = self.m.vcpu_state(id) {
                    self.heal(fault.page.index().get())?;
                }
                self.resume(v)?;
                self.enter(v)?;
                self.ack(v)?;
                self.switch(v, round);
                self.touch(v, if round / 3 % 2 == 0 { 5 } else { 2 })?;
            }
            if self.is_at_rest() {
                return self.at_the_end();
            }
        }
        Err(format!("not at rest after {ROUNDS} fair rounds"))
    }

    pub(super) fn is_at_rest(&self) -> bool {
        let vcpu = |vcpu: &VcpuWorld| {
            vcpu.in_guest
                && !vcpu.kicked
                && vcpu.slot.is_none()
                && vcpu.tasks.iter().all(|task| task.wants().is_none())
        };
        self.works.is_empty() && self.vcpus.iter().all(vcpu)
    }

    pub(super) fn at_the_end(&mut self) -> Result<(), Caught> {
        for id in 0..self.vcpus.len() {
            ensure!(
                self.m.queued(VcpuId::new(id as u32)) == 0,
                "something is left in a queue"
            );
        }
        let owed = self.m.owed();
        self.m.handle_vm_reset();
        let mut unclaimed = 0;
        while let Some(effect) = self.m.poll_effect() {
            unclaimed += usize::from(matches!(effect, Effect::Unclaimed { .. }));
        }
        ensure!(unclaimed == owed, "{owed} errors owed, {unclaimed} logged");
        self.m
            .check_invariants()
            .map_err(|violation| violation.to_string())
    }
}
