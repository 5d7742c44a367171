// A client of the control socket: a hello, and then requests with jobs in a session segment that it writes as it likes,
// also where no request names it. What is let through is what the daemon may rely on.
#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <memory>
#include <span>

#include "base/tests/fuzz_input.hh"
#include "proto/requests.hh"

namespace {

using namespace vmsgr;
using fuzz::must;

void hello(fuzz::input& in) {
    proto::hello_msg honest, out;
    std::byte bytes[sizeof honest + 8];
    memset(bytes, 0, sizeof bytes);
    memcpy(bytes, &honest, sizeof honest);
    size_t size = sizeof honest;
    for (size_t lies = in.below(4); lies != 0; --lies) {
        bytes[in.below(sizeof bytes)] = std::byte(in.byte());
    }
    if (in.one_in(4)) {
        size = in.below(sizeof bytes + 1);
    }
    if (proto::read_hello(std::span(bytes).first(size), out) == proto::hello_fault::none) {
        must(size == sizeof out && memcmp(bytes, &out, size) == 0, "a hello was taken that is none");
    }
}

bool is_printable(const std::string& text) {
    return std::ranges::all_of(text, [](unsigned char c) { return c > ' ' && c < 127 && c != ';'; });
}

constexpr proto::kind kinds[] = {proto::kind::listen,  proto::kind::connect,  proto::kind::unlist,
                                 proto::kind::borrow,  proto::kind::adopt,    proto::kind::deposit,
                                 proto::kind::settled, proto::kind::registry, proto::kind::go_back,
                                 proto::kind::status,  proto::kind::routes,   proto::kind::drain};

proto::request_msg message(fuzz::input& in, uint64_t session_id) {
    proto::request_msg m;
    m.what = in.one_in(16) ? proto::kind(in.take<uint16_t>()) : kinds[in.below(std::size(kinds))];
    m.magic ^= in.one_in(32) ? in.byte() : 0u;
    m.slot = in.one_in(8) ? uint32_t(in.number()) : uint32_t(in.below(4));
    m.id = in.one_in(4) ? in.number() : session_id << 32 | in.below(4);
    const auto route = in.next(in.below(sizeof m.route + 1));
    std::ranges::copy(route, std::as_writable_bytes(std::span(m.route)).begin());
    return m;
}

// What the program does to its segment between two steps of the daemon.
void write_job(fuzz::input& in, shm::session_segment& segment, uint64_t session_id) {
    auto& job = segment.connect[in.below(4)];
    job.state.store(in.one_in(4) ? uint32_t(in.number()) : uint32_t(shm::slot_posted));
    job.id = in.one_in(4) ? in.number() : session_id << 32 | in.below(4);
    job.peer = *base::parse_address("10.0.0.1:80");
    job.peer.family = in.one_in(4) ? in.take<uint16_t>() : job.peer.family;
    job.slot = uint32_t(in.number());
    job.flags = in.byte();
    job.fd = in.one_in(4) ? in.take<int32_t>() : 5;
    const auto route = in.next(in.below(sizeof job.route + 1));
    std::ranges::copy(route, std::as_writable_bytes(std::span(job.route)).begin());
}

void check_taken(const proto::posted_job& job, const proto::request_msg& m, uint64_t session_id) {
    must(job.id == m.id && job.id >> 32 == session_id, "a job of another session was taken");
    must(job.peer.family == AF_INET || job.peer.family == AF_INET6, "a job without an address was taken");
    must(job.route.size() < sizeof m.route + 1 && is_printable(job.route), "a route's name that is not printable");
    must(uint8_t(job.without) <= uint8_t(proto::without_trunk::direct), "a way that does not exist");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    // As large as it is, it stays zero but for the first jobs.
    static const auto segment = std::make_unique<shm::session_segment>();
    for (auto& job : std::span(segment->connect).first(4)) {
        memset(static_cast<void*>(&job), 0, sizeof job);
    }
    fuzz::input in(data, size);
    hello(in);
    constexpr uint64_t session_id = 7;
    const auto session = in.one_in(8) ? proto::session_kind::query : proto::session_kind::program;
    while (!in.empty()) {
        if (in.one_in(2)) {
            write_job(in, *segment, session_id);
            continue;
        }
        const auto m = message(in, session_id);
        const proto::request_size got{in.one_in(16) ? in.below(256) : sizeof m, in.below(proto::fds_max + 1),
                                      in.one_in(16)};
        if (check_request(m, got, session)) {
            continue;
        }
        must(is_printable(proto::route_name(m.route)), "a route's name that is not printable");
        must(!got.truncated && got.bytes == sizeof m, "a message was taken that is none");
        must(session == proto::session_kind::program || m.what == proto::kind::status ||
                 m.what == proto::kind::routes || m.what == proto::kind::drain,
             "a session that only asks does more");
        if (m.what == proto::kind::connect) {
            must(got.fds == 3 && m.slot < shm::connect_slots, "a connect without its descriptors or its job");
            auto& state = segment->connect[m.slot].state;
            const bool posted = state.load() == shm::slot_posted;
            const auto job = take_job(*segment, m, session_id);
            must(posted || !job, "a job was taken that is not posted");
            must(!posted || state.load() == shm::slot_free, "a job that was looked at keeps its slot");
            if (job) {
                check_taken(*job, m, session_id);
            }
        }
    }
    return 0;
}
