//! `retry`: what Linux does.

use crate::faults::FaultsConfig;

use super::Policy;

/// Linux to this day: the error of an asynchronous fault is dropped.
///
/// The worker's result is not looked at, the prefault's is ignored, the guest is told "ready", and
/// the access is tried again. Where the error is temporary that is all it takes; where it is
/// permanent the no-wait attempt says "needs I/O" again and the loop never ends
/// (`kvm_arch_async_page_ready`, measured on 6.1, 6.12, 6.18 and 7.3).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Retry;

impl Policy for Retry {
    fn new(_: &FaultsConfig) -> Retry {
        Retry
    }
}
