//! What an idle guest costs: `idle sync|async|user` keeps one in HLT for three seconds.
//!
//! `async`: as KVM is by default. `sync`: to make every fault synchronous, KVM is kept from halting
//! the vCPU (`DISABLE_EXITS(HLT)`). On some hosts the guest's HLT then occupies the core. `user`:
//! every fault is synchronous because the interrupt controllers are not in KVM; HLT exits, and the
//! vCPU's thread sleeps. Prints what the process used of the CPU meanwhile, as a JSON object.

use std::error::Error;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use surefault_core::faults::LinuxApf;
use surefault_core::run::Irqchip;
use surefault_core::{Gpa, VcpuId};
use surefault_kvm::memory::Mapping;
use surefault_kvm::pages::NoPages;
use surefault_kvm::signals;
use surefault_kvm::vcpu::{Exit, Vcpu};
use surefault_kvm::vm::{Faults, Vm};
use surefault_kvm::watch::Watch;

const IDLE: Duration = Duration::from_secs(3);
/// Until the guest is in HLT.
const SETTLED: Duration = Duration::from_millis(500);
/// `sti; hlt; jmp` back to the hlt, in real mode.
const CODE: [u8; 4] = [0xfb, 0xf4, 0xeb, 0xfd];

/// What this process has used of the CPU.
fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Ok(Duration::new(
        time.tv_sec.try_into()?,
        time.tv_nsec.try_into()?,
    ))
}

fn main() -> Result<(), Box<dyn Error>> {
    let (faults, irqchip) = match std::env::args().nth(1).as_deref() {
        Some("sync") => (Faults::Synchronous, Irqchip::Kernel),
        Some("async") => (Faults::Asynchronous, Irqchip::Kernel),
        Some("user") => (Faults::Synchronous, Irqchip::User),
        _ => return Err("usage: idle sync|async|user".into()),
    };
    let memory = Arc::new(Mapping::present(4096)?);
    memory.write(0, &CODE)?;
    let mut vm = Vm::new(faults, irqchip)?;
    vm.add_slot(Gpa::new(0), memory)?;
    let watch = Arc::new(Watch::new(1, LinuxApf::Off)?);
    let signals = signals::install()?;
    let mut vcpu = Vcpu::new(&vm, VcpuId::new(0), Arc::new(NoPages), watch, signals)?;
    let mut sregs = vcpu.fd().get_sregs()?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    vcpu.fd().set_sregs(&sregs)?;
    let mut regs = vcpu.fd().get_regs()?;
    regs.rip = 0;
    regs.rflags = 2;
    vcpu.fd().set_regs(&regs)?;

    let kicker = vcpu.kicker();
    let running = thread::spawn(move || vcpu.run());
    thread::sleep(SETTLED);
    let (begun, used) = (Instant::now(), cpu_time()?);
    thread::sleep(IDLE);
    let (idle, used) = (begun.elapsed(), cpu_time()? - used);
    kicker.kick();
    match running.join().map_err(|_| "the vCPU's thread panicked")?? {
        Exit::Kicked => {
            let [idle, used] = [idle, used].map(|time| time.as_nanos());
            println!("{{\"idle_ns\": {idle}, \"cpu_ns\": {used}}}");
            Ok(())
        }
        exit => Err(format!("the guest was not idle: {exit:?}").into()),
    }
}
