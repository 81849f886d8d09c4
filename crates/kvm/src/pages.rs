//! Who provides the pages of a VM's memory, as far as its vCPUs are concerned.
#![expect(unsafe_code, reason = "gives memory into a pager's hands")]

use std::sync::Arc;

use surefault_core::residency::PageState;
use surefault_core::{Cause, Hva, PageCount, PageId, PageSize};
use surefault_pager::{FaultObserver, PageVerdict, Pager, PagerConfig, ServedRegion, StartError};
use surefault_store::Store;

use crate::memory::Mapping;

/// The size of this host's pages.
pub fn host_page_size() -> PageSize {
    PageSize::new(rustix::param::page_size() as u64).expect("a page's size is a power of two")
}

/// Provides pages of guest memory, and knows why it cannot provide some.
pub trait PageSource: Send + Sync {
    /// The size of its pages.
    fn page_size(&self) -> PageSize;

    /// The page that `hva` lies in; `None` for memory that it does not provide.
    fn page_of(&self, hva: Hva) -> Option<PageId>;

    /// What is to be said of `page` to a vCPU that could not have it just now. This is a demand for
    /// the page: a failure whose time has passed is not taken for one.
    fn demand(&self, page: PageId) -> PageState;

    /// What is known of `page`, without asking for it where asking makes a difference.
    fn state(&self, page: PageId) -> PageState {
        self.demand(page)
    }

    /// Takes the failure of `page`, if it has failed, for over: the next demand asks the source anew.
    fn forget_failure(&self, page: PageId) {
        let _ = page;
    }

    /// Whether a page that is merely absent is refused like one that has failed
    /// ([`PagerConfig::refuse_absent`]), to be asked for by [`demand`](Self::demand).
    fn refuses_absent(&self) -> bool {
        false
    }

    /// Returns when whoever observes the faults has been told of all that were seen before.
    fn pass_events(&self) {}

    /// Whether `page`, which has failed, can be had now. If not, its failure is forgotten and it is
    /// asked for, so that an access to it, or the next call, may find it. `false` for whoever has no
    /// way to find out.
    fn try_again(&self, page: PageId) -> bool {
        let _ = page;
        false
    }

    /// The text of a cause.
    fn cause_text(&self, cause: Cause) -> String;
}

/// Provides no page on demand: for guests whose memory is all there.
#[derive(Clone, Copy, Debug)]
pub struct NoPages;

impl PageSource for NoPages {
    fn page_size(&self) -> PageSize {
        host_page_size()
    }

    fn page_of(&self, _: Hva) -> Option<PageId> {
        None
    }

    fn demand(&self, _: PageId) -> PageState {
        PageState::Absent
    }

    fn cause_text(&self, cause: Cause) -> String {
        cause.kind.to_string()
    }
}

/// A mapping whose pages come from a pager in this process.
pub struct Paged {
    // Dropped before the mapping that it serves.
    pager: Pager,
    mapping: Arc<Mapping>,
    page_size: PageSize,
}

impl Paged {
    /// Serves all of `mapping`, which nobody has touched yet, from the start of `store`; `observer`
    /// is told who waits.
    ///
    /// # Errors
    /// When memory cannot be served here, or the mapping is not whole pages of `page_size`.
    pub fn start(
        mapping: Arc<Mapping>,
        page_size: PageSize,
        store: Arc<dyn Store>,
        config: &PagerConfig,
        observer: Option<Arc<dyn FaultObserver>>,
    ) -> Result<Paged, StartError> {
        let region = ServedRegion {
            start: mapping.hva(),
            pages: PageCount::new(mapping.len() as u64 >> page_size.shift()),
            page_size,
            store_offset: 0,
        };
        // The region is private anonymous memory, readable and writable, and stays mapped
        // until the pager is dropped. No reference points into it: everybody goes through the
        // kernel. Neither pagers nor stores are given the mapping.
        let pager = match observer {
            // SAFETY: as promised above.
            None => unsafe { Pager::start(&[region], store, config) },
            // SAFETY: as promised above.
            Some(observer) => unsafe { Pager::start_observed(&[region], store, config, observer) },
        }?;
        Ok(Paged {
            pager,
            mapping,
            page_size,
        })
    }

    /// The pager.
    pub fn pager(&self) -> &Pager {
        &self.pager
    }

    /// The memory that it serves.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }
}

impl PageSource for Paged {
    fn page_size(&self) -> PageSize {
        self.page_size
    }

    fn page_of(&self, hva: Hva) -> Option<PageId> {
        self.pager.page_of(hva)
    }

    fn demand(&self, page: PageId) -> PageState {
        match self.pager.verdict(page) {
            PageVerdict::Failed(failure) => PageState::Failed(failure),
            // There or on its way: no difference to whoever was refused it.
            PageVerdict::Retry => PageState::Pending,
        }
    }

    fn state(&self, page: PageId) -> PageState {
        self.pager.state(page)
    }

    fn forget_failure(&self, page: PageId) {
        self.pager.heal(page, 1);
    }

    fn refuses_absent(&self) -> bool {
        self.pager.refuses_absent()
    }

    fn pass_events(&self) {
        self.pager.pass_events();
    }

    fn try_again(&self, page: PageId) -> bool {
        match self.pager.state(page) {
            PageState::Failed(_) => {
                self.pager.heal(page, 1);
                self.pager.prefetch(page, 1);
                false
            }
            PageState::Absent => {
                self.pager.prefetch(page, 1);
                false
            }
            PageState::Pending => false,
            PageState::Present | PageState::Removed => true,
        }
    }

    fn cause_text(&self, cause: Cause) -> String {
        self.pager.cause_text(cause)
    }
}
