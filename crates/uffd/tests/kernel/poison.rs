//! Poison: what it does to an access, and what takes it away again.

use std::sync::Arc;

use rustix::io::Errno;
use rustix::mm::Advice;
use surefault_uffd::{Features, Outcome, RegisterMode, Userfaultfd, Wake};

use crate::{Case, create, fault_on, next_event, register};
use surefault_testkit::in_thread;
use surefault_testkit::{BACKINGS, Backing, Mapping, bytes};

const POISON: Features = Features::POISON;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "poison_ends_a_blocked_access",
        needs: POISON,
        run: poison_ends_a_blocked_access,
    },
    Case {
        name: "poison_needs_no_negotiation",
        needs: POISON,
        run: poison_needs_no_negotiation,
    },
    Case {
        name: "copy_heals_poison",
        needs: POISON,
        run: copy_heals_poison,
    },
    Case {
        name: "zeropage_heals_poison_in_shared_memory",
        needs: POISON,
        run: zeropage_heals_poison_in_shared_memory,
    },
    Case {
        name: "poison_spares_present_pages",
        needs: POISON,
        run: poison_spares_present_pages,
    },
    Case {
        name: "dontneed_clears_poison",
        needs: POISON,
        run: dontneed_clears_poison,
    },
    Case {
        name: "a_punched_hole_leaves_poison",
        needs: POISON,
        run: a_punched_hole_leaves_poison,
    },
];

fn served(backing: Backing, pages: usize, features: Features) -> (Userfaultfd, Arc<Mapping>) {
    let uffd = create(features);
    let mapping = Mapping::new(backing, pages);
    register(&uffd, &mapping, RegisterMode::MISSING);
    (uffd, Arc::new(mapping))
}

fn poison_ends_a_blocked_access() {
    for backing in BACKINGS {
        let (uffd, mapping) = served(backing, 2, POISON);
        let reader = mapping.clone();
        let reader = in_thread(move || reader.load_by_syscall(1));
        fault_on(next_event(&uffd), mapping.page(1));
        assert_eq!(uffd.poison(mapping.all(), Wake::Now), Ok(Outcome::Done));
        assert_eq!(reader(), Err(Errno::FAULT), "{backing:?}");
        assert_eq!(
            mapping.load_by_syscall(0),
            Err(Errno::FAULT),
            "not touched before"
        );
        let again = uffd.poison(mapping.page(0), Wake::Now);
        assert_eq!(again, Ok(Outcome::AlreadyThere));
    }
}

fn poison_needs_no_negotiation() {
    let (uffd, mapping) = served(Backing::Anonymous, 1, Features::empty());
    assert_eq!(uffd.poison(mapping.page(0), Wake::Now), Ok(Outcome::Done));
    assert_eq!(mapping.load_by_syscall(0), Err(Errno::FAULT));
}

fn copy_heals_poison() {
    for backing in BACKINGS {
        let (uffd, mapping) = served(backing, 1, POISON);
        assert_eq!(uffd.poison(mapping.page(0), Wake::Now), Ok(Outcome::Done));
        let healed = uffd.copy(mapping.page(0), &bytes(1, 8), Wake::Now);
        assert_eq!(healed, Ok(Outcome::Done), "{backing:?}");
        assert_eq!(mapping.load_by_syscall(0), Ok(8));
    }
}

fn zeropage_heals_poison_in_shared_memory() {
    for (backing, expected) in [
        (Backing::Anonymous, Outcome::AlreadyThere),
        (Backing::Memfd, Outcome::Done),
    ] {
        let (uffd, mapping) = served(backing, 1, POISON);
        assert_eq!(uffd.poison(mapping.page(0), Wake::Now), Ok(Outcome::Done));
        let outcome = uffd.zeropage(mapping.page(0), Wake::Now);
        assert_eq!(outcome, Ok(expected), "{backing:?}");
    }
}

fn poison_spares_present_pages() {
    for backing in BACKINGS {
        let (uffd, mapping) = served(backing, 1, POISON);
        assert_eq!(
            uffd.copy(mapping.page(0), &bytes(1, 1), Wake::Now),
            Ok(Outcome::Done)
        );
        let outcome = uffd.poison(mapping.page(0), Wake::Now);
        assert_eq!(outcome, Ok(Outcome::AlreadyThere), "{backing:?}");
        assert_eq!(mapping.load(0), 1);
    }
}

/// Measured on 6.18: giving a page up takes its marker away, and the page is absent again.
fn dontneed_clears_poison() {
    for backing in BACKINGS {
        let (uffd, mapping) = served(backing, 1, POISON);
        assert_eq!(uffd.poison(mapping.page(0), Wake::Now), Ok(Outcome::Done));
        mapping.give_up(0, Advice::LinuxDontNeed).expect("madvise");
        let reader = mapping.clone();
        let reader = in_thread(move || reader.load_by_syscall(0));
        fault_on(next_event(&uffd), mapping.page(0));
        assert_eq!(
            uffd.copy(mapping.page(0), &bytes(1, 2), Wake::Now),
            Ok(Outcome::Done)
        );
        assert_eq!(reader(), Ok(2), "{backing:?}");
    }
}

/// Measured on 6.18: a hole punched into the file leaves the mapping's markers where they are
/// (`zap_pte_range` spares them unless private pages are zapped, too).
fn a_punched_hole_leaves_poison() {
    let (uffd, mapping) = served(Backing::Memfd, 1, POISON);
    assert_eq!(uffd.poison(mapping.page(0), Wake::Now), Ok(Outcome::Done));
    mapping.give_up(0, Advice::LinuxRemove).expect("madvise");
    assert_eq!(mapping.load_by_syscall(0), Err(Errno::FAULT));
}
