//! Sources that fail: each access ends as it was said, and nobody else is touched.

use std::time::Duration;

use surefault_pager::FailedPage;
use surefault_serve::FileSource;
use surefault_serve::event::{Event, FailureAction};
use surefault_testkit::page_size;

use crate::rig::{Planned, Rig, pattern_file, rule, short_deadline};
use crate::vmm::{Part, Vmm};

crate::cases![
    a_file_that_was_cut_short(Poison),
    a_file_that_is_cut_short_meanwhile(Poison),
    no_file(Poison),
    pages_that_cannot_be_read(Poison),
    a_stalled_page_ends_at_its_deadline(Poison),
    a_stalled_source_slows_nobody_else(Poison),
    waiting_ends_when_the_source_heals,
    only_the_right_process_is_killed,
];

fn offset(page: u64) -> u64 {
    page * page_size() as u64
}

fn a_file_that_was_cut_short() {
    let rig = Rig::new(|_| {});
    // In the middle of page 100.
    let source = pattern_file(&rig.path("mem"), offset(100) + 1000);
    let socket = rig.listen("vm", source);
    let mut vmm = Vmm::start(&Part::new(&socket, 128));
    let report = vmm.sound_report();
    assert_eq!(report.failed, (100..128).map(offset).collect::<Vec<_>>());
    let failures = rig.failures(vmm.pid());
    assert_eq!(failures.len(), 28, "each is told once");
    let (page, cause) = &failures[0];
    let needed = offset(u64::from(*page) + 1);
    let size = offset(100) + 1000;
    assert!(
        cause.contains(&format!(
            "is too short: it has {size} bytes, and {needed} are needed"
        )),
        "{cause}"
    );
}

fn a_file_that_is_cut_short_meanwhile() {
    let rig = Rig::new(|_| {});
    let path = rig.path("mem");
    let socket = rig.listen("vm", pattern_file(&path, offset(64)));
    let mut part = Part::new(&socket, 64);
    part.stays = true;
    let mut before = Vmm::start(&part);
    assert_eq!(before.sound_report().failed.len(), 0);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("a file");
    file.set_len(offset(10)).expect("cut");
    // It has all that it needs; the next one has not.
    assert_eq!(Vmm::start(&part).sound_report().failed.len(), 54);
    assert_eq!(before.ended_by(), None);
}

fn no_file() {
    let rig = Rig::new(|_| {});
    let path = rig.path("nothing");
    let socket = rig.listen("vm", std::sync::Arc::new(FileSource::new(&path)));
    let mut vmm = Vmm::start(&Part::new(&socket, 8));
    assert_eq!(vmm.sound_report().failed.len(), 8);
    let failures = rig.failures(vmm.pid());
    assert!(failures[0].1.contains("there is no file"), "{failures:?}");
}

fn pages_that_cannot_be_read() {
    let rig = Rig::new(rule(FailedPage::Auto));
    let socket = rig.listen("vm", Planned::new(64, &["5,9-12:permanent"], "0us"));
    let mut vmm = Vmm::start(&Part::new(&socket, 64));
    let report = vmm.sound_report();
    assert_eq!(report.failed, [5, 9, 10, 11, 12].map(offset));
    let pid = vmm.pid();
    assert_eq!(vmm.ended_by(), None);
    assert_eq!(rig.summary(pid).failures, 5);
}

fn a_stalled_page_ends_at_its_deadline() {
    let rig = Rig::new(short_deadline);
    let socket = rig.listen("vm", Planned::new(64, &["7:stall"], "0us"));
    let mut vmm = Vmm::start(&Part::new(&socket, 64));
    let report = vmm.sound_report();
    assert_eq!(report.failed, [offset(7)]);
    let failures = rig.failures(vmm.pid());
    assert!(failures[0].1.contains("within 300ms"), "{failures:?}");
}

/// A VM whose source never answers has the daemon's threads of its own.
fn a_stalled_source_slows_nobody_else() {
    let rig = Rig::new(|_| {});
    let stalled = rig.listen("stalled", Planned::new(64, &["0-63:stall"], "0us"));
    let sound = rig.listen("sound", Planned::new(64, &[], "0us..50us"));
    let mut part = Part::new(&stalled, 64);
    part.vcpus = 40;
    let waiting = Vmm::start(&part);
    let faulted = |event: &Event| matches!(event, Event::VmStarted { .. }).then_some(());
    rig.told("the start", faulted);
    for _ in 0..3 {
        assert_eq!(Vmm::start(&Part::new(&sound, 64)).sound_report().right, 128);
    }
    drop(waiting);
}

fn waiting_ends_when_the_source_heals() {
    let rig = Rig::new(|config| {
        config.pager.failed_page = FailedPage::Wait;
        config.pager.residency.failure_ttl = Some(Duration::from_millis(20));
    });
    let source = Planned::new(64, &["7:permanent", "20:permanent"], "0us");
    let socket = rig.listen("vm", source.clone());
    let mut vmm = Vmm::start(&Part::new(&socket, 64));
    let pid = vmm.pid();
    let action = rig.told("the failure", |event| match event {
        Event::PageFailed { action, .. } => Some(*action),
        _ => None,
    });
    assert_eq!(action, FailureAction::Waiting);
    source.repair(0..=63);
    let report = vmm.sound_report();
    assert_eq!((report.right, report.failed.len()), (128, 0));
    rig.told("that it recovered", |event| {
        matches!(event, Event::PageRecovered { .. }).then_some(())
    });
    assert!(rig.failures(pid).len() <= 2, "each is told once");
}

fn only_the_right_process_is_killed() {
    let rig = Rig::new(rule(FailedPage::Kill));
    let failing = rig.listen("failing", Planned::new(64, &["30:permanent"], "0us"));
    let sound = rig.listen("sound", Planned::new(64, &[], "0us..100us"));
    let mut part = Part::new(&sound, 64);
    part.stays = true;
    let mut others: Vec<Vmm> = (0..3).map(|_| Vmm::start(&part)).collect();
    let mut vmm = Vmm::start(&Part::new(&failing, 64));
    let pid = vmm.pid();
    assert_eq!(vmm.report(), None, "it saw no page that is wrong");
    assert_eq!(vmm.ended_by(), Some(9));
    assert_eq!(rig.summary(pid).failures, 1);
    let action = rig.told("the failure", |event| match event {
        Event::PageFailed {
            pid: of, action, ..
        } => Some((*of, *action)),
        _ => None,
    });
    assert_eq!(action, (pid, FailureAction::Killed));
    for other in &mut others {
        assert_eq!(other.sound_report().right, 128);
    }
    for other in others {
        assert_eq!(other.ended_by(), None);
    }
}
