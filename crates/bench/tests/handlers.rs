//! The floor and the ceiling serve, and what becomes of a handler that does not.

use std::process::ExitCode;

use libtest_mimic::Arguments;
use surefault_bench::{BenchError, Handler, HandlerKind, Order, Source, Vmm};
use surefault_testkit::trial;
use surefault_uffd::{Options, Userfaultfd};

const PAGES: u32 = 1100;

fn served_by(kind: &HandlerKind, order: Order) {
    let source = Source::create(&std::env::temp_dir(), PAGES).expect("a file");
    let mut handler = Handler::start(kind, &source).expect("a handler");
    // One VM after the other.
    for threads in [1, 3] {
        let vmm = Vmm {
            socket: handler.socket().to_owned(),
            pages: PAGES,
            order,
            threads,
            seed: 3,
        };
        let served = vmm.play().expect("served");
        assert!(served.pages_per_second > 0.0 && served.p50_ns <= served.p99_ns);
        handler.check().expect("it goes on");
    }
}

fn floor() {
    served_by(&HandlerKind::Floor, Order::Random);
    served_by(&HandlerKind::Floor, Order::Sequential);
}

fn ceiling() {
    served_by(&HandlerKind::Ceiling, Order::Sequential);
}

fn a_program_that_ends_is_noticed() {
    let source = Source::create(&std::env::temp_dir(), 1).expect("a file");
    let kind = HandlerKind::Surefault {
        program: "false".into(),
        arguments: Vec::new(),
        supervised: true,
    };
    match Handler::start(&kind, &source) {
        Err(BenchError::Ended { status, said, .. }) => {
            assert_eq!((status.code(), said.as_str()), (Some(1), "it said nothing"));
        }
        other => panic!("{other:?}"),
    }
}

fn main() -> ExitCode {
    let uffd = || {
        let made = Userfaultfd::create(Options::default());
        made.err().map(|error| error.to_string())
    };
    let trials = vec![
        trial("floor", "uffd", uffd(), floor),
        trial("ceiling", "uffd", uffd(), ceiling),
        trial(
            "a_program_that_ends_is_noticed",
            "",
            None,
            a_program_that_ends_is_noticed,
        ),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
