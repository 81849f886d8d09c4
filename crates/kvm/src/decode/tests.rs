use super::*;

const RAX: usize = 0;
const RCX: usize = 1;
const RSP: usize = 4;
const RSI: usize = 6;
const RDI: usize = 7;

fn registers(set: &[(usize, u64)]) -> Registers {
    let mut registers = Registers {
        rip: 0x1000,
        segment_bases: [0x7777; 6],
        ..Registers::default()
    };
    for &(number, value) in set {
        registers.general[number] = value;
    }
    registers
}

/// The operands of `code`, sorted by address: (address, length, access).
fn operands(code: &[u8], set: &[(usize, u64)]) -> Vec<(u64, u64, Access)> {
    let decoded = decode(code, Mode::Bits64, &registers(set)).unwrap();
    assert_eq!(decoded.len, code.len());
    let mut operands: Vec<_> = decoded
        .operands
        .iter()
        .map(|operand| (operand.gva.get(), operand.len, operand.access))
        .collect();
    operands.sort_by_key(|operand| operand.0);
    operands
}

#[test]
fn a_load_reads_and_a_store_writes() {
    // mov rax, [rdi+8]
    let load = operands(&[0x48, 0x8b, 0x47, 0x08], &[(RDI, 0x5000)]);
    assert_eq!(load, [(0x5008, 8, Access::Read)]);
    // mov [rdi+rcx*4], eax
    let store = operands(&[0x89, 0x04, 0x8f], &[(RDI, 0x5000), (RCX, 3)]);
    assert_eq!(store, [(0x500c, 4, Access::Write)]);
}

#[test]
fn what_reads_and_writes_is_a_write() {
    // add [rax], 1
    let add = operands(&[0x48, 0x83, 0x00, 0x01], &[(RAX, 0x5000)]);
    assert_eq!(add, [(0x5000, 8, Access::Write)]);
    // lock cmpxchg [rdi], ecx
    let cmpxchg = operands(&[0xf0, 0x0f, 0xb1, 0x0f], &[(RDI, 0x5000)]);
    assert_eq!(cmpxchg, [(0x5000, 4, Access::Write)]);
}

#[test]
fn string_moves_have_two_ends() {
    let set = [(RSI, 0x5000), (RDI, 0x9000), (RCX, 7)];
    let both = [(0x5000, 8, Access::Read), (0x9000, 8, Access::Write)];
    // movsq; rep movsq: the registers are at the element that faulted
    assert_eq!(operands(&[0x48, 0xa5], &set), both);
    let repeated = operands(&[0xf3, 0x48, 0xa5], &set);
    assert_eq!(repeated.len(), 2);
    assert_eq!((repeated[0].0, repeated[0].2), (0x5000, Access::Read));
    assert_eq!((repeated[1].0, repeated[1].2), (0x9000, Access::Write));
}

#[test]
fn the_stack_is_an_operand_that_nobody_wrote_down() {
    let set = [(RSP, 0x8000), (RDI, 0x5000)];
    // push rax; pop rax; ret
    assert_eq!(operands(&[0x50], &set), [(0x7ff8, 8, Access::Write)]);
    assert_eq!(operands(&[0x58], &set), [(0x8000, 8, Access::Read)]);
    assert_eq!(operands(&[0xc3], &set), [(0x8000, 8, Access::Read)]);
    // call [rdi]: reads where to go, writes where to return to
    let call = operands(&[0xff, 0x17], &set);
    assert_eq!(
        call,
        [(0x5000, 8, Access::Read), (0x7ff8, 8, Access::Write)]
    );
}

#[test]
fn addresses_may_come_from_rip_and_from_fs_but_not_from_other_segments() {
    // mov rax, [rip+0x10]: relative to the next instruction
    let relative = operands(&[0x48, 0x8b, 0x05, 0x10, 0, 0, 0], &[]);
    assert_eq!(relative, [(0x1017, 8, Access::Read)]);
    // mov rax, fs:[rax]
    let thread_local = operands(&[0x64, 0x48, 0x8b, 0x00], &[(RAX, 0x10)]);
    assert_eq!(thread_local, [(0x7787, 8, Access::Read)]);
    // mov rax, [rsp]: the base of ss is ignored
    let stack = operands(&[0x48, 0x8b, 0x04, 0x24], &[(RSP, 0x8000)]);
    assert_eq!(stack, [(0x8000, 8, Access::Read)]);
}

#[test]
fn legacy_code_uses_its_segments() {
    // mov al, [bx] in 16-bit code, ds based at 0x7777
    let mut registers = registers(&[(3, 0xffff_0010)]);
    registers.rip = 0;
    let decoded = decode(&[0x8a, 0x07], Mode::Bits16, &registers).unwrap();
    assert_eq!(decoded.operands[0].gva, Gva::new(0x7787));
}

#[test]
fn wide_operands_have_their_width() {
    // movups [rdi], xmm0: 16 bytes, which may reach into the next page
    let wide = operands(&[0x0f, 0x11, 0x07], &[(RDI, 0x5ff8)]);
    assert_eq!(wide, [(0x5ff8, 16, Access::Write)]);
    let decoded = decode(
        &[0x0f, 0x11, 0x07],
        Mode::Bits64,
        &registers(&[(RDI, 0x5ff8)]),
    );
    assert_eq!(decoded.unwrap().operands[0].last(), Gva::new(0x6007));
}

#[test]
fn what_touches_no_memory_has_no_operands_and_garbage_is_none() {
    // add rax, rcx; lea rax, [rdi]; nop
    for code in [&[0x48, 0x01, 0xc8][..], &[0x48, 0x8d, 0x07], &[0x90]] {
        assert_eq!(operands(code, &[]), [], "{code:x?}");
    }
    let garbage = decode(&[0x06], Mode::Bits64, &registers(&[]));
    assert_eq!(garbage, None);
    let cut_short = decode(&[0x48, 0x8b], Mode::Bits64, &registers(&[]));
    assert_eq!(cut_short, None);
}
