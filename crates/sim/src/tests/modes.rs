//! The ways of `--apf`, with and without Surefault behind the memory.

use super::*;
use crate::{Scheduling, SimError};
use surefault_core::CauseKind;
use surefault_core::faults::Paging;

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

/// Tasks 0 to 7 of twelve touch a page that fails: the guest kills them, the others finish.
#[test]
fn errors_to_the_guest_kill_whoever_made_the_access_in_every_mode() {
    let own: Vec<Vec<u32>> = (0..12)
        .map(|task| (task * 4..task * 4 + 4).collect())
        .collect();
    let own: Vec<&[u32]> = own.iter().map(Vec::as_slice).collect();
    let failing: Vec<u32> = (0..8).map(|task| task * 4 + task % 4).collect();
    for seed in 0..20 {
        for vcpus in [1, 2] {
            for apf in [ApfMode::Off, ApfMode::Kernel, ApfMode::User] {
                for (reads_errors, paging) in [
                    (true, Paging::TwoDimensional),
                    (false, Paging::TwoDimensional),
                    (false, Paging::Shadow),
                ] {
                    let mut spec = lists(&own, &failing);
                    (spec.run.seed, spec.run.vcpus) = (seed, vcpus);
                    spec.run.on_error = OnError::Guest;
                    spec.run.timeout = Duration::from_secs(5);
                    spec.scheduling = Scheduling::Random;
                    (spec.guest_reads_errors, spec.paging) = (reads_errors, paging);
                    let result = in_mode(apf, Host::Surefault, spec);
                    let what = (seed, vcpus, apf, reads_errors, paging);
                    assert_eq!(result.run.outcome, Outcome::Finished, "{what:?}");
                    assert_eq!(result.run.stats.tasks_killed, 8, "{what:?}");
                    assert_eq!(result.run.stats.tasks_finished, 4, "{what:?}");
                    assert_eq!(result.counts.reports, 0, "{what:?}");
                }
            }
        }
    }
}

#[test]
fn what_the_guests_kernel_touches_is_reported_all_the_same() {
    for apf in [ApfMode::Off, ApfMode::Kernel, ApfMode::User] {
        let mut spec = lists(&[&[1, 2, 3]], &[2]);
        spec.run.on_error = OnError::Guest;
        spec.kernel = [PageIndex::new(2)].into();
        let result = in_mode(apf, Host::Surefault, spec);
        assert_eq!(result.run.outcome, Outcome::Reported, "{apf:?}");
        assert_eq!(result.run.stats.tasks_killed, 0, "{apf:?}");
    }
}

#[test]
fn nobody_stops_a_simulated_run_and_linux_alone_tells_nobody() {
    let mut spec = lists(&[&[1]], &[]);
    spec.run.on_error = OnError::Stop;
    assert_eq!(crate::run(&spec), Err(SimError::NobodyResumes));
    spec.run.on_error = OnError::Guest;
    spec.host = Host::LinuxAlone;
    assert_eq!(crate::run(&spec), Err(SimError::NobodyTells));
}
