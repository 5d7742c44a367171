// poll() and select() over connections on which urgent data was ever sent. The doorbell alone cannot say what TCP says:
// PRI as long as the urgent byte is not read, and no IN for it. (An epoll set shows what the doorbell shows, IN beside
// PRI.)
#pragma once

#include <poll.h>
#include <signal.h>
#include <sys/select.h>
#include <time.h>

namespace vmsgr::preload {

// Is there such a connection among them? Before a wait; and after one, which has found some of them ready.
bool urgent_among(const pollfd* fds, nfds_t n) noexcept;
bool urgent_among(int n, const fd_set* in, const fd_set* except) noexcept;
bool urgent_among_ready(const pollfd* fds, nfds_t n) noexcept;
bool urgent_among_ready(int n, const fd_set* in, const fd_set* except) noexcept;

// The calls themselves; timeout null: for ever. What is wrong with the arguments, the kernel has said before.
int poll_urgent(pollfd* fds, nfds_t n, const timespec* timeout, const sigset_t* mask);
int select_urgent(int n, fd_set* const (&of)[3], const timespec* timeout, const sigset_t* mask);

}  // namespace vmsgr::preload
