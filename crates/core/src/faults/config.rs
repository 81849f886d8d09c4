//! How a faults machine is built: widths and table sizes, so that its state is finite.

use core::time::Duration;

use thiserror::Error;

/// How the guest's page tables are walked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Paging {
    /// The hardware walks them (EPT, NPT): a fault's address is guest-physical.
    TwoDimensional,
    /// KVM shadows them: a fault's address is guest-virtual, and belongs to one address space.
    Shadow,
}

/// What becomes of a fault on a frame that its vCPU waits for already.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DoubleFault {
    /// The vCPU is halted artificially, as in Linux.
    Halt,
    /// It is queued like any other, under a token of its own, and the vCPU goes on.
    Queue,
}

/// Sizes and fixed properties of one VM. [`FaultsConfig::new`] gives Linux's own numbers; a model
/// checker takes smaller ones, so that overflow and collision are within reach.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FaultsConfig {
    /// vCPUs, with the ids 0 to `vcpus - 1`. 1 to 4096: a token has 12 bits for the id.
    pub vcpus: u16,
    /// How the guest's page tables are walked.
    pub paging: Paging,
    /// Items that a vCPU may have queued (`ASYNC_PF_PER_VCPU`), 1 to 64.
    pub queue_cap: u8,
    /// Slots of a vCPU's set of queued gfns: a power of two, at least `queue_cap`, at most 128.
    pub gfn_slots: u8,
    /// Items that a vCPU may have in memory, cancelled ones whose work has not ended included:
    /// `queue_cap` to 128. None free is what a failed allocation is in Linux: the synchronous way.
    pub item_slots: u8,
    /// Width of a token's counter in bits: at most 20, and wide enough for `queue_cap + 1` ids.
    pub token_id_bits: u8,
    /// Errors remembered until the task that met them comes back, at least 1. Each task of the guest
    /// may have one: with fewer slots than failing tasks, errors are logged as unclaimed that are not.
    pub owed_slots: u16,
    /// Signals remembered until they are confirmed (Linux runs the APF), at least 1.
    pub observed_slots: u16,
    /// Addresses that the policy `error-gfn-table` remembers for a vCPU: a power of two, at most 128.
    pub error_slots: u8,
    /// An error that nobody came back for ends as unclaimed after one to two times this.
    pub unclaimed_after: Duration,
    /// The local APIC is emulated in the kernel. Without it no fault is asynchronous.
    pub lapic_in_kernel: bool,
    /// The guest's HLT does not exit (`KVM_CAP_X86_DISABLE_EXITS`), so no artificial halt.
    pub hlt_in_guest: bool,
    /// What becomes of a second fault on an outstanding frame.
    pub double_fault: DoubleFault,
    /// The guest may ask for an error word in the ready event (`MSR_KVM_ASYNC_PF_EN` bit 4 as
    /// proposed in 2020; only behind a CPUID leaf of one's own).
    pub error_word: bool,
    /// A failed access goes to the task that made it, by the error word where the guest reads it
    /// and by a machine check where it does not, and is reported only where that cannot be done.
    pub errors_to_guest: bool,
    /// Machine checks for one access, in a row, after which a guest is taken not to listen: at least
    /// as many as there may be tasks that make the same access.
    pub told_limit: u16,
}

impl FaultsConfig {
    /// Linux's numbers for `vcpus` vCPUs under two-dimensional paging.
    pub const fn new(vcpus: u16) -> FaultsConfig {
        FaultsConfig {
            vcpus,
            paging: Paging::TwoDimensional,
            queue_cap: 64,
            gfn_slots: 64,
            item_slots: 128,
            token_id_bits: 20,
            owed_slots: 1024,
            observed_slots: 64,
            error_slots: 64,
            unclaimed_after: Duration::from_secs(60),
            lapic_in_kernel: true,
            hlt_in_guest: false,
            double_fault: DoubleFault::Halt,
            error_word: false,
            errors_to_guest: false,
            told_limit: u16::MAX,
        }
    }

    /// Checks the bounds that each field states.
    ///
    /// # Errors
    /// The first field found out of bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let within = |field, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(ConfigError::OutOfBounds {
                    field,
                    value,
                    min,
                    max,
                })
            }
        };
        let cap = u64::from(self.queue_cap);
        within("vcpus", u64::from(self.vcpus), 1, 4096)?;
        within("queue_cap", cap, 1, 64)?;
        within("gfn_slots", u64::from(self.gfn_slots), cap, 128)?;
        within("error_slots", u64::from(self.error_slots), 1, 128)?;
        for (field, value) in [
            ("gfn_slots", self.gfn_slots),
            ("error_slots", self.error_slots),
        ] {
            if !value.is_power_of_two() {
                return Err(ConfigError::NotPowerOfTwo { field, value });
            }
        }
        within("item_slots", u64::from(self.item_slots), cap, 128)?;
        // Ids 1 to 2^bits - 1; every queued item and the one in the ready slot hold one.
        let bits = u64::from(64 - (cap + 1).leading_zeros());
        within("token_id_bits", u64::from(self.token_id_bits), bits, 20)?;
        within("told_limit", u64::from(self.told_limit), 1, u16::MAX.into())?;
        within("owed_slots", u64::from(self.owed_slots), 1, 4096)?;
        within("observed_slots", u64::from(self.observed_slots), 1, 4096)
    }
}

/// A configuration that makes no sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ConfigError {
    /// A number lies outside its bounds.
    #[error("{field} is {value}, must be {min} to {max}")]
    OutOfBounds {
        /// The field of [`FaultsConfig`].
        field: &'static str,
        /// What it is.
        value: u64,
        /// The smallest value that works.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// A table is no power of two in size.
    #[error("{field} is {value}, must be a power of two")]
    NotPowerOfTwo {
        /// The field of [`FaultsConfig`].
        field: &'static str,
        /// What it is.
        value: u8,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_numbers_are_valid_and_bounds_are_checked() {
        assert_eq!(FaultsConfig::new(1).validate(), Ok(()));
        assert_eq!(FaultsConfig::new(4096).validate(), Ok(()));
        assert!(FaultsConfig::new(0).validate().is_err());
        let small = FaultsConfig {
            queue_cap: 1,
            gfn_slots: 1,
            item_slots: 1,
            token_id_bits: 2,
            ..FaultsConfig::new(2)
        };
        assert_eq!(small.validate(), Ok(()));
        for bad in [
            FaultsConfig {
                gfn_slots: 3,
                queue_cap: 2,
                ..small
            },
            FaultsConfig {
                token_id_bits: 1,
                ..small
            },
            FaultsConfig {
                item_slots: 0,
                ..small
            },
            FaultsConfig {
                queue_cap: 65,
                ..FaultsConfig::new(1)
            },
            FaultsConfig {
                error_slots: 6,
                ..small
            },
            FaultsConfig {
                owed_slots: 0,
                ..small
            },
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
    }
}
