# Ring 3. Runs natively everywhere, so this may be as long as it likes: what a task knows is in its
# record, which ends where its stack begins. Of registers it has rsi, rdi and rsp, which are all that
# need be kept when it is taken off the CPU; across a system call only rsp is.
    .balign 64
user:

# A worker.
worker:
    mov rsi, [rsp - {REC_DONE}]
    cmp rsi, [rsp - {REC_COUNT}]
    jae 4f
    mov rdi, [rsp - {REC_LIST}]
    mov esi, [rdi + rsi*4]          # the touch
    mov [rsp - {REC_TOUCH}], esi
    mov edi, esi
    and edi, {LIST_PAGE}
    imul rdi, [rsp - {REC_PAGE_BYTES}]
    add rdi, [rsp - {REC_DATA}]     # the page
    test esi, {LIST_CALL}
    jz 1f
    call rdi
1:  mov esi, [rsp - {REC_TOUCH}]
    test esi, {LIST_WRITE}
    jz 2f
    and esi, {LIST_PAGE}
    add rsi, [rsp - {REC_STAMP_KEY}]
    mov [rdi + {STAMP_OFFSET}], rsi
2:  mov rsi, rdi
    add rsi, [rsp - {REC_PAGE_BYTES}]
    mov [rsp - {REC_END}], rsi
    movabs rsi, {SUM_START}
    mov [rsp - {REC_PAGE_SUM}], rsi
3:  mov rsi, [rdi]
    xor rsi, [rsp - {REC_PAGE_SUM}]
    imul rsi, [rsp - {REC_SUM_FACTOR}]
    mov [rsp - {REC_PAGE_SUM}], rsi
    add rdi, 8
    cmp rdi, [rsp - {REC_END}]
    jne 3b
    xor rsi, [rsp - {REC_SUM}]
    imul rsi, [rsp - {REC_SUM_FACTOR}]
    mov [rsp - {REC_SUM}], rsi
    inc qword ptr [rsp - {REC_DONE}]
    dec dword ptr [rsp - {REC_UNTIL_YIELD}]
    jnz worker
    mov esi, [rsp - {REC_YIELD_EVERY}]
    mov [rsp - {REC_UNTIL_YIELD}], esi
    xor edi, edi
    int3
    jmp worker
4:  mov edi, {SYSCALL_DONE}
    int3

# The task that only counts. It yields, too.
count:
    mov rdi, [rsp - {REC_DONE}]
1:  inc rdi
    mov [rsp - {REC_DONE}], rdi
    test edi, {COUNTS_PER_YIELD} - 1
    jnz 1b
    int3                            # the low byte is 0
    jmp count

# The task that halts the vCPU when no other can run.
idle:
    mov edi, {SYSCALL_HALT}
    int3
    jmp idle

    .balign 64
    .global surefault_guest_end
surefault_guest_end:
    .popsection
