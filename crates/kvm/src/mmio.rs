//! An access that KVM took for a device's, because the page behind it failed.
//!
//! KVM's instruction emulator gives such an access to the VMM as an MMIO exit, and goes on with
//! whatever the VMM has put into `kvm_run` when the vCPU is next run. Once the page has been healed
//! the VMM makes the access itself.
#![expect(unsafe_code, reason = "answers an MMIO exit, in a union of kvm_run")]

use kvm_bindings::kvm_run;
use surefault_core::Gpa;

use crate::memory::MemoryError;
use crate::vm::Slot;

/// Bytes of an MMIO exit's data.
const MAX_DATA: usize = 8;

/// An access that is waiting for the VMM to make it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unfinished {
    gpa: Gpa,
    len: usize,
    /// What to write; `None` for a read.
    write: Option<[u8; MAX_DATA]>,
}

impl Unfinished {
    pub(crate) fn read(gpa: u64, data: &[u8]) -> Unfinished {
        Unfinished {
            gpa: Gpa::new(gpa),
            len: data.len(),
            write: None,
        }
    }

    pub(crate) fn write(gpa: u64, data: &[u8]) -> Unfinished {
        let mut write = [0; MAX_DATA];
        write[..data.len()].copy_from_slice(data);
        Unfinished {
            gpa: Gpa::new(gpa),
            len: data.len(),
            write: Some(write),
        }
    }

    pub(crate) fn gpa(&self) -> Gpa {
        self.gpa
    }

    pub(crate) fn len(&self) -> u64 {
        self.len as u64
    }

    pub(crate) fn is_write(&self) -> bool {
        self.write.is_some()
    }

    /// Makes the access, and puts what was read where KVM expects it.
    pub(crate) fn finish(self, slots: &[Slot], run: &mut kvm_run) -> Result<(), MemoryError> {
        let Some((slot, offset)) = slots.iter().find_map(|slot| {
            let offset = self.gpa.checked_offset_from(slot.gpa())?;
            slot.hva_of(self.gpa).map(|_| (slot, offset))
        }) else {
            // Not memory: such an exit never becomes an unfinished access.
            return Ok(());
        };
        match self.write {
            Some(bytes) => slot.mapping().write(offset, &bytes[..self.len]),
            None => {
                let mut bytes = [0; MAX_DATA];
                slot.mapping().read(offset, &mut bytes[..self.len])?;
                // SAFETY: `mmio` is the member of the union that the last exit, an MMIO exit, has
                // filled in; any bytes are valid in it.
                let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
                mmio.data = bytes;
                Ok(())
            }
        }
    }
}
