// What processes leave for those that inherit a descriptor of theirs, by exec or by a message: descriptors and a few
// bytes, found again by showing that descriptor. The daemon does not look at them. Who shows it must be of the same
// user: what lies in an end page is believed by its heirs.
//
// Owner: the control_server, on its shard.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <array>
#include <deque>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/file_id.hh"
#include "base/sockets.hh"
#include "base/unique_fd.hh"
#include "conn/budget.hh"
#include "proto/control.hh"

namespace vmsgr::attach {

inline constexpr size_t deposits_a_session = 16384;

class deposits {
    // Descriptors of the same file, which a session leaves for many connections, are kept once.
    struct kept_file {
        base::file_id file;
        base::unique_fd fd;
        net::lease place;
        kept_file(base::file_id id, base::unique_fd f, net::lease p) noexcept
            : file(id), fd(std::move(f)), place(std::move(p)) {}
        // Nobody is to wait for what its sender may have made linger. A listening socket is a program's own, and keeps
        // its options.
        ~kept_file() {
            if (base::socket_option(fd.get(), SO_ACCEPTCONN) != 1) {
                base::stop_lingering(fd.get());
            }
        }
    };
    using file_ptr = std::shared_ptr<kept_file>;
    // Another user who has come to hold the same socket leaves something of his own, and takes nothing away.
    struct key {
        uint64_t cookie;  // of the descriptor that was shown
        uid_t uid;
        auto operator<=>(const key&) const = default;
    };
    struct deposit {
        uint64_t session;
        std::vector<file_ptr> files;
        std::array<uint8_t, proto::data_bytes> data;
        uint64_t listener;  // of which this is a door, by its depositor's word; 0: a connection
    };
    std::map<key, deposit> _kept;
    std::unordered_map<uint64_t, std::deque<key>> _of_session;  // oldest first; some belong to a later session by now
    std::unordered_map<uint64_t, std::vector<std::weak_ptr<kept_file>>> _files;
    net::usage& _fds;

public:
    explicit deposits(net::usage& fds) : _fds(fds) {}

    // The oldest of the session goes where there are too many. False: no descriptor is left to keep it.
    bool leave(uint64_t session, uid_t uid, int shown, std::span<base::unique_fd> left,
               std::span<const uint8_t, proto::data_bytes> data, uint64_t listener);
    // Null: nothing was left for it, or by another user.
    struct found {
        std::vector<int> fds;
        std::array<uint8_t, proto::data_bytes> data;
        uint64_t listener;
    };
    std::optional<found> look(uid_t uid, int shown) const;
    // The session has ended, and whoever inherited from it has asked.
    void forget_session(uint64_t session);

private:
    void forget(uint64_t session, const key& k);
    file_ptr keep(uint64_t session, base::unique_fd fd);
};

}  // namespace vmsgr::attach
