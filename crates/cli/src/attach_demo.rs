//! The command `attach-demo`.

use core::fmt::Write as _;
use core::str::FromStr;
use core::time::Duration;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use surefault_core::PageSize;
use surefault_serve::demo::{Demo, DemoError, DemoReport, Expect, run as play};
use surefault_uffd::host_page_size;

use crate::args::Format;
use crate::exit::{Exit, Failure};
use crate::output::{print, print_json};

#[derive(Args, Clone, Debug)]
pub(crate) struct AttachDemoArgs {
    /// The daemon's socket.
    #[arg(value_name = "SOCKET")]
    socket: PathBuf,

    /// What the pages must contain: a file, or `pattern:SEED` [default: anything].
    #[arg(long, value_name = "FILE")]
    expect: Option<ExpectArg>,

    /// Pages of memory [default: as many as the file of --expect has, else 1024].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pages: Option<u32>,

    /// Pages of 2 MiB, of which the host must have reserved enough.
    #[arg(long)]
    huge: bool,

    /// Equal regions that the memory is told of in; the first is the last in the source.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    regions: u16,

    /// Threads, each of which reads all pages in an order of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    vcpus: u16,

    /// Pages that a balloon gives back meanwhile: they must read as zeros from then on.
    #[arg(long, value_name = "N", default_value_t = 0)]
    balloon: u32,

    /// The form of what was seen on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum ExpectArg {
    Pattern(u64),
    File(PathBuf),
}

impl FromStr for ExpectArg {
    type Err = String;

    fn from_str(text: &str) -> Result<ExpectArg, String> {
        Ok(match text.strip_prefix("pattern:") {
            Some(seed) => {
                let seed = seed.parse();
                ExpectArg::Pattern(seed.map_err(|_| format!("'{text}' has no number for a seed"))?)
            }
            None => ExpectArg::File(text.into()),
        })
    }
}

/// What was seen, for programs.
#[derive(Serialize)]
struct Attached<'a> {
    schema: u32,
    command: &'static str,
    outcome: &'static str,
    #[serde(flatten)]
    report: &'a DemoReport,
}

pub(crate) fn run(args: &AttachDemoArgs) -> Result<Exit, Failure> {
    let page_size = match args.huge {
        true => PageSize::MIB_2,
        false => PageSize::new(host_page_size()).expect("the host's page size is one"),
    };
    let report = play(&Demo {
        socket: args.socket.clone(),
        pages: pages(args, page_size)?,
        page_size,
        regions: args.regions.into(),
        vcpus: args.vcpus.into(),
        expect: match &args.expect {
            None => Expect::Anything,
            Some(ExpectArg::Pattern(seed)) => Expect::Pattern(*seed),
            Some(ExpectArg::File(path)) => Expect::File(path.clone()),
        },
        balloon: args.balloon.into(),
    })
    .map_err(failure)?;
    let outcome = outcome(&report);
    match args.format {
        Format::Text => print(&text(&report, page_size))?,
        Format::Json => print_json(&Attached {
            schema: 1,
            command: "attach-demo",
            outcome,
            report: &report,
        })?,
    }
    Ok(match outcome {
        "finished" => Exit::Ran,
        _ => Exit::Found,
    })
}

fn outcome(report: &DemoReport) -> &'static str {
    match (report.wrong, report.failed.is_empty()) {
        (0, true) => "finished",
        (0, false) => "reported",
        _ => "violated",
    }
}

fn pages(args: &AttachDemoArgs, page_size: PageSize) -> Result<u64, Failure> {
    match (args.pages, &args.expect) {
        (Some(pages), _) => Ok(pages.into()),
        (None, Some(ExpectArg::File(path))) => {
            let size = size(path).map_err(|error| Failure::option("--expect", error))?;
            Ok(size.div_ceil(page_size.bytes()))
        }
        (None, None | Some(ExpectArg::Pattern(_))) => Ok(1024),
    }
}

fn size(path: &Path) -> anyhow::Result<u64> {
    let text = format!("cannot read {}", path.display());
    let metadata = std::fs::metadata(path).map_err(|error| anyhow::Error::new(error).context(text));
    Ok(metadata?.len())
}

fn text(report: &DemoReport, page_size: PageSize) -> String {
    let mut text = String::new();
    let took = Duration::from_nanos(report.elapsed_ns);
    let (p50, p99) = (
        Duration::from_nanos(report.p50_ns),
        Duration::from_nanos(report.p99_ns),
    );
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{} pages of {page_size} in {took:.1?}: {} visits right, {} wrong; first access p50 \
         {p50:.1?}, p99 {p99:.1?}",
        report.pages, report.right, report.wrong
    );
    if let Some(offset) = report.first_wrong {
        let _ = writeln!(
            text,
            "the first wrong page is that at offset {offset:#x} of the source"
        );
    }
    if report.given_back > 0 {
        let _ = writeln!(text, "{} pages were given back", report.given_back);
    }
    if let (Some(first), Some(last)) = (report.failed.first(), report.failed.last()) {
        let _ = writeln!(
            text,
            "{} pages could not be read (SIGBUS), from offset {first:#x} to {last:#x} of the source",
            report.failed.len()
        );
    }
    if !report.kernel_faults {
        text.push_str("without faults of the kernel, which a VM needs: no permission for these\n");
    }
    text
}

fn failure(error: DemoError) -> Failure {
    match &error {
        DemoError::Userfaultfd(_) => Failure::new(Exit::Host, error),
        DemoError::Map { .. } => {
            let remedy = "fewer --pages; with --huge, reserve huge pages: sysctl vm.nr_hugepages=N";
            Failure::new(Exit::Host, error).with_remedy(remedy)
        }
        DemoError::Shape { .. } | DemoError::Connect { .. } | DemoError::Expect(_) => {
            Failure::new(Exit::Usage, error)
        }
        _ => Failure::new(Exit::Unexpected, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::fields::assert_described;

    #[test]
    fn every_field_is_described() {
        let report = DemoReport {
            pages: 1,
            right: 1,
            wrong: 1,
            first_wrong: Some(0),
            failed: vec![0],
            given_back: 0,
            kernel_faults: true,
            p50_ns: 1,
            p99_ns: 1,
            max_ns: 1,
            elapsed_ns: 1,
        };
        assert_eq!(outcome(&report), "violated");
        let value = serde_json::to_value(Attached {
            schema: 1,
            command: "attach-demo",
            outcome: "violated",
            report: &report,
        });
        assert_described("surefault attach-demo", &value.expect("JSON"), &[]);
    }
}
