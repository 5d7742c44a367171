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
#include "base/unique_fd.hh"
#include "conn/carrier.hh"
#include "proto/control.hh"

namespace vmsgr::attach {

inline constexpr size_t deposits_a_session = 16384;

class deposits {
    // Descriptors of the same file, which a session leaves for many connections, are kept once.
    struct kept_file {
        conn::carrier& closes;
        conn::user_ptr owner;
        base::file_id file;
        base::unique_fd fd;
        conn::lease place;
        ~kept_file() { closes.let_go(fd, *owner); }
    };
    using file_ptr = std::shared_ptr<kept_file>;
    // Another user who has come to hold the same socket leaves something of his own, and takes nothing away.
    struct key {
        uint64_t cookie;  // of the descriptor that was shown
        uid_t uid;
        auto operator<=>(const key&) const = default;
    };
    struct deposit {
        conn::user_ptr owner;
        conn::lease place;
        uint64_t session;
        std::vector<file_ptr> files;
        std::array<uint8_t, proto::data_bytes> data;
        uint64_t listener;  // of which this is a door, by its depositor's word; 0: a connection
    };
    std::map<key, deposit> _kept;
    std::unordered_map<uint64_t, std::deque<key>> _of_session;  // oldest first; some belong to a later session by now
    std::unordered_map<uint64_t, std::vector<std::weak_ptr<kept_file>>> _files;
    conn::budget& _all;
    conn::carrier& _carrier;

public:
    deposits(conn::budget& all, conn::carrier& c) : _all(all), _carrier(c) {}

    // The oldest of the session goes where there are too many. False: nothing is left of the limits to keep it, or it
    // is no socket and no memory. What is not kept stays in `left`.
    bool leave(uint64_t session, const conn::user_ptr& owner, int shown, std::span<base::unique_fd> left,
               std::span<const uint8_t, proto::data_bytes> data, uint64_t listener);
    // Null: nothing was left for it, or by another user.
    struct found {
        std::vector<int> fds;
        std::array<uint8_t, proto::data_bytes> data;
        uint64_t listener;
    };
    std::optional<found> look(uid_t uid, int shown) const;
    bool has_any(uint64_t session) const { return _of_session.contains(session); }
    // The session has ended, and whoever inherited from it has asked.
    void forget_session(uint64_t session) noexcept;
    void clear();

private:
    void forget(uint64_t session, const key& k);
    file_ptr keep(uint64_t session, const conn::user_ptr& owner, base::unique_fd& fd);
};

}  // namespace vmsgr::attach
