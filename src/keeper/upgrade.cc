#include "keeper/upgrade.hh"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/rights.hh"

namespace vmsgr::keeper {

std::string_view text_in(const upgrade_message& m) noexcept { return {m.text, strnlen(m.text, sizeof m.text)}; }

void own_file(uint64_t (&out)[2]) noexcept {
    struct stat st{};
    const bool known = ::stat("/proc/self/exe", &st) == 0;
    out[0] = known ? st.st_dev : 0;
    out[1] = known ? st.st_ino : 0;
}

int send_upgrade(int to, const upgrade_message& m, std::span<const int> fds, int flags) noexcept {
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * descriptors_of_message)];
    iovec iov{const_cast<upgrade_message*>(&m), sizeof m};
    msghdr h{};
    h.msg_iov = &iov;
    h.msg_iovlen = 1;
    base::put_rights(h, control, fds);
    ssize_t n = 0;
    do {
        n = ::sendmsg(to, &h, flags | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    return n == ssize_t(sizeof m) ? 0 : n < 0 ? errno : EPROTO;
}

int receive_upgrade(int from, upgrade_message& m, descriptors& fds, int flags) {
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * descriptors_of_message)];
    fds.clear();
    fds.reserve(descriptors_of_message);
    iovec iov{&m, sizeof m};
    msghdr h{};
    h.msg_iov = &iov;
    h.msg_iovlen = 1;
    h.msg_control = control;
    h.msg_controllen = sizeof control;
    ssize_t n = 0;
    do {
        n = ::recvmsg(from, &h, flags | MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    if (n <= 0) {
        return n < 0 ? errno : ECONNRESET;
    }
    base::each_right(h, [&](int fd) { fds.emplace_back(fd); });
    const bool known = m.magic == upgrade_magic && (m.protocol == upgrade_protocol || m.what == upgrade_step::refusal);
    const bool whole = n == ssize_t(sizeof m) || (m.protocol != upgrade_protocol && size_t(n) > sizeof m.text);
    return known && whole && (h.msg_flags & MSG_CTRUNC) == 0 ? 0 : EPROTO;
}

void refuse_upgrade(int to, std::string_view why) noexcept {
    upgrade_message m;
    m.what = upgrade_step::refusal;
    why.copy(m.text, sizeof m.text - 1);
    (void)send_upgrade(to, m, {}, MSG_DONTWAIT);
}

bool fill_entries(std::span<const kept> held, size_t& next, upgrade_message& m, std::vector<int>& fds) {
    fds.clear();
    m.what = upgrade_step::entries;
    m.count = 0;
    for (; next < held.size() && m.count < entries_of_message; ++next) {
        const auto n = uint32_t(std::ranges::count_if(held[next], [](int fd) { return fd >= 0; }));
        if (n != 0) {
            m.part[m.count++] = {uint32_t(next), n};
            fds.insert(fds.end(), held[next].begin(), held[next].begin() + n);
        }
    }
    return m.count != 0;
}

bool take_entries(const upgrade_message& m, descriptors& fds, std::span<kept> places) {
    size_t at = 0;
    for (const auto& p : std::span(m.part).first(std::min<size_t>(m.count, entries_of_message))) {
        if (p.entry >= places.size() || p.descriptors > kept_fds || at + p.descriptors > fds.size() ||
            places[p.entry] != none_kept) {
            return false;
        }
        for (uint32_t i = 0; i < p.descriptors; ++i) {
            places[p.entry][i] = fds[at++].release();
        }
    }
    return at == fds.size();
}

base::result<std::vector<kept>> receive_all(int keeper, size_t entries) {
    std::vector<kept> out(entries, none_kept);
    upgrade_message m;
    descriptors fds;
    for (size_t taken = 0;;) {
        pollfd p{keeper, POLLIN, 0};
        if (::poll(&p, 1, -1) < 0 && errno != EINTR) {
            return std::unexpected(base::os_error("poll"));
        }
        const int err = receive_upgrade(keeper, m, fds, MSG_DONTWAIT);
        if (err == EAGAIN) {
            continue;
        }
        if (err == 0 && m.what == upgrade_step::all && m.count == taken) {
            return out;
        }
        if (err != 0 || m.what != upgrade_step::entries || !take_entries(m, fds, out)) {
            return base::fail(err != 0 ? err : EPROTO, "what an earlier vmsgrd had was not handed over");
        }
        taken += m.count;
    }
}

}  // namespace vmsgr::keeper
