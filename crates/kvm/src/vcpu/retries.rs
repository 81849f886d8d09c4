//! How often an access is made again that finds its page neither present nor failed.

use core::time::Duration;

use surefault_core::{Gpa, Gva};

/// An access that found its page neither present nor failed this often, in a row, at one
/// instruction: somebody is not telling the truth, and a loop without end is what we are here
/// to prevent.
const MAX_RETRIES: u32 = 10_000;

/// The first retries are made at once; later ones give whoever settles the page this much time.
const RETRY_PAUSE: Duration = Duration::from_millis(1);
const EAGER_RETRIES: u32 = 16;

/// Counts retries of one access in a row.
#[derive(Default)]
pub(super) struct Retries {
    at: Option<(Gva, Gpa)>,
    count: u32,
}

impl Retries {
    /// Counts one more retry there; false when there have been too many.
    pub(super) fn again_at(&mut self, rip: Gva, page: Gpa) -> bool {
        if self.at != Some((rip, page)) {
            self.at = Some((rip, page));
            self.count = 0;
        }
        self.count += 1;
        if self.count > EAGER_RETRIES {
            std::thread::sleep(RETRY_PAUSE);
        }
        self.count <= MAX_RETRIES
    }
}
