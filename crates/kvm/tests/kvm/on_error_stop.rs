//! `--on-error stop`: the guest is paused at a page that failed, and goes on as if nothing had
//! happened once the page can be had.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use surefault_core::PageIndex;
use surefault_core::run::{ApfMode, OnError, Outcome, Reported, RunResult, RunSpec};
use surefault_core::workload::Workload;
use surefault_kvm::machine::Machine;
use surefault_kvm::runner::{AfterReport, Observer, WhilePaused};
use surefault_pager::FailedPage;

use crate::Case;
use crate::rig::{assert_finished, assert_sums, failing, go, modes, spec};
use crate::stage::{Choices, Planned, Stage};

pub(crate) const CASES: &[Case] = &[
    ("a_source_that_heals_lets_a_paused_guest_go_on", heals),
    ("a_paused_guest_goes_on_when_told_to", told),
    ("a_paused_guest_does_not_run", paused),
];

/// What is done in a pause: given the report, and how long it has lasted.
type InPause<'a> = dyn FnMut(&Machine, &Reported, Duration) -> WhilePaused + 'a;

struct Pausing<'a, 'b> {
    machine: &'a Machine,
    reports: &'a Mutex<Vec<Reported>>,
    at_report: &'a mut dyn FnMut(),
    in_pause: &'a mut InPause<'b>,
}

impl Observer for Pausing<'_, '_> {
    fn reported(&mut self, reported: &Reported) -> AfterReport {
        self.reports.lock().unwrap().push(reported.clone());
        (self.at_report)();
        AfterReport::Pause
    }

    fn paused(&mut self, reported: &Reported, since: Duration) -> WhilePaused {
        (self.in_pause)(self.machine, reported, since)
    }
}

/// Runs four tasks on `vcpus` vCPUs over 64 pages that fail as `fail` says.
fn run(
    fail: &str,
    apf: ApfMode,
    vcpus: u16,
    failed_page: FailedPage,
    at_report: &mut dyn FnMut(&Arc<Planned>),
    in_pause: &mut InPause<'_>,
) -> (RunResult, Vec<Reported>) {
    let spec = RunSpec {
        apf,
        on_error: OnError::Stop,
        ..failing(spec(64, 4, vcpus), fail)
    };
    let workload = Workload::partition(spec.pages, spec.tasks, spec.seed);
    let choices = Choices {
        failed_page,
        ..Choices::default()
    };
    let (stage, vcpus) = Stage::new(&spec, workload, choices);
    let reports = Mutex::new(Vec::new());
    let mut observer = Pausing {
        machine: &stage.machine,
        reports: &reports,
        at_report: &mut || at_report(&stage.store),
        in_pause,
    };
    let result = stage.run(vcpus, &mut observer);
    (result, reports.into_inner().unwrap())
}

/// Whatever is wrong with it is put right half a second after the first report.
fn heals() {
    const REPAIRED_AFTER: Duration = Duration::from_millis(500);
    for apf in modes() {
        for (fail, vcpus, failed_page) in [
            ("9", 1, FailedPage::Auto),
            ("3,9-12,40:truncate", 2, FailedPage::Auto),
            ("9,20", 1, FailedPage::Protect),
        ] {
            let mut repairing = None;
            let mut at_report = |store: &Arc<Planned>| {
                repairing.get_or_insert_with(|| {
                    let store = Arc::clone(store);
                    thread::spawn(move || {
                        thread::sleep(REPAIRED_AFTER);
                        store.repair(PageIndex::new(0)..=PageIndex::new(63));
                    })
                });
            };
            let mut wait = |_: &Machine, _: &Reported, _| WhilePaused::Wait;
            let ended = run(fail, apf, vcpus, failed_page, &mut at_report, &mut wait);
            let (result, reports) = ended;
            repairing.unwrap().join().unwrap();
            assert_finished(&result, &spec(64, 4, vcpus));
            let pages: BTreeSet<_> = reports.iter().map(|reported| reported.page).collect();
            assert_eq!(pages.len(), reports.len(), "{reports:?}");
            assert_eq!(result.stats.reports, reports.len() as u64);
            assert_eq!(result.stats.healed, reports.len() as u64);
            assert!(result.stats.stopped >= REPAIRED_AFTER / 2);
        }
    }
}

fn told() {
    for apf in modes() {
        // Let go without a repair it fails again; then it is repaired.
        let mut asked = 0;
        let mut by_hand = |_: &Machine, reported: &Reported, _| {
            asked += 1;
            assert_eq!(reported.page, PageIndex::new(9));
            match asked {
                1 => WhilePaused::Wait,
                2 | 3 => WhilePaused::Resume,
                _ => WhilePaused::Heal,
            }
        };
        let ended = run("9", apf, 1, FailedPage::Auto, &mut |_| (), &mut by_hand);
        let (result, reports) = ended;
        assert_finished(&result, &spec(64, 4, 1));
        assert_eq!(reports.len(), 3);
        assert_eq!(result.stats.healed, 1);
        assert!(
            reports
                .iter()
                .all(|reported| reported.report.rip == reports[0].report.rip)
        );

        let mut end = |_: &Machine, _: &Reported, _| WhilePaused::End;
        let (result, reports) = run("9", apf, 2, FailedPage::Auto, &mut |_| (), &mut end);
        assert_eq!(result.outcome, Outcome::Reported);
        assert_eq!(result.report.as_ref(), reports.last());
        assert_sums(&result);
    }
    // The default of an observer is to end.
    let result = go(&failing(spec(64, 4, 1), "9"), &mut ());
    assert_eq!(result.outcome, Outcome::Reported);
    assert_eq!(result.stats.reports, 1);
}

/// Neither the vCPU that failed nor any other, whose counting task would show it.
fn paused() {
    for apf in modes() {
        let mut counted = None;
        let mut looks = 0;
        let mut look = |machine: &Machine, _: &Reported, _| {
            let now = machine.counted().unwrap();
            assert_eq!(*counted.get_or_insert(now), now);
            looks += 1;
            match looks {
                10.. => WhilePaused::Heal,
                _ => WhilePaused::Wait,
            }
        };
        let (result, _) = run("9", apf, 2, FailedPage::Auto, &mut |_| (), &mut look);
        assert_finished(&result, &spec(64, 4, 2));
    }
}
