//! Copy, zeropage, continue, write protection, wake; and the ways to be refused.

use std::sync::Arc;

use rustix::io::Errno;
use rustix::mm::MprotectFlags;
use surefault_uffd::{
    CreateError, Event, FaultFlags, Features, FromFdError, Ioctls, KernelFaults, OperationError,
    OperationName, Options, Outcome, Protect, RegisterMode, Userfaultfd, Wake,
};

use crate::{Case, create, fault_on, next_event, register};
use surefault_testkit::in_thread;
use surefault_testkit::{BACKINGS, Backing, Mapping, bytes, nowhere};

const NONE: Features = Features::empty();

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "copy_fills_and_wakes",
        needs: NONE,
        run: copy_fills_and_wakes,
    },
    Case {
        name: "zeropage_fills_and_wakes",
        needs: NONE,
        run: zeropage_fills_and_wakes,
    },
    Case {
        name: "later_means_later",
        needs: NONE,
        run: later_means_later,
    },
    Case {
        name: "a_present_page_is_already_there",
        needs: NONE,
        run: a_present_page_is_already_there,
    },
    Case {
        name: "a_copy_stops_at_a_present_page",
        needs: NONE,
        run: a_copy_stops_at_a_present_page,
    },
    Case {
        name: "unregistered_is_no_region",
        needs: NONE,
        run: unregistered_is_no_region,
    },
    Case {
        name: "errors_name_the_operation",
        needs: NONE,
        run: errors_name_the_operation,
    },
    Case {
        name: "registering_says_what_works",
        needs: Features::POISON,
        run: registering_says_what_works,
    },
    Case {
        name: "unregistering_reads_zeros",
        needs: NONE,
        run: unregistering_reads_zeros,
    },
    Case {
        name: "closing_reads_zeros",
        needs: NONE,
        run: closing_reads_zeros,
    },
    Case {
        name: "a_wake_makes_look_again",
        needs: NONE,
        run: a_wake_makes_look_again,
    },
    Case {
        name: "prot_none_and_wake_is_efault",
        needs: NONE,
        run: prot_none_and_wake_is_efault,
    },
    Case {
        name: "minor_faults_continue",
        needs: Features::MINOR_SHMEM,
        run: minor_faults_continue,
    },
    Case {
        name: "write_protection",
        needs: Features::WP_HUGETLBFS_SHMEM,
        run: write_protection,
    },
    Case {
        name: "user_mode_only",
        needs: NONE,
        run: user_mode_only,
    },
    Case {
        name: "missing_features_are_named",
        needs: NONE,
        run: missing_features_are_named,
    },
    Case {
        name: "only_a_userfaultfd_is_taken_for_one",
        needs: NONE,
        run: only_a_userfaultfd_is_taken_for_one,
    },
];

fn served(backing: Backing, pages: usize) -> (Userfaultfd, Arc<Mapping>) {
    let uffd = create(NONE);
    let mapping = Mapping::new(backing, pages);
    register(&uffd, &mapping, RegisterMode::MISSING);
    (uffd, Arc::new(mapping))
}

fn load_in_thread(mapping: &Arc<Mapping>, page: usize) -> impl FnOnce() -> u8 + use<> {
    let mapping = mapping.clone();
    in_thread(move || mapping.load(page))
}

fn copy_fills_and_wakes() {
    for backing in BACKINGS {
        let (uffd, mapping) = served(backing, 4);
        let reader = load_in_thread(&mapping, 2);
        let fault = fault_on(next_event(&uffd), mapping.page(2));
        assert_eq!((fault.flags, fault.thread), (FaultFlags::empty(), None));
        let outcome = uffd.copy(mapping.all(), &bytes(4, 7), Wake::Now);
        assert_eq!(outcome, Ok(Outcome::Done), "{backing:?}");
        assert_eq!(reader(), 7);
        assert_eq!(mapping.load(0), 7);
    }
}

fn zeropage_fills_and_wakes() {
    for backing in BACKINGS {
        let (uffd, mapping) = served(backing, 1);
        let reader = load_in_thread(&mapping, 0);
        fault_on(next_event(&uffd), mapping.page(0));
        assert_eq!(uffd.zeropage(mapping.page(0), Wake::Now), Ok(Outcome::Done));
        assert_eq!(reader(), 0);
    }
}

fn later_means_later() {
    let (uffd, mapping) = served(Backing::Anonymous, 1);
    let reader = load_in_thread(&mapping, 0);
    fault_on(next_event(&uffd), mapping.page(0));
    let outcome = uffd.copy(mapping.page(0), &bytes(1, 9), Wake::Later);
    assert_eq!(outcome, Ok(Outcome::Done));
    // Others see the page, the one that is blocked does not: nothing may be concluded from time,
    // so only that it wakes up is checked.
    assert_eq!(mapping.load(0), 9);
    assert_eq!(uffd.wake(mapping.page(0)), Ok(()));
    assert_eq!(reader(), 9);
}

fn a_present_page_is_already_there() {
    for backing in BACKINGS {
        let (uffd, mapping) = served(backing, 1);
        let page = mapping.page(0);
        assert_eq!(uffd.copy(page, &bytes(1, 1), Wake::Now), Ok(Outcome::Done));
        let again = uffd.copy(page, &bytes(1, 2), Wake::Now);
        assert_eq!(again, Ok(Outcome::AlreadyThere));
        assert_eq!(uffd.zeropage(page, Wake::Now), Ok(Outcome::AlreadyThere));
        assert_eq!(mapping.load(0), 1, "a page is never overwritten");
    }
}

fn a_copy_stops_at_a_present_page() {
    for backing in BACKINGS {
        let (uffd, mapping) = served(backing, 4);
        assert_eq!(
            uffd.copy(mapping.page(2), &bytes(1, 1), Wake::Now),
            Ok(Outcome::Done)
        );
        let all = mapping.all();
        let bytes_done = mapping.pages(0, 2).len();
        let outcome = uffd.copy(all, &bytes(4, 2), Wake::Now);
        assert_eq!(
            outcome,
            Ok(Outcome::Partial { bytes: bytes_done }),
            "{backing:?}"
        );
        let rest = all.after(bytes_done).expect("two pages are left");
        assert_eq!(rest, mapping.pages(2, 2));
        let outcome = uffd.copy(rest, &bytes(2, 2), Wake::Now);
        assert_eq!(outcome, Ok(Outcome::AlreadyThere));
        assert_eq!((mapping.load(1), mapping.load(2)), (2, 1));
    }
}

fn unregistered_is_no_region() {
    for backing in BACKINGS {
        let uffd = create(NONE);
        let mapping = Mapping::new(backing, 1);
        let outcome = uffd.copy(mapping.page(0), &bytes(1, 1), Wake::Now);
        assert_eq!(outcome, Ok(Outcome::NoRegion));
    }
    let uffd = create(NONE);
    let outcome = uffd.copy(nowhere(), &bytes(1, 1), Wake::Now);
    assert_eq!(outcome, Ok(Outcome::NoRegion));
}

fn errors_name_the_operation() {
    let (uffd, mapping) = served(Backing::Anonymous, 2);
    let error = uffd
        .copy(mapping.all(), &bytes(1, 1), Wake::Now)
        .expect_err("one page does not fill two");
    assert!(
        matches!(error, OperationError::SourceLength { .. }),
        "{error}"
    );

    let other = create(NONE);
    // SAFETY: nothing relies on what a `Mapping`'s absent pages contain.
    let error = unsafe { other.register(mapping.all(), RegisterMode::MISSING) }
        .expect_err("two descriptors cannot serve one page");
    assert_eq!(
        error,
        OperationError::Refused {
            operation: OperationName::Register,
            range: mapping.all(),
            errno: Errno::BUSY,
        }
    );
    assert!(
        error
            .to_string()
            .contains(&mapping.all().start().to_string()),
        "{error}"
    );

    // SAFETY: nothing is mapped there.
    let error =
        unsafe { other.register(nowhere(), RegisterMode::MISSING) }.expect_err("not mapped");
    assert!(error.to_string().contains("not mapped"), "{error}");
}

fn registering_says_what_works() {
    for backing in BACKINGS {
        let uffd = create(NONE);
        let mapping = Mapping::new(backing, 1);
        // SAFETY: nothing relies on what a `Mapping`'s absent pages contain.
        let ioctls = unsafe { uffd.register(mapping.all(), RegisterMode::MISSING) };
        let all = Ioctls::WAKE | Ioctls::COPY | Ioctls::ZEROPAGE | Ioctls::POISON;
        assert!(
            ioctls.expect("register").contains(all),
            "{backing:?}: {ioctls:?}"
        );
    }
}

fn unregistering_reads_zeros() {
    let (uffd, mapping) = served(Backing::Anonymous, 1);
    let reader = load_in_thread(&mapping, 0);
    fault_on(next_event(&uffd), mapping.page(0));
    assert_eq!(uffd.unregister(mapping.all()), Ok(()));
    assert_eq!(reader(), 0);
}

fn closing_reads_zeros() {
    let (uffd, mapping) = served(Backing::Anonymous, 1);
    let reader = load_in_thread(&mapping, 0);
    fault_on(next_event(&uffd), mapping.page(0));
    drop(uffd);
    assert_eq!(reader(), 0);
}

fn a_wake_makes_look_again() {
    let (uffd, mapping) = served(Backing::Anonymous, 1);
    let reader = load_in_thread(&mapping, 0);
    fault_on(next_event(&uffd), mapping.page(0));
    assert_eq!(uffd.wake(mapping.page(0)), Ok(()));
    // The page is still absent: the same thread faults again.
    fault_on(next_event(&uffd), mapping.page(0));
    assert_eq!(uffd.zeropage(mapping.page(0), Wake::Now), Ok(Outcome::Done));
    assert_eq!(reader(), 0);
}

/// How a page fails where there is no poison.
fn prot_none_and_wake_is_efault() {
    for backing in BACKINGS {
        let (uffd, mapping) = served(backing, 2);
        let reader = mapping.clone();
        let reader = in_thread(move || reader.load_by_syscall(1));
        fault_on(next_event(&uffd), mapping.page(1));
        mapping.protect(1, MprotectFlags::empty());
        assert_eq!(uffd.wake(mapping.page(1)), Ok(()));
        assert_eq!(reader(), Err(Errno::FAULT), "{backing:?}");
        // Healed: the registration is still there, and a page can be installed before anybody may
        // touch it again.
        let outcome = uffd.copy(mapping.page(1), &bytes(1, 3), Wake::Now);
        assert_eq!(outcome, Ok(Outcome::Done), "{backing:?}");
        assert_eq!(mapping.load_by_syscall(1), Err(Errno::FAULT));
        mapping.protect(1, MprotectFlags::READ | MprotectFlags::WRITE);
        assert_eq!(mapping.load_by_syscall(1), Ok(3));
    }
}

fn minor_faults_continue() {
    let uffd = create(Features::MINOR_SHMEM);
    let mapping = Arc::new(Mapping::new(Backing::Memfd, 2));
    register(&uffd, &mapping, RegisterMode::MISSING | RegisterMode::MINOR);
    // No such page in the page cache.
    let error = uffd
        .continue_pages(mapping.page(1), Wake::Now)
        .expect_err("not cached");
    assert!(
        error.to_string().contains("page cache does not have"),
        "{error}"
    );
    assert_eq!(
        uffd.copy(mapping.page(0), &bytes(1, 5), Wake::Now),
        Ok(Outcome::Done)
    );
    // Unmapped, but still cached.
    mapping
        .give_up(0, rustix::mm::Advice::LinuxDontNeed)
        .expect("madvise");
    let reader = load_in_thread(&mapping, 0);
    let fault = fault_on(next_event(&uffd), mapping.page(0));
    assert!(fault.flags.contains(FaultFlags::MINOR));
    assert_eq!(
        uffd.continue_pages(mapping.page(0), Wake::Now),
        Ok(Outcome::Done)
    );
    assert_eq!(reader(), 5);
    let again = uffd.continue_pages(mapping.page(0), Wake::Now);
    assert_eq!(again, Ok(Outcome::AlreadyThere));
}

fn write_protection() {
    for backing in BACKINGS {
        let uffd = create(Features::PAGEFAULT_FLAG_WP | Features::WP_HUGETLBFS_SHMEM);
        let mapping = Arc::new(Mapping::new(backing, 1));
        register(&uffd, &mapping, RegisterMode::MISSING | RegisterMode::WP);
        let page = mapping.page(0);
        assert_eq!(uffd.copy(page, &bytes(1, 5), Wake::Now), Ok(Outcome::Done));
        assert_eq!(uffd.write_protect(page, Protect::On), Ok(Outcome::Done));
        let writer = mapping.clone();
        let writer = in_thread(move || writer.store(0, 6));
        let fault = fault_on(next_event(&uffd), page);
        assert_eq!(
            fault.flags,
            FaultFlags::WP | FaultFlags::WRITE,
            "{backing:?}"
        );
        assert_eq!(mapping.load(0), 5);
        let off = uffd.write_protect(page, Protect::Off(Wake::Now));
        assert_eq!(off, Ok(Outcome::Done));
        writer();
        assert_eq!(mapping.load(0), 6);
    }
}

fn user_mode_only() {
    let uffd = Userfaultfd::create(Options {
        kernel_faults: KernelFaults::Never,
        ..Options::default()
    })
    .expect("anybody may have one");
    assert_eq!(uffd.serves_kernel_faults(), Some(false));
    let mapping = Arc::new(Mapping::new(Backing::Anonymous, 2));
    register(&uffd, &mapping, RegisterMode::MISSING);
    assert_eq!(mapping.load_by_syscall(0), Err(Errno::FAULT));
    let reader = load_in_thread(&mapping, 1);
    fault_on(next_event(&uffd), mapping.page(1));
    assert_eq!(
        uffd.copy(mapping.page(1), &bytes(1, 4), Wake::Now),
        Ok(Outcome::Done)
    );
    assert_eq!(reader(), 4);
}

fn missing_features_are_named() {
    let unheard_of = Features::from_bits_retain(1 << 60);
    let options = Options {
        required: unheard_of,
        ..Options::default()
    };
    match Userfaultfd::create(options) {
        Err(CreateError::MissingFeatures { missing, .. }) => assert_eq!(missing, unheard_of),
        other => panic!("{other:?}"),
    }
    let options = Options {
        wanted: unheard_of,
        ..Options::default()
    };
    let uffd = Userfaultfd::create(options).expect("only wanted");
    assert_eq!(uffd.features(), Some(NONE));
}

fn only_a_userfaultfd_is_taken_for_one() {
    let (pipe, _) = rustix::pipe::pipe().expect("pipe");
    match Userfaultfd::from_fd(pipe) {
        Err(FromFdError::SomethingElse(what)) => assert!(what.starts_with("pipe:"), "{what}"),
        other => panic!("{other:?}"),
    }
    let (uffd, mapping) = served(Backing::Anonymous, 1);
    let uffd = Userfaultfd::from_fd(uffd.into()).expect("it is one");
    let reader = load_in_thread(&mapping, 0);
    assert!(matches!(next_event(&uffd), Event::Pagefault(_)));
    assert_eq!(uffd.zeropage(mapping.page(0), Wake::Now), Ok(Outcome::Done));
    assert_eq!(reader(), 0);
}
