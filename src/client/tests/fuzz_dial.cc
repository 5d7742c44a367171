// Diallers of a door that say and send what they like: a hello with lies in it, and descriptors that are not what they
// are said to be. The acceptor takes what is true, turns everything else away, and keeps nothing of it.
#include <string.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <vector>

#include "base/netns.hh"
#include "base/sockets.hh"
#include "base/source.hh"
#include "base/tests/fuzz_input.hh"
#include "client/dialled.hh"
#include "client/session.hh"

namespace {

using namespace vmsgr;
using namespace vmsgr::client;
using fuzz::must;

base::unique_fd tcp_socket(bool bound) {
    base::unique_fd s(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (bound) {
        sockaddr_in in{};
        in.sin_family = AF_INET;
        in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        must(::bind(s.get(), reinterpret_cast<sockaddr*>(&in), sizeof in) == 0, "no port is free");
    }
    return s;
}

// Everything that lasts longer than one input.
struct place {
    session nobody;  // never attached
    base::unique_fd door{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    sockaddr_un name{};
    socklen_t name_bytes = sizeof name;
    daemon_listener listener;
    std::vector<base::unique_fd> things;  // that a dialler may send along
    base::unique_fd source = tcp_socket(true);
    shm::new_arena arena = std::move(shm::create_arena(4, shm::ring_bytes_min).value());

    place() {
        name.sun_family = AF_UNIX;  // autobind: a name that nobody else has
        must(::bind(door.get(), reinterpret_cast<sockaddr*>(&name), sizeof name.sun_family) == 0, "no door");
        must(::listen(door.get(), 8) == 0, "no door");
        ::getsockname(door.get(), reinterpret_cast<sockaddr*>(&name), &name_bytes);
        listener.own = *base::parse_address("127.0.0.1:7000");
        listener.netns = base::netns_cookie(source.get());
        listener.word = {1, 2, 3, 4};
        // Where a daemon is, its lifeline does not hang up.
        int lifeline[2];
        must(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, lifeline) == 0, "no lifeline");
        listener.lifeline = lifeline[0];
        things.emplace_back(lifeline[1]);
        things.push_back(tcp_socket(false));
        things.emplace_back(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        things.emplace_back(::memfd_create("fuzz", MFD_CLOEXEC));
        things.emplace_back(::open("/dev/null", O_RDWR | O_CLOEXEC));
        auto other = std::move(shm::create_arena(1, shm::ring_bytes_min).value());
        other.memory.header().slots = 3;  // more than it has
        things.push_back(std::move(other.fd));
    }
};

proto::dial_hello hello_of(fuzz::input& in, const place& p, bool by_daemon) {
    proto::dial_hello h;
    h.slot = uint32_t(in.one_in(4) ? in.number() : in.below(4));
    h.local = p.listener.own;
    h.peer = base::local_name(p.source.get());
    if (by_daemon) {
        h.flags = proto::dial_by_daemon;
        h.word = p.listener.word;
        h.id = 5;
    }
    auto* bytes = reinterpret_cast<unsigned char*>(&h);
    for (size_t lies = in.below(4); lies != 0; --lies) {
        bytes[in.below(sizeof h)] ^= in.byte();
    }
    return h;
}

// Sends it, and leaves. What was sent stays in the queue.
void dial(fuzz::input& in, place& p, proto::dial_hello& h, bool by_daemon) {
    base::unique_fd s(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    must(::connect(s.get(), reinterpret_cast<sockaddr*>(&p.name), p.name_bytes) == 0, "the door does not open");
    std::vector<int> fds;
    if (!by_daemon) {
        fds.push_back(p.source.get());
    }
    fds.push_back(p.arena.fd.get());
    for (size_t lies = in.below(4); lies != 0; --lies) {
        switch (const int thing = p.things[in.below(p.things.size())].get(); in.below(3)) {
        case 0: fds[in.below(fds.size())] = thing; break;
        case 1: fds.push_back(thing); break;
        default: fds.resize(std::max<size_t>(fds.size() - 1, 1));
        }
    }
    const size_t size = in.one_in(16) ? in.below(sizeof h) : sizeof h;
    if (size != 0) {
        proto::send_with_fds(s.get(), &h, size, fds, MSG_DONTWAIT);
    }
    if (in.one_in(4)) {
        const auto more = in.next(16);
        ::send(s.get(), more.data(), more.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    }
}

void check_taken(place& p, arrived& a, const proto::dial_hello& said) {
    must(memcmp(&a.hello, &said, sizeof said) == 0, "another hello than was said");
    must(a.by_daemon == ((said.flags & proto::dial_by_daemon) != 0), "a dialler is taken for somebody else");
    must(!a.by_daemon || said.word == p.listener.word, "the daemon without its secret");
    if (!a.by_daemon) {
        must(a.peer == base::local_name(p.source.get()) && a.local == p.listener.own, "an address that is not proved");
    }
    if (a.plain) {
        must(a.by_daemon && base::not_tcp(a.port.get()) == nullptr, "plain, and no TCP socket");
        return;
    }
    must(said.slot < 64, "a slot that no memory has");
    auto page = take_page();
    must(page.has_value(), "no page");
    stream s = make_accepted(a, std::move(*page), 1);
    char byte;
    const iovec one{&byte, 1};
    (void)s.receive(a.bell.get(), &one, 1, MSG_DONTWAIT);
    s.give_up_hold();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static place p;
    static const int lowest = ::dup(0);
    {
        fuzz::input in(data, size);
        const bool by_daemon = in.one_in(2);
        auto said = hello_of(in, p, by_daemon);
        dial(in, p, said, by_daemon);
        arrived a;
        const int e = accept_dialled(p.nobody, p.door.get(), p.listener, SOCK_NONBLOCK, a);
        must(e == 0 || e == EAGAIN, "an acceptor that is kept from its work");
        if (e == 0) {
            check_taken(p, a, said);
        }
    }
    const int now = ::dup(0);
    must(now < lowest + 100, "descriptors are left open");  // shared memory rests for a while
    ::close(now);
    return 0;
}
