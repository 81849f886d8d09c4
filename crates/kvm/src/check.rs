//! Holds a guest's sums, and what it wrote, to its source.

use surefault_core::run::TaskId;
use surefault_core::workload::{FirstTouch, STAMP_OFFSET, stamp};
use surefault_core::{PageIndex, PageSize};
use surefault_store::{ReadRequest, Store, StoreError};

use crate::machine::Machine;
use crate::memory::MemoryError;

/// What came of checking all tasks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checked {
    /// Touches done, by all tasks whose sums are right.
    pub pages_done: u64,
    /// Tasks that did all of their touches.
    pub tasks_finished: u16,
    /// Tasks with a wrong sum, and pages with a wrong stamp.
    pub wrong: u64,
    /// Tasks whose sums could not be checked, because the source could not be read.
    pub unchecked: u64,
}

/// Checks what every task of `machine` has done so far. The guest must not be running; `source` is
/// the source as it is, without any planned failures.
///
/// # Errors
/// When memory that the guest has used cannot be read.
pub fn check(
    machine: &Machine,
    source: &dyn Store,
    page_size: PageSize,
) -> Result<Checked, MemoryError> {
    let mut checked = Checked::default();
    let mut buffer = vec![0; page_size.buffer_len()];
    for task in machine.tasks() {
        let progress = machine.progress(task)?;
        let touches = &machine.workload().tasks()[usize::from(task.get())];
        // A guest that claims more than there was to do is wrong, and nothing to index with.
        let Some(done) = usize::try_from(progress.done)
            .ok()
            .filter(|&done| done <= touches.len())
        else {
            checked.wrong += 1;
            continue;
        };
        match is_right(machine, task, done, progress.sum, source, &mut buffer) {
            Ok(true) => checked.pages_done += progress.done,
            Ok(false) => checked.wrong += 1,
            Err(_) => checked.unchecked += 1,
        }
        checked.tasks_finished += u16::from(done == touches.len());
        for touch in &touches[..done] {
            if touch.first == FirstTouch::Write && !is_stamped(machine, touch.page, page_size)? {
                checked.wrong += 1;
            }
        }
    }
    Ok(checked)
}

fn is_right(
    machine: &Machine,
    task: TaskId,
    done: usize,
    sum: u64,
    source: &dyn Store,
    buffer: &mut [u8],
) -> Result<bool, StoreError> {
    let page_len = buffer.len() as u64;
    let read = |page: PageIndex, buffer: &mut [u8]| {
        source.read(ReadRequest::first(u64::from(page.get()) * page_len), buffer)
    };
    let workload = machine.workload();
    if workload.sum_after(task, done, buffer, read)? == sum {
        return Ok(true);
    }
    // The task may have been stopped after it wrote its sum, before it counted the touch.
    Ok(done < workload.tasks()[usize::from(task.get())].len()
        && workload.sum_after(task, done + 1, buffer, read)? == sum)
}

fn is_stamped(
    machine: &Machine,
    page: PageIndex,
    page_size: PageSize,
) -> Result<bool, MemoryError> {
    let mut word = [0; 8];
    let offset = u64::from(page.get()) * page_size.bytes() + STAMP_OFFSET as u64;
    machine.data().read(offset, &mut word)?;
    Ok(u64::from_le_bytes(word) == stamp(page))
}
