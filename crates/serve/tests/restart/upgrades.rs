//! Workers that are replaced on purpose.

use std::time::Duration;

use surefault_serve::control::Reply;

use crate::other_version;
use crate::rig::{ENDS, HANGS, NONE, Rig, is_full, now_ns, spread};

crate::cases![
    upgrades_under_load,
    a_program_that_does_not_come_up_is_rolled_back,
    a_program_that_begins_and_never_serves_is_rolled_back,
];

fn upgrades_under_load() {
    let goal = if is_full() { 100 } else { 6 };
    let rig = Rig::new(|_| ());
    let other = rig.copy("other");
    let version = env!("CARGO_PKG_VERSION");
    // Building another version takes minutes.
    let others = match is_full() {
        true => [
            (other_version::build(), other_version::VERSION),
            (other, version),
        ],
        false => [(rig.copy("another"), version), (other, version)],
    };
    let mut done = 0;
    let (mut freezes, mut felt) = (Vec::new(), Vec::new());
    while done < goal {
        let mut vms = rig.four_vms();
        for _ in 0..3 {
            let asked = now_ns();
            let (other, version) = &others[done % others.len()];
            assert_eq!(rig.upgrade(Some(other)), Ok(Reply::Done));
            let (_, pid) = rig.worker_after(asked);
            let program = format!("/proc/{}/exe", pid.as_raw_nonzero());
            assert_eq!(std::fs::read_link(program).expect("it lives"), *other);
            let begins = format!("(version {version}) begins");
            rig.told("its version", asked, |line| {
                line.ends_with(&begins).then_some(())
            });
            freezes.extend(rig.resumptions(asked));
            done += 1;
        }
        for vm in &mut vms {
            let report = vm.sound_report();
            assert_eq!(report.failed, NONE, "{report:?}");
            felt.push(Duration::from_nanos(report.max_ns));
        }
    }
    println!(
        "a VM was served on, {} (from the request on)",
        spread(freezes)
    );
    println!("the longest access of a VM, {}", spread(felt));
    let lost = rig
        .log()
        .into_iter()
        .find(|(_, line)| line.contains("DIED"));
    assert_eq!(lost, None, "nobody died by itself");
}

fn a_program_that_does_not_come_up_is_rolled_back() {
    let rig = Rig::new(|plan| plan.latency = "1ms".to_owned());
    let (_, worker) = rig.worker_after(0);
    let mut vm = rig.vm(|part| part.balloon = 100);
    let nothing = rig.plan.dir.join("nothing");
    let ends = rig.script("ends", "exit 3");
    let hangs = rig.script("hangs", "exec sleep 100");
    for (binary, why) in [
        (&nothing, "cannot start"),
        (&ends, "it ended at once"),
        (&hangs, "it said nothing"),
    ] {
        let refused = rig.upgrade(Some(binary)).expect_err("it does not come up");
        assert!(refused.contains(why), "{refused}");
    }
    // The old worker was never away.
    let report = vm.sound_report();
    assert_eq!(report.failed, NONE);
    let mut other = rig.vm(|part| part.pages = 64);
    assert_eq!(other.sound_report().failed, NONE);
    let alive = rustix::process::test_kill_process(worker);
    assert_eq!(alive, Ok(()));
}

/// The old worker is gone by then: the VMs are served by another of the old program.
fn a_program_that_begins_and_never_serves_is_rolled_back() {
    let rig = Rig::new(|plan| {
        plan.latency = "1ms".to_owned();
        plan.silence = 2000;
    });
    let own = std::env::current_exe().expect("this test's binary");
    for (name, why) in [(ENDS, "DIED"), (HANGS, "said nothing for")] {
        let mut vm = rig.vm(|part| part.balloon = 100);
        let bad = rig.copy(name);
        let asked = now_ns();
        rig.upgrade(Some(&bad)).expect("it begins");
        rig.told("what becomes of it", asked, |line| {
            line.contains(why).then_some(())
        });
        rig.told("the way back", asked, |line| {
            line.contains("going back to").then_some(())
        });
        let (_, worker) = rig.worker_after(asked);
        let program = format!("/proc/{}/exe", worker.as_raw_nonzero());
        assert_eq!(std::fs::read_link(program).expect("it lives"), own);
        let report = vm.sound_report();
        assert_eq!(report.failed, NONE, "{report:?}");
    }
}
