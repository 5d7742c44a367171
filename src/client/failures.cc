#include "client/failures.hh"

#include <errno.h>
#include <string.h>

#include "base/clock.hh"
#include "base/sys.hh"
#include "proto/control.hh"

namespace vmsgr::client {

base::error unattached(const char* path, const proto::attach_failure& f) {
    using step = proto::attach_failure::step;
    const int e = f.errnum;
    const std::string at = path;
    switch (f.at) {
    case step::reach:
        switch (e) {
        case ENOENT:
        case ENOTDIR:
        case ECONNREFUSED: return {e, "no vmsgrd at " + at + ": start it with vmsgrd --config FILE"};
        case EACCES:
        case EPERM: return {e, "no permission for " + at + ": join its group, see access in vmsgrd's configuration"};
        case EAGAIN: return {e, "vmsgrd at " + at + " is too busy to answer: try again"};
        default: return {e, at + ": " + strerror(e) + "; name vmsgrd's control socket"};
        }
    case step::answer:
        return e == ETIMEDOUT ? base::error{e, "vmsgrd at " + at + " does not answer: is it stopped? look at its log"}
                              : base::error{e, "vmsgrd at " + at + " hung up (" + strerror(e) + "): look at its log"};
    case step::refused: return {e, std::string("vmsgrd refused: ") + (f.text[0] != 0 ? f.text : strerror(e))};
    case step::nonsense:
    case step::version:
        return {e, at + " is another version's than libvmsgr " + proto::version_text + ": install one release"};
    case step::local: break;
    }
    // 0: the last look failed, and the next one is not due yet.
    const int why = e != 0 ? e : EAGAIN;
    return {why, std::string("cannot attach to vmsgrd: ") + strerror(why)};
}

int await_verdict(stream& s, int bell, int timeout_ms) noexcept {
    const base::deadline limit(timeout_ms);
    for (;;) {
        const int left = limit.left_ms();
        pollfd p{bell, POLLOUT, 0};
        int ready = sys::poll(&p, 1, left);
        switch (s.current(bell)) {
        case phase::up:
        case phase::up_untold: return 0;
        case phase::failed:
        case phase::undone:
        case phase::failed_untold: {
            int err = s.take_error(bell);
            return err != 0 ? err : ECONNABORTED;
        }
        case phase::connecting: break;
        }
        if (ready > 0) {
            return (p.revents & (POLLHUP | POLLERR)) != 0 ? ECONNRESET : EPROTO;
        }
        if (left == 0) {
            return ETIMEDOUT;
        }
    }
}

base::error untaken(int e, const base::address& peer) {
    const std::string to = base::to_string(peer);
    switch (e) {
    case EACCES: return {e, "a route of vmsgrd denies " + to + ": see vmsgr routes test " + to};
    case EAGAIN:
    case ENOBUFS:
        return {e,
                std::string("vmsgrd takes no more connections (") + strerror(e) + "): see limits in its configuration"};
    case ECONNRESET: return {e, "vmsgrd ended meanwhile: connect to " + to + " anew when it is back"};
    case ETIMEDOUT:
        return {e, "vmsgrd did not take the connection to " + to + " in time: is it stopped? look at its log"};
    default: return {e, "the connection to " + to + " has ended: " + strerror(e)};
    }
}

namespace {

std::string refused_frame(const channel& c) {
    switch (c.fault()) {
    case frame_fault::not_a_channel:
        return "is no message channel: it speaks something else; name a channel's listener";
    case frame_fault::other_version:
        return "speaks version " + std::to_string(c.other_version()) + " of message channels, this library version " +
               std::to_string(channel_version) + ": install one release on both sides";
    case frame_fault::too_long:
        return "sent a message of more than the " + std::to_string(c.largest_in()) +
               " bytes that this end takes: one side breaks the protocol";
    case frame_fault::none:
    case frame_fault::no_frame:
    case frame_fault::out_of_place: break;
    }
    return "sent what is no frame of a message channel: one side breaks the protocol, or wrote past the library";
}

}  // namespace

std::string how_it_ended(const channel& c) {
    const std::string who = "the other end (" + base::to_string(c.peer()) + ") ";
    switch (c.ended()) {
    case channel_end::open:
        return c.unsendable() == 0 ? "" : who + "is gone: nothing can be sent any more; receive what is left of it";
    case channel_end::finished: return who + "has finished: all its messages were received";
    case channel_end::cut:
        return who + (c.is_local() ? "ended without closing the channel (killed?): connect anew when it is back"
                                   : "or vmsgrd ended without closing the channel: connect anew");
    case channel_end::reset: return who + "broke off: " + strerror(c.errnum()) + "; connect anew";
    case channel_end::bad_frame: return who + refused_frame(c);
    case channel_end::bad_index: return who + "published an impossible index: a fault, or malice";
    case channel_end::bad_bell: return who + "wrote to the doorbell past the library (a raw write?)";
    case channel_end::no_memory: return "no memory for a message that came in pieces";
    }
    return "";
}

}  // namespace vmsgr::client
