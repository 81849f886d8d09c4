//! Serving the memory of another process.

use std::sync::Arc;
use std::time::Duration;

use surefault_store::Store;
use surefault_uffd::{Userfaultfd, host_page_size};

use crate::foreign::Rule;
use crate::mark::Marking;
use crate::pager::{Listeners, start_serving};
use crate::{Attendant, FailedPage, Pager, PagerConfig, Records, ServedRegion, StartError};

/// How often a page that is kept waiting is tried again, unless
/// [`ResidencyConfig::failure_ttl`](surefault_core::residency::ResidencyConfig::failure_ttl) says
/// otherwise.
const TRY_AGAIN: Duration = Duration::from_secs(1);

impl Pager {
    /// Begins to serve another process's memory from `store`: that of the process which made `uffd`,
    /// and registered `regions` with it.
    ///
    /// Nothing of that process is touched but absent pages of ranges that it registered, whatever
    /// `regions` say. Nor does the store have to be as long as they are: what lies beyond its end
    /// fails page by page. The removals that `uffd` reports (`EVENT_REMOVE`) are obeyed.
    ///
    /// **When the pager is dropped** while the process lives and pages are absent, these read as
    /// zeros, unless somebody else keeps the userfaultfd open: then their touchers wait for ever. See
    /// to the process's end first.
    ///
    /// # Errors
    /// When these regions cannot be served, or failed pages not be treated as told.
    pub fn attach(
        uffd: Userfaultfd,
        regions: &[ServedRegion],
        store: Arc<dyn Store>,
        config: &PagerConfig,
        attendant: Arc<dyn Attendant>,
    ) -> Result<Pager, StartError> {
        attach(uffd, regions, store, config, attendant, None)
    }

    /// Begins to serve another process's memory like [`attach`](Self::attach), and keeps `records`
    /// from which another process can go on when this one is killed, if it has duplicates of their
    /// descriptor and of the userfaultfd. Goes on from them if they are not new.
    ///
    /// # Errors
    /// As `attach`, and when the records make no sense.
    pub fn attach_recorded(
        uffd: Userfaultfd,
        regions: &[ServedRegion],
        store: Arc<dyn Store>,
        config: &PagerConfig,
        attendant: Arc<dyn Attendant>,
        records: Records,
    ) -> Result<Pager, StartError> {
        attach(uffd, regions, store, config, attendant, Some(records))
    }
}

fn attach(
    uffd: Userfaultfd,
    regions: &[ServedRegion],
    store: Arc<dyn Store>,
    config: &PagerConfig,
    attendant: Arc<dyn Attendant>,
    records: Option<Records>,
) -> Result<Pager, StartError> {
    for region in regions {
        let start = region.start;
        region
            .range()
            .map_err(|source| StartError::Region { start, source })?;
    }
    let rule = Rule::new(config.failed_page).ok_or(match config.failed_page {
        FailedPage::Poison => StartError::NoPoison,
        failed_page => StartError::FailedPage(failed_page),
    })?;
    let mut limits = config.residency.clone();
    // To forget a failure would be to fetch its page again at once: each is remembered. There
    // are no more than pages that somebody has touched.
    limits.max_failures = u32::MAX as usize;
    if regions
        .iter()
        .any(|region| region.page_size.bytes() > host_page_size())
    {
        // A huge page is a long read by itself.
        limits.max_range = 1;
    }
    if rule == Rule::Wait {
        limits.failure_ttl = limits.failure_ttl.or(Some(TRY_AGAIN));
    }
    let config = PagerConfig {
        residency: limits,
        ..config.clone()
    };
    let marking = Marking::Foreign(rule);
    let listeners = Listeners {
        attendant,
        observer: None,
    };
    start_serving(uffd, regions, store, marking, &config, listeners, records)
}
