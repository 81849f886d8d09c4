//! Going on where another machine ended, whose driver was killed.
//!
//! What a driver records of its pages, in memory that outlives it, is enough: what was pending is
//! absent again, and whoever waited for it faults again as soon as the next driver wakes everybody.

use thiserror::Error;

use super::failures::FailureRecord;
use super::settled::SettledState;
use super::{ConfigError, Residency, ResidencyConfig};
use crate::{Failure, PageCount};

mod record;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

pub use record::PageRecord;

/// What a machine goes on from, for a page: what a [`PageRecord`] comes to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RecordedPage {
    /// Nothing that lasts. Also for a page whose install was intended and may have been carried out:
    /// installing it again says so, and a prefetch is enough to do that.
    Absent,
    /// It was installed. A demand for it is answered with zeros, which are put in place only where
    /// nothing is: its old contents are never fetched again.
    Present,
    /// The guest has given it back: it reads as zeros.
    Removed,
    /// It was made to fail, or was about to be. Whoever asks for it gets another try: somebody who
    /// can ask by a fault has found no marker.
    Failed(Failure),
}

/// Why a machine could not go on.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The limits or regions make no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The record is of another memory.
    #[error("{recorded} pages are recorded, of {pages}")]
    OtherMemory {
        /// Pages recorded, or one more than there should be.
        recorded: u64,
        /// Pages of the memory.
        pages: u64,
    },
}

impl Residency {
    /// A machine for a memory of these regions, of which another has recorded its pages: all of
    /// them, region by region, in order.
    ///
    /// As many failures as are recorded are remembered, whatever `config` says.
    ///
    /// # Errors
    /// When the limits or regions make no sense, or another number of pages is recorded.
    pub fn restored(
        config: ResidencyConfig,
        regions: &[PageCount],
        recorded: impl IntoIterator<Item = RecordedPage>,
    ) -> Result<Residency, RestoreError> {
        let mut machine = Residency::new(config, regions)?;
        let pages = machine.regions.total();
        let mut recorded = recorded.into_iter();
        let mut known = 0;
        let numbered = machine.regions.clone();
        for (position, page) in numbered.pages() {
            let Some(state) = recorded.next() else {
                let recorded = known;
                return Err(RestoreError::OtherMemory { recorded, pages });
            };
            known += 1;
            let settled = match state {
                RecordedPage::Absent => continue,
                RecordedPage::Present => SettledState::Present,
                RecordedPage::Removed => SettledState::Removed,
                RecordedPage::Failed(failure) => {
                    let generation = machine.draw_generation();
                    machine.failures.insert(FailureRecord {
                        page,
                        failure,
                        generation,
                        expired: true,
                    });
                    SettledState::Failed
                }
            };
            machine.settled.set(position, settled);
        }
        if recorded.next().is_some() {
            let recorded = known + 1;
            return Err(RestoreError::OtherMemory { recorded, pages });
        }
        let failures = machine.failures.len();
        machine.config.max_failures = machine.config.max_failures.max(failures);
        machine.debug_check();
        Ok(machine)
    }
}
