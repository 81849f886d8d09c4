//! From flags to the source of the pages, and to the plan of how it fails.

use std::path::Path;
use std::sync::Arc;

use surefault_core::PageSize;
use surefault_core::plan::FaultPlan;
use surefault_store::{FileStore, OpenError, PatternStore, PlanFile, Store, load_plan};

use crate::args::RunArgs;
use crate::exit::Failure;

/// The source, without planned failures.
pub(crate) fn open(args: &RunArgs, page_size: PageSize) -> Result<Arc<dyn Store>, Failure> {
    let needed = args.pages.saturating_mul(page_size.bytes());
    let Some(path) = &args.store else {
        return Ok(Arc::new(PatternStore::new(seed(args), needed)));
    };
    if let Some((scheme, _)) = path.to_str().and_then(|path| path.split_once("://")) {
        return Err(Failure::usage(format_args!(
            "--store: sources by '{scheme}://' are not available yet (there are files and block \
             devices)"
        )));
    }
    match FileStore::open(path, page_size, needed) {
        Ok(store) => Ok(Arc::new(store)),
        Err(error) => Err(refused(path, error, page_size)),
    }
}

fn refused(path: &Path, error: OpenError, page_size: PageSize) -> Failure {
    let remedy = match &error {
        OpenError::TooSmall { size, .. } => {
            let fit = size / page_size.bytes();
            Some(format!("give a larger file, or --pages {fit}"))
        }
        OpenError::Permission { .. } => {
            let path = path.display();
            Some(format!(
                "give the user that runs this the right to read {path}"
            ))
        }
        _ => None,
    };
    let failure = Failure::option("--store", error);
    match remedy {
        Some(remedy) => failure.with_remedy(remedy),
        None => failure,
    }
}

/// The seed of everything but the fault plan.
pub(crate) fn seed(args: &RunArgs) -> u64 {
    args.seed.unwrap_or_default()
}

/// How the source fails. What is said on the command line comes before what the file says.
pub(crate) fn plan(args: &RunArgs) -> Result<FaultPlan, Failure> {
    let file = match &args.fault_plan {
        Some(path) => load_plan(path).map_err(|error| Failure::option("--fault-plan", error))?,
        None => PlanFile::default(),
    };
    let seed = args.seed.or(file.seed).unwrap_or_default();
    let latency = args.latency.or(file.latency).unwrap_or_default();
    let mut plan = FaultPlan::new(seed, latency);
    let rules = args.fail.iter().filter_map(|fail| fail.0.clone());
    rules.chain(file.rules).for_each(|rule| plan.push(rule));
    Ok(plan)
}
