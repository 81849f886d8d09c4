# The scheduler: round robin over a ring of tasks that can run; the counting task, or hlt, when
# there is none. Jumped to with the previous task saved, queued or parked, and interrupts off.
schedule:
    mov eax, [r15 + {QUEUE_HEAD}]
    cmp eax, [r15 + {QUEUE_TAIL}]
    je idle
    mov r14, [r15 + rax*8 + {QUEUE}]
    inc eax
    and eax, [r15 + {QUEUE_MASK}]
    mov [r15 + {QUEUE_HEAD}], eax

# Runs task r14.
resume:
    mov eax, [r14 + {TASK_ID}]
    mov [r15 + {CURRENT}], eax
    lea rax, [r14 + {TASK_FRAME_END}]
    mov [r15 + {TSS_RSP0}], rax
    lea rsp, [r14 + {TASK_FRAME}]
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    iretq

idle:
    mov r14, [r15 + {COUNTER}]
    test r14, r14
    jnz resume
    # Nothing to count either. r14 = 0 = COUNTER tells the interrupt handler that nobody ran.
    mov dword ptr [r15 + {CURRENT}], {NO_TASK}
    lea rsp, [r15 + {IDLE_STACK_END}]
    sti
    hlt
    cli
    jmp schedule

# A worker has nothing left to do, or was killed. The vCPU goes on while it has another.
task_ended:
    dec dword ptr [r15 + {LIVE}]
    jnz schedule
all_done:
    mov dx, {PORT_DONE}
    out dx, al
    jmp all_done
