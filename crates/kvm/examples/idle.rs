//! What an idle guest costs: `idle sync|async` keeps one in HLT for three seconds.
//!
//! To make every fault synchronous, KVM is kept from halting the vCPU (`DISABLE_EXITS(HLT)`). On
//! some hosts the guest's HLT then occupies the core; look at the process's CPU time.

use std::error::Error;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use surefault_core::{Gpa, VcpuId};
use surefault_kvm::memory::Mapping;
use surefault_kvm::vm::{Faults, Vm};

const IDLE: Duration = Duration::from_secs(3);
/// `hlt; jmp` back to it, in real mode.
const CODE: [u8; 3] = [0xf4, 0xeb, 0xfd];

fn main() -> Result<(), Box<dyn Error>> {
    let faults = match std::env::args().nth(1).as_deref() {
        Some("sync") => Faults::Synchronous,
        Some("async") => Faults::Asynchronous,
        _ => return Err("usage: idle sync|async".into()),
    };
    let memory = Arc::new(Mapping::present(4096)?);
    memory.write(0, &CODE)?;
    let mut vm = Vm::new(faults)?;
    vm.add_slot(Gpa::new(0), memory)?;
    let mut vcpu = vm.create_vcpu(VcpuId::new(0))?;
    let mut sregs = vcpu.get_sregs()?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.get_regs()?;
    regs.rip = 0;
    regs.rflags = 2;
    vcpu.set_regs(&regs)?;

    // The process ends below; nothing else gets this thread out of KVM_RUN.
    let running = thread::spawn(move || vcpu.run().map(|exit| format!("{exit:?}")));
    thread::sleep(IDLE);
    if running.is_finished() {
        let exit = running.join().map_err(|_| "the vCPU's thread panicked")?;
        return Err(format!("the guest was not idle: {exit:?}").into());
    }
    std::process::exit(0)
}
