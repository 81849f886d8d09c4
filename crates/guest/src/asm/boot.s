# The image: a header for the loader, then ring 0, then ring 3. It contains no address, so it runs
# wherever it is put.
    .pushsection .rodata.surefault_guest, "a"
    .balign 16
    .global surefault_guest_start
surefault_guest_start:
    # abi: image::HEADER, in this order.
    .long entry - surefault_guest_start
    .long vectors - surefault_guest_start
    .long page_fault - surefault_guest_start
    .long machine_check - surefault_guest_start
    .long breakpoint - surefault_guest_start
    .long ready_x2apic - surefault_guest_start
    .long ready - surefault_guest_start
    .long user - surefault_guest_start
    .long worker - surefault_guest_start
    .long count - surefault_guest_start
    .long idle - surefault_guest_start

# A vCPU starts here, in long mode, interrupts off, r15 = its area, all else set by the VMM.
    .balign 16
entry:
    cmp dword ptr [r15 + {APIC}], 0
    je 1f
    mov ecx, {X2APIC_SPURIOUS}      # without the enable bit the APIC accepts no interrupt
    mov eax, 0x1ff
    xor edx, edx
    wrmsr
    # What ring 0 keeps in registers (traps.s).
1:  mov r13, [r15 + {QUEUE_TAIL}]
    mov r12, [r15 + {QUEUE_HEAD}]
    mov r11, [r15 + {QUEUE_WRAP}]
    mov r10d, [r15 + {WAITERS_MASK}]
    mov r9, [r15 + {LAST}]
    xor edx, edx
    cmp dword ptr [r15 + {LIVE}], 0
    je all_done                     # fewer tasks than vCPUs
    cmp dword ptr [r15 + {APF_ENABLE}], 0
    je schedule
    mov ecx, {MSR_APF_INT}
    mov eax, {READY_VECTOR}
    wrmsr
    mov ecx, {MSR_APF_EN}           # last: it may raise "wake all" at once
    mov eax, r15d
    or eax, [r15 + {APF_ENABLE}]
    wrmsr
    jmp schedule
