//! No worker can be started.

use rustix::process::{Signal, kill_process};

use crate::rig::{NONE, Rig, link_or_copy, now_ns};
use crate::vmm::Vmm;

crate::cases![
    without_a_worker_faults_end_with_sigbus,
    without_a_worker_processes_are_killed,
    without_a_worker_vms_wait_for_one,
];

/// A daemon whose worker dies while it serves a VM, and whose program is gone.
fn bereft(failed_page: &str) -> (Rig, Vmm, u64) {
    let rig = Rig::new(|plan| {
        plan.binary = plan.dir.join("program");
        link_or_copy(&plan.binary);
        plan.failed_page = failed_page.to_owned();
        plan.latency = "2ms".to_owned();
        plan.deadline = 300;
    });
    let (_, worker) = rig.worker_after(0);
    let vm = rig.vm(|part| part.balloon = part.pages / 4);
    rig.told("a VM", 0, |line| {
        line.starts_with("vm 1: process").then_some(())
    });
    std::thread::sleep(std::time::Duration::from_millis(100));
    std::fs::remove_file(&rig.plan.binary).expect("the program goes");
    let killed = now_ns();
    kill_process(worker, Signal::KILL).expect("it is there");
    (rig, vm, killed)
}

fn without_a_worker_faults_end_with_sigbus() {
    let (rig, mut vm, killed) = bereft("poison");
    let report = vm.sound_report();
    assert!(!report.failed.is_empty(), "{report:?}");
    assert!(report.right > 0, "{report:?}");
    let (_, ()) = rig.told("what is done", killed, |line| {
        line.contains("end with SIGBUS").then_some(())
    });
    // One can be started after all: it serves new VMs, and goes on with what is left of the old.
    link_or_copy(&rig.plan.binary);
    rig.worker_after(killed);
    let mut other = rig.vm(|_| ());
    assert_eq!(other.sound_report().failed, NONE);
}

fn without_a_worker_processes_are_killed() {
    let (rig, mut vm, killed) = bereft("kill");
    assert_eq!(vm.report(), None, "it dies before it has read everything");
    assert_eq!(vm.ended_by(), Some(Signal::KILL.as_raw()));
    rig.told("what is done", killed, |line| {
        line.contains("it is killed").then_some(())
    });
}

fn without_a_worker_vms_wait_for_one() {
    let (rig, mut vm, killed) = bereft("wait");
    rig.told("that it waits", killed, |line| {
        line.contains("WAITS").then_some(())
    });
    link_or_copy(&rig.plan.binary);
    rig.worker_after(killed);
    let report = vm.sound_report();
    assert_eq!(report.failed, NONE, "{report:?}");
}
