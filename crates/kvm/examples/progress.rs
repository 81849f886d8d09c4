//! What asynchronous faults are good for: how far a task that does not fault gets meanwhile.
//!
//! `progress tasks` plays 8 tasks on 2048 pages that take 1 ms each, in every mode, on one vCPU and
//! on two, the modes taking turns, and prints medians. `user` is refused pages that nobody has asked
//! for yet; `blocked` waits in a fault until it is kicked. `progress patience` does the same for
//! latencies from 20 µs to 5 ms, with guests that are told of every page at once (`always`), of none
//! (`never`), and by the rule (`usual`), and of either kind. Words after that leave only what they
//! name: numbers of vCPUs, or latencies in µs; and ways.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use surefault_core::plan::{FaultPlan, Latency};
use surefault_core::policy::PolicyKind;
use surefault_core::run::{ApfMode, Irqchip, OnError, Outcome, PagerMode, RunSpec};
use surefault_core::workload::Workload;
use surefault_core::{PageCount, PageSize};
use surefault_kvm::apf::{Apf, ApfSpec, Patience};
use surefault_kvm::runner::run_with_apf;
use surefault_kvm::signals;
use surefault_store::PatternStore;

const TASKS: u16 = 8;
const ROUNDS: u64 = 5;

/// One way to run.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    apf: ApfMode,
    patience: Patience,
    /// First accesses are refused instead of waiting.
    refuse: bool,
}

/// What came of it.
#[derive(Clone, Copy)]
struct Figures {
    /// µs a page.
    wall: f64,
    /// Million iterations of the counting tasks a second.
    pace: f64,
    /// Million iterations over the whole run.
    progress: f64,
    /// CPU time of the process, µs a page.
    cpu: f64,
    /// Kicks and announcements, a page.
    kicks: f64,
    announced: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let patient = Patience::new(Duration::from_millis(100), Duration::from_secs(100));
    let way = |name, apf, patience| Way {
        name,
        apf,
        patience,
        refuse: true,
    };
    let blocked = |name, patience| Way {
        refuse: false,
        ..way(name, ApfMode::User, patience)
    };
    let mut words = std::env::args().skip(1);
    let what = words.next();
    let (numbers, names): (Vec<String>, Vec<String>) =
        words.partition(|word| word.parse::<u64>().is_ok());
    let numbers: Vec<u64> = numbers.iter().flat_map(|word| word.parse()).collect();
    let chosen = |all: &[u64]| match numbers.is_empty() {
        true => all.to_vec(),
        false => numbers.clone(),
    };
    let named = |mut ways: Vec<Way>| {
        ways.retain(|way| names.is_empty() || names.iter().any(|name| name == way.name));
        ways
    };
    match what.as_deref() {
        Some("tasks") => {
            let ways = named(vec![
                way("off", ApfMode::Off, Patience::default()),
                way("kernel", ApfMode::Kernel, Patience::default()),
                way("user", ApfMode::User, Patience::default()),
                blocked("blocked", Patience::default()),
            ]);
            for vcpus in chosen(&[1, 2]) {
                let latency = Duration::from_millis(1);
                println!("{vcpus} vCPUs, {TASKS} tasks, 2048 pages of 1 ms; medians of {ROUNDS}");
                compare(&ways, vcpus.try_into()?, 2048, latency)?;
            }
        }
        Some("patience") => {
            let ways = named(vec![
                way("always", ApfMode::User, Patience::NONE),
                way("never", ApfMode::User, patient),
                way("usual", ApfMode::User, Patience::default()),
                blocked("always-blocked", Patience::NONE),
                blocked("never-blocked", patient),
                blocked("usual-blocked", Patience::default()),
            ]);
            for micros in chosen(&[20, 50, 100, 200, 500, 1000, 5000]) {
                println!("1 vCPU, {TASKS} tasks, 512 pages of {micros} µs; medians of {ROUNDS}");
                compare(&ways, 1, 512, Duration::from_micros(micros))?;
            }
        }
        Some(_) | None => {
            return Err("usage: progress tasks|patience [NUMBER...] [WAY...]".into());
        }
    }
    Ok(())
}

fn compare(ways: &[Way], vcpus: u16, pages: u64, latency: Duration) -> Result<(), Box<dyn Error>> {
    let mut seen: BTreeMap<usize, Vec<Figures>> = BTreeMap::new();
    for round in 0..ROUNDS {
        for n in 0..ways.len() {
            // Each goes first as often as another.
            let n = (n + round as usize) % ways.len();
            let figures = run(&ways[n], vcpus, pages, latency, round)?;
            seen.entry(n).or_default().push(figures);
        }
    }
    let limit = latency.as_secs_f64() * 1e6 / f64::from(TASKS);
    println!("  limit (latency / tasks): {limit:.0} µs a page");
    println!(
        "                  µs/page (spread)   M iterations/s (spread)   M in all  CPU µs/page  kicks  told"
    );
    for (n, of) in seen {
        let median = |field: fn(&Figures) -> f64| {
            let mut values: Vec<f64> = of.iter().map(field).collect();
            values.sort_unstable_by(f64::total_cmp);
            (
                values[values.len() / 2],
                values[0],
                values[values.len() - 1],
            )
        };
        let (wall, pace) = (median(|f| f.wall), median(|f| f.pace));
        println!(
            "  {:<14} {:>7.0} ({:.0}-{:.0})  {:>10.0} ({:.0}-{:.0})  {:>8.0}  {:>8.0}  {:>8.2}  {:>5.2}",
            ways[n].name,
            wall.0,
            wall.1,
            wall.2,
            pace.0,
            pace.1,
            pace.2,
            median(|f| f.progress).0,
            median(|f| f.cpu).0,
            median(|f| f.kicks).0,
            median(|f| f.announced).0,
        );
    }
    Ok(())
}

fn run(
    way: &Way,
    vcpus: u16,
    pages: u64,
    latency: Duration,
    seed: u64,
) -> Result<Figures, Box<dyn Error>> {
    let spec = RunSpec {
        tasks: TASKS,
        vcpus,
        pages: PageCount::new(pages),
        seed,
        plan: FaultPlan::new(seed, Latency::fixed(latency)),
        deadline: Duration::from_secs(30),
        attempts: 3,
        timeout: Duration::from_secs(120),
        pager: PagerMode::Surefault,
        apf: way.apf,
        irqchip: Irqchip::Kernel,
        on_error: OnError::Exit,
        policy: PolicyKind::Exact,
    };
    let apf = match way.apf {
        ApfMode::Off | ApfMode::Kernel => None,
        ApfMode::User => Some(Arc::new(Apf::new(ApfSpec {
            patience: way.patience,
            refuse_absent: way.refuse,
            ..ApfSpec::new(vcpus, PolicyKind::Exact)
        })?)),
    };
    let workload = Workload::partition(spec.pages, TASKS, seed);
    let source = Arc::new(PatternStore::new(seed, pages * PageSize::KIB_4.bytes()));
    let threads = threads()?;
    let before = cpu_time();
    let result = run_with_apf(&spec, workload, apf, source, signals::install()?, &mut ())?;
    let cpu = cpu_time() - before;
    if result.outcome != Outcome::Finished || result.stats.wrong_sums != 0 {
        return Err(format!("{}: {result:?}", way.name).into());
    }
    if self::threads()? != threads || result.stats.tokens_left != 0 {
        return Err(format!("{}: something is left: {result:?}", way.name).into());
    }
    let per_page = |value: f64| value / pages as f64;
    let count = |name| result.stats.apf.get(name).map_or(0.0, |&n| n as f64);
    let seconds = result.stats.elapsed.as_secs_f64();
    let progress = result.stats.progress as f64 / 1e6;
    Ok(Figures {
        wall: per_page(seconds * 1e6),
        pace: progress / seconds,
        progress,
        cpu: per_page(cpu * 1e6),
        kicks: per_page(count("kicks")),
        announced: per_page(count("announced")),
    })
}

fn cpu_time() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Threads of this process.
fn threads() -> std::io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}
