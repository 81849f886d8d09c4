//! Workers that are replaced on purpose.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use surefault_serve::control::{Reply, Request};

use crate::rig::{NONE, Rig, is_full, now_ns};

crate::cases![
    upgrades_under_load,
    a_program_that_does_not_come_up_is_rolled_back
];

fn upgrade(rig: &Rig, binary: Option<&Path>) -> Result<Reply, String> {
    let binary = binary.map(Path::to_owned);
    let answer = rig.ask(&Request::Upgrade { binary });
    answer.map_err(|error| error.to_string())
}

fn upgrades_under_load() {
    let goal = if is_full() { 100 } else { 6 };
    let rig = Rig::new(|_| ());
    let others = [rig.copy("other"), rig.copy("another")];
    let mut done = 0;
    while done < goal {
        let mut vms = rig.four_vms();
        for _ in 0..3 {
            let asked = now_ns();
            let other = &others[done % others.len()];
            assert_eq!(upgrade(&rig, Some(other)), Ok(Reply::Done));
            let (_, pid) = rig.worker_after(asked);
            let program = format!("/proc/{}/exe", pid.as_raw_nonzero());
            assert_eq!(std::fs::read_link(program).expect("it lives"), *other);
            done += 1;
        }
        for vm in &mut vms {
            let report = vm.sound_report();
            assert_eq!(report.failed, NONE, "{report:?}");
        }
    }
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
    let ends = rig.plan.dir.join("ends");
    std::fs::write(&ends, "#!/bin/sh\nexit 3\n").expect("a script");
    let hangs = rig.plan.dir.join("hangs");
    std::fs::write(&hangs, "#!/bin/sh\nexec sleep 100\n").expect("a script");
    for script in [&ends, &hangs] {
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(script, mode).expect("a mode");
    }
    for (binary, why) in [
        (&nothing, "cannot start"),
        (&ends, "it ended at once"),
        (&hangs, "it said nothing"),
    ] {
        let refused = upgrade(&rig, Some(binary)).expect_err("it does not come up");
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
