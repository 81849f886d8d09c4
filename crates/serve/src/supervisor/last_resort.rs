//! When no worker can be started: no VM is left frozen.
//!
//! Everybody who waits is woken and faults again, and each fault ends here: with zeros where the page
//! was installed before or given up, else by the VM's rule for failed pages. Nothing is read but
//! events, and these into the VM's journal, so that a worker that can be started after all goes on
//! from what was done here.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::process::{Signal, pidfd_send_signal};
use surefault_pager::ServedRegion;
use surefault_uffd::{
    Address, Event, EventBuffer, Journal, MapIndex, Outcome, PageMap, PageRange, Read,
    RecordedState, Userfaultfd, Wake,
};

use super::entries::{Entries, Entry, LastRule, VmEntry};
use crate::handshake::has_descriptors;
use crate::peer::{Peer, hung_up};

/// Ends the faults of all VMs, until it is dropped.
pub(crate) struct LastResort {
    vms: Vec<Abandoned>,
    unheard: Vec<Unheard>,
}

/// A VM that nobody serves.
struct Abandoned {
    uffd: Userfaultfd,
    map: PageMap,
    journal: Journal,
    buffer: EventBuffer,
    regions: Vec<ServedRegion>,
    pidfd: Option<OwnedFd>,
    /// Faults that the kernel would not let be ended yet.
    again: Vec<Address>,
}

impl LastResort {
    /// Begins, and says of each VM what is done about it.
    pub(crate) fn begin(entries: &Entries, log: &dyn Fn(&str)) -> LastResort {
        let mut vms = Vec::new();
        for (vm, entry) in entries.vms() {
            let (id, pid) = (vm.id, vm.pid);
            match vm.rule {
                LastRule::Wait => log(&format!(
                    "vm {id}: NOBODY SERVES process {pid}, and it WAITS for its pages"
                )),
                LastRule::Kill => {
                    log(&format!(
                        "vm {id}: nobody serves process {pid}: it is killed"
                    ));
                    kill(entry.fds.get(3));
                }
                LastRule::Poison => match Abandoned::new(vm, entry) {
                    Some(mut abandoned) => {
                        log(&format!(
                            "vm {id}: nobody serves process {pid}: its page faults end with SIGBUS"
                        ));
                        abandoned.begin();
                        vms.push(abandoned);
                    }
                    None => {
                        log(&format!(
                            "vm {id}: its records make no sense: process {pid} is killed"
                        ));
                        kill(entry.fds.get(3));
                    }
                },
            }
        }
        let mut unheard = Vec::new();
        for (id, rule, connection) in entries.connections() {
            match connection.try_clone() {
                Ok(stream) => unheard.push(Unheard {
                    id,
                    rule,
                    stream: stream.into(),
                }),
                Err(error) => log(&format!("vm {id}: NOBODY ENDS its handshake: {error}")),
            }
        }
        LastResort { vms, unheard }
    }

    /// What to poll.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let connections = self.unheard.iter().map(|it| it.stream.as_fd());
        self.vms.iter().map(|vm| vm.uffd.as_fd()).chain(connections)
    }

    /// Ends the faults that there are. Says whether some must be tried again soon.
    pub(crate) fn serve(&mut self, log: &dyn Fn(&str)) -> bool {
        self.unheard.retain(|connection| !connection.serve(log));
        let mut again = false;
        for vm in &mut self.vms {
            vm.serve();
            again |= !vm.again.is_empty();
        }
        again
    }
}

/// Who has connected, and whose handshake nobody ends.
struct Unheard {
    id: u64,
    rule: LastRule,
    stream: UnixStream,
}

impl Unheard {
    /// Does what the rule says as soon as its memory was handed over; true when there is no more to do.
    fn serve(&self, log: &dyn Fn(&str)) -> bool {
        if hung_up(&self.stream) {
            return true;
        }
        if !has_descriptors(&self.stream) {
            return false;
        }
        let id = self.id;
        let killed = match self.rule {
            LastRule::Wait => {
                log(&format!(
                    "vm {id}: NOBODY SERVES it, and it WAITS for its handshake's end"
                ));
                return true;
            }
            LastRule::Kill | LastRule::Poison => Peer::of(&self.stream)
                .map_err(|error| error.to_string())
                .and_then(|peer| {
                    peer.kill().map_err(|error| error.to_string())?;
                    Ok(peer.pid())
                }),
        };
        match killed {
            Ok(pid) => log(&format!(
                "vm {id}: nobody ends the handshake of process {pid}: it is killed"
            )),
            Err(error) => log(&format!(
                "vm {id}: NOBODY ENDS its handshake, and it CANNOT BE KILLED: {error}"
            )),
        }
        true
    }
}

fn kill(pidfd: Option<&OwnedFd>) {
    if let Some(pidfd) = pidfd {
        // One that has ended by itself is as good.
        let _ = pidfd_send_signal(pidfd, Signal::KILL);
    }
}

impl Abandoned {
    fn new(vm: &VmEntry, entry: &Entry) -> Option<Abandoned> {
        let regions = vm.served_regions()?;
        let [uffd, _connection, map, ..] = &entry.fds[..] else {
            return None;
        };
        let pages = regions.iter().map(|region| region.pages.get()).sum();
        let (map, journal) = PageMap::open(map.try_clone().ok()?, pages).ok()?;
        let pidfd = entry.fds.get(3).map(OwnedFd::try_clone);
        Some(Abandoned {
            uffd: Userfaultfd::from_fd(uffd.try_clone().ok()?).ok()?,
            buffer: EventBuffer::with_capacity(journal.slots()),
            map,
            journal,
            regions,
            pidfd: pidfd.transpose().ok()?,
            again: Vec::new(),
        })
    }

    /// Notes what was read and not noted, and has everybody who waits fault again.
    fn begin(&mut self) {
        let left: Vec<Event> = self.journal.replay().collect();
        self.note(&left);
        self.journal.clear();
        for region in &self.regions {
            if let Some(range) = range(region, 0, region.pages.get()) {
                let _ = self.uffd.wake(range);
            }
        }
    }

    fn serve(&mut self) {
        loop {
            let (journal, buffer) = (&mut self.journal, &mut self.buffer);
            let events: Vec<Event> = match self.uffd.read_recorded(journal, buffer) {
                Ok(Read::Events(events)) => events.collect(),
                Ok(Read::WouldBlock) | Err(_) => break,
            };
            self.note(&events);
            self.journal.clear();
            self.again
                .extend(events.iter().filter_map(|event| match event {
                    Event::Pagefault(fault) => Some(fault.address),
                    _ => None,
                }));
        }
        for address in core::mem::take(&mut self.again) {
            if !self.end_fault(address) {
                self.again.push(address);
            }
        }
    }

    /// Removals, before any fault.
    fn note(&self, events: &[Event]) {
        for event in events {
            let (Event::Remove { start, end } | Event::Unmap { start, end }) = *event else {
                continue;
            };
            let mut before = 0;
            for region in &self.regions {
                let shift = region.page_size.shift();
                let offset = |at: Address| at.get().saturating_sub(region.start.get());
                let first = offset(start).div_ceil(region.page_size.bytes());
                let beyond = (offset(end) >> shift).min(region.pages.get());
                if let Some(count) = beyond.checked_sub(first).filter(|&count| count > 0) {
                    self.map.remove(MapIndex::new(before + first), count);
                }
                before += region.pages.get();
            }
        }
    }

    /// False when the kernel says to try again, because there is something to read first.
    fn end_fault(&self, address: Address) -> bool {
        let mut before = 0;
        for region in &self.regions {
            let shift = region.page_size.shift();
            let distance = address.get().checked_sub(region.start.get());
            let page = distance.map(|distance| distance >> shift);
            if let Some(page) = page.filter(|&page| page < region.pages.get())
                && let Some(range) = range(region, page, 1)
            {
                return self.end_page(MapIndex::new(before + page), range);
            }
            before += region.pages.get();
        }
        // In no region: nobody will ever provide it.
        kill(self.pidfd.as_ref());
        true
    }

    fn end_page(&self, page: MapIndex, range: PageRange) -> bool {
        let outcome = match self.map.state(page) {
            Ok(RecordedState::Present | RecordedState::Removed | RecordedState::RemovedFailed) => {
                if range.page_size() == surefault_uffd::host_page_size() {
                    self.uffd.zeropage(range, Wake::Now)
                } else {
                    let zeros = vec![0; range.len() as usize];
                    self.uffd.copy(range, &zeros, Wake::Now)
                }
            }
            Ok(RecordedState::Absent | RecordedState::Intent | RecordedState::Failed { .. })
            | Err(_) => {
                self.map.fail(page, 0);
                self.uffd.poison(range, Wake::Now)
            }
        };
        match outcome {
            Ok(Outcome::Again) => return false,
            Ok(Outcome::AlreadyThere) => {
                let _ = self.uffd.wake(range);
            }
            Ok(Outcome::Done | Outcome::Partial { .. } | Outcome::Gone | Outcome::NoRegion) => {}
            // A kernel without poison: nothing else ends the fault.
            Err(_) => kill(self.pidfd.as_ref()),
        }
        true
    }
}

fn range(region: &ServedRegion, first: u64, count: u64) -> Option<PageRange> {
    let shift = region.page_size.shift();
    let start = region.start.get().checked_add(first << shift)?;
    let len = count.checked_mul(region.page_size.bytes())?;
    PageRange::new(Address::new(start), len, region.page_size.bytes()).ok()
}
