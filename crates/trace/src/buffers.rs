//! The ring buffers of an instance, one for each CPU, read without waiting.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::error::{Operation, TraceError};
use crate::format::PageHeader;
use crate::kernel_fs::{Directory, failed};
use crate::subbuffer::{Lost, RawEvent, SubBuffer};

/// One CPU's buffer.
#[derive(Debug)]
struct CpuBuffer {
    cpu: u16,
    raw: OwnedFd,
    /// What the kernel had counted as lost when we last looked.
    lost: u64,
}

/// The buffers of all CPUs.
#[derive(Debug)]
pub(crate) struct Buffers {
    cpus: Vec<CpuBuffer>,
    page: Vec<u8>,
    /// At most this many pages are taken from one CPU at once, so that a flood on one CPU does not
    /// keep us from the others.
    pages_at_once: u32,
}

/// What came of reading, besides the events.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Taken {
    pub(crate) lost: u64,
    pub(crate) malformed: u64,
    /// A buffer may hold more.
    pub(crate) more: bool,
}

impl Buffers {
    pub(crate) fn open(
        instance: &Directory,
        header: &PageHeader,
        pages_at_once: u32,
    ) -> Result<Buffers, TraceError> {
        let mut cpus = Vec::new();
        for name in instance_cpus(instance)? {
            let Some(cpu) = name.strip_prefix("cpu").and_then(|n| n.parse().ok()) else {
                continue;
            };
            cpus.push(CpuBuffer {
                cpu,
                raw: instance.open_nonblocking(&format!("per_cpu/{name}/trace_pipe_raw"))?,
                lost: 0,
            });
        }
        Ok(Buffers {
            cpus,
            page: vec![0; header.page_len],
            pages_at_once,
        })
    }

    /// Waits until some buffer is well filled, a signal comes, or the time is over.
    pub(crate) fn wait(&self, timeout: Duration) -> Result<(), TraceError> {
        let mut fds: Vec<PollFd<'_>> = self
            .cpus
            .iter()
            .map(|cpu| PollFd::new(&cpu.raw, PollFlags::IN))
            .collect();
        let timeout = Timespec::try_from(timeout).unwrap_or(Timespec {
            tv_sec: 3600,
            tv_nsec: 0,
        });
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(failed(Operation::Poll, "per_cpu/*/trace_pipe_raw")(errno)),
        }
    }

    /// Hands over what is in the buffers, CPU by CPU, and stops at the first page of a CPU that
    /// reaches beyond the time `until`: reading may make events of its own.
    pub(crate) fn take(
        &mut self,
        instance: &Directory,
        header: &PageHeader,
        until: u64,
        mut on_event: impl FnMut(u16, RawEvent<'_>),
    ) -> Result<Taken, TraceError> {
        let mut taken = Taken::default();
        for cpu in &mut self.cpus {
            let mut pages = 0;
            while pages < self.pages_at_once {
                let length = match rustix::io::read(&cpu.raw, &mut self.page[..]) {
                    Ok(0) | Err(Errno::AGAIN) => break,
                    Ok(length) => length,
                    Err(Errno::INTR) => continue,
                    Err(errno) => {
                        let path = format!("per_cpu/cpu{}/trace_pipe_raw", cpu.cpu);
                        return Err(failed(Operation::Read, &instance.join(&path))(errno));
                    }
                };
                pages += 1;
                let Some(mut events) = SubBuffer::new(header, &self.page[..length]) else {
                    taken.malformed += 1;
                    continue;
                };
                taken.lost += match events.lost() {
                    Lost::Nothing => 0,
                    Lost::Count(count) => cpu.count_lost(instance).unwrap_or(count),
                    Lost::Some => cpu.count_lost(instance).unwrap_or(1),
                };
                let mut last = 0;
                for event in &mut events {
                    last = event.time;
                    on_event(cpu.cpu, event);
                }
                taken.malformed += u64::from(events.is_malformed());
                if last > until {
                    break;
                }
                taken.more |= pages == self.pages_at_once;
            }
        }
        Ok(taken)
    }
}

impl CpuBuffer {
    /// How many events the kernel has lost since the last call: a page says *that* it follows a
    /// gap, and only sometimes how wide that is. `None` when the kernel does not tell.
    fn count_lost(&mut self, instance: &Directory) -> Option<u64> {
        let stats = instance
            .read(&format!("per_cpu/cpu{}/stats", self.cpu))
            .ok()?;
        let total = lost_total(&stats)?;
        let since = total.saturating_sub(self.lost);
        self.lost = total;
        Some(since)
    }
}

/// Events overwritten and events that found no room, in a `stats` file.
fn lost_total(stats: &str) -> Option<u64> {
    let count = |key: &str| -> Option<u64> {
        let line = stats.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().parse().ok()
    };
    Some(count("overrun:")? + count("dropped events:").unwrap_or(0))
}

fn instance_cpus(instance: &Directory) -> Result<Vec<String>, TraceError> {
    instance.subdirectory("per_cpu")?.list()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_events_are_those_overwritten_and_those_refused() {
        let stats = "entries: 12\noverrun: 700\ncommit overrun: 3\nbytes: 480\n\
                     oldest event ts:  1.000\nnow ts:  2.000\ndropped events: 5\nread events: 9\n";
        assert_eq!(lost_total(stats), Some(705));
        assert_eq!(lost_total("entries: 12\n"), None);
    }
}
