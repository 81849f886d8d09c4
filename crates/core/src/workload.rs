//! What the tasks of a run touch, in which order, and what they must read: pure data, so that the
//! real guest and the simulated one do the same and can be held to the same sums.
//!
//! A task works through its list of [`Touch`]es. For each it writes the page's *stamp* first, or
//! calls into the page, or neither; then it reads the whole page into a [`page_sum`] and [`fold`]s
//! that into its running sum. The running sum after every touch can be computed from the source
//! alone ([`Workload::sum_after`]), so a run that stopped half way is checked as well as one that
//! finished.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::plan::mix;
use crate::run::TaskId;
use crate::{PageCount, PageIndex};

#[cfg(test)]
mod tests;

/// Where in a page the stamp goes, in bytes from the page's start: not its first word, so that a
/// report is seen to name the page and not the address.
pub const STAMP_OFFSET: usize = 0x88;

/// The stamp of page 0; page `n` has this plus `n`.
pub const STAMP_KEY: u64 = 0x5afe_fa17_0000_0000;

/// What a page's sum, and a task's running sum, start from.
pub const SUM_START: u64 = 0x243f_6a88_85a3_08d3;

/// What sums are multiplied by after each word: odd, so that no word is ever forgotten.
pub const SUM_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// One visit of a task to a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Touch {
    /// The page.
    pub page: PageIndex,
    /// What happens before the page is read.
    pub first: FirstTouch,
}

/// How a task touches a page before it sums it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FirstTouch {
    /// Not at all: the first access reads.
    Read,
    /// It writes the page's stamp.
    Write,
    /// It calls the page's first byte, where the page must hold code that returns at once.
    Call,
}

/// What each task touches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Workload {
    pages: PageCount,
    tasks: Vec<Vec<Touch>>,
}

/// Lists of touches that make no workload.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// A task has a page on its list that the region does not have.
    #[error("task {task} touches page {page} of a region of {pages} pages")]
    NoSuchPage {
        /// The task.
        task: TaskId,
        /// The page.
        page: PageIndex,
        /// The region's size.
        pages: PageCount,
    },
    /// What a task reads would depend on who comes first.
    #[error("page {page} is written by one task and touched by another, {task}")]
    SharedWrite {
        /// The other task.
        task: TaskId,
        /// The page.
        page: PageIndex,
    },
    /// More tasks than a [`TaskId`] can tell apart.
    #[error("{tasks} tasks are too many")]
    TooManyTasks {
        /// How many there were.
        tasks: usize,
    },
}

impl Workload {
    /// The workload of these lists, one a task, in a region of `pages` pages.
    ///
    /// # Errors
    /// When a page is not in the region, or a page that one task writes is touched by another.
    pub fn new(pages: PageCount, tasks: Vec<Vec<Touch>>) -> Result<Workload, WorkloadError> {
        if tasks.len() > usize::from(u16::MAX) {
            return Err(WorkloadError::TooManyTasks { tasks: tasks.len() });
        }
        // Sorted by page, so that all visits to one page are neighbours.
        let mut visits = Vec::new();
        for (task, touches) in (0..).map(TaskId::new).zip(&tasks) {
            for &Touch { page, first } in touches {
                if u64::from(page.get()) >= pages.get() {
                    return Err(WorkloadError::NoSuchPage { task, page, pages });
                }
                visits.push((page, task, first == FirstTouch::Write));
            }
        }
        visits.sort_unstable();
        for visits in visits.chunk_by(|a, b| a.0 == b.0) {
            let (page, owner, _) = visits[0];
            let written = visits.iter().any(|&(_, _, writes)| writes);
            let stranger = visits.iter().find(|&&(_, task, _)| task != owner);
            if let (true, Some(&(_, task, _))) = (written, stranger) {
                return Err(WorkloadError::SharedWrite { task, page });
            }
        }
        Ok(Workload { pages, tasks })
    }

    /// The usual workload: every page is touched once, in an order that `seed` decides, the pages
    /// dealt round robin to the tasks; about a quarter of them are written first.
    ///
    /// # Panics
    /// When there are more pages than a [`PageIndex`] can number.
    pub fn partition(pages: PageCount, tasks: u16, seed: u64) -> Workload {
        let count = u32::try_from(pages.get()).expect("pages are numbered by 32 bits");
        let mut order: Vec<u32> = (0..count).collect();
        // Fisher and Yates; the modulo's bias does not matter to an order.
        for i in (1..count).rev() {
            let j = mix(seed ^ mix(u64::from(i))) % (u64::from(i) + 1);
            order.swap(i as usize, j as usize);
        }
        let mut lists = vec![Vec::new(); usize::from(tasks)];
        for (page, task) in order.into_iter().zip((0..lists.len()).cycle()) {
            let first = match mix(!seed ^ mix(u64::from(page))) % 4 {
                0 => FirstTouch::Write,
                _ => FirstTouch::Read,
            };
            lists[task].push(Touch {
                page: PageIndex::new(page),
                first,
            });
        }
        Workload {
            pages,
            tasks: lists,
        }
    }

    /// Pages of the region.
    pub fn pages(&self) -> PageCount {
        self.pages
    }

    /// What each task touches, by task.
    pub fn tasks(&self) -> &[Vec<Touch>] {
        &self.tasks
    }

    /// The running sum of `task` after its first `count` touches, with pages as `read` gives them
    /// from the source: `read` fills its second argument, which is `buffer`.
    ///
    /// # Errors
    /// When `read` fails.
    ///
    /// # Panics
    /// When there is no such task or it has fewer touches.
    pub fn sum_after<E>(
        &self,
        task: TaskId,
        count: usize,
        buffer: &mut [u8],
        mut read: impl FnMut(PageIndex, &mut [u8]) -> Result<(), E>,
    ) -> Result<u64, E> {
        let mut stamped = BTreeSet::new();
        let mut sum = SUM_START;
        for &Touch { page, first } in &self.tasks[usize::from(task.get())][..count] {
            read(page, buffer)?;
            if first == FirstTouch::Write {
                stamped.insert(page);
            }
            if stamped.contains(&page) {
                write_stamp(buffer, page);
            }
            sum = fold(sum, page_sum(buffer));
        }
        Ok(sum)
    }
}

/// The word that a task writes into `page`.
pub const fn stamp(page: PageIndex) -> u64 {
    STAMP_KEY.wrapping_add(page.get() as u64)
}

/// Puts the stamp of `page` into its bytes, as a task does.
///
/// # Panics
/// When `bytes` is too short to be a page.
pub fn write_stamp(bytes: &mut [u8], page: PageIndex) {
    bytes[STAMP_OFFSET..STAMP_OFFSET + 8].copy_from_slice(&stamp(page).to_le_bytes());
}

/// The sum of a page's bytes, read as little-endian 64-bit words.
pub fn page_sum(bytes: &[u8]) -> u64 {
    bytes.chunks_exact(8).fold(SUM_START, |sum, word| {
        let word = u64::from_le_bytes(word.try_into().expect("chunks of eight bytes"));
        fold(sum, word)
    })
}

/// Takes one more word, or one more page's sum, into a sum.
pub const fn fold(sum: u64, word: u64) -> u64 {
    (sum ^ word).wrapping_mul(SUM_FACTOR)
}
