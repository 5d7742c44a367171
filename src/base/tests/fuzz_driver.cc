// Runs a fuzz target without libFuzzer. Files that are named are run once each: so a finding is repeated. With folders
// (the corpus) each of theirs is run, and then, for a bounded time, inputs that are like them. It prints the seed;
// VMSGR_FUZZ_SEED repeats a run, VMSGR_FUZZ_MS makes it longer. An input that ends the program is kept in the file
// $VMSGR_FUZZ_KEEP.
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using input = std::vector<uint8_t>;

constexpr size_t longest = 1024;

input current;  // what runs now

uint64_t number(const char* name, uint64_t otherwise) {
    const char* text = getenv(name);
    return text != nullptr ? strtoull(text, nullptr, 0) : otherwise;
}

void run(input bytes) {
    current = std::move(bytes);
    LLVMFuzzerTestOneInput(current.data(), current.size());
}

extern "C" void keep_finding(int signal) {
    if (const char* path = getenv("VMSGR_FUZZ_KEEP")) {
        const int fd = ::open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        (void)!::write(fd, current.data(), current.size());
        ::close(fd);
    }
    ::signal(signal, SIG_DFL);
    ::raise(signal);
}

input read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        fprintf(stderr, "%s: not to be read\n", path.c_str());
        exit(1);
    }
    return input(std::istreambuf_iterator<char>(file), {});
}

class inputs {
    std::mt19937_64 _random;
    std::vector<input> _corpus;

public:
    inputs(uint64_t seed, std::vector<input> corpus) : _random(seed), _corpus(std::move(corpus)) {}

    // One of the corpus with a few changes, or anything.
    input make() {
        if (_corpus.empty() || below(8) == 0) {
            input out(below(257));
            std::ranges::generate(out, [this] { return uint8_t(_random()); });
            return out;
        }
        input out = any();
        for (size_t n = 1 + below(4); n != 0; --n) {
            change(out);
        }
        out.resize(std::min(out.size(), longest));
        return out;
    }

private:
    size_t below(size_t n) { return _random() % n; }
    const input& any() { return _corpus[below(_corpus.size())]; }
    void change(input& out) {
        const size_t at = below(out.size() + 1);
        const auto here = out.begin() + ptrdiff_t(at);
        const size_t behind = out.size() - at;
        switch (below(6)) {
        case 0: out.insert(here, uint8_t(_random())); break;
        case 1: out.erase(here, here + ptrdiff_t(std::min(behind, below(8)))); break;
        case 2: {  // the end of another
            const input& other = any();
            out.erase(here, out.end());
            out.insert(out.end(), other.begin() + ptrdiff_t(below(other.size() + 1)), other.end());
            break;
        }
        case 3: {  // a piece once more
            const input piece(here, here + ptrdiff_t(std::min(behind, below(32))));
            out.insert(out.begin() + ptrdiff_t(below(out.size() + 1)), piece.begin(), piece.end());
            break;
        }
        default:
            if (behind != 0) {
                constexpr uint8_t likely[] = {0, 1, 2, 4, 8, 16, 64, 127, 128, 255};
                *here = below(2) == 0 ? likely[below(std::size(likely))] : uint8_t(*here ^ 1u << below(8));
            }
        }
    }
};

void make_up(const std::vector<input>& corpus) {
    const uint64_t seed = number("VMSGR_FUZZ_SEED", std::random_device()());
    printf("VMSGR_FUZZ_SEED=%llu\n", static_cast<unsigned long long>(seed));
    fflush(stdout);  // a failure ends by a signal
    inputs source(seed, corpus);
    const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(number("VMSGR_FUZZ_MS", 1000));
    uint64_t runs = 0;
    do {
        run(source.make());
        ++runs;
    } while (std::chrono::steady_clock::now() < until);
    printf("%zu inputs of the corpus, %llu made up\n", corpus.size(), static_cast<unsigned long long>(runs));
}

}  // namespace

int main(int argc, char** argv) {
    ::signal(SIGABRT, keep_finding);
    ::signal(SIGSEGV, keep_finding);
    std::vector<input> corpus;
    bool files = false;
    for (const std::string& name : std::vector<std::string>(argv + 1, argv + argc)) {
        if (!std::filesystem::is_directory(name)) {
            run(read(name));
            files = true;
            continue;
        }
        std::vector<std::string> paths;  // in an order that does not change
        for (auto& entry : std::filesystem::directory_iterator(name)) {
            paths.push_back(entry.path());
        }
        std::ranges::sort(paths);
        for (auto& path : paths) {
            corpus.push_back(read(path));
        }
    }
    if (!files) {
        for (auto& bytes : corpus) {
            run(bytes);
        }
        make_up(corpus);
    }
    return 0;
}
