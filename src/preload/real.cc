#include "preload/real.hh"

#include <dlfcn.h>

#include "base/clock.hh"
#include "base/sys.hh"

namespace vmsgr::preload {

constinit real_calls real;

namespace {

template <typename F>
void find(F*& f, const char* name) noexcept {
    if (void* p = ::dlsym(RTLD_NEXT, name)) {
        f = reinterpret_cast<F*>(p);
    }
}

}  // namespace

namespace {

// libc's own, whatever stands in front of it.
template <typename F>
void find_in_libc(F*& f, const char* name) noexcept {
    void* libc = ::dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
    if (libc == nullptr) {
        return;
    }
    if (void* p = ::dlsym(libc, name)) {
        f = reinterpret_cast<F*>(p);
    }
    ::dlclose(libc);
}

}  // namespace

void* next_function(const char* name) noexcept { return ::dlsym(RTLD_NEXT, name); }

void find_real_calls() noexcept {
    find_in_libc(base::clock_source, "clock_gettime");
#define VMSGR_FIND_CALL(result, name, parameters, early) find(real.name, #name);
    VMSGR_REAL_CALLS(VMSGR_FIND_CALL)
#undef VMSGR_FIND_CALL
    sys::sleeping = {real.poll, real.recv, real.recvmsg, real.sendmsg, real.accept4};
}

}  // namespace vmsgr::preload
