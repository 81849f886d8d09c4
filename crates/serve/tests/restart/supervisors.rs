//! Supervisors that die, with a process that stands by and without.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use surefault_core::plan::mix;

use crate::rig::{NONE, Plan, Rig, is_full, is_gone, link_or_copy, now_ns, spread, until};

crate::cases![
    supervisors_killed_under_load,
    supervisors_and_workers_killed_together,
    a_supervisor_that_dies_in_a_handshake,
    what_a_dead_supervisor_was_asked,
    a_supervisor_that_answers_late,
    a_standby_that_dies_is_replaced,
    without_a_standby_the_worker_goes_on_alone,
    a_standby_is_of_the_upgraded_program,
    an_upgrade_ends_with_its_supervisor,
];

fn with_standby(plan: &mut Plan) {
    plan.standby = true;
    plan.mortal = false;
}

fn kill(pid: Pid) {
    kill_process(pid, Signal::KILL).expect("it is there");
}

/// The daemon's processes.
struct Trio {
    supervisor: Pid,
    standby: Pid,
    worker: Pid,
}

impl Trio {
    fn of(rig: &Rig) -> Trio {
        Trio {
            supervisor: Pid::from_child(&rig.supervisor),
            standby: rig.standby_after(0),
            worker: rig.worker_after(0).1,
        }
    }

    /// Kills the supervisor, and waits until there are three again.
    fn lose_supervisor(&mut self, rig: &mut Rig) {
        let killed = now_ns();
        kill(self.supervisor);
        self.take_over(rig, killed);
        assert_eq!(
            rig.worker_after(killed).1,
            self.worker,
            "the worker was never away"
        );
    }

    fn take_over(&mut self, rig: &mut Rig, killed: u64) {
        // The first one is this process's child; the others are nobody's.
        let _ = rig.supervisor.try_wait();
        self.supervisor = rig.supervisor_after(killed).1;
        assert_eq!(self.supervisor, self.standby);
        self.standby = rig.standby_after(killed);
    }
}

fn supervisors_killed_under_load() {
    let rounds = if is_full() { 50 } else { 3 };
    let mut rig = Rig::new(|plan| {
        with_standby(plan);
        plan.latency = "1ms".to_owned();
    });
    let mut trio = Trio::of(&rig);
    let mut vms = rig.served_vms(2, |part| part.balloon = part.pages / 3);
    for round in 0..rounds {
        std::thread::sleep(Duration::from_millis(mix(round) % 40));
        trio.lose_supervisor(&mut rig);
        // The new one is a supervisor like any other.
        rig.kill_worker(&mut trio.worker);
    }
    for vm in &mut vms {
        assert_eq!(vm.sound_report().failed, NONE);
    }
    let mut other = rig.vm(|part| part.pages = 64);
    assert_eq!(other.sound_report().failed, NONE);
}

fn supervisors_and_workers_killed_together() {
    let rounds = if is_full() { 50 } else { 4 };
    let mut rig = Rig::new(|plan| {
        with_standby(plan);
        plan.latency = "1ms".to_owned();
    });
    let mut trio = Trio::of(&rig);
    let mut vms = rig.served_vms(2, |part| part.balloon = part.pages / 3);
    let mut freezes = Vec::new();
    for round in 0..rounds {
        std::thread::sleep(Duration::from_millis(mix(round) % 40));
        let killed = now_ns();
        let (first, second) = match round % 2 {
            0 => (trio.supervisor, trio.worker),
            _ => (trio.worker, trio.supervisor),
        };
        kill(first);
        kill(second);
        trio.take_over(&mut rig, killed);
        let (served, worker) = rig.worker_after(killed);
        trio.worker = worker;
        freezes.push(Duration::from_nanos(served - killed));
    }
    for vm in &mut vms {
        assert_eq!(vm.sound_report().failed, NONE);
    }
    println!("supervisor and worker died, {}", spread(freezes));
}

/// It has accepted a connection, and the process that stands by has it; its worker does not.
fn a_supervisor_that_dies_in_a_handshake() {
    let mut rig = Rig::with(with_standby, |command| {
        command.env("SUREFAULT_DIE_AT", "Held:1");
    });
    let mut trio = Trio::of(&rig);
    for _ in 0..3 {
        let before = now_ns();
        assert_eq!(rig.vm(|_| ()).sound_report().failed, NONE);
        trio.take_over(&mut rig, before);
    }
}

/// The next supervisor reads what the worker had asked of the dead one, and is asked again.
fn what_a_dead_supervisor_was_asked() {
    let mut rig = Rig::new(with_standby);
    let mut trio = Trio::of(&rig);
    for _ in 0..if is_full() { 100 } else { 3 } {
        kill_process(trio.supervisor, Signal::STOP).expect("it is there");
        let mut vm = rig.vm(|part| part.balloon = 100);
        // The worker asks soon after; when it has not, it asks the next one.
        std::thread::sleep(Duration::from_millis(50));
        trio.lose_supervisor(&mut rig);
        assert_eq!(vm.sound_report().failed, NONE);
    }
}

/// Who connects is not made to wait for a supervisor that is stuck, nor forgotten when it goes on.
fn a_supervisor_that_answers_late() {
    let rig = Rig::new(|plan| {
        with_standby(plan);
        // It was not listening itself.
        plan.silence = 60_000;
    });
    let trio = Trio::of(&rig);
    kill_process(trio.supervisor, Signal::STOP).expect("it is there");
    let mut vms = rig.vms(2, |part| part.balloon = 100);
    rig.told("that one is not kept", 0, |line| {
        line.contains("DOES NOT KEEP").then_some(())
    });
    kill_process(trio.supervisor, Signal::CONT).expect("it is there");
    for vm in &mut vms {
        assert_eq!(vm.sound_report().failed, NONE);
    }
}

fn a_standby_that_dies_is_replaced() {
    let mut rig = Rig::new(with_standby);
    let mut trio = Trio::of(&rig);
    let killed = now_ns();
    kill(trio.standby);
    rig.told("that nobody stands by", killed, |line| {
        line.contains("NOBODY STANDS BY").then_some(())
    });
    trio.standby = rig.standby_after(killed);
    let mut vms = rig.served_vms(1, |part| part.balloon = 100);
    trio.lose_supervisor(&mut rig);
    rig.kill_worker(&mut trio.worker);
    assert_eq!(vms[0].sound_report().failed, NONE);
}

fn without_a_standby_the_worker_goes_on_alone() {
    let rig = Rig::new(|plan| {
        with_standby(plan);
        plan.binary = plan.dir.join("program");
        link_or_copy(&plan.binary);
        plan.latency = "1ms".to_owned();
    });
    let trio = Trio::of(&rig);
    std::fs::remove_file(&rig.plan.binary).expect("the program goes");
    let mut vm = rig.vm(|part| part.balloon = 100);
    rig.told("a VM", 0, |line| {
        line.starts_with("vm 1: process").then_some(())
    });
    let killed = now_ns();
    kill(trio.standby);
    rig.told("that nobody stands by", killed, |line| {
        line.contains("NOBODY STANDS BY").then_some(())
    });
    kill(trio.supervisor);
    rig.told("that the worker is alone", killed, |line| {
        line.contains("THE SUPERVISOR IS GONE").then_some(())
    });
    assert_eq!(vm.sound_report().failed, NONE);
    drop(vm);
    until("its end", || is_gone(trio.worker));
}

fn program_of(pid: Pid) -> PathBuf {
    let program = format!("/proc/{}/exe", pid.as_raw_nonzero());
    std::fs::read_link(program).expect("it lives")
}

fn a_standby_is_of_the_upgraded_program() {
    let mut rig = Rig::new(with_standby);
    let mut trio = Trio::of(&rig);
    let other = rig.copy("other");
    let asked = now_ns();
    rig.upgrade(Some(&other)).expect("upgraded");
    trio.worker = rig.worker_after(asked).1;
    trio.standby = rig.standby_after(asked);
    assert_eq!(program_of(trio.standby), other);
    // So is whatever it starts.
    trio.lose_supervisor(&mut rig);
    rig.kill_worker(&mut trio.worker);
    assert_eq!(program_of(trio.worker), other);
}

fn an_upgrade_ends_with_its_supervisor() {
    let mut rig = Rig::new(with_standby);
    let mut trio = Trio::of(&rig);
    let mut vms = rig.served_vms(1, |part| part.balloon = 100);
    let silent = rig.script("silent", "read nothing");
    let refused = std::thread::scope(|scope| {
        let refused = scope.spawn(|| rig.upgrade(Some(&silent)));
        let name = silent.to_str().expect("a plain name").to_owned();
        until("the candidate is there", || rig.runs(&name));
        kill(trio.supervisor);
        refused.join().expect("no panic")
    });
    let refused = refused.expect_err("nobody goes on with it");
    assert!(refused.contains("the supervisor has died"), "{refused}");
    trio.take_over(&mut rig, 0);
    // It takes new VMs in, and can be upgraded.
    let mut other = rig.vm(|part| part.pages = 64);
    assert_eq!(other.sound_report().failed, NONE);
    let asked = now_ns();
    rig.upgrade(None).expect("upgraded");
    assert_ne!(rig.worker_after(asked).1, trio.worker);
    assert_eq!(vms[0].sound_report().failed, NONE);
}
