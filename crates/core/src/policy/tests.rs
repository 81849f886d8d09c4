use super::*;
use crate::{Cause, CauseId, CauseKind, PageIndex, RegionId};

fn attempt(vcpu: u32, gfn: u64, state: PageState) -> Attempt {
    Attempt {
        vcpu: VcpuId::new(vcpu),
        gfn: Gfn::new(gfn),
        key: AddressKey::new(gfn),
        page: PageId::new(RegionId::new(0), PageIndex::new(gfn as u32)),
        state,
    }
}

fn failure() -> Failure {
    Failure {
        cause: Cause {
            kind: CauseKind::Io,
            id: CauseId::default(),
        },
        attempts: 1,
    }
}

fn failed(vcpu: u32, gfn: u64) -> AsyncFailure {
    AsyncFailure {
        vcpu: VcpuId::new(vcpu),
        gfn: Gfn::new(gfn),
        key: AddressKey::new(gfn),
        page: PageId::new(RegionId::new(0), PageIndex::new(gfn as u32)),
        failure: failure(),
        guest_reads_errors: false,
    }
}

#[test]
fn names_parse_back_and_the_error_lists_them() {
    for &kind in PolicyKind::ALL {
        assert_eq!(kind.as_str().parse(), Ok(kind));
        assert!(!kind.help().is_empty(), "{kind} has no help");
        assert_eq!(kind.build(&FaultsConfig::new(1)).kind(), kind);
    }
    assert_eq!(PolicyKind::default(), PolicyKind::Exact);
    let error = "best".parse::<PolicyKind>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown policy 'best', expected one of: retry error-gfn error-pending \
         error-gfn-table exit-on-completion guest-error exact"
    );
}

#[test]
fn error_gfn_keeps_one_address_a_vcpu_and_starts_with_zero() {
    let mut policy = ErrorGfn::new(&FaultsConfig::new(2));
    let async_for = |policy: &mut ErrorGfn, vcpu, gfn| {
        policy.may_go_async(&attempt(vcpu, gfn, PageState::Pending))
    };
    assert!(!async_for(&mut policy, 0, 0), "gfn 0 never goes async");
    assert_eq!(policy.async_failed(&failed(0, 7)), AfterFailure::SayReady);
    assert!(!async_for(&mut policy, 0, 7));
    assert!(async_for(&mut policy, 1, 7), "the other vCPU knows nothing");
    policy.async_failed(&failed(0, 8));
    assert!(async_for(&mut policy, 0, 7), "overwritten");
    policy.vcpu_reset(VcpuId::new(0));
    policy.error_reported(VcpuId::new(0), failed(0, 8).page);
    assert!(!async_for(&mut policy, 0, 8), "nothing clears it");
}

#[test]
fn error_pending_is_cleared_by_any_abnormal_pfn_but_not_under_shadow_paging() {
    let mut policy = ErrorPending::new(&FaultsConfig::new(2));
    let vcpu = VcpuId::new(0);
    policy.async_failed(&failed(0, 7));
    assert!(
        !policy.may_go_async(&attempt(0, 9, PageState::Pending)),
        "a healthy page pays"
    );
    assert!(policy.may_go_async(&attempt(1, 9, PageState::Pending)));
    policy.vcpu_reset(vcpu);
    policy.abnormal_pfn_handled(vcpu, Paging::Shadow);
    assert!(policy.is_pending(vcpu));
    policy.abnormal_pfn_handled(vcpu, Paging::TwoDimensional);
    assert!(policy.may_go_async(&attempt(0, 7, PageState::Pending)));
}

#[test]
fn exact_looks_at_the_page_alone() {
    let mut policy = Exact::new(&FaultsConfig::new(1));
    policy.async_failed(&failed(0, 7));
    assert!(policy.may_go_async(&attempt(0, 7, PageState::Pending)));
    assert!(!policy.may_go_async(&attempt(0, 7, PageState::Failed(failure()))));
}

#[test]
fn error_gfn_table_forgets_what_it_finds_and_what_is_overwritten() {
    let mut policy = ErrorGfnTable::new(&FaultsConfig::new(2));
    let async_for = |policy: &mut ErrorGfnTable, vcpu, gfn| {
        policy.may_go_async(&attempt(vcpu, gfn, PageState::Pending))
    };
    assert!(async_for(&mut policy, 0, 0), "gfn 0 is like any other");
    for gfn in [7, 8] {
        assert_eq!(policy.async_failed(&failed(0, gfn)), AfterFailure::SayReady);
    }
    assert!(async_for(&mut policy, 1, 7), "the other vCPU knows nothing");
    assert!(!async_for(&mut policy, 0, 7));
    assert!(async_for(&mut policy, 0, 7), "one shot");
    assert!(!async_for(&mut policy, 0, 8));

    let slot = |gfn: &u64| crate::faults::hash_32(*gfn as u32, 6);
    let twin = (8..).find(|gfn| slot(gfn) == slot(&7)).expect("64 slots");
    policy.async_failed(&failed(0, 7));
    policy.async_failed(&failed(0, twin));
    assert!(async_for(&mut policy, 0, 7), "overwritten by {twin}");
    assert_eq!(policy.entries(), 1);
    policy.vcpu_reset(VcpuId::new(0));
    assert_eq!(policy.entries(), 0, "a reset clears it");
}

#[test]
fn exit_on_completion_exits_wherever_the_error_shows() {
    let mut policy = ExitOnCompletion::new(&FaultsConfig::new(1));
    assert_eq!(policy.work_failed(&failed(0, 7)), AfterFailure::Exit);
    assert_eq!(policy.async_failed(&failed(0, 7)), AfterFailure::Exit);
    assert!(policy.may_go_async(&attempt(0, 7, PageState::Failed(failure()))));
}

#[test]
fn guest_error_falls_back_to_one_slot_where_the_guest_is_not_told() {
    let mut policy = GuestError::new(&FaultsConfig::new(1));
    let told = AsyncFailure {
        guest_reads_errors: true,
        ..failed(0, 7)
    };
    assert_eq!(policy.work_failed(&told), AfterFailure::TellGuest);
    assert!(policy.may_go_async(&attempt(0, 7, PageState::Pending)));
    assert_eq!(
        policy.async_failed(&told),
        AfterFailure::SayReady,
        "only the work counts"
    );
    assert_eq!(policy.work_failed(&failed(0, 7)), AfterFailure::SayReady);
    assert!(!policy.may_go_async(&attempt(0, 7, PageState::Pending)));
}
