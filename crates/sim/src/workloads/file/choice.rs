//! Which pages or tasks a field is about.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use surefault_core::plan::PageSet;
use surefault_core::run::TaskId;
use surefault_core::{PageCount, PageIndex};

use crate::workloads::SizeError;

/// Pages or tasks, by what they are or by number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Choice {
    None,
    Failing,
    Healthy,
    All,
    These(Vec<RangeInclusive<u32>>),
}

/// The words for it.
pub(super) const PAGES: &str = "failing, healthy, all, none, or pages: 5 or 5,9-12";
pub(super) const TASKS: &str = "failing, healthy, all, none, or tasks: 5 or 5,9-12";

impl Choice {
    /// Reads one; `None` when it is none.
    pub(super) fn read(text: &str) -> Option<Choice> {
        Some(match text {
            "none" => Choice::None,
            "failing" => Choice::Failing,
            "healthy" => Choice::Healthy,
            "all" => Choice::All,
            numbers => match numbers.parse() {
                Ok(PageSet::Ranges(ranges)) => {
                    let range = |(first, last): (PageIndex, PageIndex)| first.get()..=last.get();
                    Choice::These(ranges.into_iter().map(range).collect())
                }
                Ok(PageSet::Random(_)) | Err(_) => return None,
            },
        })
    }

    /// The pages, of so many and with these failing, that `field` is about.
    pub(super) fn pages(
        &self,
        field: &'static str,
        (pages, failing): (PageCount, &[PageIndex]),
    ) -> Result<BTreeSet<PageIndex>, SizeError> {
        let all = || (0..pages.get() as u32).map(PageIndex::new);
        let fails = |page: &PageIndex| failing.binary_search(page).is_ok();
        Ok(match self {
            Choice::None => BTreeSet::new(),
            Choice::Failing => failing.iter().copied().collect(),
            Choice::Healthy => all().filter(|page| !fails(page)).collect(),
            Choice::All => all().collect(),
            Choice::These(ranges) => {
                let last = ranges.iter().map(|range| *range.end()).max().unwrap_or(0);
                if u64::from(last) >= pages.get() {
                    return Err(SizeError::NoSuchPage {
                        field,
                        page: PageIndex::new(last),
                        pages: pages.get(),
                    });
                }
                ranges
                    .iter()
                    .cloned()
                    .flatten()
                    .map(PageIndex::new)
                    .collect()
            }
        })
    }

    /// The tasks, of so many of which the first `owners` have failing pages.
    pub(super) fn tasks(&self, tasks: u16, owners: u16) -> Result<BTreeSet<TaskId>, SizeError> {
        let numbers = match self {
            Choice::None => 0..0,
            Choice::Failing => 0..owners,
            Choice::Healthy => owners..tasks,
            Choice::All => 0..tasks,
            Choice::These(ranges) => {
                let last = ranges.iter().map(|range| *range.end()).max().unwrap_or(0);
                if last >= u32::from(tasks) {
                    return Err(SizeError::NoSuchTask { task: last, tasks });
                }
                let tasks = ranges.iter().cloned().flatten();
                return Ok(tasks.map(|task| TaskId::new(task as u16)).collect());
            }
        };
        Ok(numbers.map(TaskId::new).collect())
    }
}
