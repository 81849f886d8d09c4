//! What vCPUs cost that have nothing to run because all of their tasks wait for pages: `waiting` plays
//! 8 tasks on 16 pages that take a second each, on vCPUs that halt when no task can run, in every mode,
//! on one vCPU and on two, with the interrupt controllers in KVM and not, and prints the CPU time of
//! the vCPUs' threads.

use std::error::Error;
use std::fs;
use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use surefault_core::plan::{FaultPlan, Latency};
use surefault_core::policy::PolicyKind;
use surefault_core::run::{ApfMode, Irqchip, OnError, Outcome};
use surefault_core::workload::Workload;
use surefault_core::{PageCount, PageSize};
use surefault_guest::Idle;
use surefault_kvm::apf::{Apf, ApfSpec};
use surefault_kvm::machine::{Machine, MachineSpec};
use surefault_kvm::memory::Mapping;
use surefault_kvm::pages::{PageSource, Paged};
use surefault_kvm::runner::{Limits, Observer, Progress, drive};
use surefault_kvm::signals;
use surefault_kvm::vm::Faults;
use surefault_pager::{FaultObserver, PagerConfig};
use surefault_store::{PatternStore, PlannedStore};

const TASKS: u16 = 8;
const PAGES: u64 = 16;
const LATENCY: Duration = Duration::from_secs(1);
const SEED: u64 = 1;

/// Looks at the clocks of the vCPUs' threads.
#[derive(Default)]
struct Clocks {
    used: Duration,
}

impl Observer for Clocks {
    fn progress(&mut self, _: &Progress) -> ControlFlow<()> {
        // At the end the threads are gone.
        self.used = self.used.max(vcpu_time().unwrap_or_default());
        ControlFlow::Continue(())
    }
}

/// CPU time of this process's threads that run vCPUs.
fn vcpu_time() -> std::io::Result<Duration> {
    let mut used = 0;
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.starts_with("vcpu-") {
            // Nanoseconds on a CPU, nanoseconds in wait for one, time slices.
            let stat = fs::read_to_string(task.join("schedstat"))?;
            let first = stat.split_whitespace().next();
            used += first.and_then(|word| word.parse().ok()).unwrap_or(0);
        }
    }
    Ok(Duration::from_nanos(used))
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("mode    irqchip  vCPUs  seconds  CPU time of vCPU threads, ms");
    for (name, apf, irqchip) in [
        ("off", ApfMode::Off, Irqchip::Kernel),
        ("off", ApfMode::Off, Irqchip::User),
        ("kernel", ApfMode::Kernel, Irqchip::Kernel),
        ("user", ApfMode::User, Irqchip::Kernel),
        ("user", ApfMode::User, Irqchip::User),
    ] {
        let chip = match irqchip {
            Irqchip::Kernel => "kernel",
            Irqchip::User => "user",
        };
        for vcpus in [1, 2] {
            let (elapsed, used) = run(apf, irqchip, vcpus)?;
            println!(
                "{name:<7} {chip:<7} {vcpus:>6} {:>8.1} {:>10.1}",
                elapsed.as_secs_f64(),
                used.as_secs_f64() * 1e3
            );
        }
    }
    Ok(())
}

fn run(
    mode: ApfMode,
    irqchip: Irqchip,
    vcpus: u16,
) -> Result<(Duration, Duration), Box<dyn Error>> {
    let page_size = PageSize::KIB_4;
    let bytes = PAGES * page_size.bytes();
    let apf = match mode {
        ApfMode::Off | ApfMode::Kernel => None,
        ApfMode::User => Some(Arc::new(Apf::new(ApfSpec::new(vcpus, PolicyKind::Exact))?)),
    };
    let source = PatternStore::new(SEED, bytes);
    let plan = FaultPlan::new(SEED, Latency::fixed(LATENCY));
    let store = Arc::new(PlannedStore::new(
        PatternStore::new(SEED, bytes),
        plan,
        page_size,
    ));
    let data = Arc::new(Mapping::on_demand(usize::try_from(bytes)?)?);
    let paged = Arc::new(Paged::start(
        Arc::clone(&data),
        page_size,
        store,
        &PagerConfig::default(),
        apf.clone().map(|apf| -> Arc<dyn FaultObserver> { apf }),
    )?);
    let pages: Arc<dyn PageSource> = paged.clone();
    let spec = MachineSpec {
        vcpus,
        workload: Arc::new(Workload::partition(PageCount::new(PAGES), TASKS, SEED)),
        page_size,
        yield_every: NonZeroU32::MIN,
        idle: Idle::Halt,
        faults: match mode {
            ApfMode::Off => Faults::Synchronous,
            ApfMode::Kernel => Faults::Asynchronous,
            ApfMode::User => Faults::FromUserSpace { error_word: false },
        },
        irqchip,
        apf,
        on_error: OnError::Exit,
        vendor: None,
    };
    let (machine, threads) = Machine::new(&spec, data, &pages, signals::install()?)?;
    let limits = Limits {
        timeout: Duration::from_secs(60),
        patience: Duration::from_secs(60),
    };
    let mut clocks = Clocks::default();
    let heal = |_| Ok(());
    let result = drive(
        &machine,
        threads,
        &*pages,
        &source,
        &heal,
        limits,
        &mut clocks,
    )?;
    // Whoever provides the pages ends before the machine.
    drop(pages);
    drop(paged);
    if result.outcome != Outcome::Finished || result.stats.wrong_sums != 0 {
        return Err(format!("{mode:?}: {result:?}").into());
    }
    Ok((result.stats.elapsed, clocks.used))
}
