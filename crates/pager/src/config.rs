//! What a pager is told.

use surefault_core::residency::ResidencyConfig;

use crate::Prefetch;

/// Pages read and installed in one go. Twice as many would be a little faster in a sweep, and a fault
/// elsewhere would wait twice as long behind them.
const MAX_RANGE: u32 = 64;

/// How a pager works.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PagerConfig {
    /// Budgets, deadlines and limits. A fetch thread is started for each outstanding fetch that
    /// needs one, so `max_fetches` limits the threads, too.
    pub residency: ResidencyConfig,
    /// Events read at once, at least 1.
    pub batch: usize,
    /// How an access to a failed page is made to fail.
    pub failed_page: FailedPage,
    /// A first access to a page does not wait for it but is refused, as if the page had failed, with
    /// its address: whoever made it asks with [`Pager::verdict`](crate::Pager::verdict), and makes it
    /// again when the page is there. That spares whoever can do something else meanwhile the way into
    /// a wait and out of it. For memory of this process that is touched by those only who know of
    /// this: a system call that is given an absent page fails with `EFAULT`, and so does KVM where it
    /// reads for its guest, whose page tables and descriptor tables must be elsewhere. A page that was
    /// thrown away or healed is waited for as usual, and so is all where pages are not poisoned.
    pub refuse_absent: bool,
    /// What is fetched before somebody wants it.
    pub prefetch: Prefetch,
}

impl Default for PagerConfig {
    fn default() -> Self {
        PagerConfig {
            residency: ResidencyConfig {
                max_range: MAX_RANGE,
                ..ResidencyConfig::default()
            },
            batch: 64,
            failed_page: FailedPage::Auto,
            refuse_absent: false,
            prefetch: Prefetch::None,
        }
    }
}

/// How an access to a failed page is made to fail.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FailedPage {
    /// By poison where the kernel has it, else by protection, or in another process by its end.
    Auto,
    /// `UFFDIO_POISON` (Linux 6.6): SIGBUS with the address.
    Poison,
    /// `mprotect(PROT_NONE)` and a wake-up: SIGSEGV, or `EFAULT` from `KVM_RUN` without an address.
    /// Only for memory of this process.
    Protect,
    /// The process that has the memory is killed ([`Attendant::kill`](crate::Attendant::kill)), before
    /// it can see the page. Only for memory of another process, where it is what `Auto` means if the
    /// kernel cannot poison.
    Kill,
    /// Not at all: who waits for it goes on waiting, and it is tried again and again. Only for memory
    /// of another process.
    Wait,
}
