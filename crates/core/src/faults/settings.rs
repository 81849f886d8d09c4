//! What a guest asked of async page faults: the MSR, decoded once.

/// A vCPU's setting of async page faults, as the guest wrote it to `MSR_KVM_ASYNC_PF_EN`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum GuestApf {
    /// Not enabled, or not with "ready by interrupt": the guest is told nothing.
    #[default]
    Off,
    /// Enabled, bits 0 and 3.
    On {
        /// Bit 1: also in kernel mode (CPL 0).
        send_always: bool,
        /// Bit 4 as proposed in 2020: wants an error word in the ready event.
        error_word: bool,
    },
}

/// `MSR_KVM_ASYNC_PF_EN` bit 0.
const ENABLED: u64 = 1 << 0;
/// Bit 1.
const SEND_ALWAYS: u64 = 1 << 1;
/// Bit 3.
const READY_BY_INTERRUPT: u64 = 1 << 3;
/// Bit 4, reserved in Linux.
const ERROR_WORD: u64 = 1 << 4;
/// Bit 5, reserved.
const RESERVED: u64 = 1 << 5;

impl GuestApf {
    /// Decodes a value written to `MSR_KVM_ASYNC_PF_EN`; `None` when the write is a #GP
    /// (`kvm_pv_enable_async_pf`). `error_word_offered`: bit 4 is not reserved.
    pub const fn from_msr(value: u64, error_word_offered: bool) -> Option<GuestApf> {
        let reserved = RESERVED | if error_word_offered { 0 } else { ERROR_WORD };
        if value & reserved != 0 {
            return None;
        }
        if value & ENABLED == 0 || value & READY_BY_INTERRUPT == 0 {
            return Some(GuestApf::Off);
        }
        Some(GuestApf::On {
            send_always: value & SEND_ALWAYS != 0,
            error_word: value & ERROR_WORD != 0,
        })
    }

    /// Whether the guest is told anything at all (`kvm_pv_async_pf_enabled`).
    pub const fn is_on(self) -> bool {
        matches!(self, GuestApf::On { .. })
    }

    /// Whether the guest understands an error word.
    pub const fn wants_errors(self) -> bool {
        matches!(
            self,
            GuestApf::On {
                error_word: true,
                ..
            }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_msr_is_decoded_as_linux_does() {
        let on = |send_always, error_word| {
            Some(GuestApf::On {
                send_always,
                error_word,
            })
        };
        assert_eq!(GuestApf::from_msr(0, false), Some(GuestApf::Off));
        assert_eq!(
            GuestApf::from_msr(0x1000 | 0b0001, false),
            Some(GuestApf::Off)
        );
        assert_eq!(GuestApf::from_msr(0x1000 | 0b1001, false), on(false, false));
        assert_eq!(GuestApf::from_msr(0x1000 | 0b1011, false), on(true, false));
        assert_eq!(GuestApf::from_msr(0b1_1001, false), None);
        assert_eq!(GuestApf::from_msr(0b1_1001, true), on(false, true));
        assert_eq!(GuestApf::from_msr(0b10_1001, true), None);
    }
}
