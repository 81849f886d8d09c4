//! Failing pages that ring 0 touches. Where KVM emulates ring 0 they come back as MMIO exits, and
//! the VMM makes the access once the page is healed; elsewhere they are faults like any other.
//! Nobody can tell from the outside.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use surefault_core::faults::LinuxApf;
use surefault_core::plan::{FaultPlan, Latency};
use surefault_core::policy::PolicyKind;
use surefault_core::run::{Irqchip, OnError};
use surefault_core::workload::Workload;
use surefault_core::{Access, Gpa, Gva, PageCount, PageId, PageIndex, PageSize, RegionId, VcpuId};
use surefault_guest::abi::{DATA_BASE, PORT_DONE};
use surefault_guest::{Apic, GuestApf, GuestSpec, Idle, Layout};
use surefault_kvm::apf::{Apf, ApfSpec, Patience};
use surefault_kvm::memory::Mapping;
use surefault_kvm::pages::{PageSource, Paged};
use surefault_kvm::signals;
use surefault_kvm::vcpu::{Exit, Vcpu};
use surefault_kvm::vm::{Faults, Vm};
use surefault_kvm::watch::Watch;
use surefault_pager::{FaultObserver, PagerConfig};
use surefault_store::{PatternStore, PlannedStore};

use crate::Case;
use crate::rig::PAGE;

pub(crate) const CASES: &[Case] = &[
    ("ring_0_reads_a_failing_page", || read(None, OnError::Exit)),
    ("ring_0_writes_a_failing_page", || write(None)),
    ("ring_0_is_not_told_of_a_failing_page", || {
        read(None, OnError::Guest)
    }),
];

pub(crate) const FROM_USER_SPACE: &[Case] = &[
    ("ring_0_reads_a_failing_page_from_user_space", || {
        for refuse in [false, true] {
            read(Some(user_apf(OnError::Exit, refuse)), OnError::Exit);
        }
    }),
    ("ring_0_writes_a_failing_page_from_user_space", || {
        for refuse in [false, true] {
            write(Some(user_apf(OnError::Exit, refuse)));
        }
    }),
    (
        "ring_0_is_not_told_of_a_failing_page_from_user_space",
        || {
            for refuse in [false, true] {
                read(Some(user_apf(OnError::Guest, refuse)), OnError::Guest);
            }
        },
    ),
    ("ring_0_waits_for_a_slow_page_and_nobody_spins", slow),
];

/// In the kernel half, below all that the layout puts there.
const CODE: u64 = 0x800;
const SEED: u64 = 3;

/// One vCPU in ring 0, with two pages, which fail.
struct Rig {
    _vm: Vm,
    vcpu: Vcpu,
    paged: Arc<Paged>,
    store: Arc<PlannedStore<PatternStore>>,
}

/// Asynchronous faults from user space.
fn user_apf(on_error: OnError, refuse_absent: bool) -> Arc<Apf> {
    let spec = ApfSpec {
        refuse_absent,
        errors_to_guest: on_error == OnError::Guest,
        patience: Patience::NONE,
        ..ApfSpec::new(1, PolicyKind::Exact)
    };
    Arc::new(Apf::new(spec).unwrap())
}

impl Rig {
    /// Both pages fail.
    fn new(code: &[u8], apf: Option<Arc<Apf>>, on_error: OnError) -> Rig {
        let mut plan = FaultPlan::new(SEED, Latency::default());
        plan.push("0-1".parse().unwrap());
        Rig::with_plan(code, plan, apf, on_error)
    }

    fn with_plan(code: &[u8], plan: FaultPlan, apf: Option<Arc<Apf>>, on_error: OnError) -> Rig {
        let pages = PageCount::new(2);
        let workload = Workload::new(pages, Vec::new()).unwrap();
        let (layout, contents) = Layout::new(&GuestSpec {
            vcpus: 1,
            workload: &workload,
            page_size: PageSize::KIB_4,
            yield_every: NonZeroU32::MIN,
            idle: Idle::Halt,
            apf: GuestApf::Off,
            interrupts: false,
            apic: Apic::X2apic,
        })
        .unwrap();
        let system = Arc::new(Mapping::present(contents.len()).unwrap());
        system.write(0, &contents).unwrap();
        system.write(CODE, code).unwrap();
        let data = Arc::new(Mapping::on_demand(2 * PAGE as usize).unwrap());

        let pattern = PatternStore::new(SEED, 2 * PAGE);
        let store = Arc::new(PlannedStore::new(pattern, plan, PageSize::KIB_4));
        let config = PagerConfig {
            refuse_absent: apf.as_ref().is_some_and(|apf| apf.spec().refuse_absent),
            ..PagerConfig::default()
        };
        let observer = apf.clone().map(|apf| -> Arc<dyn FaultObserver> { apf });
        let paged = Paged::start(
            data.clone(),
            PageSize::KIB_4,
            store.clone(),
            &config,
            observer,
        );
        let paged = Arc::new(paged.unwrap());

        let faults = match apf {
            None => Faults::Synchronous,
            Some(_) => Faults::FromUserSpace { error_word: false },
        };
        let mut vm = Vm::new(faults, Irqchip::Kernel).unwrap();
        vm.add_slot(Gpa::new(0), system).unwrap();
        vm.add_slot(Gpa::new(DATA_BASE), data).unwrap();
        let id = VcpuId::new(0);
        let watch = match on_error {
            OnError::Exit | OnError::Stop => Watch::new(1, LinuxApf::Off),
            OnError::Guest => Watch::telling(1, LinuxApf::Off),
        };
        let watch = Arc::new(watch.unwrap());
        let signals = signals::install().unwrap();
        let mut vcpu = Vcpu::new(&vm, id, paged.clone(), watch, signals).unwrap();
        if let Some(apf) = apf {
            let pages: Arc<dyn PageSource> = paged.clone();
            apf.attach(&vm, &pages);
            vcpu = vcpu.with_apf(apf);
        }
        let mut start = layout.start(id).unwrap();
        start.rip = Gva::new(CODE);
        vcpu.start(&start).unwrap();
        Rig {
            _vm: vm,
            vcpu,
            paged,
            store,
        }
    }

    fn assert_failed(&mut self, page: u32, rip: u64, access: Access) {
        match self.vcpu.run().unwrap() {
            Exit::Failed { report, page: id } => {
                assert_eq!(id.index(), PageIndex::new(page));
                assert_eq!(report.gpa, Gpa::new(DATA_BASE + u64::from(page) * PAGE));
                assert_eq!(report.rip, Gva::new(rip));
                assert_eq!(report.access, access);
            }
            exit => panic!("{exit:?}"),
        }
    }

    fn heal(&self, page: u32) {
        let index = PageIndex::new(page);
        self.store.repair(index..=index);
        let healed = self
            .paged
            .pager()
            .heal(PageId::new(RegionId::new(0), index), 1);
        assert_eq!(healed, 1);
    }

    fn word(&self, offset: u64) -> u64 {
        let mut word = [0; 8];
        self.paged.mapping().read(offset, &mut word).unwrap();
        u64::from_le_bytes(word)
    }
}

const SAY_DONE: [u8; 5] = {
    let [low, high] = PORT_DONE.to_le_bytes();
    [0x66, 0xba, low, high, 0xee] // mov dx, PORT_DONE; out dx, al
};

fn code(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn movabs_rdi(address: u64) -> Vec<u8> {
    code(&[&[0x48, 0xbf], &address.to_le_bytes()])
}

/// mov rdi, page 0; mov rax, [rdi+at]; mov [rdi+0x20], rax
fn reading(at: u8) -> Vec<u8> {
    code(&[
        &movabs_rdi(DATA_BASE),
        &[0x48, 0x8b, 0x47, at],
        &[0x48, 0x89, 0x47, 0x20],
        &SAY_DONE,
    ])
}

/// There is no task to blame, so the kernel is told of nothing even where tasks are.
fn read(apf: Option<Arc<Apf>>, on_error: OnError) {
    let mut rig = Rig::new(&reading(0x10), apf, on_error);
    let rip = CODE + 10;
    rig.assert_failed(0, rip, Access::Read);
    // Unhealed, it is the same again.
    rig.assert_failed(0, rip, Access::Read);
    rig.heal(0);
    assert_eq!(rig.vcpu.run().unwrap(), Exit::Out(PORT_DONE));
    assert_eq!(rig.word(0x20), PatternStore::word(SEED, 0x10));
}

fn write(apf: Option<Arc<Apf>>) {
    // mov rdi, page 1; mov dword [rdi+8], 0x12345678
    let code = code(&[
        &movabs_rdi(DATA_BASE + PAGE),
        &[0xc7, 0x47, 0x08, 0x78, 0x56, 0x34, 0x12],
        &SAY_DONE,
    ]);
    let mut rig = Rig::new(&code, apf, OnError::Exit);
    rig.assert_failed(1, CODE + 10, Access::Write);
    rig.heal(1);
    assert_eq!(rig.vcpu.run().unwrap(), Exit::Out(PORT_DONE));
    let before = PatternStore::word(SEED, PAGE + 8);
    let after = before & 0xffff_ffff_0000_0000 | 0x1234_5678;
    assert_eq!(rig.word(PAGE + 8), after);
}

/// KVM's emulator cannot be interrupted where it reads the page: a signal would make it fault on and
/// on. Where ring 0 runs natively it is interrupted once, and waits.
fn slow() {
    slow_at(0x10, false);
    // At a page's first byte it looks like any other fault, and is kicked, but once.
    slow_at(0, false);
    // Refused, it sleeps outside of KVM, and nobody need know what it was.
    for at in [0x10, 0] {
        slow_at(at, true);
    }
}

fn slow_at(at: u8, refuse: bool) {
    let apf = user_apf(OnError::Exit, refuse);
    let plan = FaultPlan::new(SEED, Latency::fixed(Duration::from_millis(100)));
    let mut rig = Rig::with_plan(&reading(at), plan, Some(Arc::clone(&apf)), OnError::Exit);
    assert_eq!(rig.vcpu.run().unwrap(), Exit::Out(PORT_DONE));
    assert_eq!(rig.word(0x20), PatternStore::word(SEED, at.into()));
    let counted = apf.counters();
    assert!(counted["kicks"] <= 1, "{counted:?}");
    assert_eq!(counted["announced"], 0, "{counted:?}");
    let faults = rig.paged.pager().stats().faults;
    // The event of the fault, and those of the instruction made again: not a stream of them, which
    // is what the one kick makes of it (docs/ledger.md).
    assert!(at == 0 || faults < 10, "{faults}: {counted:?}");
    if rig.paged.pager().refuses_absent() {
        assert_eq!((counted["kicks"], faults), (0, 1), "{counted:?}");
    }
}
