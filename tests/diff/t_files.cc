// sendfile, splice, stdio, fortified calls.
#include "sockdiff.hh"

#include <stdio.h>
#include <sys/sendfile.h>

namespace sockdiff {
namespace {

int file_with(const std::string& s) {
    int fd = static_cast<int>(syscall(SYS_memfd_create, "sockdiff", 0));
    for (size_t at = 0; at < s.size();)
        at += pwrite(fd, s.data() + at, s.size() - at, at);
    return fd;
}

void sendfiles(table& t) {
    t.pair("file/sendfile", [](role& r, int fd) {
        int f = file_with("0123456789");
        r.ret("sendfile", sendfile(fd, f, nullptr, 4));
        r.say("file offset {}", lseek(f, 0, SEEK_CUR));
        off_t at = 7;
        r.ret("with offset", sendfile(fd, f, &at, 100));
        r.say("offset {} file offset {}", at, lseek(f, 0, SEEK_CUR));
        r.ret("at the end", sendfile(fd, f, &at, 100));
        r.ret("the rest", sendfile(fd, f, nullptr, 100));
        r.ret("nothing", sendfile(fd, f, nullptr, 0));
        at = -1;
        r.ret("bad offset", sendfile(fd, f, &at, 1));
        r.ret("from the socket", sendfile(f, fd, nullptr, 1));
        r.ret("bad file", sendfile(fd, 777, nullptr, 1));
        shutdown(fd, SHUT_WR);
        at = 0;
        r.ret("after shutdown", [&] {
            catch_signal(SIGPIPE);
            return sendfile(fd, f, &at, 4);
        }());
        r.say("SIGPIPE {} offset {}", signals_seen(SIGPIPE), at);
    }, [](role& r, int fd) { r.get("get", fd, 64); });
    t.pair("file/sendfile-big", [](role& r, int fd) {
        std::string s = pattern(3 << 20);
        int f = file_with(s);
        off_t at = 0;
        while (at < static_cast<off_t>(s.size())) {
            if (sendfile(fd, f, &at, s.size() - at) <= 0)
                break;
        }
        r.yes("all sent", at == static_cast<off_t>(s.size()));
    }, [](role& r, int fd) {
        nap(settle_ms);
        r.get("get", fd, 3 << 20);
    }, 10000);
    t.pair("file/sendfile-nonblocking-full", [](role& r, int fd) {
        int f = file_with(pattern(1 << 20));
        fcntl(fd, F_SETFL, O_NONBLOCK);
        fill_up(fd);
        long n = 0;
        off_t at = 0;
        for (int tries = 0; tries < 20 && n >= 0; tries++) {
            at = 0;
            n = sendfile(fd, f, &at, 1 << 20);
        }
        r.ret("sendfile", n);
        r.say("offset {}", at);
    }, [](role&, int) {});
    t.pair("file/splice-out", [](role& r, int fd) {
        int p[2];
        if (pipe(p) < 0)
            return;
        r.ret("write", write(p[1], "through a pipe", 14));
        r.ret("splice", splice(p[0], nullptr, fd, nullptr, 8, 0));
        r.ret("splice more", splice(p[0], nullptr, fd, nullptr, 100, SPLICE_F_MOVE | SPLICE_F_MORE));
        r.ret("splice empty", splice(p[0], nullptr, fd, nullptr, 100, SPLICE_F_NONBLOCK));
        close(p[1]);
        r.ret("splice at end", splice(p[0], nullptr, fd, nullptr, 100, 0));
        loff_t at = 0;
        r.ret("offset on a socket", splice(p[0], nullptr, fd, &at, 1, 0));
        shutdown(fd, SHUT_WR);
    }, [](role& r, int fd) { r.get("get", fd, 64); });
    t.pair("file/splice-in", [](role& r, int fd) {
        int p[2];
        if (pipe(p) < 0)
            return;
        fcntl(fd, F_SETFL,
              O_NONBLOCK);  // the flag of the socket counts: SPLICE_F_NONBLOCK is for the pipe
        r.ret("nothing there", splice(fd, nullptr, p[1], nullptr, 100, 0));
        fcntl(fd, F_SETFL, 0);
        r.meet();
        r.bytes(fd, 10);
        char b[32];
        r.ret("splice", splice(fd, nullptr, p[1], nullptr, 4, 0));
        r.got("read", read(p[0], b, 32), b);
        r.ret("splice the rest", splice(fd, nullptr, p[1], nullptr, 100, 0));
        r.got("read", read(p[0], b, 32), b);
        r.meet();
        r.ret("splice blocks until data", splice(fd, nullptr, p[1], nullptr, 100, 0));
        r.meet();
        r.until(fd, POLLRDHUP);
        r.ret("splice at end", splice(fd, nullptr, p[1], nullptr, 100, 0));
    }, [](role& r, int fd) {
        r.meet();
        r.put(fd, "0123456789");
        r.meet();
        nap(40);
        r.put(fd, "late");
        r.meet();
        shutdown(fd, SHUT_WR);
    });
    t.pair("file/splice-relay", [](role& r, int fd) {
        int p[2];
        if (pipe(p) < 0)
            return;
        size_t total = 0;
        while (total < 1 << 20) {
            long n = splice(fd, nullptr, p[1], nullptr, 1 << 16, 0);
            if (n <= 0)
                break;
            for (long k; n > 0; n -= k, total += k) {
                k = splice(p[0], nullptr, fd, nullptr, n, 0);
                if (k <= 0)
                    return;
            }
        }
        r.say("relayed {}", total);
    }, [](role& r, int fd) {
        std::thread w([&] { r.put(fd, pattern(1 << 20)); });
        r.get("get", fd, 1 << 20);
        w.join();
    });
    t.pair("file/other-calls-on-a-socket", [](role& r, int fd) {
        int f = file_with("abc");
        r.ret("copy_file_range", copy_file_range(f, nullptr, fd, nullptr, 3, 0));
        int p[2];
        if (pipe(p) < 0)
            return;
        static char text[] = "spliced";  // the pipe refers to the memory itself
        iovec v{text, 7};
        r.ret("vmsplice", vmsplice(p[1], &v, 1, 0));
        r.ret("tee", tee(p[0], fd, 7, 0));
        r.ret("splice", splice(p[0], nullptr, fd, nullptr, 7, 0));
    }, [](role& r, int fd) { r.get("get", fd, 7); });
}

void stdio(table& t) {
    t.pair("file/stdio", [](role& r, int fd) {
        FILE* f = fdopen(fd, "r+");
        fprintf(f, "hello %d\n", 42);
        fputs("second line\n", f);
        r.say("flush {}", fflush(f));
        char b[64] = {};
        r.say("fgets {}", fgets(b, sizeof b, f) ? shown(b) : "none");
        r.say("fgets {}", fgets(b, sizeof b, f) ? shown(b) : "none");
        int x = 0, y = 0;
        r.say("fscanf {}", fscanf(f, "%d %d", &x, &y));
        r.say("{} {}", x, y);
        r.say("getc {}", fgetc(f));
        r.say("end {} {}", fgetc(f), feof(f) != 0);
        r.say("fclose {}", fclose(f));
        r.ret("closed", fcntl(fd, F_GETFD));
    }, [](role& r, int fd) {
        r.get("get", fd, 21);
        r.put(fd, "first\nsecond\n17 4\n");
        shutdown(fd, SHUT_WR);
        r.eof("end", fd);
    });
    t.pair("file/stdio-two-streams", [](role& r, int fd) {
        FILE *in = fdopen(fd, "r"), *out = fdopen(dup(fd), "w");
        char* line = nullptr;
        size_t room = 0;
        for (int i = 0; i < 20; i++) {
            fprintf(out, "line %d\n", i);
            fflush(out);
            if (getline(&line, &room, in) < 0 || strcmp(line, std::format("LINE {}\n", i).c_str()))
                r.say("wrong");
        }
        fclose(out);
        r.say("fclose of one, fgetc of the other");
        shutdown(fd, SHUT_WR);
        r.say("end {}", fgetc(in));
        fclose(in);
    }, [](role& r, int fd) {
        char b[64];
        long n;
        while ((n = recv(fd, b, sizeof b, 0)) > 0) {
            for (long i = 0; i < n; i++)
                b[i] = static_cast<char>(toupper(b[i]));
            r.put(fd, {b, static_cast<size_t>(n)});
        }
        shutdown(fd, SHUT_WR);
    });
    t.pair("file/stdio-fread-fwrite", [](role& r, int fd) {
        FILE* f = fdopen(fd, "w");
        std::string s = pattern(200000);
        r.say("fwrite {}", fwrite(s.data(), 1, s.size(), f));
        r.say("fclose {}", fclose(f));
    }, [](role& r, int fd) {
        FILE* f = fdopen(fd, "r");
        std::string s(300000, 0);
        s.resize(fread(s.data(), 1, s.size(), f));
        r.say("fread {} same {} eof {}", s.size(), s == pattern(200000), feof(f) != 0);
        fclose(f);
    });
    t.pair("file/stdio-error", [](role& r, int fd) {
        catch_signal(SIGPIPE);
        FILE* f = fdopen(fd, "w");
        r.meet();
        r.until(fd, POLLHUP);
        setvbuf(f, nullptr, _IONBF, 0);
        int rv = fputs("x", f);
        r.say("fputs failed {} errno {} ferror {}", rv < 0, errno_name(errno), ferror(f) != 0);
    }, [](role& r, int fd) {
        struct linger l{1, 0};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
        r.meet();
        close(fd);
    });
    t.pair("file/dprintf", [](role& r, int fd) { r.ret("dprintf", dprintf(fd, "%s %d\n", "number", 7)); },
           [](role& r, int fd) { r.get("get", fd, 9); });
    t.pair("file/fortified", [](role& r, int fd) {
            // A buffer of known size and a length that the compiler does not know: __read_chk,
            // __recv_chk, ...
        char b[16];
        volatile size_t n = 4;
        r.bytes(fd, 16);
        r.got("read", read(fd, b, n), b);
        r.got("recv", recv(fd, b, n, 0), b);
        r.got("recvfrom", recvfrom(fd, b, n, 0, nullptr, nullptr), b);
        r.got("recv peek", recv(fd, b, n, MSG_PEEK), b);
        pollfd p[2] = {{fd, POLLIN | POLLOUT, 0}, {fd, POLLOUT, 0}};
        volatile nfds_t k = 2;
        r.ret("poll", poll(p, k, 100));
        timespec ts{1, 0};
        r.ret("ppoll", ppoll(p, k, &ts, nullptr));
        r.say("{} {}", poll_mask(p[0].revents), poll_mask(p[1].revents));
        fd_set s;
        FD_ZERO(&s);
        volatile int bit = fd;
        FD_SET(bit, &s);
        r.say("fd_set {}", !!FD_ISSET(bit, &s));
        r.got("read", read(fd, b, n), b);
    }, [](role& r, int fd) { r.put(fd, "0123456789abcdef"); });
}

}  // namespace

void add_files(table& t) {
    sendfiles(t);
    stdio(t);
}

}  // namespace sockdiff
