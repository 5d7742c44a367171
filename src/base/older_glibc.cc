#include "base/older_glibc.hh"

#include <link.h>
#include <stdint.h>
#include <unwind.h>

#include <atomic>

extern "C" {
// strtoul() as it is called in <stdlib.h> here would be __isoc23_strtoul itself.
unsigned long vmsgr_old_strtoul(const char* text, char** end, int base) noexcept __asm__("strtoul");
__attribute__((visibility("hidden"))) unsigned long __isoc23_strtoul(const char* text, char** end, int base) noexcept;
__attribute__((visibility("hidden"))) int _dl_find_object(void* pc, dl_find_object* found) noexcept;
}

namespace vmsgr::base {

namespace {

struct search {
    uintptr_t pc;
    dl_find_object* found;
};

// dl_iterate_phdr's: 1 ends the walk.
int look(dl_phdr_info* object, size_t, void* data) {
    const auto& s = *static_cast<const search*>(data);
    const uintptr_t base = object->dlpi_addr;
    uintptr_t first = UINTPTR_MAX, last = 0, frames = 0;
    bool inside = false;
    for (int i = 0; i < object->dlpi_phnum; ++i) {
        const auto& segment = object->dlpi_phdr[i];
        const uintptr_t begin = base + segment.p_vaddr, end = begin + segment.p_memsz;
        if (segment.p_type == PT_LOAD) {
            inside = inside || (s.pc >= begin && s.pc < end);
            first = begin < first ? begin : first;
            last = end > last ? end : last;
        } else if (segment.p_type == PT_GNU_EH_FRAME) {
            frames = begin;
        }
    }
    if (!inside) {
        return 0;
    }
    *s.found = {};
    s.found->dlfo_map_start = reinterpret_cast<void*>(first);
    s.found->dlfo_map_end = reinterpret_cast<void*>(last);
    s.found->dlfo_eh_frame = reinterpret_cast<void*>(frames);
    return 1;
}

using find_function = int (*)(void*, dl_find_object*) noexcept;
constinit std::atomic<find_function> find_by_glibc{nullptr};

_Unwind_Reason_Code no_further(_Unwind_Context*, void*) { return _URC_END_OF_STACK; }

// A thread that is cancelled is unwound by glibc's libgcc_s, and our landing pads by the copy in here, whose table of
// register sizes is empty (_Unwind_SetGR aborts) until it has begun to unwind something itself.
__attribute__((constructor)) void start() noexcept {
    find_objects_by_glibc(true);
    _Unwind_Backtrace(&no_further, nullptr);
}

}  // namespace

int find_loaded_object(const void* pc, dl_find_object* found) noexcept {
    search s{reinterpret_cast<uintptr_t>(pc), found};
    // An object without frames ends the stack, as it does for glibc.
    return dl_iterate_phdr(&look, &s) == 1 && found->dlfo_eh_frame != nullptr ? 0 : -1;
}

void find_objects_by_glibc(bool ask) noexcept {
    void* theirs = nullptr;
    if (ask) {
        theirs = ::dlsym(RTLD_DEFAULT, "_dl_find_object");  // never the one below, which is hidden
        if (theirs == nullptr) {
            ::dlerror();  // the program must not find our message
        }
    }
    find_by_glibc.store(reinterpret_cast<find_function>(theirs), std::memory_order_relaxed);
}

}  // namespace vmsgr::base

// libstdc++ reads GLIBCXX_TUNABLES with it. What C23 added are binary numbers.
unsigned long __isoc23_strtoul(const char* text, char** end, int base) noexcept {
    return vmsgr_old_strtoul(text, end, base);
}

int _dl_find_object(void* pc, dl_find_object* found) noexcept {
    const auto theirs = vmsgr::base::find_by_glibc.load(std::memory_order_relaxed);
    return theirs != nullptr ? theirs(pc, found) : vmsgr::base::find_loaded_object(pc, found);
}
