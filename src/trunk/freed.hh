// The deleter of a std::unique_ptr to what a C library has made and frees by a function of its own.
#pragma once

namespace vmsgr::trunk {

template <auto Free>
struct freed {
    void operator()(auto* p) const noexcept { Free(p); }
};

}  // namespace vmsgr::trunk
