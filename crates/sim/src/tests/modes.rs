//! The ways of `--apf`, with and without Surefault behind the memory.

use super::*;
use surefault_core::CauseKind;

fn in_mode(apf: ApfMode, host: Host, mut spec: SimSpec) -> SimResult {
    spec.run.apf = apf;
    spec.host = host;
    run(&spec)
}

#[test]
fn linux_alone_says_bad_address_or_loops() {
    let spec = lists(&[&[1, 2, 3]], &[2]);
    let sync = in_mode(ApfMode::Off, Host::LinuxAlone, spec.clone());
    assert_eq!(sync.run.outcome, Outcome::Reported);
    let reported = sync.run.report.expect("a report");
    assert_eq!(reported.report.failure.cause.kind, CauseKind::BadAddress);
    assert_eq!(reported.cause, "Bad address");
    let looped = in_mode(ApfMode::Kernel, Host::LinuxAlone, spec);
    assert_eq!(looped.run.outcome, Outcome::Looped);
}

#[test]
fn one_task_is_reported_alike_in_every_mode() {
    for failing in 0..8 {
        let spec = lists(&[&[0, 1, 2, 3, 4, 5, 6, 7]], &[failing]);
        let report = |apf| in_mode(apf, Host::Surefault, spec.clone()).run.report;
        let off = report(ApfMode::Off).expect("a report");
        assert_eq!(off.page, PageIndex::new(failing));
        assert_eq!(report(ApfMode::User).as_ref(), Some(&off));
        assert_eq!(report(ApfMode::Kernel).as_ref(), Some(&off));
    }
}

#[test]
fn behind_linux_an_early_signal_is_not_taken_for_a_report() {
    // Several bad pages and tasks in turn: signals come while another task runs.
    for seed in 0..50 {
        let mut spec = lists(&[&[1, 2], &[5, 6], &[9, 10], &[13, 14]], &[2, 6, 9, 13]);
        spec.scheduling = crate::Scheduling::Random;
        spec.on_report = crate::OnReport::Heal;
        spec.run.seed = seed;
        spec.run.vcpus = 1 + (seed % 2) as u16;
        let result = in_mode(ApfMode::Kernel, Host::Surefault, spec);
        assert_eq!(
            result.run.outcome,
            Outcome::Finished,
            "seed {seed}: {result:?}"
        );
        assert_eq!(
            (result.counts.reports, result.counts.wrong_reports),
            (4, 0),
            "seed {seed}"
        );
    }
}

#[test]
fn asynchronous_faults_keep_the_guest_going() {
    let mut spec = lists(&[&[1, 2, 3, 4], &[5, 6, 7, 8], &[9, 10, 11, 12]], &[]);
    spec.run.vcpus = 1;
    let sync = in_mode(ApfMode::Off, Host::Surefault, spec.clone());
    let user = in_mode(ApfMode::User, Host::Surefault, spec);
    assert_eq!(sync.run.outcome, Outcome::Finished);
    assert_eq!(user.run.outcome, Outcome::Finished);
    assert_eq!(sync.run.stats.progress, 0, "a sleeping vCPU counts nothing");
    assert!(user.run.stats.progress > 1000, "{user:?}");
    assert!(user.run.stats.elapsed < sync.run.stats.elapsed);
}

#[test]
fn a_spec_that_makes_no_sense_is_refused() {
    let mut spec = lists(&[&[1]], &[]);
    spec.run.tasks = 2;
    let refused = crate::run(&spec).expect_err("two tasks, one list");
    assert_eq!(refused.to_string(), "the workload has 1 tasks, the run 2");
    let mut spec = lists(&[&[1]], &[]);
    spec.run.vcpus = 0;
    assert!(crate::run(&spec).is_err());
    let mut spec = lists(&[&[1]], &[]);
    spec.run.deadline = Duration::ZERO;
    assert!(crate::run(&spec).is_err());
}
