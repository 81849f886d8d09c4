# The scheduler: round robin. A task runs until it yields or waits for a page; one whose page is ready
# goes to the end of the queue. The counting task, or the one that halts, is in the queue whenever it
# does not run, so that this is never empty here; when it runs because no other can, the first whose
# page is ready preempts it.

# Puts the task of register \task at the end of the run queue, which has room for all there are.
.macro enqueue task
    mov [r13], \task
    add r13, 8
    and r13, r11
.endm

# Runs the first task of the run queue.
.macro run_first
    mov r14, [r12]
    add r12, 8
    and r12, r11
    mov [r15 + {TSS_RSP0}], r14
    lea rsp, [r14 - {FRAME_SIZE}]
    pop rsi
    pop rdi
    iretq
.endm

# Jumped to with the previous task saved, queued or parked, and interrupts off.
schedule:
    run_first

# The task that halts is running, and says that it has nothing to do.
halt:
    lea rsp, [r15 + {IDLE_STACK_END}]
    mov [r15 + {TSS_RSP0}], rdx     # no task runs
1:  cmp r12, r13
    jne 2f
    sti
    hlt
    cli
    jmp 1b
2:  enqueue r9
    jmp schedule

# A worker has nothing left to do, or was killed. The vCPU goes on while it has another.
task_ended:
    dec dword ptr [r15 + {LIVE}]
    jnz schedule
all_done:
    mov dx, {PORT_DONE}
    out dx, al
    jmp all_done
