//! From the registers of a vCPU that has come out of a fault to what decides about the fault; and
//! the page fault that tells its guest.

use kvm_bindings::{KVM_VCPUEVENT_VALID_PAYLOAD, kvm_sync_regs, kvm_vcpu_events};
use surefault_core::faults::{Moment, Root};
use surefault_core::{Gva, Token};

const RFLAGS_IF: u64 = 1 << 9;
const CR0_PG: u64 = 1 << 31;
const CR4_VMXE: u64 = 1 << 13;
const EFER_SVME: u64 = 1 << 12;
/// #PF.
const PAGE_FAULT: u8 = 14;

/// What the registers say. `nested` is asked only of a guest that may run guests of its own.
pub(crate) fn moment(regs: &kvm_sync_regs, nested: impl FnOnce() -> bool) -> Moment {
    let (sregs, events) = (&regs.sregs, &regs.events);
    let may_nest = sregs.cr4 & CR4_VMXE != 0 || sregs.efer & EFER_SVME != 0;
    Moment {
        // Under two-dimensional paging nobody asks for it.
        gva: Gva::new(0),
        root: Root::default(),
        kernel_mode: sregs.ss.dpl == 0,
        interrupts_allowed: regs.regs.rflags & RFLAGS_IF != 0 && events.interrupt.shadow == 0,
        exception_pending: events.exception.pending != 0 || events.triple_fault.pending != 0,
        event_reinjection: events.exception.injected != 0
            || events.interrupt.injected != 0
            || events.nmi.injected != 0,
        guest_paging: sregs.cr0 & CR0_PG != 0,
        prefetch: false,
        nested: may_nest && nested(),
        smm: events.smi.smm != 0,
        unread: false,
        emulated: false,
    }
}

/// Has the guest take "page not present" at the next entry: a page fault whose address is the token.
pub(super) fn announce(events: &mut kvm_vcpu_events, token: Token) {
    events.exception.pending = 1;
    events.exception.injected = 0;
    events.exception.nr = PAGE_FAULT;
    events.exception.has_error_code = 1;
    events.exception.error_code = 0;
    events.exception_has_payload = 1;
    events.exception_payload = u64::from(token.get());
    // Nothing else of it: an NMI may have come meanwhile.
    events.flags = KVM_VCPUEVENT_VALID_PAYLOAD;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> kvm_sync_regs {
        let mut regs = kvm_sync_regs::default();
        regs.sregs.ss.dpl = 3;
        regs.sregs.cr0 = CR0_PG;
        regs.regs.rflags = RFLAGS_IF | 2;
        regs
    }

    #[test]
    fn a_task_with_nothing_in_the_way_is_seen_as_such() {
        let seen = moment(&user(), || panic!("no hypervisor"));
        assert_eq!(seen, Moment::user(Gva::new(0), Root::default()));
    }

    #[test]
    fn each_obstacle_is_seen() {
        type Case = (fn(&mut kvm_sync_regs), fn(&Moment) -> bool);
        let cases: [Case; 11] = [
            (|r| r.regs.rflags = 2, |m| !m.interrupts_allowed),
            (|r| r.events.interrupt.shadow = 1, |m| !m.interrupts_allowed),
            (|r| r.sregs.ss.dpl = 0, |m| m.kernel_mode),
            (|r| r.sregs.cr0 = 0, |m| !m.guest_paging),
            (|r| r.events.exception.pending = 1, |m| m.exception_pending),
            (
                |r| r.events.triple_fault.pending = 1,
                |m| m.exception_pending,
            ),
            (|r| r.events.exception.injected = 1, |m| m.event_reinjection),
            (|r| r.events.interrupt.injected = 1, |m| m.event_reinjection),
            (|r| r.events.nmi.injected = 1, |m| m.event_reinjection),
            (|r| r.events.smi.smm = 1, |m| m.smm),
            (|r| r.sregs.efer = EFER_SVME, |m| m.nested),
        ];
        for (n, (set, holds)) in cases.iter().enumerate() {
            let mut regs = user();
            set(&mut regs);
            assert!(holds(&moment(&regs, || true)), "case {n}");
        }
        // A hypervisor whose guest does not run just now.
        let mut regs = user();
        regs.sregs.cr4 = CR4_VMXE;
        assert!(!moment(&regs, || false).nested);
    }

    #[test]
    fn the_token_travels_as_the_address() {
        let mut events = user().events;
        announce(&mut events, Token::new(0x1007));
        assert_eq!((events.exception.nr, events.exception.pending), (14, 1));
        assert_eq!(events.exception_payload, 0x1007);
        assert_eq!(events.flags, KVM_VCPUEVENT_VALID_PAYLOAD);
    }
}
