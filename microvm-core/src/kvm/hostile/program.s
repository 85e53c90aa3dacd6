# A guest without an operating system: enters 64-bit mode and carries out a table of what to do. Loaded where AT says.
    .section .rodata.hostile, "a"
    .globl plimsoll_hostile_begin, plimsoll_hostile_end
    .balign 16
    .code32
plimsoll_hostile_begin:
    cli
    jmp hostile_start
    .balign 8                           # at 8: the descriptors, and at 32 where they are
    .quad 0
    .quad 0x00af9a000000ffff            # 64-bit code
    .quad 0x00cf92000000ffff            # data
    .word 23
    .long {AT} + 8
hostile_start:
    lgdt [{AT} + 32]
    mov esp, {AT} + {STACK}
    mov eax, cr4
    or eax, 0x20                        # physical address extension
    mov cr4, eax
    mov eax, {AT} + {PAGES}
    mov cr3, eax
    mov ecx, 0xc0000080                 # the extended feature register
    rdmsr
    or eax, 0x100                       # long mode
    wrmsr
    mov eax, cr0
    or eax, 0x80000001                  # paging, protection
    mov cr0, eax
    push 8
    .byte 0x68                          # push
    .long {AT} + hostile_long - plimsoll_hostile_begin
    retf

    .code64
hostile_long:
    mov esi, {AT} + {TABLE}
hostile_next:
    mov eax, [rsi]                      # what to do
    mov ecx, [rsi + 4]                  # how wide
    mov rdi, [rsi + 8]                  # where
    mov rdx, [rsi + 16]                 # the value
    mov rbx, [rsi + 24]                 # a mask, or another place
    add rsi, 32
    cmp eax, 1
    je hostile_write
    cmp eax, 2
    je hostile_expect
    cmp eax, 3
    je hostile_wait
    cmp eax, 4
    je hostile_settle
    cmp eax, 5
    je hostile_out
    cmp eax, 6
    je hostile_in
    cmp eax, 7
    je hostile_read_only
hostile_over:
    mov al, 0xfe
    out 0x64, al
    hlt
    jmp hostile_over

hostile_write:
    cmp ecx, 2
    jb 1f
    je 2f
    cmp ecx, 4
    je 4f
    mov [rdi], rdx
    jmp hostile_next
1:  mov [rdi], dl
    jmp hostile_next
2:  mov [rdi], dx
    jmp hostile_next
4:  mov [rdi], edx
    jmp hostile_next

hostile_read:
    xor eax, eax
    cmp ecx, 2
    jb 1f
    je 2f
    cmp ecx, 4
    je 4f
    mov rax, [rdi]
    ret
1:  mov al, [rdi]
    ret
2:  mov ax, [rdi]
    ret
4:  mov eax, [rdi]
    ret

hostile_read_only:
    call hostile_read
    jmp hostile_next

hostile_expect:
    call hostile_read
    and rax, rbx
    cmp rax, rdx
    je hostile_next
    jmp hostile_failed

hostile_wait:                           # each turn is an exit, which takes microseconds anywhere
    mov r8d, 1000000
1:  call hostile_read
    and rax, rbx
    cmp rax, rdx
    je hostile_next
    mov r9, rax
    in al, 0x80
    mov rax, r9
    dec r8d
    jnz 1b
    jmp hostile_failed

hostile_settle:                         # until a chain is returned, or the device wants a reset, or long enough
    mov r8d, edx
1:  test word ptr [rdi + 2], 0xffff
    jnz hostile_next
    mov eax, [rbx]
    test al, 0x40
    jnz hostile_next
    in al, 0x80
    dec r8d
    jnz 1b
    jmp hostile_next

hostile_out:
    mov rax, rdx
    mov edx, edi
    cmp ecx, 2
    jb 1f
    je 2f
    out dx, eax
    jmp hostile_next
1:  out dx, al
    jmp hostile_next
2:  out dx, ax
    jmp hostile_next

hostile_in:
    mov edx, edi
    cmp ecx, 2
    jb 1f
    je 2f
    in eax, dx
    jmp hostile_next
1:  in al, dx
    jmp hostile_next
2:  in ax, dx
    jmp hostile_next

hostile_failed:                         # says which entry of the table, and what was there
    mov r10, rax
    mov rax, rsi
    sub rax, {AT} + {TABLE} + 32
    shr rax, 5
    call hostile_hexadecimal
    mov rax, r10
    call hostile_hexadecimal
    jmp hostile_over

hostile_hexadecimal:
    mov r9, rax
    mov edx, 0x3f8
    mov r8d, 16
1:  rol r9, 4
    mov eax, r9d
    and eax, 15
    add al, 0x30
    cmp al, 0x3a
    jb 2f
    add al, 0x27
2:  out dx, al
    dec r8d
    jnz 1b
    mov al, 0x20
    out dx, al
    ret

plimsoll_hostile_end:
    .text
