// What the code of one ELF file (x86-64, 64 bits) says before it runs: which functions it wants and gives, and which
// constants it calls some of them with. The whole file is read into memory; every offset in it is checked, as nobody
// vouches for the file. Single thread.
#pragma once

#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hh"

namespace vmsgr::cli {

inline constexpr size_t image_bytes_max = 1u << 30;

class elf_image {
    std::string _bytes;
    std::vector<Elf64_Shdr> _sections;
    size_t _symbols = 0;  // which section has the dynamic ones; 0: none

public:
    static base::result<elf_image> read(const std::string& path);

    // Functions of the dynamic symbol table that others are to have, or that it has.
    std::set<std::string> imports() const { return functions(true); }
    std::set<std::string> exports() const { return functions(false); }
    // PT_INTERP; empty: none.
    std::string linker() const;

    enum class argument : uint8_t { first, second };
    // What is passed to an imported function, as far as the value stands in the code shortly before the call.
    std::vector<uint32_t> constants_for(std::string_view function, argument which) const;
    // The numbers of the system calls that it makes without libc, as far as they stand in the code before them.
    std::set<uint32_t> own_system_calls() const;

private:
    template <typename T>
    bool get(uint64_t offset, T& out) const;
    std::string_view text_at(uint64_t table, uint64_t offset) const;
    std::string_view bytes_of(const Elf64_Shdr& s) const;
    std::string_view name_of(const Elf64_Sym& s) const;
    bool load();
    std::set<std::string> functions(bool undefined) const;
    template <typename Each>
    void each_symbol(Each&& each) const;
    std::set<uint64_t> slots_of(std::string_view function) const;
    std::set<uint64_t> stubs_of(const std::set<uint64_t>& slots) const;
};

}  // namespace vmsgr::cli
