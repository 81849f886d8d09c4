//! The table of states in the module's documentation, held against the code.

use super::*;
use crate::faults::{
    Accepted, Announced, Faults, FaultsConfig, GuestApf, ItemId, LinuxApf, Listening, Prefaulted,
    Seen, VcpuState,
};
use crate::policy::Exact;
use crate::residency::{PageOutcome, PageState};

type Machine = Faults<Exact>;

/// One machine in each state, and the inputs that leave it by the table.
fn table() -> Vec<(Machine, &'static [&'static str])> {
    let on = GuestApf::On {
        send_always: false,
        error_word: false,
    };
    let fresh = Machine::new(FaultsConfig::new(1)).expect("a valid configuration");
    let step = |from: &Machine, input: &dyn Fn(&mut Machine) -> Accepted| {
        let mut to = from.clone();
        assert_eq!(input(&mut to), Accepted::Taken);
        to
    };
    let guest = step(&fresh, &|m| m.handle_entry(V0, Root::new(1)));
    let told = step(&guest, &|m| m.handle_guest_apf(V0, on));
    let touch = |from: &Machine, state| {
        step(from, &|m| {
            m.handle_fault(V0, fault(1), &moment(1, 1), state)
        })
    };
    let waiting = touch(&guest, PageState::Failed(failure()));
    let halted = touch(&guest, PageState::Pending);
    let woken = step(&halted, &|m| {
        m.handle_work_done(V0, ItemId(0), PageOutcome::Present)
    });
    let stopped = step(&waiting, &|m| {
        m.handle_settled(V0, page(1), PageOutcome::Failed(failure()))
    });
    let servable = {
        let served = step(&told, &|m| m.handle_entry(V0, Root::new(1)));
        let acked = step(&served, &|m| m.handle_ack(V0));
        let announcing = touch(&acked, PageState::Pending);
        let announced = step(&announcing, &|m| {
            m.handle_announced(V0, ItemId(0), Announced::Injected)
        });
        let back = step(&announced, &|m| m.handle_entry(V0, Root::new(1)));
        step(&back, &|m| {
            m.handle_work_done(V0, ItemId(0), PageOutcome::Present)
        })
    };
    let to_guest = FaultsConfig {
        errors_to_guest: true,
        ..FaultsConfig::new(1)
    };
    let to_guest = Machine::new(to_guest).expect("a valid configuration");
    let telling = step(&to_guest, &|m| {
        let failed = PageState::Failed(failure());
        m.handle_observed(V0, fault(1), Seen::Efault, LinuxApf::Off, failed)
    });
    let servicing = step(&woken, &|m| m.handle_entry(V0, Root::new(1)));
    vec![
        (fresh, &["entry", "observed", "reset"]),
        (touch(&told, PageState::Pending), &["announced", "reset"]),
        (guest, &["fault", "observed", "reset"]),
        (
            servable,
            &["fault", "observed", "entry", "service", "reset"],
        ),
        (waiting, &["settled", "interrupted", "reset"]),
        (halted, &["interrupt", "reset"]),
        (woken, &["entry", "interrupt", "reset"]),
        (servicing, &["prefaulted", "reset"]),
        (telling, &["listening", "interrupted", "healed", "reset"]),
        (stopped, &["resume", "reset"]),
    ]
}

#[test]
fn each_state_is_left_by_the_inputs_that_the_table_names_and_no_other() {
    type Input = (&'static str, fn(&mut Machine) -> Accepted);
    let inputs: [Input; 17] = [
        ("fault", |m| {
            m.handle_fault(V0, fault(2), &moment(2, 1), PageState::Pending)
        }),
        ("announced", |m| {
            m.handle_announced(V0, ItemId(0), Announced::Injected)
        }),
        ("settled", |m| {
            m.handle_settled(V0, page(1), PageOutcome::Present)
        }),
        ("interrupted", |m| m.handle_interrupted(V0)),
        ("interrupt", |m| m.handle_interrupt(V0)),
        ("entry", |m| m.handle_entry(V0, Root::new(1))),
        ("service", |m| m.handle_service(V0, Root::new(1))),
        ("prefaulted", |m| {
            m.handle_prefaulted(V0, ItemId(0), Prefaulted::Fixed)
        }),
        ("resume", |m| m.handle_resume(V0)),
        ("observed", |m| {
            let failed = PageState::Failed(failure());
            m.handle_observed(V0, fault(1), Seen::Efault, LinuxApf::Off, failed)
        }),
        ("listening", |m| {
            let listening = Listening {
                kernel_mode: false,
                event_pending: false,
                machine_checks: true,
            };
            m.handle_listening(V0, listening)
        }),
        ("reset", |m| m.handle_reset(V0)),
        ("work done", |m| {
            m.handle_work_done(V0, ItemId(0), PageOutcome::Present)
        }),
        ("ack", |m| m.handle_ack(V0)),
        ("healed", |m| m.handle_healed(page(1))),
        ("abnormal", |m| m.handle_abnormal_pfn(V0)),
        ("apf", |m| m.handle_guest_apf(V0, GuestApf::Off)),
    ];
    let table = table();
    let mut seen = std::collections::BTreeSet::new();
    for (machine, left_by) in table {
        let before = machine.vcpu_state(V0).expect("vCPU 0");
        seen.insert(match before {
            VcpuState::Guest => 0,
            VcpuState::Entering => 1,
            VcpuState::Announcing(_) => 2,
            VcpuState::Waiting(_) => 3,
            VcpuState::Halted => 4,
            VcpuState::Servicing(..) => 5,
            VcpuState::Telling(..) => 6,
            VcpuState::Stopped(..) => 7,
        });
        for (name, input) in inputs {
            let mut after = machine.clone();
            let accepted = input(&mut after);
            // A reset of a vCPU that stands before the guest leaves it there.
            let left = after.vcpu_state(V0) != Some(before)
                || (accepted == Accepted::Taken && name == "reset");
            assert_eq!(left, left_by.contains(&name), "{before:?} and {name}");
        }
    }
    assert_eq!(seen.len(), 8, "every state is in the table");
}
