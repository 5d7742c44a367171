// What a call of ours has taken and gives back at its end: a lock, a use of an object. A signal handler of the
// program may jump over the call (siglongjmp), and its destructors never run. So each such thing is on a list of its
// thread, and the preload library's hook of longjmp gives back what lies in the frames that are left.
//
// One thread each. Async-signal-safe. Nothing here allocates.
#pragma once

#include <cstdint>

namespace vmsgr::base {

class frame_hold {
    frame_hold* _below = nullptr;
    void (*const _let_go)(frame_hold&) noexcept;
    // initial-exec: a signal handler may be the first in its thread to touch it, and must not allocate.
    __attribute__((tls_model("initial-exec"))) static inline constinit thread_local frame_hold* top = nullptr;

protected:
    // let_go: gives back what is held, if anything is; it may be called at any instruction of a member function.
    explicit frame_hold(void (*let_go)(frame_hold&) noexcept) noexcept : _let_go(let_go) {}
    ~frame_hold() = default;

    // Before anything is taken.
    void enlist() noexcept {
        _below = top;
        top = this;
    }
    // After it was given back.
    void delist() noexcept {
        for (frame_hold** at = &top; *at != nullptr; at = &(*at)->_below) {
            if (*at == this) {
                *at = _below;
                return;
            }
        }
    }

public:
    frame_hold(const frame_hold&) = delete;
    frame_hold& operator=(const frame_hold&) = delete;

    // The thread goes on in the frame at `stack_pointer`: what lies below it on the same stack is left. Stacks grow
    // down.
    static void leave_frames_below(uintptr_t stack_pointer) noexcept {
        constexpr uintptr_t same_stack = 8u << 20;  // a handler may run on a stack of its own, far away
        while (top != nullptr) {
            const auto at = reinterpret_cast<uintptr_t>(top);
            if (at >= stack_pointer || stack_pointer - at > same_stack) {
                return;
            }
            frame_hold& left = *top;
            top = left._below;
            left._let_go(left);
        }
    }
};

}  // namespace vmsgr::base
