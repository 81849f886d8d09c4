# Traps. The registers are divided once and for all: tasks have rbx, rbp, rsi, rdi, r8 and rsp;
# rax, rcx, rdx and r9 to r15 are ring 0's, which never saves them, keeps r15 = its vCPU's area and
# r14 = the running task (0: none) in them, and takes no interrupt. That makes for few instructions,
# each of which costs most of a microsecond where ring 0 is emulated.
#
# A trap from ring 3 finds rsp at the frame of the task, where the CPU has pushed its part.

.macro save_task
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
.endm

# Puts the task of register \task at the end of the run queue, which has room for all there are.
.macro enqueue task
    mov eax, [r15 + {QUEUE_TAIL}]
    mov [r15 + rax*8 + {QUEUE}], \task
    inc eax
    and eax, [r15 + {QUEUE_MASK}]
    mov [r15 + {QUEUE_TAIL}], eax
.endm

# int3 is the system call (the emulated ring 0 of some hosts knows no other way in that is as
# plain). rdi = 0: let others run. rdi = 1: done.
breakpoint:
    test edi, edi
    jnz task_ended
    mov eax, [r15 + {QUEUE_HEAD}]
    cmp eax, [r15 + {QUEUE_TAIL}]
    je 1f                           # there are no others
    save_task
    enqueue r14
    jmp schedule
1:  iretq

# "Page not present", with the token in cr2, if KVM says so; otherwise a page fault that nobody
# expects: all that ring 3 uses is mapped.
page_fault:
    cmp dword ptr [r15 + {APF_FLAGS}], 0
    je vectors + 14 * {VECTOR_STRIDE}
    add rsp, 8                      # the error code
    mov rcx, cr2
    mov dword ptr [r15 + {APF_FLAGS}], 0
    save_task
    cmp dword ptr [r15 + {EARLY}], 0
    jne 3f
    # Park the task in the first free entry from its token's own on. Tokens of one vCPU are
    # numbered in a row from bit 12 on, and the table is larger than KVM's 64 outstanding faults:
    # the first is free but for a token that has been out for a very long time.
1:  mov eax, ecx
    shr eax, 12
2:  and eax, [r15 + {WAITERS_MASK}]
    mov edx, eax
    shl edx, 4
    add rdx, [r15 + {WAITERS}]
    inc eax
    cmp dword ptr [rdx + {WAITER_TOKEN}], 0
    jne 2b
    mov [rdx + {WAITER_TOKEN}], ecx
    mov [rdx + {WAITER_TASK}], r14
    jmp schedule
    # Some page was ready before anybody waited for it. This one?
3:  call find_waiter
    jne 1b
    dec dword ptr [r15 + {EARLY}]
    mov dword ptr [rdx + {WAITER_TOKEN}], 0
    enqueue r14
    jmp schedule

# Finds the waiter of token ecx: rdx = its entry and ZF, or no ZF. Looks at every entry before it
# gives up, for entries are freed without moving others.
find_waiter:
    mov eax, ecx
    shr eax, 12
    mov r9d, [r15 + {WAITERS_MASK}]
1:  and eax, [r15 + {WAITERS_MASK}]
    mov edx, eax
    shl edx, 4
    add rdx, [r15 + {WAITERS}]
    cmp [rdx + {WAITER_TOKEN}], ecx
    je 2f
    inc eax
    sub r9d, 1
    jnc 1b
    cmp ecx, 0                      # a token never is: clears ZF
2:  ret

# "Page ready": the token is in the shared area. Completions come in any order.
ready:
    mov ecx, [r15 + {APF_TOKEN}]
    test ecx, ecx
    jz 3f                           # not KVM's
    cmp ecx, -1
    je 5f
    call find_waiter
    jne 4f
    mov dword ptr [rdx + {WAITER_TOKEN}], 0
    mov r10, [rdx + {WAITER_TASK}]
    cmp dword ptr [r15 + {APF_ERROR}], 0
    jne 8f
    enqueue r10
2:  mov dword ptr [r15 + {APF_TOKEN}], 0
    mov ecx, {MSR_APF_ACK}          # the next "ready" may come
    mov eax, 1
    xor edx, edx
    wrmsr
3:  cmp dword ptr [r15 + {APIC}], 0
    je 7f
    mov ecx, {X2APIC_EOI}
    xor eax, eax
    xor edx, edx
    wrmsr
7:  cmp r14, [r15 + {COUNTER}]
    jne 1f                          # a worker runs: let it
    save_task
    jmp schedule
1:  iretq

    # Nobody waits yet: leave a note for the one who will.
4:  mov eax, ecx
    shr eax, 12
1:  and eax, [r15 + {WAITERS_MASK}]
    mov edx, eax
    shl edx, 4
    add rdx, [r15 + {WAITERS}]
    inc eax
    cmp dword ptr [rdx + {WAITER_TOKEN}], 0
    jne 1b
    mov [rdx + {WAITER_TOKEN}], ecx
    mov qword ptr [rdx + {WAITER_TASK}], 0
    inc dword ptr [r15 + {EARLY}]
    jmp 2b

    # There is no page for it: the task ends here, the others go on.
8:  mov dword ptr [r15 + {APF_ERROR}], 0
    mov dword ptr [r10 + {TASK_KILLED}], 1
    dec dword ptr [r15 + {LIVE}]
    jnz 2b
    jmp all_done

    # Wake all: everybody tries again, and faults again where there is still no page.
5:  mov rdx, [r15 + {WAITERS}]
    mov r9d, [r15 + {WAITERS_MASK}]
1:  cmp dword ptr [rdx + {WAITER_TOKEN}], 0
    je 6f
    mov dword ptr [rdx + {WAITER_TOKEN}], 0
    mov r10, [rdx + {WAITER_TASK}]
    test r10, r10
    jz 6f
    enqueue r10
6:  add rdx, {WAITER_SIZE}
    sub r9d, 1
    jnc 1b
    mov dword ptr [r15 + {EARLY}], 0
    jmp 2b

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
    cmp r14, [r15 + {COUNTER}]
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
