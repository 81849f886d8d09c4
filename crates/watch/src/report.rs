//! What was found, for people and for programs.

use core::fmt::{self, Write};
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::case::{Case, Frozen, Stuck};
use crate::error::Lack;
use crate::proc::thread::Wait;

/// Everything that is in trouble at one moment.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Snapshot {
    /// vCPUs that ask for one page again and again.
    pub stuck: Vec<Stuck>,
    /// Threads that wait for one page for ever.
    pub frozen: Vec<Frozen>,
    /// What is not watched, and why.
    pub lacks: Vec<Lack>,
    /// Counts.
    pub stats: Stats,
}

/// What the watcher has seen and done since it started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Stats {
    /// For how long it has watched.
    #[serde(rename = "watched_ns", serialize_with = "nanos")]
    pub watched: Duration,
    /// Whether page faults are traced.
    pub tracing: bool,
    /// Processes that are virtual machines.
    pub machines: usize,
    /// Events of async page faults that were read.
    pub events: u64,
    /// Events that were overwritten before they could be read.
    pub lost_events: u64,
    /// Events that were not understood.
    pub malformed_events: u64,
    /// Async page faults among the events.
    pub faults: u64,
    /// Pages that were asked for again, and came.
    pub temporary: u64,
    /// Pages that are remembered at this moment.
    pub remembered_pages: usize,
    /// Stuck vCPUs that were found so far.
    pub stuck_cases: u64,
    /// Frozen threads that were found so far.
    pub frozen_cases: u64,
}

impl Snapshot {
    /// Whether nothing is in trouble.
    pub fn is_healthy(&self) -> bool {
        self.stuck.is_empty() && self.frozen.is_empty()
    }

    /// The numbers, in one line.
    pub fn summary(&self) -> String {
        let trouble = match (self.stuck.len(), self.frozen.len()) {
            (0, 0) => "nothing stuck, nothing frozen".to_owned(),
            (stuck, frozen) => format!("{stuck} stuck, {frozen} frozen"),
        };
        format!(
            "{trouble}; {} VM processes, {} events ({} lost) in {:.1} s",
            self.stats.machines,
            self.stats.events,
            self.stats.lost_events,
            self.stats.watched.as_secs_f64()
        )
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for stuck in &self.stuck {
            writeln!(f, "{stuck}")?;
        }
        for frozen in &self.frozen {
            writeln!(f, "{frozen}")?;
        }
        for lack in &self.lacks {
            writeln!(f, "not watched: {lack}")?;
        }
        f.write_str(&self.summary())
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Case::Stuck(stuck) => stuck.fmt(f),
            Case::Frozen(frozen) => frozen.fmt(f),
        }
    }
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vcpu = self.vcpu.map(|vcpu| format!(", vCPU {vcpu}"));
        writeln!(
            f,
            "STUCK   process {}{}, thread {} \"{}\"",
            self.pid,
            vcpu.unwrap_or_default(),
            self.tid,
            self.comm
        )?;
        let hva = self.hva.map(|hva| format!(", host address {hva}"));
        let hva = hva.unwrap_or_default();
        writeln!(
            f,
            "  page    gfn {:#x}, fault address {}{hva}",
            self.gfn.get(),
            self.gva
        )?;
        let since = self.since.as_secs_f64();
        write!(
            f,
            "  asked   {} times again after \"ready\", in {since:.1} s",
            self.retries
        )?;
        if since > 0.0 {
            write!(f, " ({:.0} a second)", f64::from(self.retries) / since)?;
        }
        match self.faults_per_second {
            Some(rate) => writeln!(f, "; KVM takes {rate} faults a second")?,
            None => writeln!(f)?,
        }
        if let Some(path) = &self.path {
            let offset = self.offset.map(|offset| format!(", offset {offset:#x}"));
            writeln!(f, "  memory  {path}{}", offset.unwrap_or_default())?;
        }
        writeln!(f, "  cause   {}: {}", self.cause.kind, self.cause.text)?;
        write!(f, "  do      {}", self.cause.remedy)
    }
}

impl fmt::Display for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vcpu = self.vcpu.map(|vcpu| format!(", vCPU {vcpu}"));
        writeln!(
            f,
            "FROZEN  process {}{}, thread {} \"{}\"",
            self.pid,
            vcpu.unwrap_or_default(),
            self.tid,
            self.comm
        )?;
        let what = match self.wait {
            Wait::Userfault => "the answer of a userfaultfd's handler",
            Wait::PageIo => "a page that is being read",
        };
        let mut place = String::new();
        if !self.function.is_empty() {
            write!(place, " (in {})", self.function)?;
        }
        let since = self.since.as_secs_f64();
        writeln!(f, "  waits   for {what}{place}, for {since:.1} s or longer")?;
        if let (Some(gfn), Some(gva)) = (self.gfn, self.gva) {
            writeln!(f, "  page    gfn {:#x}, fault address {gva}", gfn.get())?;
        }
        if let Some(path) = &self.path {
            writeln!(f, "  memory  {path}")?;
        }
        for holder in &self.holders {
            writeln!(
                f,
                "  holds   process {} \"{}\" (state {}), descriptor {}",
                holder.pid, holder.comm, holder.state, holder.fd
            )?;
        }
        writeln!(f, "  cause   {}: {}", self.cause.kind, self.cause.text)?;
        write!(f, "  do      {}", self.cause.remedy)
    }
}

fn nanos<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_nanos().try_into().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::samples;

    #[test]
    fn a_stuck_vcpu_is_told_on_one_screen() {
        let expected = "\
STUCK   process 10, vCPU 3, thread 11 \"CPU 3/KVM\"
  page    gfn 0x203, fault address 0x203000, host address 0x7f1200003000
  asked   2900 times again after \"ready\", in 0.1 s (29000 a second); KVM takes 29000 faults a second
  memory  /dev/shm/guest, offset 0x3000
  cause   truncated: the file has 12288 bytes
  do      extend it";
        assert_eq!(samples::stuck().to_string(), expected);
    }

    #[test]
    fn a_frozen_thread_is_told_on_one_screen() {
        let expected = "\
FROZEN  process 10, thread 12 \"fc_vcpu 0\"
  waits   for the answer of a userfaultfd's handler (in handle_userfault), for 7.5 s or longer
  holds   process 10 \"firecracker\" (state S), descriptor 7
  cause   handler-gone: nobody answers
  do      restart it";
        assert_eq!(samples::frozen().to_string(), expected);
    }

    #[test]
    fn programs_get_numbers_and_hexadecimal_addresses() {
        let snapshot = Snapshot {
            stuck: vec![samples::stuck()],
            frozen: vec![samples::frozen()],
            ..Snapshot::default()
        };
        let json = serde_json::to_value(&snapshot).expect("JSON");
        let stuck = &json["stuck"][0];
        assert_eq!(stuck["gfn"], 0x203);
        assert_eq!(stuck["hva"], "0x7f1200003000");
        assert_eq!(stuck["cause"]["kind"], "truncated");
        assert_eq!(stuck["since_ns"], 100_000_000);
        assert_eq!(stuck["vcpu"], 3);
        let frozen = &json["frozen"][0];
        assert_eq!(frozen["wait"], "userfault");
        assert_eq!(frozen["gva"], serde_json::Value::Null);
        assert_eq!(frozen["holders"][0]["pid"], 10);
    }
}
