#include "proto/plain_cause.hh"

#include <iterator>

namespace vmsgr::proto {

namespace {

struct words {
    const char* word;
    const char* text;
};

constexpr words all[] = {
    {"", "no reason is known"},
    {"io_uring", "the program has set io_uring up"},
    {"seccomp", "the program has set a seccomp filter"},
    {"deepbind", "the program has opened a plug-in with RTLD_DEEPBIND"},
    {"other_namespace", "the program has opened a library with dlmopen()"},
    {"stdio", "it is on descriptor 0, 1 or 2, where stdio uses it inside libc"},
    {"aio", "the program uses it with POSIX aio"},
    {"no_preload", "a program was started whose environment has no LD_PRELOAD of the library"},
    {"other_routes", "a program was started whose environment has other routes, or none"},
    {"not_told", "a program was started whose environment has no VMSGR_INHERIT"},
    {"not_routed", "a program was started for whose name there is no route"},
    {"not_attached", "a program was started that could not attach, or only as another user"},
    {"unreadable", "a program was started whose file cannot be read"},
    {"static", "a program was started that is linked statically"},
    {"32-bit", "a 32-bit program was started"},
    {"machine", "a program for another processor was started"},
    {"libc", "a program was started whose C library is not glibc"},
    {"setuid", "a program was started that is setuid, or by a process with another effective user"},
    {"setgid", "a program was started that is setgid, or by a process with another effective group"},
    {"capabilities", "a program was started that has file capabilities"},
    {"go", "a Go program was started, which makes its system calls itself"},
    {"receiver_unknown", "it was sent to a process that is not known"},
    {"receiver_without_library", "it was sent to a process that has not loaded the library"},
    {"receiver_of_another_user", "it was sent to a process of another user"},
};
static_assert(std::size(all) == size_t(plain_cause::receiver_of_another_user) + 1);

}  // namespace

const char* to_word(plain_cause c) noexcept { return all[size_t(read_cause(uint32_t(c)))].word; }
const char* to_text(plain_cause c) noexcept { return all[size_t(read_cause(uint32_t(c)))].text; }

}  // namespace vmsgr::proto
