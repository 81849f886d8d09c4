//! Workers that die in the middle of handshakes.

use rustix::process::Signal;

use crate::rig::{NONE, Rig, link_or_copy};

crate::cases![
    workers_that_die_in_handshakes,
    without_a_worker_who_shakes_hands_is_killed,
];

/// Every worker dies in its second handshake, and the next one ends that.
fn workers_that_die_in_handshakes() {
    for point in ["Asked", "Accepted", "Looked", "Kept", "Served"] {
        let rig = Rig::with(
            |plan| plan.pages = 64,
            |command| {
                command.env("SUREFAULT_DIE_AT", format!("{point}:2"));
            },
        );
        for _ in 0..6 {
            let report = rig.vm(|part| part.balloon = 20).sound_report();
            assert_eq!(report.failed, NONE, "{point}");
        }
        let log = rig.log();
        let deaths = log.iter().filter(|(_, line)| line.contains("DIED")).count();
        println!("{point}: {deaths} deaths");
        assert!(deaths >= 2, "{point}: {deaths} deaths");
    }
}

fn without_a_worker_who_shakes_hands_is_killed() {
    let rig = Rig::with(
        |plan| {
            plan.binary = plan.dir.join("program");
            link_or_copy(&plan.binary);
            plan.deadline = 300;
        },
        |command| {
            command.env("SUREFAULT_DIE_AT", "Looked:1");
        },
    );
    std::fs::remove_file(&rig.plan.binary).expect("the program goes");
    let mut vm = rig.vm(|_| ());
    assert_eq!(vm.report(), None);
    assert_eq!(vm.ended_by(), Some(Signal::KILL.as_raw()));
    rig.told("why", 0, |line| {
        line.contains("nobody ends the handshake").then_some(())
    });
}
