#include "attach/deposits.hh"

#include <algorithm>

#include "base/sockets.hh"

namespace vmsgr::attach {

deposits::file_ptr deposits::keep(uint64_t session, base::unique_fd fd) {
    const auto file = base::file_id_of(fd.get());
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
    auto place = net::lease::take(_fds);
    if (!place) {
        return nullptr;
    }
    auto f = std::make_shared<kept_file>(*file, std::move(fd), std::move(*place));
    known.push_back(f);
    return f;
}

bool deposits::leave(uint64_t session, uid_t uid, int shown, std::span<base::unique_fd> left,
                     std::span<const uint8_t, proto::data_bytes> data, uint64_t listener) {
    const uint64_t cookie = base::socket_cookie(shown);
    if (cookie == 0) {
        return false;
    }
    deposit d{session, {}, {}, listener};
    std::ranges::copy(data, d.data.begin());
    for (auto& fd : left) {
        auto f = keep(session, std::move(fd));
        if (!f) {
            return false;
        }
        d.files.push_back(std::move(f));
    }
    const key k{cookie, uid};
    auto& keys = _of_session[session];
    auto [at, is_new] = _kept.try_emplace(k);
    if (is_new || at->second.session != session) {
        keys.push_back(k);
    }
    at->second = std::move(d);
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

void deposits::forget_session(uint64_t session) {
    if (auto at = _of_session.find(session); at != _of_session.end()) {
        for (const auto& k : at->second) {
            forget(session, k);
        }
        _of_session.erase(at);
    }
    _files.erase(session);
}

}  // namespace vmsgr::attach
