//! What must not stay open for ever.

use surefault_core::plan::FailureMode;
use surefault_core::policy::AnyPolicy;
use surefault_core::residency::PageState;
use surefault_core::{PageIndex, VcpuId};
use surefault_sim::world::{TaskLook, World};

use super::{Config, Promise};

/// The obligations of a configuration: one for each promise and each task, vCPU or page that it is
/// made to.
#[derive(Clone, Debug)]
pub(super) struct Promises {
    of: Vec<(Promise, u32)>,
    names: Vec<&'static str>,
    vcpus: u32,
    pages: u32,
}

impl Promises {
    pub(super) fn new(config: &Config) -> Promises {
        let mut of = Vec::new();
        for task in 0..u32::from(config.tasks) {
            of.push((Promise::FailingEnds, task));
            of.push((Promise::HealthyEnds, task));
            of.push((Promise::RepairedServed, task));
        }
        let vcpus = u32::from(config.vcpus);
        of.extend((0..vcpus).map(|vcpu| (Promise::AsyncComesBack, vcpu)));
        of.extend((0..config.pages).map(|page| (Promise::UnclaimedEnds, page)));
        assert!(of.len() <= 32, "obligations fit their set");
        Promises {
            names: of.iter().map(|(promise, _)| promise.as_str()).collect(),
            of,
            vcpus,
            pages: config.pages,
        }
    }

    pub(super) fn names(&self) -> &[&'static str] {
        &self.names
    }

    pub(super) fn promise(&self, obligation: usize) -> Promise {
        self.of[obligation].0
    }

    pub(super) fn open(&self, world: &World<AnyPolicy>) -> u32 {
        let mut open = 0;
        let mut set = |promise, whose| {
            let at = self.of.iter().position(|&of| of == (promise, whose));
            open |= at.map_or(0, |at| 1 << at);
        };
        for task in world.tasks() {
            if let Some(promise) = to_task(world, &task) {
                set(promise, u32::from(task.id.get()));
            }
        }
        for vcpu in 0..self.vcpus {
            let id = VcpuId::new(vcpu);
            // Whoever got the report decides what comes next.
            if world.stopped_for(id).is_none() && self.is_refused(world, id) {
                set(Promise::AsyncComesBack, vcpu);
            }
        }
        for page in world.machine().faults().owed_pages() {
            set(Promise::UnclaimedEnds, page.index().get());
        }
        open
    }

    /// A page that does not fail would be taken the synchronous way.
    fn is_refused(&self, world: &World<AnyPolicy>, vcpu: VcpuId) -> bool {
        (0..self.pages).map(PageIndex::new).any(|page| {
            let fails =
                mode(world, page) == FailureMode::Permanent && !world.machine().is_repaired(page);
            let failed = matches!(world.page_state(page), PageState::Failed(_));
            !fails && !failed && world.would_refuse(vcpu, page)
        })
    }
}

/// What an access that was begun is promised.
fn to_task(world: &World<AnyPolicy>, task: &TaskLook) -> Option<Promise> {
    let page = task.wants.filter(|_| task.has_asked)?;
    if world.stopped_for(task.vcpu).is_some() {
        return None;
    }
    Some(match mode(world, page) {
        FailureMode::Healthy | FailureMode::Temporary { .. } => Promise::HealthyEnds,
        FailureMode::Permanent | FailureMode::Stall | FailureMode::Truncate => {
            match world.machine().is_repaired(page) {
                true => Promise::RepairedServed,
                false => Promise::FailingEnds,
            }
        }
    })
}

fn mode(world: &World<AnyPolicy>, page: PageIndex) -> FailureMode {
    let mode = world.machine().setup().failing.get(&page);
    mode.copied().unwrap_or(FailureMode::Healthy)
}
