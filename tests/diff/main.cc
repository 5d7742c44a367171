// sockdiff: one role of the differential socket test. See README.md.
//   sockdiff --list
//   sockdiff --role server|client --ctl FD,... --sync FD,...   one pair of descriptors a lane
//   sockdiff --run GLOB [--family 4|6]                         both roles here, for a look by hand
// A lane is a worker process that forks a child for each scenario the driver names on the ctl
// descriptor: "R <run> <family> <name>" -> "L <run> <observation>"..., "E <run> <how it ended>"
#include "sockdiff.hh"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>

using namespace sockdiff;

namespace {

table build() {
    table t;
    add_connect(t);
    add_connect_states(t);
    add_shutdown(t);
    add_reset(t);
    add_data(t);
    add_messages(t);
    add_urgent(t);
    add_timing(t);
    add_poll(t);
    add_epoll(t);
    add_epoll_edges(t);
    add_descriptors(t);
    add_processes(t);
    add_exec(t);
    add_accept(t);
    add_at_once(t);
    add_queue(t);
    add_acceptors(t);
    add_reuseport(t);
    add_bind(t);
    add_options(t);
    add_bulk(t);
    add_loops(t);
    add_threads(t);
    add_files(t);
    add_others(t);
    return t;
}

long raw_poll(pollfd* p, int ms) {
    timespec ts{ms / 1000, ms % 1000 * 1000000L};
    return syscall(SYS_ppoll, p, 1, &ts, nullptr, 8);
}

pid_t start(const scenario& s, bool server, int family, int ctl, int sync, unsigned run) {
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(4);
    role r(server, family, ctl, sync, run);
    (server ? s.server : s.client)(r);
    exit(0);
}

std::string finish(pid_t pid, int timeout_ms) {
    int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
    pollfd p{pidfd, POLLIN, 0};
    bool hung = true;
    for (double end = now_s() + timeout_ms / 1000.0; hung && now_s() < end;) {
        int left = static_cast<int>((end - now_s()) * 1000);
        if (raw_poll(&p, std::max(left, 1)) > 0)
            hung = false;
    }
    if (hung)
        kill(pid, SIGKILL);
    int st = 0;
    while (waitpid(pid, &st, 0) < 0 && errno == EINTR) {
    }
    kill(-pid, SIGKILL);  // what the scenario left behind
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    syscall(SYS_close, pidfd);
    if (hung)
        return "HANG";
    if (WIFSIGNALED(st))
        return std::format("signal {}", WTERMSIG(st));
    return std::format("exit {}", WEXITSTATUS(st));
}

void raw_write(int fd, const std::string& m) {
    while (syscall(SYS_write, fd, m.data(), m.size()) < 0 && errno == EINTR) {
    }
}

void lane(const table& t, bool server, int ctl, int sync) {
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    for (;;) {
        char buf[1024], name[512];
        long n = syscall(SYS_read, ctl, buf, sizeof buf - 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            _exit(0);
        buf[n] = 0;
        unsigned run;
        int family;
        if (sscanf(buf, "R %u %d %511s", &run, &family, name) != 3)
            _exit(0);
        std::string how = "NO SUCH SCENARIO";
        for (auto& s : t.all) {
            if (s.name != name)
                continue;
            pid_t pid = start(s, server, family == 4 ? AF_INET : AF_INET6, ctl, sync, run);
            how = finish(pid, s.timeout_ms);
            break;
        }
        raw_write(sync, std::format("{} X", run));
        raw_write(ctl, std::format("E {} {}", run, how));
    }
}

std::vector<int> numbers(const char* s) {
    std::vector<int> v;
    for (char* end; *s; s = *end ? end + 1 : end)
        v.push_back(static_cast<int>(strtol(s, &end, 10)));
    return v;
}

int run_role(const table& t, bool server, const std::vector<int>& ctl, const std::vector<int>& sync) {
    for (int fd = 0; fd < 2; fd++) {
        if (fcntl(fd, F_GETFD) < 0)
            open("/dev/null", O_RDWR);
    }
    std::vector<pid_t> pids;
    for (size_t i = 0; i < ctl.size(); i++) {
        pid_t pid = fork();
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (size_t k = 0; k < ctl.size(); k++) {
                if (k == i)
                    continue;
                close(ctl[k]);
                close(sync[k]);
            }
            // The same low numbers in each lane, so that what is free does not depend on the lane.
            int moved[] = {fcntl(ctl[i], F_DUPFD, 200), fcntl(sync[i], F_DUPFD, 200)};
            close(ctl[i]);
            close(sync[i]);
            int ctl_fd = fcntl(moved[0], F_DUPFD, 3), sync_fd = fcntl(moved[1], F_DUPFD, 3);
            for (int fd : moved)
                close(fd);
            lane(t, server, ctl_fd, sync_fd);
        }
        pids.push_back(pid);
    }
    for (size_t i = 0; i < ctl.size(); i++) {
        close(ctl[i]);
        close(sync[i]);
    }
    int bad = 0;
    for (pid_t pid : pids) {
        int st = 0;
        waitpid(pid, &st, 0);
        bad |= st;
    }
    return bad ? 1 : 0;
}

void print_lines(const char* who, int fd) {
    char buf[8192];
    for (long n; (n = recv(fd, buf, sizeof buf - 1, MSG_DONTWAIT)) > 0;) {
        buf[n] = 0;
        const char* text = strchr(buf + 2, ' ');
        printf("  %s %s\n", who, text ? text + 1 : buf);
    }
}

int run_here(const table& t, const char* glob, int family) {
    unsigned run = 0;
    for (auto& s : t.all) {
        if (fnmatch(glob, s.name.c_str(), 0) != 0 || (s.family && s.family != family))
            continue;
        printf("%s\n", s.name.c_str());
        fflush(stdout);
        int sync[2], out[2][2];
        socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sync);
        for (auto& o : out)
            socketpair(AF_UNIX, SOCK_SEQPACKET, 0, o);
        pid_t pid[2];
        for (int i = 0; i < 2; i++) {
            pid[i] = fork();
            if (pid[i] != 0)
                continue;
            prctl(PR_SET_CHILD_SUBREAPER, 1);
            std::string how = finish(start(s, i == 0, family, out[i][1], sync[i], run), s.timeout_ms);
            raw_write(sync[i], std::format("{} X", run));
            raw_write(out[i][1], std::format("E {} {}", run, how));
            _exit(0);
        }
        for (pid_t p : pid)
            waitpid(p, nullptr, 0);
        print_lines("server", out[0][0]);
        print_lines("client", out[1][0]);
        for (int fd : {sync[0], sync[1], out[0][0], out[0][1], out[1][0], out[1][1]})
            close(fd);
        run++;
    }
    return run ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc > 2 && !strcmp(argv[1], "--helper"))
        return helper_main(argc - 2, argv + 2);
    table t = build();
    std::string mode, what;
    std::vector<int> ctl, sync;
    int family = AF_INET;
    for (int i = 1; i < argc; i++) {
        std::string a = argv[i];
        if (a == "--list")
            mode = a;
        else if (i + 1 < argc && (a == "--role" || a == "--run" || a == "--only"))
            mode = a, what = argv[++i];
        else if (i + 1 < argc && a == "--ctl")
            ctl = numbers(argv[++i]);
        else if (i + 1 < argc && a == "--sync")
            sync = numbers(argv[++i]);
        else if (i + 1 < argc && a == "--family")
            family = argv[++i][0] == '6' ? AF_INET6 : AF_INET;
        else
            mode = "?";
    }
    if (mode == "--list") {
        for (auto& s : t.all)
            printf("%s %s\n", s.name.c_str(), !s.family ? "46" : s.family == AF_INET ? "4" : "6");
        return 0;
    }
    if (mode == "--run" || mode == "--only")
        return run_here(t, what.c_str(), family);
    if (mode == "--role" && !ctl.empty() && ctl.size() == sync.size())
        return run_role(t, what == "server", ctl, sync);
    fprintf(stderr, "usage: sockdiff --list | --run GLOB [--family 4|6] | --role server|client --ctl FDS "
                    "--sync FDS\n");
    return 2;
}
