#include "preload/real.hh"

#include <dlfcn.h>

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

void find_real_calls() noexcept {
#define VMSGR_FIND_CALL(result, name, parameters, early) find(real.name, #name);
    VMSGR_REAL_CALLS(VMSGR_FIND_CALL)
#undef VMSGR_FIND_CALL
}

}  // namespace vmsgr::preload
