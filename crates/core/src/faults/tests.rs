mod properties;
mod rules;
mod states;
mod telling;
mod world;

use crate::{
    Cause, CauseId, CauseKind, Failure, Gfn, Gva, PageId, PageIndex, RegionId, SlotId, VcpuId,
};

use super::{Fault, Moment, Root};

fn page(index: u32) -> PageId {
    PageId::new(RegionId::new(0), PageIndex::new(index))
}

/// Page n is mapped at gfn 100 + n.
fn fault(index: u32) -> Fault {
    Fault {
        page: page(index),
        memslot: SlotId::new(0),
        gfn: Gfn::new(100 + u64::from(index)),
        rip: Gva::new(0x40_0000 + u64::from(index)),
    }
}

fn moment(index: u32, root: u64) -> Moment {
    Moment::user(
        Gva::new(0x7000_0000 + (u64::from(index) << 12)),
        Root::new(root),
    )
}

fn failure() -> Failure {
    Failure {
        cause: Cause {
            kind: CauseKind::Io,
            id: CauseId::default(),
        },
        attempts: 1,
    }
}

const V0: VcpuId = VcpuId::new(0);
const V1: VcpuId = VcpuId::new(1);
