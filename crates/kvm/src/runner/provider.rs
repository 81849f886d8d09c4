//! Who provides the pages of a run.

use std::sync::Arc;

use surefault_core::residency::ResidencyConfig;
use surefault_core::run::{Counters, PagerMode, RunSpec};
use surefault_core::{PageCount, PageId, PageSize};
use surefault_pager::{FaultObserver, PagerConfig};
use surefault_store::{PlannedStore, Store};

use super::RunError;
use crate::apf::Apf;
use crate::linux_alone::LinuxAlone;
use crate::memory::Mapping;
use crate::pages::{PageSource, Paged};

/// Bytes of memory whose pages are all looked at in the end.
const CHECKED: usize = 256 << 20;

/// The demand-paged memory, and who provides its pages.
pub(super) enum Provider {
    /// A pager, from a source that fails as planned.
    Surefault {
        paged: Arc<Paged>,
        planned: Arc<PlannedStore<Arc<dyn Store>>>,
    },
    /// Nobody but Linux.
    Linux(Arc<LinuxAlone>),
}

impl Provider {
    pub(super) fn new(
        spec: &RunSpec,
        pages: PageCount,
        page_size: PageSize,
        source: &Arc<dyn Store>,
        apf: Option<Arc<Apf>>,
    ) -> Result<Provider, RunError> {
        let len = (pages.bytes(page_size)).and_then(|bytes| usize::try_from(bytes).ok());
        let len = len.ok_or(RunError::TooManyPages { pages })?;
        Ok(match spec.pager {
            PagerMode::Surefault => {
                let data = Arc::new(Mapping::on_demand(len)?);
                let plan = spec.plan.clone();
                let planned = Arc::new(PlannedStore::new(Arc::clone(source), plan, page_size));
                let refuses = apf.as_ref().is_some_and(|apf| apf.spec().refuse_absent);
                let observer = apf.map(|apf| -> Arc<dyn FaultObserver> { apf });
                let config = PagerConfig {
                    refuse_absent: refuses,
                    ..config(spec)
                };
                let paged = Paged::start(data, page_size, planned.clone(), &config, observer)?;
                Provider::Surefault {
                    paged: Arc::new(paged),
                    planned,
                }
            }
            PagerMode::None if apf.is_some() => return Err(RunError::NoPager),
            PagerMode::None => {
                let alone = LinuxAlone::map(&**source, &spec.plan, pages, page_size)?;
                Provider::Linux(Arc::new(alone))
            }
        })
    }

    pub(super) fn data(&self) -> Arc<Mapping> {
        Arc::clone(match self {
            Provider::Surefault { paged, .. } => paged.mapping(),
            Provider::Linux(alone) => alone.mapping(),
        })
    }

    pub(super) fn pages(&self) -> Arc<dyn PageSource> {
        match self {
            Provider::Surefault { paged, .. } => paged.clone(),
            Provider::Linux(alone) => alone.clone(),
        }
    }

    /// Repairs the source of `page`.
    pub(super) fn heal(&self, page: PageId) -> Result<(), RunError> {
        match self {
            Provider::Surefault { paged, planned } => {
                planned.repair(page.index()..=page.index());
                paged.pager().heal(page, 1);
            }
            Provider::Linux(alone) => alone.heal(page.index())?,
        }
        Ok(())
    }

    /// Holds a pager of not too many pages against its invariants.
    pub(super) fn check_invariants(&self) -> Result<(), RunError> {
        match self {
            Provider::Surefault { paged, .. } if paged.mapping().len() <= CHECKED => {
                Ok(paged.pager().check_invariants()?)
            }
            Provider::Surefault { .. } | Provider::Linux(_) => Ok(()),
        }
    }

    /// What was counted by whoever it is, and the pages that are present and pending now.
    pub(super) fn counters(&self) -> Counters {
        match self {
            Provider::Surefault { paged, .. } => {
                let pager = paged.pager();
                let (present, pending) = pager.residency();
                let pages = [("present", present.get()), ("pending", pending.get())];
                let named = pager.stats().named().chain(pages);
                named.map(|(name, value)| (name.into(), value)).collect()
            }
            Provider::Linux(_) => Counters::new(),
        }
    }
}

fn config(spec: &RunSpec) -> PagerConfig {
    let defaults = ResidencyConfig::default();
    PagerConfig {
        residency: ResidencyConfig {
            attempts: spec.attempts,
            deadline: spec.deadline,
            range_patience: defaults.range_patience.min(spec.deadline / 2),
            ..defaults
        },
        ..PagerConfig::default()
    }
}
