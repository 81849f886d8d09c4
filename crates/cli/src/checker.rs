//! The command `check`: every interleaving of a small system, under each policy.

mod args;
mod json;
mod table;
mod traces;

use std::io::Write as _;

use surefault_check::system::{Checked, Config, ConfigError, Property, check};
use surefault_check::{Limits, Progress, Verdict};
use surefault_core::faults::Paging;
use surefault_core::policy::PolicyKind;
use surefault_sim::world::Budgets;

pub(crate) use args::CheckArgs;

use crate::args::Format;
use crate::exit::{Exit, Failure};
use crate::output;

/// What came of one policy.
struct Row {
    checked: Checked,
    /// The properties that were asked for.
    properties: Vec<Property>,
}

impl Row {
    fn verdicts(&self) -> impl Iterator<Item = &(Property, Verdict<surefault_sim::world::Step>)> {
        let wanted = |property: &Property| self.properties.contains(property);
        self.checked
            .verdicts
            .iter()
            .filter(move |(property, _)| wanted(property))
    }
}

/// Checks, and prints the table.
pub(crate) fn run(args: &CheckArgs) -> Result<Exit, Failure> {
    let policies = match args.policy.is_empty() {
        true if args.deaths > 0 => vec![PolicyKind::Exact],
        true => PolicyKind::ALL.to_vec(),
        false => args
            .policy
            .iter()
            .flat_map(|choice| choice.policies())
            .collect(),
    };
    let properties: Vec<Property> = match args.property.is_empty() {
        true => Property::all().collect(),
        false => args.property.clone(),
    };
    let limits = Limits {
        max_states: args.max_states as usize,
        ..Limits::default()
    };
    let mut rows = Vec::new();
    for policy in policies {
        let config = config(args, policy);
        let checked = check(&config, &limits, |progress| show(policy, progress));
        clear();
        let checked = checked.map_err(|error| match error {
            ConfigError::OutOfBounds { .. }
            | ConfigError::TooManyFailing { .. }
            | ConfigError::Deaths(_)
            | ConfigError::Slots(_) => Failure::usage(format_args!("--{error}")),
            other => Failure::new(Exit::Usage, other),
        })?;
        rows.push(Row {
            checked,
            properties: properties.clone(),
        });
    }
    if let Some(directory) = &args.traces {
        traces::write(directory, &rows)?;
    }
    match args.format {
        Format::Text => output::print(&table::text(&rows))?,
        Format::Json => output::print_json(&json::Output::of(&rows))?,
    }
    Ok(exit(&rows))
}

fn config(args: &CheckArgs, policy: PolicyKind) -> Config {
    Config {
        policy,
        vcpus: args.vcpus,
        tasks: args.tasks,
        pages: args.pages,
        failing: args.failing,
        healing: args.healing,
        touches: args.touches,
        cap: args.cap,
        slots: args.slots,
        paging: match args.paging {
            args::PagingChoice::Tdp => Paging::TwoDimensional,
            args::PagingChoice::Shadow => Paging::Shadow,
        },
        apf: args.apf == args::OnOff::On,
        incidents: args.incidents,
        budgets: Budgets {
            deaths: args.deaths,
            ..Config::ONE_OF_EACH
        },
    }
}

fn exit(rows: &[Row]) -> Exit {
    let is = |wanted: fn(&Verdict<_>) -> bool| {
        rows.iter()
            .flat_map(Row::verdicts)
            .any(|(_, verdict)| wanted(verdict))
    };
    if is(|verdict| matches!(verdict, Verdict::Violated(_))) {
        Exit::Found
    } else if is(|verdict| *verdict == Verdict::Incomplete) {
        Exit::Incomplete
    } else {
        Exit::Ran
    }
}

/// How far it is, on a terminal.
fn show(policy: PolicyKind, progress: &Progress) {
    use std::io::IsTerminal as _;
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        let _ = write!(
            stderr,
            "\r{policy}: {} states, {} waiting, {} steps deep, {} s \x1b[K",
            progress.states,
            progress.waiting,
            progress.depth,
            progress.elapsed.as_secs()
        );
    }
}

fn clear() {
    use std::io::IsTerminal as _;
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}
