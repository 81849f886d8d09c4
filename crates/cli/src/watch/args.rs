//! What can be written behind `watch`.

use core::time::Duration;
use std::net::SocketAddr;

use clap::Args;
use surefault_watch::{Options, Pid};

use crate::args::{Format, positive};

#[derive(Args, Clone, Debug)]
pub(crate) struct WatchArgs {
    /// Watch this process alone [default: all machines of the host].
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pid: Option<u32>,

    /// How long to watch [default: until SIGINT or SIGTERM]. A time is a number and a unit: ns, us,
    /// ms or s.
    #[arg(long = "for", value_name = "TIME", value_parser = positive)]
    pub(crate) limit: Option<Duration>,

    /// Watch until something was found, or until it can be said that there is nothing.
    #[arg(long, conflicts_with = "limit")]
    pub(crate) once: bool,

    /// A page that was asked for again this often without being mapped is stuck.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) stuck_after: u32,

    /// A thread that has waited for one page for this long is frozen.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = positive)]
    pub(crate) frozen_after: Duration,

    /// A command that is run by sh once for each case, with the facts in its environment:
    /// SUREFAULT_CASE, _PID, _TID, _COMM, _VCPU, _GFN, _GVA, _HVA, _PATH, _OFFSET, _CAUSE,
    /// _CAUSE_TEXT, _REMEDY, _RETRIES, _SINCE_NS. What it prints goes to standard error.
    #[arg(long, value_name = "CMD")]
    pub(crate) on_stuck: Option<String>,

    /// Serve metrics for Prometheus at this address, say 127.0.0.1:9180.
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<SocketAddr>,

    /// The form of what was found on standard output: text as it is found, JSON at the end.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

impl WatchArgs {
    pub(crate) fn options(&self) -> Options {
        Options {
            pid: self.pid.map(Pid::new),
            stuck_after: self.stuck_after,
            frozen_after: self.frozen_after,
            ..Options::default()
        }
    }
}
