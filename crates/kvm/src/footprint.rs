//! Which pages the instruction at RIP touches, and how.

use surefault_core::{Access, Gpa, Gva, PageSize};

use crate::decode::{Decoded, MAX_INSTRUCTION, Mode, Registers, decode};

#[cfg(test)]
mod tests;

/// The granularity at which addresses are translated.
const GUEST_PAGE: PageSize = PageSize::KIB_4;

/// A guest's memory as its CPU sees it, while the CPU stands still.
pub(crate) trait GuestView {
    /// Where `gva` is; `None` where nothing is mapped.
    fn translate(&self, gva: Gva) -> Option<Gpa>;

    /// Fills `buffer`, which does not cross a page, from `gpa` on; `None` where that cannot be had.
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Option<()>;
}

/// The pages that one instruction touches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Footprint {
    /// The pages by their first bytes, each with one thing that the instruction does with it. The
    /// pages it lies in come first.
    touches: Vec<(Gpa, Access)>,
}

impl Footprint {
    /// The footprint of the instruction at RIP. As far as it can be told: an instruction that
    /// cannot be read touches the pages in which it lies, and nobody knows which others.
    pub(crate) fn of(view: &impl GuestView, registers: &Registers, mode: Mode) -> Footprint {
        let mut touches = Vec::new();
        let code = read_code(view, linear_rip(registers, mode), |page| {
            touches.push((page, Access::Fetch));
        });
        if let Some(Decoded { len, operands }) = decode(&code, mode, registers) {
            // A page behind the instruction's end was read for nothing.
            let last = linear_rip(registers, mode).checked_add(len as u64 - 1);
            touches.truncate(last.map_or(1, |last| {
                1 + usize::from(page_of(last) != page_of(linear_rip(registers, mode)))
            }));
            for operand in operands {
                let (first, last) = (page_of(operand.gva), page_of(operand.last()));
                for gva in [Some(first), (last != first).then_some(last)] {
                    let page = gva.and_then(|gva| view.translate(gva));
                    touches.extend(page.map(|page| (page, operand.access)));
                }
            }
        }
        Footprint { touches }
    }

    /// What the instruction does with the page at `page`: the first of fetch, write and read.
    pub(crate) fn access_to(&self, page: Gpa, size: PageSize) -> Access {
        let touches = |access| {
            (self.touches.iter())
                .any(|&(gpa, how)| how == access && gpa.page_base(size) == page.page_base(size))
        };
        [Access::Fetch, Access::Write, Access::Read]
            .into_iter()
            .find(|&access| touches(access))
            .unwrap_or(Access::Unknown)
    }

    /// The pages, the instruction's own first.
    pub(crate) fn pages(&self) -> impl Iterator<Item = Gpa> {
        self.touches.iter().map(|&(page, _)| page)
    }
}

/// The address of the instruction that ends at RIP and has just written `len` bytes at `gpa`.
///
/// KVM's emulator is past an instruction when it hands the instruction's write to the VMM. Code
/// cannot be read backwards for certain, but an instruction that ends in the right place and writes
/// as much to the right address is hardly there by chance: of several, the shortest is it (a prefix
/// more would change the address or the length, or mean nothing).
pub(crate) fn writer_before_rip(
    view: &impl GuestView,
    registers: &Registers,
    mode: Mode,
    gpa: Gpa,
    len: u64,
) -> Option<Gva> {
    (1..=MAX_INSTRUCTION).find_map(|back| {
        let registers = Registers {
            rip: registers.rip.checked_sub(back as u64)?,
            ..*registers
        };
        let code = read_code(view, linear_rip(&registers, mode), |_| ());
        let decoded = decode(&code, mode, &registers)?;
        let writes = decoded.operands.iter().any(|operand| {
            operand.access == Access::Write
                && operand.len == len
                && view.translate(operand.gva) == Some(gpa)
        });
        (decoded.len == back && writes).then(|| Gva::new(registers.rip))
    })
}

fn page_of(gva: Gva) -> Gva {
    gva.page_base(GUEST_PAGE)
}

fn linear_rip(registers: &Registers, mode: Mode) -> Gva {
    /// The number of cs among the segment registers.
    const CS: usize = 1;
    Gva::new(match mode {
        Mode::Bits64 => registers.rip,
        Mode::Bits16 | Mode::Bits32 => {
            (registers.segment_bases[CS].wrapping_add(registers.rip)) & 0xffff_ffff
        }
    })
}

/// The bytes from `rip` on, as many as an instruction may have and can be read; `fetches` is told
/// of each page that is looked at, also of one that cannot be read.
fn read_code(view: &impl GuestView, rip: Gva, mut fetches: impl FnMut(Gpa)) -> Vec<u8> {
    let mut code = Vec::with_capacity(MAX_INSTRUCTION);
    let mut at = Some(rip);
    while let Some(gva) = at.filter(|_| code.len() < MAX_INSTRUCTION) {
        let Some(gpa) = view.translate(gva) else {
            break;
        };
        fetches(gpa.page_base(GUEST_PAGE));
        let left_in_page = GUEST_PAGE.bytes() - gva.get() % GUEST_PAGE.bytes();
        let len = left_in_page.min((MAX_INSTRUCTION - code.len()) as u64);
        let mut bytes = [0; MAX_INSTRUCTION];
        let bytes = &mut bytes[..len as usize];
        if view.read(gpa, bytes).is_none() {
            break;
        }
        code.extend_from_slice(bytes);
        at = gva.checked_add(len);
    }
    code
}
