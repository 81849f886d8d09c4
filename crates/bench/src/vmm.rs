//! A VMM as the handler sees it: one handshake, then faults from one or several threads.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};
use surefault_core::plan::mix;

use crate::memory::{Memory, page_size};
use crate::spread::percentile;
use crate::{BenchError, Source};

/// How long a handler may take to serve everything.
const PATIENCE: Duration = Duration::from_secs(100);

/// In which order the pages are touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Every page once, in an order without any.
    Random,
    /// From the start to the end; of several threads each has a part of its own.
    Sequential,
}

/// A VMM to be played.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vmm {
    /// The handler's socket.
    pub socket: PathBuf,
    /// Pages of memory, as many as the [`Source`] has.
    pub pages: u32,
    /// The order in which they are touched.
    pub order: Order,
    /// Threads that touch them.
    pub threads: usize,
    /// Of the random order.
    pub seed: u64,
}

/// What a handler did for one VM.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Served {
    /// Pages touched per second, over all threads.
    pub pages_per_second: f64,
    /// Half of the accesses took no longer, in nanoseconds.
    pub p50_ns: u32,
    /// 99 of 100 took no longer.
    pub p99_ns: u32,
}

impl Vmm {
    /// Has all pages served, each touched once.
    ///
    /// To be called once in the life of a process: a handler may take a process for one VM, and when
    /// it does not serve, only the end of the process ends the threads that wait for it.
    ///
    /// # Errors
    /// When the host lacks something, or the handler does not do its work.
    pub fn play(&self) -> Result<Served, BenchError> {
        let (memory, uffd) = Memory::new(self.pages)?;
        let memory = Arc::new(memory);
        let connection = connect(&self.socket).map_err(BenchError::Connect)?;
        send(connection.as_fd(), uffd.as_fd(), &memory).map_err(BenchError::Connect)?;
        // The handler has it now. If it dies, nobody waits for ever, but finds zeros.
        drop(uffd);

        let barrier = Arc::new(Barrier::new(self.threads));
        let (done, finished) = mpsc::channel();
        for part in parts(self.pages, self.order, self.threads, self.seed) {
            let (done, barrier, memory) = (done.clone(), barrier.clone(), memory.clone());
            std::thread::spawn(move || {
                barrier.wait();
                let _ = done.send(touch(&memory, &part));
            });
        }
        let until = Instant::now() + PATIENCE;
        let mut served = Vec::with_capacity(self.threads);
        while served.len() < self.threads {
            let left = until.saturating_duration_since(Instant::now());
            let touched = finished.recv_timeout(left);
            served.push(touched.map_err(|_| BenchError::NotServed {
                pages: self.pages,
                patience: PATIENCE,
            })?);
        }
        self.count(served)
    }

    fn count(&self, served: Vec<Touched>) -> Result<Served, BenchError> {
        let wrong: u64 = served.iter().map(|touched| touched.wrong).sum();
        if wrong > 0 {
            return Err(BenchError::Wrong(wrong));
        }
        let begun = served.iter().map(|touched| touched.begun).min();
        let ended = served.iter().map(|touched| touched.ended).max();
        let elapsed = begun.zip(ended).map(|(begun, ended)| ended - begun);
        let seconds = elapsed.unwrap_or_default().as_secs_f64();
        let accesses = served.into_iter().flat_map(|touched| touched.accesses_ns);
        let mut accesses: Vec<u32> = accesses.collect();
        Ok(Served {
            pages_per_second: f64::from(self.pages) / seconds.max(1e-9),
            p50_ns: percentile(&mut accesses, 50),
            p99_ns: percentile(&mut accesses, 99),
        })
    }
}

/// A connection to a handler.
fn connect(socket: &Path) -> Result<OwnedFd, Errno> {
    let kind = (AddressFamily::UNIX, SocketType::STREAM);
    let connection = rustix::net::socket_with(kind.0, kind.1, SocketFlags::CLOEXEC, None)?;
    let address = SocketAddrUnix::new(socket)?;
    let until = Instant::now() + PATIENCE;
    loop {
        match rustix::net::connect(&connection, &address) {
            // It has bound its socket and does not listen yet.
            Err(Errno::CONNREFUSED) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(2));
            }
            connected => return connected.map(|()| connection),
        }
    }
}

/// The pages that each thread touches, in its order.
fn parts(pages: u32, order: Order, threads: usize, seed: u64) -> Vec<Vec<u32>> {
    let mut all: Vec<u32> = (0..pages).collect();
    if order == Order::Random {
        // Fisher and Yates.
        for n in (1..all.len()).rev() {
            let other = mix(seed ^ n as u64) % (n as u64 + 1);
            all.swap(n, other as usize);
        }
    }
    let share = all.len().div_ceil(threads).max(1);
    let mut parts: Vec<Vec<u32>> = all.chunks(share).map(<[u32]>::to_vec).collect();
    parts.resize(threads, Vec::new());
    parts
}

struct Touched {
    begun: Instant,
    ended: Instant,
    accesses_ns: Vec<u32>,
    wrong: u64,
}

fn touch(memory: &Memory, pages: &[u32]) -> Touched {
    let mut accesses_ns = Vec::with_capacity(pages.len());
    let mut wrong = 0;
    let begun = Instant::now();
    let mut before = begun;
    for &page in pages {
        let word = memory.word(page);
        let now = Instant::now();
        let nanos = (now - before).as_nanos();
        accesses_ns.push(u32::try_from(nanos).unwrap_or(u32::MAX));
        wrong += u64::from(word != Source::word(page));
        before = now;
    }
    Touched {
        begun,
        ended: before,
        accesses_ns,
        wrong,
    }
}

/// The handshake: an array of one region, and the userfaultfd.
fn send(to: BorrowedFd<'_>, uffd: BorrowedFd<'_>, memory: &Memory) -> Result<(), Errno> {
    let region = serde_json::json!([{
        "base_host_virt_addr": memory.start(),
        "size": memory.len(),
        "offset": 0,
        "page_size": page_size(),
        "page_size_kib": page_size(),
    }]);
    let json = region.to_string();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [uffd];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    let parts = [IoSlice::new(json.as_bytes())];
    let sent = rustix::net::sendmsg(to, &parts, &mut ancillary, SendFlags::NOSIGNAL)?;
    match sent == json.len() {
        true => Ok(()),
        false => Err(Errno::MSGSIZE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_touched_once() {
        for order in [Order::Random, Order::Sequential] {
            for threads in [1, 3, 7] {
                let parts = parts(100, order, threads, 5);
                assert_eq!(parts.len(), threads);
                let mut pages: Vec<u32> = parts.concat();
                assert_eq!(pages.is_sorted(), order == Order::Sequential);
                pages.sort();
                assert_eq!(pages, (0..100).collect::<Vec<_>>());
            }
        }
    }
}
