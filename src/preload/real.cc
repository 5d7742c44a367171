#include "preload/real.hh"

#include <dlfcn.h>

namespace vmsgr::preload {

constinit real_calls real;

namespace {

template <typename F>
void find(F*& f, const char* name) noexcept {
    if (void* p = ::dlsym(RTLD_NEXT, name)) {
        f = reinterpret_cast<F*>(p);
    }
}

}  // namespace

void find_real_calls() noexcept {
#define VMSGR_FIND(name) find(real.name, #name)
    VMSGR_FIND(read);
    VMSGR_FIND(write);
    VMSGR_FIND(readv);
    VMSGR_FIND(writev);
    VMSGR_FIND(send);
    VMSGR_FIND(recv);
    VMSGR_FIND(sendto);
    VMSGR_FIND(recvfrom);
    VMSGR_FIND(sendmsg);
    VMSGR_FIND(recvmsg);
    VMSGR_FIND(sendmmsg);
    VMSGR_FIND(recvmmsg);
    VMSGR_FIND(sendfile);
    VMSGR_FIND(splice);
    VMSGR_FIND(socket);
    VMSGR_FIND(connect);
    VMSGR_FIND(listen);
    VMSGR_FIND(accept);
    VMSGR_FIND(accept4);
    VMSGR_FIND(shutdown);
    VMSGR_FIND(getsockopt);
    VMSGR_FIND(setsockopt);
    VMSGR_FIND(getsockname);
    VMSGR_FIND(getpeername);
    VMSGR_FIND(close);
    VMSGR_FIND(close_range);
    VMSGR_FIND(closefrom);
    VMSGR_FIND(dup);
    VMSGR_FIND(dup2);
    VMSGR_FIND(dup3);
    VMSGR_FIND(fcntl);
    VMSGR_FIND(fcntl64);
    VMSGR_FIND(ioctl);
    VMSGR_FIND(epoll_ctl);
    VMSGR_FIND(epoll_wait);
    VMSGR_FIND(epoll_pwait);
    VMSGR_FIND(epoll_pwait2);
    VMSGR_FIND(poll);
    VMSGR_FIND(ppoll);
    VMSGR_FIND(select);
    VMSGR_FIND(pselect);
    VMSGR_FIND(vfork);
    VMSGR_FIND(execve);
    VMSGR_FIND(execvpe);
    VMSGR_FIND(fexecve);
    VMSGR_FIND(posix_spawn);
    VMSGR_FIND(posix_spawnp);
    VMSGR_FIND(vdprintf);
    VMSGR_FIND(fdopen);
    VMSGR_FIND(fileno);
#undef VMSGR_FIND
}

}  // namespace vmsgr::preload
