//! A run that has stopped at a failed page, and waits: for the source to have the page after all, or
//! for somebody to say how it goes on.
//!
//! ```text
//!  report ─► all vCPUs out of the guest ─► paused ─┬─ the page is there ───► run on, healed
//!                                                  ├─ Resume ──────────────► run on
//!                                                  ├─ Heal ─► repair it ───► run on, healed
//!                                                  └─ End ─────────────────► reported
//! ```
//!
//! The failure is forgotten as the wait begins, and the page asked for again and again without
//! anybody waiting for it. Whoever runs the vCPU on makes the same access again: it succeeds, or
//! fails anew, with another report.

use std::time::{Duration, Instant};

use surefault_core::PageId;
use surefault_core::run::Reported;

use super::{Observer, RunError};
use crate::pages::PageSource;

/// How often the page is looked after, and the observer asked.
const LOOK: Duration = Duration::from_millis(50);

/// How a run that is paused goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhilePaused {
    /// It waits.
    Wait,
    /// It goes on. The access is made again; if the page still cannot be had, that is another
    /// failure, and another report.
    Resume,
    /// The source has been repaired: it goes on.
    Heal,
    /// It ends with the report.
    End,
}

/// How a pause ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Paused {
    Resumed,
    Healed,
    Ended,
}

/// Waits at `reported`, with no vCPU in the guest.
pub(super) fn wait(
    page: PageId,
    pages: &dyn PageSource,
    heal: &dyn Fn(PageId) -> Result<(), RunError>,
    observer: &mut dyn Observer,
    reported: &Reported,
) -> Result<Paused, RunError> {
    let began = Instant::now();
    loop {
        if pages.try_again(page) {
            return Ok(Paused::Healed);
        }
        match observer.paused(reported, began.elapsed()) {
            WhilePaused::Wait => std::thread::sleep(LOOK),
            WhilePaused::Resume => return Ok(Paused::Resumed),
            WhilePaused::Heal => {
                heal(page)?;
                return Ok(Paused::Healed);
            }
            WhilePaused::End => return Ok(Paused::Ended),
        }
    }
}
