// Takes connections of peers: shard 0 listens, admits and reads which lane a connection is; the lane's shard shakes
// hands and runs the session over it. A stranger holds a place among those that are admitted until the handshake is
// over, TLS and hello included, and has one time limit for all of it. Where places are short the oldest of them goes.
//
// Owner: the shard's service.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <vector>

#include <seastar/core/internal/pollable_fd.hh>
#include <seastar/core/lowres_clock.hh>

#include "trunk/admission.hh"
#include "trunks/directory.hh"

namespace vmsgr::trunks {

class acceptor {
public:
    // A connection that has said its lane.
    struct greeted {
        base::unique_fd fd;
        conn::lease fds;
        uint16_t lane = 0;
        seastar::lowres_clock::time_point deadline;  // of its handshake
    };
    // Gives it to the acceptor of another shard; done when serve() there is.
    using hand_over = std::function<seastar::future<>(unsigned shard, greeted)>;

private:
    environment& _env;
    directory& _directory;
    hand_over _hand_over;
    trunk::admission _admission;
    struct stranger {
        base::unique_fd handle;  // to turn it away, on whatever shard it is
        conn::lease fds;
    };
    std::map<uint64_t, stranger> _strangers;  // by admission's id
    std::optional<seastar::pollable_fd> _listening;
    base::unique_fd _listen_handle;
    std::vector<link*> _links;  // in their handshake, or running a session
    bool _stopping = false;

public:
    acceptor(environment& env, directory& d, hand_over to_shard);
    // On shard 0. Throws when the address is in use.
    void listen();
    // Newcomers hear that this daemon stops.
    void stop_listening() noexcept;
    // Ends the connections that are left.
    void shut() noexcept;

    // On the lane's shard. Done when the handshake is over; what follows runs among the room's fibers.
    seastar::future<> serve(greeted g);

private:
    seastar::future<> accept_loop();
    bool may_connect(const base::address& from) const noexcept;
    void admit(base::unique_fd fd);
    void turn_away(uint64_t id) noexcept;
    void refuse(trunk::refusal why, const base::address& from) noexcept;
    seastar::future<> try_to_greet(base::unique_fd fd, conn::lease fds);
    seastar::future<> greet(base::unique_fd fd, conn::lease fds);
    seastar::future<> run(greeted g, seastar::promise<> handshake_over);
    struct agreed {
        session_ptr session;
        trunk_session::turn turn;
        uint64_t peer_ack;
        trunk::crc_cover cover;
    };
    // Nothing: refused.
    seastar::future<std::optional<agreed>> shake_hands(link& l, greeted& g);
    seastar::future<std::optional<agreed>> answer(link& l, uint16_t lane);
};

}  // namespace vmsgr::trunks
