//! Which page is asked for again after "ready", how often, and since when.
//!
//! Pure: events in, counts out; the clock is that of the events.
//!
//! | a page is | until |
//! |---|---|
//! | *waited for*: asked for, not yet ready | ready; or its entry is one of more than 64 on the vCPU (KVM's own limit), because the event was lost |
//! | *remembered*: ready, and perhaps mapped | it is asked for again (a *retry*), or not for [`forget_after`](Turns::new): forgotten |
//! | *suspected*: retried [`SUSPECT_AFTER`] times: where it lies is found out | forgotten, or [cleared](Turns::clear) |
//! | *suspect*: retried often enough to be [looked at](Turns::suspects) | forgotten, or cleared |
//!
//! A healthy page is asked for once, and forgotten. Retries are counted so that neither lost
//! events nor events of two CPUs in the wrong order can make one up: a retry takes one more
//! question *and* one more answer.
//!
//! The host address of a page stands only in events of kernel threads that work for all machines.
//! For suspects it is found by votes: every attempt that is completed for the same fault address
//! while the page is waited for is a vote for its host address. With several machines in the loop
//! at the same fault address others' votes come in too, but seldomer, since each attempt at *this*
//! page is completed while it is waited for; and [`Suspect::candidates`] leaves it to the caller to
//! drop those that the process has not mapped.

mod docket;

use std::collections::HashMap;
use std::time::Duration;

use surefault_core::{Gfn, Gva, Hva, PageSize, Token, VcpuId};

use docket::Docket;

use crate::events::{AsyncFault, Observed};
use crate::ids::{Moment, Tid};

/// A page that was retried this often is suspected.
pub const SUSPECT_AFTER: u32 = 8;
/// `ASYNC_PF_PER_VCPU`: more work items than this are never queued for one vCPU.
const QUEUED_PER_VCPU: usize = 64;
/// Of a token, the bits that are the vCPU's id.
const TOKEN_VCPU_MASK: u32 = 0xfff;
/// The ready event's token when it wakes all of the guest's tasks.
const WAKE_ALL: u32 = u32::MAX;

/// A page of one vCPU thread.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PageKey {
    /// The vCPU's thread.
    pub thread: Tid,
    /// The page.
    pub gfn: Gfn,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    gva: Gva,
    asked: u32,
    readied: u32,
    first: Moment,
    last: Moment,
    waited_for: bool,
}

impl Page {
    fn new(gva: Gva, at: Moment) -> Page {
        Page {
            gva,
            asked: 0,
            readied: 0,
            first: at,
            last: at,
            waited_for: false,
        }
    }

    fn retries(&self) -> u32 {
        self.readied.min(self.asked.saturating_sub(1))
    }
}

/// One vCPU thread. Pages move from `old` to `young` when they are touched; what is still in `old`
/// when the two are rotated has not been touched for a whole period.
#[derive(Debug, Default)]
struct Thread {
    young: HashMap<Gfn, Page>,
    old: HashMap<Gfn, Page>,
    /// Work items whose ready has not come.
    queued: Vec<(Token, Gfn)>,
    asked_last: Option<(Gva, Gfn)>,
    vcpu: Option<VcpuId>,
}

impl Thread {
    fn touch(&mut self, gfn: Gfn, gva: Gva, at: Moment) -> &mut Page {
        let old = self.old.remove(&gfn);
        let page = self.young.entry(gfn);
        page.or_insert_with(|| old.unwrap_or_else(|| Page::new(gva, at)))
    }

    fn page(&self, gfn: Gfn) -> Option<&Page> {
        self.young.get(&gfn).or_else(|| self.old.get(&gfn))
    }

    /// The page that a ready is about: by its token, else the one asked for last at that address.
    fn take_queued(&mut self, token: Token, gva: Gva) -> Option<Gfn> {
        match self.queued.iter().position(|(queued, _)| *queued == token) {
            Some(index) => Some(self.queued.swap_remove(index).1),
            None => self
                .asked_last
                .filter(|last| last.0 == gva)
                .map(|last| last.1),
        }
    }

    /// Drops what was not touched for a period, except what is waited for.
    fn rotate(&mut self, gone: &mut Vec<Forgotten>, thread: Tid) {
        let mut kept = HashMap::new();
        for (gfn, page) in self.old.drain() {
            if page.waited_for && kept.len() < QUEUED_PER_VCPU {
                kept.insert(gfn, page);
            } else {
                gone.push(Forgotten {
                    key: PageKey { thread, gfn },
                    retries: page.retries(),
                });
            }
        }
        self.old = std::mem::take(&mut self.young);
        for (gfn, page) in kept {
            self.old.entry(gfn).or_insert(page);
        }
    }

    fn is_idle(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }
}

/// A page that has not been asked for again for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forgotten {
    /// The page.
    pub key: PageKey,
    /// How often it was asked for again after "ready".
    pub retries: u32,
}

/// A page that is asked for again and again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Suspect {
    /// The page.
    pub key: PageKey,
    /// The fault's address.
    pub gva: Gva,
    /// KVM's id of the vCPU, when a token has told it.
    pub vcpu: Option<VcpuId>,
    /// How often it was asked for again after "ready".
    pub retries: u32,
    /// When it was asked for first.
    pub first: Moment,
    /// When something was heard of it last.
    pub last: Moment,
    /// Its possible addresses in the process, the most probable first.
    pub candidates: Vec<Hva>,
}

/// A page that was asked for and has not become ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitedFor {
    /// The page.
    pub key: PageKey,
    /// The fault's address.
    pub gva: Gva,
    /// KVM's id of the vCPU, when a token has told it.
    pub vcpu: Option<VcpuId>,
    /// Since when.
    pub since: Moment,
}

/// Everything that is remembered of the async page faults of all machines.
#[derive(Debug)]
pub struct Turns {
    forget_after: Duration,
    rotated: Moment,
    threads: HashMap<Tid, Thread>,
    docket: Docket,
    page_size: PageSize,
    stuck_after: u32,
}

impl Turns {
    /// Nothing is known yet. A page that is not asked for again for `forget_after` is forgotten,
    /// at the latest after twice that; one that was retried `stuck_after` times is to be looked at.
    pub fn new(forget_after: Duration, stuck_after: u32, page_size: PageSize) -> Turns {
        Turns {
            forget_after,
            rotated: Moment::default(),
            threads: HashMap::new(),
            docket: Docket::default(),
            page_size,
            stuck_after,
        }
    }

    /// Takes note of an event.
    pub fn handle(&mut self, observed: &Observed) {
        let Observed { at, thread, fault } = *observed;
        match fault {
            AsyncFault::Asked { gva, gfn } => {
                let entry = self.threads.entry(thread).or_default();
                entry.asked_last = Some((gva, gfn));
                let page = entry.touch(gfn, gva, at);
                if !page.waited_for && at.since(page.last) > self.forget_after {
                    *page = Page::new(gva, at);
                }
                page.asked = page.asked.saturating_add(1);
                page.gva = gva;
                page.last = at;
                page.waited_for = true;
                let retries = page.retries();
                if retries >= SUSPECT_AFTER.min(self.stuck_after) {
                    let key = PageKey { thread, gfn };
                    self.docket.enter(key, gva.page_base(self.page_size));
                    if retries >= self.stuck_after {
                        self.docket.ripen(key);
                    }
                }
            }
            AsyncFault::NotPresent { token, gva } => {
                let entry = self.threads.entry(thread).or_default();
                entry.vcpu = Some(VcpuId::new(token.get() & TOKEN_VCPU_MASK));
                if let Some((_, gfn)) = entry.asked_last.filter(|last| last.0 == gva) {
                    if entry.queued.len() == QUEUED_PER_VCPU {
                        // Its ready was lost, or the guest was reset.
                        entry.queued.remove(0);
                    }
                    entry.queued.push((token, gfn));
                }
            }
            AsyncFault::Ready { token, .. } if token.get() == WAKE_ALL => {}
            AsyncFault::Ready { token, gva } => {
                let entry = self.threads.entry(thread).or_default();
                if let Some(gfn) = entry.take_queued(token, gva) {
                    let page = entry.touch(gfn, gva, at);
                    page.readied = page.readied.saturating_add(1);
                    page.last = at;
                    page.waited_for = false;
                }
            }
            AsyncFault::Completed { hva, gva } => {
                let (address, hva) = (gva.page_base(self.page_size), hva.page_base(self.page_size));
                let threads = &self.threads;
                self.docket.vote(address, hva, |key| {
                    let page = threads.get(&key.thread).and_then(|t| t.page(key.gfn));
                    page.is_some_and(|page| page.waited_for)
                });
            }
        }
    }

    /// Forgets what has not been asked for again for a while.
    pub fn expire(&mut self, now: Moment) -> Vec<Forgotten> {
        let mut gone = Vec::new();
        if now.since(self.rotated) < self.forget_after {
            return gone;
        }
        self.rotated = now;
        for (tid, thread) in &mut self.threads {
            thread.rotate(&mut gone, *tid);
        }
        self.threads.retain(|_, thread| !thread.is_idle());
        for forgotten in &gone {
            self.docket.strike(forgotten.key);
        }
        gone
    }

    /// Forgets all pages of a thread: it is gone.
    pub fn forget_thread(&mut self, thread: Tid) {
        self.threads.remove(&thread);
        for key in self.docket.of_thread(thread) {
            self.docket.strike(key);
        }
    }

    /// Forgets the retries of a page: it has been seen mapped.
    pub fn clear(&mut self, key: PageKey) {
        if let Some(thread) = self.threads.get_mut(&key.thread)
            && let Some(page) = thread
                .young
                .get_mut(&key.gfn)
                .or(thread.old.get_mut(&key.gfn))
        {
            (page.asked, page.readied, page.first) = (u32::from(page.waited_for), 0, page.last);
        }
        self.docket.strike(key);
    }

    /// The pages that are to be looked at, in the order of their keys.
    pub fn suspects(&self) -> Vec<Suspect> {
        let suspect = |key: PageKey| {
            let thread = self.threads.get(&key.thread)?;
            let page = thread.page(key.gfn)?;
            Some(Suspect {
                key,
                gva: page.gva,
                vcpu: thread.vcpu,
                retries: page.retries(),
                first: page.first,
                last: page.last,
                candidates: self.docket.candidates(key),
            })
        };
        self.docket.ripe().filter_map(suspect).collect()
    }

    /// The pages that have been waited for since `before` or longer, oldest first.
    pub fn waited_for(&self, before: Moment) -> Vec<WaitedFor> {
        let mut waited_for = Vec::new();
        for (tid, thread) in &self.threads {
            for (gfn, page) in thread.young.iter().chain(&thread.old) {
                if page.waited_for && page.last <= before {
                    waited_for.push(WaitedFor {
                        key: PageKey {
                            thread: *tid,
                            gfn: *gfn,
                        },
                        gva: page.gva,
                        vcpu: thread.vcpu,
                        since: page.last,
                    });
                }
            }
        }
        waited_for.sort_by_key(|page| (page.since, page.key));
        waited_for
    }

    /// Whether something is remembered of the thread.
    pub fn has_thread(&self, thread: Tid) -> bool {
        self.threads.contains_key(&thread)
    }

    /// How many pages are remembered.
    pub fn remembered(&self) -> usize {
        let pages = |thread: &Thread| thread.young.len() + thread.old.len();
        self.threads.values().map(pages).sum()
    }
}

#[cfg(test)]
mod tests;
