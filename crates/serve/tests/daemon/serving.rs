//! Every byte is right.

use surefault_serve::event::Event;
use surefault_testkit::page_size;

use crate::rig::{HugePages, Planned, Rig, pattern_file};
use crate::vmm::{Part, Vmm};

crate::cases![
    a_file,
    a_source_that_waits,
    a_flaky_source,
    sixty_four_regions,
    a_balloon_storm,
    huge_pages(HugePages),
];

fn a_file() {
    let rig = Rig::new(|_| {});
    let source = pattern_file(&rig.path("mem"), 256 * page_size() as u64);
    let socket = rig.listen("vm", source);
    let mut vmm = Vmm::start(&Part::new(&socket, 256));
    let report = vmm.sound_report();
    assert_eq!((report.right, report.failed.len()), (512, 0));
    let pid = vmm.pid();
    assert_eq!(vmm.ended_by(), None);
    let summary = rig.summary(pid);
    assert_eq!((summary.pages, summary.failures), (256, 0));
    assert!(
        summary.p50_ns <= summary.p99_ns && summary.p50_ns.is_some(),
        "{summary:?}"
    );
    let started = |event: &Event| match event {
        Event::VmStarted { pid, bytes, .. } => Some((*pid, *bytes)),
        _ => None,
    };
    assert_eq!(
        rig.told("the start", started),
        (pid, 256 * page_size() as u64)
    );
}

fn a_source_that_waits() {
    let rig = Rig::new(|_| {});
    let socket = rig.listen("vm", Planned::new(128, &[], "100us..2ms"));
    let mut part = Part::new(&socket, 128);
    part.vcpus = 6;
    assert_eq!(Vmm::start(&part).sound_report().right, 6 * 128);
}

fn a_flaky_source() {
    let rig = Rig::new(|_| {});
    let socket = rig.listen(
        "vm",
        Planned::new(128, &["p=0.3:temporary=2"], "0us..100us"),
    );
    let mut vmm = Vmm::start(&Part::new(&socket, 128));
    let report = vmm.sound_report();
    assert_eq!((report.right, report.failed.len()), (256, 0));
    assert_eq!(rig.failures(vmm.pid()), []);
}

/// Their JSON is longer than what many handlers read, and their order in the source is another.
fn sixty_four_regions() {
    let rig = Rig::new(|_| {});
    let socket = rig.listen("vm", Planned::new(256, &[], "0us"));
    let mut part = Part::new(&socket, 256);
    part.regions = 64;
    assert_eq!(Vmm::start(&part).sound_report().right, 512);
}

/// Pages are given back before, while and after they are faulted in and installed.
fn a_balloon_storm() {
    let rig = Rig::new(|_| {});
    let socket = rig.listen("vm", Planned::new(512, &[], "0us..200us"));
    let mut part = Part::new(&socket, 512);
    part.vcpus = 4;
    part.balloon = 400;
    for _ in 0..5 {
        let mut vmm = Vmm::start(&part);
        let report = vmm.sound_report();
        assert_eq!((report.right, report.given_back), (4 * 512, 400));
        let pid = vmm.pid();
        assert_eq!(vmm.ended_by(), None);
        assert_eq!(rig.summary(pid).removed, 400);
    }
}

fn huge_pages() {
    let _reserved = HugePages::reserve(8).expect("huge pages");
    let rig = Rig::new(|_| {});
    let socket = rig.listen("vm", pattern_file(&rig.path("mem"), 7 << 21));
    let mut part = Part::new(&socket, 8);
    part.huge = true;
    part.balloon = 2;
    let mut vmm = Vmm::start(&part);
    // The source ends before the last of them does.
    let report = vmm.sound_report();
    assert!(
        report.failed == [7 << 21] || report.failed.is_empty(),
        "{report:?}"
    );
    assert_eq!(report.failed.len(), rig.failures(vmm.pid()).len());
}
