#include "daemon_process.hh"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "test_client.hh"

namespace vmsgr::test {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

namespace {

std::string read_file(const std::string& path) {
    std::ifstream f(path);
    std::ostringstream text;
    text << f.rdbuf();
    return text.str();
}

int exit_code_of(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

pid_t spawn(const std::vector<std::string>& words, const std::string& out, const std::string& err) {
    std::vector<char*> argv;
    for (auto& w : words) {
        argv.push_back(const_cast<char*>(w.c_str()));
    }
    argv.push_back(nullptr);
    pid_t pid = ::fork();
    if (pid == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // an aborted test leaves no daemon behind
        constexpr int flags = O_WRONLY | O_CREAT | O_APPEND;
        ::dup2(::open(out.c_str(), flags, 0600), 1);
        ::dup2(::open(err.c_str(), flags, 0600), 2);
        ::execv(argv[0], argv.data());
        ::_exit(127);
    }
    return pid;
}

int wait_for(pid_t pid, std::chrono::milliseconds limit) {
    auto until = std::chrono::steady_clock::now() + limit;
    int status = 0;
    while (::waitpid(pid, &status, WNOHANG) == 0) {
        if (std::chrono::steady_clock::now() > until) {
            ::kill(pid, SIGKILL);
            ::waitpid(pid, &status, 0);
            throw std::runtime_error("a process did not end in time");
        }
        std::this_thread::sleep_for(1ms);
    }
    return exit_code_of(status);
}

std::string make_folder() {
    std::string path = fs::temp_directory_path() / "vmsgr-component-XXXXXX";
    if (::mkdtemp(path.data()) == nullptr) {
        throw std::runtime_error("mkdtemp failed");
    }
    return path;
}

}  // namespace

std::string binary(const std::string& name) { return fs::read_symlink("/proc/self/exe").parent_path() / name; }

finished run(const std::vector<std::string>& words) {
    std::string folder = make_folder();
    auto whole = words;
    whole[0] = binary(words[0]);
    finished f;
    f.exit_code = wait_for(spawn(whole, folder + "/out", folder + "/err"), 10s);
    f.out = read_file(folder + "/out");
    f.err = read_file(folder + "/err");
    fs::remove_all(folder);
    return f;
}

daemon_process::daemon_process(std::string_view extra) : _folder(make_folder()) {
    std::ofstream(_folder + "/vmsgrd.yaml") << "socket: " << socket() << "\nshards: 2\nmemory: 128M\n" << extra;
    _pid = spawn({binary("vmsgrd"), "--config", _folder + "/vmsgrd.yaml"}, _folder + "/log", _folder + "/log");
    for (int i = 0; i < 3000; ++i) {
        if (log().find(" ready: ") != std::string::npos) {
            return;
        }
        if (::waitpid(_pid, nullptr, WNOHANG) != 0) {
            _pid = -1;
            break;
        }
        std::this_thread::sleep_for(10ms);
    }
    throw std::runtime_error("vmsgrd did not start: " + log());
}

daemon_process::~daemon_process() {
    if (_pid > 0) {
        ::kill(_pid, SIGKILL);
        ::waitpid(_pid, nullptr, 0);
    }
    fs::remove_all(_folder);
}

std::string daemon_process::log() const { return read_file(_folder + "/log"); }

pid_t daemon_process::worker() const {
    const std::string pid = std::to_string(_pid);
    std::istringstream children(read_file("/proc/" + pid + "/task/" + pid + "/children"));
    for (pid_t child; children >> child;) {
        if (read_file("/proc/" + std::to_string(child) + "/comm") == "vmsgrd-worker\n") {
            return child;
        }
    }
    throw std::runtime_error("vmsgrd has no worker: " + log());
}

nlohmann::json daemon_process::status() const {
    return nlohmann::json::parse(client(socket(), proto::session_kind::query).ask(proto::kind::status));
}

size_t daemon_process::open_descriptors() const {
    fs::directory_iterator all("/proc/" + std::to_string(worker()) + "/fd");
    return size_t(std::distance(begin(all), end(all)));
}

double daemon_process::until_descriptors(size_t n, int limit_ms) const {
    auto start = std::chrono::steady_clock::now();
    for (;;) {
        double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
        if (open_descriptors() <= n) {
            return ms;
        }
        if (ms > limit_ms) {
            return -1;
        }
        std::this_thread::sleep_for(1ms);
    }
}

double daemon_process::cpu_s() const {
    std::istringstream stat(read_file("/proc/" + std::to_string(worker()) + "/stat"));
    std::string word;
    double ticks = 0;
    for (int field = 1; stat >> word && field <= 15; ++field) {
        if (field == 14 || field == 15) {  // user and system time
            ticks += std::stod(word);
        }
    }
    return ticks / double(::sysconf(_SC_CLK_TCK));
}

int daemon_process::stop() {
    ::kill(_pid, SIGTERM);
    return wait();
}

void daemon_process::kill() {
    ::kill(_pid, SIGKILL);
    wait();
}

int daemon_process::wait() {
    int code = wait_for(_pid, 15s);
    _pid = -1;
    return code;
}

}  // namespace vmsgr::test
