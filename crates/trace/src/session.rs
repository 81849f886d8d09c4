//! An instance with the events that were asked for, and their records.

use core::fmt;
use std::time::Duration;

use crate::buffers::Buffers;
use crate::error::{Operation, TraceError};
use crate::format::{EventFormat, PageHeader};
use crate::instance::Instance;
use crate::kernel_fs::{Directory, KernelFs, KernelFsKind};
use crate::subbuffer::RawEvent;

/// More fields than this cannot be asked for.
pub const MAX_FIELDS: usize = 3;

/// What is younger than this is held back: an event has its time before it can be read, and one CPU
/// is read after the other.
pub const HOLD: Duration = Duration::from_millis(5);

/// An event to record, and the fields of it that matter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// The event's system, such as `kvm`.
    pub system: &'static str,
    /// The event's name.
    pub event: &'static str,
    /// Integer fields, at most [`MAX_FIELDS`].
    pub fields: &'static [&'static str],
    /// Whether a kernel without the event will not do.
    pub required: bool,
}

/// How to record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionOptions {
    /// Memory for the events of one CPU, in KiB. A record of two addresses takes 28 bytes.
    pub buffer_kib: u32,
}

impl Default for SessionOptions {
    fn default() -> SessionOptions {
        SessionOptions { buffer_kib: 512 }
    }
}

/// One event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// When it happened: nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// Where.
    pub cpu: u16,
    /// Which of the wanted events it is, by its place in their list.
    pub event: u16,
    /// The thread that ran, as the initial pid namespace knows it.
    pub tid: i32,
    /// The wanted fields, in their order; the rest is 0.
    pub fields: [u64; MAX_FIELDS],
}

/// What a drain gave, besides the records.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Drained {
    /// Events that were overwritten before they could be read.
    pub lost: u64,
    /// Pages or records that were not understood.
    pub malformed: u64,
    /// The buffers may hold more.
    pub more: bool,
}

/// A trace that is running. It ends when this is dropped, and leaves nothing behind.
pub struct Session {
    // Declared before the instance: buffers that are open would keep it from being removed.
    buffers: Buffers,
    header: PageHeader,
    decoder: Decoder,
    instance: Instance,
    /// Events that were too young for the last drain: older ones of other CPUs may still come.
    held: Vec<Record>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("instance", &self.instance.directory().path())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Makes an instance that records `wanted` and nothing else, and removes instances that killed
    /// predecessors left.
    ///
    /// # Errors
    /// [`TraceError`]: no tracefs, no privileges, no such event.
    ///
    /// # Panics
    /// When an event is wanted with more than [`MAX_FIELDS`] fields.
    pub fn open(wanted: &[Wanted], options: SessionOptions) -> Result<Session, TraceError> {
        let fs = KernelFs::open(KernelFsKind::Tracefs)?;
        let decoder = Decoder::new(&fs, wanted)?;
        let instance = Instance::make(fs)?;
        let directory = instance.directory();
        let path = "events/header_page";
        let text = match directory.read(path) {
            Ok(text) => text,
            Err(_) => instance.fs().read(path)?,
        };
        let header = PageHeader::parse(&text).map_err(|source| TraceError::Format {
            path: path.to_owned(),
            source,
        })?;
        configure(directory, options)?;
        let pages = (options.buffer_kib * 1024).div_ceil(header.page_len as u32);
        let buffers = Buffers::open(directory, &header, pages)?;
        for event in wanted
            .iter()
            .zip(&decoder.known)
            .filter(|(_, known)| **known)
        {
            directory.write(&format!("{}/enable", path_of(event.0)), "1")?;
        }
        Ok(Session {
            buffers,
            header,
            decoder,
            instance,
            held: Vec::new(),
        })
    }

    /// Whether the wanted event at this place of the list is recorded: the kernel knows it.
    pub fn is_recorded(&self, event: usize) -> bool {
        self.decoder.known.get(event).copied().unwrap_or(false)
    }

    /// Waits until a buffer is half full, a signal comes, or `timeout` is over. A buffer that fills
    /// slowly does not end the wait: [`drain`](Self::drain) in any case.
    ///
    /// # Errors
    /// [`TraceError::File`].
    pub fn wait(&self, timeout: Duration) -> Result<(), TraceError> {
        self.buffers.wait(timeout)
    }

    /// Appends to `records` what happened until [`HOLD`] ago, ordered by time, also from one drain
    /// to the next. What is younger comes with the next drain.
    ///
    /// Order is not promised where [`Drained::more`] or [`Drained::lost`] says that the buffers
    /// fill faster than they are read.
    ///
    /// # Errors
    /// [`TraceError::File`].
    pub fn drain(&mut self, records: &mut Vec<Record>) -> Result<Drained, TraceError> {
        let start = records.len();
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        let until = now.saturating_sub(HOLD.as_nanos() as u64);
        records.append(&mut self.held);
        let mut unknown = 0;
        let decoder = &self.decoder;
        let on_event =
            |cpu, event: RawEvent<'_>| match decoder.decode(cpu, event.time, event.record) {
                Some(record) => records.push(record),
                None => unknown += 1,
            };
        let directory = self.instance.directory();
        let taken = self.buffers.take(directory, &self.header, now, on_event)?;
        // Runs, one for each CPU: the standard sort merges them.
        records[start..].sort_by_key(|record| record.time);
        let ripe = records[start..].partition_point(|record| record.time <= until);
        self.held.extend(records.drain(start + ripe..));
        Ok(Drained {
            lost: taken.lost,
            malformed: taken.malformed + unknown,
            more: taken.more,
        })
    }
}

fn path_of(wanted: &Wanted) -> String {
    format!("events/{}/{}", wanted.system, wanted.event)
}

fn configure(directory: &Directory, options: SessionOptions) -> Result<(), TraceError> {
    directory.write("buffer_size_kb", &options.buffer_kib.to_string())?;
    // One clock for all CPUs, that user space can read too.
    directory.write("trace_clock", "mono")?;
    // Otherwise enabling an event hooks every context switch to learn the names of processes. Not
    // every kernel lets an instance choose.
    let _ = directory.write("options/record-cmd", "0");
    // Since Linux 5.0; before that a reader is woken at the first event.
    let _ = directory.write("buffer_percent", "50");
    Ok(())
}

/// Turns raw records into [`Record`]s.
#[derive(Debug)]
struct Decoder {
    formats: Vec<(u16, EventFormat)>,
    known: Vec<bool>,
}

impl Decoder {
    fn new(fs: &KernelFs, wanted: &[Wanted]) -> Result<Decoder, TraceError> {
        let mut decoder = Decoder {
            formats: Vec::new(),
            known: vec![false; wanted.len()],
        };
        for (index, wanted) in wanted.iter().enumerate() {
            assert!(wanted.fields.len() <= MAX_FIELDS, "too many fields");
            let path = format!("{}/format", path_of(wanted));
            let text = match fs.read(&path) {
                Ok(text) => text,
                Err(error) if is_missing(&error) && wanted.required => {
                    return Err(TraceError::NoEvent {
                        event: format!("{}/{}", wanted.system, wanted.event),
                    });
                }
                Err(error) if is_missing(&error) => continue,
                Err(error) => return Err(error),
            };
            let format = EventFormat::parse(&text, wanted.fields)
                .map_err(|source| TraceError::Format { path, source })?;
            decoder.formats.push((index as u16, format));
            decoder.known[index] = true;
        }
        Ok(decoder)
    }

    /// `None` when it is not an event that was asked for, or shorter than its format says.
    fn decode(&self, cpu: u16, time: u64, record: &[u8]) -> Option<Record> {
        let id = u16::from_le_bytes(*record.first_chunk()?);
        let (event, format) = self.formats.iter().find(|(_, format)| format.id == id)?;
        let mut fields = [0; MAX_FIELDS];
        for (value, field) in fields.iter_mut().zip(&format.fields) {
            *value = field.read(record)?;
        }
        Some(Record {
            time,
            cpu,
            event: *event,
            tid: format.pid.read(record)? as i32,
            fields,
        })
    }
}

fn is_missing(error: &TraceError) -> bool {
    matches!(
        error,
        TraceError::File {
            operation: Operation::Read,
            errno: rustix::io::Errno::NOENT,
            ..
        }
    )
}
