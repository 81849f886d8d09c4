# A guest in 512 bytes: real mode to long mode to ring 3, where it reads a word of each page from
# 32 MiB to 48 MiB, for ever, with interrupts on (and every line of the interrupt controller masked:
# there is nothing to handle them). It says on the serial line how far it is: "U" in ring 3, "."
# after each pass.
.section .rodata.surefault_boot_sector, "a"
.globl surefault_boot_sector
.globl surefault_boot_sector_end
.set ORIGIN, 0x7c00
.code16
surefault_boot_sector:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $0x7000, %sp
    movb $0xff, %al
    outb %al, $0x21
    outb %al, $0xa1

    # PML4 at 0x10000, PDPT at 0x11000, PD at 0x12000: 1 GiB in pages of 2 MiB, open to ring 3.
    movw $0x1000, %ax
    movw %ax, %es
    xorw %di, %di
    xorl %eax, %eax
    movw $0xc00, %cx
    cld
    rep stosl
    movl $0x11007, %es:0
    movl $0x12007, %es:0x1000
    movl $0x87, %eax
    movw $0x2000, %di
    movw $512, %cx
large_page:
    movl %eax, %es:(%di)
    addl $0x200000, %eax
    addw $8, %di
    decw %cx
    jnz large_page

    movl $0x10000, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x620, %eax
    movl %eax, %cr4
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    lgdtl gdt_register - surefault_boot_sector + ORIGIN
    movl %cr0, %eax
    orl $0x80000001, %eax
    movl %eax, %cr0
    ljmpl $0x08, $(long_mode - surefault_boot_sector + ORIGIN)

.code64
long_mode:
    movw $0x10, %ax
    movw %ax, %ss
    pushq $0x23
    pushq $0x6000
    # Interrupts on, I/O allowed in ring 3.
    pushq $0x3202
    pushq $0x1b
    pushq $(ring_3 - surefault_boot_sector + ORIGIN)
    iretq
ring_3:
    movw $0x3f8, %dx
    movb $'U', %al
    outb %al, %dx
pass:
    movl $0x2000000, %esi
    movl $0x1000, %ecx
page:
    movq (%rsi), %rax
    addq $4096, %rsi
    decl %ecx
    jnz page
    movb $'.', %al
    outb %al, %dx
    movl $0x1000000, %ecx
pause_between:
    decl %ecx
    jnz pause_between
    jmp pass

.balign 8
gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00affb000000ffff
    .quad 0x00cff3000000ffff
gdt_register:
    .word 39
    .long gdt - surefault_boot_sector + ORIGIN
.org surefault_boot_sector + 510
    .word 0xaa55
surefault_boot_sector_end:
.text
