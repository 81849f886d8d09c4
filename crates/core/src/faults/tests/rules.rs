//! KVM's rules, one by one.

use core::time::Duration;

use super::*;
use crate::Token;
use crate::faults::{
    Accepted, Announced, DoubleFault, Effect, Faults, FaultsConfig, GuestApf, ItemId, LinuxApf,
    Paging, Prefaulted, Seen, Timer, VcpuState, WAKE_ALL,
};
use crate::policy::{ErrorGfn, Exact, ExitOnCompletion, GuestError, Policy, Retry};
use crate::residency::{PageOutcome, PageState};

const ON: GuestApf = GuestApf::On {
    send_always: false,
    error_word: false,
};

fn machine<P: Policy>(config: FaultsConfig) -> Faults<P> {
    let mut faults = Faults::new(config).expect("a valid configuration");
    for id in 0..u32::from(config.vcpus) {
        assert_eq!(
            enter(&mut faults, id),
            [Effect::Enter {
                vcpu: VcpuId::new(id)
            }]
        );
    }
    faults
}

/// Enabled, the broadcast delivered and acknowledged.
fn enabled<P: Policy>(config: FaultsConfig) -> Faults<P> {
    let mut faults = machine(config);
    for id in (0..u32::from(config.vcpus)).map(VcpuId::new) {
        assert_eq!(faults.handle_guest_apf(id, ON), Accepted::Taken);
        let ready = Effect::Ready {
            vcpu: id,
            token: WAKE_ALL,
            error: false,
        };
        assert_eq!(effects(&mut faults), [Effect::Kick { vcpu: id }]);
        assert_eq!(
            enter(&mut faults, id.get()),
            [ready, Effect::Enter { vcpu: id }]
        );
        assert_eq!(faults.handle_ack(id), Accepted::Taken);
    }
    faults
}

fn effects<P: Policy>(faults: &mut Faults<P>) -> Vec<Effect> {
    std::iter::from_fn(|| faults.poll_effect()).collect()
}

fn enter<P: Policy>(faults: &mut Faults<P>, id: u32) -> Vec<Effect> {
    assert_eq!(
        faults.handle_entry(VcpuId::new(id), Root::new(1)),
        Accepted::Taken
    );
    effects(faults)
}

fn touch<P: Policy>(faults: &mut Faults<P>, index: u32, state: PageState) -> Vec<Effect> {
    let taken = faults.handle_fault(V0, fault(index), &moment(index, 1), state);
    assert_eq!(taken, Accepted::Taken);
    effects(faults)
}

fn work(item: ItemId, index: u32) -> Effect {
    Effect::Work {
        vcpu: V0,
        item,
        page: page(index),
    }
}

/// Faults asynchronously on a page and lets the vCPU run on; gives item and token.
fn announce<P: Policy>(faults: &mut Faults<P>, index: u32) -> (ItemId, Token) {
    let told = touch(faults, index, PageState::Pending);
    let [
        Effect::NotPresent {
            vcpu: V0,
            item,
            token,
        },
    ] = told[..]
    else {
        panic!("not announced: {told:?}");
    };
    assert_eq!(
        faults.handle_announced(V0, item, Announced::Injected),
        Accepted::Taken
    );
    assert_eq!(
        effects(faults),
        [work(item, index), Effect::Resume { vcpu: V0 }]
    );
    assert_eq!(enter(faults, 0), [Effect::Enter { vcpu: V0 }]);
    (item, token)
}

/// The whole way of one item from its completion to "ready".
fn complete<P: Policy>(faults: &mut Faults<P>, item: ItemId, how: Prefaulted) -> Vec<Effect> {
    let settled = match how {
        Prefaulted::Error(failure) => PageOutcome::Failed(failure),
        Prefaulted::Fixed | Prefaulted::Retry | Prefaulted::Skipped => PageOutcome::Present,
    };
    assert_eq!(faults.handle_work_done(V0, item, settled), Accepted::Taken);
    assert_eq!(effects(faults), [Effect::Kick { vcpu: V0 }]);
    assert!(matches!(
        enter(faults, 0)[..],
        [Effect::Prefault { vcpu: V0, .. }]
    ));
    assert_eq!(faults.handle_prefaulted(V0, item, how), Accepted::Taken);
    effects(faults)
}

#[test]
fn a_present_page_is_mapped_at_once() {
    let mut faults = enabled::<Exact>(FaultsConfig::new(1));
    assert_eq!(
        touch(&mut faults, 1, PageState::Present),
        [Effect::Resume { vcpu: V0 }]
    );
}

#[test]
fn an_asynchronous_fault_is_announced_worked_prefaulted_and_said_ready() {
    let mut faults = enabled::<Exact>(FaultsConfig::new(1));
    let (item, token) = announce(&mut faults, 7);
    assert_eq!(token, Token::new(1 << 12));
    assert_eq!(faults.queued(V0), 1);
    let told = complete(&mut faults, item, Prefaulted::Fixed);
    let ready = Effect::Ready {
        vcpu: V0,
        token,
        error: false,
    };
    assert_eq!(told, [ready, Effect::Enter { vcpu: V0 }]);
    assert_eq!(faults.queued(V0), 0);
    assert_eq!(faults.handle_ack(V0), Accepted::Taken);
    assert_eq!(faults.handle_ack(V0), Accepted::Stale);
    assert_eq!(faults.owed(), 0);
}

#[test]
fn each_condition_alone_makes_a_fault_synchronous() {
    let wait = [Effect::Wait {
        vcpu: V0,
        page: page(3),
    }];
    let conditions: [fn(&mut Moment); 4] = [
        |moment| moment.prefetch = true,
        |moment| moment.event_reinjection = true,
        |moment| moment.exception_pending = true,
        |moment| moment.interrupts_allowed = false,
    ];
    for condition in conditions {
        let mut faults = enabled::<Retry>(FaultsConfig::new(1));
        let mut moment = moment(3, 1);
        condition(&mut moment);
        faults.handle_fault(V0, fault(3), &moment, PageState::Pending);
        assert_eq!(effects(&mut faults), wait, "{moment:?}");
    }
    let no_lapic = FaultsConfig {
        lapic_in_kernel: false,
        ..FaultsConfig::new(1)
    };
    assert_eq!(
        touch(&mut enabled::<Retry>(no_lapic), 3, PageState::Pending),
        wait
    );
    let no_halt = FaultsConfig {
        hlt_in_guest: true,
        ..FaultsConfig::new(1)
    };
    assert_eq!(
        touch(&mut machine::<Retry>(no_halt), 3, PageState::Pending),
        wait
    );
    let told = touch(&mut enabled::<Retry>(no_halt), 3, PageState::Pending);
    assert!(matches!(told[..], [Effect::NotPresent { .. }]), "{told:?}");
}

#[test]
fn a_guest_that_cannot_be_told_is_halted_until_a_completion_or_an_interrupt() {
    let mut faults = machine::<Exact>(FaultsConfig::new(1));
    let told = touch(&mut faults, 4, PageState::Pending);
    let [Effect::Work { item, .. }, Effect::Halt { .. }] = told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(
        faults.handle_entry(V0, Root::new(1)),
        Accepted::Stale,
        "stays halted"
    );
    assert_eq!(faults.handle_interrupt(V0), Accepted::Taken);
    assert_eq!(effects(&mut faults), [Effect::Resume { vcpu: V0 }]);
    enter(&mut faults, 0);
    // The instruction runs again: a double fault halts, and queues nothing.
    assert_eq!(
        touch(&mut faults, 4, PageState::Pending),
        [Effect::Halt { vcpu: V0 }]
    );
    assert_eq!(faults.queued(V0), 1);
    // Nobody was told "not present", so nobody is told "ready".
    let told = complete(&mut faults, item, Prefaulted::Fixed);
    assert_eq!(told, [Effect::Enter { vcpu: V0 }]);
}

#[test]
fn in_kernel_mode_only_a_guest_that_asked_for_it_is_told() {
    let kernel = Moment {
        kernel_mode: true,
        ..moment(4, 1)
    };
    let unpaged = Moment {
        guest_paging: false,
        ..moment(4, 1)
    };
    for moment in [kernel, unpaged] {
        let mut faults = enabled::<Exact>(FaultsConfig::new(1));
        faults.handle_fault(V0, fault(4), &moment, PageState::Pending);
        assert_eq!(faults.vcpu_state(V0), Some(VcpuState::Halted));
    }
    let mut faults = enabled::<Exact>(FaultsConfig::new(1));
    faults.handle_guest_apf(
        V0,
        GuestApf::On {
            send_always: true,
            error_word: false,
        },
    );
    faults.handle_fault(V0, fault(4), &kernel, PageState::Pending);
    assert!(matches!(
        faults.vcpu_state(V0),
        Some(VcpuState::Announcing(_))
    ));
}

#[test]
fn a_refused_announcement_halts_and_is_not_said_ready() {
    let mut faults = enabled::<Exact>(FaultsConfig::new(1));
    let told = touch(&mut faults, 4, PageState::Pending);
    let [Effect::NotPresent { item, .. }] = told[..] else {
        panic!("{told:?}");
    };
    faults.handle_announced(V0, item, Announced::Refused);
    assert_eq!(
        effects(&mut faults),
        [work(item, 4), Effect::Halt { vcpu: V0 }]
    );
    let told = complete(&mut faults, item, Prefaulted::Fixed);
    assert_eq!(told, [Effect::Enter { vcpu: V0 }]);
}

#[test]
fn the_cap_of_64_sends_the_next_one_the_synchronous_way() {
    let mut faults = enabled::<Retry>(FaultsConfig::new(1));
    for index in 0..64 {
        announce(&mut faults, index);
    }
    assert_eq!(faults.queued(V0), 64);
    let wait = Effect::Wait {
        vcpu: V0,
        page: page(64),
    };
    assert_eq!(touch(&mut faults, 64, PageState::Pending), [wait]);
    assert_eq!(faults.handle_interrupted(V0), Accepted::Taken);
    assert_eq!(
        faults.handle_settled(V0, page(64), PageOutcome::Present),
        Accepted::Stale
    );
}

#[test]
fn one_ready_is_in_flight_and_the_rest_follow_in_the_order_of_completion() {
    let mut faults = enabled::<Exact>(FaultsConfig::new(1));
    let first = announce(&mut faults, 1);
    let second = announce(&mut faults, 2);
    let third = announce(&mut faults, 3);
    complete(&mut faults, third.0, Prefaulted::Fixed);
    for item in [first.0, second.0] {
        faults.handle_work_done(V0, item, PageOutcome::Present);
    }
    assert_eq!(effects(&mut faults), [Effect::Kick { vcpu: V0 }]);
    assert_eq!(
        enter(&mut faults, 0),
        [Effect::Enter { vcpu: V0 }],
        "the slot is taken"
    );
    for (item, token) in [first, second] {
        faults.handle_ack(V0);
        assert_eq!(effects(&mut faults), [Effect::Kick { vcpu: V0 }]);
        assert!(matches!(
            enter(&mut faults, 0)[..],
            [Effect::Prefault { .. }]
        ));
        faults.handle_prefaulted(V0, item, Prefaulted::Fixed);
        let ready = Effect::Ready {
            vcpu: V0,
            token,
            error: false,
        };
        assert_eq!(effects(&mut faults), [ready, Effect::Enter { vcpu: V0 }]);
    }
}

#[test]
fn a_refused_ready_frees_the_slot() {
    let mut faults = enabled::<Exact>(FaultsConfig::new(1));
    let (item, _) = announce(&mut faults, 1);
    complete(&mut faults, item, Prefaulted::Fixed);
    assert_eq!(faults.handle_ready_refused(V0), Accepted::Taken);
    assert_eq!(faults.handle_ack(V0), Accepted::Stale);
}

#[test]
fn nothing_is_said_while_the_local_apic_is_off() {
    let mut faults = enabled::<Exact>(FaultsConfig::new(1));
    let (item, _) = announce(&mut faults, 1);
    faults.handle_lapic(V0, false);
    faults.handle_work_done(V0, item, PageOutcome::Present);
    assert_eq!(effects(&mut faults), [Effect::Kick { vcpu: V0 }]);
    assert_eq!(enter(&mut faults, 0), [Effect::Enter { vcpu: V0 }]);
    faults.handle_lapic(V0, true);
    assert_eq!(effects(&mut faults), [Effect::Kick { vcpu: V0 }]);
    assert!(matches!(
        enter(&mut faults, 0)[..],
        [Effect::Prefault { .. }]
    ));
}

#[test]
fn disabling_cancels_and_a_late_completion_meets_nobody() {
    let mut faults = enabled::<Exact>(FaultsConfig::new(1));
    let (old, _) = announce(&mut faults, 1);
    let (done, _) = announce(&mut faults, 2);
    faults.handle_work_done(V0, done, PageOutcome::Present);
    faults.handle_guest_apf(V0, GuestApf::Off);
    let told = effects(&mut faults);
    let cancel = Effect::CancelWork {
        vcpu: V0,
        item: old,
    };
    assert_eq!(told, [Effect::Kick { vcpu: V0 }, cancel]);
    assert_eq!(faults.queued(V0), 0);
    assert_eq!(enter(&mut faults, 0), [Effect::Enter { vcpu: V0 }]);
    // A new item does not take the place that an answer is still outstanding for.
    let told = touch(&mut faults, 1, PageState::Pending);
    let [Effect::Work { item: new, .. }, Effect::Halt { .. }] = told[..] else {
        panic!("{told:?}");
    };
    assert_ne!(new, old);
    assert_eq!(
        faults.handle_work_done(V0, old, PageOutcome::Present),
        Accepted::Taken
    );
    assert_eq!(effects(&mut faults), []);
    assert_eq!(
        faults.handle_work_done(V0, old, PageOutcome::Present),
        Accepted::Stale
    );
    assert_eq!(faults.vcpu_state(V0), Some(VcpuState::Halted));
}

#[test]
fn a_reset_ends_whatever_the_vcpu_was_doing() {
    let mut faults = enabled::<Exact>(FaultsConfig::new(1));
    announce(&mut faults, 1);
    touch(&mut faults, 2, PageState::Failed(failure()));
    assert!(matches!(faults.vcpu_state(V0), Some(VcpuState::Waiting(_))));
    faults.handle_reset(V0);
    let told = effects(&mut faults);
    assert!(
        matches!(told[..], [Effect::CancelWork { .. }, Effect::Resume { .. }]),
        "{told:?}"
    );
    assert_eq!(
        faults.handle_settled(V0, page(2), PageOutcome::Present),
        Accepted::Stale
    );
    assert_eq!(faults.guest_apf(V0), GuestApf::Off);
}

#[test]
fn under_shadow_paging_the_prefault_needs_the_address_space_of_the_fault() {
    let config = FaultsConfig {
        paging: Paging::Shadow,
        ..FaultsConfig::new(1)
    };
    let mut faults = enabled::<ErrorGfn>(config);
    let (item, token) = announce(&mut faults, 1);
    faults.handle_work_done(V0, item, PageOutcome::Failed(failure()));
    effects(&mut faults);
    faults.handle_entry(V0, Root::new(2));
    let ready = Effect::Ready {
        vcpu: V0,
        token,
        error: false,
    };
    assert_eq!(effects(&mut faults), [ready, Effect::Enter { vcpu: V0 }]);
    // The policy has not heard of it; the machine knows that an error is owed all the same.
    assert_eq!(faults.owed(), 1);
    let told = touch(&mut faults, 1, PageState::Failed(failure()));
    assert!(matches!(told[..], [Effect::NotPresent { .. }]), "{told:?}");
    assert_eq!(faults.owed(), 0, "claimed");
}

#[test]
fn exact_reports_at_the_first_retry_and_the_rest_stay_asynchronous() {
    let mut faults = enabled::<Exact>(FaultsConfig::new(1));
    let (item, _) = announce(&mut faults, 1);
    complete(&mut faults, item, Prefaulted::Error(failure()));
    faults.handle_ack(V0);
    announce(&mut faults, 2);
    assert_eq!(faults.owed(), 1);
    let wait = Effect::Wait {
        vcpu: V0,
        page: page(1),
    };
    assert_eq!(touch(&mut faults, 1, PageState::Failed(failure())), [wait]);
    faults.handle_settled(V0, page(1), PageOutcome::Failed(failure()));
    let report = Effect::Report {
        vcpu: V0,
        fault: fault(1),
        failure: failure(),
    };
    assert_eq!(effects(&mut faults), [report]);
    assert_eq!(faults.owed(), 0);
    // Repaired and resumed.
    faults.handle_healed(page(1));
    faults.handle_resume(V0);
    assert_eq!(effects(&mut faults), [Effect::Resume { vcpu: V0 }]);
    enter(&mut faults, 0);
    assert_eq!(
        touch(&mut faults, 1, PageState::Present),
        [Effect::Resume { vcpu: V0 }]
    );
}

#[test]
fn an_error_that_nobody_comes_back_for_is_unclaimed_once() {
    let fail = |faults: &mut Faults<Exact>, index| {
        let (item, _) = announce(faults, index);
        complete(faults, item, Prefaulted::Error(failure()));
        faults.handle_ack(V0);
    };
    let unclaimed = |index| Effect::Unclaimed {
        page: page(index),
        failure: failure(),
    };
    let config = FaultsConfig {
        owed_slots: 2,
        ..FaultsConfig::new(1)
    };
    let mut faults = enabled::<Exact>(config);
    assert_eq!(faults.poll_timer(), None);
    fail(&mut faults, 1);
    assert_eq!(
        faults.poll_timer(),
        Some((Timer::Unclaimed, Duration::from_secs(60)))
    );
    assert_eq!(faults.poll_timer(), None);
    faults.handle_timer(Timer::Unclaimed);
    assert_eq!(
        effects(&mut faults),
        [],
        "one period has not passed for certain"
    );
    fail(&mut faults, 2);
    assert!(faults.poll_timer().is_some());
    faults.handle_timer(Timer::Unclaimed);
    assert_eq!(effects(&mut faults), [unclaimed(1)]);
    assert!(faults.poll_timer().is_some());
    // No room: the oldest is let go.
    fail(&mut faults, 3);
    let (item, token) = announce(&mut faults, 4);
    let told = complete(&mut faults, item, Prefaulted::Error(failure()));
    let ready = Effect::Ready {
        vcpu: V0,
        token,
        error: false,
    };
    assert_eq!(told, [ready, unclaimed(2), Effect::Enter { vcpu: V0 }]);
    // Healed, removed.
    faults.handle_healed(page(3));
    assert_eq!(effects(&mut faults), [unclaimed(3)]);
    faults.handle_removed(page(0), crate::PageCount::new(5));
    assert_eq!(effects(&mut faults), [unclaimed(4)]);
    assert_eq!(faults.owed(), 0);
}

#[test]
fn what_linux_shows_is_confirmed_reported_or_tried_again() {
    let mut faults = machine::<Exact>(FaultsConfig::new(2));
    let mut see = |id, seen, apf, state| {
        assert_eq!(
            faults.handle_observed(id, fault(9), seen, apf, state),
            Accepted::Taken
        );
        effects(&mut faults)
    };
    let failed = PageState::Failed(failure());
    let report = |vcpu| {
        [Effect::Report {
            vcpu,
            fault: fault(9),
            failure: failure(),
        }]
    };
    assert_eq!(
        see(V0, Seen::Sigbus, LinuxApf::On, failed),
        [Effect::Confirm { vcpu: V0 }]
    );
    let healed = see(V0, Seen::Sigbus, LinuxApf::On, PageState::Present);
    assert_eq!(healed, [Effect::Retry { vcpu: V0 }]);
    assert_eq!(
        see(V0, Seen::Sigbus, LinuxApf::On, failed),
        [Effect::Confirm { vcpu: V0 }]
    );
    assert_eq!(see(V1, Seen::Efault, LinuxApf::Off, failed), report(V1));
    assert_eq!(see(V0, Seen::Sigbus, LinuxApf::On, failed), report(V0));
    assert!(matches!(
        faults.vcpu_state(V0),
        Some(VcpuState::Stopped(..))
    ));
    faults.handle_resume(V0);
    // Whoever only watches does not say when it enters.
    assert_eq!(effects(&mut faults), [Effect::Resume { vcpu: V0 }]);
    let again = faults.handle_observed(V0, fault(8), Seen::Sigbus, LinuxApf::Off, failed);
    assert_eq!(again, Accepted::Taken);
}

#[test]
fn a_note_lasts_until_the_next_entry_or_its_fault() {
    let mut faults = enabled::<Exact>(FaultsConfig::new(1));
    assert_eq!(faults.handle_noted(V0, page(3)), Accepted::Taken);
    assert_eq!(effects(&mut faults), [Effect::Interrupt { vcpu: V0 }]);
    assert_eq!(faults.handle_noted(V0, page(4)), Accepted::Taken);
    assert_eq!(effects(&mut faults), [], "asked for already");
    assert_eq!(faults.noted(V0), Some(page(4)));
    // It came out for another reason, and goes in again.
    enter(&mut faults, 0);
    assert_eq!(faults.noted(V0), None);
    faults.handle_noted(V0, page(3));
    effects(&mut faults);
    touch(&mut faults, 3, PageState::Pending);
    assert_eq!(faults.noted(V0), None);
    assert_eq!(
        faults.handle_noted(V0, page(3)),
        Accepted::Stale,
        "not in the guest"
    );
}

#[test]
fn a_note_is_over_when_its_page_settles() {
    let mut faults = enabled::<Exact>(FaultsConfig::new(1));
    faults.handle_noted(V0, page(3));
    assert_eq!(effects(&mut faults), [Effect::Interrupt { vcpu: V0 }]);
    assert_eq!(faults.handle_note_over(V0, page(4)), Accepted::Stale);
    assert_eq!(faults.handle_note_over(V0, page(3)), Accepted::Taken);
    assert_eq!(faults.noted(V0), None);
    // What the thread is blocked on next is another fault, with a kick of its own.
    faults.handle_noted(V0, page(4));
    assert_eq!(effects(&mut faults), [Effect::Interrupt { vcpu: V0 }]);
}

#[test]
fn each_refusal_leaves_the_fault_synchronous() {
    let config = FaultsConfig {
        hlt_in_guest: true,
        ..FaultsConfig::new(1)
    };
    let user = moment(3, 1);
    let refused: [fn(&mut Moment); 10] = [
        |m| m.interrupts_allowed = false,
        |m| m.kernel_mode = true,
        |m| m.exception_pending = true,
        |m| m.event_reinjection = true,
        |m| m.nested = true,
        |m| m.smm = true,
        |m| m.guest_paging = false,
        |m| m.unread = true,
        |m| m.emulated = true,
        |m| m.prefetch = true,
    ];
    let fault_at = |moment: &Moment| {
        let mut faults = enabled::<Exact>(config);
        faults.handle_fault(V0, fault(3), moment, PageState::Pending);
        effects(&mut faults)[0]
    };
    assert!(matches!(fault_at(&user), Effect::NotPresent { .. }));
    for (n, refuse) in refused.iter().enumerate() {
        let mut moment = user;
        refuse(&mut moment);
        let wait = Effect::Wait {
            vcpu: V0,
            page: page(3),
        };
        assert_eq!(fault_at(&moment), wait, "refusal {n}");
    }
}

#[test]
fn a_second_fault_on_an_outstanding_frame_can_be_queued() {
    let config = FaultsConfig {
        double_fault: DoubleFault::Queue,
        ..FaultsConfig::new(1)
    };
    let mut faults = enabled::<Exact>(config);
    let mut told = Vec::new();
    for _ in 0..2 {
        faults.handle_fault(V0, fault(3), &moment(3, 1), PageState::Pending);
        let Some(Effect::NotPresent { item, token, .. }) = faults.poll_effect() else {
            panic!("not told");
        };
        faults.handle_announced(V0, item, Announced::Injected);
        effects(&mut faults);
        enter(&mut faults, 0);
        told.push((item, token));
    }
    assert_ne!(told[0].1, told[1].1);
    assert_eq!(faults.queued(V0), 2);
    for &(item, token) in &told {
        faults.handle_work_done(V0, item, PageOutcome::Present);
        // Without taking the vCPU out of the guest.
        faults.handle_service(V0, Root::new(1));
        faults.handle_prefaulted(V0, item, Prefaulted::Fixed);
        let ready = Effect::Ready {
            vcpu: V0,
            token,
            error: false,
        };
        assert!(effects(&mut faults).contains(&ready));
        faults.handle_ack(V0);
    }
    assert_eq!(faults.queued(V0), 0);
}

/// One asynchronous fault that was announced, its work failed, up to the entry that serves it.
fn failed_item<P: Policy>(config: FaultsConfig, apf: GuestApf) -> (Faults<P>, Vec<Effect>) {
    let mut faults = enabled::<P>(config);
    let vcpu = VcpuId::new(0);
    assert_eq!(faults.handle_guest_apf(vcpu, apf), Accepted::Taken);
    effects(&mut faults);
    enter(&mut faults, 0);
    faults.handle_ack(vcpu);
    effects(&mut faults);
    faults.handle_fault(vcpu, fault(5), &moment(5, 1), PageState::Pending);
    let item = match effects(&mut faults)[..] {
        [Effect::NotPresent { item, .. }] => item,
        ref other => panic!("{other:?}"),
    };
    faults.handle_announced(vcpu, item, Announced::Injected);
    enter(&mut faults, 0);
    faults.handle_work_done(vcpu, item, PageOutcome::Failed(failure()));
    effects(&mut faults);
    let served = enter(&mut faults, 0);
    (faults, served)
}

const READS_ERRORS: GuestApf = GuestApf::On {
    send_always: false,
    error_word: true,
};

#[test]
fn a_guest_that_reads_errors_is_told_what_the_work_met() {
    // Whatever the prefault says; under shadow paging in another address space it is skipped.
    let (mut faults, served) = failed_item::<GuestError>(FaultsConfig::new(1), READS_ERRORS);
    let [Effect::Prefault { vcpu, item, .. }] = served[..] else {
        panic!("{served:?}");
    };
    faults.handle_prefaulted(vcpu, item, Prefaulted::Skipped);
    let told = effects(&mut faults);
    assert!(
        matches!(
            told[..],
            [Effect::Ready { error: true, .. }, Effect::Enter { .. }]
        ),
        "{told:?}"
    );
    assert_eq!(faults.owed(), 0, "told is an end");

    let (mut faults, served) = failed_item::<GuestError>(FaultsConfig::new(1), ON);
    let [Effect::Prefault { vcpu, item, .. }] = served[..] else {
        panic!("{served:?}");
    };
    faults.handle_prefaulted(vcpu, item, Prefaulted::Error(failure()));
    let told = effects(&mut faults);
    assert!(
        matches!(
            told[..],
            [Effect::Ready { error: false, .. }, Effect::Enter { .. }]
        ),
        "{told:?}"
    );
    faults.handle_ack(vcpu);
    faults.handle_fault(vcpu, fault(5), &moment(5, 1), PageState::Pending);
    let fallback = effects(&mut faults);
    assert!(
        matches!(fallback[..], [Effect::Wait { .. }]),
        "{fallback:?}"
    );
}

#[test]
fn exit_on_completion_stops_the_vcpu_with_what_ran_elsewhere() {
    let shadow = FaultsConfig {
        paging: Paging::Shadow,
        ..FaultsConfig::new(1)
    };
    // The fault was in root 1, the entry is too: prefaulted, then reported, then the guest.
    let (mut faults, served) = failed_item::<ExitOnCompletion>(shadow, ON);
    let [Effect::Prefault { vcpu, item, .. }] = served[..] else {
        panic!("{served:?}");
    };
    faults.handle_prefaulted(vcpu, item, Prefaulted::Error(failure()));
    let ends = effects(&mut faults);
    assert!(
        matches!(
            ends[..],
            [Effect::Ready { error: false, .. }, Effect::Report { .. }]
        ),
        "{ends:?}"
    );
    assert!(matches!(
        faults.vcpu_state(vcpu),
        Some(VcpuState::Stopped(..))
    ));
    faults.handle_resume(vcpu);
    assert_eq!(effects(&mut faults), [Effect::Resume { vcpu }]);
    assert!(matches!(enter(&mut faults, 0)[..], [Effect::Enter { .. }]));
    faults.handle_ack(vcpu);

    // In another address space the prefault is skipped, and the vCPU stops all the same.
    faults.handle_fault(vcpu, fault(6), &moment(6, 2), PageState::Pending);
    let item = match effects(&mut faults)[..] {
        [Effect::NotPresent { item, .. }] => item,
        ref other => panic!("{other:?}"),
    };
    faults.handle_announced(vcpu, item, Announced::Injected);
    enter(&mut faults, 0);
    faults.handle_work_done(vcpu, item, PageOutcome::Failed(failure()));
    effects(&mut faults);
    let ends = enter(&mut faults, 0);
    assert!(
        matches!(ends[..], [Effect::Ready { .. }, Effect::Report { .. }]),
        "{ends:?}"
    );
}
