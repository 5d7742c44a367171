#include "proto/requests.hh"

#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>

#include "base/text.hh"

namespace vmsgr::proto {

namespace {

// Beside a request of this kind, and what a wrong number breaks.
struct descriptors {
    kind what;
    size_t least, most;
    broken_rule otherwise;
};
constexpr descriptors expected_fds[] = {
    {kind::listen, 1, 1, {rule::job, "listen: not one descriptor"}},
    {kind::connect, 3, 3, {rule::job, "connect: not 3 descriptors"}},
    {kind::unlist, 1, 1, {rule::descriptor, "unlist: not one descriptor"}},
    {kind::borrow, 1, 1, {rule::message, "borrow: not one descriptor"}},
    {kind::adopt, 1, 1, {rule::message, "adopt: not one descriptor"}},
    // A door's, which a number names, needs nothing else: the daemon has its socket.
    {kind::deposit, 1, fds_max, {rule::message, "deposit: no descriptor"}},
    {kind::settled, 0, fds_max, {rule::message, ""}},  // those that are too many are only closed
    {kind::registry, 0, 0, {rule::message, "descriptors not asked for"}},
    {kind::go_back, 1, 1, {rule::message, "go_back: not one descriptor"}},
    {kind::status, 0, 0, {rule::message, "descriptors not asked for"}},
    {kind::routes, 0, 0, {rule::message, "descriptors not asked for"}},
    {kind::drain, 0, 0, {rule::message, "descriptors not asked for"}},
};

constexpr bool asks_only(kind k) noexcept { return k == kind::status || k == kind::routes || k == kind::drain; }

}  // namespace

hello_fault read_hello(std::span<const std::byte> bytes, hello_msg& out) noexcept {
    constexpr size_t head = offsetof(hello_msg, version) + sizeof out.version;
    if (bytes.size() < head) {
        return hello_fault::too_short;
    }
    memcpy(&out, bytes.data(), std::min(bytes.size(), sizeof out));
    if (out.magic != control_magic || out.what != kind::hello) {
        return hello_fault::no_hello;
    }
    if (out.version != control_version) {
        return hello_fault::other_version;
    }
    if (bytes.size() != sizeof out) {
        return hello_fault::wrong_length;
    }
    return out.session == session_kind::program || out.session == session_kind::query ? hello_fault::none
                                                                                      : hello_fault::unknown_kind;
}

std::optional<broken_rule> check_request(const request_msg& m, const request_size& got, session_kind session) noexcept {
    if (got.bytes != sizeof m || got.truncated || m.magic != control_magic) {
        return broken_rule{rule::message, "a message of a wrong length or magic"};
    }
    const auto* rights = std::ranges::find(expected_fds, m.what, &descriptors::what);
    if (rights == std::end(expected_fds)) {
        return broken_rule{rule::message, "a message of an unknown kind"};
    }
    if (session != session_kind::program && !asks_only(m.what)) {
        return broken_rule{rule::message, "a program's message from a session that only asks"};
    }
    const size_t least = rights->least + (m.what == kind::deposit && m.id == 0 ? 1 : 0);
    if (got.fds < least || got.fds > rights->most) {
        return rights->otherwise;
    }
    if (m.what == kind::connect && m.slot >= shm::connect_slots) {
        return broken_rule{rule::job, "connect: a slot out of range"};
    }
    return std::nullopt;
}

std::expected<posted_job, broken_rule> take_job(shm::session_segment& segment, const request_msg& m,
                                                uint64_t session_id) {
    auto& job = segment.connect[m.slot];
    if (job.state.load(std::memory_order_acquire) != shm::slot_posted) {
        return std::unexpected(broken_rule{rule::job, "connect: a job that is not posted"});
    }
    posted_job out;
    char route[shm::name_bytes];
    out.id = job.id;
    out.program_fd = job.fd;
    out.peer = job.peer;
    memcpy(route, job.route, sizeof route);
    out.arena_slot = job.slot;
    const uint32_t flags = job.flags;
    out.by_trunk = (flags & shm::connect_by_trunk) != 0;
    out.without = without_trunk((flags & connect_without_trunk) >> connect_without_trunk_shift);
    if ((flags & shm::connect_end_mark) != 0) {
        out.own_linger = linger{job.linger[0], job.linger[1]};
    }
    job.state.store(shm::slot_free, std::memory_order_release);
    if (out.id != m.id || out.id >> 32 != session_id) {
        return std::unexpected(broken_rule{rule::job, "connect: a number that is not the message's or not this "
                                                      "session's"});
    }
    if (out.peer.family != AF_INET && out.peer.family != AF_INET6) {
        return std::unexpected(broken_rule{rule::job, "connect: no address"});
    }
    out.route = route_name(route);
    return out;
}

std::string route_name(const char (&text)[shm::name_bytes]) {
    return text[0] != 0 ? base::printable(text, sizeof text) : std::string();
}

}  // namespace vmsgr::proto
