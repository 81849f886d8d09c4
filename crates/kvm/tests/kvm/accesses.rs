//! The access in a report is that of the instruction at RIP.

use surefault_core::Access;
use surefault_core::workload::FirstTouch::{self, Call, Read, Write};
use surefault_guest::abi::DATA_BASE;

use crate::Case;
use crate::rig::{Code, Healer, PAGE, assert_sums, one_task};

pub(crate) const CASES: &[Case] = &[
    ("reads_writes_and_fetches", kinds),
    ("an_instruction_across_two_pages_fetches_the_second", split),
    ("two_failing_pages_under_one_instruction", both_operands),
];

const RET: &[u8] = &[0xc3];

/// The accesses, pages and instructions of the reports of one task, all healed.
fn reports(
    fail: &str,
    touches: &[(u32, FirstTouch)],
    code: &[(u32, &[u8])],
) -> Vec<(Access, u32, u64)> {
    let mut healer = Healer::default();
    let result = one_task(fail, touches, Code::new(4, code), &mut healer).unwrap();
    assert_sums(&result);
    assert_eq!(result.stats.pages_done, touches.len() as u64);
    let reports = healer.reports.iter();
    reports
        .map(|r| (r.report.access, r.page.get(), r.report.rip.get()))
        .collect()
}

fn at(page: u64) -> u64 {
    DATA_BASE + page * PAGE
}

fn kinds() {
    let touches = [(0, Read), (1, Write), (2, Call)];
    let [read, write, fetch] = reports("0-2", &touches, &[(2, RET)])[..] else {
        panic!("three reports");
    };
    assert_eq!((read.0, read.1), (Access::Read, 0));
    assert_eq!((write.0, write.1), (Access::Write, 1));
    assert_eq!(fetch, (Access::Fetch, 2, at(2)));
    assert!(read.2 < at(0) && write.2 < at(0));
}

fn split() {
    // Page 0 jumps to its last byte, where a two-byte instruction begins: xchg ax, ax; ret.
    let jump: &[u8] = &[0xe9, 0xfa, 0x0f, 0, 0];
    let mut code = jump.to_vec();
    code.resize(PAGE as usize - 1, 0xcc);
    code.push(0x66);
    let reports = reports("1", &[(0, Call)], &[(0, &code), (1, &[0x90, 0xc3])]);
    assert_eq!(reports, [(Access::Fetch, 1, at(1) - 1)]);
}

fn both_operands() {
    // Called with rdi = this page: lea rsi, [rdi+PAGE]; add rdi, 2*PAGE; movsq; and back to the
    // page in rdi, as it was.
    let code: &[u8] = &[
        0x57, // push rdi
        0x48, 0x8d, 0xb7, 0x00, 0x10, 0x00, 0x00, // lea rsi, [rdi+0x1000]
        0x48, 0x81, 0xc7, 0x00, 0x20, 0x00, 0x00, // add rdi, 0x2000
        0x48, 0xa5, // movsq
        0x5f, // pop rdi
        0x31, 0xf6, // xor esi, esi: no stamp to write
        0xc3, // ret
    ];
    let mut reports = reports("1-2", &[(0, Call)], &[(0, code)]);
    // Which of the two is touched first is the CPU's business.
    reports.sort_unstable_by_key(|report| report.1);
    assert_eq!(
        reports,
        [
            (Access::Read, 1, at(0) + 15),
            (Access::Write, 2, at(0) + 15)
        ]
    );
}
