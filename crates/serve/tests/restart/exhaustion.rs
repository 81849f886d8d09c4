//! Processes that have no room for descriptors.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use crate::rig::{NONE, Rig, is_gone, now_ns, until};

crate::cases![
    a_worker_without_room_for_descriptors,
    a_supervisor_without_room_for_descriptors,
];

/// The descriptors of a process.
fn descriptors(pid: Pid) -> BTreeSet<u64> {
    let open = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()));
    let numbers = open.expect("it lives").flatten().filter_map(|fd| {
        let name = fd.file_name();
        name.to_str()?.parse().ok()
    });
    numbers.collect()
}

/// Leaves a process room for so many descriptors more.
fn leave_room(pid: Pid, room: u64) {
    let numbers = descriptors(pid);
    let free = (0..).filter(|number| !numbers.contains(number));
    let limit = free.take(room as usize + 1).last().expect("there are more");
    limit_to(pid, limit);
}

fn limit_to(pid: Pid, limit: u64) {
    let (current, maximum) = (Some(limit), Some(4096));
    prlimit(Some(pid), Resource::Nofile, Rlimit { current, maximum }).expect("a limit");
}

/// With any room there is, who connects is served, or ended by name, or served when there is more.
fn a_worker_without_room_for_descriptors() {
    let rig = Rig::new(|plan| (plan.pages, plan.handshake) = (64, 100));
    let (_, worker) = rig.worker_after(0);
    let (mut outcomes, idle) = (Vec::new(), descriptors(worker).len());
    for room in 0..16 {
        until("nobody is left", || descriptors(worker).len() <= idle);
        leave_room(worker, room);
        let (before, mut vm) = (now_ns(), rig.vm(|_| ()));
        let pid = Pid::from_raw(vm.pid().cast_signed()).expect("a process");
        let settled = || {
            let log = rig.log();
            let mut lines = log.iter().filter(|(at, _)| *at > before);
            is_gone(pid) || lines.any(|(_, line)| line.contains("ended"))
        };
        let patience = Instant::now() + Duration::from_millis(500);
        while !settled() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        limit_to(worker, 4096);
        let outcome = match vm.report() {
            Some(report) => {
                assert_eq!((report.wrong, &report.failed[..]), (0, &NONE[..]), "{room}");
                "served"
            }
            None => {
                assert_eq!(vm.ended_by(), Some(Signal::KILL.as_raw()), "{room}");
                rig.told("why", before, |line| {
                    let is_said = line.contains("refused") && line.contains("killed");
                    is_said.then_some(())
                });
                "killed"
            }
        };
        outcomes.push(outcome);
    }
    println!("{outcomes:?}");
    assert!(outcomes.contains(&"killed"), "there was always room");
    assert_eq!(outcomes.last(), Some(&"served"), "it may not need so much");
    assert_eq!(rig.worker_after(0).1, worker, "it lives");
}

/// What it cannot keep is served all the same, and said not to be kept.
fn a_supervisor_without_room_for_descriptors() {
    let rig = Rig::new(|plan| plan.pages = 64);
    let supervisor = Pid::from_child(&rig.supervisor);
    let idle = descriptors(supervisor).len();
    for room in 0..4 {
        until("nobody is left", || descriptors(supervisor).len() <= idle);
        leave_room(supervisor, room);
        let before = now_ns();
        assert_eq!(rig.vm(|_| ()).sound_report().failed, NONE, "{room}");
        rig.told("that it is not kept", before, |line| {
            line.contains("DOES NOT KEEP").then_some(())
        });
    }
    limit_to(supervisor, 4096);
    let before = now_ns();
    let (_, mut worker) = rig.worker_after(0);
    let mut vm = rig.vm(|part| part.pages = 64);
    rig.kill_worker(&mut worker);
    assert_eq!(vm.sound_report().failed, NONE);
    let log = rig.log();
    let mut since = log.iter().filter(|(at, _)| *at > before);
    assert!(since.all(|(_, line)| !line.contains("KEEP")), "{log:?}");
}
