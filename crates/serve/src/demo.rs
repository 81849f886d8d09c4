//! A client that plays the VMM's part, for trying and testing: memory of its own, registered and
//! handed over as Firecracker does it, threads as vCPUs, and every byte of every page checked.

mod check;
mod memory;

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use surefault_core::PageSize;
use surefault_pager::Latencies;
use surefault_uffd::{CreateError, Features, KernelFaults, OperationError, Options, Userfaultfd};
use thiserror::Error;

use self::check::{Check, Checker};
use self::memory::Memory;
use crate::handshake::{SendError, WireRegion, send};

/// A VMM to be played.
#[derive(Clone, Debug)]
pub struct Demo {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// Pages of memory.
    pub pages: u64,
    /// The size of a page: the host's, or that of huge pages.
    pub page_size: PageSize,
    /// Regions that the memory is told of in, in equal parts; the first is the last in the source.
    pub regions: u64,
    /// Threads, each of which reads all pages.
    pub vcpus: usize,
    /// What the pages must contain.
    pub expect: Expect,
    /// Pages that a balloon gives back meanwhile.
    pub balloon: u64,
}

/// What the pages of a source contain.
#[derive(Clone, Debug)]
pub enum Expect {
    /// Nobody knows.
    Anything,
    /// The same as this file.
    File(PathBuf),
    /// The pattern of this seed.
    Pattern(u64),
}

/// What was seen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DemoReport {
    /// Pages of memory.
    pub pages: u64,
    /// Visits to pages that were as they must be.
    pub right: u64,
    /// Visits to pages that were not.
    pub wrong: u64,
    /// Where the first of them was, in bytes of the source.
    pub first_wrong: Option<u64>,
    /// Pages that could not be read (SIGBUS), by their place in the source, in order.
    pub failed: Vec<u64>,
    /// Pages that the balloon gave back.
    pub given_back: u64,
    /// Whether faults of the kernel are served, too, as a VM needs it.
    pub kernel_faults: bool,
    /// How long the first access to a page took, at the median.
    pub p50_ns: u64,
    /// At the 99th percentile.
    pub p99_ns: u64,
    /// The longest of them: what a freeze was at most, as the VM sees it.
    pub max_ns: u64,
    /// From the handshake to the last page.
    pub elapsed_ns: u64,
}

/// Why the VMM could not be played.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DemoError {
    /// There is nothing to be read.
    #[error("{pages} pages are not {regions} equal regions of at least one page")]
    Shape {
        /// Pages.
        pages: u64,
        /// Regions.
        regions: u64,
    },
    /// The memory cannot be had.
    #[error("{pages} pages of {page_size} cannot be mapped")]
    Map {
        /// Pages.
        pages: u64,
        /// Their size.
        page_size: PageSize,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// There is no userfaultfd to be had.
    #[error(transparent)]
    Userfaultfd(#[from] CreateError),
    /// The memory cannot be registered.
    #[error("the memory cannot be registered")]
    Register(#[source] OperationError),
    /// Nobody is there.
    #[error("cannot connect to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The handshake failed.
    #[error(transparent)]
    Send(#[from] SendError),
    /// What the pages must contain is not known.
    #[error("what the pages must contain cannot be read")]
    Expect(#[source] surefault_store::OpenError),
    /// SIGBUS cannot be caught.
    #[error("SIGBUS cannot be caught")]
    Signal(#[source] io::Error),
    /// No thread.
    #[error("no thread can be started")]
    Thread(#[source] io::Error),
}

/// Plays the VMM: one memory at a time in a process, whose SIGBUS it takes.
///
/// # Errors
/// When the part cannot be played. What is wrong with the pages is in the report.
pub fn run(demo: &Demo) -> Result<DemoReport, DemoError> {
    let (pages, regions) = (demo.pages, demo.regions);
    if regions == 0 || pages == 0 || pages % regions != 0 || demo.vcpus == 0 {
        return Err(DemoError::Shape { pages, regions });
    }
    let checker = Checker::new(&demo.expect)?;
    let memory = Memory::map(pages, demo.page_size)?;
    memory.catch_sigbus().map_err(DemoError::Signal)?;
    let uffd = Userfaultfd::create(Options {
        required: Features::EVENT_REMOVE,
        wanted: Features::empty(),
        kernel_faults: KernelFaults::IfAllowed,
    })?;
    let region_pages = pages / regions;
    let bytes = |pages: u64| pages << demo.page_size.shift();
    let mut wire = Vec::new();
    for region in 0..regions {
        let range = memory.register(&uffd, region * region_pages, region_pages)?;
        wire.push(WireRegion {
            base_host_virt_addr: range.start().get(),
            size: range.len(),
            offset: bytes((regions - 1 - region) * region_pages),
            page_size: Some(range.page_size()),
            page_size_kib: Some(range.page_size()),
        });
    }
    let stream = UnixStream::connect(&demo.socket).map_err(|source| DemoError::Connect {
        path: demo.socket.clone(),
        source,
    })?;
    let begun = Instant::now();
    send(&stream, &wire, uffd.as_fd())?;
    // Where a page is in the source.
    let offset = |page: u64| {
        let region = page / region_pages;
        bytes((regions - 1 - region) * region_pages + page % region_pages)
    };
    let seen = visit(demo, &memory, &checker, offset)?;
    let mut failed: Vec<u64> = memory.failed_pages().map(offset).collect();
    failed.sort_unstable();
    let nanos = |took: Option<Duration>| took.map_or(0, |took| took.as_nanos() as u64);
    Ok(DemoReport {
        pages,
        right: seen.right,
        wrong: seen.wrong,
        first_wrong: seen.first_wrong,
        failed,
        given_back: memory.given_pages(),
        kernel_faults: uffd.serves_kernel_faults() == Some(true),
        p50_ns: nanos(seen.latencies.quantile(0.5)),
        p99_ns: nanos(seen.latencies.quantile(0.99)),
        max_ns: nanos(Some(seen.longest)),
        elapsed_ns: nanos(Some(begun.elapsed())),
    })
}

/// What the vCPUs have seen.
#[derive(Default)]
struct Seen {
    right: u64,
    wrong: u64,
    first_wrong: Option<u64>,
    latencies: Latencies,
    longest: Duration,
}

impl Seen {
    fn merge(&mut self, other: &Seen) {
        self.right += other.right;
        self.wrong += other.wrong;
        self.first_wrong = self.first_wrong.or(other.first_wrong);
        self.latencies.merge(&other.latencies);
        self.longest = self.longest.max(other.longest);
    }
}

/// All vCPUs read all pages, each in an order of its own, while the balloon gives some back.
fn visit(
    demo: &Demo,
    memory: &Memory,
    checker: &Checker,
    offset: impl Fn(u64) -> u64 + Sync,
) -> Result<Seen, DemoError> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let spawn = |name: String| std::thread::Builder::new().name(name);
        let balloon = (demo.balloon > 0).then(|| {
            spawn("balloon".to_owned()).spawn_scoped(scope, || inflate(demo, memory, &over))
        });
        let balloon = balloon.transpose().map_err(DemoError::Thread)?;
        let mut vcpus = Vec::new();
        for vcpu in 0..demo.vcpus {
            let offset = &offset;
            let body = move || run_vcpu(demo, memory, checker, vcpu as u64, offset);
            let thread = spawn(format!("vcpu-{vcpu}")).spawn_scoped(scope, body);
            vcpus.push(thread.map_err(DemoError::Thread)?);
        }
        let mut seen = Seen::default();
        for vcpu in vcpus {
            seen.merge(&vcpu.join().expect("a vCPU does not panic"));
        }
        over.store(true, Ordering::Release);
        if let Some(balloon) = balloon {
            balloon.join().expect("the balloon does not panic");
        }
        Ok(seen)
    })
}

fn run_vcpu(
    demo: &Demo,
    memory: &Memory,
    checker: &Checker,
    vcpu: u64,
    offset: impl Fn(u64) -> u64,
) -> Seen {
    let mut seen = Seen::default();
    let mut buffer = vec![0; demo.page_size.buffer_len()];
    let mut expected = buffer.clone();
    for page in scattered(demo.pages, vcpu) {
        let visit = memory.read(page, &mut buffer);
        if let Some(took) = visit.first_access {
            seen.latencies.add(took);
            seen.longest = seen.longest.max(took);
        }
        match checker.check(offset(page), &visit, &buffer, &mut expected) {
            Check::Right => seen.right += 1,
            Check::Failed => {}
            Check::Wrong => {
                seen.wrong += 1;
                seen.first_wrong.get_or_insert(offset(page));
            }
        }
    }
    seen
}

/// Gives pages back, in an order that is nobody's.
fn inflate(demo: &Demo, memory: &Memory, over: &AtomicBool) {
    for page in scattered(demo.pages, 101).take(demo.balloon as usize) {
        memory.give_back(page);
        if !over.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_micros(page * 7 % 100));
        }
    }
}

/// All pages, in an order without neighbours that depends on `who`.
fn scattered(pages: u64, who: u64) -> impl Iterator<Item = u64> {
    let is_coprime = |step: &u64| gcd(*step, pages) == 1;
    let step = (pages * 5 / 8 + 1 + who * 2..)
        .find(is_coprime)
        .expect("1 is one, modulo pages");
    (0..pages).map(move |n| (n + who * 13) % pages * (step % pages) % pages)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_visited_once() {
        for pages in [1, 2, 3, 7, 64, 1000, 4096] {
            for who in [0, 1, 5, 101] {
                let mut all: Vec<u64> = scattered(pages, who).collect();
                all.sort_unstable();
                assert_eq!(all, (0..pages).collect::<Vec<_>>(), "{pages} {who}");
            }
        }
    }
}
