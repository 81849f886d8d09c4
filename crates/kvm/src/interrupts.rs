//! Interrupts for a vCPU whose interrupt controllers are not in KVM.
//!
//! ```text
//!  raise(vector), any thread ─► pending ─┬─ the thread sleeps after HLT ─► wakes up
//!                                        └─ the vCPU runs ─► comes out of KVM_RUN
//!                                 its own thread: KVM_INTERRUPT, once the guest can take one
//! ```
//!
//! A vector stays pending until it has been queued; raised twice before that, it is one. Only one is
//! queued for an entry, and none together with an exception: KVM has room for one event to inject,
//! and gives the other up.
#![expect(
    unsafe_code,
    reason = "queues an interrupt by an ioctl that nobody wraps"
)]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvm_bindings::kvm_interrupt;
use kvm_ioctls::VcpuFd;

use crate::abi::KVM_INTERRUPT;
use crate::signals::Kicker;

/// The interrupts of one vCPU.
#[derive(Debug)]
pub struct Interrupts {
    /// A bit for each vector.
    pending: [AtomicU64; 4],
    kicker: Arc<Kicker>,
}

impl Interrupts {
    pub(crate) fn new(kicker: Arc<Kicker>) -> Interrupts {
        Interrupts {
            pending: Default::default(),
            kicker,
        }
    }

    /// Raises `vector`: the guest takes it as soon as it has interrupts on.
    pub fn raise(&self, vector: u8) {
        self.post(vector);
        self.kicker.nudge();
    }

    /// As [`raise`](Self::raise), for a vCPU whose thread is on its way into the guest: it sees this
    /// before it enters.
    pub(crate) fn post(&self, vector: u8) {
        let (word, bit) = place(vector);
        self.pending[word].fetch_or(bit, Ordering::SeqCst);
    }

    /// The highest vector that is pending, as a local APIC would choose.
    pub(crate) fn first(&self) -> Option<u8> {
        let words = self.pending.iter().enumerate().rev();
        let mut found = words.map(|(word, bits)| (word, bits.load(Ordering::SeqCst)));
        let (word, bits) = found.find(|&(_, bits)| bits != 0)?;
        Some((word * 64) as u8 + bits.ilog2() as u8)
    }

    /// Queues the first for the next entry of `vcpu`, if it is its turn: not before the guest can
    /// take it, nor beside another event. Otherwise asks KVM for an exit as soon as it can.
    pub(crate) fn queue_first(&self, vcpu: &mut VcpuFd, exception_queued: bool) -> io::Result<()> {
        let first = self.first();
        let run = vcpu.get_kvm_run();
        match first {
            Some(vector) if run.ready_for_interrupt_injection != 0 && !exception_queued => {
                // Said of the moment before this: the next one has to wait for another.
                run.ready_for_interrupt_injection = 0;
                queue(vcpu, vector)?;
                let (word, bit) = place(vector);
                self.pending[word].fetch_and(!bit, Ordering::SeqCst);
            }
            Some(_) | None => {}
        }
        let more = self.first().is_some();
        vcpu.get_kvm_run().request_interrupt_window = u8::from(more);
        Ok(())
    }
}

fn place(vector: u8) -> (usize, u64) {
    (usize::from(vector / 64), 1 << (vector % 64))
}

fn queue(vcpu: &VcpuFd, vector: u8) -> io::Result<()> {
    let interrupt = kvm_interrupt { irq: vector.into() };
    // SAFETY: KVM_INTERRUPT reads the structure that it is given.
    let queued = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_INTERRUPT, &raw const interrupt) };
    match queued {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_vector_comes_first_and_stays_until_it_is_queued() {
        let signals = crate::signals::install().unwrap();
        let interrupts = Interrupts::new(Arc::new(Kicker::new(signals)));
        assert_eq!(interrupts.first(), None);
        for vector in [32, 255, 63, 64] {
            interrupts.raise(vector);
        }
        assert_eq!(interrupts.first(), Some(255));
        let (word, bit) = place(255);
        interrupts.pending[word].fetch_and(!bit, Ordering::SeqCst);
        assert_eq!(interrupts.first(), Some(64));
        assert_eq!(interrupts.first(), Some(64));
    }
}
