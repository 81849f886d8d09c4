# Traps. Each instruction of ring 0 costs more than a microsecond where it is emulated, and most
# where it touches memory. Therefore:
#
# * A task has rsi, rdi and rsp; all other registers are ring 0's, which never saves them and takes no
#   interrupt.
# * What ring 0 goes by stays in registers: r15 = the vCPU's area, r14 = the running task, by the end
#   of its frame; r13, r12 = the run queue's next entry to fill, and to leave; r11 = what wraps
#   either; r10 = the mask of waiters; r9 = the task that counts or halts; edx = 0.
# * Whatever is rare is out of line.
#
# A trap from ring 3 finds rsp in the frame of the task, where the CPU has pushed its part.

# The waiter that token ecx belongs into: rax = its place behind the area. Tokens of one vCPU are
# numbered in a row from bit 12 on, and there are more waiters than KVM's 64 outstanding faults: it is
# free but for a token that has been out for a very long time.
.macro own_waiter
    mov eax, ecx
    shr eax, 8                      # bit 12, times the size of a waiter
    and eax, r10d
.endm

# int3 is the system call (the emulated ring 0 of some hosts knows no other way in that is as
# plain). dil says what for; 0: let others run.
breakpoint:
    test dil, dil
    jnz 1f
    enqueue r14
    run_first
1:  cmp dil, {SYSCALL_DONE}
    je task_ended
    jmp halt

# "Page not present", with the token in cr2, if KVM says so; otherwise a page fault that nobody
# expects: all that ring 3 uses is mapped.
page_fault:
    btr dword ptr [r15 + {APF_FLAGS}], 0
    jnc vectors + 14 * {VECTOR_STRIDE}
    mov [rsp], rdi                  # where the error code was
    push rsi
    mov rcx, cr2
    own_waiter
    cmp qword ptr [r15 + rax + {WAITER_TOKEN}], {FREE}
    jne 1f
    mov [r15 + rax + {WAITER_TOKEN}], rcx
    mov [r15 + rax + {WAITER_TASK}], r14
    run_first
    # Taken. By a note that this page is ready already?
1:  call find_waiter
    jne 2f
    mov qword ptr [r15 + rax + {WAITER_TOKEN}], {FREE}
    enqueue r14
    jmp schedule
2:  call find_free
    mov [r15 + rax + {WAITER_TOKEN}], rcx
    mov [r15 + rax + {WAITER_TASK}], r14
    jmp schedule

# "Page ready": the token is in the shared area, the error word above it. Completions come in any
# order. Where there is a local APIC, it is told first: no interrupt comes before the end.
ready_x2apic:
    mov ecx, {X2APIC_EOI}
    xor eax, eax
    wrmsr
ready:
    mov rcx, [r15 + {APF_TOKEN}]
    own_waiter
    cmp [r15 + rax + {WAITER_TOKEN}], rcx
    jne 3f
    mov qword ptr [r15 + rax + {WAITER_TOKEN}], {FREE}
    mov rax, [r15 + rax + {WAITER_TASK}]
    enqueue rax
1:  mov dword ptr [r15 + {APF_TOKEN}], 0
    mov ecx, {MSR_APF_ACK}          # the next "ready" may come
    mov eax, 1
    wrmsr
    cmp r14, r9
    je 10f
2:  iretq                           # a worker goes on

    # The task that counts runs. In its turn, it goes on; if it ran for want of others, this one does.
10: lea rax, [r12 + 8]
    and rax, r11
    cmp rax, r13
    jne 2b
    test byte ptr [rsp + 8], 3
    jz 2b                           # the vCPU halts, and looks itself
    push rdi
    push rsi
    enqueue r14
    run_first

    # An error, a token out of its place, or another kind of interrupt.
3:  test ecx, ecx
    jz 2b                           # not KVM's
    cmp ecx, -1
    je 7f
    mov ecx, ecx                    # the token alone
    call find_waiter
    jne 5f
    mov qword ptr [r15 + rax + {WAITER_TOKEN}], {FREE}
    mov rax, [r15 + rax + {WAITER_TASK}]
    cmp dword ptr [r15 + {APF_ERROR}], 0
    jne 4f
    enqueue rax
    jmp 1b
    # There is no page for it: the task ends here, the others go on.
4:  mov dword ptr [r15 + {APF_ERROR}], 0
    mov dword ptr [rax + {TASK_KILLED}], 1
    dec dword ptr [r15 + {LIVE}]
    jnz 1b
    jmp all_done

    # Nobody waits yet: leave a note for the one who will, where that one looks first. Who is there
    # can be anywhere.
5:  call find_free
    mov rdx, rax
    own_waiter
    cmp rax, rdx
    je 6f
    mov r8, [r15 + rax + {WAITER_TOKEN}]
    mov [r15 + rdx + {WAITER_TOKEN}], r8
    mov r8, [r15 + rax + {WAITER_TASK}]
    mov [r15 + rdx + {WAITER_TASK}], r8
6:  mov [r15 + rax + {WAITER_TOKEN}], rcx
    mov qword ptr [r15 + rax + {WAITER_TASK}], 0
    xor edx, edx
    jmp 1b

    # Wake all: everybody tries again, and faults again where there is still no page.
7:  mov ecx, r10d
8:  cmp qword ptr [r15 + rcx + {WAITER_TOKEN}], {FREE}
    je 9f
    mov qword ptr [r15 + rcx + {WAITER_TOKEN}], {FREE}
    mov rax, [r15 + rcx + {WAITER_TASK}]
    test rax, rax
    jz 9f
    enqueue rax
9:  sub ecx, {WAITER_SIZE}
    jnc 8b
    jmp 1b

# Finds the waiter of token rcx: rax = its place and ZF, or no ZF. Looks at every one before it gives
# up, for waiters are freed without moving others.
find_waiter:
    mov eax, r10d
1:  cmp [r15 + rax + {WAITER_TOKEN}], rcx
    je 2f
    sub eax, {WAITER_SIZE}
    jnc 1b
    cmp ecx, 0                      # a token never is: clears ZF
2:  ret

# Finds a free waiter from the own of token ecx on: rax = its place.
find_free:
    own_waiter
1:  cmp qword ptr [r15 + rax + {WAITER_TOKEN}], {FREE}
    je 2f
    add eax, {WAITER_SIZE}
    and eax, r10d
    jmp 1b
2:  ret

# A page of the running task is lost for good: the task ends, the others go on. In ring 0, or with
# nobody running, there is no task to blame. Where all vCPUs take one together, it can come to the
# others at any instruction: all registers are somebody's, and there is room below every stack.
machine_check:
    push rax
    push rcx
    push rdx
    mov ecx, {MSR_MCG_STATUS}
    rdmsr
    test al, 2                      # the instruction at which we stand?
    jz elsewhere
    add rsp, 24
    test byte ptr [rsp + 8], 3
    jz vectors + 18 * {VECTOR_STRIDE}
    cmp r14, r9
    je vectors + 18 * {VECTOR_STRIDE}
    xor eax, eax
    xor edx, edx
    mov ecx, {MSR_MC0_STATUS}
    wrmsr
    mov ecx, {MSR_MCG_STATUS}       # last: until now a second one would shut the vCPU down
    wrmsr
    mov dword ptr [r14 + {TASK_KILLED}], 1
    jmp task_ended
    # It is another vCPU's.
elsewhere:
    xor eax, eax
    xor edx, edx
    mov ecx, {MSR_MC0_STATUS}
    wrmsr
    mov ecx, {MSR_MCG_STATUS}
    wrmsr
    pop rdx
    pop rcx
    pop rax
    iretq

# What nobody expects is handed to the VMM: vector, error code, rip, cs, cr2.
    .balign {VECTOR_STRIDE}
vectors:
    .irp vector, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    .balign {VECTOR_STRIDE}
    # The CPU pushes an error code for 8, 10 to 14, 17, 21, 29 and 30.
    .if ((0x60227d00 >> \vector) & 1) == 0
    push 0
    .endif
    push \vector
    jmp unexpected
    .endr

unexpected:
    pop rax
    mov [r15 + {TRAP_VECTOR}], rax
    pop rax
    mov [r15 + {TRAP_ERROR}], rax
    pop rax
    mov [r15 + {TRAP_RIP}], rax
    pop rax
    mov [r15 + {TRAP_CS}], rax
    mov rax, cr2
    mov [r15 + {TRAP_CR2}], rax
1:  mov dx, {PORT_TRAP}
    out dx, al
    jmp 1b
