// longjmp and its kin: a signal handler leaves calls of ours half-way.
#include <setjmp.h>

#include <bit>

#include "base/frame_hold.hh"
#include "preload/hook.hh"

using namespace vmsgr;
using namespace vmsgr::preload;

namespace {

// glibc keeps the stack pointer in word 6, mangled with a secret of the thread
// (sysdeps/unix/sysv/linux/x86_64/sysdep.h, PTR_DEMANGLE: rotated by 17, then combined with %fs:0x30).
uintptr_t stack_pointer_of(const jmp_buf env) noexcept {
    constexpr int word = 6, rotated_by = 17;
    uintptr_t secret = 0;
    __asm__("movq %%fs:0x30, %0" : "=r"(secret));
    return std::rotr(uintptr_t(env[0].__jmpbuf[word]), rotated_by) ^ secret;
}

using jump = void (*)(jmp_buf, int);

[[noreturn]] void jump_by(jump& call, jmp_buf env, int value) {
    if (table != nullptr) {
        base::frame_hold::leave_frames_below(stack_pointer_of(env));
    }
    if (call == nullptr) {
        find_real_calls();
    }
    call(env, value);
    __builtin_unreachable();
}

}  // namespace

VMSGR_HOOK void longjmp(jmp_buf env, int value) { jump_by(real.longjmp, env, value); }
VMSGR_HOOK void _longjmp(jmp_buf env, int value) { jump_by(real.longjmp, env, value); }
VMSGR_HOOK void siglongjmp(sigjmp_buf env, int value) { jump_by(real.siglongjmp, env, value); }
VMSGR_HOOK void __longjmp_chk(jmp_buf env, int value) { jump_by(real.__longjmp_chk, env, value); }
