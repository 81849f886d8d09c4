//! Many VMs, at once and one after the other.

use surefault_serve::event::Event;
use surefault_testkit::page_size;

use crate::rig::{Planned, Rig, pattern_file, until};
use crate::vmm::{Part, Vmm};

crate::cases![a_hundred_vms, nothing_is_left_of_many_lives];

fn a_hundred_vms() {
    let rig = Rig::new(|_| {});
    let sockets = [
        rig.listen(
            "file",
            pattern_file(&rig.path("mem"), 32 * page_size() as u64),
        ),
        rig.listen("slow", Planned::new(32, &["3:temporary=1"], "0us..500us")),
    ];
    let part = |n: usize| {
        let mut part = Part::new(&sockets[n % 2], 32);
        part.stays = true;
        part.vcpus = 1;
        part
    };
    let mut vmms: Vec<Vmm> = (0..100).map(|n| Vmm::start(&part(n))).collect();
    for vmm in &mut vmms {
        assert_eq!(vmm.sound_report().right, 32);
    }
    let resident = status("VmRSS");
    eprintln!(
        "100 VMs: {resident} KiB resident, {} threads",
        status("Threads")
    );
    vmms.into_iter()
        .for_each(|vmm| assert_eq!(vmm.ended_by(), None));
    let ended = || {
        rig.events()
            .iter()
            .filter(|e| matches!(e, Event::VmEnded(_)))
            .count()
    };
    until("all have ended", || ended() == 100);
}

/// Lives: all 1 000 with SUREFAULT_FULL=1.
fn nothing_is_left_of_many_lives() {
    let lives = if std::env::var_os("SUREFAULT_FULL").is_some() {
        1000
    } else {
        60
    };
    let rig = Rig::new(|_| {});
    let sound = rig.listen(
        "sound",
        pattern_file(&rig.path("mem"), 32 * page_size() as u64),
    );
    let slow = rig.listen("slow", Planned::new(32, &["9:permanent"], "0us..200us"));
    let ended = || {
        rig.events()
            .iter()
            .filter(|e| matches!(e, Event::VmEnded(_)))
            .count()
    };
    let mut after_some = None;
    for life in 0..lives {
        let mut part = Part::new(if life % 3 == 0 { &slow } else { &sound }, 32);
        part.vcpus = 1;
        let mut vmm = Vmm::start(&part);
        if life % 4 == 3 {
            vmm.kill();
        } else {
            vmm.sound_report();
        }
        vmm.ended_by();
        if life == 20 {
            until("they have ended", || all_ended(&rig));
            after_some = Some(left());
        }
    }
    until("all have ended", || all_ended(&rig));
    assert!(ended() >= lives * 3 / 4);
    let (before, mut after) = (after_some.expect("more than 20 lives"), left());
    // Threads end a moment after they have said so.
    until("threads and descriptors are back", || {
        after = left();
        after.0 <= before.0 && after.1 <= before.1
    });
    let grown = after.2.saturating_sub(before.2);
    eprintln!("{lives} lives: from {before:?} to {after:?} (descriptors, threads, KiB resident)");
    assert!(grown < 8 << 10, "{grown} KiB more");
}

fn all_ended(rig: &Rig) -> bool {
    let events = rig.events();
    let count = |is: fn(&Event) -> bool| events.iter().filter(|e| is(e)).count();
    count(|e| matches!(e, Event::VmStarted { .. })) == count(|e| matches!(e, Event::VmEnded(_)))
}

/// Descriptors, threads, and KiB that are resident.
fn left() -> (usize, u64, u64) {
    let fds = std::fs::read_dir("/proc/self/fd")
        .expect("descriptors")
        .count();
    (fds, status("Threads"), status("VmRSS"))
}

fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status
        .lines()
        .find(|line| line.starts_with(name))
        .expect("a line");
    let number = line.split_whitespace().nth(1).expect("a number");
    number.parse().expect("a number")
}
