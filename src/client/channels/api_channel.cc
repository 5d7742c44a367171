// The channels of the C API: opening and moving messages. Requests are in api_requests.cc.
#include "client/channels/api_channel.hh"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "base/names.hh"
#include "client/channels/api.hh"
#include "client/failures.hh"
#include "proto/spin.hh"

namespace client = vmsgr::client;
using namespace vmsgr::client::api;

namespace {

constexpr int backlog = 128;
constexpr int known_flags = VMSGR_MORE;

int result_of(int e) noexcept {
    if (e == 0) {
        return 0;
    }
    errno = e;
    return -1;
}

uint32_t spin_us_of(int given) noexcept {
    if (given < 0 || vmsgr::shm::has_one_processor()) {
        return 0;
    }
    if (given > 0) {
        return std::min<uint32_t>(uint32_t(given), vmsgr::proto::spin_us_max);
    }
    const char* text = ::getenv(vmsgr::proto::spin_variable);
    auto us = text != nullptr ? vmsgr::proto::parse_spin_us(text) : std::nullopt;
    return us.value_or(client::channel_settings{}.spin_us);
}

int read_channel_options(const vmsgr_channel_options* given, client::open_options& o, vmsgr_error* error) {
    vmsgr_channel_options options;
    if (int e = read_options(given, options); e != 0) {
        return fail(error, e, "channel options: size %zu, or an option set that libvmsgr " VMSGR_VERSION
                    " does not know", given->size);
    }
    if (options.name != nullptr) {
        if (strlen(options.name) >= vmsgr::shm::name_bytes) {
            return fail(error, EINVAL, "the name of a channel has at most %zu characters; this one has %zu",
                        size_t(vmsgr::shm::name_bytes) - 1, strlen(options.name));
        }
        o.name = options.name;
    }
    o.settings.max_message_bytes = 0;  // the default, once the rings are known
    if (size_t n = options.max_message_bytes; n != 0) {
        if (n < client::message_bytes_min || n > client::message_bytes_max) {
            return fail(error, EINVAL, "max_message_bytes is %zu; it goes from %u to half of vmsgrd's ring less 16", n,
                        client::message_bytes_min);
        }
        o.settings.max_message_bytes = uint32_t(n);
    }
    o.settings.spin_us = spin_us_of(options.spin_us);
    if (options.timeout_ms != 0) {
        o.timeout_ms = options.timeout_ms;
    }
    return 0;
}

// What both ways of opening begin with: arguments, options, a session that is attached.
int prepare(const char* call, vmsgr_session* s, const sockaddr* at, socklen_t length, const void* out,
            const vmsgr_channel_options* given, client::open_options& o, vmsgr::base::address& address,
            vmsgr_error* error) {
    if (s == nullptr || out == nullptr) {
        return fail(error, EINVAL, "%s: no session, or no place for what is opened (NULL)", call);
    }
    auto a = at != nullptr ? vmsgr::base::from_sockaddr(at, length) : std::nullopt;
    if (!a) {
        return fail(error, EAFNOSUPPORT, "%s: channels take IPv4 and IPv6 addresses", call);
    }
    address = *a;
    if (read_channel_options(given, o, error) != 0) {
        return -1;
    }
    if (!s->session->ensure()) {
        return fail(error, client::unattached(s->path, s->session->last_failure()));
    }
    if (o.settings.max_message_bytes == 0) {
        o.settings.max_message_bytes =
            std::min(client::channel_settings{}.max_message_bytes, client::message_bytes_in(s->session->ring_bytes()));
    }
    return 0;
}

bool bad_flags(int flags) noexcept { return (flags & ~known_flags) != 0; }

}  // namespace

extern "C" {

int vmsgr_channel_listen(vmsgr_session* s, const sockaddr* at, socklen_t length, const vmsgr_channel_options* given,
                         vmsgr_listener** out, vmsgr_error* error) {
    const int saved = errno;
    return guarded(error, [&] {
        client::open_options o;
        vmsgr::base::address address;
        if (prepare("vmsgr_channel_listen", s, at, length, out, given, o, address, error) != 0) {
            return -1;
        }
        std::unique_ptr<vmsgr_listener> l(new vmsgr_listener{client::channel_listener(s->session, std::move(o))});
        if (auto started = l->listener.start(address, backlog); !started) {
            return fail(error, started.error());
        }
        *out = l.release();
        errno = saved;
        return 0;
    });
}

int vmsgr_channel_connect(vmsgr_session* s, const sockaddr* at, socklen_t length, const vmsgr_channel_options* given,
                          vmsgr_channel** out, vmsgr_error* error) {
    const int saved = errno;
    return guarded(error, [&] {
        client::open_options o;
        vmsgr::base::address address;
        if (prepare("vmsgr_channel_connect", s, at, length, out, given, o, address, error) != 0) {
            return -1;
        }
        std::unique_ptr<vmsgr_channel> c(new vmsgr_channel{});
        auto end = client::connect_channel(s->session, s->path, address, o);
        if (!end) {
            return fail(error, end.error());
        }
        c->end = std::move(*end);
        *out = c.release();
        errno = saved;
        return 0;
    });
}

int vmsgr_listener_accept(vmsgr_listener* l, int timeout_ms, vmsgr_channel** out, vmsgr_error* error) {
    const int saved = errno;
    return guarded(error, [&] {
        if (out == nullptr) {
            return fail(error, EINVAL, "vmsgr_listener_accept: no place for the channel (out is NULL)");
        }
        std::unique_ptr<vmsgr_channel> c(new vmsgr_channel{});
        auto end = l->listener.accept(timeout_ms);
        if (!end) {
            return fail(error, end.error());
        }
        c->end = std::move(*end);
        *out = c.release();
        errno = saved;
        return 0;
    });
}

int vmsgr_listener_fd(const vmsgr_listener* l) { return l->listener.fd(); }

int vmsgr_listener_address(const vmsgr_listener* l, sockaddr* to, socklen_t* length) {
    return vmsgr::base::give_name(l->listener.address(), to, length);
}

int vmsgr_listener_counts(const vmsgr_listener* l, unsigned long long* accepted, unsigned long long* refused,
                          const char** last_refusal) {
    if (accepted != nullptr) {
        *accepted = l->listener.accepted();
    }
    if (refused != nullptr) {
        *refused = l->listener.refused();
    }
    if (last_refusal != nullptr) {
        *last_refusal = l->listener.last_refusal().c_str();
    }
    return 0;
}

void vmsgr_listener_close(vmsgr_listener* l) {
    const int saved = errno;
    delete l;
    errno = saved;
}

int vmsgr_channel_send(vmsgr_channel* c, const void* data, size_t bytes, int flags, int timeout_ms) {
    if (bad_flags(flags) || c->sends.first != nullptr) {
        return result_of(bad_flags(flags) ? EINVAL : EBUSY);
    }
    return result_of(c->end->send(data, bytes, (flags & VMSGR_MORE) != 0, timeout_ms));
}

int vmsgr_channel_flush(vmsgr_channel* c) {
    c->end->flush();
    return 0;
}

int vmsgr_channel_reserve(vmsgr_channel* c, size_t bytes, int timeout_ms, void** place) {
    if (place == nullptr || c->sends.first != nullptr) {
        return result_of(place == nullptr ? EINVAL : EBUSY);
    }
    std::byte* at = nullptr;
    int e = c->end->reserve(bytes, timeout_ms, at);
    *place = at;
    return result_of(e);
}

int vmsgr_channel_commit(vmsgr_channel* c, size_t bytes, int flags) {
    return result_of(bad_flags(flags) ? EINVAL : c->end->commit(bytes, (flags & VMSGR_MORE) != 0));
}

int vmsgr_channel_finish(vmsgr_channel* c) {
    if (c->sends.first != nullptr) {
        return result_of(EBUSY);
    }
    c->end->finish();
    return 0;
}

ssize_t vmsgr_channel_recv(vmsgr_channel* c, void* buffer, size_t bytes, int timeout_ms) {
    const std::byte* at = nullptr;
    size_t n = 0;
    int e = c->receives.first != nullptr ? EBUSY : c->end->peek(timeout_ms, at, n);
    if (e == 0 && n > bytes) {
        e = EMSGSIZE;
    }
    if (e != 0) {
        errno = e;
        return -1;
    }
    if (n != 0) {
        memcpy(buffer, at, n);
    }
    c->end->release();
    return ssize_t(n);
}

ssize_t vmsgr_channel_peek(vmsgr_channel* c, const void** message, int timeout_ms) {
    const std::byte* at = nullptr;
    size_t n = 0;
    int e = message == nullptr              ? EINVAL
            : c->receives.first != nullptr  ? EBUSY
                                            : c->end->peek(timeout_ms, at, n);
    if (e != 0) {
        errno = e;
        return -1;
    }
    *message = at;
    return ssize_t(n);
}

int vmsgr_channel_release(vmsgr_channel* c) { return result_of(c->end->release()); }

int vmsgr_channel_fd(const vmsgr_channel* c) { return c->end->fd(); }
size_t vmsgr_channel_max(const vmsgr_channel* c) { return c->end->largest_out(); }
int vmsgr_channel_is_local(const vmsgr_channel* c) { return c->end->is_local(); }

int vmsgr_channel_local(const vmsgr_channel* c, sockaddr* to, socklen_t* length) {
    return vmsgr::base::give_name(c->end->self(), to, length);
}

int vmsgr_channel_peer(const vmsgr_channel* c, sockaddr* to, socklen_t* length) {
    return vmsgr::base::give_name(c->end->peer(), to, length);
}

int vmsgr_channel_stats(const vmsgr_channel* c, vmsgr_channel_counts* counts) {
    if (counts == nullptr || counts->size < sizeof *counts) {
        return result_of(EINVAL);
    }
    const auto &out = c->end->sent(), &in = c->end->received();
    counts->messages_sent = out.messages.load(std::memory_order_relaxed);
    counts->bytes_sent = out.bytes.load(std::memory_order_relaxed);
    counts->send_sleeps = out.sleeps.load(std::memory_order_relaxed);
    counts->messages_received = in.messages.load(std::memory_order_relaxed);
    counts->bytes_received = in.bytes.load(std::memory_order_relaxed);
    counts->recv_sleeps = in.sleeps.load(std::memory_order_relaxed);
    return 0;
}

int vmsgr_channel_why(const vmsgr_channel* c, vmsgr_error* error) {
    const int saved = errno;
    int r = guarded(error, [&] {
        const std::string text = client::how_it_ended(*c->end);
        if (!text.empty()) {
            const bool open = c->end->ended() == client::channel_end::open;
            fail(error, open ? c->end->unsendable() : c->end->errnum(), "%s", text.c_str());
        }
        return text.empty() ? 0 : 1;
    });
    errno = saved;
    return r;
}

void vmsgr_channel_close(vmsgr_channel* c) {
    const int saved = errno;
    delete c;
    errno = saved;
}

}  // extern "C"
