//! Tells a run that loops from one that is slow, without tracing the kernel.
//!
//! While no task finishes a touch, each unfinished task wants one and the same page. So when KVM
//! has meanwhile taken n faults a task and come away without the page, some page was asked for at
//! least n times; each time but the first its task had been told, or made to believe, that the page
//! was ready. (The tasks' code and records, and ring 0, are always present: KVM settles whatever
//! faults there are on them.) Where the asynchronous faults come from user space, they are counted
//! there, page by page.

use crate::machine::{Machine, MachineError};
use crate::memory::MemoryError;
use crate::stats;

/// Faults in vain on one page, since anything was last achieved, that make a loop.
const LOOP: u64 = 100;

/// How far a run was when it last got anywhere.
#[derive(Default)]
pub(crate) struct Loops {
    /// Touches done, of all tasks.
    done: u64,
    /// Faults in vain until then.
    in_vain: u64,
}

impl Loops {
    /// Takes note of how far the run is.
    pub(crate) fn look(&mut self, machine: &Machine) -> Result<(), MachineError> {
        let done = done(machine)?;
        if done != self.done {
            let in_vain = in_vain(machine)?;
            *self = Loops { done, in_vain };
        }
        Ok(())
    }

    /// Whether the run loops.
    pub(crate) fn is_loop(&self, machine: &Machine) -> Result<bool, MachineError> {
        if let Some(apf) = machine.apf() {
            return Ok(apf.most_asked_again() >= LOOP);
        }
        let unfinished = unfinished(machine)?;
        Ok(unfinished > 0
            && done(machine)? == self.done
            && in_vain(machine)?.saturating_sub(self.in_vain) >= LOOP * unfinished)
    }
}

fn in_vain(machine: &Machine) -> Result<u64, MachineError> {
    Ok(stats::faults_in_vain(&machine.kvm_counters()?))
}

/// Touches that all tasks together have done.
pub(super) fn done(machine: &Machine) -> Result<u64, MemoryError> {
    let done = machine.tasks().map(|task| Ok(machine.progress(task)?.done));
    done.sum()
}

fn unfinished(machine: &Machine) -> Result<u64, MemoryError> {
    let mut unfinished = 0;
    for (task, touches) in machine.tasks().zip(machine.workload().tasks()) {
        unfinished += u64::from(machine.progress(task)?.done < touches.len() as u64);
    }
    Ok(unfinished)
}
