//! What a run took, of time and of memory.

use std::error::Error;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What one run found, and took.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Different states.
    pub states: usize,
    /// Steps taken.
    pub edges: usize,
    /// Time on the wall.
    pub wall: Duration,
    /// Time of processors, of all threads.
    cpu: Duration,
    /// By how much memory grew at most, in KiB.
    grown: usize,
}

impl Measured {
    /// States for each second of a core.
    pub fn rate(&self) -> f64 {
        self.states as f64 / self.cpu.as_secs_f64()
    }

    /// Bytes for each state.
    pub fn memory(&self) -> f64 {
        self.grown as f64 * 1024.0 / self.states as f64
    }
}

/// Measures what `explore` does, which returns numbers of states and of edges, and whatever must not
/// be given back before memory was looked at.
pub fn measure<T>(explore: impl FnOnce() -> (usize, usize, T)) -> Result<Measured, Box<dyn Error>> {
    let resident = status("VmRSS:")?;
    let (began, used) = (Instant::now(), cpu()?);
    let (states, edges, kept) = explore();
    let (wall, cpu) = (began.elapsed(), cpu()? - used);
    let grown = status("VmHWM:")? - resident;
    drop(kept);
    Ok(Measured {
        states,
        edges,
        wall,
        cpu,
        grown,
    })
}

fn cpu() -> Result<Duration, Box<dyn Error>> {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Ok(Duration::new(
        time.tv_sec.try_into()?,
        time.tv_nsec.try_into()?,
    ))
}

/// A number of KiB from `/proc/self/status`.
fn status(field: &str) -> Result<usize, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mut lines = status.lines();
    let value = lines.find_map(|line| line.strip_prefix(field));
    let number = value.and_then(|value| value.split_whitespace().next());
    Ok(number
        .ok_or_else(|| format!("no {field} in /proc/self/status"))?
        .parse()?)
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measured {
            states,
            edges,
            wall,
            cpu,
            grown,
        } = self;
        let (wall, cpu) = (wall.as_nanos(), cpu.as_nanos());
        write!(
            f,
            "{states} states {edges} edges {wall} ns {cpu} ns-cpu {grown} KiB"
        )
    }
}

impl FromStr for Measured {
    type Err = Box<dyn Error>;

    fn from_str(line: &str) -> Result<Measured, Box<dyn Error>> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [states, _, edges, _, wall, _, cpu, _, grown, _] = words[..] else {
            return Err(format!("not the numbers of a run: {line:?}").into());
        };
        Ok(Measured {
            states: states.parse()?,
            edges: edges.parse()?,
            wall: Duration::from_nanos(wall.parse()?),
            cpu: Duration::from_nanos(cpu.parse()?),
            grown: grown.parse()?,
        })
    }
}
