// Requests of the C API: sends and receives that are made now and done later, in the style of MPI. A queue a side; only
// its first request can move, so order is kept.
#include <errno.h>
#include <string.h>

#include <initializer_list>

#include "base/clock.hh"
#include "client/channels/api_channel.hh"

using namespace vmsgr::client::api;
namespace client = vmsgr::client;

namespace {

enum request_state : int { pending_send = 1, pending_receive = 2, done = 3 };

bool is_pending(const vmsgr_request& r) noexcept { return r.state == pending_send || r.state == pending_receive; }

request_queue& queue_of(vmsgr_request& r) noexcept {
    return r.state == pending_send ? r.channel->sends : r.channel->receives;
}

void finish(request_queue& q, int e, size_t bytes) noexcept {
    vmsgr_request* r = q.first;
    q.pop();
    r->next = nullptr;
    r->errnum = e;
    r->result = e == 0 ? ssize_t(bytes) : -1;
    r->state = done;
}

// What can be sent now. Held back while more is in the queue.
void move_sends(vmsgr_channel& c) noexcept {
    auto& q = c.sends;
    while (q.first != nullptr) {
        vmsgr_request* r = q.first;
        int e = c.end->send(r->data, r->bytes, r->next != nullptr, 0);
        if (e == EAGAIN) {
            c.end->flush();
            return;
        }
        finish(q, e, r->bytes);
    }
}

void move_receives(vmsgr_channel& c) noexcept {
    auto& q = c.receives;
    while (q.first != nullptr) {
        vmsgr_request* r = q.first;
        const std::byte* at = nullptr;
        size_t n = 0;
        int e = c.end->look(at, n);
        if (e == EAGAIN) {
            return;
        }
        if (e == 0 && n > r->bytes) {
            e = EMSGSIZE;  // the message stays, for a request with more room
        }
        if (e == 0) {
            if (n != 0) {
                memcpy(r->data, at, n);
            }
            c.end->release();
        }
        finish(q, e, n);
    }
}

void move(vmsgr_channel& c, int state) noexcept { state == pending_send ? move_sends(c) : move_receives(c); }

int add(vmsgr_channel* c, void* data, size_t bytes, vmsgr_request* r, request_state state) noexcept {
    if (r == nullptr || c == nullptr) {
        errno = EINVAL;
        return -1;
    }
    *r = {nullptr, c, data, bytes, 0, state, 0};
    queue_of(*r).push(r);
    move(*c, state);
    return 0;
}

int tell(const vmsgr_request& r, size_t* bytes) noexcept {
    if (r.state != done || r.errnum != 0) {
        errno = r.state != done ? EINVAL : r.errnum;
        return -1;
    }
    if (bytes != nullptr) {
        *bytes = size_t(r.result);
    }
    return 1;
}

}  // namespace

bool request_queue::remove(const vmsgr_request* r) noexcept {
    vmsgr_request* before = nullptr;
    for (vmsgr_request* at = first; at != nullptr; before = at, at = at->next) {
        if (at == r) {
            (before != nullptr ? before->next : first) = at->next;
            if (last == at) {
                last = before;
            }
            return true;
        }
    }
    return false;
}

extern "C" {

int vmsgr_channel_isend(vmsgr_channel* c, const void* data, size_t bytes, vmsgr_request* r) {
    return add(c, const_cast<void*>(data), bytes, r, pending_send);
}

int vmsgr_channel_irecv(vmsgr_channel* c, void* buffer, size_t bytes, vmsgr_request* r) {
    return add(c, buffer, bytes, r, pending_receive);
}

int vmsgr_request_test(vmsgr_request* r, size_t* bytes) {
    if (is_pending(*r)) {
        move(*r->channel, r->state);
        if (is_pending(*r)) {
            return 0;
        }
    }
    return tell(*r, bytes);
}

int vmsgr_request_wait(vmsgr_request* r, size_t* bytes, int timeout_ms) {
    const vmsgr::base::deadline limit(timeout_ms);
    while (is_pending(*r)) {
        const int state = r->state;
        move(*r->channel, state);
        if (!is_pending(*r)) {
            break;
        }
        // Waits for what the first request of the side needs; it need not be this one.
        auto& end = *r->channel->end;
        const std::byte* message = nullptr;
        std::byte* place = nullptr;
        size_t n = 0;
        const int left = limit.left_ms();
        int e = state == pending_send ? end.reserve(r->channel->sends.first->bytes, left, place)
                                      : end.peek(left, message, n);
        if (e == EINTR || e == ETIMEDOUT || e == EAGAIN) {
            errno = timeout_ms == 0 ? EAGAIN : e == EAGAIN ? ETIMEDOUT : e;
            return -1;
        }
    }
    return tell(*r, bytes);
}

int vmsgr_request_cancel(vmsgr_request* r) {
    if (!is_pending(*r) || !queue_of(*r).remove(r)) {
        return 0;
    }
    r->state = done;
    r->errnum = ECANCELED;
    r->result = -1;
    return 1;
}

int vmsgr_channel_progress(vmsgr_channel* c) {
    move_sends(*c);
    move_receives(*c);
    int n = 0;
    for (const auto* q : {&c->sends, &c->receives}) {
        for (const vmsgr_request* r = q->first; r != nullptr; r = r->next) {
            ++n;
        }
    }
    return n;
}

}  // extern "C"
