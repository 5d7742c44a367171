#include "cli/elf_image.hh"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include <fstream>
#include <optional>

namespace vmsgr::cli {

namespace {

constexpr size_t look_back_bytes = 40;  // from a call to the instruction that loads its argument
constexpr uint32_t system_calls_end = 1024;

bool is_code(const Elf64_Shdr& s) { return s.sh_type == SHT_PROGBITS && (s.sh_flags & SHF_EXECINSTR) != 0; }

uint32_t word_at(std::string_view code, size_t at) {
    uint32_t value = 0;
    memcpy(&value, code.data() + at, sizeof value);
    return value;
}

// Where the displacement at `at` leads to; it is the last part of its instruction.
uint64_t target(const Elf64_Shdr& s, std::string_view code, size_t at) {
    return s.sh_addr + at + 4 + uint64_t(int64_t(int32_t(word_at(code, at))));
}

bool has(std::string_view code, size_t at, std::string_view what) {
    return code.substr(at).starts_with(what) && code.size() - at >= what.size() + 4;
}

// "mov $imm32,%reg" is its opcode and the value: the last one before `end`.
std::optional<uint32_t> last_constant(std::string_view code, size_t end, char opcode) {
    constexpr size_t length = 5;
    for (size_t at = end; at-- > 0 && end - at <= look_back_bytes;) {
        if (code[at] == opcode && end - at >= length) {
            return word_at(code, at + 1);
        }
    }
    return std::nullopt;
}

}  // namespace

template <typename T>
bool elf_image::get(uint64_t offset, T& out) const {
    if (offset > _bytes.size() || _bytes.size() - offset < sizeof out) {
        return false;
    }
    memcpy(&out, _bytes.data() + offset, sizeof out);
    return true;
}

std::string_view elf_image::bytes_of(const Elf64_Shdr& s) const {
    const bool there = s.sh_type != SHT_NOBITS && s.sh_offset <= _bytes.size() &&
                       s.sh_size <= _bytes.size() - s.sh_offset;
    return there ? std::string_view(_bytes).substr(s.sh_offset, s.sh_size) : std::string_view();
}

std::string_view elf_image::text_at(uint64_t table, uint64_t offset) const {
    const auto all = table < _sections.size() ? bytes_of(_sections[table]) : std::string_view();
    const auto rest = offset < all.size() ? all.substr(offset) : std::string_view();
    return rest.substr(0, rest.find('\0'));
}

base::result<elf_image> elf_image::read(const std::string& path) {
    struct stat st;
    if (::stat(path.c_str(), &st) != 0) {
        return base::fail(errno, path + ": " + strerror(errno));
    }
    if (!S_ISREG(st.st_mode) || uint64_t(st.st_size) > image_bytes_max) {
        return base::fail(EFBIG, path + " is no file, or larger than 1 GiB");
    }
    elf_image image;
    image._bytes.resize(size_t(st.st_size));
    std::ifstream in(path, std::ios::binary);
    if (!in.read(image._bytes.data(), st.st_size)) {
        return base::fail(EACCES, path + " cannot be read");
    }
    if (!image.load()) {
        return base::fail(ENOEXEC, path + " is no ELF file of 64 bits for x86-64 with a table of sections");
    }
    return image;
}

bool elf_image::load() {
    Elf64_Ehdr e;
    if (!get(0, e) || memcmp(e.e_ident, ELFMAG, SELFMAG) != 0 || e.e_ident[EI_CLASS] != ELFCLASS64 ||
        e.e_machine != EM_X86_64 || e.e_shentsize != sizeof(Elf64_Shdr)) {
        return false;
    }
    for (uint64_t i = 0; i < e.e_shnum; ++i) {
        Elf64_Shdr s;
        if (!get(e.e_shoff + i * sizeof s, s)) {
            return false;
        }
        _symbols = s.sh_type == SHT_DYNSYM ? size_t(i) : _symbols;
        _sections.push_back(s);
    }
    return !_sections.empty();
}

std::string elf_image::linker() const {
    Elf64_Ehdr e;
    Elf64_Phdr p;
    for (uint64_t i = 0; get(0, e) && i < e.e_phnum && get(e.e_phoff + i * sizeof p, p); ++i) {
        if (p.p_type == PT_INTERP && p.p_offset <= _bytes.size()) {
            const auto text = std::string_view(_bytes).substr(p.p_offset, p.p_filesz);
            return std::string(text.substr(0, text.find('\0')));
        }
    }
    return {};
}

template <typename Each>
void elf_image::each_symbol(Each&& each) const {
    const auto table = _symbols != 0 ? bytes_of(_sections[_symbols]) : std::string_view();
    for (size_t i = 0; (i + 1) * sizeof(Elf64_Sym) <= table.size(); ++i) {
        Elf64_Sym s;
        memcpy(&s, table.data() + i * sizeof s, sizeof s);
        each(i, s, text_at(_sections[_symbols].sh_link, s.st_name));
    }
}

std::set<std::string> elf_image::functions(bool undefined) const {
    std::set<std::string> found;
    each_symbol([&](size_t, const Elf64_Sym& s, std::string_view name) {
        const auto kind = ELF64_ST_TYPE(s.st_info);
        const bool callable = kind == STT_FUNC || kind == STT_GNU_IFUNC || (undefined && kind == STT_NOTYPE);
        if (callable && (s.st_shndx == SHN_UNDEF) == undefined && !name.empty()) {
            found.emplace(name);
        }
    });
    return found;
}

// The words of memory into which the linker puts the function's address.
std::set<uint64_t> elf_image::slots_of(std::string_view function) const {
    std::set<uint64_t> symbols, slots;
    each_symbol([&](size_t i, const Elf64_Sym& s, std::string_view name) {
        if (s.st_shndx == SHN_UNDEF && name == function) {
            symbols.insert(i);
        }
    });
    for (const auto& s : _sections) {
        const auto table = s.sh_type == SHT_RELA && s.sh_link == _symbols ? bytes_of(s) : std::string_view();
        for (size_t i = 0; (i + 1) * sizeof(Elf64_Rela) <= table.size(); ++i) {
            Elf64_Rela r;
            memcpy(&r, table.data() + i * sizeof r, sizeof r);
            const auto kind = ELF64_R_TYPE(r.r_info);
            if ((kind == R_X86_64_JUMP_SLOT || kind == R_X86_64_GLOB_DAT) && symbols.contains(ELF64_R_SYM(r.r_info))) {
                slots.insert(r.r_offset);
            }
        }
    }
    return slots;
}

// The jumps by these words, "jmp *disp(%rip)", which stand in tables that begin with .plt.
std::set<uint64_t> elf_image::stubs_of(const std::set<uint64_t>& slots) const {
    Elf64_Ehdr e;
    std::set<uint64_t> stubs;
    for (const auto& s : _sections) {
        if (!is_code(s) || !get(0, e) || !text_at(e.e_shstrndx, s.sh_name).starts_with(".plt")) {
            continue;
        }
        const auto code = bytes_of(s);
        for (size_t at = 0; at < code.size(); ++at) {
            if (has(code, at, "\xff\x25") && slots.contains(target(s, code, at + 2))) {
                constexpr uint64_t endbr = 4, bnd = 1;  // what may stand in front of it
                stubs.insert({s.sh_addr + at, s.sh_addr + at - endbr, s.sh_addr + at - endbr - bnd});
            }
        }
    }
    return stubs;
}

std::vector<uint32_t> elf_image::constants_for(std::string_view function, argument which) const {
    std::vector<uint32_t> found;
    const auto slots = slots_of(function);
    if (slots.empty()) {
        return found;
    }
    const auto stubs = stubs_of(slots);
    const char load = which == argument::first ? '\xbf' : '\xbe';  // mov to edi, esi
    for (const auto& s : _sections) {
        const auto code = is_code(s) ? bytes_of(s) : std::string_view();
        for (size_t at = 0; at < code.size(); ++at) {
            const bool near = (has(code, at, "\xe8") || has(code, at, "\xe9")) &&
                              stubs.contains(target(s, code, at + 1));
            const bool by_slot = (has(code, at, "\xff\x15") || has(code, at, "\xff\x25")) &&
                                 slots.contains(target(s, code, at + 2));
            if (near || by_slot) {
                if (auto value = last_constant(code, at, load)) {
                    found.push_back(*value);
                }
            }
        }
    }
    return found;
}

std::set<uint32_t> elf_image::own_system_calls() const {
    constexpr char load = '\xb8';  // mov to eax
    std::set<uint32_t> found;
    for (const auto& s : _sections) {
        const auto code = is_code(s) ? bytes_of(s) : std::string_view();
        for (size_t at = code.find("\x0f\x05"); at != code.npos; at = code.find("\x0f\x05", at + 1)) {
            const auto number = last_constant(code, at, load);
            if (number && *number < system_calls_end) {
                found.insert(*number);
            }
        }
    }
    return found;
}

}  // namespace vmsgr::cli
