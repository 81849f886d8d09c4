//! What KVM counts, by its own names (`KVM_GET_STATS_FD`, Linux 5.14).
//!
//! ```text
//!  header ─► descriptors: name, offset, how to read it ─► data: 64-bit words
//!  └──────────────── read once ───────────────────┘      └ read each time ┘
//! ```
//!
//! Reading needs no vCPU to stand still.
#![expect(unsafe_code, reason = "asks KVM for a descriptor that nobody wraps")]

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use kvm_bindings::{
    KVM_STATS_TYPE_CUMULATIVE, KVM_STATS_TYPE_INSTANT, KVM_STATS_TYPE_MASK, KVM_STATS_TYPE_PEAK,
};
use surefault_core::run::Counters;

use crate::abi::KVM_GET_STATS_FD;

/// Bytes of `struct kvm_stats_header`.
const HEADER: usize = 24;
/// Bytes of `struct kvm_stats_desc`, before the name.
const DESCRIPTOR: usize = 16;
/// More than any kernel has; a kernel that says so is not believed.
const MAX_DESCRIPTORS: usize = 4096;
const MAX_NAME: usize = 256;

/// The counters of a VM or of a vCPU. They outlive it, as far as KVM goes: as long as one of these
/// is open, the VM is not destroyed.
#[derive(Debug)]
pub struct Stats {
    file: File,
    data_offset: u64,
    counters: Vec<Counter>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Counter {
    name: Cow<'static, str>,
    /// In the data, in bytes.
    offset: u32,
    kind: Kind,
}

/// What the values of several vCPUs are together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Sum,
    Largest,
}

impl Stats {
    /// The counters of the VM or vCPU behind `fd`; `None` where KVM has none to show.
    ///
    /// # Errors
    /// When they are there, but cannot be read.
    pub fn of(fd: &impl AsRawFd) -> io::Result<Option<Stats>> {
        // SAFETY: KVM_GET_STATS_FD takes no argument; the descriptor is open while it is borrowed.
        let stats = unsafe { libc::ioctl(fd.as_raw_fd(), KVM_GET_STATS_FD, 0) };
        if stats < 0 {
            return match io::Error::last_os_error() {
                // A kernel without them does not know the number.
                error if matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL)) => {
                    Ok(None)
                }
                error => Err(error),
            };
        }
        // SAFETY: a descriptor that KVM has just made for us, and that nobody else owns.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(stats) });
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0)?;
        let field = |index: usize| word(&header, index * 4) as usize;
        let [name_len, number, descriptors, data] = [1, 2, 4, 5].map(field);
        if name_len > MAX_NAME || number > MAX_DESCRIPTORS {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        let size = DESCRIPTOR + name_len;
        let mut table = vec![0; number * size];
        file.read_exact_at(&mut table, descriptors as u64)?;
        Ok(Some(Stats {
            file,
            data_offset: data as u64,
            counters: table
                .chunks_exact(size)
                .filter_map(Counter::parse)
                .collect(),
        }))
    }

    /// Adds what has been counted so far to `sums`, name by name.
    ///
    /// # Errors
    /// When KVM does not give the values.
    pub fn add_to(&self, sums: &mut Counters) -> io::Result<()> {
        let end = self
            .counters
            .iter()
            .map(|counter| counter.offset as usize + 8);
        let mut data = vec![0; end.max().unwrap_or(0)];
        self.file.read_exact_at(&mut data, self.data_offset)?;
        for counter in &self.counters {
            let at = counter.offset as usize;
            let value = u64::from_le_bytes(data[at..at + 8].try_into().expect("eight bytes"));
            let sum = sums.entry(counter.name.clone()).or_default();
            *sum = match counter.kind {
                Kind::Sum => sum.saturating_add(value),
                Kind::Largest => value.max(*sum),
            };
        }
        Ok(())
    }
}

impl Counter {
    /// The counter of a descriptor; `None` for what is no single number (histograms).
    fn parse(descriptor: &[u8]) -> Option<Counter> {
        let size = u16::from_le_bytes(descriptor[6..8].try_into().expect("two bytes"));
        let kind = match word(descriptor, 0) & KVM_STATS_TYPE_MASK {
            KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_TYPE_INSTANT => Kind::Sum,
            KVM_STATS_TYPE_PEAK => Kind::Largest,
            _ => return None,
        };
        let name = descriptor[DESCRIPTOR..].split(|&byte| byte == 0).next()?;
        (size == 1).then_some(Counter {
            name: String::from_utf8_lossy(name).into_owned().into(),
            offset: word(descriptor, 8),
            kind,
        })
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Page faults that KVM took and that ended without the page: what was asked for in vain.
///
/// `pf_guest` is no other way to settle a fault: every "page not present" that a guest is told is
/// counted there (`kvm_inject_page_fault`), and the built-in guest has no page faults of its own.
pub(crate) fn faults_in_vain(counters: &Counters) -> u64 {
    let of = |name: &str| counters.get(name).copied().unwrap_or(0);
    let settled = ["pf_fixed", "pf_emulate", "pf_spurious", "pf_fast"];
    of("pf_taken").saturating_sub(settled.into_iter().map(of).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(flags: u32, size: u16, offset: u32, name: &str) -> Vec<u8> {
        let mut bytes = flags.to_ne_bytes().to_vec();
        bytes.extend(0u16.to_ne_bytes());
        bytes.extend(size.to_ne_bytes());
        bytes.extend(offset.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(name.as_bytes());
        bytes.resize(DESCRIPTOR + 48, 0);
        bytes
    }

    #[test]
    fn single_numbers_are_counters_and_histograms_are_not() {
        let taken = Counter::parse(&descriptor(KVM_STATS_TYPE_CUMULATIVE, 1, 16, "pf_taken"));
        let taken = taken.unwrap();
        assert_eq!(
            (&*taken.name, taken.offset, taken.kind),
            ("pf_taken", 16, Kind::Sum)
        );
        let peak = Counter::parse(&descriptor(KVM_STATS_TYPE_PEAK, 1, 0, "most"));
        assert_eq!(peak.unwrap().kind, Kind::Largest);
        let histogram = descriptor(3, 20, 0, "halt_poll_success_hist");
        assert_eq!(Counter::parse(&histogram), None);
    }

    #[test]
    fn what_was_settled_was_not_in_vain() {
        let counters = [
            ("pf_taken", 10),
            ("pf_fixed", 3),
            ("pf_spurious", 1),
            ("exits", 99),
        ];
        let counters = counters.map(|(name, value)| (name.into(), value)).into();
        assert_eq!(faults_in_vain(&counters), 6);
        assert_eq!(faults_in_vain(&Counters::new()), 0);
    }
}
