//! The control socket.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use surefault_pager::Prefetch;
use surefault_serve::control::{ControlClient, ControlError, Pages, Reply, Request};
use surefault_serve::event::{Event, VmId};
use surefault_testkit::page_size;

use crate::rig::{Planned, Rig, pattern_file, until};
use crate::vmm::{Part, Vmm};

crate::cases![
    sockets_come_and_go,
    vms_are_listed_and_healed(Poison),
    events_are_told,
    nonsense_is_answered,
    numbers_for_prometheus,
];

fn client(rig: &Rig) -> ControlClient {
    ControlClient::connect(&rig.path("control")).expect("connected")
}

fn listed(client: &mut ControlClient) -> (usize, Vec<VmId>) {
    match client.ask(&Request::List {}).expect("an answer") {
        Reply::Listed { listeners, vms } => (listeners.len(), vms.iter().map(|vm| vm.vm).collect()),
        other => panic!("{other:?}"),
    }
}

fn sockets_come_and_go() {
    let rig = Rig::new(|_| {});
    let mut client = client(&rig);
    let (socket, store) = (rig.path("vm"), rig.path("mem"));
    let source = pattern_file(&store, 16 * page_size() as u64);
    drop(source);
    let add = Request::Add {
        socket: socket.clone(),
        store: store.display().to_string(),
    };
    assert_eq!(client.ask(&add).expect("added"), Reply::Done);
    let again = client.ask(&add).expect_err("it is there").to_string();
    assert!(again.contains("is listened at already"), "{again}");
    let mut part = Part::new(&socket, 16);
    part.stays = true;
    let mut vmm = Vmm::start(&part);
    assert_eq!(vmm.sound_report().right, 32);
    assert_eq!(listed(&mut client), (1, vec![VmId::new(1)]));
    let remove = Request::Remove {
        socket: socket.clone(),
    };
    assert_eq!(client.ask(&remove).expect("removed"), Reply::Done);
    assert!(client.ask(&remove).is_err());
    assert!(UnixStream::connect(&socket).is_err() && !socket.exists());
    // Its VM is served on.
    assert_eq!(listed(&mut client), (0, vec![VmId::new(1)]));
    assert_eq!(client.ask(&add).expect("added again"), Reply::Done);
    assert_eq!(vmm.ended_by(), None);
    until("its end", || listed(&mut self::client(&rig)) == (1, vec![]));
}

fn vms_are_listed_and_healed() {
    let rig = Rig::new(|_| {});
    let source = Planned::new(64, &["5,9-12:permanent"], "0us");
    let socket = rig.listen("vm", source.clone());
    let mut part = Part::new(&socket, 64);
    part.stays = true;
    let mut vmm = Vmm::start(&part);
    assert_eq!(vmm.sound_report().failed.len(), 5);
    let mut client = client(&rig);
    let failed = |client: &mut ControlClient| match client.ask(&Request::List {}) {
        Ok(Reply::Listed { vms, .. }) => vms[0].failed,
        other => panic!("{other:?}"),
    };
    assert_eq!(failed(&mut client), 5);
    let mut heal = |vm, pages: &[(u16, u32, u32)]| {
        let pages = pages.iter().map(|&(region, first, last)| Pages {
            region,
            first,
            last,
        });
        let pages = pages.collect();
        client.ask(&Request::Heal {
            vm: VmId::new(vm),
            pages,
        })
    };
    source.repair(5..=10);
    assert_eq!(
        heal(1, &[(0, 9, 10)]).expect("healed"),
        Reply::Healed { pages: 2 }
    );
    assert_eq!(
        heal(1, &[(0, 9, 10)]).expect("healed"),
        Reply::Healed { pages: 0 }
    );
    assert_eq!(heal(1, &[]).expect("healed"), Reply::Healed { pages: 3 });
    for (vm, pages) in [
        (2, &[][..]),
        (1, &[(1, 0, 0)]),
        (1, &[(0, 60, 64)]),
        (1, &[(0, 3, 2)]),
    ] {
        let refused = heal(vm, pages);
        assert!(
            matches!(refused, Err(ControlError::Refused(_))),
            "{refused:?}"
        );
    }
    // This VMM has put other pages in the place of those that failed: there is nothing to be healed.
    until("they are let go", || failed(&mut self::client(&rig)) == 0);
    assert_eq!(vmm.ended_by(), None);
}

fn events_are_told() {
    let rig = Rig::new(|_| {});
    let mut client = client(&rig);
    assert_eq!(
        client.ask(&Request::Events {}).expect("an answer"),
        Reply::Done
    );
    let socket = rig.listen("vm", Planned::new(8, &[], "0us"));
    let mut vmm = Vmm::start(&Part::new(&socket, 8));
    let report = vmm.sound_report();
    assert_eq!(report.right, 16);
    let mut next = || client.next_event().expect("an event").expect("more events");
    assert!(matches!(next(), Event::Listening { .. }));
    assert!(matches!(next(), Event::VmStarted { .. }));
    let pid = vmm.pid();
    assert_eq!(vmm.ended_by(), None);
    match next() {
        Event::VmEnded(summary) => assert_eq!((summary.pid, summary.pages), (pid, 8)),
        other => panic!("{other:?}"),
    }
    rig.daemon.drain();
    assert!(matches!(next(), Event::Draining { vms: 0 }));
    assert_eq!(
        client.next_event().expect("an answer"),
        None,
        "the daemon has ended"
    );
}

fn nonsense_is_answered() {
    let rig = Rig::new(|_| {});
    for nonsense in [
        "",
        "{}",
        "[1,2",
        "{\"command\":\"fly\"}",
        "{\"command\":\"list\",\"x\":1}",
    ] {
        let mut stream = UnixStream::connect(rig.path("control")).expect("connected");
        stream
            .write_all(format!("{nonsense}\n").as_bytes())
            .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let reply: Reply = serde_json::from_str(&answer).expect("JSON");
        assert!(matches!(reply, Reply::Error { .. }), "{nonsense}: {answer}");
    }
    let mut client = client(&rig);
    assert_eq!(listed(&mut client), (0, vec![]));
}

fn numbers_for_prometheus() {
    // A page that is fetched ahead is no fault.
    let rig = Rig::new(|config| config.pager.prefetch = Prefetch::None);
    let socket = rig.listen("vm", Planned::new(8, &[], "0us"));
    let mut part = Part::new(&socket, 8);
    part.stays = true;
    let mut vmm = Vmm::start(&part);
    vmm.sound_report();
    let value = |name: &str| {
        let text = rig.daemon.metrics();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.map(str::to_owned)
            .unwrap_or_else(|| panic!("{name} is not in {text}"))
    };
    assert_eq!(value("surefault_serve_vms"), "1");
    until("all are present", || {
        value("surefault_serve_present_pages") == "8"
    });
    assert_eq!(vmm.ended_by(), None);
    until("its end", || value("surefault_serve_vms") == "0");
    assert_eq!(value("surefault_serve_pager_installed_total"), "8");
    assert_eq!(value("surefault_serve_fault_seconds_count"), "8");
    assert_eq!(
        value("surefault_serve_fault_seconds_bucket{le=\"+Inf\"}"),
        "8"
    );
}
