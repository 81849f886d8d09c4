//! Doing what the machine wants done.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use surefault_core::residency::{Effect, Fault, FetchRange, PageOutcome};
use surefault_core::{CauseKind, PageId, Persistence};
use surefault_store::{ReadRequest, StoreError};

use crate::shared::{Hands, Shared};

impl Shared {
    /// Works off what is in hand, and what comes of it, until nothing is left.
    pub(crate) fn work_off(self: &Arc<Self>, hands: &mut Hands) {
        loop {
            if let Some(effect) = hands.local.pop_front() {
                self.carry_out(hands, effect);
            } else if let Some(range) = hands.fetches.pop_front() {
                self.fetch(hands, range);
            } else {
                return;
            }
        }
    }

    fn carry_out(&self, hands: &mut Hands, effect: Effect) {
        match effect {
            Effect::Install {
                generation,
                first,
                count,
            } => {
                self.install(hands, generation, first, count);
            }
            Effect::Zero { generation, page } => self.zero(hands, generation, page),
            Effect::Mark { generation, page } => self.mark(hands, generation, page),
            Effect::Unmark { generation, page } => self.unmark(hands, generation, page),
            Effect::Fetch(range) => hands.fetches.push_back(range),
            Effect::Settled { page, outcome } => self.settled(page, outcome),
        }
    }

    /// A demand has ended. A thread that began its fault before the page was marked may have gone
    /// to sleep after the marking woke everybody: the kernel takes a marker for an absent page when
    /// it decides to sleep (`userfaultfd_must_wait`). Its fault is answered here.
    fn settled(&self, page: PageId, outcome: PageOutcome) {
        if let Some(observer) = &self.observer {
            observer.settled(page, outcome);
        }
        match outcome {
            PageOutcome::Present => return self.attendant.page_recovered(page),
            PageOutcome::Failed(_) => {
                self.stats.failed.add(1);
                if self.marking.keeps_waiting() {
                    return;
                }
            }
            PageOutcome::Cancelled => {}
        }
        self.wake(self.regions.range(page, 1));
    }

    /// Reads pages from the store: here and now if that needs no waiting, else in a thread of the
    /// pool.
    fn fetch(self: &Arc<Self>, hands: &mut Hands, range: FetchRange) {
        self.stats.fetches.add(1);
        let request = self.request(range);
        let data = self.make_room(hands, range);
        let read = || self.store.read_now(request, data);
        match catch_unwind(AssertUnwindSafe(read)) {
            Ok(Some(result)) => {
                self.stats.inline_fetches.add(1);
                self.fetched(hands, range, result);
            }
            Ok(None) if hands.may_wait && hands.fetches.is_empty() && hands.kept.is_none() => {
                hands.kept = Some(range);
            }
            Ok(None) => {
                if let Err(error) = self.pool.submit(self, range) {
                    let text = format!("no thread to read {}: {error}", self.store_name);
                    self.fetch_failed(hands, range, CauseKind::Io, Persistence::Temporary, text);
                }
            }
            Err(_) => self.panicked(hands, range),
        }
    }

    /// Reads pages from the store, for as long as that takes, and works off what comes of it.
    pub(crate) fn fetch_blocking(self: &Arc<Self>, hands: &mut Hands, range: FetchRange) {
        let request = self.request(range);
        let data = self.make_room(hands, range);
        match catch_unwind(AssertUnwindSafe(|| self.store.read(request, data))) {
            Ok(result) => self.fetched(hands, range, result),
            Err(_) => self.panicked(hands, range),
        }
        self.work_off(hands);
    }

    fn request(&self, range: FetchRange) -> ReadRequest {
        let offset = self.regions.store_offset(range.first);
        ReadRequest {
            offset,
            attempt: range.attempt,
        }
    }

    /// Where the data of `range` goes.
    fn make_room<'h>(&self, hands: &'h mut Hands, range: FetchRange) -> &'h mut [u8] {
        let page_len = self.regions.page_size(range.first).buffer_len();
        let len = range.count as usize * page_len;
        hands.data_from = range.first;
        hands.data.room(len)
    }

    fn fetched(&self, hands: &mut Hands, range: FetchRange, result: Result<(), StoreError>) {
        match result {
            Ok(()) => {
                self.tell(hands, |m| {
                    m.residency.handle_fetched(range.generation, Ok(()))
                });
            }
            Err(error) => {
                let text = error_text(&error);
                self.fetch_failed(hands, range, error.kind(), error.persistence(), text);
            }
        }
    }

    fn panicked(&self, hands: &mut Hands, range: FetchRange) {
        let text = format!("reading {} panicked", self.store_name);
        self.fetch_failed(hands, range, CauseKind::Io, Persistence::Permanent, text);
    }

    fn fetch_failed(
        &self,
        hands: &mut Hands,
        range: FetchRange,
        kind: CauseKind,
        persistence: Persistence,
        text: String,
    ) {
        self.stats.failed_fetches.add(1);
        let cause = self.causes.add(kind, text);
        let fault = Fault { cause, persistence };
        self.tell(hands, |m| {
            m.residency.handle_fetched(range.generation, Err(fault))
        });
    }
}

/// An error with its chain of causes, on one line.
pub(crate) fn error_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
