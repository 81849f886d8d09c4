//! The command `compare`: every published policy on the same workload, seed for seed.

mod args;
mod json;
mod kvm;
mod plot;
mod progress;
mod table;
mod traces;

use std::time::Duration;

use surefault_core::policy::PolicyKind;
use surefault_sim::compare::{Row, Timeline, compare as play, timeline};
use surefault_sim::workloads::{Size, SizeError, WorkloadFile, WorkloadKind, spec};
use surefault_sim::{SimError, SimSpec};
use thiserror::Error;

pub(crate) use args::CompareArgs;
use plot::{Sheet, Step, Target};
use progress::Teller;

use crate::args::{Format, MachineChoice};
use crate::exit::{Exit, Failure};
use crate::output;

/// What came of one workload.
#[derive(Clone, Debug)]
struct Played {
    name: String,
    help: &'static str,
    size: Size,
    rows: Vec<Row>,
    /// The median wall time of each row's runs, on real vCPUs.
    walls: Option<Vec<Duration>>,
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

    fn fits(&self, size: Size) -> Result<(), SizeError> {
        match self {
            Source::Shipped(kind) => size.check(*kind),
            Source::File(_, file) => file.check(size),
        }
    }

    /// Whether the sizes fit, before anything is played. Whoever gave the number is named: the
    /// option, or the line of the file.
    fn check(&self, args: &CompareArgs) -> Result<(), Failure> {
        let Err(error) = self.fits(self.size(args)) else {
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

    /// Whether real vCPUs can play it.
    fn check_on_kvm(&self) -> Result<(), Failure> {
        let why = match self {
            Source::File(..) => Some("a file may change what a real guest cannot"),
            Source::Shipped(kind) => kvm::refusal(*kind),
        };
        let name = self.name();
        why.map_or(Ok(()), |why| {
            let text = format!("--workload {name} cannot be played with --machine kvm: {why}");
            Err(Failure::usage(text))
        })
    }

    fn name(&self) -> &str {
        match self {
            Source::Shipped(kind) => kind.as_str(),
            Source::File(name, _) => name,
        }
    }

    /// The machine of one run.
    fn spec(&self, size: Size, policy: PolicyKind, seed: u64) -> Result<SimSpec, PlayError> {
        Ok(match self {
            Source::Shipped(kind) => spec(*kind, size, policy, seed)?,
            Source::File(_, file) => file.spec(size, policy, seed)?,
        })
    }
}

/// What is played: policies, seeds, and who hears how far it is.
struct Session<'a> {
    args: &'a CompareArgs,
    policies: Vec<PolicyKind>,
    teller: Teller,
}

impl Session<'_> {
    /// The rows of the table, for a workload that is this large.
    fn rows(&self, source: &Source, size: Size) -> Result<Vec<Row>, Failure> {
        let what = format!("{}, {} failing pages", source.name(), size.failing);
        play(
            &self.policies,
            self.args.seeds,
            |policy, seed| source.spec(size, policy, seed),
            |done| self.teller.tell(&what, done),
        )
        .map_err(|error| failed(source, error))
    }

    fn play(&self, source: &Source) -> Result<Played, Failure> {
        let size = source.size(self.args);
        let (rows, walls) = match self.args.machine {
            MachineChoice::Kvm => {
                let spec = |policy, seed| {
                    let spec = source.spec(size, policy, seed);
                    spec.map_err(|error| failed(source, error))
                };
                let (rows, walls) = kvm::rows(&self.policies, self.args.seeds, spec)?;
                (rows, Some(walls))
            }
            MachineChoice::Auto | MachineChoice::Sim => (self.rows(source, size)?, None),
        };
        self.teller.clear();
        Ok(Played {
            name: source.name().to_owned(),
            help: source.kind().help(),
            size,
            rows,
            walls,
        })
    }

    /// The same with 1, 2, 4, … failing pages, as far as the workload can have that many.
    fn sweep(&self, source: &Source, played: &Played) -> Result<Vec<Step>, Failure> {
        let size = played.size;
        let most = size.failing.max(size.tasks.into());
        let doubled = (0..32).map(|times| 1 << times);
        let mut counts: Vec<u32> = doubled.take_while(|&count| count < most).collect();
        counts.extend([size.failing, most]);
        counts.sort_unstable();
        counts.dedup();
        let mut steps = Vec::new();
        for failing in counts {
            let of = Size { failing, ..size };
            if failing == 0 || source.fits(of).is_err() {
                continue;
            }
            let rows = match failing == size.failing {
                true => played.rows.clone(),
                false => self.rows(source, of)?,
            };
            steps.push(Step { failing, rows });
        }
        self.teller.clear();
        Ok(steps)
    }

    fn timeline(&self, source: &Source, size: Size) -> Result<Option<Timeline>, Failure> {
        let what = format!("{}, around an error", source.name());
        let timeline = timeline(
            &self.policies,
            self.args.seeds,
            |policy, seed| source.spec(size, policy, seed),
            |done| self.teller.tell(&what, done),
        );
        self.teller.clear();
        timeline.map_err(|error| failed(source, error))
    }
}

fn failed(source: &Source, error: PlayError) -> Failure {
    let workload = format!("workload {}", source.name());
    Failure::new(Exit::Usage, anyhow::Error::new(error).context(workload))
}

/// Plays, prints the table, and draws the figures.
pub(crate) fn compare(args: &CompareArgs) -> Result<Exit, Failure> {
    let on_kvm = args.machine == MachineChoice::Kvm;
    let all = match on_kvm {
        true => &kvm::PLAYABLE[..],
        false => WorkloadKind::ALL,
    };
    let sources: Vec<Source> = match args.workload.is_empty() {
        true => all.iter().copied().map(Source::Shipped).collect(),
        false => {
            let found = args.workload.iter().map(|name| Source::find(name));
            found.collect::<Result<Vec<_>, _>>()?
        }
    };
    for source in &sources {
        source.check(args)?;
        if on_kvm {
            source.check_on_kvm()?;
        }
    }
    if on_kvm && args.plot.is_some() {
        return Err(Failure::usage(
            "--plot means nothing with --machine kvm: figures are simulated",
        ));
    }
    let target = args.plot.as_deref().map(Target::open).transpose()?;
    let session = Session {
        args,
        policies: match args.policy.is_empty() {
            true => PolicyKind::ALL.to_vec(),
            false => args.policy.clone(),
        },
        teller: Teller::new(),
    };
    if args.format == Format::Text {
        output::print(if on_kvm { kvm::LEGEND } else { table::LEGEND })?;
    }
    let mut played = Vec::new();
    for source in &sources {
        let of = session.play(source)?;
        if let Some(dir) = &args.traces {
            traces::write(dir, source, args, &session.policies)?;
        }
        if args.format == Format::Text {
            output::print(&format!("\n{}", table::text(&of, args.seeds)))?;
            output::print(&kvm::wall_times(&of))?;
        }
        played.push(of);
    }
    if args.format == Format::Json {
        output::print_json(&json::Output::of(&played))?;
    }
    if let Some(target) = target {
        let mut sheets = Vec::new();
        for (source, played) in sources.iter().zip(&played) {
            let steps = session.sweep(source, played)?;
            let timeline = session.timeline(source, played.size)?;
            sheets.push(Sheet::new(played, args.seeds, steps, timeline));
        }
        target.write(&sheets)?;
    }
    Ok(Exit::Ran)
}
