#include "cli/linker.hh"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/spawned.hh"

namespace vmsgr::cli {

namespace {

constexpr int linker_timeout_ms = 10'000;

bool is_trusted(const std::string& file) {
    struct stat st;
    return ::stat(file.c_str(), &st) == 0 && S_ISREG(st.st_mode) && (st.st_uid == 0 || st.st_uid == ::geteuid()) &&
           (st.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

std::vector<std::string> environment_with(const std::string& preload) {
    std::vector<std::string> out;
    for (char** e = environ; *e != nullptr; ++e) {
        if (strncmp(*e, "LD_PRELOAD=", strlen("LD_PRELOAD=")) != 0 && strncmp(*e, "LD_TRACE", 8) != 0) {
            out.emplace_back(*e);
        }
    }
    out.push_back("LD_PRELOAD=" + preload);
    return out;
}

// "\tlibz.so.1 => /lib/libz.so.1 (0x...)", or a path alone.
std::vector<std::string> objects_in(const std::string& text) {
    std::vector<std::string> out;
    for (size_t at = 0; at < text.size();) {
        const auto line = std::string_view(text).substr(at, text.find('\n', at) - at);
        at += line.size() + 1;
        const size_t first = line.find('/'), end = line.rfind(" (0x");
        if (first != line.npos && end != line.npos && first < end) {
            const size_t arrow = line.find(" => ");
            const size_t from = arrow != line.npos ? arrow + strlen(" => ") : first;
            out.emplace_back(line.substr(from, end - from));
        }
    }
    return out;
}

}  // namespace

linked ask_linker(const std::string& linker, const std::string& program, const std::string& preload) {
    linked out;
    if (!is_trusted(linker)) {
        out.complaint = linker + " is not there, or others may write to it, so it was not asked";
        return out;
    }
    const auto done = run_to_end({linker, "--list", program}, linker_timeout_ms, environment_with(preload));
    if (!done) {
        out.complaint = done.error().text;
        return out;
    }
    out.objects = objects_in(done->out);
    out.complaint = done->in_time ? done->err : linker + " gave no answer";
    out.starts = done->succeeded();
    return out;
}

}  // namespace vmsgr::cli
