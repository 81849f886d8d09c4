//! Workers killed at any moment, and at every point.

use std::time::Duration;

use rustix::process::{Signal, kill_process};
use surefault_core::plan::mix;
use surefault_pager::Point;

use crate::rig::{NONE, Rig, is_full, is_gone, now_ns, spread, until};

crate::cases![
    workers_killed_under_four_vms,
    workers_that_die_at_every_point,
    a_panic_with_a_supervisor_ends_the_worker,
    a_panic_without_a_supervisor_ends_the_vm,
    a_worker_that_is_stuck_is_killed,
    a_vm_that_dies_without_a_worker_is_cleaned_up,
    the_worker_goes_on_without_its_supervisor,
];

/// No VM may be frozen for longer; where tests share a busy host, this is not what they are about.
const LONGEST_FREEZE: Duration = Duration::from_secs(5);
const LONGEST_FREEZE_HERE: Duration = Duration::from_secs(30);

fn workers_killed_under_four_vms() {
    let goal = if is_full() { 1000 } else { 24 };
    let rig = Rig::new(|_| ());
    let (_, mut worker) = rig.worker_after(0);
    let (mut freezes, mut of_vms, mut felt) = (Vec::new(), Vec::new(), Vec::new());
    while freezes.len() < goal {
        let mut vms = rig.four_vms();
        // Long enough for a few kills in the life of four VMs.
        for _ in 0..8 {
            let pause = mix(freezes.len() as u64) % 40;
            std::thread::sleep(Duration::from_millis(pause));
            let killed = now_ns();
            freezes.push(rig.kill_worker(&mut worker));
            of_vms.extend(rig.resumptions(killed));
        }
        for vm in &mut vms {
            let report = vm.sound_report();
            assert_eq!(report.failed, NONE, "{report:?}");
            felt.push(Duration::from_nanos(report.max_ns));
        }
    }
    let longest = freezes.iter().chain(&felt).max().copied();
    let longest = longest.expect("somebody was killed");
    println!("nobody served, {}", spread(freezes));
    println!("a VM was not served, {}", spread(of_vms));
    println!("the longest access of a VM, {}", spread(felt));
    let bound = if is_full() {
        LONGEST_FREEZE
    } else {
        LONGEST_FREEZE_HERE
    };
    assert!(longest < bound, "{longest:?}");
}

/// Every worker dies there, again and again, and each gets a little further.
fn workers_that_die_at_every_point() {
    for (point, nth) in Point::ALL.into_iter().zip([60, 30, 60, 120, 120, 2]) {
        let spec = format!("{point:?}:{nth}");
        let rig = Rig::with(
            |plan| plan.rules = vec!["5".to_owned(), "700".to_owned()],
            |command| {
                command.env("SUREFAULT_DIE_AT", &spec);
            },
        );
        let mut vm = rig.vm(|part| part.balloon = part.pages / 3);
        let report = vm.sound_report();
        let bytes = surefault_testkit::page_size() as u64;
        let broken = [5 * bytes, 700 * bytes];
        // They may have been given back before they were touched.
        assert!(
            report.failed.iter().all(|page| broken.contains(page)),
            "{spec}: {report:?}"
        );
        let deaths = rig
            .log()
            .into_iter()
            .filter(|(_, line)| line.contains("DIED"));
        let deaths = deaths.count();
        println!("{spec}: {deaths} deaths");
        assert!(deaths > 0, "{spec}: nobody died");
    }
}

fn a_panic_with_a_supervisor_ends_the_worker() {
    let rig = Rig::with(
        |_| (),
        |command| {
            command.env("SUREFAULT_DIE_AT", "panic:Noted:200");
        },
    );
    let mut vm = rig.vm(|part| part.balloon = part.pages / 3);
    assert_eq!(vm.sound_report().failed, NONE);
    for words in ["PANICKED: another worker goes on", "DIED"] {
        rig.told(words, 0, |line| line.contains(words).then_some(()));
    }
}

fn a_panic_without_a_supervisor_ends_the_vm() {
    let rig = Rig::with(
        |plan| plan.supervised = false,
        |command| {
            command.env("SUREFAULT_DIE_AT", "panic:Read:50");
        },
    );
    let mut vm = rig.vm(|part| part.balloon = part.pages / 3);
    assert_eq!(vm.report(), None, "it dies before it has read everything");
    assert_eq!(vm.ended_by(), Some(Signal::KILL.as_raw()));
    rig.told("that it was killed", 0, |line| {
        line.contains("PANICKED").then_some(())
    });
    // The others are none the worse for it.
    let mut other = rig.vm(|part| part.pages = 64);
    assert_eq!(other.sound_report().failed, NONE);
}

fn a_worker_that_is_stuck_is_killed() {
    let rig = Rig::new(|plan| plan.pages = 64);
    let (_, worker) = rig.worker_after(0);
    let stopped = now_ns();
    kill_process(worker, Signal::STOP).expect("it is there");
    let mut vm = rig.vm(|_| ());
    rig.told("its silence", stopped, |line| {
        line.contains("said nothing for").then_some(())
    });
    let (_, next) = rig.worker_after(stopped);
    assert_ne!(worker, next);
    assert_eq!(vm.sound_report().failed, NONE);
}

fn a_vm_that_dies_without_a_worker_is_cleaned_up() {
    let rig = Rig::new(|plan| plan.pages = 64);
    let (_, mut worker) = rig.worker_after(0);
    let mut vm = rig.vm(|part| part.stays = true);
    assert_eq!(vm.sound_report().failed, NONE);
    let ended = format!("vm 1: process {} ended", vm.pid());
    let died = now_ns();
    vm.kill();
    rig.kill_worker(&mut worker);
    rig.told("its end", died, |line| {
        line.starts_with(&ended).then_some(())
    });
}

fn the_worker_goes_on_without_its_supervisor() {
    let mut rig = Rig::new(|plan| {
        plan.mortal = false;
        plan.latency = "1ms".to_owned();
    });
    let (_, worker) = rig.worker_after(0);
    let mut vm = rig.vm(|part| part.balloon = 100);
    rig.told("a VM", 0, |line| {
        line.starts_with("vm 1: process").then_some(())
    });
    rig.supervisor.kill().expect("killed");
    rig.told("that it is alone", 0, |line| {
        line.contains("THE SUPERVISOR IS GONE").then_some(())
    });
    let report = vm.sound_report();
    assert_eq!(report.failed, NONE);
    // It takes nobody new in, and ends with its last VM.
    drop(vm);
    until("its end", || is_gone(worker));
    assert!(
        !rig.plan.dir.join("vms").exists(),
        "its socket is gone, too"
    );
}
