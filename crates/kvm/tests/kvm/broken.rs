//! A guest that breaks is an error with its exception, and never a hang.

use surefault_core::workload::FirstTouch::Call;
use surefault_guest::abi::DATA_BASE;
use surefault_kvm::runner::RunError;

use crate::Case;
use crate::rig::{Code, one_task};

pub(crate) const CASES: &[Case] = &[
    ("exceptions_are_handed_over", exceptions),
    ("a_bad_address_of_the_guest_is_its_page_fault", page_fault),
];

fn trap(code: &[u8]) -> surefault_guest::GuestTrap {
    match one_task("none", &[(0, Call)], Code::new(1, &[(0, code)]), &mut ()) {
        Err(RunError::Guest { trap, .. }) => trap,
        other => panic!("{other:?}"),
    }
}

fn exceptions() {
    // ud2; xor ebx, ebx and div ebx; hlt, in ring 3
    for (code, vector, offset) in [
        (&[0x0f, 0x0b][..], 6, 0),
        (&[0x31, 0xdb, 0xf7, 0xf3], 0, 2),
        (&[0xf4], 13, 0),
    ] {
        let trap = trap(code);
        assert_eq!(trap.vector, vector, "{trap}");
        assert_eq!((trap.rip, trap.ring), (DATA_BASE + offset, 3), "{trap}");
    }
}

fn page_fault() {
    // mov rsi, [0x10]: ring 0's memory
    let trap = trap(&[0x48, 0x8b, 0x34, 0x25, 0x10, 0, 0, 0]);
    assert_eq!((trap.vector, trap.cr2), (14, 0x10), "{trap}");
    assert_eq!(trap.error, 0b101, "a read by ring 3 of what is present");
}
