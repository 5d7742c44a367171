#include "daemon/upgrade.hh"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/process.hh"
#include "keeper/worker.hh"

namespace vmsgr::daemon {

namespace {

constexpr int failed_exit = 1;
enum option_bit : uint32_t { bit_no_seccomp = 1, bit_adaptive = 2, bit_busy = 4 };

int wait_for(base::unique_fd from, pid_t child) {
    std::string text;
    char buffer[1024];
    for (ssize_t n; (n = ::read(from.get(), buffer, sizeof buffer)) != 0;) {
        if (n > 0) {
            text.append(buffer, size_t(n));
        } else if (errno != EINTR) {
            break;
        }
        if (text.ends_with('\n')) {
            break;
        }
    }
    if (text.starts_with('+')) {
        printf("%s", text.c_str() + 1);
        return 0;
    }
    if (text.empty()) {
        int status = 0;
        ::waitpid(child, &status, 0);
        const keeper::end_text how(status);
        text = "-no upgrade: the new vmsgrd " + std::string(how.view()) + "; see the log of the one that runs\n";
    }
    fprintf(stderr, "vmsgrd: %s", text.c_str() + 1);
    return failed_exit;
}

}  // namespace

void upgrade_report::say(char how, std::string_view text) noexcept {
    if (!_to) {
        return;
    }
    char line[1200];
    const int n = snprintf(line, sizeof line - 1, "%c%.*s", how, int(text.size()), text.data());
    const auto end = std::min(size_t(n), sizeof line - 2);
    line[end] = '\n';
    const ssize_t written = ::write(_to.get(), line, end + 1);
    (void)written;  // nobody waits for it any more
    _to.reset();
}

std::expected<upgrade_report, int> begin_upgrade() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) {
        perror("vmsgrd: pipe");
        return std::unexpected(failed_exit);
    }
    base::unique_fd from(ends[0]), to(ends[1]);
    const auto child = base::fork_process();
    if (!child) {
        fprintf(stderr, "vmsgrd: %s\n", child.error().text.c_str());
        return std::unexpected(failed_exit);
    }
    if (*child != 0) {
        to.reset();
        return std::unexpected(wait_for(std::move(from), *child));
    }
    ::setsid();
    return upgrade_report(std::move(to));
}

uint32_t options_to_bits(const options& o) noexcept {
    const uint32_t polling = !o.polling ? 0U : *o.polling == conf::poll_mode::busy ? bit_busy : bit_adaptive;
    return polling | (o.no_seccomp ? uint32_t(bit_no_seccomp) : 0U);
}

void add_options(options& to, uint32_t bits) noexcept {
    to.no_seccomp = to.no_seccomp || (bits & bit_no_seccomp) != 0;
    if (!to.polling && (bits & (bit_busy | bit_adaptive)) != 0) {
        to.polling = (bits & bit_busy) != 0 ? conf::poll_mode::busy : conf::poll_mode::adaptive;
    }
}

std::string why_no_upgrade(const keeper::upgrade_message& answer, const std::string& reached,
                           const conf::daemon_config& c) {
    const std::string restart = "; stop the vmsgrd that runs and start the new one";
    rlimit files{};
    if (c.socket != reached) {
        return "no upgrade: `socket` would change from " + reached + " to " + c.socket + restart;
    }
    if (c.shards != answer.shards) {
        return "no upgrade: `shards` would change from " + std::to_string(answer.shards) + " to " +
               std::to_string(c.shards) + restart;
    }
    if (::getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_max < uint64_t(answer.held) + 200) {
        return "no upgrade: the vmsgrd that runs holds " + std::to_string(answer.held) +
               " descriptors, more than this process may have; raise LimitNOFILE or ulimit -n";
    }
    return {};
}

}  // namespace vmsgr::daemon
