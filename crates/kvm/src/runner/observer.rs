//! Who is told about a run while it goes on.

use core::ops::ControlFlow;
use core::time::Duration;

use surefault_core::run::Reported;

use super::WhilePaused;

/// Watches a run, and may decide how it goes on.
pub trait Observer {
    /// How far the run is; called every now and then. Breaking cancels it.
    fn progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        let _ = progress;
        ControlFlow::Continue(())
    }

    /// The run is paused at this report, and has been for so long; called every now and then. Says
    /// how it goes on.
    fn paused(&mut self, reported: &Reported, since: Duration) -> WhilePaused {
        let _ = (reported, since);
        WhilePaused::End
    }

    /// A vCPU stopped with a report; the others are still running.
    fn reported(&mut self, reported: &Reported) -> AfterReport {
        let _ = reported;
        AfterReport::Stop
    }
}

/// Watches nothing, and ends at the first report.
impl Observer for () {}

/// What to do after a report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterReport {
    /// End the run.
    Stop,
    /// The page can be had now: heal it, and run the vCPU on.
    Heal,
    /// Pause all vCPUs, until the page can be had or the observer says so ([`Observer::paused`]).
    Pause,
    /// Run the vCPU on as it is. The access is made again, and ends in the same report unless
    /// somebody has healed the page.
    Resume,
}

/// How far a run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Touches done.
    pub done: u64,
    /// Touches in all.
    pub total: u64,
    /// What the counting tasks have counted.
    pub counted: u64,
    /// The most often that a page was asked for again after it had been said ready, in vain; only
    /// where asynchronous faults come from user space.
    pub asked_again: u64,
    /// Since the guest started.
    pub elapsed: Duration,
}
