//! A store that fails on purpose.

#[cfg(test)]
mod tests;

use core::ops::RangeInclusive;
use core::time::Duration;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use surefault_core::plan::{FaultPlan, PlannedResult};
use surefault_core::{PageIndex, PageSize};

use crate::{ReadRequest, Store, StoreError};

/// Another store that obeys a [`FaultPlan`].
///
/// A read of several pages takes as long as the slowest of them, and fails if one of them fails at
/// that attempt (the first of them in the error). It stalls while one of them stalls.
#[derive(Debug)]
pub struct PlannedStore<S> {
    inner: S,
    plan: FaultPlan,
    page_size: PageSize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Pages that no longer fail: sorted, disjoint ranges.
    repaired: Vec<RangeInclusive<PageIndex>>,
    cancelled: bool,
}

/// What the plan says about one read.
enum Verdict {
    /// No answer until something is repaired.
    Stalled,
    /// An answer after `latency`: what is wrong, if anything.
    After {
        latency: Duration,
        wrong: Option<(PageIndex, PlannedResult)>,
    },
}

impl<S: Store> PlannedStore<S> {
    /// `inner`, failing as `plan` says; `page_size` is what the plan's page indexes count.
    pub fn new(inner: S, plan: FaultPlan, page_size: PageSize) -> PlannedStore<S> {
        PlannedStore {
            inner,
            plan,
            page_size,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Repairs `pages`: they do not fail any more, and reads that are stalled on them go on. Their
    /// latency stays as planned.
    pub fn repair(&self, pages: RangeInclusive<PageIndex>) {
        if pages.is_empty() {
            return;
        }
        self.lock().repair(pages);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verdict(&self, state: &State, request: ReadRequest, len: usize) -> Verdict {
        let mut latency = Duration::ZERO;
        let mut wrong = None;
        for page in self.pages(request, len) {
            let decision = self.plan.decide(page, request.attempt);
            latency = latency.max(decision.latency);
            if decision.result == PlannedResult::Serve || state.is_repaired(page) {
                continue;
            }
            if decision.result == PlannedResult::Stall {
                return Verdict::Stalled;
            }
            wrong.get_or_insert((page, decision.result));
        }
        Verdict::After { latency, wrong }
    }

    /// The pages of a read, as far as there are page indexes: what lies beyond is beyond any plan.
    fn pages(&self, request: ReadRequest, len: usize) -> impl Iterator<Item = PageIndex> + use<S> {
        let shift = self.page_size.shift();
        let first = request.offset >> shift;
        let end = request.end(len).div_ceil(self.page_size.bytes());
        (first..end).map_while(|page| u32::try_from(page).ok().map(PageIndex::new))
    }

    /// The answer to a read in which the plan finds `wrong`, or the inner store's.
    fn answer(
        &self,
        request: ReadRequest,
        len: usize,
        wrong: Option<(PageIndex, PlannedResult)>,
    ) -> Result<(), StoreError> {
        match wrong {
            None | Some((_, PlannedResult::Serve | PlannedResult::Stall)) => Ok(()),
            Some((page, PlannedResult::Fail(persistence))) => Err(StoreError::Injected {
                source_name: self.describe(),
                page,
                attempt: request.attempt,
                persistence,
            }),
            Some((page, PlannedResult::Truncate)) => Err(StoreError::Truncated {
                source_name: self.describe(),
                found: u64::from(page.get()) << self.page_size.shift(),
                needed: request.end(len),
            }),
        }
    }

    /// Waits for as long as the plan says, and gives what it finds wrong then.
    fn wait(
        &self,
        request: ReadRequest,
        len: usize,
    ) -> Result<Option<(PageIndex, PlannedResult)>, StoreError> {
        let begun = Instant::now();
        let mut state = self.lock();
        loop {
            if state.cancelled {
                return Err(StoreError::Cancelled {
                    source_name: self.describe(),
                });
            }
            match self.verdict(&state, request, len) {
                Verdict::Stalled => {
                    let woken = self.changed.wait(state);
                    state = woken.unwrap_or_else(PoisonError::into_inner);
                }
                Verdict::After { latency, wrong } => {
                    let left = latency.saturating_sub(begun.elapsed());
                    if left.is_zero() {
                        return Ok(wrong);
                    }
                    let woken = self.changed.wait_timeout(state, left);
                    state = woken.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }
}

impl State {
    fn is_repaired(&self, page: PageIndex) -> bool {
        self.repaired.iter().any(|range| range.contains(&page))
    }

    fn repair(&mut self, pages: RangeInclusive<PageIndex>) {
        let (mut first, mut last) = pages.into_inner();
        self.repaired.retain(|range| {
            let touches = *range.start() <= last && first <= *range.end();
            if touches {
                first = first.min(*range.start());
                last = last.max(*range.end());
            }
            !touches
        });
        let at = self.repaired.partition_point(|range| *range.end() < first);
        self.repaired.insert(at, first..=last);
    }
}

impl<S: Store> Store for PlannedStore<S> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn read(&self, request: ReadRequest, buf: &mut [u8]) -> Result<(), StoreError> {
        let wrong = self.wait(request, buf.len())?;
        self.answer(request, buf.len(), wrong)?;
        self.inner.read(request, buf)
    }

    /// `None` whenever the plan asks for latency or a stall.
    fn read_now(&self, request: ReadRequest, buf: &mut [u8]) -> Option<Result<(), StoreError>> {
        let verdict = {
            let state = self.lock();
            if state.cancelled {
                return None;
            }
            self.verdict(&state, request, buf.len())
        };
        match verdict {
            Verdict::After { latency, wrong } if latency.is_zero() => {
                match self.answer(request, buf.len(), wrong) {
                    Ok(()) => self.inner.read_now(request, buf),
                    Err(error) => Some(Err(error)),
                }
            }
            Verdict::After { .. } | Verdict::Stalled => None,
        }
    }

    fn cancel(&self) {
        self.lock().cancelled = true;
        self.changed.notify_all();
        self.inner.cancel();
    }
}
