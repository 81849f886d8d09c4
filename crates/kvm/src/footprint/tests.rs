use std::collections::BTreeMap;

use super::*;

const RDI: usize = 7;
const RSI: usize = 6;

/// Pages that are 0x10_0000 higher in guest-physical memory; those with content can be read.
struct Fake {
    pages: BTreeMap<u64, Option<[u8; 4096]>>,
}

impl Fake {
    fn new(code_at: u64, code: &[u8], others: &[u64]) -> Fake {
        let mut pages: BTreeMap<_, _> = others.iter().map(|&page| (page, None)).collect();
        for (at, &byte) in (code_at..).zip(code) {
            let page = pages.entry(at & !0xfff).or_insert(Some([0x90; 4096]));
            if let Some(page) = page {
                page[(at & 0xfff) as usize] = byte;
            }
        }
        Fake { pages }
    }

    fn footprint(&self, rip: u64, set: &[(usize, u64)]) -> Vec<(u64, Access)> {
        let mut registers = Registers {
            rip,
            ..Registers::default()
        };
        for &(number, value) in set {
            registers.general[number] = value;
        }
        let footprint = Footprint::of(self, &registers, Mode::Bits64);
        let touches = footprint.touches.iter();
        touches.map(|&(gpa, how)| (gpa.get(), how)).collect()
    }
}

impl GuestView for Fake {
    fn translate(&self, gva: Gva) -> Option<Gpa> {
        let mapped = self.pages.contains_key(&(gva.get() & !0xfff));
        mapped.then(|| Gpa::new(gva.get() + 0x10_0000))
    }

    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Option<()> {
        let gva = gpa.get() - 0x10_0000;
        let page = self.pages[&(gva & !0xfff)]?;
        buffer.copy_from_slice(&page[(gva & 0xfff) as usize..][..buffer.len()]);
        Some(())
    }
}

const LOAD: [u8; 3] = [0x48, 0x8b, 0x07]; // mov rax, [rdi]
const MOVSQ: [u8; 2] = [0x48, 0xa5];

#[test]
fn an_operand_is_found_through_the_guests_translation() {
    let fake = Fake::new(0x1000, &LOAD, &[0x5000]);
    assert_eq!(
        fake.footprint(0x1000, &[(RDI, 0x5123)]),
        [(0x10_1000, Access::Fetch), (0x10_5000, Access::Read)]
    );
}

#[test]
fn an_operand_may_lie_in_two_pages_and_some_may_not_be_mapped() {
    let fake = Fake::new(0x1000, &LOAD, &[0x5000, 0x6000]);
    assert_eq!(
        fake.footprint(0x1000, &[(RDI, 0x5ffc)]),
        [
            (0x10_1000, Access::Fetch),
            (0x10_5000, Access::Read),
            (0x10_6000, Access::Read)
        ]
    );
    assert_eq!(
        fake.footprint(0x1000, &[(RDI, 0x6ffc)])[1..],
        [(0x10_6000, Access::Read)]
    );
}

#[test]
fn an_instruction_that_cannot_be_read_touches_its_own_page_at_least() {
    let fake = Fake::new(0x1000, &LOAD, &[0x3000]);
    assert_eq!(fake.footprint(0x3000, &[]), [(0x10_3000, Access::Fetch)]);
    assert_eq!(fake.footprint(0x4000, &[]), []);
}

#[test]
fn an_instruction_may_lie_in_two_pages() {
    // Its second half can be read, and cannot.
    let whole = Fake::new(0x1ffe, &LOAD, &[0x5000]);
    assert_eq!(
        whole.footprint(0x1ffe, &[(RDI, 0x5000)]),
        [
            (0x10_1000, Access::Fetch),
            (0x10_2000, Access::Fetch),
            (0x10_5000, Access::Read)
        ]
    );
    let half = Fake::new(0x1ffe, &LOAD[..2], &[0x2000, 0x5000]);
    assert_eq!(
        half.footprint(0x1ffe, &[(RDI, 0x5000)]),
        [(0x10_1000, Access::Fetch), (0x10_2000, Access::Fetch)]
    );
    // It ends before the page that cannot be read.
    let short = Fake::new(0x1ffd, &LOAD, &[0x2000, 0x5000]);
    assert_eq!(
        short.footprint(0x1ffd, &[(RDI, 0x5000)]),
        [(0x10_1000, Access::Fetch), (0x10_5000, Access::Read)]
    );
}

#[test]
fn of_two_operands_the_access_is_that_of_the_page_asked_for() {
    let fake = Fake::new(0x1000, &MOVSQ, &[0x5000, 0x6000]);
    let registers = Registers {
        rip: 0x1000,
        general: {
            let mut general = [0; 16];
            (general[RSI], general[RDI]) = (0x5000, 0x6000);
            general
        },
        ..Registers::default()
    };
    let footprint = Footprint::of(&fake, &registers, Mode::Bits64);
    let access = |gpa| footprint.access_to(Gpa::new(gpa), PageSize::KIB_4);
    assert_eq!(access(0x10_5000), Access::Read);
    assert_eq!(access(0x10_6000), Access::Write);
    assert_eq!(access(0x10_1008), Access::Fetch);
    assert_eq!(access(0x10_7000), Access::Unknown);
    // All three lie in the same huge page.
    let huge = footprint.access_to(Gpa::new(0x10_0000), PageSize::MIB_2);
    assert_eq!(huge, Access::Fetch);
}

#[test]
fn a_write_that_is_over_is_found_before_rip() {
    // mov [rdi], rax, behind a byte that would be a prefix: the length says how much belongs to it.
    let fake = Fake::new(0x1000, &[0x66, 0x48, 0x89, 0x07, 0x90], &[0x5000]);
    let before = |rip, address, len| {
        let mut registers = Registers {
            rip,
            ..Registers::default()
        };
        registers.general[RDI] = address;
        let gpa = Gpa::new(address + 0x10_0000);
        writer_before_rip(&fake, &registers, Mode::Bits64, gpa, len)
    };
    assert_eq!(before(0x1004, 0x5008, 8), Some(Gva::new(0x1001)));
    assert_eq!(before(0x1004, 0x5008, 4), Some(Gva::new(0x1002)));
    assert_eq!(before(0x1005, 0x5008, 8), None);
    assert_eq!(before(0, 0x5008, 8), None);
}
