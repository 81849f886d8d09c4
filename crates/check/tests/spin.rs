//! A second opinion: `retry`, `error-gfn` and `error-pending`, written down once more for another
//! checker, Spin (`spin/*.pml`). Needs Debian's packages `spin` and `gcc`.
//!
//! By hand: `spin -a -DTASKS=2 error-gfn.pml && cc -DNFAIR=3 -o pan pan.c && ./pan -a -f -N last_ends`

use std::path::Path;
use std::process::{Command, ExitCode, Output};

use libtest_mimic::Arguments;
use surefault_testkit::trial;

/// A model, its size, and what Spin must say: `true` where the formula holds.
struct Case {
    name: &'static str,
    model: &'static str,
    defines: &'static [&'static str],
    formulas: &'static [(&'static str, bool)],
    run: fn(),
}

macro_rules! cases {
    ($($name:ident: $model:literal [$($define:literal),*] => $($formula:ident $holds:literal),+;)+) => {
        const CASES: &[Case] = &[$(Case {
            name: stringify!($name),
            model: $model,
            defines: &[$($define),*],
            formulas: &[$((stringify!($formula), $holds)),+],
            run: || run(stringify!($name)),
        }),+];
    };
}

cases! {
    retry_never_ends: "retry" ["-DTASKS=1"] => first_ends false;
    retry_serves_the_healthy:
        "retry" ["-DTASKS=2", "-DFAILING=1"] => first_ends false, last_ends true, honest true;
    error_gfn_ends_one: "error-gfn" ["-DTASKS=2", "-DFAILING=1"] => first_ends true, honest true;
    error_gfn_forgets_one_of_two: "error-gfn" ["-DTASKS=2"] => first_ends false, last_ends false;
    error_pending_ends_both:
        "error-pending" ["-DTASKS=2"] => first_ends true, last_ends true, async_comes_back true;
    error_pending_stays_off_after_a_kill:
        "error-pending" ["-DTASKS=2", "-DFAILING=1", "-DKILL"]
        => last_ends true, async_comes_back false;
}

fn main() -> ExitCode {
    let lacking = ["spin", "cc"].into_iter().find_map(|tool| {
        let version = if tool == "spin" { "-V" } else { "--version" };
        let found = Command::new(tool).arg(version).output().is_ok();
        (!found).then(|| format!("no {tool} here (Debian's packages spin and gcc)"))
    });
    let trials = CASES
        .iter()
        .map(|case| trial(case.name, "spin", lacking.clone(), case.run));
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn run(name: &str) {
    let case = CASES.iter().find(|case| case.name == name).expect("a case");
    let place = tempfile::tempdir().expect("a temporary directory");
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("spin");
    let model = models.join(format!("{}.pml", case.model));
    let mut spin = Command::new("spin");
    spin.arg("-a").args(case.defines).arg(&model);
    succeed(spin.current_dir(&place));
    let mut cc = Command::new("cc");
    // Fairness over more than six processes; the generated code has its warnings.
    cc.args(["-w", "-DNFAIR=3", "-o", "pan", "pan.c"]);
    succeed(cc.current_dir(&place));
    for &(formula, holds) in case.formulas {
        let mut pan = Command::new(place.path().join("pan"));
        // Acceptance cycles, with weak fairness.
        pan.args(["-a", "-f", "-N", formula]).current_dir(&place);
        let said = succeed(&mut pan);
        assert!(
            said.contains("errors: 0") != said.contains("errors: 1"),
            "{said}"
        );
        let found = said.contains("errors: 0");
        assert_eq!(
            found, holds,
            "{} {:?} {formula}: {said}",
            case.model, case.defines
        );
        println!("{} {:?} {formula}: {holds}", case.model, case.defines);
    }
}

fn succeed(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("it can be started");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr)
    );
    assert!(status.success(), "{command:?}: {said}");
    said
}
