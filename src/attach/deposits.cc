#include "attach/deposits.hh"

#include <algorithm>

#include "base/sockets.hh"
#include "ssx/closer.hh"

namespace vmsgr::attach {

deposits::file_ptr deposits::keep(uint64_t session, const conn::user_ptr& owner, base::unique_fd& fd) {
    // Another file may keep us waiting for its name alone.
    const auto file = ssx::closer::ends_soon(fd.get()) ? base::file_id_of(fd.get()) : std::nullopt;
    if (!file) {
        return nullptr;
    }
    auto& known = _files[session];
    std::erase_if(known, [](auto& f) { return f.expired(); });
    for (auto& weak : known) {
        auto f = weak.lock();
        if (f && f->file == *file) {
            return f;
        }
    }
    auto place = conn::lease::take(_all.fds, owner->of.fds);
    if (!place) {
        return nullptr;
    }
    auto f = std::make_shared<kept_file>(_carrier, owner, *file, base::unique_fd(), std::move(*place));
    known.push_back(f);
    f->fd = std::move(fd);
    return f;
}

bool deposits::leave(uint64_t session, const conn::user_ptr& owner, int shown, std::span<base::unique_fd> left,
                     std::span<const uint8_t, proto::data_bytes> data, uint64_t listener) {
    const uint64_t cookie = base::socket_cookie(shown);
    if (cookie == 0) {
        return false;
    }
    auto place = conn::lease::take(_all.deposits, owner->of.deposits);
    if (!place) {
        return false;
    }
    deposit d{owner, std::move(*place), session, {}, {}, listener};
    std::ranges::copy(data, d.data.begin());
    for (auto& fd : left) {
        auto f = keep(session, owner, fd);
        if (!f) {
            return false;
        }
        d.files.push_back(std::move(f));
    }
    const key k{cookie, owner->uid};
    auto& keys = _of_session[session];
    const auto at = _kept.find(k);
    if (at == _kept.end() || at->second.session != session) {
        keys.push_back(k);  // first: a key too many harms nobody
    }
    if (at == _kept.end()) {
        _kept.emplace(k, std::move(d));
    } else {
        at->second = std::move(d);
    }
    if (keys.size() > deposits_a_session) {
        forget(session, keys.front());
        keys.pop_front();
    }
    return true;
}

void deposits::forget(uint64_t session, const key& k) {
    if (auto at = _kept.find(k); at != _kept.end() && at->second.session == session) {
        _kept.erase(at);
    }
}

std::optional<deposits::found> deposits::look(uid_t uid, int shown) const {
    auto at = _kept.find({base::socket_cookie(shown), uid});
    if (at == _kept.end()) {
        return std::nullopt;
    }
    found out;
    out.data = at->second.data;
    out.listener = at->second.listener;
    for (auto& f : at->second.files) {
        out.fds.push_back(f->fd.get());
    }
    return out;
}

void deposits::clear() {
    _kept.clear();
    _of_session.clear();
    _files.clear();
}

void deposits::forget_session(uint64_t session) noexcept {
    if (auto at = _of_session.find(session); at != _of_session.end()) {
        for (const auto& k : at->second) {
            forget(session, k);
        }
        _of_session.erase(at);
    }
    _files.erase(session);
}

}  // namespace vmsgr::attach
