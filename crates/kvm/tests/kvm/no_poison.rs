//! Hosts without poison: KVM says EFAULT and no more, and the page is found among those that the
//! instruction touches.

use surefault_core::run::{ApfMode, Outcome, RunResult, RunSpec};
use surefault_core::workload::Workload;
use surefault_kvm::runner::Observer;
use surefault_pager::FailedPage;

use crate::Case;
use crate::rig::{Healer, assert_finished, assert_sums, failing, go, modes, spec};
use crate::stage::{Choices, Stage};

pub(crate) const CASES: &[Case] = &[("without_poison_reports_are_the_same", same)];

fn protected(fail: &str, apf: ApfMode, observer: &mut dyn Observer) -> RunResult {
    let spec = failing(spec(32, 3, 1), fail);
    let spec = RunSpec { apf, ..spec };
    let workload = Workload::partition(spec.pages, spec.tasks, spec.seed);
    let choices = Choices {
        failed_page: FailedPage::Protect,
        ..Choices::default()
    };
    let (stage, vcpus) = Stage::new(&spec, workload, choices);
    stage.run(vcpus, observer)
}

fn same() {
    for apf in modes() {
        for fail in ["0", "9", "31"] {
            let without = protected(fail, apf, &mut ());
            let with = go(&failing(spec(32, 3, 1), fail), &mut ());
            assert_eq!(without.outcome, Outcome::Reported);
            assert_sums(&without);
            assert_eq!(without.report, with.report);
        }
        let mut healer = Healer::default();
        let result = protected("3,7-9", apf, &mut healer);
        assert_finished(&result, &spec(32, 3, 1));
        assert_eq!(healer.reports.len(), 4);
    }
}
