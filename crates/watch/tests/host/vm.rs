//! A small virtual machine whose one task reads pages, in a process of its own.
//!
//! The guest runs at CPL 3 in long mode, with interrupts on and an interrupt controller in the
//! kernel: that is when KVM faults asynchronously. It reads one word of each page of its data
//! region, says so by `out`, and starts again.

use std::process;
use std::thread;
use std::time::Duration;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use crate::memory::Mapping;

/// Where the data region lies in the guest's memory.
pub(crate) const DATA: u64 = 0x20_0000;
/// Page tables, code.
const SYSTEM_LEN: usize = 0x1_0000;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const CODE: u64 = 0x8000;

/// `start: mov rsi, rdx; mov rcx, rbx; page: mov rax, [rsi]; add rsi, 4096; dec rcx; jnz page;
/// out 0x10, al; jmp start`
const PROGRAM: &[u8] = &[
    0x48, 0x89, 0xd6, 0x48, 0x89, 0xd9, 0x48, 0x8b, 0x06, 0x48, 0x81, 0xc6, 0x00, 0x10, 0x00, 0x00,
    0x48, 0xff, 0xc9, 0x75, 0xf1, 0xe6, 0x10, 0xeb, 0xe7,
];

/// The guest, ready to run.
pub(crate) struct Vm {
    vcpu: VcpuFd,
    _vm: VmFd,
    _system: Mapping,
}

impl Vm {
    /// A machine that reads the `pages` pages of `data`.
    pub(crate) fn new(data: &Mapping, pages: u64) -> Vm {
        let kvm = Kvm::new().expect("open /dev/kvm");
        let vm = kvm.create_vm().expect("create VM");
        vm.create_irq_chip().expect("create irqchip");
        let system = Mapping::anonymous(SYSTEM_LEN);
        for table in [PML4, PDPT] {
            system.write(table, &((table + 0x1000) | 7).to_le_bytes());
        }
        for large in 0..512_u64 {
            // Present, writable, user, large.
            let entry = large << 21 | 0x87;
            system.write(PD + 8 * large, &entry.to_le_bytes());
        }
        system.write(CODE, PROGRAM);
        add_slot(&vm, 0, 0, &system);
        add_slot(&vm, 1, DATA, data);
        let vcpu = vm.create_vcpu(0).expect("create vCPU");
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .expect("supported CPUID");
        vcpu.set_cpuid2(&cpuid).expect("set CPUID");
        start_at_ring_3(&vcpu, pages);
        Vm {
            vcpu,
            _vm: vm,
            _system: system,
        }
    }

    /// Runs the guest; `after_pass` is called each time it has read all pages. Ends when the
    /// process does.
    pub(crate) fn run(mut self, mut after_pass: impl FnMut()) {
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::IoOut(..)) => after_pass(),
                Ok(exit) => panic!("unexpected exit {exit:?}"),
                Err(errno) if errno.errno() == libc::EINTR => {}
                Err(errno) => {
                    println!("KVM_RUN: {errno}");
                    return;
                }
            }
        }
    }
}

/// Ends this process after `limit`, whatever its threads are doing, and with its parent.
pub(crate) fn limit_life(limit: Duration) {
    let kill = rustix::process::Signal::KILL;
    rustix::process::set_parent_process_death_signal(Some(kill)).expect("end with the parent");
    thread::spawn(move || {
        thread::sleep(limit);
        process::exit(9);
    });
}

fn add_slot(vm: &VmFd, slot: u32, gpa: u64, memory: &Mapping) {
    let region = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: gpa,
        memory_size: memory.len() as u64,
        userspace_addr: memory.address(),
    };
    // SAFETY: the mapping lives as long as the machine: until the process ends.
    unsafe { vm.set_user_memory_region(region) }.expect("add memory slot");
}

fn start_at_ring_3(vcpu: &VcpuFd, pages: u64) {
    let mut sregs = vcpu.get_sregs().expect("sregs");
    let code = kvm_segment {
        limit: 0xffff_ffff,
        selector: 0x1b,
        type_: 11,
        present: 1,
        dpl: 3,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment {
        selector: 0x23,
        type_: 3,
        l: 0,
        db: 1,
        ..code
    };
    sregs.cs = code;
    (sregs.ss, sregs.ds, sregs.es) = (data, data, data);
    (sregs.fs, sregs.gs) = (data, data);
    sregs.cr0 = 0x8000_0033;
    sregs.cr3 = PML4;
    sregs.cr4 = 0x620;
    sregs.efer = 0xd00;
    vcpu.set_sregs(&sregs).expect("set sregs");
    let regs = kvm_regs {
        rip: CODE,
        // Interrupts on, I/O allowed at ring 3.
        rflags: 0x3202,
        rdx: DATA,
        rbx: pages,
        ..Default::default()
    };
    vcpu.set_regs(&regs).expect("set regs");
}
