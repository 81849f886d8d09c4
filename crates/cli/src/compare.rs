//! The command `compare`: every published policy on the same workload, seed for seed.

mod args;
mod json;
mod progress;
mod table;

use std::io::Write as _;

use surefault_core::policy::PolicyKind;
use surefault_sim::SimError;
use surefault_sim::compare::{Row, compare as play};
use surefault_sim::workloads::{Size, SizeError, WorkloadFile, WorkloadKind, spec};
use thiserror::Error;

pub(crate) use args::CompareArgs;
use progress::Teller;

use crate::args::Format;
use crate::exit::{Exit, Failure};
use crate::output;

/// What came of one workload.
struct Played {
    name: String,
    help: &'static str,
    size: Size,
    rows: Vec<Row>,
}

#[derive(Debug, Error)]
enum PlayError {
    #[error(transparent)]
    Size(#[from] SizeError),
    #[error(transparent)]
    Sim(#[from] SimError),
}

/// Where a workload comes from.
enum Source {
    Shipped(WorkloadKind),
    File(String, Box<WorkloadFile>),
}

impl Source {
    /// A name that ships, or a file.
    fn find(name: &str) -> Result<Source, Failure> {
        let shipped = WorkloadKind::ALL.iter().find(|kind| kind.as_str() == name);
        if let Some(&kind) = shipped {
            return Ok(Source::Shipped(kind));
        }
        let path = std::path::Path::new(name);
        if !path.exists() {
            let names: Vec<&str> = WorkloadKind::ALL.iter().map(|kind| kind.as_str()).collect();
            return Err(Failure::usage(format!(
                "--workload: '{name}' is no workload, and no file: expected one of {}, or a file",
                names.join(", ")
            )));
        }
        let file =
            WorkloadFile::load(path).map_err(|error| Failure::option("--workload", error))?;
        Ok(Source::File(name.to_owned(), Box::new(file)))
    }

    fn kind(&self) -> WorkloadKind {
        match self {
            Source::Shipped(kind) => *kind,
            Source::File(_, file) => file.base,
        }
    }

    /// What the command line says, then the file, then what the workload usually has.
    fn size(&self, args: &CompareArgs) -> Size {
        let usual = self.kind().size();
        let (tasks, failing, vcpus) = match self {
            Source::Shipped(_) => (None, None, None),
            Source::File(_, file) => (file.tasks, file.failing, file.vcpus),
        };
        Size {
            tasks: args.tasks.or(tasks).unwrap_or(usual.tasks),
            failing: args.failing.or(failing).unwrap_or(usual.failing),
            vcpus: args.vcpus.or(vcpus).unwrap_or(usual.vcpus),
        }
    }

    /// Whether the sizes fit, before anything is played. Whoever gave the number is named: the
    /// option, or the line of the file.
    fn check(&self, args: &CompareArgs) -> Result<(), Failure> {
        let size = self.size(args);
        let checked = match self {
            Source::Shipped(kind) => size.check(*kind),
            Source::File(_, file) => file.check(size),
        };
        let Err(error) = checked else {
            return Ok(());
        };
        let given = |field: &&str| match *field {
            "tasks" => args.tasks.is_some().then_some("--tasks"),
            "failing" => args.failing.is_some().then_some("--failing"),
            "vcpus" => args.vcpus.is_some().then_some("--vcpus"),
            _ => None,
        };
        let option = error.fields().iter().find_map(given);
        let workload = format!("workload {}", self.name());
        match (option, self) {
            (Some(option), _) => {
                let error = anyhow::Error::new(error).context(workload);
                Err(Failure::option(option, error))
            }
            (None, Source::File(_, file)) => Err(match file.blame(error) {
                Ok(error) => Failure::option("--workload", error),
                Err(error) => Failure::option("--workload", error),
            }),
            (None, Source::Shipped(_)) => Err(Failure::option("--workload", error)),
        }
    }

    fn name(&self) -> &str {
        match self {
            Source::Shipped(kind) => kind.as_str(),
            Source::File(name, _) => name,
        }
    }

    fn play(
        &self,
        args: &CompareArgs,
        policies: &[PolicyKind],
        teller: &Teller,
    ) -> Result<Played, Failure> {
        let size = self.size(args);
        let kind = self.kind();
        let name = self.name().to_owned();
        let spec = |policy, seed| {
            Ok(match self {
                Source::Shipped(kind) => spec(*kind, size, policy, seed)?,
                Source::File(_, file) => file.spec(size, policy, seed)?,
            })
        };
        let told = |done| teller.tell(&name, done);
        let rows = play::<PlayError>(policies, args.seeds, spec, told).map_err(|error| {
            let error = anyhow::Error::new(error).context(format!("workload {name}"));
            Failure::new(Exit::Usage, error)
        })?;
        Ok(Played {
            name,
            help: kind.help(),
            size,
            rows,
        })
    }
}

/// Plays, and prints the table.
pub(crate) fn compare(args: &CompareArgs) -> Result<Exit, Failure> {
    let policies = match args.policy.is_empty() {
        true => PolicyKind::ALL.to_vec(),
        false => args.policy.clone(),
    };
    let sources = match args.workload.is_empty() {
        true => WorkloadKind::ALL
            .iter()
            .copied()
            .map(Source::Shipped)
            .collect(),
        false => {
            let found = args.workload.iter().map(|name| Source::find(name));
            found.collect::<Result<Vec<_>, _>>()?
        }
    };
    for source in &sources {
        source.check(args)?;
    }
    let teller = Teller::new();
    let mut played = Vec::new();
    for source in &sources {
        played.push(source.play(args, &policies, &teller)?);
        teller.clear();
        if args.format == Format::Text {
            let last = &played[played.len() - 1..];
            output::print(&table::text(last, args.seeds, played.len() == 1))?;
            // Somebody may be watching.
            let _ = std::io::stdout().flush();
        }
    }
    match args.format {
        Format::Text => {}
        Format::Json => output::print_json(&json::Output::of(&played))?,
    }
    Ok(Exit::Ran)
}
