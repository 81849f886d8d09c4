//! `--on-error stop`: the guest is paused at a page that failed, and goes on as if nothing had
//! happened once the page can be had.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use surefault_core::run::{Irqchip, OnError, Outcome, Reported, RunResult};
use surefault_core::workload::Workload;
use surefault_core::{PageId, PageIndex, PageSize};
use surefault_kvm::machine::{Machine, MachineSpec};
use surefault_kvm::memory::Mapping;
use surefault_kvm::pages::{PageSource, Paged};
use surefault_kvm::runner::{AfterReport, Limits, Observer, WhilePaused, drive};
use surefault_kvm::signals;
use surefault_kvm::vm::Faults;
use surefault_pager::{FailedPage, PagerConfig};
use surefault_store::{PlannedStore, Store};

use crate::Case;
use crate::rig::{PAGE, assert_finished, assert_sums, failing, go, pattern, spec};

pub(crate) const CASES: &[Case] = &[
    ("a_source_that_heals_lets_a_paused_guest_go_on", heals),
    ("a_paused_guest_goes_on_when_told_to", told),
    ("a_paused_guest_does_not_run", paused),
];

type Planned = Arc<PlannedStore<Arc<dyn Store>>>;

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

/// Runs `tasks` tasks on `vcpus` vCPUs over 64 pages that fail as `fail` says.
fn run(
    fail: &str,
    faults: Faults,
    vcpus: u16,
    failed_page: FailedPage,
    at_report: &mut dyn FnMut(&Planned),
    in_pause: &mut InPause<'_>,
) -> (RunResult, Vec<Reported>) {
    let spec = failing(spec(64, 4, vcpus), fail);
    let source = pattern(&spec);
    let data = Arc::new(Mapping::on_demand((spec.pages.get() * PAGE) as usize).unwrap());
    let store = PlannedStore::new(source.clone(), spec.plan.clone(), PageSize::KIB_4);
    let store = Arc::new(store);
    let config = PagerConfig {
        failed_page,
        ..PagerConfig::default()
    };
    let paged = Paged::start(data.clone(), PageSize::KIB_4, store.clone(), &config, None);
    let paged = Arc::new(paged.unwrap());
    let pages: Arc<dyn PageSource> = paged.clone();
    let machine_spec = MachineSpec {
        vcpus,
        workload: Arc::new(Workload::partition(spec.pages, spec.tasks, spec.seed)),
        page_size: PageSize::KIB_4,
        yield_every: NonZeroU32::MIN,
        faults,
        irqchip: Irqchip::Kernel,
        apf: None,
        on_error: OnError::Stop,
        vendor: None,
    };
    let signals = signals::install().unwrap();
    let (machine, vcpus) = Machine::new(&machine_spec, data, &pages, signals).unwrap();
    let heal = |page: PageId| {
        store.repair(page.index()..=page.index());
        paged.pager().heal(page, 1);
        Ok(())
    };
    let limits = Limits {
        timeout: spec.timeout,
        patience: Duration::from_secs(60),
    };
    let reports = Mutex::new(Vec::new());
    let mut observer = Pausing {
        machine: &machine,
        reports: &reports,
        at_report: &mut || at_report(&store),
        in_pause,
    };
    let result = drive(
        &machine,
        vcpus,
        &*pages,
        &*source,
        &heal,
        limits,
        &mut observer,
    );
    (result.unwrap(), reports.into_inner().unwrap())
}

const MODES: [Faults; 2] = [Faults::Synchronous, Faults::Asynchronous];

/// Whatever is wrong with it is put right half a second after the first report.
fn heals() {
    const REPAIRED_AFTER: Duration = Duration::from_millis(500);
    for faults in MODES {
        for (fail, vcpus, failed_page) in [
            ("9", 1, FailedPage::Auto),
            ("3,9-12,40:truncate", 2, FailedPage::Auto),
            ("9,20", 1, FailedPage::Protect),
        ] {
            let mut repairing = None;
            let mut at_report = |store: &Planned| {
                repairing.get_or_insert_with(|| {
                    let store = Arc::clone(store);
                    thread::spawn(move || {
                        thread::sleep(REPAIRED_AFTER);
                        store.repair(PageIndex::new(0)..=PageIndex::new(63));
                    })
                });
            };
            let mut wait = |_: &Machine, _: &Reported, _| WhilePaused::Wait;
            let ended = run(fail, faults, vcpus, failed_page, &mut at_report, &mut wait);
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
    for faults in MODES {
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
        let ended = run("9", faults, 1, FailedPage::Auto, &mut |_| (), &mut by_hand);
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
        let (result, reports) = run("9", faults, 2, FailedPage::Auto, &mut |_| (), &mut end);
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
    for faults in MODES {
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
        let (result, _) = run("9", faults, 2, FailedPage::Auto, &mut |_| (), &mut look);
        assert_finished(&result, &spec(64, 4, 2));
    }
}
