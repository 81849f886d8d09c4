//! What a VM's threads share, and the carrying out of what the machine wants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvm_bindings::{kvm_msi, kvm_vcpu_events};
use surefault_core::faults::{
    Announced, Effect, Fault, Faults, ItemId, Prefaulted, Root, Timer, VcpuState,
};
use surefault_core::policy::{AnyPolicy, Policy as _};
use surefault_core::residency::{PageOutcome, PageState};
use surefault_core::{Failure, Gfn, Hva, PageId, Token, VcpuId};

use super::area::Area;
use super::moment::announce;
use super::msr::Msrs;
use super::{ApfSpec, Outside, PageFate, Patience};
use crate::interrupts::Interrupts;
use crate::signals::Kicker;

/// Under the one lock.
pub(super) struct State {
    pub(super) machine: Faults<AnyPolicy>,
    vcpus: Vec<VcpuSide>,
    /// Items whose page is on its way.
    workers: Vec<(PageId, VcpuId, ItemId)>,
    /// Pages to be demanded as soon as the lock is free.
    pub(super) wanted: Vec<PageId>,
    /// Demands for which there was no room.
    pub(super) postponed: Vec<PageId>,
    /// Since when pages are on their way.
    pub(super) demanded: BTreeMap<PageId, Instant>,
    pub(super) patience: Patience,
    /// Pages that failed and whose "ready" has been said.
    pub(super) said_ready: BTreeSet<PageId>,
    /// The pages that failed.
    pub(super) fates: BTreeMap<PageId, PageFate>,
    /// How often each page was left synchronous.
    pub(super) waits: BTreeMap<PageId, u64>,
    /// The time with asynchronous faults off, until the last change.
    off: Duration,
    guest_kills: bool,
    timers: Vec<(Instant, Timer)>,
    pub(super) counted: Counted,
}

/// What is known of one vCPU beside the machine.
#[derive(Default)]
pub(super) struct VcpuSide {
    pub(super) kicker: Option<Arc<Kicker>>,
    /// Where KVM has no interrupt controllers.
    pub(super) interrupts: Option<Arc<Interrupts>>,
    pub(super) thread: u32,
    /// Its thread is in `KVM_RUN`, so that an event with its name is its guest's; or it sleeps where
    /// the guest has halted.
    pub(super) in_kvm: bool,
    /// What its thread was last seen blocked on.
    pub(super) blocked: Option<BlockedOn>,
    /// The page that its thread sleeps for outside of KVM, having been refused it.
    pub(super) asleep_for: Option<PageId>,
    /// To be reported when the thread comes by.
    pub(super) report: Option<(Fault, Failure)>,
    /// A machine check is to be queued for its next entry.
    pub(super) machine_check: bool,
    pub(super) msrs: Msrs,
    pub(super) area: Option<Area>,
    /// The guest's area could not be written: nothing is announced until it names one anew.
    pub(super) unreachable: bool,
    /// The interrupt for a token was not accepted.
    unheard: bool,
    /// The page that is being said ready has failed.
    serves_failure: bool,
    /// The policy has had its asynchronous faults off since then.
    off_since: Option<Instant>,
}

#[derive(Clone, Copy)]
pub(super) struct BlockedOn {
    pub(super) page: PageId,
    pub(super) address: Hva,
    pub(super) since: Instant,
    /// It has been kicked, or must not be.
    pub(super) kicked: bool,
}

macro_rules! counted {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Default)]
        pub(super) struct Counted {
            $($(#[$doc])* pub(super) $name: u64,)*
        }

        impl Counted {
            pub(super) const NAMES: &'static [&'static str] = &[$(stringify!($name),)*];

            pub(super) fn named(self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counted! {
    /// Times that a vCPU's thread was seen blocked in a fault.
    blocked,
    /// Of these, faults of KVM's emulator, which no signal ends.
    emulated,
    /// Accesses that were refused a page before it had been asked for.
    refused,
    /// Signals sent to end a fault.
    kicks,
    /// Faults that ended before anybody was kicked or told.
    spared,
    /// Times that the guest was told "not present".
    announced,
    /// Faults that were left synchronous by the rules or the policy.
    waits,
    /// Times that the guest was told "ready".
    readies,
    /// Of these, without taking its vCPU out of the guest.
    readies_from_outside,
    /// Acknowledgements by the guest.
    acks,
    /// Machine checks for the guest.
    machine_checks,
    /// Reports.
    reports,
    /// Errors that nobody came back for.
    unclaimed,
    /// Areas that could not be written.
    unreachable,
}

impl VcpuSide {
    /// The guest has read the last "not present", and can be written to.
    pub(super) fn can_be_told(&self) -> bool {
        let area = self.area.as_ref().filter(|_| !self.unreachable);
        area.is_none_or(|area| matches!(area.is_read(), Ok(true)))
    }

    /// Raises the interrupt "page ready". False when nobody takes it.
    fn ring(&self, outside: &Outside, id: VcpuId) -> bool {
        let vector = self.msrs.vector();
        match &self.interrupts {
            None => signal_message(outside, id, vector),
            Some(interrupts) if self.in_kvm => {
                interrupts.raise(vector);
                true
            }
            Some(interrupts) => {
                interrupts.post(vector);
                true
            }
        }
    }

    /// "Ready" can be said by any thread.
    fn is_served_anywhere(&self) -> bool {
        self.area.as_ref().is_none_or(|area| area.anywhere)
    }
}

impl State {
    pub(super) fn new(machine: Faults<AnyPolicy>, spec: &ApfSpec) -> State {
        State {
            machine,
            vcpus: (0..spec.vcpus).map(|_| VcpuSide::default()).collect(),
            workers: Vec::new(),
            wanted: Vec::new(),
            postponed: Vec::new(),
            demanded: BTreeMap::new(),
            patience: spec.patience,
            said_ready: BTreeSet::new(),
            fates: BTreeMap::new(),
            waits: BTreeMap::new(),
            off: Duration::ZERO,
            guest_kills: spec.guest_kills,
            timers: Vec::new(),
            counted: Counted::default(),
        }
    }

    pub(super) fn vcpu(&mut self, id: VcpuId) -> &mut VcpuSide {
        &mut self.vcpus[id.get() as usize]
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = VcpuId> + use<> {
        (0..self.vcpus.len() as u32).map(VcpuId::new)
    }

    /// Whose threads sleep for `page`.
    pub(super) fn sleepers(&self, page: PageId) -> Vec<Arc<Kicker>> {
        let asleep = (self.vcpus.iter()).filter(|vcpu| vcpu.asleep_for == Some(page));
        asleep.filter_map(|vcpu| vcpu.kicker.clone()).collect()
    }

    /// A fault on a page was taken, whose state is `known`.
    pub(super) fn asked(&mut self, page: PageId, known: PageState) {
        if self.said_ready.remove(&page) && known != PageState::Present {
            self.fate(page).asked_again += 1;
        }
    }

    pub(super) fn most_asked_again(&self) -> u64 {
        let again = self.fates.values().map(|fate| fate.asked_again);
        again.max().unwrap_or(0)
    }

    /// What becomes of a page that has failed, first by now.
    fn fate(&mut self, page: PageId) -> &mut PageFate {
        self.fates.entry(page).or_insert_with(|| PageFate {
            failed: Instant::now(),
            asked_again: 0,
            reported_after: None,
        })
    }

    /// Notes since when, and until when, the policy has a vCPU's asynchronous faults off.
    fn measure_off(&mut self) {
        for id in self.ids() {
            let is_off = self.machine.policy().is_off(id);
            let side = &mut self.vcpus[id.get() as usize];
            match (side.off_since, is_off) {
                (None, true) => side.off_since = Some(Instant::now()),
                (Some(since), false) => {
                    self.off += since.elapsed();
                    side.off_since = None;
                }
                (None, false) | (Some(_), true) => {}
            }
        }
    }

    pub(super) fn off(&self) -> Duration {
        let still = self.vcpus.iter().filter_map(|side| side.off_since);
        self.off + still.map(|since| since.elapsed()).sum::<Duration>()
    }

    /// Ends the items that wait for `page`, and the waits.
    pub(super) fn settle(&mut self, outside: &Outside, page: PageId, outcome: PageOutcome) {
        if let PageOutcome::Failed(_) = outcome {
            self.fate(page);
        }
        if let Some(since) = self.demanded.remove(&page) {
            self.patience.took(since.elapsed());
        }
        for id in self.ids() {
            self.machine.handle_note_over(id, page);
            let vcpu = self.vcpu(id);
            if let Some(blocked) = vcpu.blocked
                && blocked.page == page
            {
                vcpu.blocked = None;
                self.counted.spared += u64::from(!blocked.kicked);
            }
            let vcpu = self.machine.vcpu_state(id);
            if matches!(vcpu, Some(VcpuState::Waiting(fault)) if fault.page == page) {
                self.machine.handle_settled(id, page, outcome);
                self.drain(outside, None);
                // Its thread is on its way out of the fault, and back in the guest if the page came.
                let runs_on = self.machine.vcpu_state(id) == Some(VcpuState::Entering);
                if runs_on && self.vcpu(id).in_kvm && self.vcpu(id).is_served_anywhere() {
                    self.machine.handle_entry(id, Root::default());
                    self.drain(outside, None);
                }
            }
        }
        while let Some(at) = self.workers.iter().position(|worker| worker.0 == page) {
            let (_, id, item) = self.workers.remove(at);
            self.machine.handle_work_done(id, item, outcome);
            self.drain(outside, None);
        }
    }

    /// Carries out effects until there are none. `own` is the vCPU whose thread this is, standing
    /// outside the guest. Says whether its guest is told "not present" at the next entry.
    pub(super) fn drain(
        &mut self,
        outside: &Outside,
        mut own: Option<(VcpuId, &mut kvm_vcpu_events)>,
    ) -> bool {
        let mut announced = false;
        while let Some(effect) = self.machine.poll_effect() {
            match effect {
                Effect::NotPresent { vcpu, item, token } => {
                    let how = match &mut own {
                        Some((id, events)) if *id == vcpu => {
                            self.say_not_present(vcpu, token, events)
                        }
                        Some(_) | None => Announced::Refused,
                    };
                    announced |= how == Announced::Injected;
                    self.machine.handle_announced(vcpu, item, how);
                }
                Effect::Work { vcpu, item, page } => {
                    self.workers.push((page, vcpu, item));
                    self.wanted.push(page);
                }
                Effect::CancelWork { vcpu, item } => {
                    self.workers.retain(|&(_, id, of)| (id, of) != (vcpu, item));
                    let how = PageOutcome::Cancelled;
                    self.machine.handle_work_done(vcpu, item, how);
                }
                // Back into the fault: the host's own wait is as good as any.
                Effect::Wait { page, .. } => {
                    self.counted.waits += 1;
                    *self.waits.entry(page).or_default() += 1;
                    self.wanted.push(page);
                }
                // Only what could not be announced is halted: it waits in the host instead.
                Effect::Halt { vcpu } => drop(self.machine.handle_interrupt(vcpu)),
                Effect::Kick { vcpu } => self.serve(vcpu),
                Effect::Prefault {
                    vcpu, item, page, ..
                } => {
                    let how = self.prefault(outside, page);
                    self.vcpu(vcpu).serves_failure = matches!(how, Prefaulted::Error(_));
                    self.machine.handle_prefaulted(vcpu, item, how);
                }
                Effect::Ready { vcpu, token, error } => self.say_ready(outside, vcpu, token, error),
                // Its thread is refused the page at that very access, and asks then.
                Effect::Tell { .. } => {}
                Effect::MachineCheck { vcpu, .. } => {
                    self.counted.machine_checks += 1;
                    self.vcpu(vcpu).machine_check = true;
                }
                Effect::Report {
                    vcpu,
                    fault,
                    failure,
                } => {
                    self.counted.reports += 1;
                    let fate = self.fate(fault.page);
                    fate.reported_after.get_or_insert(fate.failed.elapsed());
                    let side = self.vcpu(vcpu);
                    side.report = Some((fault, failure));
                    if let (true, Some(kicker)) = (side.in_kvm, &side.kicker) {
                        kicker.nudge();
                    }
                }
                Effect::Unclaimed { .. } => self.counted.unclaimed += 1,
                // The vCPU's thread comes by, or is in the guest already; who is kicked out of a
                // fault, and when, is decided in `observer`.
                Effect::Resume { .. } | Effect::Enter { .. } | Effect::Interrupt { .. } => {}
                // Linux takes no faults here.
                Effect::Confirm { .. } | Effect::Retry { .. } => {
                    debug_assert!(false, "asked for by nobody: {effect:?}");
                }
            }
        }
        while let Some((timer, after)) = self.machine.poll_timer() {
            self.timers.push((Instant::now() + after, timer));
        }
        self.measure_off();
        announced
    }

    /// Timers that are due.
    pub(super) fn fire_timers(&mut self, now: Instant) {
        while let Some(at) = self.timers.iter().position(|&(due, _)| due <= now) {
            let (_, timer) = self.timers.swap_remove(at);
            self.machine.handle_timer(timer);
        }
    }

    pub(super) fn take_dirty(&mut self) -> Vec<Gfn> {
        let areas = self.vcpus.iter_mut().filter_map(|vcpu| vcpu.area.as_mut());
        areas.filter_map(Area::take_dirty).collect()
    }

    fn say_not_present(
        &mut self,
        id: VcpuId,
        token: Token,
        events: &mut kvm_vcpu_events,
    ) -> Announced {
        let side = self.vcpu(id);
        let written = side.area.as_mut().map(Area::say_not_present);
        if !matches!(written, Some(Ok(()))) {
            side.unreachable = true;
            self.counted.unreachable += 1;
            return Announced::Refused;
        }
        announce(events, token);
        self.counted.announced += 1;
        Announced::Injected
    }

    /// Completions wait for a vCPU. One in the guest need not come out for them.
    fn serve(&mut self, id: VcpuId) {
        let side = self.vcpu(id);
        if !side.in_kvm {
            return;
        }
        // A guest that was taken away from a failed access by an interrupt is brought out for it.
        let telling = matches!(self.machine.vcpu_state(id), Some(VcpuState::Telling(..)));
        let side = &self.vcpus[id.get() as usize];
        if side.is_served_anywhere() && !telling {
            self.machine.handle_service(id, Root::default());
        } else if let Some(kicker) = &side.kicker {
            kicker.nudge();
        }
    }

    /// What the access will find. Nothing is mapped ahead of it: KVM has no say here.
    fn prefault(&mut self, outside: &Outside, page: PageId) -> Prefaulted {
        match outside.pages.upgrade().map(|pages| pages.state(page)) {
            Some(PageState::Present) => Prefaulted::Fixed,
            Some(PageState::Failed(failure)) => {
                self.said_ready.insert(page);
                Prefaulted::Error(failure)
            }
            Some(PageState::Absent | PageState::Pending | PageState::Removed) | None => {
                Prefaulted::Retry
            }
        }
    }

    fn say_ready(&mut self, outside: &Outside, id: VcpuId, token: Token, error: bool) {
        let reads_errors = self.machine.guest_apf(id).wants_errors();
        let kills = self.guest_kills;
        let side = self.vcpu(id);
        let error = error || (kills && std::mem::take(&mut side.serves_failure));
        let error = reads_errors.then_some(error);
        let written = side.area.as_mut().map(|area| area.say_ready(token, error));
        if !matches!(written, Some(Ok(()))) {
            self.counted.unreachable += 1;
            self.machine.handle_ready_refused(id);
            return;
        }
        side.unheard = !side.ring(outside, id);
        // Without interrupt controllers in KVM its thread brings the interrupt in.
        let from_outside = side.in_kvm && side.interrupts.is_none();
        self.counted.readies += 1;
        self.counted.readies_from_outside += u64::from(from_outside);
    }

    /// Raises the interrupt that was not accepted when its token was written.
    pub(super) fn ring_again(&mut self, outside: Option<&Outside>, id: VcpuId) {
        let side = self.vcpu(id);
        if let (true, Some(outside)) = (side.unheard, outside) {
            side.unheard = !side.ring(outside, id);
        }
    }
}

/// Interrupts a vCPU by way of KVM's interrupt controllers. False when its local APIC does not take
/// it.
fn signal_message(outside: &Outside, id: VcpuId, vector: u8) -> bool {
    /// Physical destination, fixed delivery; the target's APIC id from bit 12 on.
    const ADDRESS: u32 = 0xfee0_0000;
    let apic = id.get();
    let msi = kvm_msi {
        address_lo: ADDRESS | (apic & 0xff) << 12,
        // Its upper bits, for who has that many vCPUs (`KVM_CAP_X2APIC_API`).
        address_hi: apic & !0xff,
        data: vector.into(),
        ..Default::default()
    };
    matches!(outside.vm.signal_msi(msi), Ok(1..))
}
