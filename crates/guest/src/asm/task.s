# Ring 3. Runs natively everywhere, so this may be as long as it likes.
    .balign 64
user:

# A worker: r8 = its record. Everything it knows between two touches is in there.
worker:
    mov rsi, [r8 + {REC_DONE}]
    cmp rsi, [r8 + {REC_COUNT}]
    jae 4f
    mov rdi, [r8 + {REC_LIST}]
    mov esi, [rdi + rsi*4]          # the touch
    mov edi, esi
    and edi, {LIST_PAGE}
    imul rdi, [r8 + {REC_PAGE_BYTES}]
    add rdi, [r8 + {REC_DATA}]      # the page
    test esi, {LIST_CALL}
    jz 1f
    call rdi
1:  test esi, {LIST_WRITE}
    jz 2f
    and esi, {LIST_PAGE}
    movabs rbx, {STAMP_KEY}
    add rbx, rsi
    mov [rdi + {STAMP_OFFSET}], rbx
2:  mov rsi, rdi
    add rsi, [r8 + {REC_PAGE_BYTES}]
    movabs rbx, {SUM_START}
    movabs rbp, {SUM_FACTOR}
3:  xor rbx, [rdi]
    imul rbx, rbp
    add rdi, 8
    cmp rdi, rsi
    jne 3b
    xor rbx, [r8 + {REC_SUM}]
    imul rbx, rbp
    mov [r8 + {REC_SUM}], rbx
    inc qword ptr [r8 + {REC_DONE}]
    dec dword ptr [r8 + {REC_UNTIL_YIELD}]
    jnz worker
    mov esi, [r8 + {REC_YIELD_EVERY}]
    mov [r8 + {REC_UNTIL_YIELD}], esi
    xor edi, edi
    int3
    jmp worker
4:  mov edi, 1
    int3

# The task that only counts.
count:
    xor ebx, ebx
1:  inc rbx
    mov [r8 + {REC_DONE}], rbx
    jmp 1b

    .balign 64
    .global surefault_guest_end
surefault_guest_end:
    .popsection
