//! Ends: of a VM, at any point, and of the daemon.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use surefault_serve::event::Event;
use surefault_testkit::page_size;

use crate::rig::{Planned, Rig, pattern_file};
use crate::vmm::{Part, Vmm};

crate::cases![
    killed_at_any_point,
    draining_waits_for_the_vms,
    stopping_kills_who_lacks_pages,
    stopping_lets_go_of_who_lacks_none,
];

fn killed_at_any_point() {
    let rig = Rig::new(|_| {});
    let socket = rig.listen("vm", Planned::new(256, &["200:stall"], "0us..300us"));
    for n in 0..24 {
        let mut vmm = Vmm::start(&Part::new(&socket, 256));
        let pid = vmm.pid();
        std::thread::sleep(Duration::from_micros(n * n * 60));
        vmm.kill();
        assert_eq!(vmm.ended_by(), Some(9));
        let started = |e: &Event| matches!(e, Event::VmStarted { pid: of, .. } if *of == pid);
        if rig.events().iter().any(started) {
            rig.summary(pid);
        }
    }
    crate::rig::until("all have ended", || {
        let events = rig.events();
        let count = |is: fn(&Event) -> bool| events.iter().filter(|e| is(e)).count();
        count(|e| matches!(e, Event::VmStarted { .. })) == count(|e| matches!(e, Event::VmEnded(_)))
    });
}

fn draining_waits_for_the_vms() {
    let mut rig = Rig::new(|_| {});
    let socket = rig.listen("vm", Planned::new(64, &[], "1ms"));
    let mut vmm = Vmm::start(&Part::new(&socket, 64));
    rig.told("the start", |e| {
        matches!(e, Event::VmStarted { .. }).then_some(())
    });
    rig.daemon.drain();
    rig.told("that it drains", |e| {
        matches!(e, Event::Draining { vms: 1 }).then_some(())
    });
    assert!(
        UnixStream::connect(&socket).is_err(),
        "nobody else is accepted"
    );
    assert_eq!(vmm.sound_report().right, 128);
    assert_eq!(vmm.ended_by(), None);
    rig.join();
    assert!(!socket.exists() && !rig.path("control").exists());
}

fn stopping_kills_who_lacks_pages() {
    let mut rig = Rig::new(|_| {});
    let socket = rig.listen("vm", Planned::new(64, &["7:stall"], "0us"));
    let mut vmm = Vmm::start(&Part::new(&socket, 64));
    rig.told("the start", |e| {
        matches!(e, Event::VmStarted { .. }).then_some(())
    });
    rig.daemon.stop();
    rig.join();
    assert_eq!(vmm.report(), None, "it saw no zeros");
    assert_eq!(vmm.ended_by(), Some(9));
}

fn stopping_lets_go_of_who_lacks_none() {
    let mut rig = Rig::new(|_| {});
    let socket = rig.listen(
        "vm",
        pattern_file(&rig.path("mem"), 64 * page_size() as u64),
    );
    let mut part = Part::new(&socket, 64);
    part.stays = true;
    let mut vmm = Vmm::start(&part);
    assert_eq!(vmm.sound_report().right, 128);
    rig.daemon.stop();
    rig.join();
    assert_eq!(vmm.ended_by(), None);
}
