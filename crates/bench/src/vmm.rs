//! A VMM as the handler sees it: one handshake, then faults from one or several threads.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::{Barrier, mpsc};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use surefault_core::plan::mix;

use crate::memory::{Memory, page_size};
use crate::{BenchError, Handler, Source};

/// How long a handler may take to serve everything.
const PATIENCE: Duration = Duration::from_secs(120);

/// In which order the pages are touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Every page once, in an order without any.
    Random,
    /// From the start to the end; of several threads each has a part of its own.
    Sequential,
}

/// What a handler did for one VM.
#[derive(Clone, PartialEq, Debug)]
pub struct Served {
    /// Pages touched per second, over all threads.
    pub pages_per_second: f64,
    /// How long each access took, in nanoseconds, in no particular order.
    pub accesses_ns: Vec<u32>,
}

/// Has `handler` serve a VM all pages of `source`, touched by `threads` threads, each page once.
///
/// # Errors
/// When the host lacks something, or the handler does not do its work.
pub fn measure(
    handler: &mut Handler,
    source: &Source,
    order: Order,
    threads: usize,
    seed: u64,
) -> Result<Served, BenchError> {
    let pages = source.pages();
    let parts = parts(pages, order, threads, seed);
    let (memory, uffd) = Memory::new(pages)?;
    let connection = handler.connect()?;
    let name = handler.name();
    send(connection.as_fd(), uffd.as_fd(), &memory)
        .map_err(|source| BenchError::Connect { name, source })?;

    let barrier = Barrier::new(threads);
    let (done, finished) = mpsc::channel();
    let served = std::thread::scope(|scope| {
        for part in &parts {
            let (done, barrier, memory) = (done.clone(), &barrier, &memory);
            scope.spawn(move || {
                barrier.wait();
                let _ = done.send(touch(memory, part));
            });
        }
        drop(done);
        let until = Instant::now() + PATIENCE;
        let mut all = Vec::with_capacity(threads);
        while all.len() < threads {
            let left = until.saturating_duration_since(Instant::now());
            match finished.recv_timeout(left.min(Duration::from_millis(200))) {
                Ok(touched) => all.push(touched),
                Err(_) if left.is_zero() => {
                    // With the last userfaultfd closed nobody is blocked any more.
                    handler.kill();
                    drop(uffd);
                    let patience = PATIENCE;
                    return Err(BenchError::NotServed {
                        name,
                        pages,
                        patience,
                    });
                }
                Err(_) => {
                    if let Err(ended) = handler.check() {
                        drop(uffd);
                        return Err(ended);
                    }
                }
            }
        }
        Ok(all)
    })?;

    let wrong: u64 = served.iter().map(|touched| touched.wrong).sum();
    if wrong > 0 {
        return Err(BenchError::Wrong { name, pages: wrong });
    }
    let begun = served.iter().map(|touched| touched.begun).min();
    let ended = served.iter().map(|touched| touched.ended).max();
    let elapsed = begun.zip(ended).map(|(begun, ended)| ended - begun);
    let seconds = elapsed.unwrap_or_default().as_secs_f64();
    let accesses = served.into_iter().flat_map(|touched| touched.accesses_ns);
    Ok(Served {
        pages_per_second: f64::from(pages) / seconds.max(1e-9),
        accesses_ns: accesses.collect(),
    })
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
