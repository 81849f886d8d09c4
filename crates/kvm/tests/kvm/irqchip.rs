//! Interrupt controllers in user space: every fault is synchronous with interrupts on, HLT sleeps in
//! the vCPU's thread, and interrupts come when the guest can take them.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use surefault_core::faults::LinuxApf;
use surefault_core::plan::FaultPlan;
use surefault_core::run::{ApfMode, Irqchip, Outcome, RunSpec};
use surefault_core::workload::Workload;
use surefault_core::{Gpa, VcpuId};
use surefault_guest::Idle;
use surefault_kvm::memory::Mapping;
use surefault_kvm::pages::NoPages;
use surefault_kvm::runner::{RunError, run};
use surefault_kvm::signals;
use surefault_kvm::vcpu::{Exit, Vcpu};
use surefault_kvm::vm::{Faults, Vm, VmError};
use surefault_kvm::watch::Watch;

use crate::Case;
use crate::rig::{Healer, assert_finished, assert_sums, failing, go, pattern, spec};
use crate::stage::{Choices, Stage};

pub(crate) const CASES: &[Case] = &[
    ("reports_are_the_same_with_either_irqchip", same),
    (
        "healed_pages_let_the_guest_go_on_with_a_user_irqchip",
        healed,
    ),
    (
        "an_interrupt_wakes_a_halted_vcpu_and_a_kick_does_not",
        halted,
    ),
    ("interrupts_wait_for_the_guest_to_let_them_in", masked),
    ("no_interrupt_is_lost_to_signals", many),
    ("linux_apf_wants_the_kernels_irqchip", refused),
    (
        "asynchronous_faults_from_user_space_need_no_irqchip_in_kvm",
        from_user_space,
    ),
    ("a_halted_vcpu_wakes_up_for_a_page", halts),
];

fn with_user_irqchip(spec: RunSpec) -> RunSpec {
    RunSpec {
        irqchip: Irqchip::User,
        ..spec
    }
}

fn same() {
    for (fail, vcpus) in [("5", 1), ("31:truncate", 1), ("0,9:temporary=9", 2)] {
        let spec = failing(spec(32, vcpus, vcpus), fail);
        let kernel = go(&spec, &mut ());
        let user = with_user_irqchip(spec);
        let told = RunSpec {
            apf: ApfMode::User,
            ..user.clone()
        };
        for spec in [user, told] {
            let user = go(&spec, &mut ());
            assert_eq!(user.outcome, Outcome::Reported);
            assert_sums(&user);
            if vcpus == 1 {
                assert_eq!(user.report, kernel.report);
            }
        }
    }
}

fn healed() {
    for (tasks, vcpus) in [(1, 1), (8, 2)] {
        let spec = with_user_irqchip(failing(spec(128, tasks, vcpus), "p=0.2"));
        let mut healer = Healer::default();
        let result = go(&spec, &mut healer);
        assert_finished(&result, &spec);
        assert_eq!(result.stats.healed, healer.reports.len() as u64);
    }
}

/// Where a vector's handler is, in real mode.
const HANDLER: u16 = 0x500;
const CODE: u16 = 0x400;
const STACK: u16 = 0x1000;
const VECTOR: u8 = 0x21;
/// Where the handler counts.
const COUNT: u64 = 0x600;

/// A vCPU in real mode, with `code` to run and a handler that counts interrupts, says so through
/// port 1, and returns.
struct Rig {
    _vm: Vm,
    vcpu: Vcpu,
    memory: Arc<Mapping>,
}

impl Rig {
    fn new(code: &[u8]) -> Rig {
        let memory = Arc::new(Mapping::present(4096).unwrap());
        let handler = [HANDLER.to_le_bytes(), [0, 0]].concat();
        memory.write(u64::from(VECTOR) * 4, &handler).unwrap();
        memory.write(CODE.into(), code).unwrap();
        // inc word [COUNT]; out 1, al; iret
        let handler = [0xff, 0x06, 0x00, 0x06, 0xe6, 0x01, 0xcf];
        memory.write(HANDLER.into(), &handler).unwrap();
        let mut vm = Vm::new(Faults::Synchronous, Irqchip::User).unwrap();
        vm.add_slot(Gpa::new(0), memory.clone()).unwrap();
        let watch = Arc::new(Watch::new(1, LinuxApf::Off).unwrap());
        let signals = signals::install().unwrap();
        let vcpu = Vcpu::new(&vm, VcpuId::new(0), Arc::new(NoPages), watch, signals).unwrap();
        let mut sregs = vcpu.fd().get_sregs().unwrap();
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        vcpu.fd().set_sregs(&sregs).unwrap();
        let mut regs = vcpu.fd().get_regs().unwrap();
        (regs.rip, regs.rsp, regs.rflags) = (CODE.into(), STACK.into(), 2);
        vcpu.fd().set_regs(&regs).unwrap();
        Rig {
            _vm: vm,
            vcpu,
            memory,
        }
    }

    fn count(&self) -> u16 {
        let mut count = [0; 2];
        self.memory.read(COUNT, &mut count).unwrap();
        u16::from_le_bytes(count)
    }
}

fn halted() {
    // sti; hlt; out 2, al; jmp back to the hlt
    let mut rig = Rig::new(&[0xfb, 0xf4, 0xe6, 0x02, 0xeb, 0xfb]);
    let (interrupts, kicker) = (rig.vcpu.interrupts().unwrap(), rig.vcpu.kicker());
    for round in 1..=3 {
        // Kicked out of its sleep the vCPU is still halted when it is run again.
        for _ in 0..2 {
            let kicker = Arc::clone(&kicker);
            let later = thread::spawn(move || {
                thread::sleep(Duration::from_millis(20));
                kicker.kick();
            });
            assert_eq!(rig.vcpu.run().unwrap(), Exit::Kicked);
            later.join().unwrap();
        }
        let interrupts = Arc::clone(&interrupts);
        let later = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            interrupts.raise(VECTOR);
        });
        assert_eq!(rig.vcpu.run().unwrap(), Exit::Out(1));
        later.join().unwrap();
        assert_eq!(rig.vcpu.run().unwrap(), Exit::Out(2));
        assert_eq!(rig.count(), round);
    }
}

fn masked() {
    // cli; out 2, al; out 3, al; sti; nop; jmp to itself
    let code = [0xfa, 0xe6, 0x02, 0xe6, 0x03, 0xfb, 0x90, 0xeb, 0xfe];
    let mut rig = Rig::new(&code);
    let interrupts = rig.vcpu.interrupts().unwrap();
    assert_eq!(rig.vcpu.run().unwrap(), Exit::Out(2));
    interrupts.raise(VECTOR);
    interrupts.raise(VECTOR);
    assert_eq!(rig.vcpu.run().unwrap(), Exit::Out(3));
    assert_eq!(rig.count(), 0);
    assert_eq!(rig.vcpu.run().unwrap(), Exit::Out(1));
    assert_eq!(rig.count(), 1);
}

/// Each interrupt is raised when the one before has been taken, while somebody else keeps bringing
/// the vCPU out of the guest at any moment.
fn many() {
    const INTERRUPTS: u16 = 300;
    // sti; hlt; jmp back to the hlt
    let mut rig = Rig::new(&[0xfb, 0xf4, 0xeb, 0xfd]);
    let (interrupts, kicker) = (rig.vcpu.interrupts().unwrap(), rig.vcpu.kicker());
    let begun = Instant::now();
    let deadline = Duration::from_secs(60);
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let disturber = thread::spawn(move || {
        let pause = Duration::from_micros(300);
        while ended.recv_timeout(pause) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            kicker.kick();
        }
    });
    interrupts.raise(VECTOR);
    while rig.count() < INTERRUPTS {
        assert!(begun.elapsed() < deadline, "{} interrupts", rig.count());
        match rig.vcpu.run().unwrap() {
            Exit::Kicked => {}
            Exit::Out(1) => interrupts.raise(VECTOR),
            exit => panic!("{exit:?}"),
        }
    }
    drop(done);
    disturber.join().unwrap();
    assert_eq!(rig.count(), INTERRUPTS);
}

fn refused() {
    let spec = RunSpec {
        apf: ApfMode::Kernel,
        ..with_user_irqchip(spec(8, 1, 1))
    };
    let signals = signals::install().unwrap();
    let error = run(&spec, pattern(&spec), signals, &mut ()).unwrap_err();
    let RunError::Machine(surefault_kvm::machine::MachineError::Vm(error)) = error else {
        panic!("{error:?}");
    };
    assert!(matches!(error, VmError::NoKernelIrqchip), "{error:?}");
    assert!(error.remedy().unwrap().contains("--irqchip kernel"));
}

/// Tasks that wait for pages of all sorts of latencies, on vCPUs that count or halt meanwhile.
fn slow(vcpus: u16, irqchip: Irqchip) -> RunSpec {
    let latency = "50us..2ms".parse().unwrap();
    RunSpec {
        apf: ApfMode::User,
        irqchip,
        plan: FaultPlan::new(7, latency),
        ..spec(256, 8, vcpus)
    }
}

fn from_user_space() {
    for vcpus in [1, 2] {
        let spec = slow(vcpus, Irqchip::User);
        let result = go(&spec, &mut ());
        assert_finished(&result, &spec);
        let counted = &result.stats.apf;
        assert!(counted["announced"] > 0, "{counted:?}");
        // Each is brought in by the vCPU's own thread.
        assert_eq!(counted["readies_from_outside"], 0, "{counted:?}");
        assert_eq!(result.stats.tokens_left, 0);
    }
}

/// A vCPU with nothing to run is in HLT: in KVM, or asleep in its thread.
fn halts() {
    for irqchip in [Irqchip::Kernel, Irqchip::User] {
        for vcpus in [1, 2] {
            let spec = slow(vcpus, irqchip);
            let workload = Workload::partition(spec.pages, spec.tasks, spec.seed);
            let choices = Choices {
                idle: Idle::Halt,
                ..Choices::default()
            };
            let (stage, vcpus) = Stage::new(&spec, workload, choices);
            let result = stage.run(vcpus, &mut ());
            assert_finished(&result, &spec);
            assert!(result.stats.apf["announced"] > 0, "{:?}", result.stats.apf);
            assert_eq!(result.stats.tokens_left, 0);
            // Nobody counted.
            assert_eq!(result.stats.progress, 0);
        }
    }
}
