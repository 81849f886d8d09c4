//! What a synchronous fault of a real guest costs with the pager, beside a bare userfaultfd loop
//! (poll, read one event, one COPY from memory) that serves the same guest.
//!
//! The two take turns within one process, so that both meet the same noise; what is compared is the
//! median of the ratios of neighbours. Not run by criterion, which measures one after the other.
#![expect(unsafe_code, reason = "registers memory for the bare loop")]

use core::num::NonZeroU32;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use surefault_core::run::{Irqchip, OnError, Outcome};
use surefault_core::workload::Workload;
use surefault_core::{PageCount, PageSize};
use surefault_guest::Idle;
use surefault_kvm::linux_alone::LinuxAlone;
use surefault_kvm::machine::{Machine, MachineSpec};
use surefault_kvm::memory::Mapping;
use surefault_kvm::pages::{PageSource, Paged};
use surefault_kvm::runner::{Limits, drive};
use surefault_kvm::signals;
use surefault_kvm::vm::Faults;
use surefault_pager::PagerConfig;
use surefault_store::{PatternStore, ReadRequest, Store, StoreError};
use surefault_uffd::{
    Address, Event, EventBuffer, Options, PageRange, Read, RegisterMode, Userfaultfd, Wake,
};

const PAGES: u64 = 4096;
const ROUNDS: usize = 15;
const PAGE: u64 = PageSize::KIB_4.bytes();
const LEN: u64 = PAGES * PAGE;

/// A source in memory, so that neither side waits for one.
struct InMemory(Vec<u8>);

impl Store for InMemory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }

    fn read(&self, request: ReadRequest, buf: &mut [u8]) -> Result<(), StoreError> {
        buf.copy_from_slice(&self.0[request.offset as usize..][..buf.len()]);
        Ok(())
    }

    fn read_now(&self, request: ReadRequest, buf: &mut [u8]) -> Option<Result<(), StoreError>> {
        Some(self.read(request, buf))
    }
}

fn main() {
    let mut contents = vec![0; LEN as usize];
    PatternStore::new(1, LEN)
        .read(ReadRequest::first(0), &mut contents)
        .expect("the whole pattern");
    let source = Arc::new(InMemory(contents));

    let mut rounds: Vec<(f64, f64)> = (0..ROUNDS)
        .map(|round| match round % 2 {
            0 => {
                let bare = bare(&source);
                (bare, paged(&source))
            }
            _ => {
                let paged = paged(&source);
                (bare(&source), paged)
            }
        })
        .collect();
    let spread = |name, mut figures: Vec<f64>| {
        figures.sort_unstable_by(f64::total_cmp);
        let (first, last) = (figures[0], figures[ROUNDS - 1]);
        println!(
            "{name}: median {:.2}, {first:.2} to {last:.2}",
            figures[ROUNDS / 2]
        );
    };
    println!("{PAGES} faults, {ROUNDS} rounds each; µs a page, the guest's own work included");
    spread("bare loop", rounds.iter().map(|round| round.0).collect());
    spread("pager    ", rounds.iter().map(|round| round.1).collect());
    rounds.sort_unstable_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
    spread(
        "ratio    ",
        rounds.iter().map(|(bare, paged)| paged / bare).collect(),
    );
}

fn paged(source: &Arc<InMemory>) -> f64 {
    let data = Arc::new(Mapping::on_demand(LEN as usize).expect("memory"));
    let config = PagerConfig::default();
    let paged = Paged::start(data.clone(), PageSize::KIB_4, source.clone(), &config, None);
    let pages: Arc<dyn PageSource> = Arc::new(paged.expect("a pager"));
    guest(data, &pages, source)
}

fn bare(source: &Arc<InMemory>) -> f64 {
    let data = Arc::new(Mapping::on_demand(LEN as usize).expect("memory"));
    let uffd = Userfaultfd::create(Options::default()).expect("a userfaultfd");
    let range = PageRange::new(Address::new(data.hva().get()), LEN, PAGE).expect("whole pages");
    // SAFETY: a private mapping that nobody has references into.
    unsafe { uffd.register(range, RegisterMode::MISSING) }.expect("registered");
    let pages: Arc<dyn PageSource> = Arc::new(LinuxAlone::over(data.clone(), PageSize::KIB_4));
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| serve(&uffd, range.start(), source, &ended));
        let time = guest(data.clone(), &pages, source);
        ended.store(true, Ordering::Relaxed);
        time
    })
}

/// The loop that everything is held to.
fn serve(uffd: &Userfaultfd, start: Address, source: &InMemory, ended: &AtomicBool) {
    let mut buffer = EventBuffer::with_capacity(1);
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: 50_000_000,
    };
    while !ended.load(Ordering::Relaxed) {
        let mut fds = [PollFd::from_borrowed_fd(uffd.as_fd(), PollFlags::IN)];
        poll(&mut fds, Some(&timeout)).expect("polling");
        let Read::Events(events) = uffd.read(&mut buffer).expect("reading") else {
            continue;
        };
        for event in events {
            let Event::Pagefault(fault) = event else {
                continue;
            };
            let offset = (fault.address.get() - start.get()) & !(PAGE - 1);
            let page = Address::new(start.get() + offset);
            let range = PageRange::new(page, PAGE, PAGE).expect("a page");
            let bytes = &source.0[offset as usize..][..PAGE as usize];
            let copied = uffd.copy(range, bytes, Wake::Now).expect("copying");
            assert_eq!(copied, surefault_uffd::Outcome::Done);
        }
    }
}

/// Runs one task over all pages: µs a page.
fn guest(data: Arc<Mapping>, pages: &Arc<dyn PageSource>, source: &InMemory) -> f64 {
    let spec = MachineSpec {
        vcpus: 1,
        workload: Arc::new(Workload::partition(PageCount::new(PAGES), 1, 1)),
        page_size: PageSize::KIB_4,
        yield_every: NonZeroU32::MAX,
        idle: Idle::Count,
        faults: Faults::Synchronous,
        irqchip: Irqchip::Kernel,
        apf: None,
        on_error: OnError::Exit,
        vendor: None,
    };
    let signals = signals::install().expect("signal handlers");
    let (machine, vcpus) = Machine::new(&spec, data, pages, signals).expect("a machine");
    let limits = Limits {
        timeout: Duration::from_secs(60),
        patience: Duration::from_secs(10),
    };
    let nothing = |_| Ok(());
    let result = drive(&machine, vcpus, &**pages, source, &nothing, limits, &mut ());
    let result = result.expect("a run");
    assert_eq!(result.outcome, Outcome::Finished);
    assert_eq!(result.stats.wrong_sums, 0);
    result.stats.elapsed.as_secs_f64() * 1e6 / PAGES as f64
}
