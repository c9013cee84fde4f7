#include "node-agent/engine/injection_code.h"

// The code, position independent. Entry fermata_inject_single makes the one call whose arguments
// are in the registers and keeps its result in %rbx; fermata_inject_batch makes the calls of the
// table at %rbx, %rbp in number. Entry fermata_inject_twin makes a copy-on-write twin (twin.h): a
// go-between that shares the memory makes the twin, tells its PID at (%rbx) and ends; the twin
// gives up its files, sleeps for the time at (%rbp) and ends. Neither uses a stack.
// Each comes to 8, where the thread sends itself the signal that it ignores and lets it through:
// with a tracer it stops at fermata_inject_stopped (signal-delivery-stop of ptrace(2)), without one
// the kernel drops the signal. Then the tail, at the address that the save area has for it.
// The save area: sixteen registers, flags, signal mask, instruction pointer; arguments of
// tgkill(2); the mask that lets only that signal through; the address of the tail, which is 2 or,
// where there is no stack of ours to pass the flags over, 3. From 8 on no instruction changes a
// flag, and the stack is the program's own again before other signals are let through, so a handler
// that runs then finds a sound frame.
asm(R"(
    .pushsection .rodata
    .balign 16
    .globl fermata_inject_single, fermata_inject_batch, fermata_inject_twin
    .globl fermata_inject_stopped, fermata_inject_tail, fermata_inject_tail_without_stack
    .globl fermata_inject_save, fermata_inject_end
fermata_inject_single:
    syscall
    mov %rax, %rbx
    jmp 8f
fermata_inject_batch:
1:  test %rbp, %rbp
    jz 8f
    mov 0(%rbx), %rax
    mov 8(%rbx), %rdi
    mov 16(%rbx), %rsi
    mov 24(%rbx), %rdx
    mov 32(%rbx), %r10
    mov 40(%rbx), %r8
    mov 48(%rbx), %r9
    syscall
    mov %rax, 56(%rbx)
    add $64, %rbx
    dec %rbp
    jmp 1b
8:  mov $234, %eax
    mov fermata_inject_save+152(%rip), %rdi
    mov fermata_inject_save+160(%rip), %rsi
    mov fermata_inject_save+168(%rip), %rdx
    syscall
    mov $14, %eax
    mov $2, %edi
    lea fermata_inject_save+176(%rip), %rsi
    mov $0, %edx
    mov $8, %r10d
    syscall
fermata_inject_stopped:
    jmp *fermata_inject_save+184(%rip)
fermata_inject_tail:
2:  pushq fermata_inject_save+128(%rip)
    popfq
fermata_inject_tail_without_stack:
3:  mov fermata_inject_save+56(%rip), %rsp
    mov $14, %eax
    mov $2, %edi
    lea fermata_inject_save+136(%rip), %rsi
    mov $0, %edx
    mov $8, %r10d
    syscall
    mov fermata_inject_save+0(%rip), %rax
    mov fermata_inject_save+8(%rip), %rbx
    mov fermata_inject_save+16(%rip), %rcx
    mov fermata_inject_save+24(%rip), %rdx
    mov fermata_inject_save+32(%rip), %rsi
    mov fermata_inject_save+40(%rip), %rdi
    mov fermata_inject_save+48(%rip), %rbp
    mov fermata_inject_save+64(%rip), %r8
    mov fermata_inject_save+72(%rip), %r9
    mov fermata_inject_save+80(%rip), %r10
    mov fermata_inject_save+88(%rip), %r11
    mov fermata_inject_save+96(%rip), %r12
    mov fermata_inject_save+104(%rip), %r13
    mov fermata_inject_save+112(%rip), %r14
    mov fermata_inject_save+120(%rip), %r15
    jmp *fermata_inject_save+144(%rip)
fermata_inject_twin:
    mov $56, %eax
    mov $0x4500, %edi
    xor %esi, %esi
    xor %edx, %edx
    xor %r10d, %r10d
    xor %r8d, %r8d
    syscall
    test %rax, %rax
    jz 5f
    mov $0x7fffffff, %edi
    js 4f
    mov %eax, %edi
4:  xor %esi, %esi
    mov $0x40000000, %edx
    xor %r10d, %r10d
    mov $61, %eax
    syscall
    jmp 8b
5:  mov $56, %eax
    mov $0x400, %edi
    xor %esi, %esi
    syscall
    test %rax, %rax
    jz 6f
    mov %rax, (%rbx)
    mov $60, %eax
    xor %edi, %edi
    syscall
6:  mov $436, %eax
    xor %edi, %edi
    mov $-1, %esi
    mov $2, %edx
    syscall
    mov $35, %eax
    mov %rbp, %rdi
    xor %esi, %esi
    syscall
    mov $231, %eax
    xor %edi, %edi
    syscall
    hlt
    .balign 8
fermata_inject_save:
    .skip 192
fermata_inject_end:
    .popsection
)");

namespace fermata::engine {

static_assert(sizeof(InjectionSave) == 192);
static_assert(offsetof(InjectionSave, eflags) == 128 && offsetof(InjectionSave, rip) == 144);
static_assert(offsetof(InjectionSave, vpid) == 152 && offsetof(InjectionSave, tail) == 184);

}  // namespace fermata::engine
