//! Deliberately broken variants of the machine, for the tests that must catch them.
//!
//! The type is always there, so that the places that consult it read the same in every build; a
//! machine can be given a defect only in tests and under the feature `defects`, and elsewhere the
//! question is answered "no" at compile time.

/// One way to be wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Defect {
    /// The first completion does not kick the vCPU.
    DroppedWakeUp,
    /// The work starts before the guest is told "not present".
    ReadyBeforeAnnounce,
    /// The guest's ack does not free the ready slot.
    AckIgnored,
    /// One item more than the cap is queued.
    CapOffByOne,
    /// Disabling leaves the completions in their FIFO.
    StaleTokenAfterDisable,
    /// A finished item's gfn stays in the set.
    HashEntryLeft,
    /// A completion stays in the FIFO when it is delivered.
    DoubleDelivery,
    /// The report goes out in the name of the next vCPU.
    WrongVcpuReported,
    /// A cancelled item's place is used again at once, so that its late answer meets another.
    OldGeneration,
    /// The newest completion is delivered first.
    UnfairFifo,
    /// The ready slot is not looked at: a second ready overwrites the first.
    SlotOverwritten,
    /// A failure on the synchronous way is dropped, as Linux drops it on the asynchronous one.
    FailureSwallowed,
    /// The prefault runs in whatever address space is current.
    WrongAddressSpace,
    /// An error that nobody came back for is never logged.
    UnclaimedLost,
}

impl Defect {
    /// All of them.
    pub const ALL: [Defect; 14] = [
        Defect::DroppedWakeUp,
        Defect::ReadyBeforeAnnounce,
        Defect::AckIgnored,
        Defect::CapOffByOne,
        Defect::StaleTokenAfterDisable,
        Defect::HashEntryLeft,
        Defect::DoubleDelivery,
        Defect::WrongVcpuReported,
        Defect::OldGeneration,
        Defect::UnfairFifo,
        Defect::SlotOverwritten,
        Defect::FailureSwallowed,
        Defect::WrongAddressSpace,
        Defect::UnclaimedLost,
    ];
}
