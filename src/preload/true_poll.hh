// poll() and select() where the doorbell alone does not say what TCP says. After urgent data: PRI as long as the urgent
// byte is not read, and no IN for it. And never IN with nothing to read: a token may come after its bytes were read, as
// they are published first; nor with less than SO_RCVLOWAT. (An epoll set shows IN beside PRI.)
#pragma once

#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/select.h>
#include <time.h>

namespace vmsgr::preload {

// Before a wait: is there one among them whose doorbell does not say all, or too much?
bool more_than_doorbells_among(const pollfd* fds, nfds_t n) noexcept;
bool more_than_doorbells_among(int n, const fd_set* in, const fd_set* except) noexcept;
// After one, which has found some of them ready: is there one that shows what is not true?
bool untrue_among_ready(const pollfd* fds, nfds_t n) noexcept;
bool untrue_among_ready(int n, const fd_set* in, const fd_set* except) noexcept;

// The calls themselves; timeout null: for ever, else counted from began_ns (base::now_ns). What is wrong with the
// arguments, the kernel has said before.
int true_poll(pollfd* fds, nfds_t n, const timespec* timeout, int64_t began_ns, const sigset_t* mask);
int true_select(int n, fd_set* const (&of)[3], const timespec* timeout, int64_t began_ns, const sigset_t* mask);

}  // namespace vmsgr::preload
