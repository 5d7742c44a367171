// A channel as the C API has it: the channel, and the requests that wait on each of its sides. Internal; threads as
// vmsgr.h says.
#pragma once

#include <memory>

#include "client/channels/channel.hh"
#include "client/channels/channel_listener.hh"
#include "vmsgr/vmsgr.h"

namespace vmsgr::client::api {

// The caller's structs, in a list.
struct request_queue {
    vmsgr_request* first = nullptr;
    vmsgr_request* last = nullptr;

    void push(vmsgr_request* r) noexcept {
        (last != nullptr ? last->next : first) = r;
        last = r;
    }
    void pop() noexcept {
        first = first->next;
        if (first == nullptr) {
            last = nullptr;
        }
    }
    bool remove(const vmsgr_request* r) noexcept;
};

}  // namespace vmsgr::client::api

struct vmsgr_channel {
    std::unique_ptr<vmsgr::client::channel> end;
    vmsgr::client::api::request_queue sends, receives;
};

struct vmsgr_listener {
    vmsgr::client::channel_listener listener;
};
