//! When a guest is told of a failed page, and when it is not.

use super::*;
use crate::faults::{
    Accepted, Effect, Faults, FaultsConfig, GuestApf, LinuxApf, Listening, Prefaulted, Seen,
    VcpuState,
};
use crate::policy::{Exact, Retry};
use crate::residency::{PageOutcome, PageState};

const HEARS: Listening = Listening {
    kernel_mode: false,
    event_pending: false,
    machine_checks: true,
};

fn config() -> FaultsConfig {
    FaultsConfig {
        errors_to_guest: true,
        told_limit: 3,
        ..FaultsConfig::new(1)
    }
}

fn machine() -> Faults<Retry> {
    Faults::new(config()).expect("a valid configuration")
}

/// The vCPU saw page `index` fail, and the guest `listening`: the one thing that came of it.
fn observe(faults: &mut Faults<Retry>, index: u32, listening: Listening) -> Effect {
    let state = PageState::Failed(failure());
    let taken = faults.handle_observed(V0, fault(index), Seen::Efault, LinuxApf::Off, state);
    assert_eq!(taken, Accepted::Taken);
    let tell = Effect::Tell {
        vcpu: V0,
        fault: fault(index),
        failure: failure(),
    };
    assert_eq!(faults.poll_effect(), Some(tell));
    assert_eq!(faults.handle_listening(V0, listening), Accepted::Taken);
    let effect = faults.poll_effect().expect("an answer");
    assert_eq!(faults.poll_effect(), None);
    effect
}

fn machine_check(index: u32) -> Effect {
    Effect::MachineCheck {
        vcpu: V0,
        fault: fault(index),
        failure: failure(),
    }
}

fn report(index: u32) -> Effect {
    Effect::Report {
        vcpu: V0,
        fault: fault(index),
        failure: failure(),
    }
}

#[test]
fn a_guest_that_hears_is_told_and_runs_on() {
    let mut faults = machine();
    assert_eq!(observe(&mut faults, 1, HEARS), machine_check(1));
    assert_eq!(faults.vcpu_state(V0), Some(VcpuState::Entering));
    assert_eq!(observe(&mut faults, 2, HEARS), machine_check(2));
}

#[test]
fn what_cannot_be_told_is_reported() {
    for deaf in [
        Listening {
            kernel_mode: true,
            ..HEARS
        },
        Listening {
            machine_checks: false,
            ..HEARS
        },
    ] {
        let mut faults = machine();
        assert_eq!(observe(&mut faults, 1, deaf), report(1));
        assert_eq!(faults.handle_resume(V0), Accepted::Taken);
        assert_eq!(faults.poll_effect(), Some(Effect::Resume { vcpu: V0 }));
        // Another time it may hear.
        assert_eq!(observe(&mut faults, 1, HEARS), machine_check(1));
    }
}

#[test]
fn a_pending_event_goes_first_once() {
    let busy = Listening {
        event_pending: true,
        ..HEARS
    };
    let mut faults = machine();
    let resume = Effect::Resume { vcpu: V0 };
    assert_eq!(observe(&mut faults, 1, busy), resume);
    assert_eq!(observe(&mut faults, 1, HEARS), machine_check(1));
    // An event that stays where it is is not waited for.
    assert_eq!(observe(&mut faults, 1, busy), resume);
    assert_eq!(observe(&mut faults, 1, busy), report(1));
    // Nor does one access use up another's patience.
    faults.handle_resume(V0);
    faults.poll_effect();
    assert_eq!(observe(&mut faults, 1, busy), resume);
    assert_eq!(observe(&mut faults, 2, busy), resume);
    assert_eq!(observe(&mut faults, 2, HEARS), machine_check(2));
}

#[test]
fn a_guest_that_does_not_listen_is_not_told_for_ever() {
    let mut faults = machine();
    for _ in 0..3 {
        assert_eq!(observe(&mut faults, 1, HEARS), machine_check(1));
    }
    assert_eq!(observe(&mut faults, 1, HEARS), report(1));
    faults.handle_resume(V0);
    faults.poll_effect();
    for _ in 0..3 {
        assert_eq!(observe(&mut faults, 1, HEARS), machine_check(1));
    }
    // Another access in between shows that the guest goes on.
    assert_eq!(observe(&mut faults, 2, HEARS), machine_check(2));
    assert_eq!(observe(&mut faults, 1, HEARS), machine_check(1));
}

#[test]
fn a_page_that_is_healed_meanwhile_is_told_of_to_nobody() {
    let mut faults = machine();
    let state = PageState::Failed(failure());
    faults.handle_observed(V0, fault(1), Seen::Efault, LinuxApf::Off, state);
    faults.poll_effect();
    faults.handle_healed(page(2));
    assert_eq!(faults.poll_effect(), None);
    faults.handle_healed(page(1));
    assert_eq!(faults.poll_effect(), Some(Effect::Resume { vcpu: V0 }));
    assert_eq!(faults.handle_listening(V0, HEARS), Accepted::Stale);
}

#[test]
fn a_reset_ends_the_telling() {
    let mut faults = machine();
    let state = PageState::Failed(failure());
    faults.handle_observed(V0, fault(1), Seen::Efault, LinuxApf::Off, state);
    assert_eq!(faults.handle_reset(V0), Accepted::Taken);
    assert_eq!(faults.handle_listening(V0, HEARS), Accepted::Stale);
    assert_eq!(faults.vcpu_state(V0), Some(VcpuState::Entering));
}

/// Under every policy: also the default, which would have the task come back for its error.
#[test]
fn a_guest_that_reads_errors_is_told_by_the_ready_event() {
    for reads in [true, false] {
        let config = FaultsConfig {
            error_word: true,
            ..config()
        };
        let mut faults = Faults::<Exact>::new(config).expect("a valid configuration");
        let on = GuestApf::On {
            send_always: false,
            error_word: reads,
        };
        let root = Root::new(1);
        faults.handle_entry(V0, root);
        faults.handle_guest_apf(V0, on);
        faults.handle_entry(V0, root);
        faults.handle_ack(V0);
        while faults.poll_effect().is_some() {}
        faults.handle_fault(V0, fault(1), &moment(1, 1), PageState::Pending);
        let Some(Effect::NotPresent { item, .. }) = faults.poll_effect() else {
            panic!("not announced");
        };
        faults.handle_announced(V0, item, crate::faults::Announced::Injected);
        faults.handle_work_done(V0, item, PageOutcome::Failed(failure()));
        faults.handle_entry(V0, root);
        faults.handle_prefaulted(V0, item, Prefaulted::Error(failure()));
        let mut effects: Vec<_> = std::iter::from_fn(|| faults.poll_effect()).collect();
        effects.retain(|effect| matches!(effect, Effect::Ready { .. }));
        let [Effect::Ready { error, .. }] = effects[..] else {
            panic!("{effects:?}");
        };
        assert_eq!(error, reads);
        // The error of a task that was not told waits for it.
        assert_eq!(faults.owed(), usize::from(!reads));
    }
}
