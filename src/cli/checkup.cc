#include "cli/checkup.hh"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <ranges>
#include <set>
#include <span>

#include "base/program_file.hh"
#include "base/unique_fd.hh"
#include "cli/elf_image.hh"
#include "cli/linker.hh"
#include "cli/program.hh"

namespace vmsgr::cli {

namespace {

constexpr int scripts_deep = 4;  // the kernel's own limit

// Calls of libc that read, write, wait for or change what stands behind a descriptor. Those that the library has no
// hook for act on the doorbell.
constexpr std::string_view socket_calls[] = {
    "read",       "readv",       "recv",        "recvfrom",     "recvmsg",     "recvmmsg",    "write",
    "writev",     "send",        "sendto",      "sendmsg",      "sendmmsg",    "sendfile",    "sendfile64",
    "splice",     "preadv2",     "preadv64v2",  "pwritev2",     "pwritev64v2", "aio_read",    "aio_read64",
    "aio_write",  "aio_write64", "lio_listio",  "lio_listio64", "socket",      "connect",     "listen",
    "accept",     "accept4",     "shutdown",    "getsockopt",   "setsockopt",  "getsockname", "getpeername",
    "sockatmark", "ioctl",       "fcntl",       "fcntl64",      "close",       "close_range", "closefrom",
    "dup",        "dup2",        "dup3",        "poll",         "ppoll",       "select",      "pselect",
    "epoll_ctl",  "epoll_wait",  "epoll_pwait", "epoll_pwait2", "pidfd_getfd", "syscall",     "__read",
    "__write",    "__recv",      "__send",      "__sendmmsg",   "__connect",   "__socket",    "__close",
    "__fcntl",    "__dup2",      "__poll",      "__select",     "__read_chk",  "__recv_chk",  "__recvfrom_chk",
    "__poll_chk", "__ppoll_chk"};

// System calls by which a program that makes them itself uses sockets. read and write are everybody's.
constexpr uint32_t socket_numbers[] = {SYS_connect, SYS_accept,  SYS_accept4,  SYS_listen,   SYS_sendto,  SYS_recvfrom,
                                       SYS_sendmsg, SYS_recvmsg, SYS_sendmmsg, SYS_recvmmsg, SYS_shutdown};

struct part {
    const char* topic;
    const char* remedy;
};

// What to do about a file into which the library is not loaded, or in which it sees nothing.
part advice(base::preload_obstacle o) {
    using enum base::preload_obstacle;
    switch (o) {
    case none: break;
    case unreadable: return {"unreadable", "make the file readable for this user, so that it can be looked at"};
    case linked_statically: return {"static", "use a dynamically linked build of it"};
    case other_class: return {"32-bit", "use the 64-bit build of it"};
    case other_machine: return {"machine", "use the x86-64 build of it"};
    case other_libc: return {"libc", "use a build of it for glibc"};
    case setuid: return {"setuid", "start it as the user whose rights it takes"};
    case setgid: return {"setgid", "start it with the group whose rights it takes"};
    case capabilities: return {"capabilities", "start it as root, or take them off the file with setcap -r"};
    case go: return {"go", "nothing: they work, on kernel sockets. Those of programs that it starts are carried"};
    }
    return {"", ""};
}

// "env NAME" finds the interpreter along $PATH. Its options and variables come first.
std::string behind_env(std::string_view words) {
    for (auto word : words | std::views::split(' ')) {
        const std::string_view w(word.begin(), word.end());
        if (!w.empty() && !w.starts_with('-') && w.find('=') == w.npos) {
            return std::string(w);
        }
    }
    return {};
}

class examination {
    checkup _c;
    std::set<std::string> _hooks;
    std::map<std::string, std::vector<std::string>> _uncovered;  // call: who imports it

public:
    base::result<checkup> run(const std::string& name) {
        auto path = find_program(name);
        if (!path) {
            return std::unexpected(path.error());
        }
        _c.path = _c.program = *path;
        _c.name = basename_of(name);
        if (follow_scripts()) {
            look_at_file();
        }
        return std::move(_c);
    }

private:
    // False: its interpreter is not to be found, and that has been said.
    bool follow_scripts() {
        for (int deep = 0; deep < scripts_deep; ++deep) {
            const base::unique_fd file(::open(_c.program.c_str(), O_RDONLY | O_CLOEXEC));
            base::script_line line;
            base::read_script_line(file.get(), line);
            if (line.interpreter == nullptr) {
                break;
            }
            const auto own = std::string(basename_of(line.interpreter));
            const auto named = own == "env" && line.argument != nullptr ? behind_env(line.argument) : std::string();
            const auto wanted = named.empty() ? std::string(line.interpreter) : named;
            auto found = find_program(wanted);
            if (!found) {
                _c.add(weight::plain, "script", "it is a script for " + wanted + ", which is not there",
                       "install it, or correct the first line of " + _c.program);
                return false;
            }
            _c.add(weight::hint, "script",
                   "it is a script: routes know the process as '" + std::string(basename_of(wanted)) +
                       "', and programs that it starts are judged by their own files");
            _c.program = *found;
            _c.name = basename_of(wanted);
        }
        return true;
    }

    void look_at_file() {
        const auto why = base::look_at_program(_c.program.c_str()).obstacle;
        if (why != base::preload_obstacle::none) {
            const auto [topic, remedy] = advice(why);
            _c.add(weight::plain, topic, base::to_text(why), remedy);
            return;
        }
        auto library = find_library();
        auto preload = library ? preload_value(*library) : base::result<std::string>(std::unexpected(library.error()));
        auto image = elf_image::read(_c.program);
        auto hooks = library ? elf_image::read(*library) : base::result<elf_image>(std::unexpected(library.error()));
        for (const auto* e : {!preload ? &preload.error() : nullptr, !image ? &image.error() : nullptr,
                              !hooks ? &hooks.error() : nullptr}) {
            if (e != nullptr) {
                _c.add(weight::plain, "library", e->text);
                return;
            }
        }
        _hooks = hooks->exports();
        look_at_objects(image->linker(), *library, *preload);
    }

    void look_at_objects(const std::string& linker, const std::string& library, const std::string& preload) {
        // Its own folder, from which it may have libraries, is that of the file and not that of a link to it.
        std::error_code ec;
        const auto file = std::filesystem::canonical(_c.program, ec);
        const auto linked = ask_linker(linker, ec ? _c.program : file.string(), preload);
        const bool loaded = std::ranges::find(linked.objects, library) != linked.objects.end();
        // With --list a version that is missing is told, and no more.
        const bool lacks_version = linked.complaint.find("version `") != linked.complaint.npos;
        if (lacks_version && linked.complaint.find("required by " + library) != linked.complaint.npos) {
            _c.add(weight::plain, "glibc",
                   "the program would not start, as a library is older than " + library + " needs: " + linked.complaint,
                   "use a libvmsgr-preload.so built for this system");
            return;
        }
        if (!loaded || !linked.starts || lacks_version) {
            _c.add(weight::plain, "linker",
                   "the dynamic linker does not load " + library + " with it: " + linked.complaint,
                   "make the program start without VMSGR first");
            return;
        }
        std::vector<std::string> all{_c.program};
        for (const auto& o : linked.objects) {
            const auto base = basename_of(o);
            if (o != library && !base.starts_with("libc.so") && !base.starts_with("ld-linux")) {
                all.push_back(o);
            }
        }
        for (const auto& path : all) {
            if (auto image = elf_image::read(path)) {
                look_at_code(path, *image);
            }
        }
        say_uncovered();
        look_at_other_preloads(preload, library, linked.objects);
        _c.add(weight::fine, "file",
               "64 bits, glibc, dynamically linked; " + std::to_string(linked.objects.size()) + " libraries, " +
                   std::to_string(_hooks.size()) + " hooks");
    }

    void look_at_code(const std::string& path, const elf_image& image) {
        const std::string who(basename_of(path));
        const auto imports = image.imports();
        for (auto call : socket_calls) {
            if (imports.contains(std::string(call)) && !_hooks.contains(std::string(call))) {
                _uncovered[std::string(call)].push_back(who);
            }
        }
        const auto numbers = image.constants_for("syscall", elf_image::argument::first);
        const auto own = image.own_system_calls();
        if (who.starts_with("liburing.so") || own.contains(SYS_io_uring_setup) || has(numbers, SYS_io_uring_setup)) {
            _c.add(weight::maybe, "io_uring",
                   who + " can set io_uring up: from then on the program's connections are the kernel's",
                   "turn io_uring off in its configuration, if it does not need it");
        } else if (std::ranges::any_of(socket_numbers, [&](uint32_t n) { return own.contains(n); })) {
            _c.add(weight::maybe, "own_calls",
                   who + " makes system calls on sockets itself: on a carried connection they end with ECONNRESET",
                   "keep its connections on kernel sockets, with a route 'via: posix'");
        }
        const auto options = image.constants_for("prctl", elf_image::argument::first);
        constexpr uint32_t set_seccomp = 22;  // PR_SET_SECCOMP
        if (who.starts_with("libseccomp.so") || has(options, set_seccomp) || has(numbers, SYS_seccomp)) {
            _c.add(
                weight::hint, "seccomp",
                who + " can set a seccomp filter: if the program does, its connections are the kernel's from then on");
        }
        constexpr uint32_t deep = 8, modes = 3, longest = 1u << 16;  // RTLD_DEEPBIND; RTLD_LAZY and RTLD_NOW
        const auto flags = image.constants_for("dlopen", elf_image::argument::second);
        if (std::ranges::any_of(flags, [](uint32_t f) { return (f & deep) != 0 && (f & modes) != 0 && f < longest; })) {
            _c.add(weight::maybe, "deepbind",
                   who +
                       " opens plug-ins with RTLD_DEEPBIND, which call libc past all hooks: from then on the program's "
                       "connections are the kernel's",
                   "build it without RTLD_DEEPBIND");
        }
    }

    static bool has(const std::vector<uint32_t>& values, uint32_t wanted) {
        return std::ranges::find(values, wanted) != values.end();
    }

    void say_uncovered() {
        for (const auto& [call, who] : _uncovered) {
            _c.add(weight::maybe, "uncovered",
                   who.front() + " calls " + call +
                       "(), for which the library has no hook: on a carried connection it "
                       "ends with ECONNRESET",
                   "if it uses that on sockets, keep these on the kernel, with a route 'via: posix'");
        }
    }

    // Other libraries of $LD_PRELOAD that stand in front of the same calls, or are not there.
    void look_at_other_preloads(const std::string& preload, const std::string& library,
                                const std::vector<std::string>& objects) {
        for (auto word : std::views::split(preload, ':')) {
            const std::string named(word.begin(), word.end());
            const auto loaded = std::ranges::find_if(
                objects, [&](const std::string& o) { return o == named || basename_of(o) == basename_of(named); });
            if (named == library || named.empty() || loaded == objects.end()) {
                continue;
            }
            if (basename_of(named) == preload_library) {
                _c.add(weight::maybe, "preload", "LD_PRELOAD has another copy of the library too: " + named,
                       "unset LD_PRELOAD");
                continue;
            }
            auto image = elf_image::read(*loaded);
            const auto exports = image ? image->exports() : std::set<std::string>();
            for (auto call : {"connect", "accept", "send", "recv", "read", "write", "close"}) {
                if (exports.contains(call)) {
                    _c.add(weight::hint, "preload",
                           named + " in LD_PRELOAD stands in front of " + call +
                               "() and more: it sees no calls on carried connections");
                    break;
                }
            }
        }
    }
};

}  // namespace

std::string_view to_text(weight w) {
    switch (w) {
    case weight::fine: return "fine";
    case weight::hint: return "hint";
    case weight::maybe: return "maybe";
    case weight::plain: return "plain";
    }
    return "?";
}

void checkup::add(weight how, std::string topic, std::string text, std::string remedy) {
    finding f{how, std::move(topic), std::move(text), std::move(remedy)};
    const bool said = std::ranges::any_of(findings, [&](const finding& o) { return o.text == f.text; });
    if (!said) {
        findings.push_back(std::move(f));
    }
}

bool checkup::all_carried() const {
    return std::ranges::all_of(findings, [](const finding& f) { return f.how <= weight::hint; });
}

base::result<checkup> examine(const std::string& name) { return examination().run(name); }

}  // namespace vmsgr::cli
