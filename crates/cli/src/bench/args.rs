//! What can be written after `surefault bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::args::Format;

#[derive(Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) command: BenchCommand,
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum BenchCommand {
    /// Serve the memory of a VMM that is played, from a file in the page cache, and say how fast.
    ///
    /// By `surefault serve`, by a floor (a C program with one thread: poll, one event, one copy of
    /// 4 KiB) and by a ceiling (the same program copying everything in pieces of 2 MiB), which take
    /// turns in each round. Needs a C compiler. Exit codes: 0 it was measured; 2 bad usage; 5 the
    /// host lacks something; 6 it was interrupted; 1 anything unexpected.
    Serve(BenchServeArgs),

    /// Play one VMM of the measurement, and write how it was served.
    #[command(hide = true)]
    Vmm(BenchVmmArgs),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct BenchVmmArgs {
    /// The handler's socket.
    #[arg(long)]
    pub(crate) socket: PathBuf,

    /// Pages of memory.
    #[arg(long)]
    pub(crate) pages: u32,

    /// Whether they are touched from the start to the end.
    #[arg(long)]
    pub(crate) sequential: bool,

    /// Threads that touch them.
    #[arg(long)]
    pub(crate) threads: usize,

    /// Of the random order.
    #[arg(long)]
    pub(crate) seed: u64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct BenchServeArgs {
    /// Pages of each VM.
    #[arg(long, value_name = "N", default_value_t = 32_768,
          value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub(crate) pages: u32,

    /// Numbers of threads that touch the pages, each measured by itself.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 4],
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: Vec<u16>,

    /// How often everything is measured.
    #[arg(long, value_name = "R", default_value_t = 7,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,

    /// What `surefault serve` prefetches: its --prefetch [default: its default].
    #[arg(long, value_name = "MODE")]
    pub(crate) prefetch: Option<String>,

    /// Measure `surefault serve --no-supervisor`, too, and say what supervision costs.
    #[arg(long)]
    pub(crate) unsupervised: bool,

    /// The directory of the file that is served [default: that of temporary files].
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,

    /// The form of the result on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

impl BenchServeArgs {
    /// What `surefault serve` is told beside the socket and the file.
    pub(super) fn handler_arguments(&self) -> Vec<String> {
        let prefetch = self.prefetch.iter();
        prefetch.map(|mode| format!("--prefetch={mode}")).collect()
    }
}
