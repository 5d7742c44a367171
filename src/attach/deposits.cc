#include "attach/deposits.hh"

#include <sys/stat.h>

#include <algorithm>

#include "base/sockets.hh"

namespace vmsgr::attach {

deposits::file_ptr deposits::keep(uint64_t session, base::unique_fd fd) {
    struct stat st;
    if (::fstat(fd.get(), &st) != 0) {
        return nullptr;
    }
    auto& known = _files[session];
    std::erase_if(known, [](auto& f) { return f.expired(); });
    for (auto& weak : known) {
        auto f = weak.lock();
        if (f && f->device == st.st_dev && f->inode == st.st_ino) {
            return f;
        }
    }
    auto place = net::lease::take(_fds);
    if (!place) {
        return nullptr;
    }
    auto f = std::make_shared<kept_file>(kept_file{st.st_dev, st.st_ino, std::move(fd), std::move(*place)});
    known.push_back(f);
    return f;
}

bool deposits::leave(uint64_t session, uid_t uid, int shown, std::span<base::unique_fd> left,
                     std::span<const uint8_t, proto::data_bytes> data) {
    const uint64_t cookie = base::socket_cookie(shown);
    if (cookie == 0) {
        return false;
    }
    deposit d{session, uid, {}, {}};
    std::ranges::copy(data, d.data.begin());
    for (auto& fd : left) {
        auto f = keep(session, std::move(fd));
        if (!f) {
            return false;
        }
        d.files.push_back(std::move(f));
    }
    auto& cookies = _of_session[session];
    if (cookies.size() >= deposits_a_session) {
        _by_cookie.erase(cookies.front());
        cookies.pop_front();
    }
    if (_by_cookie.insert_or_assign(cookie, std::move(d)).second) {
        cookies.push_back(cookie);
    }
    return true;
}

std::optional<deposits::found> deposits::look(uid_t uid, int shown) const {
    auto at = _by_cookie.find(base::socket_cookie(shown));
    if (at == _by_cookie.end() || at->second.uid != uid) {
        return std::nullopt;
    }
    found out;
    out.data = at->second.data;
    for (auto& f : at->second.files) {
        out.fds.push_back(f->fd.get());
    }
    return out;
}

void deposits::forget_session(uint64_t session) {
    if (auto at = _of_session.find(session); at != _of_session.end()) {
        for (uint64_t cookie : at->second) {
            if (auto d = _by_cookie.find(cookie); d != _by_cookie.end() && d->second.session == session) {
                _by_cookie.erase(d);
            }
        }
        _of_session.erase(at);
    }
    _files.erase(session);
}

}  // namespace vmsgr::attach
