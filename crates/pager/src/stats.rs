//! What a pager counts.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a pager has counted since it started.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct PagerStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl PagerStats {
            /// Counts all of another's.
            pub fn add(&mut self, other: &PagerStats) {
                $(self.$name += other.$name;)*
            }

            /// The counters by name.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        impl Counters {
            pub(crate) fn read(&self) -> PagerStats {
                PagerStats { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Page faults read from the kernel.
    faults,
    /// Reads of the source that were started.
    fetches,
    /// Of those, reads that were answered without waiting, in the event loop.
    inline_fetches,
    /// Reads of the source that failed.
    failed_fetches,
    /// Pages put in place.
    installed,
    /// Pages of zeros put in place.
    zeroed,
    /// Times that a demanded page turned out to have failed, repeated demands included.
    failed,
    /// Pages that were healed.
    healed,
    /// Installs that were out of date when their turn came, in pages.
    dropped,
    /// Pages that their owner gave back, as it told in events.
    removed,
    /// Times that the kernel asked to try an install again.
    deferred,
    /// Messages from the kernel that were not understood or could not be read. Anything but 0 is a
    /// bug.
    strange_events,
}

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
